"""Settings every test shares: four simulated CPU devices, rank promotion is an error, real data only where given."""

import importlib.metadata
import os
import pathlib
import tempfile

import pytest

# XLA reads both variables when jax starts its backend, so they are set before jax is imported. It ends the program
# where a simulated device is 40 s late, which on a busy machine one may be.
_FLAGS = {"xla_force_host_platform_device_count": 4, "xla_cpu_collective_call_terminate_timeout_seconds": 300}
# Of tiny programs compiling is all the time there is: one thread for each is less work, and so are the older emitters,
# which jaxlib 0.12 has no more, and ends the program for a flag that it does not know.
_FLAGS["xla_cpu_parallel_codegen_split_count"] = 1
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS["xla_cpu_use_fusion_emitters"] = "false"
_given = os.environ.get("XLA_FLAGS", "")
_added = [f"--{key}={value}" for key, value in _FLAGS.items() if key not in _given]
os.environ["XLA_FLAGS"] = " ".join([_given, *_added]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# A core has a worker already: more threads for small matrices would wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The machine code of tiny networks would take longer to optimise than it then saves; programs that tests start have it
# from the environment. XLA's own passes are the same.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Many tests train the same tiny run: each program is compiled once a session, and none ends in the user's cache folder.
# Set in the environment, the folder is that of all workers and of the programs that tests start.
_compiled = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name

import flax.struct  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402

# Before the package is imported: each call checks the shapes and types that its function is annotated with (within jit,
# when it is traced). An int is a float, as for mypy.
jaxtyping.install_import_hook("kdmlc_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
# But not the leaves of pytrees, which jax itself fills with shapes, shardings and placeholders.
flax.struct.PyTreeNode.__no_type_check__ = True

jax.config.update("jax_numpy_rank_promotion", "raise")

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_unconfigure(config):
    if _compiled is not None:
        _compiled.cleanup()


def pytest_report_header(config):
    root = os.environ.get("KDMLC_DATA")
    return f"KDMLC_DATA: {root}" if root else "KDMLC_DATA: not set, tests on real data are skipped"


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of unpacked data sets; the test is skipped where there is none."""
    root = os.environ.get("KDMLC_DATA")
    if not root:
        pytest.skip("KDMLC_DATA is not set: it names the folder that holds the unpacked data sets")
    path = pathlib.Path(root)
    if not path.is_dir():
        pytest.fail(f"KDMLC_DATA={root} is not a folder")
    return path
