"""Logistic regression as a method: the fit against scikit-learn's, what a run leaves, features beside images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy import special
from sklearn.linear_model import LogisticRegression

from kdmlc_jax import baselines, export, methods, train
from kdmlc_jax.data.augment import normalise
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.experiment import check_needs
from kdmlc_jax.labels.linear import PENALTIES
from kdmlc_jax.labels.posterior import posterior
from kdmlc_jax.methods import linear
from kdmlc_jax.methods.base import DatasetView, Info
from kdmlc_jax.train_state import Bank


@pytest.fixture(scope="module")
def digits():
    """Standardised pixels and labels of all the digits: (trusted rows, labels, other rows, labels)."""
    data = prepare(tiny.config("method=ce", {"data.noisy": 0.0}))
    rows = (data.images.reshape(len(data.images), -1) - data.images.mean()) / data.images.std()
    trusted = np.zeros(len(rows), bool)
    trusted[data.splits.trusted] = True
    return rows[trusted], data.truth[trusted], rows[~trusted], data.truth[~trusted]


@pytest.mark.parametrize("classes, count, columns", [(10, 100, 64), (10, 40, 64), (2, 100, 64), (10, 100, 30)])
def test_fit_is_that_of_scikit_learn(digits, classes, count, columns):
    """Protects the weights, be there more rows than columns or fewer, or two classes only: predictions agree with
    scikit-learn's, fitted to all columns with that penalty, and so do probabilities at that temperature."""
    rows, label, others, _ = digits
    rows, label, others = rows[:count, -columns:], label[:count] % classes, others[:, -columns:]
    found = linear.fit(rows.astype(np.float32), label, classes, seed=0)
    model = LogisticRegression(C=found.penalty, max_iter=5000, tol=1e-6).fit(rows, label)
    scores = others @ found.kernel + found.bias
    assert found.penalty in PENALTIES and scores.shape == (len(others), classes)
    assert np.mean(scores.argmax(axis=1) == model.predict(others)) >= 0.995
    logits = model.decision_function(others)
    logits = np.stack([0 * logits, logits], axis=1) if classes == 2 else logits
    want = special.softmax(found.temperature * logits, axis=1)
    np.testing.assert_allclose(special.softmax(scores, axis=1), want, atol=0.02)


