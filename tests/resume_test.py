"""No run is ever lost: cut anywhere it goes on to the same bits, bad numbers stop or skip a step, one writer only."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import methods, optim, stopping, train, writers
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import NonFiniteError, StoppedError, StorageError, UserError
from kdmlc_jax.storage import checkpoint, files
from kdmlc_jax.storage.checkpoint import Checkpoints, named_leaves

FILES = ("metrics.jsonl", "labels.csv", "student/weights.msgpack", "student/network.json")
# Plain CE where the method does not matter: its step compiles in no time.
SETTINGS = {
    "two stages": {},
    "resident": {},
    "stream": {"data.pipeline": "stream"},
    "two steps a call": {"train.steps_per_call": 2},
    "stream, two steps a call": {"data.pipeline": "stream", "train.steps_per_call": 2},
    "skip": {"train.on_nonfinite": "skip"},
    "blind_kd": {},
    "dmlp": {},
    "aml_kd": {},
}
METHODS = {
    "two stages": "",
    "blind_kd": "method=blind_kd,trusted=0,epochs=5,longest_blind=0.6",
    "dmlp": "method=dmlp,ssl_epochs=1,purify_epochs=2,epochs=2",
    "aml_kd": "method=aml_kd,trusted=0,teacher_epochs=1,epochs=3,mutual=0.6,neighbours=5",
}


def leaves(workdir, config):
    """SHA-256 of every array of the last checkpoint."""
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep)
    carry, progress = checkpoints.restore(train.Experiment(config, prepare(config)).init())
    checkpoints.close()
    return {name: hashlib.sha256(np.asarray(leaf)).hexdigest() for name, leaf in named_leaves(carry).items()}, progress


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Uninterrupted runs by setting: (config, hashes of the leaves, bytes of the files)."""
    made = {}

    def get(name):
        if name not in made:
            method = METHODS.get(name, "method=ce")
            config, workdir = tiny.config(method, SETTINGS[name]), tmp_path_factory.mktemp("straight")
            train.run(config, workdir, quiet=True)
            kept = {file: (workdir / file).read_bytes() for file in FILES}
            made[name] = config, leaves(workdir, config)[0], kept
        return made[name]

    return get


def stop_at(patch, *steps):
    """Sends this process SIGTERM when a run reaches one of these steps."""
    assert threading.current_thread() is threading.main_thread()
    told, left = writers.Reporter.step, list(steps)

    def step(reporter, at, count=1):
        told(reporter, at, count)
        if left and at >= left[0]:
            left.pop(0)
            signal.raise_signal(signal.SIGTERM)

    patch.setattr(writers.Reporter, "step", step)


CUTS = [("two stages", 5), ("two stages", 7), *(("resident", step) for step in (1, 4, 5, 6, 13, 14))]
CUTS += [("stream", 7), ("two steps a call", 7), ("stream, two steps a call", 12), ("skip", 8)]
CUTS += [("blind_kd", 7), ("blind_kd", 15), ("blind_kd", 18)]  # in its first phase, between both, in the second
CUTS += [("dmlp", 3), ("dmlp", 5), ("dmlp", 8)]  # in SimCLR's stage, between both, on the purified labels
CUTS += [("aml_kd", 8), ("aml_kd", 17)]  # on the first labels, in a later turn


@pytest.mark.parametrize("setting, step", CUTS)
def test_cut_by_a_signal_and_resumed_equals_uninterrupted(straight, tmp_path, monkeypatch, setting, step):
    """Protects every long run: stopped in or between epochs and stages, all leaves, metrics and labels are the same."""
    config, hashes, kept = straight(setting)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(StoppedError, match=r"SIGTERM: stopped and saved at step (\d+);") as stopped:
            train.run(config, tmp_path, quiet=True)
    at = int(re.search(r"step (\d+)", str(stopped.value))[1])
    assert step <= at < step + config.train.steps_per_call
    assert Checkpoints(tmp_path / "checkpoints", 9).steps()[-1] == at
    train.run(config, tmp_path, quiet=True)
    assert leaves(tmp_path, config)[0] == hashes
    for name in FILES:
        assert (tmp_path / name).read_bytes() == kept[name], name


