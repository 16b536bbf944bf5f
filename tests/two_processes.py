"""Started twice by `processes_test.py`: one of two processes with two devices each, on real sockets.

python two_processes.py PORT PROCESS WHAT FOLDER [ARGUMENT…]
"""

import os
import pathlib
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

from kdmlc_jax import cli, parallel, train  # noqa: E402


def equality(folder, *names):
    """What `method_contract_test.few_steps` gives for each method, as arrays in a file; process 0 writes them."""
    import method_contract_test as contract
    import numpy as np

    for name in names:
        for pipeline in ("resident", "stream") if name == "ce" else ("resident",):
            chosen = contract.digits(name, contract.SPREAD.get(name, ""), **{"data.pipeline": pipeline, "devices": 0})
            job = train.Experiment(chosen, contract.prepare(chosen))
            assert job.mesh.size == 4 and jax.process_count() == 2
            got = contract.few_steps(job)
            if parallel.is_main():
                np.savez(folder / f"{name}-{pipeline}.npz", **got)


def run(folder, *fields):
    """The tiny run in `folder`; fields are `a.b=value`."""
    import tiny

    from kdmlc_jax import config as config_lib

    config = tiny.config("method=ce", {"devices": 0})
    for field in fields:
        config_lib.assign(config, *field.split("=", 1))
    train.run(config, folder, quiet=True)


if __name__ == "__main__":
    port, process, what, folder, *arguments = sys.argv[1:]
    parallel.join_processes(parallel.Launch(f"127.0.0.1:{port}", 2, int(process)))
    cli.guarded(lambda _: {"equality": equality, "run": run}[what](pathlib.Path(folder), *arguments))
