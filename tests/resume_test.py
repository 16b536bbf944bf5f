"""No run is ever lost: cut anywhere it goes on to the same bits, bad numbers stop or skip a step, one writer only."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy

from kdmlc_jax import optim, train, writers
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import NonFiniteError, StoppedError, StorageError, UserError
from kdmlc_jax.evaluate import Evaluator
from kdmlc_jax.methods import ce
from kdmlc_jax.storage import files
from kdmlc_jax.storage.checkpoint import Checkpoints
from kdmlc_jax.storage.checksums import damage

FILES = ("metrics.jsonl", "labels.csv", "student/weights.msgpack", "student/network.json")
LAST = 25  # step of the toy: the first stage has five, the second begins after steps 5 and 15
SETTINGS = {  # of plain CE
    "stream": {"data.pipeline": "stream"},
    "two steps a call": {"train.steps_per_call": 2},
    "stream, two steps a call": {"data.pipeline": "stream", "train.steps_per_call": 2},
    "skip": {"train.on_nonfinite": "skip"},
}
# Look-ahead, corrector, T̂, averages; MixUp takes longer to compile than all of them and keeps nothing.
CONFIGS = {
    "toy": toy.config(),
    "kdmlc": tiny.config("teacher=mlp8,student=mlp8,epochs=2,warm_up=0,ramp=0,teacher_mixup=0"),
    **{name: tiny.config(toy.SPEC, {**toy.CHEAP, **fields}) for name, fields in SETTINGS.items()},
}

experiments = {}  # compiled once for all runs of a config


@pytest.fixture
def kept(monkeypatch):
    """The toy in the place of CE, but for SETTINGS; runs of one config share what they compile."""
    toy.install(monkeypatch, lambda plain, rows: toy.Toy(plain, rows) if plain.epochs != 3 else plain)
    toy.keep(monkeypatch, experiments)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Uninterrupted runs by setting: (config, hashes of the leaves, bytes of the files)."""
    made = {}

    def get(name):
        if name not in made:
            config, workdir = CONFIGS[name], tmp_path_factory.mktemp("straight")
            train.run(config, workdir, quiet=True)
            files = {file: (workdir / file).read_bytes() for file in FILES}
            made[name] = config, toy.newest(workdir, config)[0], files
        return made[name]

    return get


def assert_same_end(workdir, expected):
    """A finished run is, to the bit, the uninterrupted one."""
    config, hashes, files = expected
    assert toy.newest(workdir, config)[0] == hashes
    for name in FILES:
        assert (workdir / name).read_bytes() == files[name], name


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


def stopped(config, workdir, *steps):
    """Trains until a signal in the call that ends at each of these steps in turn; the step of the last stop."""
    for step in steps:
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(StoppedError, match=r"SIGTERM: stopped and saved at step (\d+);") as error:
                train.run(config, workdir, quiet=True)
        at = int(re.search(r"step (\d+)", str(error.value))[1])
        assert step <= at < step + config.train.steps_per_call
        assert Checkpoints(workdir / "checkpoints", 9).steps()[-1] == at
    return at


POSITIONS = {
    "first step": 1,
    "end of a stage": 5,
    "begin of a stage": 6,
    "before the second turn": 15,
    "last step": LAST,
}
CUTS = [("toy", step) for step in POSITIONS.values()]
CUTS += [("stream", 7), ("two steps a call", 7), ("stream, two steps a call", 13), ("skip", 8)]
CUTS += [("kdmlc", 7)]


@pytest.mark.parametrize("setting, step", CUTS)
def test_cut_by_a_signal_and_resumed_equals_uninterrupted(kept, straight, tmp_path, setting, step):
    """Protects every long run: stopped in or between epochs and stages, all leaves, metrics and labels are the same."""
    expected = straight(setting)
    stopped(expected[0], tmp_path, step)
    train.run(expected[0], tmp_path, quiet=True)
    assert_same_end(tmp_path, expected)