def test_fewer_epochs_than_the_first_stage_was_given(tmp_path):
    """Protects what happens between stages: an epoch that was begun in a stage ends in it, and the next one begins."""
    arguments = "method=blind_kd,trusted=0,longest_blind=0.6"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 17)
        with pytest.raises(StoppedError):
            train.run(tiny.config(f"{arguments},epochs=6"), tmp_path, quiet=True)
    summary = train.run(tiny.config(f"{arguments},epochs=4"), tmp_path, quiet=True)
    assert len(summary["notes"]) == 1 and abs(summary["diagnostics"]["epoch"]) == 2
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["blind"] * 4


def test_cut_again_and_again(straight, tmp_path, monkeypatch):
    """Protects a job on a queue that is never left alone: five cuts, the same bits."""
    config, hashes, kept = straight("resident")
    for step in (2, 3, 8, 9, 14):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(StoppedError):
                train.run(config, tmp_path, quiet=True)
    train.run(config, tmp_path, quiet=True)
    assert leaves(tmp_path, config)[0] == hashes
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept["metrics.jsonl"]


def test_handlers_are_as_before_and_a_second_signal_ends_at_once():
    """Protects the program around a run: its own handlers come back, and an impatient person is obeyed."""
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with pytest.raises(KeyboardInterrupt), stopping.requests() as request:
        assert not request.name
        signal.raise_signal(signal.SIGINT)
        assert request.name == "SIGINT"
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_saves_in_the_middle_of_epochs(straight, tmp_path, monkeypatch):
    """Protects long epochs: with every_steps a run that dies without a word loses no more than so many steps."""
    config, hashes, _ = straight("resident")
    config = config.copy_and_resolve_references()
    config.checkpoint.every_steps = 2
    step = writers.Reporter.step

    def die(reporter, at, count=1):
        if at == 9:
            raise RuntimeError("dead")
        step(reporter, at, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers.Reporter, "step", die)
        with pytest.raises(RuntimeError, match="dead"):
            train.run(config, tmp_path, quiet=True)
    assert Checkpoints(tmp_path / "checkpoints", 9).steps()[-1] == 8
    train.run(config, tmp_path, quiet=True)
    assert leaves(tmp_path, config)[0] == hashes


def test_epochs_may_grow_but_not_below_what_is_trained(tmp_path):
    """Protects a run that turned out too short: it goes on, and says so; one that is too long is refused."""
    summary = train.run(tiny.config("method=ce,epochs=2"), tmp_path, quiet=True)
    assert summary["changes"] == []
    longer = train.run(tiny.config("method=ce,epochs=4"), tmp_path, quiet=True)
    assert longer["changes"] == ["step 10: train.epochs=4 (was 2)"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and rows[-1]["step"] == 20
    assert json.loads((tmp_path / "config.json").read_text())["train"]["epochs"] == 4
    before = {name: (tmp_path / name).read_bytes() for name in (*FILES, "config.json", "summary.json")}
    with pytest.raises(UserError, match=r"train\.epochs: 3, but .* has trained 4"):
        train.run(tiny.config("method=ce,epochs=3"), tmp_path, quiet=True)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_asked_to_stop_when_training_is_over(tmp_path, monkeypatch):
    """Protects a comparison that is told to stop in a run's last evaluation: no other run begins, none is lost."""
    evaluate, config = train.Experiment.evaluate, tiny.config("method=ce,epochs=1")

    def evaluate_and_ask(job, current):
        signal.raise_signal(signal.SIGTERM)
        return evaluate(job, current)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Experiment, "evaluate", evaluate_and_ask)
        with pytest.raises(StoppedError, match="SIGTERM: trained to the end"):
            train.run(config, tmp_path, quiet=True)
    assert not (tmp_path / "summary.json").exists()
    assert train.run(config, tmp_path, quiet=True)["changes"] == []


