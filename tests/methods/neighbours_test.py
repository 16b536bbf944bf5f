"""`knn` and `wann` as methods: their network against scikit-learn, what is held out of whom, labels of features."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from sklearn.neighbors import KNeighborsClassifier

from kdmlc_jax import assess, export, methods, train
from kdmlc_jax.data.augment import normalise
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.experiment import Experiment
from kdmlc_jax.labels import neighbours
from kdmlc_jax.methods.base import DatasetView, Info

CLASSES, SHAPE, N, M = 3, (1, 1, 4), 150, 45
RNG = np.random.default_rng(0)
TRUTH = {"noisy": np.arange(N) % CLASSES, "trusted": np.arange(M) % CLASSES}
IMAGES = {
    split: (RNG.normal(size=(len(label), *SHAPE)) + 2 * np.eye(4)[label][:, None, None]).astype(np.float32)
    for split, label in TRUTH.items()
}
GIVEN = np.where(np.arange(N) % 5 < 2, (TRUTH["noisy"] + 1) % CLASSES, TRUTH["noisy"]).astype(np.int32)
LABEL = {"noisy": GIVEN, "trusted": TRUTH["trusted"]}
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=N, num_trusted=M)


def begun(name, arguments="", features=None):
    """The method, its state after `begin` and one step, and its notes."""
    notes: list[str] = []
    over = lambda split, fn, current: np.asarray(fn(current, jnp.asarray(IMAGES[split]), jnp.asarray(LABEL[split])))  # noqa: E731
    view = DatasetView(GIVEN, TRUTH["trusted"], over, lambda fn: fn(), jax.device_get, [], notes.append, features)
    method = methods.get(name).make(tiny.config(f"method={name},student=nearest21{arguments}"), INFO)
    state = method.begin(method.init(jax.random.key(0), jnp.zeros((2, *SHAPE))), view)
    state, _ = method.step(state, {}, jax.random.key(0))
    return method, state, notes


@pytest.mark.parametrize("train_on", ["noisy", "trusted", "both"])
def test_knn_is_that_of_scikit_learn(train_on):
    """Protects the network and the labels: probabilities of new images are scikit-learn's, by cosine, with one
    neighbour more; those of noisy images are of the others, or of the trusted ones."""
    method, state, _ = begun("knn", f",train_on={train_on}")
    splits = [split for split in LABEL if train_on in (split, "both")]
    rows, label = (np.concatenate([each[split] for split in splits]) for each in (IMAGES, LABEL))
    rows, queries = rows.reshape(-1, 4), RNG.normal(size=(40, *SHAPE)).astype(np.float32)
    k = 7 if train_on == "trusted" else 21  # half of a class's images at most
    smooth = lambda p: (k * p + 1 / CLASSES) / (k + 1)  # noqa: E731
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(rows, label)
    got = jax.nn.softmax(method.predict(state, jnp.asarray(queries)))
    np.testing.assert_allclose(got, smooth(model.predict_proba(queries.reshape(-1, 4))), atol=1e-5)
    p, noisy = np.asarray(state.beliefs.rows), IMAGES["noisy"].reshape(N, 4)
    for row in range(0, N, 30):
        others = np.arange(len(rows)) != (row if train_on != "trusted" else -1)
        model.fit(rows[others], label[others])
        np.testing.assert_allclose(p[row], smooth(model.predict_proba(noisy[row : row + 1]))[0], atol=1e-5)
    assert (method.report(state).transition is not None) == (train_on == "trusted")


def test_wann_by_hand():
    """Protects WANN: reach and reliability of every row, and the network's vote with them."""
    method, state, _ = begun("wann")
    rows = np.concatenate([IMAGES["noisy"], IMAGES["trusted"]]).reshape(-1, 4)
    label, unit = np.concatenate([GIVEN, TRUTH["trusted"]]), rows / np.linalg.norm(rows, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit.T - 9 * np.eye(len(rows))), axis=1)[:, :21]
    reach = neighbours.reach(label[order], label, CLASSES, most=21)
    np.testing.assert_array_equal(state.net.params["reach"], reach)
    assert {11, 21} < set(reach.tolist())
    columns = method.report(state).columns
    np.testing.assert_allclose(columns["reliability"], 1 / reach[:N], rtol=1e-6)
    right = np.equal(GIVEN, TRUTH["noisy"])
    assert columns["reliability"][right].mean() > columns["reliability"][~right].mean()
    query = RNG.normal(size=(20, 4)).astype(np.float32)
    near = np.argsort(-(query @ unit.T), axis=1)
    votes = np.zeros((20, CLASSES))
    for row, k in enumerate(reach[near[:, 0]]):
        np.add.at(votes[row], label[near[row, :k]], 1 / reach[near[row, :k]])
    got = method.predict(state, jnp.asarray(query.reshape(20, *SHAPE)))
    np.testing.assert_array_equal(got.argmax(axis=1), votes.argmax(axis=1))