def test_cut_again_at_every_step(kept, straight, tmp_path):
    """Protects a job on a queue that is never left alone: stopped at each of its steps, the same bits."""
    expected = straight("toy")
    stopped(expected[0], tmp_path, *range(1, LAST + 1))
    train.run(expected[0], tmp_path, quiet=True)
    assert_same_end(tmp_path, expected)


@pytest.mark.parametrize("call", range(1, 9))
def test_dead_without_a_word_equals_uninterrupted(kept, straight, tmp_path, call):
    """Protects a run that cannot say goodbye: dead in any evaluation or turn of `begin`, it repeats what was not
    saved."""
    expected, calls = straight("toy"), []

    def dying(function):
        def called(*arguments):
            calls.append(function)
            if len(calls) == call:
                raise KeyboardInterrupt
            return function(*arguments)

        return called

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy.Kept, "evaluate", dying(toy.Kept.evaluate))
        patch.setattr(Evaluator, "view", dying(Evaluator.view))
        if call < 8:
            with pytest.raises(KeyboardInterrupt):
                train.run(expected[0], tmp_path, quiet=True)
            assert not (tmp_path / "summary.json").exists()
        else:  # five evaluations and two turns are all there are
            train.run(expected[0], tmp_path, quiet=True)
            assert len(calls) == 7
    train.run(expected[0], tmp_path, quiet=True)
    assert_same_end(tmp_path, expected)


def test_fewer_epochs_than_the_first_stage_was_given(tmp_path, monkeypatch):
    """Protects what happens between stages: an epoch that was begun in a stage ends in it, and the next one begins."""
    toy.install(monkeypatch, early=False)
    toy.keep(monkeypatch, {})
    stopped(toy.config("epochs=6"), tmp_path, 17)  # in the last of the four epochs that the first stage has
    summary = train.run(toy.config("epochs=4"), tmp_path, quiet=True)  # of which it would have three
    assert summary["notes"] == ["turn 1 of the second stage begins"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["first"] * 4


def test_saves_in_the_middle_of_epochs(kept, straight, tmp_path):
    """Protects long epochs: with every_steps a run that dies without a word loses no more than so many steps."""
    expected = straight("toy")
    config = expected[0].copy_and_resolve_references()
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
    assert_same_end(tmp_path, (config, *expected[1:]))


def test_epochs_may_grow_but_not_below_what_is_trained(kept, tmp_path):
    """Protects a run that turned out too short: it goes on, and says so; one that is too long is refused."""
    summary = train.run(toy.config("epochs=2"), tmp_path, quiet=True)
    assert summary["changes"] == []
    longer = train.run(toy.config(), tmp_path, quiet=True)
    assert longer["changes"] == ["step 10: train.epochs=5 (was 2)"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5] and rows[-1]["step"] == LAST
    assert json.loads((tmp_path / "config.json").read_text())["train"]["epochs"] == 5
    before = {name: (tmp_path / name).read_bytes() for name in (*FILES, "config.json", "summary.json")}
    with pytest.raises(UserError, match=r"train\.epochs: 4, but .* has trained 5"):
        train.run(toy.config("epochs=4"), tmp_path, quiet=True)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_asked_to_stop_when_training_is_over(kept, straight, tmp_path):
    """Protects a comparison that is told to stop in a run's last evaluation: no other run begins, none is lost."""
    expected, evaluate = straight("toy"), toy.Kept.evaluate

    def evaluate_and_ask(job, current):
        if int(current.begun) == 2 and int(current.net.step) == LAST:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(job, current)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy.Kept, "evaluate", evaluate_and_ask)
        with pytest.raises(StoppedError, match="SIGTERM: trained to the end"):
            train.run(expected[0], tmp_path, quiet=True)
    assert not (tmp_path / "summary.json").exists()
    assert train.run(expected[0], tmp_path, quiet=True)["changes"] == []
    assert_same_end(tmp_path, expected)


