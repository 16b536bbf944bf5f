"""T̂ against the matrix that drew the labels, plain NumPy in float64, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax.data import noise
from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import transition as estimate


def test_trusted_transition_by_hand():
    """Protects GLC's estimate: the mean belief of each trusted class, an even row for a class without an image."""
    beliefs = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]], np.float32)
    got = estimate.trusted_transition(beliefs, np.array([0, 2, 0], np.int32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[0.5, 0.3, 0.2], [1 / 3] * 3, [0.1, 0.1, 0.8]], rtol=1e-6)


def test_trusted_transition_recovers_a_known_matrix():
    """Protects T[y, ỹ] from its transpose: rows are true classes, to four standard errors of 4000 draws each."""
    rng = np.random.default_rng(0)
    known = 0.5 * np.eye(5) + 0.5 * rng.dirichlet(np.ones(5), 5)
    label = np.repeat(np.arange(5), 4000)
    beliefs = np.eye(5, dtype=np.float32)[[rng.choice(5, p=known[y]) for y in label]]
    got = estimate.trusted_transition(beliefs, label)
    assert (np.abs(got - known) < 4 * np.sqrt(known * (1 - known) / 4000)).all()
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (4,)])
def test_trusted_transition_refuses_other_lengths(shape):
    """Protects against beliefs of another set, or of no classes."""
    with pytest.raises(UserError, match=r"beliefs: shape \(.*\), expected \[4, C\], a row for each trusted label"):
        estimate.trusted_transition(np.ones(shape), np.zeros(4, int))


def test_counted_transition():
    """Protects the counts, by hand: one of each pair to begin with, rows by belief, columns by given label."""
    beliefs = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]], np.float32)
    got = estimate.counted_transition(beliefs, np.array([0, 1, 1]))
    np.testing.assert_allclose(got, [[2 / 4, 2 / 4], [1 / 3, 2 / 3]], rtol=1e-6)


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_label_right_is_the_posterior(rate):
    """Protects the formula: where the beliefs are exactly q T, it is Bayes' probability that the label is right."""
    rng = np.random.default_rng(0)
    transition = np.full((4, 4), rate / 4) + (1 - rate) * np.eye(4)
    q = rng.dirichlet(np.full(4, 0.7), 300)
    p, given = q @ transition, rng.integers(0, 4, 300)
    rows = np.arange(300)
    want = q[rows, given] * transition[given, given] / p[rows, given]
    got = estimate.label_right(p.astype(np.float32), given, jnp.asarray(transition, jnp.float32), steps=2000)
    np.testing.assert_allclose(got, want, atol=0.02)
    assert np.corrcoef(estimate.label_right(p.astype(np.float32), given, jnp.float32(transition)), want)[0, 1] > 0.97


def test_label_right_without_noise():
    """Protects the ends of the scale: every label is right under the identity, and what is never kept is wrong."""
    p, given = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32), np.array([0, 0])
    tiny = 1e-6
    np.testing.assert_allclose(
        estimate.label_right(p, given, jnp.array([[1 - tiny, tiny], [tiny, 1 - tiny]])), 1.0, atol=1e-4
    )
    np.testing.assert_allclose(
        estimate.label_right(p, given, jnp.array([[tiny, 1 - tiny], [1 - tiny, tiny]])), 0.0, atol=1e-4
    )


def test_fitted_transition_finds_the_matrix():
    """Protects T̂ from blur: calibrated beliefs, right on half the images only, still give the matrix that drew the
    labels, where counting their largest entries is far off."""
    rng = np.random.default_rng(0)
    matrix = 0.7 * np.eye(4) + 0.3 * np.roll(np.eye(4), 1, axis=1)
    p = rng.dirichlet(np.full(4, 0.6), 40_000)
    truth = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=3)
    given = (rng.random((len(p), 1)) > matrix[truth].cumsum(axis=1)).sum(axis=1).clip(max=3)
    got = estimate.fitted_transition(p.astype(np.float32), given)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(got, matrix, atol=0.04)
    assert np.abs(estimate.counted_transition(p, given) - matrix).max() > 0.1


def test_fitted_transition_rises():
    """Protects the fit: no neighbour of the result makes the labels more likely (prior of one count included)."""
    rng = np.random.default_rng(1)
    p, given = rng.dirichlet(np.ones(3), 200), rng.integers(0, 3, 200)
    score = lambda matrix: np.log((p * matrix[:, given].T).sum(axis=1)).sum() + np.log(matrix).sum()  # noqa: E731
    got = np.asarray(estimate.fitted_transition(p.astype(np.float32), given, steps=2000), np.float64)
    for _ in range(50):
        other = got * np.exp(0.05 * rng.normal(size=got.shape))
        assert score(other / other.sum(axis=1, keepdims=True)) < score(got) + 1e-3


@pytest.mark.parametrize(("kind", "rate"), [("uniform", 0.6), ("flip", 0.4), ("pair", 0.3)])
def test_online_transition_is_recovered(kind, rate):
    """Protects T̂: from calibrated but blurred beliefs, online EM finds the matrix that drew the given labels."""
    classes, rng = 4, np.random.default_rng(1)
    matrix = noise.transition_matrix(kind, rate, classes, seed=3)
    logits = 3.0 * rng.normal(size=(20_000, classes))
    beliefs = np.asarray(jax.nn.softmax(logits))
    true = np.array([rng.choice(classes, p=p / p.sum()) for p in beliefs.astype(np.float64)])
    given = np.array([rng.choice(classes, p=matrix[y]) for y in true])
    update = jax.jit(estimate.update_joint)
    joint = jnp.full((classes, classes), 1.0 / classes**2) + jnp.eye(classes) / classes
    for start in range(0, 4 * len(given), 100):
        rows = np.arange(start, start + 100) % len(given)
        joint = update(joint, jnp.asarray(logits[rows], jnp.float32), jnp.asarray(given[rows]))
    found = np.asarray(estimate.transition_matrix(joint))
    blurred = np.linalg.inv(np.diag(beliefs.sum(0))) @ beliefs.T @ np.eye(classes)[given]
    assert np.abs(found - matrix).max() < 0.08
    assert np.abs(found - matrix).max() < 0.6 * np.abs(blurred - matrix).max()


def test_online_transition_keeps_every_entry_above_zero():
    """Protects long runs: entries that no image supports stay positive, so that their logarithm is finite."""
    logits, given = 30.0 * jnp.eye(3), jnp.arange(3)
    body = lambda _, joint: estimate.update_joint(joint, logits, given)  # noqa: E731
    joint = jax.lax.fori_loop(0, 20_000, body, jnp.full((3, 3), 1.0 / 3**2))
    assert (joint > 0).all() and np.isfinite(jnp.log(estimate.transition_matrix(joint))).all()
