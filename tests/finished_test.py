"""A run that has ended, or was cut, is of its config and its data; another one is never told its figures."""

import json
import os

import numpy as np
import photos
import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax import train
from kdmlc_jax.data.images import copies
from kdmlc_jax.data.images.files import ImageFiles
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.storage import files

ROWS = 60


@pytest.fixture
def folder(tmp_path):
    """Features of two classes with a test part, as arrays in a folder."""
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    truth = np.arange(ROWS) % 2
    put(folder, features=rng.normal(size=(ROWS, 4)).astype(np.float32) + 3 * np.eye(2, 4, dtype=np.float32)[truth])
    put(folder, labels=np.where(rng.random(ROWS) < 0.3, 1 - truth, truth), true_labels=truth)
    put(folder, test_features=rng.normal(size=(10, 4)).astype(np.float32), test_labels=np.arange(10) % 2)
    put(folder, trusted=np.arange(10))
    return folder


def put(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def of(folder, **fields):
    """One epoch of plain training on `folder`."""
    made = config_lib.load("configs/features.py:method=ce,student=linear,teacher=linear", {})
    changed = {"devices": 1, "train.epochs": 1, "train.batch_size": 10, "data.held_out": 0.0, "baselines": ()}
    made.update_from_flattened_dict({**changed, "data.dir": str(folder), **fields})
    return made


CHANGES = {
    "labels": ("given labels", lambda old: 1 - old),
    "features": ("pixels", lambda old: np.concatenate([old[:-1], old[-1:] + 1e-6])),
    "test_features": ("pixels", lambda old: old[::-1]),
    "test_labels": ("true or test labels", lambda old: 1 - old),
    "true_labels": ("true or test labels", lambda old: np.concatenate([old[:-1], 1 - old[-1:]])),
    "trusted": ("splits", lambda old: old + 1),
}


@pytest.fixture(params=["ended", "cut"])
def run_of(request, folder, tmp_path, monkeypatch):
    """A run on `folder` that has ended, and one that lost its summary as if it were cut; and its folder."""
    workdir = tmp_path / "work"
    train.run(of(folder), workdir, quiet=True)
    if request.param == "cut":
        (workdir / "summary.json").unlink()
    return workdir


@pytest.mark.parametrize("lost", [(), ("noise.npz", "config.json")], ids=["whole", "without its files"])
def test_other_data_are_noticed(run_of, folder, lost):
    """Protects a person who mends the data and gives the same command: never the old figures, nor half a run on each;
    also where the files that say so are gone."""
    for name in lost:
        (run_of / name).unlink()
    for name, (what, change) in CHANGES.items():
        path = folder / f"{name}.npy"
        old = np.load(path)
        np.save(path, change(old))
        with pytest.raises(UserError, match=f"work holds a run that began with other .*{what}.*: choose another"):
            train.run(of(folder), run_of, quiet=True)
        np.save(path, old)
    with pytest.raises(UserError, match=r"work holds a run with optim\.lr="):
        train.run(of(folder, **{"optim.lr": 0.123}), run_of, quiet=True)
    assert train.run(of(folder), run_of, quiet=True)["dataset"]


def test_what_an_ended_run_has_left_is_checked(folder, tmp_path):
    """Protects who deploys: a bit that has changed in any file, the summary included, is told, and the way to have it
    again works."""
    summary = train.run(of(folder), tmp_path, quiet=True)
    names = sorted(json.loads((tmp_path / "summary.json").read_text())["files"])
    assert {"labels.csv", "labels.parquet", "soft_labels.npy", "student/weights.msgpack", "noise.npz"} < set(names)
    for name in [*names, "summary.json"]:
        path = tmp_path / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(UserError, match=name) as error:
            train.run(of(folder), tmp_path, quiet=True)
        assert "\n" not in str(error.value), name
        path.write_bytes(whole)
    (tmp_path / "labels.csv").write_text("id\n")
    (tmp_path / "summary.json").unlink()
    again = train.run(of(folder), tmp_path, quiet=True)
    assert again["files"] == summary["files"]
    with pytest.raises(StorageError, match="no networks in it"):
        files.write_sealed(tmp_path / "summary.json", {})
        train.run(of(folder), tmp_path, quiet=True)


def test_another_promise_is_another_end(folder, tmp_path):
    """Protects `labels.precision`: another one on a run that has ended is no reason to show the old labels."""
    train.run(of(folder), tmp_path, quiet=True)
    again = train.run(of(folder, **{"labels.precision": 0.8}), tmp_path, quiet=True)
    assert again["config"]["labels"]["precision"] == 0.8 and any(
        "labels.precision" in line for line in again["changes"]
    )


def test_one_bit_of_one_image(tmp_path):
    """Protects the digest itself: any one bit of an array, also of an odd width; a file's size or time."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 3, 1)).astype(np.uint8)
    for take in (copies.digests, copies.stamps):
        for _ in range(50):
            other = images.copy()
            other[tuple(rng.integers(0, images.shape))] ^= 1 << rng.integers(8)
            assert copies.digest([take(images)]) == copies.digest([take(images.copy())])
            assert copies.digest([take(images)]) != copies.digest([take(other)])
    assert copies.digest([copies.stamps(images[:2]), copies.stamps(images[2:])]) != copies.digest(
        [copies.stamps(images)]
    )
    paths = sorted(photos.make(tmp_path, train=3).rglob("*.png"))
    files = ImageFiles(paths, 8, 1, 1.0)
    before = copies.digest([copies.stamps(files)])
    assert before == copies.digest([copies.stamps(files)])
    os.utime(paths[1], ns=(0, 1))
    assert before != copies.digest([copies.stamps(files)])


BROKEN = {
    "summary.json": (
        "{",
        "[]",
        "{}",
        '{"networks": {}, "noise": {}, "labels": {}}',
        '{"networks": {"student": 1}, "noise": {}, "labels": {"accuracy_before": 1}}',
        '{"networks": {"student": {}}, "noise": {}, "labels": {"accuracy_before": 1}}',
        '{"networks": {}, "noise": {}, "labels": {"accuracy_before": 1}, "files": [1]}',
        '{"networks": {}, "noise": {}, "labels": {"accuracy_before": 1}, "config": {"a": 1}}',
    ),
    "config.json": ("{", "[]", "{}", '{"a": 1}', '{"data": 1, "method": {"name": "ce"}}', '{"method": "ce"}', "\x00"),
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BROKEN.items() for text in texts])
def test_own_files_that_are_damaged(tmp_path, folder, name, text):
    """Protects from tracebacks: summary.json or config.json of another shape is one line that names it."""
    workdir = tmp_path / "broken"
    workdir.mkdir()
    (workdir / name).write_text(text)
    with pytest.raises(UserError) as caught:
        train.run(of(folder), workdir, quiet=True)
    assert str(caught.value).startswith(str(workdir / name)) and "\n" not in str(caught.value)


def test_more_epochs_than_a_run_had(tmp_path, folder, capsys):
    """Protects who trains on a finished run: the learning rate jumps back, and what to do instead is said."""
    workdir = tmp_path / "work"
    schedule = {"optim.schedule": "cosine", "optim.lr": 0.1}
    train.run(of(folder, **schedule), workdir)
    train.run(of(folder, **schedule, **{"train.epochs": 2}), workdir)
    said = [line for line in capsys.readouterr().err.splitlines() if "optim.schedule" in line]
    assert len(said) == 1 and "after epoch 1 the learning rate is 0.05 with 2 of them, it was 0" in said[0]
    assert "optim.schedule=constant" in said[0] and f"init_from={workdir}" in said[0]


def test_a_folder_that_no_file_could_name(tmp_path, folder):
    """Protects a run from an end that it cannot save: names that are not UTF-8 are refused before it begins."""
    with pytest.raises(UserError, match="not UTF-8"):
        train.run(of(folder), tmp_path / os.fsdecode(b"w\xff"), quiet=True)
    assert not (tmp_path / os.fsdecode(b"w\xff")).exists()
