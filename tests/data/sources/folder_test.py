"""Folders of images: class folders and manifests read as meant, and one clear line for each mistake in them."""

import io
import json
import os
from functools import partial

import loading
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from kdmlc_jax.data.formats import embedded

load, error_of = partial(loading.load, "folder"), partial(loading.error_of, "folder")


def put(folder, names, size=(4, 4), colour=False):
    """An image under each name; its grey level is the name's position, so that rows can be told apart."""
    for level, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB" if colour else "L", size, (level,) * 3 if colour else level).save(path)


def manifest(folder, text, name="labels.csv"):
    """Writes a manifest, and an image for each path it names that has none."""
    (folder / name).write_text(text)
    paths = [line.split(",")[0] for line in text.splitlines()[1:]]
    put(folder, [path for path in paths if path.endswith(".png") and not (folder / path).exists()])
    return {"manifest": name}


def rows(**classes):
    """CSV lines for so many images of each class, under path,label."""
    lines = [f"{name}{i}.png,{name}" for name, count in classes.items() for i in range(count)]
    return "\n".join(["path,label", *lines]) + "\n"


def levels(part, which=slice(None)):
    """The grey level of each image, which `put` made its number."""
    return part.images[which][:, 0, 0, 0].tolist()


def test_class_folders(tmp_path):
    """Protects the plainest layout: sorted classes and ids, images under their own label, at any depth."""
    put(tmp_path, ["dog/b.png", "cat/deep/er/a.PNG", "dog/a.png", "cat/z.png"])
    source = load(tmp_path)
    assert source.class_names == ("cat", "dog") and source.test is None
    assert source.trusted is None and source.validation is None and source.train.truth is None
    assert source.train.ids.tolist() == ["cat/deep/er/a.PNG", "cat/z.png", "dog/a.png", "dog/b.png"]
    assert source.train.labels.tolist() == [0, 0, 1, 1] and source.train.labels.dtype == np.int32
    assert levels(source.train) == [1, 3, 2, 0]
    assert source.train.images.shape == (4, 4, 4, 1)


def test_other_files_are_counted_not_read(tmp_path):
    """Protects from thumbs files and notes among the images; hidden ones are not even mentioned."""
    put(tmp_path, ["dog/a.png", "cat/a.png", "dog/.hidden.png", ".git/x.png"])
    for name in ("dog/notes.txt", "dog/more.txt", "cat/Makefile", "cat/.DS_Store", "README.md"):
        (tmp_path / name).write_text("")
    source = load(tmp_path)
    assert len(source.train.ids) == 2
    note = "4 files ignored, no images or in no class folder: 1 .md, 2 .txt, 1 Makefile"
    assert note in source.notes and any(
        line.startswith("2 classes, 2 images: 2 noisy, 0 trusted") for line in source.notes
    )


def test_what_systems_leave_among_files(tmp_path):
    """Protects from thumbnails and folders of macOS, Windows and storage devices as images and classes."""
    put(tmp_path, ["dog/a.png", "cat/a.png", "cat/@eaDir/a.png/b.png", "@eaDir/a/b.png", "__MACOSX/cat/._a.png"])
    put(tmp_path, ["$RECYCLE.BIN/x.png", "System Volume Information/x.png", "#recycle/y.png", "cat/~$a.png"])
    for name in ("Thumbs.db", "cat/desktop.ini", "dog/Icon\r", "dog/.DS_Store"):
        (tmp_path / name).write_text("")
    source = load(tmp_path)
    assert source.class_names == ("cat", "dog") and source.train.ids.tolist() == ["cat/a.png", "dog/a.png"]
    assert not any("ignored" in note for note in source.notes)
    put(
        tmp_path,
        [f"{name}/{i}.png" for name in ("cat (Eve's conflicted copy 2024-05-01)", "dog - Copy") for i in "abc"],
    )
    assert any('"cat" (1 images) and "cat (Eve' in note and '"dog - Copy" (3)' in note for note in load(tmp_path).notes)


