"""Runs on a person's own data from end to end: what is unknown stays unknown, and both pipelines agree."""

import csv
import json

import numpy as np
import photos
import pytest

from kdmlc_jax import closing, train
from kdmlc_jax import config as config_lib
from kdmlc_jax.compare.table import aggregate, markdown
from kdmlc_jax.data import provenance
from kdmlc_jax.data.prepare import prepare

FIELDS = {"devices": "1", "train.batch_size": "12", "train.trusted_batch_size": "12", "baselines": "()"}
TIMING = {"seconds", "images_per_second"}
SCORES = ("last", "last5", "best_val", "best_test")


def tiny(folder, arguments="", **fields):
    """The shortest run that configs/folder.py makes of a folder; __ stands for a dot."""
    fields = FIELDS | {name.replace("__", "."): value for name, value in fields.items()}
    return config_lib.load(
        f"configs/folder.py:dir={folder},method=ce,teacher=mlp4,student=mlp4,epochs=2,{arguments}", fields
    )


def table(workdir, name="labels.csv"):
    """The rows of a table that a run has written."""
    with open(workdir / name, newline="") as file:
        return list(csv.DictReader(file))


def untimed(summary):
    return {name: value for name, value in summary.items() if name not in (*TIMING, "config")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """45 noisy and 15 trusted images, and no test images."""
    return photos.make(tmp_path_factory.mktemp("data") / "photos", train=45, trusted=15)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A tiny run without test images: its config, its workdir and its summary."""
    config, workdir = tiny(folder), tmp_path_factory.mktemp("run") / "work"
    return config, workdir, train.run(config, workdir, quiet=True)


def test_what_is_unknown_is_null(finished):
    """Protects honesty: no accuracy without test images, no share of right labels without true ones."""
    _, workdir, summary = finished
    assert summary == json.loads((workdir / "summary.json").read_text())
    assert summary["dataset"] == "photos" and summary["noise"]["realised"] is None
    for network in summary["networks"].values():
        assert all(network[name] is None for name in SCORES) and network["parameters"] > 0
    labels = summary["labels"]
    assert set(labels) > {"accuracy_before", "accuracy_after", "f1", "auroc", "flagged"}
    assert [name for name, value in labels.items() if value is not None] == ["flagged"]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) >= 2 and not any(name.endswith("_test") for row in rows for name in row)
    for row in rows:
        assert 0 <= row["student_validation_given"] <= 1 and row["student_validation_true"] is None


def test_label_table_names_files(finished, folder):
    """Protects the way back to the images: each id is a path below the folder, each role as the folders say."""
    _, workdir, summary = finished
    rows = table(workdir)
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert {row["id"] for row in rows} == paths and len(rows) == 60
    for row in rows:
        assert (row["split"] in ("trusted", "held_out")) == row["id"].startswith("trusted/")
        assert photos.CLASSES[int(row["given_label"])] == row["id"].split("/")[1]
        assert not row["id"].startswith("trusted/") or row["corrected_label"] == row["given_label"]
    assert [row["split"] for row in rows].count("validation") == 6
    flagged = [row["is_label_issue"] for row in rows if row["split"] == "noisy"].count("true")
    assert summary["labels"]["flagged"] == flagged


def test_noise_file_gives_the_run_again(finished):
    """Protects noise.npz without true labels: it loads, its rate unknown, and another run can take its splits."""
    config, workdir, _ = finished
    kept, dataset = provenance.load(workdir / "noise.npz"), prepare(config)
    assert kept.realised_rate is None and kept.realised_matrix is None
    np.testing.assert_array_equal(kept.given_labels, dataset.given_label)
    other = config.copy_and_resolve_references()
    other.seed, other.data.splits = 1, str(workdir / "noise.npz")
    for mine, same, again in zip(kept.splits, dataset.splits, prepare(other).splits, strict=True):
        np.testing.assert_array_equal(mine, same)
        np.testing.assert_array_equal(mine, again)
    assert not (workdir / "bad_images.csv").exists()


def test_closing_lines_say_what_is_known(finished):
    """Protects the end of a person's first run: without test images and true labels, validation and flags remain."""
    _, workdir, summary = finished
    text = closing.report([summary | {"label": "mine"}], workdir)
    (line,) = (line for line in text.splitlines() if line.strip().startswith("mine"))
    known = [f"{network['validation_given']:.3f}" for network in summary["networks"].values()]
    assert line.split()[1:] == known and "agreement with the given labels of validation images" in text
    assert f"{summary['labels']['flagged']} labels are flagged" in text and "Verdict: " in text
    assert "Labels right" not in text and "Noise rate: – realised" in text
    assert "| –" in markdown(aggregate([summary | {"label": "", "config": "photos", "folder": "."}]))


def numbers(value):
    """Every number in nested dicts and lists, in order; None as NaN."""
    if isinstance(value, dict | list):
        children = value.values() if isinstance(value, dict) else value
        return [number for child in children for number in numbers(child)]
    return [] if isinstance(value, str) else [np.nan if value is None else float(value)]


@pytest.mark.parametrize("fields", [{"data__pipeline": "stream"}, {"data__resident_mb": "0.001"}])
def test_pipelines_agree(finished, folder, tmp_path, fields):
    """Protects results from where images lie: the same labels and figures from the device, memory and files."""
    _, workdir, summary = finished
    again = train.run(tiny(folder, **fields), tmp_path / "work", quiet=True)
    np.testing.assert_allclose(numbers(untimed(again)), numbers(untimed(summary)), rtol=1e-4, atol=1e-6)
    assert (tmp_path / "work/noise.npz").read_bytes() == (workdir / "noise.npz").read_bytes()
    for mine, theirs in zip(table(tmp_path / "work"), table(workdir), strict=True):
        assert {name: mine[name] for name in ("id", "corrected_label")} == {
            name: theirs[name] for name in ("id", "corrected_label")
        }
        assert float(mine["p_given"]) == pytest.approx(float(theirs["p_given"]), abs=1e-5)


def test_test_images_and_unreadable_ones(tmp_path, capsys):
    """Protects the other kind of folder: test accuracies are there, and a broken image is left out, listed and told."""
    folder = photos.make(tmp_path / "photos", train=45, trusted=15, test=9)
    photos.truncate(folder / "train/dog/01.png")
    config = tiny(folder, data__on_bad_image="skip", data__resident_mb="0.001")
    summary = train.run(config, tmp_path / "work")
    for network in summary["networks"].values():
        assert all(0 <= network[name] <= 1 for name in SCORES)
    (bad,) = table(tmp_path / "work", "bad_images.csv")
    assert bad["image"] == "train/dog/01.png" and bad["reason"].startswith("damaged file")
    ids = [row["id"] for row in table(tmp_path / "work")]
    assert bad["image"] not in ids and len(ids) == 59
    said = capsys.readouterr().err
    assert "1 bad images left out, first train/dog/01.png" in said and "test: " in said


def test_features(tmp_path):
    """Protects learning from embeddings: a run on vectors ends, with test figures and the names of ids.txt."""
    rng = np.random.default_rng(0)
    label = np.arange(70) % 3
    features = (rng.normal(size=(70, 5)) + 3 * np.eye(5)[label]).astype(np.float32)
    truth = np.where(np.arange(60) < 30, label[:60], -1)
    given = np.where(np.arange(60) % 7 == 0, (label[:60] + 1) % 3, label[:60])
    arrays = {"features": features[:60], "labels": given, "true_labels": truth, "trusted": np.arange(15)}
    arrays |= {"test_features": features[60:], "test_labels": label[60:]}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "ids.txt").write_text("".join(f"vector {row}\n" for row in range(60)))
    summary = train.run(
        tiny(tmp_path, "source=features", augment__pad="0", augment__flip="false"), tmp_path / "work", quiet=True
    )
    assert all(0 <= network["last"] <= 1 for network in summary["networks"].values())
    splits = provenance.load(tmp_path / "work/noise.npz").splits
    known = splits.noisy[truth[splits.noisy] >= 0]
    assert summary["labels"]["accuracy_before"] == pytest.approx(np.mean(given[known] == truth[known]))
    assert summary["noise"]["realised"] == pytest.approx(np.mean(given[known] != truth[known]))
    assert {row["id"] for row in table(tmp_path / "work")} == {f"vector {row}" for row in range(60)}
