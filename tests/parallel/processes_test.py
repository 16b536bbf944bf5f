"""Two real processes with two simulated devices each: the results of one, one writer, one agreement on when to stop.

One launch (`two_processes.py`) serves all checks.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
import toy

from kdmlc_jax import parallel, train
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage.checkpoint import Checkpoints

HERE = pathlib.Path(__file__).parents[1]
# Several fields at once: what is under test is that processes are as devices are.
RUN = {"data.pipeline": "stream", "devices": 0, "parallel.sharding": "fsdp", "parallel.shard_above": 64}
STOP, EPOCHS = 7, 3  # the step in which process 1 is told to stop, and the length of the run


def bilevel(devices):
    """MLC, whose look-ahead must move along the gradient of the whole batch."""
    return tiny.config("method=mlc,teacher=mlp8,student=mlp8,preset=paper", {"devices": devices, **toy.CHEAP})


def launch(folder, seconds=400):
    """Exit statuses of both processes and what they said; they speak over a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE / "parallel", HERE.parent)))}
    pair = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "two_processes.py"), str(port), str(process), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=seconds)[1] for process in pair]
    finally:
        for process in pair:
            process.kill()
            process.wait()
            process.stderr.close()
    return [process.returncode for process in pair], said


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of a launch, and what each process found.

    It is launched again where XLA's transport between CPU processes failed, which is not what is tested: it gives up
    where one process is 30 s late, and sometimes hangs in a collective-permute.
    """
    for _ in range(3):
        folder = tmp_path_factory.mktemp("processes")
        try:
            codes, said = launch(folder)
        except subprocess.TimeoutExpired:
            continue
        if not any("Gloo context initialization failed" in text for text in said):
            assert codes == [0, 0], said
            return folder, [json.loads((folder / f"found-{process}.json").read_text()) for process in (0, 1)]
    pytest.fail("three launches of two processes hung or could not connect")


def test_two_processes_equal_one_device(together):
    """Protects scaling past one machine: a bi-level step's results, the rows read by two, are those of one device."""
    config = bilevel(devices=1)
    with np.load(together[0] / "bilevel.npz") as got:
        toy.assert_close(dict(got), toy.few_steps(train.Experiment(config, prepare(config))))


def test_a_run_of_two_processes_is_that_of_one(together, tmp_path, monkeypatch):
    """Protects a whole run: stopped, gone on with and split over two processes that read a stream, it has the figures
    and labels of one on one device."""
    toy.install(monkeypatch)
    train.run(toy.config(f"epochs={EPOCHS}"), tmp_path, quiet=True)
    got, want = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (together[0] / "work", tmp_path)
    )
    for row, other in zip(got, want, strict=True):
        assert (row["stage"], row["step"]) == (other["stage"], other["step"])
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
    beliefs, alone = (np.load(folder / "soft_labels.npy") for folder in (together[0] / "work", tmp_path))
    np.testing.assert_allclose(beliefs, alone, atol=2e-3)


def test_process_0_decides(together):
    """Protects whole-set decisions from being made twice: both processes have process 0's, arrays and all, and where
    it fails both end, the one with the error and the other with a line that points there."""
    zero, one = (found["conversation"] for found in together[1])
    for found in (zero, one):
        assert found["decided"] == {"rows": [0, 1, 2, 3, 4], "threshold": 0.25, "name": "from 0"}
        assert found["nothing"] is None and found["from main"] == 7
        assert found["in any"] == [True, False]
    assert zero["refused"] == "UserError: no such label" and zero["failed"] == "ZeroDivisionError: by zero"
    assert one["refused"] == one["failed"] == "UserError: process 0 ended; it says why"
    assert zero["own rows"] == [0, 4] and one["own rows"] == [4, 8]


def test_processes_compare(together):
    """Protects against processes that drift apart unseen: the first array that differs, or its shape, is named."""
    for found in together[1]:
        said = found["conversation"]
        assert said["other row"] == "UserError: stage purify: ['labels'] is not the same in all 2 processes"
        assert said["other shape"].startswith("UserError: stage purify: the processes have arrays of other names")


def test_a_begin_that_differs_is_noticed(together):
    """Protects a run from two processes that train on different labels: by hand one row differs in one of them."""
    for found in together[1]:
        assert "labels" in found["differing"] and "is not the same in all 2 processes" in found["differing"]
    assert not (together[0] / "differing" / "summary.json").exists()


def test_two_processes_stop_together(together, monkeypatch):
    """Protects pre-empted jobs: both processes stop at one step though only one was told to, and a single process
    reads what they saved."""
    toy.install(monkeypatch)
    at = STOP + 2  # they agree in the next step, and look at what they agreed on one call later
    zero, one = (found["stopped"] for found in together[1])
    assert zero.startswith(f"StoppedError: another process: stopped and saved at step {at};")
    assert one.startswith(f"StoppedError: SIGTERM: stopped and saved at step {at};")
    config = toy.config(f"epochs={EPOCHS}")
    checkpoints = Checkpoints(together[0] / "stopped" / "checkpoints", 9)
    carry, progress = checkpoints.restore(train.Experiment(config, prepare(config)).init())
    checkpoints.close()
    assert len(progress["history"]) * tiny.STEPS + progress["epoch_step"] == int(carry["step"]) == at
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(carry["method"]))


def test_two_processes_write_one_run(together):
    """Protects shared folders: launched again, two processes end with the tables of one run, and no remains."""
    workdir = together[0] / "work"
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["device"] == "4 x cpu, 2 processes, fsdp"
    assert summary["notes"] == ["turn 1 of the second stage begins"]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [*range(1, EPOCHS + 1)]
    assert not [path for path in workdir.rglob("*") if path.name.startswith((".", "writing-", "deleting-"))]


def test_one_process_decides_and_compares_alone():
    """Protects plain runs: a lone process has its own decision as it is, its own error, and nobody to differ from."""
    made = {"rows": np.arange(3)}
    assert parallel.decide(lambda: made) is made
    with pytest.raises(ZeroDivisionError):
        parallel.decide(lambda: 1 / 0)
    called = []
    parallel.on_main(lambda: called.append(1))
    assert called == [1] and parallel.alone() and parallel.is_main()
    with pytest.raises(UserError, match="mine"):
        parallel.on_main(lambda: (_ for _ in ()).throw(UserError("mine")))
    parallel.assert_same(made, "alone")
    assert parallel.in_any(True) is True and parallel.from_main(5) == 5 and parallel.own_rows(8) == slice(0, 8)