def test_photos_of_phones_are_not_passed_over(tmp_path):
    """Protects from a set without its HEIC files: they are images, bad ones where they cannot be read."""
    put(tmp_path, ["dog/a.png", "cat/a.png"])
    (tmp_path / "cat/b.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    assert f"{tmp_path}/cat/b.HEIC: " in error_of(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "dog/b.jfif", "JPEG")
    assert len(load(tmp_path, on_bad_image="skip").train.ids) == 3


def test_role_folders(tmp_path):
    """Protects the roles: train and noisy in one, trusted classes as truth alone, validation labels as given."""
    put(tmp_path, ["train/a/0.png", "noisy/b/1.png", "trusted/b/2.png", "val/a/3.png", "test/a/4.png", "test/b/5.png"])
    source = load(tmp_path)
    assert source.train.ids.tolist() == ["noisy/b/1.png", "train/a/0.png", "trusted/b/2.png", "val/a/3.png"]
    assert source.train.labels.tolist() == [1, 0, -1, 0]
    assert source.trusted.tolist() == [2] and source.validation.tolist() == [3]
    assert source.train.truth.tolist() == [-1, -1, 1, -1]
    assert source.test.labels.tolist() == [0, 1] and source.test.truth is None and levels(source.test) == [4, 5]


def test_a_class_may_have_the_name_of_a_role(tmp_path):
    """Protects the class "train" beside "bus"; two roles beside another folder are a mistake, and named as one."""
    put(tmp_path, ["train/0.png", "bus/0.png"])
    assert load(tmp_path).class_names == ("bus", "train")
    put(tmp_path, ["test/0.png"])
    assert f"{tmp_path}/bus: is beside test/ and train/, expected only train, noisy" in error_of(tmp_path)


@pytest.mark.parametrize("role", ["test", "train", "Val"])
def test_a_role_beside_the_classes(tmp_path, role):
    """Protects from test images learnt from as a class "test", beside the classes it holds."""
    put(tmp_path, ["cat/0.png", "dog/0.png", f"{role}/kitten/0.png", f"{role}/odd/0.png"])
    assert load(tmp_path).class_names == tuple(sorted(["cat", "dog", role]))
    put(tmp_path, [f"{role}/Dog/0.png"])
    advice = f"move the classes into {tmp_path}/train/, or rename {role}/ if it is a class"
    assert error_of(tmp_path).startswith(
        f'{tmp_path}/{role}: holds a folder "dog", and so does {tmp_path}; {advice}, or, if all'
    )


def both(folder, *parts):
    """Two classes, cat and dog, in each of the folders."""
    put(folder, [f"{part}/{name}/{i}.png" for part in parts for name in ("cat", "dog") for i in range(2)])


@pytest.mark.parametrize(
    ("parts", "validation", "test"),
    [
        (("Training", "Testing"), 0, 4),
        (("train", "dev"), 4, 0),
        (("Train_images", "Test_images"), 0, 4),
        (("trainset", "imgs_val", "test-2017"), 4, 4),
        (("train2017", "val2017"), 4, 0),
        (("seg_train", "seg_test"), 0, 4),
        (("TRAIN/train", "TEST/test"), 0, 4),
        (("TrainData", "ValidData"), 4, 0),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
def test_splits_in_other_spellings(tmp_path, parts, validation, test):
    """Protects from training on test images because a folder is not spelled `test`; what was read is said."""
    both(tmp_path, *parts)
    source = load(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert len(source.train.labels) == 4 + validation and (len(source.test.labels) if source.test else 0) == test
    assert (0 if source.validation is None else len(source.validation)) == validation
    assert any(note.startswith("folders are read as splits: ") for note in source.notes)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        (("train", "clean"), "/clean: is beside train/"),
        (("train", "unlabeled"), "/unlabeled: is beside train/"),
        (("train", "PublicTest", "PrivateTest"), "/PrivateTest: is beside PublicTest/"),
        (("train", "test", "docs"), "/docs: is beside test/ and train/"),
        (("train_cats", "test_cats", "eval_dogs"), "/eval_dogs: is beside "),
        (("fold1", "fold2"), "/fold1: is beside fold2/"),
        (("first", "second"), ": first/ and second/ hold the same folders (cat, dog)"),
        (("lehrdaten", "pruefdaten", "x"), ": lehrdaten/ and pruefdaten/ hold the same folders (cat, dog)"),
        ((".", "other"), '/other: holds a folder "cat", and so does '),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
def test_what_looks_like_splits_is_no_class(tmp_path, parts, named):
    """Protects from classes named like splits; classes.txt settles that they are the classes."""
    both(tmp_path, *parts)
    message = error_of(tmp_path)
    assert message.startswith(f"{tmp_path}{named}")
    tops = sorted(path.name for path in tmp_path.iterdir())
    assert f"printf '%s\\n' {' '.join(tops)} > {tmp_path}/classes.txt" in message
    (tmp_path / "classes.txt").write_text("\n".join(tops[::-1]) + "\n")
    assert load(tmp_path).class_names == tuple(tops[::-1])


def test_folders_that_are_classes(tmp_path):
    """Protects classes whose names only remind of splits, or that hold a folder of the same name each."""
    put(tmp_path, ["test_tube/0.png", "train_station/0.png", "bus/0.png", "dog/images/0.png", "cat/images/0.png"])
    assert load(tmp_path).class_names == ("bus", "cat", "dog", "test_tube", "train_station")


def test_a_folder_too_high(tmp_path):
    """Protects from a riddle where the set lies one folder deeper, as archives unpack it."""
    both(tmp_path, "set/train", "set/test")
    assert error_of(tmp_path).endswith(
        f"where test, train in it are the classes, or splits, give data.dir={tmp_path}/set"
    )


def test_lists_of_test_images_are_not_read(tmp_path):
    """Protects from test images among the class folders that only a list beside them names."""
    both(tmp_path, ".")
    (tmp_path / "test.txt").write_text("cat/0.png\n")
    warning = "warning: test.txt beside the class folders is not read, and its images are learnt from"
    assert warning in load(tmp_path).notes


def test_splits_within_classes(tmp_path):
    """Protects test images that lie in their class's own folder."""
    both(tmp_path / "x", ".")
    put(tmp_path / "x", ["cat/Testing/0.png"])
    there = f"{tmp_path}/x/test/cat/, the rest to {tmp_path}/x/train/cat/"
    assert (
        error_of(tmp_path / "x") == f"{tmp_path}/x/cat/Testing: a folder of test images in a class; move it to {there}"
    )


def test_classes_txt_beside_folders(tmp_path):
    """Protects the order and number of classes that the file gives, from a folder that it does not name, too."""
    put(tmp_path, ["train/cat/0.png", "train/dog/0.png", "test/dog/0.png"])
    (tmp_path / "classes.txt").write_text("owl\ndog\ncat\n")
    source = load(tmp_path)
    assert source.class_names == ("owl", "dog", "cat") and source.train.labels.tolist() == [2, 1]
    assert not any("ignored" in note for note in source.notes)
    put(tmp_path, ["train/dgo/0.png"])
    assert f'train/dgo/0.png: "dgo" is not in {tmp_path}/classes.txt (did you mean "dog"?)' in error_of(tmp_path)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("subset", "ab"),
        ("is_test", "01"),
        ("Usage", ["Training", "PublicTest"]),
        ("phase", ["train", "val"]),
        ("set", "12"),
        ("fold", "12"),
        ("train_test_split", "01"),
        ("cv_fold", "12"),
        ("evaluation", "01"),
        ("anything", ["Test_images", "Test_images"]),
    ],
)
def test_columns_that_look_like_splits(tmp_path, column, cells):
    """Protects the test rows of a manifest whose split has another name: nothing is read until the config says how."""
    text = f"path,label,{column}\na.png,cat,{cells[0]}\nb.png,dog,{cells[1]}\nc.png,cat,{cells[0]}\n"
    fields = manifest(tmp_path, text)
    message = error_of(tmp_path, **fields)
    assert f'column "{column.lower()}" ("' in message and f"data.split_column={column.lower()} reads it" in message
    source = load(tmp_path, **fields, split_column="none")
    assert len(source.train.labels) == 3 and f"columns not read: {column.lower()}" in source.notes


def test_columns_by_the_names_of_the_config(tmp_path):
    """Protects tables with names of their own: the config gives them, a wrong one is refused with what there is."""
    text = "photo,animal,Phase,x\na.png,cat,Training,1\nb.png,dog,train,2\nc.png,cat,TESTING,3\n"
    columns = {"path_column": "Photo", "label_column": "animal", "split_column": "phase"}
    source = load(tmp_path, **manifest(tmp_path, text), **columns)
    assert source.train.ids.tolist() == ["a.png", "b.png"] and source.test.ids.tolist() == ["c.png"]
    assert "columns not read: x" in source.notes
    wrong = columns | {"split_column": "phse"}
    assert 'no column "phse", found photo, animal, phase, x' in error_of(tmp_path, manifest="labels.csv", **wrong)
    assert 'no column "phase"' not in error_of(tmp_path, manifest="labels.csv", **columns | {"label_column": "x2"})
    text = "path,label,is_test\na.png,cat,no\nb.png,dog,0\nc.png,cat,True\n"
    assert load(tmp_path, **manifest(tmp_path, text), split_column="is_test").test.ids.tolist() == ["c.png"]
    fields = manifest(tmp_path, text.replace("is_test", "is_train"))
    assert 'row 1: is_train "no" is not one of train' in error_of(tmp_path, **fields, split_column="is_train")


def test_rows_of_a_named_split_column(tmp_path):
    """Protects usual spellings in the column split, beside which other columns are only listed."""
    text = "path,label,split,fold\na.png,cat,TRAIN,1\nb.png,dog,Training,2\nc.png,cat,dev,1\nd.png,dog,test2017,2\n"
    source = load(tmp_path, **manifest(tmp_path, text))
    assert source.validation.tolist() == [2] and source.test.ids.tolist() == ["d.png"]
    assert "columns not read: fold" in source.notes


def test_class_missing_from_training(tmp_path):
    """Protects evaluation on, and trust in, a class that nothing could be learnt of."""
    put(tmp_path, ["train/a/0.png", "train/b/0.png", "test/c/0.png"])
    message = 'class "c" of the test images is missing from training (no noisy image has it)'
    assert error_of(tmp_path) == f"{tmp_path}: {message}"
    put(tmp_path, ["trusted/c/0.png"])
    assert 'class "c" of the trusted images is missing from training' in error_of(tmp_path)
    # In a manifest a trusted image is enough, though its label becomes the truth and no given label is left.
    fields = manifest(tmp_path, "path,label,split\na.png,a,\nb.png,b,trusted\nc.png,b,test\n")
    source = load(tmp_path, **fields)
    assert source.train.labels.tolist() == [0, -1] and source.test.labels.tolist() == [1]


def test_folders_without_what_is_needed(tmp_path):
    """Protects from a silent set of one class, none, or one fewer than the folders say."""
    (tmp_path / "readme.txt").write_text("")
    assert error_of(tmp_path).startswith(f"{tmp_path}: no images, expected a folder per class with .avif")
    put(tmp_path, ["cat/0.png"])
    assert error_of(tmp_path) == f'{tmp_path}: the single class "cat", expected 2 classes or more'
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/0.xcf").write_text("")
    assert f'{tmp_path}/dog: no image files, expected some of class "dog"' in error_of(tmp_path)
    put(tmp_path / "other", ["trusted/a/0.png", "test/a/0.png", "test/b/0.png"])
    assert "no noisy training images (train or noisy)" in error_of(tmp_path / "other")


def test_no_directory(tmp_path, monkeypatch):
    """Protects the message for a source that has no usual folder."""
    monkeypatch.setenv("KDMLC_DATA", str(tmp_path))
    assert error_of("") == 'data.dir is empty: give the folder of the images for data.source "folder"'
    assert f"data.dir: {tmp_path}/absent is not a directory" in error_of(tmp_path / "absent")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_folder_without_permission(tmp_path):
    """Protects from leaving out a class whose folder cannot be read."""
    put(tmp_path, ["cat/0.png", "dog/0.png"])
    (tmp_path / "dog").chmod(0)
    assert error_of(tmp_path) == f"{tmp_path}/dog: cannot be read (Permission denied)"
    (tmp_path / "dog").chmod(0o700)


def test_links_out_of_the_folder(tmp_path):
    """Protects files elsewhere on the machine from a data set of unknown origin, and walks from going in circles."""
    put(tmp_path, ["set/cat/0.png", "set/dog/0.png", "secret.png"])
    (tmp_path / "set/dog/1.png").symlink_to("0.png")
    assert len(load(tmp_path / "set").train.ids) == 3
    (tmp_path / "set/dog/2.png").symlink_to(tmp_path / "secret.png")
    assert f"{tmp_path}/set/dog/2.png: a link to a folder or out of {tmp_path}/set" in error_of(tmp_path / "set")
    (tmp_path / "set/dog/2.png").unlink()
    (tmp_path / "set/dog/loop").symlink_to(tmp_path / "set")
    assert f"{tmp_path}/set/dog/loop: a link to a folder" in error_of(tmp_path / "set")


def test_links_are_followed_where_the_config_says_so(tmp_path):
    """Protects folders made of links: read with data.follow_links, circles refused; without it the option is named."""
    put(tmp_path / "real", ["cats/a.png", "dogs/b.png", "dogs/c.png"])
    root = tmp_path / "links"
    root.mkdir()
    (root / "cat").symlink_to("../real/cats")
    (root / "dog").mkdir()
    (root / "dog" / "b.png").symlink_to(tmp_path / "real/dogs/b.png")
    assert "data.follow_links=true reads" in error_of(root)
    source = load(root, follow_links=True)
    assert source.train.ids.tolist() == ["cat/a.png", "dog/b.png"] and levels(source.train) == [0, 1]
    (root / "m.csv").write_text("path,label\ncat/a.png,x\ndog/b.png,y\n")
    assert "data.follow_links=true would read it" in error_of(root, manifest="m.csv")
    assert load(root, manifest="m.csv", follow_links=True).train.ids.tolist() == ["cat/a.png", "dog/b.png"]
    (root / "dog" / "again").symlink_to("../dog")
    assert "a link to a folder that it lies in" in error_of(root, follow_links=True)
    (root / "m.csv").write_text("path,label\n../real/cats/a.png,x\n")
    assert "is outside" in error_of(root, manifest="m.csv", follow_links=True)


def test_names_that_no_label_file_can_hold(tmp_path):
    """Protects labels.csv and labels.parquet, written after training, from names with line breaks or stray bytes."""
    put(tmp_path, ["cat/0.png", "dog/0.png", "dog/a\nb.png"])
    assert r"the name 'a\nb.png' holds a control character" in error_of(tmp_path)
    os.rename(tmp_path / "dog/a\nb.png", os.fsencode(tmp_path / "dog") + b"/\xff.png")
    assert r"the name '\udcff.png' holds a control character or is not UTF-8" in error_of(tmp_path)


def test_sizes_and_channels(tmp_path):
    """Protects the rule for data.image_size and data.channels 0, and that given values go before it."""
    put(tmp_path, ["cat/0.png", "dog/0.png"], (30, 20))
    assert load(tmp_path).train.images[:].shape == (2, 20, 30, 1)
    assert load(tmp_path, image_size=8, channels=3).train.images[:].shape == (2, 8, 8, 3)
    put(tmp_path, ["dog/1.png"], (20, 30), colour=True)
    source = load(tmp_path)
    assert source.train.images[:].shape == (3, 64, 64, 3)
    assert (
        "images of 20 x 20 to 30 x 30 pixels (width x height), scaled to 64 x 64, the centre square, RGB"
        in source.notes
    )
    put(tmp_path / "large", ["cat/0.png", "dog/0.png"], (65, 65))
    assert load(tmp_path / "large").train.images.shape == (2, 64, 64, 1)


def test_options_out_of_range(tmp_path):
    """Protects the fields about images: each out of range is named with what is allowed."""
    put(tmp_path, ["cat/0.png", "dog/0.png"])
    assert error_of(tmp_path, channels=2) == "data.channels: 2 is not 0, 1 or 3"
    assert error_of(tmp_path, image_size=-1) == "data.image_size: -1 is outside [0, 4096]"
    assert error_of(tmp_path, max_megapixels=0.0).startswith("data.max_megapixels: 0.0 is outside")
    assert 'data.on_bad_image: "ignore" is not one of fail, skip' in error_of(tmp_path, on_bad_image="ignore")


def test_bad_images_fail_or_are_left_out(tmp_path):
    """Protects the choice: the first bad file, reason and number; or a set without them, that lists each."""
    put(tmp_path, ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png"])
    (tmp_path / "cat/1.png").write_bytes(b"")
    (tmp_path / "dog/0.png").write_bytes((tmp_path / "dog/0.png").read_bytes()[:48])
    message = error_of(tmp_path)
    assert message.startswith(f"{tmp_path}/cat/1.png: empty file (1 more images are bad); ")
    assert "python -m kdmlc_jax.data.check" in message and "data.on_bad_image=skip" in message
    source = load(tmp_path, on_bad_image="skip")
    assert source.train.ids.tolist() == ["cat/0.png", "cat/2.png", "dog/1.png"] and levels(source.train) == [0, 2, 4]
    assert [name for name, _ in source.skipped] == ["cat/1.png", "dog/0.png"] and source.skipped[0][1] == "empty file"
    assert "warning: 2 bad images left out, first cat/1.png: empty file" in source.notes
    # Headers alone do not show the cut, and skip promises a run that does not stop at one.
    assert len(load(tmp_path, on_bad_image="skip", verify=False).train.ids) == 3
    (tmp_path / "cat/1.png").unlink()
    assert len(load(tmp_path, verify=False).train.ids) == 4


def test_too_large_images_are_bad_images(tmp_path):
    """Protects that data.max_megapixels reaches the files."""
    put(tmp_path, ["cat/0.png", "dog/0.png"], (50, 50))
    assert "50 x 50 pixels are 0.0025 megapixels" in error_of(tmp_path, max_megapixels=0.002)


def test_all_images_of_a_class_left_out(tmp_path):
    """Protects from a set that skipping has emptied, in part or in whole."""
    put(tmp_path, ["train/a/0.png", "train/b/0.png", "test/b/0.png"])
    (tmp_path / "train/b/0.png").write_bytes(b"")
    assert 'class "b" of the test images is missing from training' in error_of(tmp_path, on_bad_image="skip")
    for name in ("train/a/0.png", "test/b/0.png"):
        (tmp_path / name).write_bytes(b"")
    assert "no images" in error_of(tmp_path, on_bad_image="skip")


FULL = """image,Label,extra,trusted,split,true_label
d.png,cat,1,,,
b.png,dog,2,yes,,cat
a.png,cat,3,,trusted,
c.png,,4,1,train,dog
e.png,dog,5,no,noisy,cat
f.png,dog,6,,val,
g.png,cat,7,,test,dog
h.png,cat,8,0,test,
"""


def check_full(source):
    """Asserts what the manifest FULL says."""
    assert source.class_names == ("cat", "dog")
    assert source.train.ids.tolist() == [f"{name}.png" for name in "abcdef"]
    assert source.train.labels.tolist() == [-1, 1, -1, 0, 1, 1]
    assert source.train.truth.tolist() == [0, 0, 1, -1, 0, -1]
    assert source.trusted.tolist() == [0, 1, 2] and source.validation.tolist() == [5]
    assert source.test.ids.tolist() == ["g.png", "h.png"] and source.test.labels.tolist() == [1, 0]


def test_manifest_with_all_columns(tmp_path):
    """Protects the meaning of every column, the order by id, aliases, and trusted images: given label as told."""
    source = load(tmp_path, **manifest(tmp_path, FULL))
    check_full(source)
    assert levels(source.train) == [2, 1, 3, 0, 4, 5] and levels(source.test) == [6, 7]


def test_parquet_manifest(tmp_path):
    """Protects the same table in Parquet, with nulls, booleans and dictionary columns."""
    manifest(tmp_path, FULL)
    lines = [line.split(",") for line in FULL.splitlines()]
    columns = {name: [line[i] or None for line in lines[1:]] for i, name in enumerate(lines[0])}
    columns["trusted"] = [{"yes": True, "1": True, "no": False, "0": False, None: None}[v] for v in columns["trusted"]]
    table = pa.table(columns | {"Label": pa.array(columns["Label"]).dictionary_encode()})
    parquet.write_table(table, tmp_path / "x.parquet")
    check_full(load(tmp_path, manifest="x.parquet"))
    table = pa.table({"path": ["a.png", "b.png"], "label": pa.array([1, 0], pa.int64())})
    parquet.write_table(table, tmp_path / "x.parquet")
    source = load(tmp_path, manifest=str(tmp_path / "x.parquet"))
    assert source.class_names == ("0", "1") and source.train.labels.tolist() == [1, 0]
    parquet.write_table(table.set_column(1, "label", pa.array([1.5, 0.0])), tmp_path / "x.parquet")
    assert 'x.parquet row 1: label "1.5" is not a whole number of 0 or more' in error_of(tmp_path, manifest="x.parquet")


def test_tables_of_other_tools(tmp_path):
    """Protects whole numbers as pandas writes a column with gaps, the usual names of columns, and Windows' paths."""
    text = "file_name,class,true_label,trusted\nx\\a.png,0,0.0,1.0\nx\\b.png,1,,0.0\nx\\c.png,1,1.0,\n"
    (tmp_path / "x").mkdir()
    manifest(tmp_path, text.replace("\\", "/"))  # the images
    (tmp_path / "labels.csv").write_text(text)
    source = load(tmp_path, manifest="labels.csv")
    assert source.train.ids.tolist() == ["x/a.png", "x/b.png", "x/c.png"]
    assert source.train.labels.tolist() == [0, 1, 1] and source.train.truth.tolist() == [0, -1, 1]
    assert source.trusted.tolist() == [0]
    (tmp_path / "y\\d.png").write_bytes((tmp_path / "x" / "a.png").read_bytes())  # a name that has one
    (tmp_path / "odd.csv").write_text("path,label,trusted\ny\\d.png,0,1\ny\\d2.png,1,\n")
    (tmp_path / "y\\d2.png").write_bytes((tmp_path / "x" / "b.png").read_bytes())
    assert load(tmp_path, manifest="odd.csv").train.ids.tolist() == ["y\\d.png", "y\\d2.png"]
    words = f"path,label\n{'b' * 300}.png,0\n"
    (tmp_path / "long.csv").write_text(words)
    assert "row 1:" in (said := error_of(tmp_path, manifest="long.csv")) and "expected 255 at most" in said


def test_whole_numbers_are_classes(tmp_path):
    """Protects the numbers that are there as classes, and no others; classes.txt names 0 and up."""
    text = "path,label\na.png,3\nb.png,0\nc.png,1\n"
    source = load(tmp_path, **manifest(tmp_path, text))
    assert source.class_names == ("0", "1", "3") and source.train.labels.tolist() == [2, 0, 1]
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\nthree\n\n")
    source = load(tmp_path, manifest="labels.csv")
    assert source.class_names == ("zero", "one", "two", "three") and source.train.labels.tolist() == [3, 0, 1]
    (tmp_path / "classes.txt").write_text("3\n1\n0\n")  # names that are numbers
    assert load(tmp_path, manifest="labels.csv").train.labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("-1", 'row 2: label "-1" is not a whole number of 0 or more'),
        ("1.5", 'row 2: label "1.5" is not a whole number of 0 or more'),
        ("2.5", 'row 2: label "2.5" is not a whole number of 0 or more'),
        ("inf", 'row 2: label "inf" is not a whole number of 0 or more'),
        ("1_0", 'row 2: label "1_0" is not a whole number of 0 or more'),
        ("NaN", "row 2: the label is empty, expected a class"),
        ("", "row 2: the label is empty, expected a class"),
        ("9" * 5000, "… has 5000 characters, expected 255 at most".replace("… ", '…" ')),
        ("o", 'row 2: label "o" is not a whole number, as most labels are'),
    ],
)
def test_labels_that_are_no_class_numbers(tmp_path, label, message):
    """Protects training from labels that NumPy would wrap, round or make a million classes of."""
    text = f"path,label\na.png,1\nb.png,{label}\nc.png,0\nd.png,2\n"
    assert message in error_of(tmp_path, **manifest(tmp_path, text))


@pytest.mark.parametrize("column", ["label", "true_label"])
def test_numbers_in_one_column_and_names_in_the_other(tmp_path, column):
    """Protects from the classes 0, 1, cat, dog, where each label would be wrong; classes.txt says which is which."""
    other = "true_label" if column == "label" else "label"
    text = f"path,{column},{other}\na.png,0,cat\nb.png,1,dog\nc.png,1,cat\nd.png,0,1\n"
    fields = manifest(tmp_path, text)
    message = f'row 1: {other} "cat" is a name, but every {column} is a number (first "0"), expected names in both'
    assert message in error_of(tmp_path, **fields)
    fields = manifest(tmp_path, text.replace("d.png,0,1\n", ""))
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    source = load(tmp_path, **fields)
    labels = {"label": source.train.labels.tolist(), "true_label": source.train.truth.tolist()}
    assert source.class_names == ("dog", "cat") and labels == {column: [0, 1, 1], other: [1, 0, 1]}


@pytest.mark.parametrize(
    "names", [("1", "2", "3"), ("001", "002"), ("2019", "2020"), ("1", "2", "10"), ("0", "1", "99999"), ("7", "008")]
)
def test_numbers_are_one_rule(tmp_path, names):
    """Protects labels that are numbers, as folders and in tables alike: as written, in numeric order, none made up."""
    put(tmp_path, [f"{name}/{i}.png" for name in names for i in range(3)])
    lines = [f"{name}/{i}.png,{name}" for name in names[::-1] for i in range(3)]
    (tmp_path / "m.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    for fields in ({}, {"manifest": "m.csv"}):
        source = load(tmp_path, **fields)
        assert source.class_names == names
        assert [names[label] for label in source.train.labels] == [name.split("/")[0] for name in source.train.ids]


def test_folders_numbered_beside_classes_txt(tmp_path):
    """Protects the names that classes.txt gives to the folders 0 and 1, as it does to numbers in a table."""
    put(tmp_path, ["0/a.png", "01/b.png"])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert '"01" is not in' in error_of(tmp_path)
    (tmp_path / "01").rename(tmp_path / "1")
    source = load(tmp_path)
    assert source.class_names == ("cat", "dog") and source.train.labels.tolist() == [0, 1]


def test_a_class_named_nan(tmp_path):
    """Protects names that only look like nothing: text beside names, no label beside numbers."""
    source = load(tmp_path, **manifest(tmp_path, rows(nan=12, rice=12)))
    assert source.class_names == ("nan", "rice") and source.train.labels.tolist() == [0] * 12 + [1] * 12
    assert any('"nan" (12 images) is taken for a class' in note for note in source.notes)
    text = "path,label,true_label\na.png,rice,nan\nb.png,bread,bread\nc.png,rice,\n"
    source = load(tmp_path, **manifest(tmp_path, text))
    assert source.class_names == ("bread", "rice") and source.train.truth.tolist() == [-1, 0, -1]
    (tmp_path / "classes.txt").write_text("nan\nrice\nbread\n")
    assert load(tmp_path, **manifest(tmp_path, text)).train.truth.tolist() == [0, 2, -1]
    parquet.write_table(pa.table({"path": ["a.png", "b.png"], "label": [1.0, float("nan")]}), tmp_path / "x.parquet")
    (tmp_path / "classes.txt").unlink()
    assert "row 2: the label is empty" in error_of(tmp_path, manifest="x.parquet")


COMPOSED, SPLIT = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("dog", "dog\u200b"), "'dog' (12 images) and 'dog\\u200b' (12) look the same"),
        ((COMPOSED, SPLIT), "'caf\\xe9' (12) look the same"),
        (("hot dog", "hot\u00a0dog"), "look the same; write one of them everywhere"),
        (("dog", "do\x1bg"), "the label 'do\\x1bg' holds a control character"),
    ],
)
def test_labels_that_nobody_can_tell_apart(tmp_path, labels, message):
    """Protects from two classes that are one to the eye, frequent as they may be; classes.txt settles it."""
    text = "path,label\n" + "".join(f"{k}{i}.png,{name}\n" for k, name in enumerate(labels) for i in range(12))
    fields = manifest(tmp_path, text)
    assert message in error_of(tmp_path, **fields)
    if "\x1b" not in text:
        (tmp_path / "classes.txt").write_text("\n".join(labels))
        assert load(tmp_path, **fields).class_names == labels
        put(tmp_path / "f", [f"{name}/{i}.png" for name in labels for i in range(2)])
        assert "look the same" in error_of(tmp_path / "f")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("cat", "Cat"), ["nearly the same name", '"Cat" (12 images) and "cat" (12)', "printf '%s\\n' Cat cat > "]),
        (("hot_dog", "Hot Dog", "rice"), ['"Hot Dog" (12 images) and "hot_dog" (12)', "'Hot Dog' hot_dog rice"]),
        (("cat", "cats"), ["nearly the same name"]),
        (("1", "01"), ['"01" (12 images) and "1" (12)']),
        (("cat", "dog", "cat;dog"), ["labels that name several classes", '"cat;dog" (12 images)']),
        (("cat|dog", "dog|owl"), ['"cat|dog" (12 images), "dog|owl" (12 images)']),
        (("cat", "dog", "dog/cat"), ['"dog/cat" (12 images)']),
        (("cat", "None"), ['"None" (12 images) is taken for a class']),
    ],
)  # fmt: skip
def test_labels_that_may_be_mistakes(tmp_path, labels, words):
    """Protects from classes that are spellings, lists or nothing: said before training, with what to do."""
    text = "path,label\n" + "".join(f"{k}{i}.png,{name}\n" for k, name in enumerate(labels) for i in range(12))
    warnings = [note for note in load(tmp_path, **manifest(tmp_path, text)).notes if note.startswith("warning")]
    assert len(warnings) == 1 and all(word in warnings[0] for word in words), warnings


