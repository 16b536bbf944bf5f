"""A run's labels are judged by trusted images that were held out of it, and the table says what is vouched for."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from pyarrow import parquet

from kdmlc_jax import assess, export, train
from kdmlc_jax import config as config_lib
from kdmlc_jax.data import provenance
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.experiment import Experiment

CE = "method=ce,train_on=noisy,teacher=mlp8,student=mlp8"
HELD = "data.held_out"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a fifth of its trusted images held out: its config, workdir, summary, table as columns."""
    config, workdir = tiny.config(f"{CE},noisy=600", {HELD: 0.2}), tmp_path_factory.mktemp("run") / "work"
    summary = train.run(config, workdir, quiet=True)
    table = parquet.read_table(workdir / "labels.parquet")
    return config, workdir, summary, {name: np.array(values) for name, values in table.to_pydict().items()}


def test_the_table_says_what_is_vouched_for(finished):
    """Protects the table: corrected labels are right more often than given ones, a change is one that is believed,
    confidence is that of the label that stands, and it is true."""
    config, workdir, summary, column = finished
    noisy, labels = column["split"] == "noisy", summary["labels"]
    changed = column["corrected_label"] != column["given_label"]
    assert labels["accuracy_after"] > labels["accuracy_before"] + 0.1
    assert labels["accuracy_after"] > labels["accuracy_method"]
    np.testing.assert_array_equal(column["corrected_label"][changed], column["suggested_label"][changed])
    assert (changed == (column["decision"] == "correct"))[column["decision"] == "correct"].all()
    soft = np.load(workdir / "soft_labels.npy")
    rows = np.arange(len(soft))
    np.testing.assert_allclose(column["confidence"], soft[rows, column["corrected_label"]], rtol=1e-5)
    truth = prepare(config).truth[column["id"]]
    right = (column["corrected_label"] == truth)[noisy]
    assert right.mean() == pytest.approx(labels["accuracy_after"])
    assert column["confidence"][noisy].mean() == pytest.approx(right.mean(), abs=0.08)
    assert labels["ece"] < 0.12


def test_held_out_images_keep_their_labels(finished):
    """Protects checked labels: trusted and held-out images are in the table, right, sure, and nothing is asked of
    them."""
    _, _, summary, column = finished
    held = np.isin(column["split"], ["trusted", "held_out"])
    assert (column["split"] == "held_out").sum() == summary["data"]["held_out"] == 20 and held.sum() == 100
    np.testing.assert_array_equal(column["corrected_label"][held], column["given_label"][held])
    assert (column["confidence"][held] == 1).all() and (column["decision"][held] == "keep").all()


def test_the_verdict_is_in_the_summary(finished):
    """Protects summary.json: the verdict counts what is in the table, its rate has an interval, T̂ has rows."""
    _, workdir, summary, column = finished
    verdict, noise = summary["verdict"], summary["noise"]
    assert json.loads((workdir / "summary.json").read_text())["verdict"] == verdict
    assert verdict["assessed"] and verdict["rows"] == np.isin(column["split"], ["noisy", "validation"]).sum()
    assert verdict["corrections"] == (column["decision"] == "correct").sum()
    assert verdict["trained_on"] == (column["corrected_label"] != column["given_label"]).sum()
    low, high = noise["interval"]
    assert low < noise["estimated"] < high and low < noise["realised"] < high
    np.testing.assert_allclose(np.sum(noise["transition"], axis=1), 1.0)


@pytest.mark.parametrize(
    ("arguments", "held_out", "why"),
    [("trusted=0", 0.2, "no trusted labels"), ("trusted=100", 0.0, "data.held_out is 0")],
)
def test_what_nothing_vouches_for_stands_as_given(arguments, held_out, why, tmp_path):
    """Protects labels that nobody can judge: the given ones stand, the method's belief is a suggestion, and the verdict
    says that it is not assessed."""
    config = tiny.config(f"{CE},epochs=1,{arguments}", {HELD: held_out})
    summary = train.run(config, tmp_path, quiet=True)
    table = parquet.read_table(tmp_path / "labels.parquet").to_pydict()
    assert table["corrected_label"] == table["given_label"] != table["suggested_label"]
    assert not summary["verdict"]["assessed"] and why in summary["verdict"]["text"]
    assert set(table["decision"]) <= {"keep", "review"}
    assert summary["labels"]["accuracy_after"] == summary["labels"]["accuracy_before"]
    assert summary["labels"]["accuracy_suggested"] == summary["labels"]["accuracy_method"]
    assert summary["noise"]["interval"] is None


