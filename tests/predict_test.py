"""Classifying new images with what a run has left."""

import csv
import re

import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest
from PIL import Image

from kdmlc_jax import config as config_lib
from kdmlc_jax import export, nets, optim, predict, train_state
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import networks

CLASSES = photos.CLASSES


def network(folder, shape=(8, 8, 1), **about):
    """An untrained network of three classes in `folder`."""
    net = train_state.create(
        jax.random.key(0), nets.build("mlp4", 3), optim.build(config_lib.base().optim, 1), jnp.zeros((2, *shape))
    )
    whole = {"net": "mlp4", "class_names": list(CLASSES), "image_shape": list(shape), "mean": [0.3], "std": [0.2]}
    networks.save(folder, net, whole | {"values": "uint8", "resize": "centre_square"} | about)
    return folder


def read(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_folders_files_and_manifests_in_their_order(tmp_path, capsys):
    """Protects what is asked: each image once in order, probabilities those of the loaded network, batches of any size
    alike; other sizes and channels are brought to the network's; a bad file has a row with the reason."""
    model = network(tmp_path / "student")
    photos.make(tmp_path / "new", test=7)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "large.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "list.csv").write_text("path\nlarge.png\n")
    inputs = [str(tmp_path / name) for name in ("new", "bad.png", "large.png", "list.csv")]
    tables = []
    for batch in ("3", "64"):
        out = tmp_path / f"{batch}.csv"
        predict.main(["--model", str(model), *inputs, "--out", str(out), "--top", "3", "--batch", batch])
        tables.append(read(out))
    assert "9 images, 1 could not be read" in capsys.readouterr().err
    rows = tables[0]
    files = sorted((tmp_path / "new").rglob("*.png"))
    assert [row["path"] for row in rows] == [*map(str, files), *inputs[1:3], inputs[2]]
    want = export.load(model)(np.stack([np.asarray(Image.open(path))[..., None] for path in files]))
    for row, beliefs in zip(rows, want, strict=False):
        order = np.argsort(-beliefs)
        assert [row["label"], row["label_2"], row["label_3"]] == [CLASSES[number] for number in order]
        assert float(row["confidence"]) == pytest.approx(beliefs[order[0]], rel=1e-4)
    assert "no image" in rows[7]["error"] or rows[7]["error"]
    assert rows[7]["label"] == "" and rows[8]["label"] != "" and rows[8]["error"] == ""
    for one, other in zip(*tables, strict=True):
        assert one["label"] == other["label"] and one["path"] == other["path"]


def test_below_the_threshold_there_is_no_label(tmp_path, capsys):
    """Protects from guesses: the label is left out, its confidence stays."""
    photos.make(tmp_path / "new", test=2)
    predict.main(["--model", str(network(tmp_path / "m")), str(tmp_path / "new"), "--threshold", "1"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 2 and all(row["label"] == "" and 0.3 < float(row["confidence"]) < 1 for row in rows)


def test_features_are_classified(tmp_path):
    """Protects networks on vectors: rows of an array, by number."""
    model = network(tmp_path / "m", (1, 1, 5), values="features", resize="none", mean=[0.0] * 5, std=[1.0] * 5)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "f.npy", features := rng.normal(size=(6, 5)).astype(np.float32))
    predict.main(["--model", str(model), str(tmp_path / "f.npy"), "--out", str(tmp_path / "o.csv"), "--batch", "4"])
    rows, want = read(tmp_path / "o.csv"), export.load(model)(features)
    assert [row["path"] for row in rows] == [f"{tmp_path / 'f.npy'}[{row}]" for row in range(6)]
    assert [row["label"] for row in rows] == [CLASSES[number] for number in want.argmax(axis=1)]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["{there}", "--top", "4"], "--top: 4 is outside [1, 3]"),
        (["{there}/none"], "none: no such file or folder"),
        (["{there}/empty"], "empty: no images in this folder"),
        (["{there}", "--threshold", "1.5"], "--threshold: 1.5 is outside [0, 1]"),
    ],
)
def test_what_cannot_be_asked(tmp_path, flags, says):
    """Protects from nonsense, before anything is written."""
    model = network(tmp_path / "m")
    photos.make(tmp_path / "new", test=2)
    (tmp_path / "new" / "empty").mkdir()
    with pytest.raises(UserError, match=re.escape(says)):
        predict.main(
            ["--model", str(model), *(flag.format(there=tmp_path / "new") for flag in flags), "--out", "x.csv"]
        )
