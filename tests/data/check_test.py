"""The doctor: everything that is wrong with a folder at once, what a run would do with it, and nothing written."""

import pathlib
import shutil

import numpy as np
import photos
import pytest

from kdmlc_jax.data import check
from kdmlc_jax.errors import UserError

FIELDS = {"train.batch_size": "10", "train.trusted_batch_size": "6", "devices": "1"}
CONFIG = str(pathlib.Path(__file__).parents[2] / "configs/folder.py")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """45 noisy, 15 trusted and 6 test images, alone in an empty working directory's neighbour."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return photos.make(tmp_path / "photos", train=45, trusted=15, test=6)


def doctor(folder, **fields):
    """Runs the doctor on a folder as a person does; __ stands for a dot."""
    fields = FIELDS | {name.replace("__", "."): value for name, value in fields.items()}
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    check.main(["--config", f"{CONFIG}:dir={folder}", *words])


def spoil(folder):
    """One image cut off, one repeated under another label, one trusted and one noisy image also in test."""
    photos.truncate(folder / "train/cat/03.png")
    shutil.copy(folder / "train/cat/00.png", folder / "train/dog/copy.png")
    shutil.copy(folder / "train/owl/02.png", folder / "test/owl/leak.png")
    shutil.copy(folder / "trusted/owl/02.png", folder / "train/owl/held.png")


def test_a_sound_folder(folder, capsys):
    """Protects a person's first look: counts by class and role, no findings, and that a run would start."""
    doctor(folder)
    out, err = capsys.readouterr()
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == "photos: 3 classes, 60 training images"
    assert all(line.startswith(("reading 66 images", "decoding ")) for line in err.splitlines())
    assert "images [8, 8, 1] uint8" in lines and "6 test images" in lines
    assert "training images by label (labels 0 to 2): cat 20, dog 20, owl 20" in lines
    assert "test images by label (labels 0 to 2): cat 2, dog 2, owl 2" in lines
    assert "unreadable images: 0" in lines and "a run: 39 noisy, 9 trusted, 6 validation, 6 held_out" in lines
    assert "no training image is an exact copy of another or of a test image" in lines
    assert "noise none: share of wrong labels in the noisy part unknown" in lines
    assert not any(line.startswith("warning") for line in lines)
    assert lines[-1] == "a run with this config would start"


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_everything_that_is_wrong_is_listed(folder, capsys, policy):
    """Protects from mending a data set one error at a time; the end says what a run with this config would do."""
    spoil(folder)
    if policy == "fail":
        with pytest.raises(UserError) as caught:
            doctor(folder)
        message = "1 unreadable images: mend them, or leave them out by data.on_bad_image=skip"
        assert str(caught.value) == message
    else:
        doctor(folder, data__on_bad_image="skip")
    out = capsys.readouterr().out
    assert "photos: 3 classes, 61 training images" in out and "  7 test images" in out
    assert "  unreadable images: 1\n    train/cat/03.png: damaged file (" in out
    for found in ("2 training images repeat another", "1 contents have two labels", "1 left out because the original"):
        assert found in out
    assert "1 training images are also in the test part" in out
    assert out.endswith("a run with this config would start\n") == (policy == "skip")


def test_damage_is_found_whatever_the_config_skips(folder, capsys):
    """Protects the doctor's worth: it decodes all files and looks for copies though the run would not."""
    spoil(folder)
    doctor(folder, data__verify="false", data__on_bad_image="skip")
    out = capsys.readouterr().out
    assert "train/cat/03.png" in out and "2 training images repeat another" in out


def test_long_lists_are_cut(folder, capsys):
    """Protects a terminal: twenty unreadable images are named, the rest counted."""
    for path in (folder / "train").rglob("*.png"):
        if path.stem < "25":
            photos.truncate(path)
    doctor(folder, data__on_bad_image="skip", train__batch_size="4")
    out = capsys.readouterr().out
    assert out.count("damaged file") == 21, "twenty in the list, the first once more in the note"
    assert "  unreadable images: 25\n" in out and "… 5 more, all in bad_images.csv of a run" in out


