"""Started twice by `processes_test.py`: one of two processes with two devices each, on real sockets.

python two_processes.py PORT PROCESS FOLDER

Each process writes what it found to FOLDER/found-<process>.json.
"""

import json
import os
import pathlib
import shutil
import signal
import sys

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import pytest

from kdmlc_jax import parallel, train, writers
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import StoppedError, UserError


def told(fn, *arguments):
    """The error of a call that must fail, in one line."""
    with pytest.raises((UserError, StoppedError, ZeroDivisionError)) as error:
        fn(*arguments)
    return f"{error.type.__name__}: {error.value}"


def conversation():
    """What the processes say to each other on the host."""
    me = jax.process_index()

    def fails(error):
        raise error

    def tree(**changed):
        return {"labels": np.arange(6), "net": {"w": np.ones((2, 3), np.float32), "n": 3}, **changed}

    other_row = np.arange(6)
    other_row[4] += me
    decided = parallel.decide(lambda: {"rows": np.arange(5) + 10 * me, "threshold": 0.25, "name": f"from {me}"})
    parallel.assert_same(tree(), "equal")
    parallel.assert_same({}, "empty")
    return {
        "decided": {**decided, "rows": decided["rows"].tolist()},
        "nothing": parallel.decide(lambda: None),
        "refused": told(parallel.decide, lambda: fails(UserError("no such label"))),
        "failed": told(parallel.decide, lambda: fails(ZeroDivisionError("by zero"))),
        "in any": [parallel.in_any(me == 1), parallel.in_any(False)],
        "from main": parallel.from_main(7 + me),
        "other row": told(parallel.assert_same, tree(labels=other_row), "stage purify"),
        "other shape": told(parallel.assert_same, tree(labels=np.arange(6 + me)), "stage purify"),
        "own rows": [parallel.own_rows(8).start, parallel.own_rows(8).stop],
    }


def equality(folder):
    """What a bi-level method comes to in a few steps; process 0 writes it."""
    import toy
    from processes_test import bilevel

    config = bilevel(devices=0)
    job = train.Experiment(config, prepare(config))
    assert job.mesh.size == 4 and jax.process_count() == 2
    got = toy.few_steps(job)
    if parallel.is_main():
        np.savez(folder / "bilevel.npz", **got)


def stop_and_go_on(folder, config):
    """The toy run, stopped by a signal to process 1 alone, and gone on with."""
    from processes_test import STOP

    step = writers.Reporter.step

    def signalled(reporter, at, count=1):
        step(reporter, at, count)
        if at == STOP and not parallel.is_main():
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers.Reporter, "step", signalled)
        said = told(train.run, config, folder / "work", True)
    parallel.on_main(lambda: shutil.copytree(folder / "work", folder / "stopped"))
    train.run(config, folder / "work", quiet=True)
    return said


def differing(folder, config):
    """The toy run with a `begin` that is not the same by one row in one process."""
    import toy

    begin = toy.Toy.begin

    def other_row(method, state, view):
        new = begin(method, state, view)
        rows = np.array(new.labels.rows)
        rows[3] = np.roll(rows[3], jax.process_index())
        return new.replace(labels=toy.Bank(rows))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy.Toy, "begin", other_row)
        return told(train.run, config, folder / "differing", True)


def main():
    port, process, folder = int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])
    parallel.join_processes(parallel.Launch(f"127.0.0.1:{port}", 2, process))
    import toy
    from processes_test import EPOCHS, RUN

    found = {"conversation": conversation()}
    equality(folder)
    with pytest.MonkeyPatch.context() as patch:
        toy.install(patch)
        toy.keep(patch, {})
        config = toy.config(f"epochs={EPOCHS}", RUN)
        found["stopped"] = stop_and_go_on(folder, config)
        found["differing"] = differing(folder, config)
    (folder / f"found-{process}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
