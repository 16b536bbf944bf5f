"""Clothing1M on a miniature in its published layout: roles, labels, and one clear line for each inconsistency."""

from functools import partial

import loading
import numpy as np
import pytest
from PIL import Image

from kdmlc_jax import config as config_lib
from kdmlc_jax import train
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError

LISTS = {
    "noisy_train": ["images/0/00/n0.jpg", "images/0/00/n1.jpg", "images/0/01/both.jpg", "images/0/00/n2.jpg"],
    "clean_train": ["images/1/00/t0.jpg", "images/0/01/both.jpg"],
    "clean_val": ["images/1/00/v0.jpg"],
    "clean_test": ["images/1/00/e1.jpg", "images/1/00/e0.jpg"],
}
NOISY = {"n0": 3, "n1": 13, "n2": 0, "both": 4, "v0": 7}
CLEAN = {"n2": 1, "t0": 2, "both": 5, "v0": 8, "e0": 12, "e1": 11}


@pytest.fixture
def folder(tmp_path):
    """The miniature; an image's grey level is its place among all."""
    paths = list(dict.fromkeys(path for lines in LISTS.values() for path in lines))
    stems = {path.split("/")[-1][:-4]: path for path in paths}
    for level, path in enumerate(paths):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (level,) * 3).save(tmp_path / path)
    for name, lines in LISTS.items():
        (tmp_path / f"{name}_key_list.txt").write_text("".join(f"{line}\n" for line in lines))
    for name, labels in (("noisy", NOISY), ("clean", CLEAN)):
        lines = [f"{stems[stem]} {label}\n" for stem, label in labels.items()]
        (tmp_path / f"{name}_label_kv.txt").write_text("".join(lines))
    return tmp_path


load, error_of = partial(loading.load, "clothing1m"), partial(loading.error_of, "clothing1m")


def append(path, line):
    path.write_text(path.read_text() + line + "\n")


def test_the_lists_become_roles(folder):
    """Protects the roles, the order, noisy labels as given and clean labels as truth, -1 where there is none."""
    source = load(folder)
    stems = [name.split("/")[-1][:-4] for name in source.train.ids]
    assert stems == ["n0", "n1", "n2", "t0", "both", "v0"]
    assert source.train.labels.tolist() == [3, 13, 0, -1, 4, 7]
    assert source.train.truth.tolist() == [-1, -1, 1, 2, 5, 8]
    assert source.trusted.tolist() == [3, 4] and source.validation.tolist() == [5]
    assert source.test.ids.tolist() == LISTS["clean_test"] and source.test.labels.tolist() == [11, 12]
    assert len(source.class_names) == 14 and source.class_names[13] == "Underwear"
    assert source.notes == ("1 images of noisy_train are in a clean list too and kept in that alone",)


def test_other_layouts(folder):
    """Protects copies with annotations/, tabs, and labels in the lists."""
    expected = load(folder)
    (folder / "annotations").mkdir()
    for path in folder.glob("*.txt"):
        text = path.read_text().replace(" ", "\t")
        if path.name == "noisy_train_key_list.txt":
            text = "".join(f"{line}\t{NOISY[line.split('/')[-1][:-4]]}\n" for line in text.splitlines())
        (folder / "annotations" / path.name).write_text(text)
        path.unlink()
    source = load(folder)
    for name in ("ids", "labels", "truth"):
        np.testing.assert_array_equal(getattr(source.train, name), getattr(expected.train, name))
    append(folder / "annotations" / "noisy_train_key_list.txt", "images/0/00/n0.jpg\t4")
    assert 'line 5: "images/0/00/n0.jpg" has label 4 here, 3 in its label file' in error_of(folder)


def test_images_are_read_when_asked_for(folder):
    """Protects the size and the match of images and rows; a million files are not opened without need."""
    source = load(folder)
    assert source.train.images.shape == (6, 224, 224, 3) and source.test.images.shape == (2, 224, 224, 3)
    levels = load(folder, image_size=8).train.images[:]
    assert levels.shape == (6, 8, 8, 3)
    np.testing.assert_allclose(levels[:, 4, 4, 0], [0, 1, 3, 4, 2, 5], atol=1)
    assert load(folder, channels=1).train.images.shape == (6, 224, 224, 1)
    (folder / "images/0/00/n1.jpg").unlink()
    source = load(folder, verify=False)
    with pytest.raises(UserError, match=r"n1\.jpg: no such file"):
        source.train.images[[0, 1]]


def test_environment_names_the_parent_folder(folder, monkeypatch):
    """Protects the search under KDMLC_DATA."""
    folder.rename(folder.parent / "clothing1m")
    monkeypatch.setenv("KDMLC_DATA", str(folder.parent))
    assert len(load("").train.ids) == 6
    (folder.parent / "clothing1m").rename(folder)
    assert "clothing1m is not a directory" in error_of("")