def experiment(arguments, **fields):
    return Experiment(config := tiny.config(arguments, {HELD: 0.2}), prepare(config)._replace(**fields))


def refused(seen, *values):
    """What stands for `vouch` where only what it is given counts: notes it, and vouches for nothing."""
    seen.extend(values)
    raise UserError("no")


def assessed(made, workdir):
    splits = made.dataset.splits
    believed = made.dataset.given_label[np.concatenate([splits.noisy, splits.validation])]
    return assess.assess(made, made.init()["method"], believed, workdir)


def test_a_class_that_nobody_has_checked(tmp_path):
    """Protects classes without a trusted image: nothing is assessed, and the class is named."""
    made = experiment(f"{CE},epochs=1")
    splits, label = made.dataset.splits, made.dataset.given_label
    kept = splits._replace(
        trusted=splits.trusted[label[splits.trusted] != 7], held_out=splits.held_out[label[splits.held_out] != 7]
    )
    made.dataset = made.dataset._replace(splits=kept)
    found = assessed(made, tmp_path)
    assert found.vouched is None and "no row of class 7" in found.why_not


@pytest.mark.parametrize(
    ("arguments", "all_of_them"),
    [
        (CE, True),
        ("method=ce,train_on=both,teacher=mlp8,student=mlp8", False),
        ("method=kdmlc,teacher=mlp8,student=mlp8", False),
        ("method=dmlp,teacher=mlp8,student=mlp8", False),
        ("method=blind_kd,epochs=10,teacher=mlp8,student=mlp8", True),
    ],
)
def test_images_that_no_network_has_learned_from(arguments, all_of_them):
    """Protects what weighs a network: trusted images count only where the method never sees their labels."""
    made = experiment(arguments)
    splits = made.dataset.splits
    want = np.concatenate([splits.trusted, splits.held_out]) if all_of_them else splits.held_out
    np.testing.assert_array_equal(assess.never_learned(made), want)
    config = made.config.copy_and_resolve_references()
    config.init_from = "elsewhere"
    other = SimpleNamespace(dataset=made.dataset, method=made.method, config=config)
    np.testing.assert_array_equal(assess.never_learned(other), splits.held_out)


def test_a_network_taught_corrected_labels_is_not_asked(monkeypatch, tmp_path):
    """Protects from held-out images that have helped to correct the labels of another run: what has learned from those
    does not judge."""
    asked = []
    monkeypatch.setattr(assess, "vouch", lambda *args, network, **rest: refused(asked, network))
    made = experiment(f"{CE},epochs=1")
    assessed(made, tmp_path)
    count = len(made.dataset.splits.noisy)
    made.dataset = made.dataset._replace(soft_label=np.full((count, 10), 0.1, np.float32))
    assessed(made, tmp_path)
    first, second = asked
    assert second is None and first.held.sum() == 100 and first.fresh.sum() == 20
    np.testing.assert_allclose(np.exp(first.noisy).sum(axis=1), 1.0)


def test_pixels_as_rows():
    """Protects what images are known by: few pixels as they are, many on axes that keep what tells images apart, and
    features untouched."""
    rng = np.random.default_rng(0)
    small, features = rng.integers(0, 256, (9, 4, 4, 3), np.uint8), rng.normal(size=(9, 1, 1, 300)).astype(np.float32)
    one, two = assess.vectors(small, np.arange(5), np.array([8]))
    np.testing.assert_array_equal(one, small[:5].reshape(5, -1))
    np.testing.assert_array_equal(two, small[8:].reshape(1, -1))
    np.testing.assert_array_equal(assess.vectors(features, np.array([3]))[0], features[3:4, 0, 0])
    plane = (rng.normal(size=(600, 5)) @ rng.normal(size=(5, 768)) * 9 + 128).clip(0, 255).astype(np.uint8)
    (got,) = assess.vectors(plane.reshape(600, 16, 16, 3), np.arange(600))
    assert got.shape == (600, assess.AXES)
    distance = lambda x: np.linalg.norm(x[:20, None].astype(float) - x[None, 20:60], axis=-1)  # noqa: E731
    np.testing.assert_allclose(distance(got), distance(plane), rtol=0.02)


