"""Compilation: the backend's options, and programs that are kept for the next run."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax

# XLA's default CPU convolutions are 2-4x slower than these library calls; other backends do not know the option.
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "REDUCE", "ELTWISE")
    )
}

# Of a program that runs once compiling is all the time there is.
HASTY_OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def keep_compiled() -> None:
    """Keeps compiled programs on disk, so that the next run of the same config starts at once.

    The folder is $JAX_COMPILATION_CACHE_DIR where that is set, else `kdmlc_jax` in the user's cache folder.
    """
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(root, "kdmlc_jax"))


@cache
def compiler_options(hasty: bool = False) -> dict[str, Any]:
    """The backend's compile options; empty where this jaxlib does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    options: dict[str, Any] = HASTY_OPTIONS if hasty else CPU_OPTIONS
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(0)
    except Exception:  # an unknown option is reported by whatever error the backend's parser raises
        return {}
    return dict(options)


def compile_once(program: Callable) -> Callable:
    """`program` under jit, to run once: on CPUs it is hardly optimised (initialisation: 1.3 s, not 8.1)."""
    return jax.jit(program, compiler_options=compiler_options(hasty=True))


def compile_step(step: Callable, donate: Sequence[int] = (), out: Any = None) -> Callable:
    """`step` under jit with the backend's options; arguments numbered in `donate` are consumed.

    `out`: shardings of what it returns, a tree or the top of one; None leaves them to the compiler.
    """
    return jax.jit(step, donate_argnums=tuple(donate), out_shardings=out, compiler_options=compiler_options())