def test_bad_images_fail_or_are_left_out(folder):
    """Protects the choice, and that roles keep to their images where some are missing."""
    (folder / "images/0/00/n1.jpg").unlink()
    (folder / "images/1/00/t0.jpg").write_text("no image")
    assert f"{folder}/images/0/00/n1.jpg: no such file (1 more images are bad)" in error_of(folder)
    source = load(folder, on_bad_image="skip")
    assert source.train.labels.tolist() == [3, 0, 4, 7] and source.trusted.tolist() == [2]
    assert source.validation.tolist() == [3] and [name[-6:] for name, _ in source.skipped] == ["n1.jpg", "t0.jpg"]
    assert any("2 bad images left out" in line for line in source.notes)
    assert len(load(folder, on_bad_image="skip", verify=False).skipped) == 2


def test_verify_decodes(folder):
    """Protects a run from a file cut short, with data.verify and wherever such files are to be skipped."""
    path = folder / "images/0/00/n1.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in error_of(folder)
    assert [name[-6:] for name, _ in load(folder, on_bad_image="skip").skipped] == ["n1.jpg"]
    assert [name[-6:] for name, _ in load(folder, on_bad_image="skip", verify=False).skipped] == ["n1.jpg"]


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("noisy_label_kv.txt", "images/x.jpg 14", "line 6: label 14 is out of range, expected 0 to 13"),
        ("clean_label_kv.txt", "images/x.jpg -1", "line 7: label -1 is out of range, expected 0 to 13"),
        ("clean_label_kv.txt", "images/x.jpg 99999999999", "line 7: label 99999999999 is out of range"),
        ("clean_label_kv.txt", "images/x.jpg", 'line 7: "images/x.jpg" is not a path, a space and a label'),
        ("clean_label_kv.txt", "images/x.jpg 1.0", 'line 7: "images/x.jpg 1.0" is not a path, a space and a label'),
        ("clean_label_kv.txt", "images/x.jpg --1", "is not a path, a space and a label"),
        ("clean_label_kv.txt", "images/1/00/t0.jpg 3", 'line 7: "images/1/00/t0.jpg" has label 2 above, 3 here'),
        ("noisy_train_key_list.txt", "images/x.jpg", 'line 5: "images/x.jpg" has no label in noisy_label_kv.txt'),
        ("clean_val_key_list.txt", "images/x.jpg", 'line 2: "images/x.jpg" has no label in clean_label_kv.txt'),
        ("clean_test_key_list.txt", "images/1/00/t0.jpg", "is also in clean_train_key_list.txt"),
        ("clean_val_key_list.txt", "images/x.jpg 3", 'line 2: "images/x.jpg 3" is not a path below'),
        ("noisy_train_key_list.txt", "/etc/hostname", 'line 5: "/etc/hostname" is not a path below'),
        ("noisy_train_key_list.txt", "images/../../x.jpg", 'line 5: "images/../../x.jpg" is not a path below'),
        (
            "noisy_train_key_list.txt",
            "images/\x07.jpg",
            "line 5: the name 'images/\\x07.jpg' holds a control character",
        ),
    ],
)
def test_lines_with_mistakes(folder, file, line, message):
    """Protects from a guess at what a line means: file, line, value, what is allowed."""
    append(folder / file, line)
    assert error_of(folder).startswith(f"{folder / file} line ") and message in error_of(folder)


def test_files_that_are_missing_or_empty(folder):
    """Protects the message for an incomplete download."""
    (folder / "clean_val_key_list.txt").write_text("\n")
    assert error_of(folder) == f"{folder}/clean_val_key_list.txt: no images, expected a path a line"
    (folder / "clean_label_kv.txt").unlink()
    assert error_of(folder) == f"{folder}/clean_label_kv.txt: no such file"


def test_the_shipped_config_runs(folder, tmp_path_factory):
    """Protects configs/clothing1m.py: its method is made, clean images keep their shop label, a run ends."""
    sizes = {"data.image_size": "8", "augment.pad": "2", "train.batch_size": "2", "train.trusted_batch_size": "2"}
    fields = sizes | {"teacher.net": "mlp4", "student.net": "mlp4", "train.epochs": "1", "devices": "1"}
    config = config_lib.load(f"configs/clothing1m.py:dir={folder},pairs=real", fields)
    assert config.method.form == "skip" and config.method.look_ahead_steps == 5
    made = prepare(config)
    trusted = {str(made.ids[row])[-6:]: (made.given_label[row], made.trusted_given[row]) for row in made.splits.trusted}
    assert trusted == {"t0.jpg": (2, -1), "th.jpg": (5, 4)}
    assert made.splits.validation.tolist() == [5] and sorted(made.splits.noisy) == [0, 1, 2] and made.duplicates is None
    train.Experiment(config, made)
    plain = config_lib.load(f"configs/clothing1m.py:dir={folder},method=ce", fields)
    summary = train.run(plain, tmp_path_factory.mktemp("run") / "work", quiet=True)
    assert summary["noise"]["realised"] == 1.0  # n2 alone has a known true label, and it is another
    assert 0.0 <= summary["networks"]["student"]["last"] <= 1.0
