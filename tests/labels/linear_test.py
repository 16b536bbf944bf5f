"""Beliefs of a logistic regression: against scikit-learn, and what out of sample and calibrated must mean."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import linear


def gaussians(seed, rows, classes=4, width=6, apart=1.5):
    """Features and labels of overlapping Gaussians, and the exact p(y | x)."""
    centre = np.random.default_rng(99).normal(size=(classes, width)) * apart
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(rows) % classes)
    x = centre[label] + rng.normal(size=(rows, width))
    log_p = linear.log_softmax(-0.5 * ((x[:, None] - centre) ** 2).sum(axis=2))
    return x, label, np.exp(log_p)


def test_coordinates_lose_no_fit():
    """Protects "fits to the coordinates are the fits to all features": scikit-learn on all standardised features."""
    rng = np.random.default_rng(0)
    noisy, trusted, label = rng.normal(3, 5, (50, 40)), rng.normal(3, 5, (12, 40)), np.arange(12) % 3
    both = np.concatenate([noisy, trusted])
    z = (both - both.mean(axis=0)) / both.std(axis=0)
    want = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(z[50:], label).predict_log_proba(z[:50])
    few, rows = linear.coordinates(noisy, trusted)
    assert few.shape == (50, 12)
    got = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(rows, label).predict_log_proba(few)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert linear.coordinates(noisy[:, :5], trusted[:, :5])[0].shape == (50, 5)


def test_log_beliefs_are_those_of_scikit_learn():
    """Protects the two-class case, classes without a row and a lone class."""
    x, label, _ = gaussians(1, 60)
    for found in ([0, 1, 2, 3], [0, 2], [1, 2, 3]):
        rows = np.isin(label, found)
        got = linear.log_beliefs(x[rows], label[rows], x, 4, 0.1)
        model = LogisticRegression(C=0.1, max_iter=200, tol=1e-3).fit(x[rows], label[rows])
        want = model.predict_log_proba(x)
        if len(found) == 2:  # scikit-learn's binary model: the second class's score, and 0
            np.testing.assert_allclose(got[:, found[1]] - got[:, found[0]], model.decision_function(x), rtol=1e-6)
        else:
            np.testing.assert_allclose(got[:, found], np.maximum(want, want.max(axis=1, keepdims=True) - 30), rtol=1e-6)
        absent = np.setdiff1d(np.arange(4), found)
        assert (got[:, absent] < got[:, found].max(axis=1, keepdims=True) - 8).all()
    assert (linear.log_beliefs(x[:3], np.full(3, 2), x, 4, 0.1).argmax(axis=1) == 2).all()


def test_stratified_spreads_each_class():
    """Protects small classes: counts a fold differ by one at most, a lone row is never held out."""
    label = np.repeat([0, 1, 2, 3], [17, 5, 1, 2])
    fold = linear.stratified(label, 5, seed=0)
    assert (fold[label == 2] == linear.NEVER).all()
    for c in (0, 1, 3):
        assert np.ptp(np.bincount(fold[label == c], minlength=5)) <= 1
    assert (linear.stratified(label, 5, seed=1) != fold).any()


def test_temperature_undoes_a_scale():
    """Protects the direction of t: labels drawn from softmax(z), scores three times z."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 5)) * 2
    label = (np.exp(linear.log_softmax(z)).cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
    t, loss = linear.fit_temperature(3 * z, label)
    assert t == pytest.approx(1 / 3, rel=0.06)
    assert loss == pytest.approx(linear.log_loss(linear.log_softmax(z), label).mean(), rel=1e-2)


def test_no_row_is_believed_by_a_fit_that_had_it():
    """Protects "out of fold": labels drawn by lot, which a fit to 60 features has by heart, are not foretold."""
    rng = np.random.default_rng(0)
    noisy, trusted, label = rng.normal(size=(5, 60)), rng.normal(size=(120, 60)), rng.integers(0, 3, 120)
    found = linear.linear_beliefs(noisy, trusted, label, 3)
    by_heart = linear.log_beliefs(trusted, label, trusted, 3, 1.0).argmax(axis=1)
    assert np.mean(by_heart == label) > 0.8
    assert np.mean(found.trusted.argmax(axis=1) == label) < 0.5
    assert found.trusted.max() < 0.6 and found.noisy.max() < 0.75  # and it knows that it knows nothing


@pytest.mark.parametrize("rows", [24, 200])
def test_beliefs_are_calibrated(rows):
    """Protects what everything after rests on: on new rows mean belief and accuracy agree, the loss is near best."""
    gaps, losses = [], []
    for seed in range(6):
        x, label, exact = gaussians(seed, 1500 + rows)
        noisy, trusted = linear.coordinates(x[rows:], x[:rows])
        found = linear.linear_beliefs(noisy, trusted, label[:rows], 4, seed)
        np.testing.assert_allclose(found.noisy.sum(axis=1), 1, rtol=1e-9)
        gaps.append(found.noisy.max(axis=1).mean() - np.mean(found.noisy.argmax(axis=1) == label[rows:]))
        losses.append(linear.log_loss(np.log(found.noisy) - np.log(exact[rows:]), label[rows:]).mean())
    assert abs(np.mean(gaps)) < 0.05
    assert np.mean(losses) < (0.35 if rows == 24 else 0.06)


def test_tiny_sets_have_beliefs():
    """Protects a single trusted row a class, and classes without any: beliefs are there and claim little."""
    x, label, _ = gaussians(0, 40)
    one = np.array([np.flatnonzero(label == c)[0] for c in range(3)])
    found = linear.linear_beliefs(x, x[one], label[one], 5)
    assert (found.fold == linear.NEVER).all()
    assert np.isfinite(found.noisy).all() and found.noisy.max() < 0.6


def test_bad_input_is_named():
    """Protects the one-line errors."""
    x = np.ones((3, 2))
    with pytest.raises(UserError, match="expected 2 as of noisy rows"):
        linear.coordinates(x, np.ones((3, 4)))
    with pytest.raises(UserError, match="NaN or infinite"):
        linear.coordinates(x, x * np.nan)
    with pytest.raises(UserError, match="two or more, of 0 to 1"):
        linear.linear_beliefs(x, x, np.array([0, 1, 2]), 2)