def test_held_out_loss_is_honest(digits):
    """Protects the figure a run shows for its loss, and beliefs that correct the labels fitted to, from fits that had
    the row: both are near the loss on images never seen, where that of the rows fitted to is far below."""
    rows, label, others, truth = digits
    found = linear.fit(rows, label, 10, seed=0)
    loss = lambda x, y: -special.log_softmax(x @ found.kernel + found.bias, axis=1)[np.arange(len(y)), y].mean()  # noqa: E731
    assert found.held_out_loss == pytest.approx(loss(others, truth), rel=0.3)
    assert -np.log(found.held_out[np.arange(len(label)), label]).mean() == pytest.approx(found.held_out_loss, rel=0.1)
    assert loss(rows, label) < 0.5 * found.held_out_loss


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its config, folder and summary."""
    folder = tmp_path_factory.mktemp("linear") / "run"
    chosen = tiny.config("method=linear,student=linear,epochs=7", {"data.noisy": 0.0})
    return chosen, folder, train.run(chosen, folder, quiet=True)


def test_a_run(run):
    """Protects the whole on the digits: one epoch, whatever `train.epochs` says, good predictions, a noise rate near
    the true one, and labels put right by far more than are made wrong."""
    _, folder, summary = run
    (row,) = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert row["loss"] == pytest.approx(summary["diagnostics"]["held_out_loss"])
    student, labels, noise = summary["networks"]["student"], summary["labels"], summary["noise"]
    assert (student["name"], student["parameters"]) == ("linear", 650) and student["last"] > 0.88
    assert labels["accuracy_before"] < 0.5 and labels["accuracy_suggested"] > 0.85
    assert noise["estimated"] == pytest.approx(noise["realised"], abs=0.04)


def test_what_it_leaves_predicts_alike(run):
    """Protects deployment: the exported network is the fit to the trusted images, its temperature within."""
    chosen, folder, summary = run
    data, about = prepare(chosen), json.loads((folder / "student" / "network.json").read_text())
    pixels = np.asarray(normalise(data.images, jnp.asarray(about["mean"]), jnp.asarray(about["std"])))
    rows, at = pixels.reshape(len(pixels), -1), data.splits.trusted
    found = linear.fit(rows[at], data.given_label[at], 10, chosen.seed)
    got = export.load(folder / "student")(data.test_images)
    assert np.mean(got.argmax(axis=1) == data.test_label) == pytest.approx(summary["networks"]["student"]["last"])
    want = special.softmax(rows @ found.kernel + found.bias, axis=1)
    np.testing.assert_allclose(export.load(folder / "student")(data.images), want, atol=2e-3)


CLASSES, SHAPE, N, M = 3, (1, 1, 4), 120, 30
RNG = np.random.default_rng(0)
TRUTH = {"noisy": np.arange(N) % CLASSES, "trusted": np.arange(M) % CLASSES}
IMAGES = {split: RNG.normal(size=(len(label), *SHAPE)).astype(np.float32) for split, label in TRUTH.items()}
FEATURES = {
    split: (RNG.normal(size=(len(label), 5)) + 4 * np.eye(5)[label]).astype(np.float32)
    for split, label in TRUTH.items()
}
GIVEN = np.where(np.arange(N) % 5 < 2, (TRUTH["noisy"] + 1) % CLASSES, TRUTH["noisy"]).astype(np.int32)
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=N, num_trusted=M, num_features=5)


def view_of(notes, features=None, decide=lambda fn: fn(), given=GIVEN):
    """Images that say nothing of their classes; features that do."""
    label = {"noisy": given, "trusted": TRUTH["trusted"]}
    over = lambda split, fn, current: np.asarray(fn(current, jnp.asarray(IMAGES[split]), jnp.asarray(label[split])))  # noqa: E731
    return DatasetView(given, TRUTH["trusted"], over, decide, jax.device_get, [], notes.append, features)


def begun(arguments="", **fields):
    """The method, its state after `begin` and one step, and its notes."""
    notes: list[str] = []
    method = methods.get("linear").make(tiny.config(f"method=linear,student=linear,{arguments}"), INFO)
    state = method.begin(method.init(jax.random.key(0), jnp.zeros((2, *SHAPE))), view_of(notes, **fields))
    state, _ = method.step(state, {}, jax.random.key(0))
    return method, state, notes


def test_correct_by_hand():
    """Protects the posterior: p(y | x) of M softmax + 1/C over M + 1, times the column of T̂ that the given label is."""
    method, state, notes = begun()
    images, given = jnp.asarray(IMAGES["noisy"][:6]), GIVEN[:6]
    matrix = np.array([[0.6, 0.3, 0.1], [0.1, 0.7, 0.2], [0.2, 0.2, 0.6]], np.float32)
    logits = np.asarray(method.predict(state, images), np.float64)
    p = (M * special.softmax(logits, axis=1) + 1 / CLASSES) / (M + 1)
    np.testing.assert_allclose(state.beliefs.rows[:6], p, atol=1e-5)
    state = state.replace(transition=jnp.asarray(matrix))
    for index in (jnp.arange(6), jnp.full(6, -1)):
        got = method.correct(state, images, jnp.asarray(given), index)
        np.testing.assert_allclose(got, posterior(p, matrix, given), atol=1e-5)
    known = state.replace(beliefs=Bank(jnp.asarray(np.roll(np.eye(CLASSES)[TRUTH["noisy"]], 1, axis=0))))
    got = method.correct(known, images, jnp.asarray(given), jnp.arange(1, 7))
    np.testing.assert_array_equal(got.argmax(axis=1), TRUTH["noisy"][:6])
    assert notes == []


def test_features_beside_images():
    """Protects `data.features`: noisy images are believed by their features, row by row, T̂ is of those, and the person
    is told that the network is apart; it is the same as without features."""
    method, state, notes = begun(features=FEATURES)
    found = method.correct(state, jnp.asarray(IMAGES["noisy"]), jnp.asarray(GIVEN), jnp.arange(N))
    assert np.mean(np.asarray(found).argmax(axis=1) == TRUTH["noisy"]) > 0.95
    rate = 1 - np.diagonal(state.transition).mean()
    assert rate == pytest.approx(0.4, abs=0.05) and "apart" in notes[0] and len(notes) == 1
    jax.tree.map(np.testing.assert_array_equal, state.net.params, begun()[1].net.params)
    logits = np.asarray(method.predict(state, jnp.asarray(IMAGES["noisy"])))
    assert np.mean(logits.argmax(axis=1) == TRUTH["noisy"]) < 0.6


def test_given_labels_say_nothing_of_noise():
    """Protects `train_on=noisy`, by features as by pixels, from confirming the labels it has learned: no T̂ is
    multiplied in or reported, and the beliefs by features are right where every fifth label is not."""
    given = np.where(np.arange(N) % 5 < 1, GIVEN, TRUTH["noisy"]).astype(np.int32)
    method, state, _ = begun("train_on=noisy", features=FEATURES, given=given)
    found = np.asarray(method.correct(state, jnp.asarray(IMAGES["noisy"]), jnp.asarray(given), jnp.arange(N)))
    assert np.mean(found.argmax(axis=1) == TRUTH["noisy"]) > 0.9
    assert method.report(state).transition is None and not method.traits.needs_trusted
    np.testing.assert_allclose(found, state.beliefs.rows, atol=1e-6)
    _, pixels, _ = begun("train_on=noisy", given=given)
    rows = IMAGES["noisy"].reshape(N, -1)
    np.testing.assert_allclose(pixels.beliefs.rows, linear.fit(rows, given, CLASSES, seed=0).held_out, atol=1e-6)


def test_a_class_that_no_label_names():
    """Protects the width of the network: a class without a row is there, and is believed least."""
    found = linear.fit(IMAGES["trusted"].reshape(M, -1), 2 * (TRUTH["trusted"] % 2), 4, seed=0)
    scores = IMAGES["noisy"].reshape(N, -1) @ found.kernel + found.bias
    assert scores.shape == (N, 4) and set(scores.argsort(axis=1)[:, :2].ravel()) == {1, 3}


def test_process_0_decides():
    """Protects several processes: the fit, T̂, and beliefs by features are what `decide` gives."""
    asked = []

    def decide(fn):
        asked.append(fn())
        return asked[-1]

    begun(features=FEATURES, decide=decide)
    fitted, beliefs, noise = asked
    assert isinstance(fitted, linear.Fit) and beliefs.shape == (N, CLASSES) and noise.transition.shape == (CLASSES,) * 2


def test_its_network():
    """Protects from another network in its name: a config and a baseline have the linear one, a person's is refused."""
    plain = tiny.config("method=ce")
    assert plain.student.net == "cnn2" and baselines.baseline(plain, "method=linear").student.net == "linear"
    with pytest.raises(UserError, match=r'student.net: "cnn2" is not one of linear'):
        methods.get("linear").make(tiny.config("method=linear"), INFO)


def test_a_class_without_trusted_images_leaves_the_baseline_out():
    """Protects a finished run from a baseline that cannot be fitted: it is left out, not refused."""
    chosen = tiny.config("method=linear,student=linear")
    method, dataset = methods.get("linear").make(chosen, INFO), prepare(chosen)
    trusted = dataset.splits.trusted
    some = dataset._replace(splits=dataset.splits._replace(trusted=trusted[dataset.given_label[trusted] > 1]))
    with pytest.raises(NoTrustedError, match=r"data.trusted: no trusted image of 0, 1; linear needs one or more"):
        check_needs(method, chosen, some)