def test_turns_between_epochs_are_neither_lost_nor_repeated(straight, tmp_path):
    """Protects `Stage.every`: a run cut after its last epoch has no other turn, one cut between two epochs its next."""
    config, hashes, kept = straight("aml_kd")
    train.run(config, tmp_path, quiet=True)
    for lost in ((), ("20",)):
        for step in lost:
            shutil.rmtree(tmp_path / "checkpoints" / step)
        (tmp_path / "summary.json").unlink()
        (tmp_path / "labels.csv").unlink()
        train.run(config, tmp_path, quiet=True)
        assert leaves(tmp_path, config)[0] == hashes
        for name in FILES:
            assert (tmp_path / name).read_bytes() == kept[name], name


def test_epochs_within_a_trained_epoch_are_refused(tmp_path):
    """Protects a summary: weights of a step inside an epoch would stand beside the figures of the one before."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(StoppedError):
            train.run(tiny.config("method=ce"), tmp_path, quiet=True)
    with pytest.raises(UserError, match=r"train\.epochs: 1, but .* has trained 1 and a part of the next"):
        train.run(tiny.config("method=ce,epochs=1"), tmp_path, quiet=True)


def test_a_damaged_checkpoint_costs_an_epoch_not_the_run(straight, tmp_path, capsys):
    """Protects a run from its disk: the damage is reported, the one before is used, the result is the same."""
    config, hashes, _ = straight("resident")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 12)
        with pytest.raises(StoppedError):
            train.run(config, tmp_path, quiet=True)
    target = max((tmp_path / "checkpoints" / "12" / "arrays").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 4
    target.write_bytes(data)
    train.run(config, tmp_path)
    err = capsys.readouterr().err
    assert "checkpoints/12 is damaged and left out" in err and "going on after epoch 2" in err
    assert leaves(tmp_path, config)[0] == hashes


def test_another_number_of_devices_and_another_pipeline_go_on(straight, tmp_path):
    """Protects moving a run: cut on one device it ends on four, split state and stream included, close to itself."""
    config, _, _ = straight("resident")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(StoppedError):
            train.run(config, tmp_path, quiet=True)
    fields = {"devices": 4, "data.pipeline": "stream", "parallel.sharding": "fsdp", "parallel.shard_above": 64}
    moved = tiny.config("method=ce", fields)
    summary = train.run(moved, tmp_path, quiet=True)
    assert summary["device"] == "4 x cpu, fsdp"
    assert "step 7: devices=4 (was 1)" in summary["changes"] and len(summary["changes"]) == 4
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    want = [json.loads(line) for line in straight("resident")[2]["metrics.jsonl"].splitlines()]
    for row, other in zip(rows, want, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_bad_numbers_name_step_and_images(tmp_path, monkeypatch):
    """Protects the search for what broke a run: step, epoch and the ids of the batch's images are told and written."""
    config = tiny.config("method=ce")
    monkeypatch.setattr(optim, "schedule", lambda *_: lambda step: jnp.where(step == 7, jnp.inf, 0.1))
    with pytest.raises(NonFiniteError, match=r"step 7: .* in epoch 2 \(stage train\), on noisy images \d+, "):
        train.run(config, tmp_path, quiet=True)
    about = json.loads((tmp_path / "nonfinite.json").read_text())
    dataset = prepare(config)
    made = train.Experiment(config, dataset)
    order = next(made.feeds(made.method.stages[0], 7, 8))["noisy"]
    rows = dataset.splits.noisy[np.asarray(order)[7 % tiny.STEPS]]
    assert about["step"] == 7 and about["images"]["noisy"] == dataset.ids[rows].tolist()


