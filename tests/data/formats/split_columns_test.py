"""Manifests whose rows say in their own way which split they are of, and lists without a header."""

from functools import partial

import loading
import pytest
from PIL import Image

load, error_of = partial(loading.load, "folder"), partial(loading.error_of, "folder")


def put(folder, paths, name, text):
    """A manifest and images of the levels 0, 1, …; returns the field that names it."""
    for level, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), level).save(folder / path)
    (folder / name).write_text(text)
    return {"manifest": name}


PATHS = ("train/n01/a.JPEG", "train/n02/b.JPEG", "val/n01/c.JPEG", "val/n02/d.JPEG")


def test_imagenettes_table(tmp_path):
    """Protects noisy_imagenette.csv: the column of labels must be named, is_valid is the split as the folders say."""
    lines = [f"{path},{path[-11:-7]},x{row % 2},{'val/' in path}" for row, path in enumerate(PATHS)]
    text = "\n".join(["path,noisy_labels_0,noisy_labels_5,is_valid", *lines])
    fields = put(tmp_path, PATHS, "noisy_imagenette.csv", text)
    assert "noisy_labels_5, is_valid" in (message := error_of(tmp_path, **fields))
    assert message.endswith("data.label_column=<name> reads another")
    source = load(tmp_path, **fields, label_column="noisy_labels_5")
    assert source.train.labels.tolist() == [0, 1, 0, 1] and source.validation.tolist() == [2, 3]
    assert 'data.manifest: column "is_valid" is read as the split, as the folders say, too' in source.notes
    fields = put(
        tmp_path,
        PATHS,
        "noisy_imagenette.csv",
        text.replace("val/n01/c.JPEG,/n01,x0,True", "val/n01/c.JPEG,/n01,x0,False"),
    )
    assert 'column "is_valid" ("False", "True") looks like a split' in error_of(
        tmp_path, **fields, label_column="noisy_labels_5"
    )


@pytest.mark.parametrize("top", ["", "imagenette/", "./data/x/"])
def test_paths_in_folders_of_splits(tmp_path, top):
    """Protects test images from being learnt from where only their folder says what they are."""
    fields = put(tmp_path, PATHS, "labels.csv", "path,label\n" + "".join(f"{top}{p},{p[-8]}\n" for p in PATHS))
    message = error_of(tmp_path, **fields)
    assert "paths lie in train/, val/, and no column says" in message and "data.split_column=path reads" in message
    put(tmp_path, [f"{top}{path}" for path in PATHS], "x.csv", "")
    assert load(tmp_path, **fields, split_column="path").validation.tolist() == [2, 3]
    assert load(tmp_path, **fields, split_column="none").validation is None


def test_folders_that_are_no_splits(tmp_path):
    """Protects paths by class, even of a class of such a name."""
    paths = ("test/a.png", "cat/b.png", "dog/c.png")
    fields = put(tmp_path, paths, "labels.csv", "path,label\n" + "".join(f"{p},{p[:3]}\n" for p in paths))
    assert len(load(tmp_path, **fields).train.labels) == 3


@pytest.mark.parametrize("between", [" ", "\t", ",", ", ", "  "])
@pytest.mark.parametrize("name", ["list.txt", "LIST.LST"])
def test_lists_of_path_and_label(tmp_path, between, name):
    """Protects `images/a b.jpg 3` lists as manifests: names with blanks, any sign between."""
    paths = ("images/a b.png", "images/c.png", "images/d.png")
    labels = ("black cat", "dog", "dog")
    text = "".join(f"{path}{between}{label}\r\n" for path, label in zip(paths, labels, strict=True))
    source = load(tmp_path, **put(tmp_path, paths, name, text))
    assert source.train.ids.tolist() == list(paths)
    assert [source.class_names[label] for label in source.train.labels] == list(labels)


def test_lists_with_a_header(tmp_path):
    """Protects tables that are only named like lists, as spreadsheets save text."""
    fields = put(tmp_path, ["a.png", "b.png"], "x.txt", "label\tpath\nx\ta.png\ny\tb.png\n")
    assert load(tmp_path, **fields).class_names == ("x", "y")
    fields = put(tmp_path, ["a.png", "b.png"], "x.tsv", "label\tpath\nx\ta.png\ny\tb.png\n")
    assert load(tmp_path, **fields).class_names == ("x", "y")


@pytest.mark.parametrize(
    "column, cells", [("istest", "01"), ("isTrain", "10"), ("stage", ("tr", "te")), ("x", ("TR", "va"))]
)
def test_glued_and_short_names(tmp_path, column, cells):
    """Protects test images from being learnt from where a column says so in one word, or by two letters."""
    paths = [f"{row}.png" for row in range(8)]
    lines = [f"{path},c{row % 2},{cells[row // 4]}" for row, path in enumerate(paths)]
    fields = put(tmp_path, paths, "m.csv", "\n".join([f"path,label,{column}", *lines]))
    assert f'column "{column.lower()}"' in (message := error_of(tmp_path, **fields)) and "looks like a split" in message


def test_glued_flags_are_read(tmp_path):
    """Protects the meaning of `istest` once it is named."""
    paths = [f"{row}.png" for row in range(8)]
    text = "path,label,istest\n" + "".join(f"{path},c{row % 2},{row // 4}\n" for row, path in enumerate(paths))
    source = load(tmp_path, **put(tmp_path, paths, "m.csv", text), split_column="istest")
    assert len(source.train.labels) == len(source.test.labels) == 4
