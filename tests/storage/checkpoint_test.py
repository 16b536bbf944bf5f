"""Checkpoints: whole or not there, checked before they are used, the newest and the best kept."""

import errno
import json
import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax import parallel
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.storage import checkpoint
from kdmlc_jax.storage.checkpoint import Checkpoints
from kdmlc_jax.storage.checksums import SUMS, damage


def state(step):
    """A small pytree of two dtypes that tells its step."""
    return {"net": {"kernel": jnp.arange(600.0).reshape(20, 30) + step, "count": jnp.array(step, jnp.int32)}}


def assert_state(got, step):
    jax.tree.map(np.testing.assert_array_equal, got, state(step))


@pytest.fixture
def saved(tmp_path):
    """Steps 1, 2 and 3, all kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"epoch": step})
    checkpoints.close()
    return tmp_path / "checkpoints"


def opened(folder, lines=None):
    return Checkpoints(folder, keep=3, warn=(lambda line: lines.append(line)) if lines is not None else None)


def test_newest_is_restored(saved):
    """Protects resuming: arrays to the bit with their dtypes, and the host's progress, of the newest step."""
    got, progress = opened(saved).restore(jax.tree.map(jnp.zeros_like, state(0)))
    assert_state(got, 3)
    assert got["net"]["count"].dtype == jnp.int32 and progress == {"epoch": 3}


def test_nothing_saved(tmp_path):
    """Protects a first start: no checkpoint is no error."""
    assert opened(tmp_path / "none").restore(state(0)) is None


def test_sums_are_what_sha256sum_understands(saved):
    """Protects a person without this program: the tool every system has verifies a checkpoint."""
    result = subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=saved / "3", check=False)
    assert result.returncode == 0
    listed = {line.split("  ")[1] for line in (saved / "3" / SUMS).read_text().splitlines()}
    assert {"progress.json"} < listed and len(listed) == len([p for p in (saved / "3").rglob("*") if p.is_file()]) - 1


def flip(path, rng):
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def cut_short(path, rng):
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def remove(path, rng):
    path.unlink()


def add(path, rng):
    path.with_name("other").write_text("x")


@pytest.mark.parametrize("harm", [flip, cut_short, remove, add])
def test_damage_is_noticed_in_every_file(saved, harm):
    """Protects a run from a disk that forgets: whichever file is hurt, it is named and the step before is used."""
    rng = np.random.default_rng(0)
    files = sorted(path.relative_to(saved / "3") for path in (saved / "3").rglob("*") if path.is_file())
    files = [name for name in files if (saved / "3" / name).stat().st_size]
    assert len(files) > 5 and pathlib.Path(SUMS) in files
    keep = {name: (saved / "3" / name).read_bytes() for name in files}
    for name in files:
        assert damage(saved / "3") == ""
        harm(saved / "3" / name, rng)
        assert damage(saved / "3"), name
        (saved / "3" / name).with_name("other").unlink(missing_ok=True)
        (saved / "3" / name).write_bytes(keep[name])
    harm(saved / "3" / files[0], rng)
    lines = []
    got, progress = opened(saved, lines).restore(state(0))
    assert_state(got, 2)
    assert progress == {"epoch": 2}
    assert len(lines) == 1 and "checkpoints/3 is damaged and left out" in lines[0]
    assert {path.name for path in saved.iterdir()} == {"1", "2", "damaged-3"}


FAILING = "/proc/self/mem"  # a file that opens, and whose first byte cannot be read: Input/output error


@pytest.mark.skipif(not pathlib.Path(FAILING).exists(), reason="no such file here")
@pytest.mark.parametrize("best", [False, True])
def test_what_cannot_be_read_is_not_damaged(saved, best):
    """Protects a run from a server that stumbles: an error of the system, nothing renamed, and all is well again."""
    before, lines = sorted(path.name for path in saved.iterdir()), []
    for path in [path for path in (saved / "3").rglob("*") if path.is_file()]:
        path.rename(path.with_suffix(".kept"))
        path.symlink_to(FAILING)
        with pytest.raises(StorageError, match=r"cannot be read \(Input/output error\); nothing was changed"):
            opened(saved, lines).restore(state(0), best)
        path.unlink()
        path.with_suffix(".kept").rename(path)
    assert sorted(path.name for path in saved.iterdir()) == before and not lines
    assert_state(opened(saved).restore(state(0), best)[0], 3)


def test_a_folder_that_cannot_be_listed_is_not_empty(saved, monkeypatch):
    """Protects a run from starting afresh, and over what is there, where its folder is refused."""

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(StorageError, match=r"checkpoints: cannot be read \(Permission denied\)"):
        checkpoint.saved_steps(saved)
    with pytest.raises(StorageError, match="Permission denied"):
        opened(saved)


