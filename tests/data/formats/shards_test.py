"""Tables in several files: all shards of a set together, splits by their names, one line for what is missing."""

import io
import json
from functools import partial

import loading
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

load, error_of = partial(loading.load, "folder"), partial(loading.error_of, "folder")


def png(level):
    """The bytes of a grey image of one level."""
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def shard(path, levels, names=("cat", "dog"), **columns):
    """A file as `datasets` writes it: grey images whose label is their level's parity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(level), "path": f"{row}.png"} for row, level in enumerate(levels)]
    table = pa.table({"image": images, "label": [level % 2 for level in levels]} | columns)
    about = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path)


def levels(part):
    return sorted(part.images[:][:, 0, 0, 0].tolist())


LAYOUTS = {
    "hub": ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/validation-00000-of-00001", "data/test"),
    "converted": ("default/train/0000", "default/train/0001", "default/validation/0000", "default/test/0000"),
    "plain": ("train-00000-of-00002", "train-00001-of-00002", "val", "test"),
    "prefixed": ("x-train-00000-of-00002", "x-train-00001-of-00002", "x-valid", "x-test"),
    "folders": ("train/part-00000-c000.snappy", "train/part-00001-c000.snappy", "dev/part-0", "test/part-0"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_are_one_set(tmp_path, layout):
    """Protects every usual way to name shards: all images, each under its label, in the split of its file."""
    contents = ([0, 1, 2], [3, 4], [5, 6], [7, 8])
    for name, inside in zip(LAYOUTS[layout], contents, strict=True):
        shard(tmp_path / f"{name}.parquet", inside)
    for where in (".", "data") if layout == "hub" else (".",):
        source = load(tmp_path, manifest=where)
        assert levels(source.train) == list(range(7)) and levels(source.test) == [7, 8]
        assert source.train.images[source.validation][:, 0, 0, 0].tolist() == [5, 6]
        assert (source.train.labels == source.train.images[:][:, 0, 0, 0] % 2).all()
        assert source.class_names == ("cat", "dog") and len({*source.train.ids}) == 7
        assert any("4 Parquet files read as one table: " in note and "2 of" in note for note in source.notes)
    if layout not in ("converted", "folders"):
        where = "data" if layout == "hub" else "."
        assert error_of(tmp_path).endswith(f"; there are Parquet files, which data.manifest={where} reads")


def test_patterns_and_single_shards(tmp_path):
    """Protects who names a part of the set: a pattern reads that part, one shard of several is warned of."""
    for number in range(3):
        shard(tmp_path / f"data/train-0000{number}-of-00003.parquet", [2 * number, 2 * number + 1])
    shard(tmp_path / "data/test-00000-of-00001.parquet", [7, 8])
    assert levels(load(tmp_path, manifest="data/train-*").train) == list(range(6))
    source = load(tmp_path, manifest="data/train-00001-of-00003.parquet")
    assert levels(source.train) == [2, 3]
    assert any(note.startswith("warning: train-00001-of-00003.parquet is one of 3 shards") for note in source.notes)


def test_shards_that_do_not_fit(tmp_path):
    """Protects from a part of a set taken for all of it, and from tables of several sets in one."""
    assert "no .parquet files" in error_of(tmp_path, manifest=".")
    shard(tmp_path / "train-00000-of-00003.parquet", [0, 1])
    shard(tmp_path / "train-00002-of-00003.parquet", [2, 3])
    message = error_of(tmp_path, manifest=".")
    assert message == f"{tmp_path}/train-00001-of-00003.parquet: no such file, expected all 3 shards"
    shard(tmp_path / "train-00001-of-00003.parquet", [4, 5], names=("cat", "owl"))
    assert "train-00001-of-00003.parquet: other class names than" in error_of(tmp_path, manifest=".")
    shard(tmp_path / "train-00001-of-00003.parquet", [4, 5], split=["train", "test"])
    message = error_of(tmp_path, manifest=".")
    assert message == f'{tmp_path}/train-00001-of-00003.parquet row 2: split "test" contradicts the name of the file'
    shard(tmp_path / "train-00001-of-00003.parquet", [4, 5])
    (tmp_path / "train-00001-of-00003.parquet").rename(tmp_path / "train-00001-of-00004.parquet")
    assert "expected all" in error_of(tmp_path, manifest=".")


@pytest.mark.parametrize("other", ["unlabeled", "extra", "holdout", "something"])
def test_names_that_say_it_partly(tmp_path, other):
    """Protects from a guess at what a file beside train and test is."""
    shard(tmp_path / "train.parquet", [0, 1])
    shard(tmp_path / f"{other}.parquet", [2, 3])
    message = error_of(tmp_path, manifest=".")
    assert message.startswith(f"{tmp_path}/{other}.parquet: does not say which split it is")


def test_several_configurations(tmp_path):
    """Protects from two sets in one folder read as one."""
    for name in ("one", "two"):
        shard(tmp_path / f"{name}/train-00000-of-00001.parquet", [0, 1])
    assert "are of several tables" in error_of(tmp_path, manifest=".")


def test_test_shards_without_labels(tmp_path):
    """Protects sets of the hub whose test labels are secret (-1): left out, and said."""
    shard(tmp_path / "train.parquet", [0, 1, 2, 3])
    shard(tmp_path / "test.parquet", [4, 5], label=[-1, -1])
    source = load(tmp_path, manifest=".")
    assert source.test is None and "warning: the 2 test images have no labels and are left out" in source.notes


def test_rows_are_named_by_their_file(tmp_path):
    """Protects who looks for a row: its file and its number there."""
    shard(tmp_path / "train-00000-of-00002.parquet", [0, 1, 2])
    shard(tmp_path / "train-00001-of-00002.parquet", [3, 4], label=["cat", "x"])
    shard(tmp_path / "train-00000-of-00002.parquet", [0, 1, 2], label=["cat", "dog", "dog"])
    message = error_of(tmp_path, manifest=".")
    assert message.startswith(f'{tmp_path}/train-00001-of-00002.parquet row 2: label "x" is not one of the 2 classes')


def test_shards_of_files(tmp_path):
    """Protects tables in pieces that name image files, with columns that only some have."""
    for level in range(4):
        Image.new("L", (4, 4), level).save(tmp_path / f"{level}.png")
    parquet.write_table(pa.table({"path": ["0.png", "1.png"], "label": [0, 1]}), tmp_path / "part-0.parquet")
    two = {"path": ["2.png", "3.png"], "label": [0, 1], "trusted": [True, False], "x": [1, 2]}
    parquet.write_table(pa.table(two), tmp_path / "part-1.parquet")
    source = load(tmp_path, manifest=".")
    assert levels(source.train) == [0, 1, 2, 3] and source.trusted.tolist() == [2]
    np.testing.assert_array_equal(source.train.labels, [0, 1, -1, 1])