def test_labels_that_are_no_mistakes(tmp_path):
    """Protects from warnings at sound names, and at what classes.txt has settled."""
    names = ("tench, Tinca tinca", "dog", "hot dog", "A+", "A-", "\u0915\u093f", "\u0915\u0940", "black_cat")
    text = "path,label\n" + "".join(f'{k}{i}.png,"{name}"\n' for k, name in enumerate(names) for i in range(10))
    assert not any(note.startswith("warning") for note in load(tmp_path, **manifest(tmp_path, text)).notes)
    (tmp_path / "classes.txt").write_text("cat\nCat\n")
    fields = manifest(tmp_path, rows(cat=5, Cat=5))
    assert not any(note.startswith("warning") for note in load(tmp_path, **fields).notes)


def test_classes_of_very_few_images(tmp_path):
    """Protects from a stray number as a class, and from one without an image, wherever labels come from."""
    source = load(tmp_path, **manifest(tmp_path, rows(**{"1": 12, "2": 12, "99999": 1})))
    assert 'warning: 1 of 3 classes have fewer than 5 training images: "99999" 1; add' in source.notes[-1]
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    source = load(tmp_path, **manifest(tmp_path, rows(cat=12, dog=12)))
    assert '1 of 3 classes have fewer than 5 training images: "owl" 0' in source.notes[-1]


