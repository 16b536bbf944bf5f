"""Labels as other tools read them, written by `apply --to`."""

import csv
import json
from urllib.parse import unquote

import corrected
import numpy as np
import photos
import pyarrow.parquet as parquet
import pytest

from kdmlc_jax import apply
from kdmlc_jax import config as config_lib
from kdmlc_jax.data import sources
from kdmlc_jax.errors import UserError
from kdmlc_jax.handover import fiftyone, huggingface, labelstudio
from kdmlc_jax.handover.base import Row


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """See `corrected.make`: its folder, what lies above it, and the given class of each id."""
    folder = tmp_path_factory.mktemp("run")
    workdir, ids, given = corrected.make(folder)
    return workdir, folder, dict(zip(ids, (photos.CLASSES[label] for label in given), strict=True)), ids


def written(run, tmp_path, tool, name):
    apply.main(["--workdir", str(run[0]), "--to", tool, "--out", str(tmp_path / name)])
    return tmp_path / name


def test_label_studio(run, tmp_path):
    """Protects an import: a task an image, its file there, the suggestion as a prediction, worst first."""
    _, folder, given, ids = run
    tasks = json.loads(written(run, tmp_path, "labelstudio", "tasks.json").read_text())
    assert len(tasks) == len(given) + 6 and [task["data"]["id"] for task in tasks[:2]] == ids[:2]
    place = tasks[0]["data"]["image"].removeprefix("/data/local-files/?d=")
    assert f"/{unquote(place)}" == str((folder / "photos").resolve() / ids[0])
    made = tasks[0]["predictions"][0]
    other = photos.CLASSES[(photos.CLASSES.index(given[ids[0]]) + 1) % 3]
    choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [other]}}
    assert made["result"] == [choice] and made["score"] == pytest.approx(0.97)
    assert tasks[0]["data"]["given_label"] == given[ids[0]] and tasks[0]["data"]["label"] == other
    tests = [task for task in tasks if task["data"]["split"] == "test"]
    assert len(tests) == 6 and not any("predictions" in task for task in tests)


def test_fiftyone(run, tmp_path):
    """Protects an import: a row an image with its absolute path, split and trust, what the run says beside; no
    column has the name of a field that FiftyOne's samples have of another type than text."""
    _, folder, given, ids = run
    with open(written(run, tmp_path, "fiftyone", "labels.csv")) as file:
        rows = {row["filepath"]: row for row in csv.DictReader(file)}
    assert tuple(next(iter(rows.values()))) == fiftyone.HEADER and len(rows) == len(given) + 6
    row = rows[str((folder / "photos").resolve() / ids[1])]
    assert (row["given_label"], row["is_label_issue"], row["source"]) == (given[ids[1]], "True", "given")
    assert float(row["confidence"]) == pytest.approx(0.96) and row["suggested_label"] != row["label"]
    assert not {"id", "tags", "metadata", "created_at", "last_modified_at"} & row.keys()
    found = {(row["split"], row["trusted"]) for row in rows.values()}
    assert found == {("test", "False"), ("train", "False"), ("train", "True")}


def test_hugging_face(run, tmp_path):
    """Protects the file: ClassLabels and an Image by `datasets`' own metadata, images to the byte, and it is a manifest
    here, with the same splits, labels and pixels."""
    _, folder, given, ids = run
    path = written(run, tmp_path, "huggingface", "clean.parquet")
    table = parquet.read_table(path)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}
    assert features["image"] == {"_type": "Image"} and list(features) == table.column_names
    row = table.column("id").to_pylist().index(ids[0])
    assert table.column("image")[row].as_py()["bytes"] == (folder / "photos" / ids[0]).read_bytes()
    assert table.column("given_label")[row].as_py() == photos.CLASSES.index(given[ids[0]])
    assert table.column("suggested_label").to_pylist().count(-1) == 6
    data = config_lib.load(f"configs/folder.py:dir={tmp_path},manifest=clean.parquet").data
    source = sources.load(data)
    assert source.class_names == photos.CLASSES and len(source.test.labels) == 6 and len(source.trusted) == 6
    before = sources.load(config_lib.load(f"configs/folder.py:dir={folder / 'photos'}").data)
    at = {name.rpartition("clean.parquet/")[2]: row for row, name in enumerate(source.train.ids)}
    assert at.keys() == set(before.train.ids)
    order = np.array([at[name] for name in before.train.ids])
    assert (source.train.images[order] == before.train.images[np.arange(len(order))]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--to", "labelstudo", "--out", "x.json"],
            'to: "labelstudo" is not one of fiftyone, huggingface, labelstudio',
        ),
        (["--to", "huggingface", "--out", "x.csv"], "expected a name that ends in .parquet, as huggingface reads it"),
    ],
)
def test_what_is_refused(run, words, message):
    """Protects from a file that its tool would not read."""
    with pytest.raises(UserError, match=message):
        apply.main(["--workdir", str(run[0]), *words])


def test_images_without_files(tmp_path):
    """Protects from tasks that show nothing; Parquet leaves the column of images out."""
    rows = [Row("7", None, "a", "train", False, "b", "corrected", "a", 0.9, 0.05, 0.05, True)]
    for tool in (labelstudio, fiftyone):
        with pytest.raises(UserError, match="7 is in no file of its own"):
            tool.write(rows, ["a", "b"], tmp_path / "x")
    huggingface.write(rows, ["a", "b"], tmp_path / "x.parquet")
    assert not (tmp_path / "x").exists()
    assert "image" not in parquet.read_table(tmp_path / "x.parquet").column_names


def test_a_hostile_name_is_text(tmp_path):
    """Protects spreadsheets: a name that begins like a formula is guarded, as in every table here."""
    rows = [Row("=1", tmp_path / "x.png", "=1+1", "train", False, "b", "given")]
    fiftyone.write(rows, ["=1+1", "b"], tmp_path / "x.csv")
    assert ",'=1+1," in (tmp_path / "x.csv").read_text()