def test_what_orbax_takes_for_absent_is_there(saved, monkeypatch):
    """Protects a checkpoint whose sums hold: Orbax says that it is not there where it could not look."""

    def refuse(*_, **__):
        raise FileNotFoundError("No structure could be identified")

    checkpoints, before = opened(saved), sorted(path.name for path in saved.iterdir())
    monkeypatch.setattr(checkpoints._arrays, "restore", refuse)
    with pytest.raises(StorageError, match=r"3: cannot be read \(No structure could be identified\); its sums hold"):
        checkpoints.restore(state(0))
    assert sorted(path.name for path in saved.iterdir()) == before


def test_an_unreadable_best_is_not_pruned(saved, monkeypatch):
    """Protects the best checkpoint: where its figure cannot be read, nothing is deleted this time."""
    lines, checkpoints = [], opened(saved)
    checkpoints._warn = lines.append
    (saved / "1" / checkpoint.PROGRESS).unlink()
    (saved / "1" / checkpoint.PROGRESS).symlink_to(FAILING)
    checkpoints.save(4, state(4), {})
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 3, 4] and len(lines) == 1 and "no old checkpoint is deleted" in lines[0]


def test_what_was_set_aside_by_mistake_comes_back(saved):
    """Protects a run whose checkpoints an earlier version held for damaged: where the sums hold, they are whole."""
    for step in (2, 3):
        (saved / str(step)).rename(saved / f"damaged-{step}")
    (saved / "damaged-2" / checkpoint.PROGRESS).write_text("{")
    checkpoints = opened(saved)
    assert {path.name for path in saved.iterdir()} == {"1", "damaged-2", "3"}
    assert_state(checkpoints.restore(state(0))[0], 3)


def test_nothing_intact_is_an_error(saved):
    """Protects a run from silently starting afresh: where every checkpoint is damaged a person decides."""
    for step in (1, 2, 3):
        (saved / str(step) / checkpoint.PROGRESS).unlink()
    for _ in range(2):  # also when the command is given again
        with pytest.raises(StorageError, match="every checkpoint is damaged"):
            opened(saved, []).restore(state(0))


def test_what_was_being_written_is_not_a_checkpoint(saved):
    """Protects a run that was killed while it saved or deleted: the remains are removed, and are never restored."""
    (saved / "3").rename(saved / "writing-4")
    (saved / "1" / checkpoint.PROGRESS).unlink()
    (saved / "1").rename(saved / "deleting-1")
    checkpoints = opened(saved)
    assert checkpoints.steps() == [2] and {path.name for path in saved.iterdir()} == {"2"}
    assert_state(checkpoints.restore(state(0))[0], 2)


def test_killed_while_a_step_was_replaced(saved):
    """Protects the only copy of a step: set aside for a new one that was never put in its place, it comes back."""
    (saved / "3").rename(saved / "deleting-3")
    (saved / "writing-3").mkdir()
    checkpoints = opened(saved)
    assert {path.name for path in saved.iterdir()} == {"1", "2", "3"}
    assert_state(checkpoints.restore(state(0))[0], 3)


def test_an_old_checkpoint_does_not_stop_a_new_one(saved):
    """Protects saving from what lies beside it: an old progress file that cannot be read only loses its place."""
    (saved / "1" / checkpoint.PROGRESS).write_text("{")
    (saved / "2" / checkpoint.PROGRESS).write_text("{}")
    checkpoints = opened(saved)
    checkpoints.save(4, state(4), {}, 0.5)
    checkpoints.close()
    assert checkpoints.steps() == [2, 3, 4]


@pytest.mark.parametrize(
    "metrics, left",
    [
        ([None] * 5, [4, 5]),
        ([0.1, 0.9, 0.2, 0.3, 0.4], [2, 4, 5]),
        ([0.9, 0.2, 0.9, 0.3, 0.4], [1, 4, 5]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], [4, 5]),
        ([0.5, None, None, 0.1, None], [1, 4, 5]),
    ],
)
def test_newest_and_best_are_kept(tmp_path, metrics, left):
    """Protects disk and result: the newest two stay, and the first of the best, across a restart."""
    for start in (0, 3):
        checkpoints = Checkpoints(tmp_path, keep=2)
        for step in range(start + 1, start + 4 if start == 0 else 6):
            checkpoints.save(step, state(step), {}, metrics[step - 1])
        checkpoints.close()
    assert checkpoints.steps() == left


@pytest.fixture
def scored(tmp_path):
    """Steps 1 to 5, all kept, the second and the fourth equally good; the last one has no metric."""
    checkpoints = Checkpoints(tmp_path, keep=5)
    for step, metric in enumerate([0.1, 0.9, 0.2, 0.9, None], 1):
        checkpoints.save(step, state(step), {"epoch": step}, metric)
    checkpoints.close()
    return tmp_path


def test_the_best_is_restored(scored):
    """Protects `deploy=best_val`: the first of the best comes back, the next best where that one is damaged, and what
    was saved without a metric only where nothing else is left."""
    lines = []
    for step in (2, 4, 3, 1, 5):
        got, progress = opened(scored, lines).restore(state(0), best=True)
        assert_state(got, step)
        assert progress == {"epoch": step}
        (scored / str(step) / checkpoint.PROGRESS).write_text("{}")
    assert len(lines) == 4
    with pytest.raises(StorageError, match="every checkpoint is damaged"):
        opened(scored, []).restore(state(0), best=True)