def test_a_promise_can_be_changed_on_the_way(finished, tmp_path):
    """Protects `labels.precision`: it is no part of training, so a run goes on with another; nonsense is refused."""
    config, workdir, _, _ = finished
    changed = config.copy_and_resolve_references()
    changed.labels.precision = 0.8
    assert config_lib.changes(changed, workdir / "config.json") == ["labels.precision=0.8 (was 0.9)"]


def test_cross_fitting_asks_all_trusted_images(tmp_path, monkeypatch):
    """Protects `data.cross_fit`: each run below holds out its part, the run itself none; one that has finished is not
    made again; a row is asked of the networks that have not learned from it, as their runs have left them."""
    asked = []
    monkeypatch.setattr(assess, "vouch", lambda *args, network, **rest: refused(asked, network))
    config = tiny.config("method=ce,train_on=both,teacher=mlp8,student=mlp8,epochs=1,trusted=40,cross_fit=2")
    first = config.copy_and_resolve_references()
    first.data.fold = 0
    train.run(first, tmp_path / "fold-0", quiet=True)
    before = (tmp_path / "fold-0" / "summary.json").stat().st_mtime_ns
    summary = train.run(config, tmp_path, quiet=True)
    assert (tmp_path / "fold-0" / "summary.json").stat().st_mtime_ns == before
    assert summary["data"]["held_out"] == 0 and summary["data"]["trusted"] == 40
    (folds,) = asked
    splits, known = prepare(config).splits, prepare(config).splits.trusted
    held = [provenance.load(tmp_path / f"fold-{k}" / "noise.npz").splits.held_out for k in range(2)]
    assert sorted(np.concatenate(held)) == sorted(known)
    np.testing.assert_array_equal(np.isin(known, held[1]), folds.fold == 1)
    predict = export.load(tmp_path / "fold-1" / "student")
    rows = np.concatenate([splits.noisy[:3], splits.trusted[:2]])
    want = np.log(predict(prepare(config).images[rows]))
    np.testing.assert_allclose(folds.networks[1].noisy[:3], want[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(folds.networks[1].trusted[:2], want[3:], rtol=1e-4, atol=1e-5)
    assert folds.networks[0].fresh.sum() == len(splits.validation)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"data.cross_fit": 1}, "data.cross_fit: 1 part would leave nothing to learn from, expected 0 or 2 to 10"),
        ({"data.cross_fit": 11}, "data.cross_fit: 11 is outside"),
        ({"data.cross_fit": 3, "data.labels": "elsewhere"}, "data.cross_fit: the labels of data.labels come from one"),
        ({"data.cross_fit": 3, "data.fold": 3}, "data.fold: 3 is out of range, expected -1 to 2"),
        ({"data.fold": 0}, "data.fold: 0 is out of range, expected -1 with"),
    ],
)
def test_parts_that_cannot_be(fields, says):
    """Protects from nonsense, before anything is read."""
    with pytest.raises(UserError, match=says):
        config_lib.check(tiny.config(CE, fields))


def test_features_of_ones_own_serve_any_method(tmp_path, monkeypatch):
    """Protects what rows are known by: `data.features` where they are given, in the order of the images."""
    seen = []
    monkeypatch.setattr(assess, "vouch", lambda noisy, given, trusted, *args, **rest: refused(seen, noisy, trusted))
    made = experiment(f"{CE},epochs=1")
    features = np.arange(2.0 * len(made.dataset.ids), dtype=np.float32).reshape(-1, 2)
    made.dataset, splits = made.dataset._replace(features=features), made.dataset.splits
    assessed(made, tmp_path)
    np.testing.assert_array_equal(seen[0], features[np.concatenate([splits.noisy, splits.validation])])
    np.testing.assert_array_equal(seen[1], features[np.concatenate([splits.trusted, splits.held_out])])