def test_turns_between_epochs_are_neither_lost_nor_repeated(kept, straight, tmp_path):
    """Protects `Stage.every`: a run cut after its last epoch has no other turn, one cut between two epochs its next."""
    expected = straight("toy")
    train.run(expected[0], tmp_path, quiet=True)
    for lost in ((), (LAST,), (LAST, LAST - 5)):
        for step in lost:
            shutil.rmtree(tmp_path / "checkpoints" / str(step), ignore_errors=True)
        (tmp_path / "summary.json").unlink()
        (tmp_path / "labels.csv").unlink()
        train.run(expected[0], tmp_path, quiet=True)
        assert_same_end(tmp_path, expected)


def test_epochs_within_a_trained_epoch_are_refused(kept, straight, tmp_path):
    """Protects a summary: weights of a step inside an epoch would stand beside the figures of the one before."""
    stopped(straight("toy")[0], tmp_path, 7)
    with pytest.raises(UserError, match=r"train\.epochs: 1, but .* has trained 1 and a part of the next"):
        train.run(toy.config("epochs=1"), tmp_path, quiet=True)


def test_a_damaged_checkpoint_costs_an_epoch_not_the_run(kept, straight, tmp_path, capsys):
    """Protects a run from its disk: the damage is reported, the one before is used, the result is the same."""
    expected = straight("toy")
    stopped(expected[0], tmp_path, 12)
    target = max((tmp_path / "checkpoints" / "12" / "arrays").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 4
    target.write_bytes(data)
    train.run(expected[0], tmp_path)
    err = capsys.readouterr().err
    assert "checkpoints/12 is damaged and left out" in err and "going on after epoch 2" in err
    assert_same_end(tmp_path, expected)


def test_another_number_of_devices_and_another_pipeline_go_on(kept, straight, tmp_path, capsys):
    """Protects moving a run: cut on one device it ends on four, split state and stream included, close to itself."""
    stopped(straight("toy")[0], tmp_path, 7)
    moved = {"devices": 4, "data.pipeline": "stream", "parallel.sharding": "fsdp", "parallel.shard_above": 64}
    summary = train.run(toy.config(fields=moved), tmp_path)
    assert "KiB a device" in capsys.readouterr().err
    assert summary["device"] == "4 x cpu, fsdp"
    assert "step 7: devices=4 (was 1)" in summary["changes"] and len(summary["changes"]) == 4
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    want = [json.loads(line) for line in straight("toy")[2]["metrics.jsonl"].splitlines()]
    for row, other in zip(rows, want, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_bad_numbers_name_step_and_images(tmp_path, monkeypatch):
    """Protects the search for what broke a run: step, epoch and the ids of the batch's images are told and written."""
    config = tiny.config(toy.SPEC, {"augment.pad": 0})
    monkeypatch.setattr(optim, "schedule", lambda *_: lambda step: jnp.where(step == 7, jnp.inf, 0.1))
    with pytest.raises(NonFiniteError, match=r"step 7: .* in epoch 2 \(stage train\), on noisy images \d+, "):
        train.run(config, tmp_path, quiet=True)
    about = json.loads((tmp_path / "nonfinite.json").read_text())
    dataset = prepare(config)
    made = train.Experiment(config, dataset)
    order = next(made.feeds(made.method.stages[0], 7, 8))["noisy"]
    rows = dataset.splits.noisy[np.asarray(order)[7 % tiny.STEPS]]
    assert about["step"] == 7 and about["images"]["noisy"] == dataset.ids[rows].tolist()


@dataclass(frozen=True, eq=False)
class Poisoned(ce.CrossEntropy):
    """CE whose batch holds NaN where the sum of its rows says so."""

    poison: int = -1

    def step(self, net, batch, key):
        bad = batch["index"].sum() % 7 == self.poison
        return super().step(net, batch | {"image": jnp.where(bad, jnp.nan, batch["image"])}, key)


@pytest.mark.parametrize("calls", [1, 2])
def test_bad_steps_are_skipped_where_asked(tmp_path, monkeypatch, calls):
    """Protects a run whose person prefers to go on: the step leaves no trace in the state and is counted."""
    config = tiny.config(toy.SPEC, {**toy.CHEAP, "train.on_nonfinite": "skip", "train.steps_per_call": calls})
    job = train.Experiment(config, prepare(config))
    feeds = [next(job.feeds(job.method.stages[0], step, step + 1))["noisy"][step % 5] for step in range(15)]
    sums = np.array([int(np.asarray(rows).sum()) % 7 for rows in feeds])
    plain = job.method
    poisoned = Poisoned(**{field.name: getattr(plain, field.name) for field in fields(plain)}, poison=int(sums[6]))
    monkeypatch.setattr(ce, "make", lambda config, info: poisoned)
    train.run(config, tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    bad = (sums == poisoned.poison).reshape(3, 5).sum(axis=1)
    assert [row["skipped_steps"] for row in rows] == bad.tolist() and bad.sum() >= 1
    assert np.isfinite([row["loss"] for row in rows]).all()
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    carry, _ = checkpoints.restore(job.init())
    checkpoints.close()
    assert int(carry["step"]) == 15 and int(carry["method"].step) == 15 - bad.sum()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(carry["method"]))


def test_an_epoch_of_bad_steps_is_an_error(tmp_path, monkeypatch):
    """Protects a person from a run that skips everything and calls that training."""
    monkeypatch.setattr(optim, "schedule", lambda *_: lambda step: jnp.inf)
    with pytest.raises(NonFiniteError, match=r"all 5 steps gave numbers that are not finite in epoch 1"):
        train.run(tiny.config(toy.SPEC, {"augment.pad": 0, "train.on_nonfinite": "skip"}), tmp_path, quiet=True)
    assert not (tmp_path / "checkpoints").is_dir() or not Checkpoints(tmp_path / "checkpoints", 1).steps()


def test_numbers_too_large_to_evaluate_are_not_saved(tmp_path, monkeypatch):
    """Protects the newest checkpoint: a last update that is finite but useless is found before it is saved."""
    rates = lambda step: jnp.where(step == 2 * tiny.STEPS - 1, 3e37, 0.1)  # noqa: E731
    monkeypatch.setattr(optim, "schedule", lambda *_: rates)
    with pytest.raises(NonFiniteError, match=r"evaluation: student's logits are not finite in epoch 2"):
        train.run(tiny.config(toy.SPEC, {"augment.pad": 0}), tmp_path, quiet=True)
    assert Checkpoints(tmp_path / "checkpoints", 1).steps() == [tiny.STEPS]


def test_two_writers_are_refused(tmp_path):
    """Protects a folder from two runs: the second writes nothing."""
    with files.locked(tmp_path), pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on "):
        train.run(tiny.config(), tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


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
    fields = {**toy.CHEAP, "baselines": ()}
    train.run(tiny.config(f"{toy.SPEC},epochs=1", fields), tmp_path, quiet=True)
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    flags += ["--config", f"{tiny.SPEC},{toy.SPEC}", *tiny.FLAGS, "--workdir", str(tmp_path)]
    limited = ["bash", "-c", 'ulimit -f 4; trap "" XFSZ; exec "$@"', "-", sys.executable, "-m", "kdmlc_jax.main"]
    result = subprocess.run([*limited, *flags], capture_output=True, text=True, check=False)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 4, result.stderr
    assert len(errors) == 1 and "cannot be written" in errors[0] and "Traceback" not in result.stderr
    assert "going on after epoch 1" in result.stderr
    assert damage(tmp_path / "checkpoints" / str(tiny.STEPS)) == ""
    train.run(tiny.config(toy.SPEC, fields), tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