@pytest.mark.parametrize("name", ["knn", "wann"])
def test_features_beside_images(name):
    """Protects `data.features`: labels are judged by them, the network is that on pixels, and the person is told."""
    features = {
        split: (RNG.normal(size=(len(label), 5)) + 6 * np.eye(5)[label]).astype(np.float32)
        for split, label in TRUTH.items()
    }
    method, state, notes = begun(name, features=features)
    found = method.correct(state, jnp.asarray(IMAGES["noisy"]), jnp.asarray(GIVEN), jnp.arange(N))
    assert np.mean(np.asarray(found).argmax(axis=1) == TRUTH["noisy"]) > 0.95 and "pixels" in notes[0]
    jax.tree.map(np.testing.assert_array_equal, state.net.params, begun(name)[1].net.params)


@pytest.mark.parametrize("name", ["knn", "wann"])
def test_a_run(name, tmp_path):
    """Protects the whole on the digits: good predictions, labels put right, and what it leaves predicts alike."""
    chosen = tiny.config(f"method={name},student=nearest51,rate=0.4", {"data.noisy": 0.0})
    summary = train.run(chosen, tmp_path, quiet=True)
    student = summary["networks"]["student"]
    assert student["name"] == "nearest51" and student["last"] > 0.85
    assert summary["labels"]["accuracy_suggested"] > summary["labels"]["accuracy_before"] + 0.2
    (row,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert row["loss"] == pytest.approx(summary["diagnostics"]["held_out_loss"])
    data = prepare(chosen)
    got = export.load(tmp_path / "student")(data.test_images)
    assert np.mean(got.argmax(axis=1) == data.test_label) == pytest.approx(student["last"])


@pytest.mark.parametrize("name", ["knn", "wann"])
def test_held_out_images_are_no_neighbours(name):
    """Protects the judgement of labels: the memory holds no trusted image that is held out, and where it holds the
    others, those that it has learned from do not judge."""
    for train_on in ("both", "noisy", "trusted"):
        chosen = tiny.config(f"method={name},student=nearest51,held_out=0.3,train_on={train_on}")
        data = prepare(chosen)
        experiment = Experiment(chosen, data)
        state = experiment.method.begin(experiment.init()["method"], experiment.evaluator.view([], print))
        splits = {"both": [data.splits.noisy, data.splits.trusted]}.get(train_on) or [getattr(data.splits, train_on)]
        images = data.images[np.concatenate(splits)]
        want = normalise(images, *(experiment.fixed[part] for part in ("mean", "std"))).reshape(len(images), -1)
        np.testing.assert_allclose(state.net.params["rows"], want, rtol=1e-5)
        held = len(data.splits.held_out) + (len(data.splits.trusted) if train_on == "noisy" else 0)
        assert len(data.splits.held_out) and len(assess.never_learned(experiment)) == held


def test_its_network():
    """Protects from a network that remembers nothing."""
    with pytest.raises(UserError, match=r'student.net: "cnn2" is no vote of neighbours, expected nearest51'):
        methods.get("knn").make(tiny.config("method=knn"), INFO)