@pytest.mark.parametrize("calls", [1, 2])
def test_bad_steps_are_skipped_where_asked(tmp_path, monkeypatch, calls):
    """Protects a run whose person prefers to go on: the step leaves no trace in the state and is counted."""
    get = methods.get

    def poisoned(name):
        def make(config, info):
            plain = get("ce").make(config, info)
            stage = plain.stages[0]

            def step(state, batch, key):
                # The sixth update is poisoned, once: it is tried again with the next batch.
                bad = (batch["index"].sum() % 7 == poison) & (poison >= 0)
                return stage.step(state, batch | {"image": jnp.where(bad, jnp.nan, batch["image"])}, key)

            return plain._replace(stages=(stage._replace(step=step),))

        return type("poisoned", (), {"make": staticmethod(make)})

    config = tiny.config("method=ce", {"train.on_nonfinite": "skip", "train.steps_per_call": calls})
    job = train.Experiment(config, prepare(config))
    feeds = [next(job.feeds(job.method.stages[0], step, step + 1))["noisy"][step % 5] for step in range(15)]
    sums = np.array([int(np.asarray(rows).sum()) % 7 for rows in feeds])
    poison = int(sums[6])
    monkeypatch.setattr(methods, "get", poisoned)
    train.run(config, tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    bad = (sums == poison).reshape(3, 5).sum(axis=1)
    assert [row["skipped_steps"] for row in rows] == bad.tolist() and bad.sum() >= 1
    _, progress = leaves(tmp_path, config)
    assert np.isfinite([row["loss"] for row in progress["history"]]).all()
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    carry, _ = checkpoints.restore(job.init())
    checkpoints.close()
    assert int(carry["step"]) == 15 and int(carry["method"].step) == 15 - bad.sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(carry["method"]))


def test_an_epoch_of_bad_steps_is_an_error(tmp_path, monkeypatch):
    """Protects a person from a run that skips everything and calls that training."""
    monkeypatch.setattr(optim, "schedule", lambda *_: lambda step: jnp.inf)
    with pytest.raises(NonFiniteError, match=r"all 5 steps gave numbers that are not finite in epoch 1"):
        train.run(tiny.config("method=ce", {"train.on_nonfinite": "skip"}), tmp_path, quiet=True)
    assert not (tmp_path / "checkpoints").is_dir() or not Checkpoints(tmp_path / "checkpoints", 1).steps()


def test_numbers_too_large_to_evaluate_are_not_saved(tmp_path, monkeypatch):
    """Protects the newest checkpoint: a last update that is finite but useless is found before it is saved."""
    rates = lambda step: jnp.where(step == 2 * tiny.STEPS - 1, 3e37, 0.1)  # noqa: E731
    monkeypatch.setattr(optim, "schedule", lambda *_: rates)
    with pytest.raises(NonFiniteError, match=r"evaluation: student's logits are not finite in epoch 2"):
        train.run(tiny.config("method=ce"), tmp_path, quiet=True)
    assert Checkpoints(tmp_path / "checkpoints", 1).steps() == [tiny.STEPS]


def test_two_writers_are_refused(tmp_path):
    """Protects a folder from two runs: the second is told who holds it, and waits for nobody."""
    workdir = tmp_path / "work"
    script = (
        "import sys, pathlib, kdmlc_jax.storage.files as f\n"
        "with f.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(workdir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"work is in use by process {other.pid} on "):
            train.run(tiny.config(), workdir, quiet=True)
        assert [path.name for path in workdir.iterdir()] == ["lock"]
        other.kill()
    with files.locked(workdir):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    """Protects a person with a read-only disk: one line before any training."""
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be created"):
        train.run(tiny.config(), tmp_path / "work", quiet=True)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """Protects a night's work: when the disk is full the program ends with one line, and what was saved is whole.

    The limit on a file's size that a shell can set is a real refusal by the system, in every library that writes.
    """
    flags = ["--config", f"{tiny.SPEC},method=ce", *tiny.FLAGS, "--config.baselines=()", "--workdir", str(tmp_path)]
    program = [sys.executable, "-m", "kdmlc_jax.main", *flags]
    assert subprocess.run([*program, "--config.train.epochs=1"], capture_output=True, check=False).returncode == 0
    limited = ["bash", "-c", 'ulimit -f 4; trap "" XFSZ; exec "$@"', "-", *program]
    result = subprocess.run(limited, capture_output=True, text=True, check=False)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 4, result.stderr
    assert len(errors) == 1 and "cannot be written" in errors[0] and "Traceback" not in result.stderr
    assert checkpoint.damage(tmp_path / "checkpoints" / str(tiny.STEPS)) == ""
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "going on after epoch 1" in done.stderr