def test_a_class_lost_to_damage_says_so(folder):
    """Protects from a riddle: where leaving images out takes the last one of a class, the error names one of them."""
    for path in (folder / "train/cat").iterdir():
        photos.truncate(path)
    with pytest.raises(
        UserError, match=r'class "cat" .* is missing .*; 15 bad images left out, first train/cat/00\.png: '
    ):
        doctor(folder, data__on_bad_image="skip")


def test_trusted_from_unchecked_labels_is_warned_of_once(tmp_path, capsys):
    """Protects from trust in labels that nobody has checked."""
    doctor(photos.make(tmp_path / "photos", **{"": 60}), data__trusted="15")
    out = capsys.readouterr().out
    assert out.count("warning: data.trusted=15 drew 15 trusted images whose labels nobody has checked") == 1


def test_a_class_that_nobody_vouches_for_is_named(folder, capsys):
    """Protects a person from learning only after a run that labels of a class could not be corrected."""
    shutil.rmtree(folder / "trusted/owl")
    doctor(folder)
    assert "warning: no trusted image of owl: labels given so stand" in (out := capsys.readouterr().out)
    assert out.endswith("a run with this config would start\n")


def test_nothing_is_written(folder, capsys):
    """Protects data that is only looked at: the folder and the working directory stay as they are."""
    spoil(folder)
    before = photos.listing(folder.parent)
    doctor(folder, data__on_bad_image="skip")
    assert photos.listing(folder.parent) == before and not list(pathlib.Path.cwd().iterdir())


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"data.on_bad_image": "skp"}, ["data.on_bad_image", '"skp"', "fail, skip"]),
        ({"data.pipeline": "steam"}, ["data.pipeline", '"steam"', '"stream"']),
        ({"train.epochs": "0"}, ["train.epochs", "0", "[1, "]),
        ({"train.batch_size": "40"}, ["train.batch_size", "40", "[1, 39]"]),
        ({"augment.pad": "8"}, ["augment.pad", "8", "[0, 7]"]),
        ({"noise.kind": "uniform"}, ["noise.kind", '"uniform"', "45 have none"]),
        ({"noise.kind": "nnoe"}, ["noise.kind", '"nnoe"', "not one of", '(did you mean "none"?)']),
        ({"data.trusted": "6"}, ["data.trusted", "6 images", "names its 15 trusted images"]),
        ({"data.dir": "no/such/folder"}, ["data.dir", "no/such/folder", "directory"]),
        ({"data.manifest": "none.csv"}, ["none.csv", "no such file"]),
        ({"data.dri": "x"}, ['"data.dri"', '"data.dir"']),
        ({"data.labels": "no/run"}, ["no/run", "no such file"]),
        ({"data.features": "no/f.npy"}, ["no/f.npy", "no such file"]),
        ({"init_from": "no/run"}, ["init_from", "no/run is no folder"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_config_is_refused(folder, capsys, fields, words):
    """Protects the last line: what a run would refuse is refused here, in one line naming field, value and range."""
    with pytest.raises(UserError) as caught:
        doctor(folder, **fields)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and "would start" not in capsys.readouterr().out


def test_other_sources_are_looked_at_too(tmp_path, capsys):
    """Protects the doctor's reach: features have no files to decode, yet labels, copies and splits are told."""
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    features[1] = features[0]
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "labels.npy", np.arange(40) % 2)
    fields = {"data.source": "features", "augment.pad": "0", "augment.flip": "false", "data.trusted": "10"}
    doctor(tmp_path, **fields)
    out = capsys.readouterr().out
    assert "images [1, 1, 5] float32" in out and "1 training images repeat another, 1 contents have two labels" in out
    assert out.endswith("a run with this config would start\n")