def test_the_best_of_none_is_none(tmp_path):
    """Protects a first start, and a run without a validation split: the newest stands in."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.restore(state(0), best=True) is None
    for step in (1, 2):
        checkpoints.save(step, state(step), {})
    assert_state(checkpoints.restore(state(0), best=True)[0], 2)
    checkpoints.close()


def test_a_step_saved_again_replaces_the_old_one(saved):
    """Protects a run that goes back behind a damaged step and reaches it again."""
    checkpoints = opened(saved)
    checkpoints.save(3, state(33), {"epoch": 33})
    assert_state(checkpoints.restore(state(0))[0], 33)
    checkpoints.close()


def test_state_may_be_donated_at_once(tmp_path):
    """Protects asynchronous saving: the arrays given are copied before save returns."""
    checkpoints, step = Checkpoints(tmp_path, keep=1), jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    arrays = {"a": jnp.arange(1_000_000.0)}
    checkpoints.save(1, arrays, {})
    step(arrays["a"])
    got, _ = checkpoints.restore({"a": jnp.zeros(1_000_000)})
    np.testing.assert_array_equal(got["a"], np.arange(1_000_000.0))
    checkpoints.close()


@pytest.mark.parametrize("devices, model", [(1, 1), (2, 1), (4, 2)])
def test_restores_onto_another_number_of_devices(tmp_path, devices, model):
    """Protects moving a run: what four devices held in parts is whole on one, or in other parts on others."""

    class How:
        sharding, shard_above, split_banks = "fsdp", 16, False

    def on(mesh, tree):
        return parallel.place(tree, parallel.layout(tree, mesh, How))

    tree = {"kernel": jnp.arange(96.0).reshape(8, 12), "bias": jnp.arange(3.0)}
    four = on(parallel.make_mesh(4), tree)
    assert not four["kernel"].is_fully_replicated and four["bias"].is_fully_replicated
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, four, {})
    like = on(parallel.make_mesh(devices, model), jax.tree.map(jnp.zeros_like, tree))
    got, _ = checkpoints.restore(like)
    checkpoints.close()
    for name in tree:
        np.testing.assert_array_equal(got[name], tree[name])
        assert got[name].sharding == like[name].sharding


@pytest.mark.parametrize(
    "like, words",
    [
        ({"net": {"kernel": jnp.zeros((20, 31)), "count": jnp.zeros((), jnp.int32)}}, ["kernel", "20, 30", "20, 31"]),
        ({"net": {"kernel": jnp.zeros((20, 30)), "count": jnp.zeros(())}}, ["count", "int32", "float32"]),
        ({"net": {"kernel": jnp.zeros((20, 30))}}, ["count", "absent here"]),
        ({**state(0), "more": jnp.zeros(2)}, ["more", "absent there"]),
    ],
)
def test_other_shapes_are_refused(saved, like, words):
    """Protects a state from being cut or filled to fit: the array is named, with both shapes."""
    with pytest.raises(UserError) as caught:
        opened(saved).restore(like)
    assert all(word in str(caught.value) for word in words)


def test_a_disk_that_fails_is_one_line(saved, monkeypatch):
    """Protects what was saved from a full disk: one line at the next turn, older steps stay, none is half there."""

    def refuse(path, text):
        raise StorageError(f"{path}: cannot be written (No space left on device)")

    checkpoints = opened(saved)
    monkeypatch.setattr(checkpoint.files, "write_text", refuse)
    checkpoints.save(4, state(4), {})
    with pytest.raises(StorageError, match="No space left on device"):
        checkpoints.wait()
    monkeypatch.undo()
    assert checkpoints.steps() == [1, 2, 3]
    assert_state(checkpoints.restore(state(0))[0], 3)
    checkpoints.close()
    assert opened(saved).steps() == [1, 2, 3] and not (saved / "writing-4").exists()


def test_an_error_at_the_end_is_one_line(saved, monkeypatch):
    """Protects who reads what a run says last: Orbax holds a second error of a write that failed until it is closed."""
    checkpoints = opened(saved)

    def refuse():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints._arrays, "close", refuse)
    checkpoints.save(4, state(4), {})
    with pytest.raises(StorageError, match=r"4: cannot be written \(.*No space left.*steps \[2, 3, 4\]"):
        checkpoints.close()


def test_progress_is_strict_json(tmp_path):
    """Protects other readers: no NaN is written, and what failed leaves the older checkpoint in place."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state(1), {"rate": 0.1})
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save(2, state(2), {"rate": float("nan")})
    checkpoints.close()
    about = json.loads((tmp_path / "1" / checkpoint.PROGRESS).read_text())
    assert about["progress"] == {"rate": 0.1} and about["leaves"]["['net']['kernel']"] == ["float32", 20, 30]