def test_a_class_an_image(tmp_path):
    """Protects from the wrong column taken for the label."""
    text = "path,label\n" + "".join(f"{i}.png,{i}\n" for i in range(50))
    assert "labels.csv: 50 different labels for 50 images" in error_of(tmp_path, **manifest(tmp_path, text))


def png(level):
    """The bytes of a grey image of one level."""
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def hugging_face(names=None):
    """The metadata that `datasets` writes beside a ClassLabel."""
    label = {"names": names, "_type": "ClassLabel"}
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "Label": label}}})}


@pytest.mark.parametrize("kind", ["struct", "bytes", "large"])
def test_images_in_a_parquet_table(tmp_path, kind):
    """Protects tables that hold the images themselves: each under its own label, named classes, ids that tell apart."""
    images = [png(level) for level in range(12)]
    column = [{"bytes": each, "path": f"p{row}.png"} for row, each in enumerate(images)] if kind == "struct" else images
    column = pa.array(column, pa.large_binary()) if kind == "large" else column
    splits = ["train"] * 9 + ["validation"] + ["test"] * 2
    table = pa.table({"image": column, "Label": [row % 3 for row in range(12)], "split": splits})
    parquet.write_table(table.replace_schema_metadata(hugging_face(["cat", "owl", "dog"])), tmp_path / "x.parquet")
    source = load(tmp_path, manifest="x.parquet")
    assert source.class_names == ("cat", "owl", "dog")
    assert source.train.labels.tolist() == [level % 3 for level in levels(source.train)]
    assert sorted(levels(source.train)) == list(range(10)) and sorted(levels(source.test)) == [10, 11]
    assert source.train.ids[0] == ("p0.png" if kind == "struct" else "x/01") and source.validation.tolist() == [9]
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert load(tmp_path, manifest="x.parquet").class_names == ("a", "b", "c")
    (tmp_path / "classes.txt").unlink()
    parquet.write_table(table.replace_schema_metadata({"huggingface": "{"}), tmp_path / "x.parquet")
    assert load(tmp_path, manifest="x.parquet").class_names == ("0", "1", "2")
    parquet.write_table(table.replace_schema_metadata(hugging_face(["cat", "owl"])), tmp_path / "x.parquet")
    assert "row 3: label 2 is out of range, expected 0 to 1 (x.parquet)" in error_of(tmp_path, manifest="x.parquet")


