"""Devices: the only file that says jit, Mesh and sharding."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdmlc_jax.errors import UserError

# XLA's default CPU convolutions are 2-4x slower than these library calls; other backends do not know the option.
_CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "REDUCE", "ELTWISE")
    )
}


def keep_compiled() -> None:
    """Keeps compiled programs on disk, so that the next run of the same config starts at once.

    The folder is $JAX_COMPILATION_CACHE_DIR where that is set, else `kdmlc_jax` in the user's cache folder.
    """
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(root, "kdmlc_jax"))


def make_mesh(devices: int = 0) -> Mesh:
    """A one-axis mesh ("data") over the first `devices` devices; 0 means all.

    Raises:
      UserError: if there are fewer.
    """
    have = jax.devices()
    if not 0 <= devices <= len(have):
        raise UserError(f"devices: {devices} is outside [0, {len(have)}], the number of {have[0].platform} devices")
    chosen = np.array(have[: devices or len(have)])
    return Mesh(chosen, ("data",), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """`tree` on every device of the mesh, in buffers of its own."""
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(x: Any) -> jax.Array:
        # device_put shares the first device's buffer with its source, whatever may_alias says.
        return jax.device_put(x.copy() if isinstance(x, jax.Array) else x, sharding)

    return jax.tree.map(put, tree)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Host arrays of one batch on the mesh, split along their first axis, which divides by the devices."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Inside jit: each leaf of a batch split along its first axis, which divides by the devices."""
    return (
        jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("data"))) if mesh.size > 1 else batch
    )


@cache
def compiler_options() -> dict[str, str]:
    """The backend's compile options; empty where this jaxlib does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=_CPU_OPTIONS)(0)
    except Exception:  # an unknown option is reported by whatever error the backend's parser raises
        return {}
    return dict(_CPU_OPTIONS)


def compile_step(step: Callable, donate: Sequence[int] = (), mesh: Mesh | None = None) -> Callable:
    """`step` under jit with the backend's options; arguments numbered in `donate` are consumed.

    With a mesh, outputs are replicated on it.
    """
    out = NamedSharding(mesh, PartitionSpec()) if mesh is not None else None
    return jax.jit(step, donate_argnums=tuple(donate), out_shardings=out, compiler_options=compiler_options())