def test_bad_images_in_a_parquet_table(tmp_path):
    """Protects the one door: what is no image within a table is refused, or left out, as a file is."""
    cells = [{"bytes": png(1), "path": None}, {"bytes": b"\xffno image", "path": None}, {"bytes": None, "path": None}]
    cells += [{"bytes": png(2), "path": "same.png"}, {"bytes": png(3), "path": "same.png"}]
    parquet.write_table(pa.table({"image": cells, "label": [0, 1, 0, 1, 0]}), tmp_path / "x.parquet")
    message = error_of(tmp_path, manifest="x.parquet")
    assert message.startswith(f"{tmp_path}/x.parquet row 2 (x/2): not an image of PNG") and "1 more images" in message
    source = load(tmp_path, manifest="x.parquet", on_bad_image="skip")
    assert source.skipped[1] == ("x/3", "empty file") and levels(source.train) == [1, 2, 3]
    assert "row 1 (x/1): 4 x 4 pixels are 1.6e-05 meg" in error_of(tmp_path, manifest="x.parquet", max_megapixels=1e-6)
    put(tmp_path, ["a.png", "b.png"])
    files = [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    parquet.write_table(pa.table({"image": files, "label": [0, 1]}), tmp_path / "x.parquet")
    assert load(tmp_path, manifest="x.parquet").train.ids.tolist() == ["a.png", "b.png"]
    parquet.write_table(pa.table({"image": [[1], [2]], "label": [0, 1]}), tmp_path / "x.parquet")
    assert 'column "image" is list<' in error_of(tmp_path, manifest="x.parquet")
    parquet.write_table(pa.table({"image": files, "label": [[0], [1]]}), tmp_path / "x.parquet")
    assert 'column "label" (label) holds no text or number' in error_of(tmp_path, manifest="x.parquet")


def test_images_of_a_table_have_a_limit(tmp_path, monkeypatch):
    """Protects memory from a small file that repeats one image by its dictionary."""
    monkeypatch.setattr(embedded, "MAX_BYTES", 100_000)
    cells = pa.array([bytes(1000) + b"\xff"] * 1000)
    parquet.write_table(pa.table({"image": cells, "label": [0, 1] * 500}), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 20_000
    assert "x.parquet: more than 0 GiB of images" in error_of(tmp_path, manifest="x.parquet")


def deep(path, values):
    """A grey image of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), values, np.uint16)).save(path)


@pytest.mark.parametrize("verify", [True, False])
def test_images_that_use_few_of_16_bits(tmp_path, verify):
    """Protects 12-bit images from being read as black: one scale for the whole set, by its largest value, and said."""
    for name, value in (("train/cat/0", 4095), ("train/dog/0", 1000), ("test/cat/0", 2000), ("test/dog/0", 0)):
        deep(tmp_path / f"{name}.png", value)
    source = load(tmp_path, verify=verify)
    assert levels(source.train) == [255, round(1000 * 255 / 4095)]
    assert levels(source.test) == [round(2000 * 255 / 4095), 0]
    rule = "3 images of 16 bits, the largest value 4095 (train/cat/0.png): v becomes 255 v / 4095"
    assert f"warning: {rule}, the 12 bits that they use" in source.notes
    deep(tmp_path / "test/dog/0.png", 65535)
    source = load(tmp_path, verify=verify)
    assert levels(source.train) == [16, 4] and any(
        note.startswith("warning: 4 images of 16 bits, the largest value 65535 (test/dog/0.png)")
        for note in source.notes
    )
    put(tmp_path / "plain", ["cat/0.png", "dog/0.png"])
    assert not any("16 bits" in note for note in load(tmp_path / "plain").notes)


def test_number_beyond_the_classes(tmp_path):
    """Protects from a label K where classes.txt has K classes, 0 to K - 1."""
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    fields = manifest(tmp_path, "path,label\na.png,0\nb.png,1\nc.png,2\n")
    assert "labels.csv row 3: label 2 is out of range, expected 0 to 1 (classes.txt)" in error_of(tmp_path, **fields)


def test_typing_error_against_classes_txt(tmp_path):
    """Protects from a class that a typing error makes, wherever it is, with the class that was meant."""
    (tmp_path / "classes.txt").write_text("cat\ndog\nbird\n")
    fields = manifest(tmp_path, "path,label,true_label\na.png,cat,\nb.png,dgo,\nc.png,dog,\n")
    message = 'labels.csv row 2: label "dgo" is not one of the 3 classes of classes.txt (did you mean "dog"?)'
    assert error_of(tmp_path, **fields) == f"{tmp_path}/{message}"
    fields = manifest(tmp_path, "path,label,true_label\na.png,cat,Cat\n")
    assert 'row 1: true_label "Cat" is not one of' in error_of(tmp_path, **fields)


def test_typing_error_by_rareness(tmp_path):
    """Protects from the same without classes.txt; a rare class unlike the others, or listed, is one."""
    message = 'row 15: label "dgo" is there only once (did you mean "dog"?); if it is a class, write classes.txt'
    assert message in error_of(tmp_path, **manifest(tmp_path, rows(dog=12, zebra=2, dgo=1)))
    assert '"Dog" is there only twice (did you mean "dog"?)' in error_of(
        tmp_path, **manifest(tmp_path, rows(dog=12, Dog=2))
    )
    assert load(tmp_path, **manifest(tmp_path, rows(dog=12, zebra=1))).class_names == ("dog", "zebra")
    assert load(tmp_path, **manifest(tmp_path, rows(dog=12, dgo=3))).class_names == ("dgo", "dog")
    assert load(tmp_path, **manifest(tmp_path, rows(dog=9, dgo=1))).class_names == ("dgo", "dog")
    (tmp_path / "classes.txt").write_text("dog\ndgo\n")
    assert load(tmp_path, **manifest(tmp_path, rows(dog=12, dgo=1))).class_names == ("dog", "dgo")


@pytest.mark.parametrize(
    ("text", "message"),
    [("cat\ndog\ncat\n", 'class "cat" is listed twice'), ("cat\n", "1 classes, expected 2 or more, one a line")],
)
def test_class_file_with_mistakes(tmp_path, text, message):
    """Protects label numbers from a list of classes that is not one."""
    (tmp_path / "classes.txt").write_text(text)
    assert message in error_of(tmp_path, **manifest(tmp_path, rows(cat=2)))


def test_missing_column(tmp_path):
    """Protects the answer to a manifest of another make: the columns found, the nearest."""
    fields = manifest(tmp_path, "path,lable\na.png,cat\n")
    said = error_of(tmp_path, **fields)
    assert 'labels.csv: no column "label" (or class, class_name, category), found path, lable' in said
    assert '(did you mean "lable"?)' in said
    fields = manifest(tmp_path, "picture,label\na.png,cat\n")
    said = error_of(tmp_path, **fields)
    assert 'no column "path" (or image, file, filename, file_name, filepath,' in said and "id, name), found pic" in said
    parquet.write_table(pa.table({"path": ["a.png"], "klass": [1]}), tmp_path / "x.parquet")
    assert "category), found path, klass" in error_of(tmp_path, manifest="x.parquet")
    fields = manifest(tmp_path, "path,label,label\na.png,cat,dog\n")
    assert '2 columns "label", expected one' in error_of(tmp_path, **fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("path,label\n", "no rows"),
        ("path,label\na.png,cat\nb.png\n", "line 3: 1 fields, expected 2 as in the header"),
        ('path,label\na.png,"cat\n', "cannot be read (unexpected end of data)"),
        ("path,label\na.png,ca\xfft\n", " is not utf-8 text, expected UTF-8"),
        ("path,label\n,cat\n", "row 1: the path is empty"),
        ("path,label,split\na.png,cat,tran\n", 'row 1: split "tran" is not one of train, noisy, trusted'),
        ("path,label,trusted\na.png,cat,maybe\n", 'row 1: trusted "maybe" is not one of true, 1, yes, false, 0, no'),
        ("path,label,trusted,split\na.png,cat,1,test\n", 'row 1: trusted "1" contradicts split "test"'),
        ("path,label,trusted,split\na.png,cat,no,trusted\n", 'row 1: trusted "no" contradicts split "trusted"'),
        ("path,label\na.png,cat\nb.png,cat\n", 'the single class "cat", expected 2 classes or more'),
        ("path,label,split\na.png,cat,\nb.png,dog,test\n", 'class "dog" of the test images is missing from training'),
        ("path,label\na.png,cat\nb.png,dog\n./a.png,dog\n", 'row 3: "./a.png" is also in row 1'),
        ("path,label,true_label\na.png,,cat\nb.png,dog,\n", "row 1: the label is empty"),
    ],
)
def test_manifests_with_mistakes(tmp_path, text, message):
    """Protects from a guess at what a row means: the row, the value, what is allowed."""
    put(tmp_path, ["a.png", "b.png"])
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    assert message in error_of(tmp_path, manifest="labels.csv")


def test_rows_below_blank_lines(tmp_path):
    """Protects who looks for a row in an editor: the line, too, where blank lines move it."""
    fields = manifest(tmp_path, "path,label,split\na.png,cat,\n\n\nb.png,dog,tran\n")
    assert 'row 2 (line 5): split "tran" is not' in error_of(tmp_path, **fields)


def test_manifest_that_is_none(tmp_path):
    """Protects from a traceback where the manifest is absent, a folder, or of another format."""
    assert f"{tmp_path}/x.csv: no such file" in error_of(tmp_path, manifest="x.csv")
    assert "ends in neither .csv nor .parquet" in error_of(tmp_path, manifest="x.json")
    (tmp_path / "x.parquet").write_text("PAR?")
    assert f"{tmp_path}/x.parquet: cannot be read (" in error_of(tmp_path, manifest="x.parquet")
    (tmp_path / "y.csv").mkdir()
    assert f"{tmp_path}/y.csv: cannot be read (Is a directory)" in error_of(tmp_path, manifest="y.csv")


@pytest.mark.parametrize("path", ["../secret.png", "link.png", "linked/secret.png", "/etc/hostname", ".", "a/../../x"])
def test_paths_out_of_the_folder(tmp_path, path):
    """Protects files elsewhere on the machine from a manifest of unknown origin, links followed."""
    put(tmp_path, ["set/a.png", "out/secret.png", "secret.png"])
    (tmp_path / "set/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "set/linked").symlink_to(tmp_path / "out")
    (tmp_path / "set/labels.csv").write_text(f"path,label\na.png,cat\n{path},dog\n")
    expected = f'labels.csv row 2: "{path}" is outside {tmp_path}/set, expected a file below it'
    assert expected in error_of(tmp_path / "set", manifest="labels.csv")


def test_absolute_paths_inside_the_folder(tmp_path):
    """Protects manifests with absolute paths: the ids are relative all the same."""
    put(tmp_path, ["x/a.png", "x/b.png"])
    (tmp_path / "labels.csv").write_text(f"path,label\n{tmp_path}/x/b.png,cat\nx/a.png,dog\n")
    assert load(tmp_path, manifest="labels.csv").train.ids.tolist() == ["x/a.png", "x/b.png"]


def test_missing_file_is_a_bad_image(tmp_path):
    """Protects the message and the choice for a manifest that names more than there is."""
    fields = manifest(tmp_path, rows(cat=3, dog=3))
    (tmp_path / "dog1.png").unlink()
    assert f"{tmp_path}/dog1.png: no such file; `python" in error_of(tmp_path, **fields)
    source = load(tmp_path, on_bad_image="skip", **fields)
    assert source.skipped == (("dog1.png", "no such file"),) and len(source.train.ids) == 5


def test_trusted_file_adds_to_the_rest(tmp_path):
    """Protects a list of checked images beside the column: both are trusted, with their label as the truth alone."""
    fields = manifest(tmp_path, "path,label,trusted,true_label\na.png,cat,1,\nb.png,dog,,\nc.png,dog,,\nd.png,,,cat\n")
    (tmp_path / "checked.txt").write_text("./c.png\n\nd.png\n")
    source = load(tmp_path, trusted_file="checked.txt", **fields)
    assert source.trusted.tolist() == [0, 2, 3] and source.train.truth.tolist() == [0, -1, 1, 0]
    assert source.train.labels.tolist() == [-1, 1, -1, -1]


def test_trusted_file_with_mistakes(tmp_path):
    """Protects from trust in nothing: an unknown id with its line and what was meant, a test image, no file."""
    put(tmp_path, ["train/cat/0.png", "train/dog/1.png", "test/cat/2.png"])
    listed = tmp_path / "checked.txt"
    assert f"{listed}: no such file" in error_of(tmp_path, trusted_file="checked.txt")
    listed.write_text("train/cat/0.png\ntrain/cat/1.png\n")
    message = f'line 2: "train/cat/1.png" is not an image of {tmp_path} (did you mean "train/dog/1.png"?)'
    assert error_of(tmp_path, trusted_file="checked.txt") == f"{listed} {message}"
    listed.write_text("test/cat/2.png\n")
    assert 'line 1: "test/cat/2.png" is a test image, expected' in error_of(tmp_path, trusted_file=str(listed))
    listed.write_bytes(b"\xff\n")
    assert f"{listed}: byte 0 is not UTF-8 text" in error_of(tmp_path, trusted_file="checked.txt")
    listed.write_text("train/dog/1.png\n")
    assert load(tmp_path, trusted_file="checked.txt").trusted.tolist() == [1]


NAMED = {"image_id": "0017 0018 0019", "id": "0017.png 0018.png 0019.png", "path": "0017 0018.png train/0019"}


@pytest.mark.parametrize("column", NAMED)
def test_images_named_by_less_than_their_path(tmp_path, column):
    """Protects who has a table of names beside a folder of images, as competitions hand them out: each is the one image
    of that name, and it is said how they were found."""
    names = NAMED[column].split()
    for name in ("0017", "0018", "0019"):
        put(tmp_path, [f"train/{name}.png"])
    rows = "".join(f"{name},{'ab'[row % 2]}\n" for row, name in enumerate(names))
    (tmp_path / "m.csv").write_text(f"{column},label\n{rows}")
    source = load(tmp_path, manifest="m.csv")
    assert source.train.ids.tolist() == [f"train/{name}.png" for name in ("0017", "0018", "0019")]
    assert source.train.labels.tolist() == [0, 1, 0]
    assert any(
        f'column "{column}" has names of images: "{names[0]}" is train/0017.png' in note for note in source.notes
    )
    put(tmp_path, ["train/@eaDir/0018.png", ".thumbs/0018.png"])  # what a NAS leaves is no image
    assert load(tmp_path, manifest="m.csv").train.ids.tolist() == source.train.ids.tolist()
    put(tmp_path, ["more/0018.png"])
    assert 'm.csv row 2: "0018' in (said := error_of(tmp_path, manifest="m.csv"))
    assert "may be more/0018.png or train/0018.png, expected a path" in said


def test_a_column_that_names_no_images(tmp_path):
    """Protects from numbers of rows taken for images, and from names that only some rows have."""
    put(tmp_path, ["a.png"])
    (tmp_path / "m.csv").write_text("id,label\n1,a\n2,b\n")
    assert '"id" names no image below' in (said := error_of(tmp_path, manifest="m.csv"))
    assert "data.path_column=<name> reads another" in said
    (tmp_path / "m.csv").write_text("id,label\na,a\nb,b\n")
    assert "b: no such file" in error_of(tmp_path, manifest="m.csv")


def test_a_table_without_a_line_of_names(tmp_path):
    """Protects the first image of such a table: it is a row, not the names of columns."""
    for name in "abc":
        put(tmp_path, [f"{name}.png"])
    (tmp_path / "m.csv").write_text("a.png,x\nb.png,y\nc.png,x\n")
    source = load(tmp_path, manifest="m.csv")
    assert source.train.ids.tolist() == ["a.png", "b.png", "c.png"] and source.train.labels.tolist() == [0, 1, 0]
    assert any("has no line of names: read as path and label" in note for note in source.notes)
    (tmp_path / "m.csv").write_text("a.png,x\nb.png\n")
    assert "m.csv line 2: 1 fields, expected 2" in error_of(tmp_path, manifest="m.csv")
    (tmp_path / "m.csv").write_text("a.png,x,y\n")
    assert 'the first line is "a.png, x, y", expected the names of the columns' in error_of(tmp_path, manifest="m.csv")
