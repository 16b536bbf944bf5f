"""Estimates against scikit-image, scikit-learn and plain NumPy in float64, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special
from sklearn import metrics, mixture

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import transition as estimate

BINS = 1000


def clusters(seed, share=0.4):
    """Two clusters near 0.1 and 0.9, with 0 and 1 among them, and who belongs to the lower one."""
    rng = np.random.default_rng(seed)
    lower = rng.random(600) < share
    values = np.where(lower, rng.beta(2, 18, 600), rng.beta(18, 2, 600)).astype(np.float32)
    lower[:2], values[:2] = (True, False), (0.0, 1.0)
    return values, lower


def scores_by_loop(values, criterion):
    """The criterion of every threshold 1/BINS, 2/BINS, ..., from its formula; -1 where a class is empty."""
    edges = np.float32(np.arange(1, BINS) / BINS)
    centres = ((edges <= values[:, None]).sum(axis=1) + 0.5) / BINS
    scores = np.full(BINS - 1, -1.0)
    for s, edge in enumerate(edges):
        parts = [part for part in (centres[centres < edge], centres[centres > edge]) if len(part)]
        if len(parts) == 2:
            scores[s] = sum(len(part) * (part.mean() - centres.mean()) ** 2 for part in parts)
            within = sum(len(part) * part.std() for part in parts) + len(values) / (BINS * np.sqrt(12))
            scores[s] /= within if criterion == "deviation" else 1
    return scores


def test_otsu_against_scikit_image():
    """Protects the variance criterion: scikit-image's threshold (a bin's centre), or another in the same gap."""
    filters = pytest.importorskip("skimage.filters", reason="scikit-image is not installed")
    for seed, share in enumerate((0.05, 0.2, 0.4, 0.4, 0.6, 0.9)):
        values, _ = clusters(seed, share=share)
        want, got = filters.threshold_otsu(values, nbins=BINS), float(estimate.otsu(values, bins=BINS).threshold)
        assert abs(got - want) < 1.5 / BINS or ((values < got) == (values < want + 0.5 / BINS)).all()


@pytest.mark.parametrize("criterion", estimate.CRITERIA)
def test_otsu_against_its_formula(criterion):
    """Protects each criterion in float32, also where they differ and for narrow classes: a float64 loop's threshold."""
    rng = np.random.default_rng(3)
    narrow = np.where(rng.random(600) < 0.02, 0.1, 0.9) + np.linspace(0, 3e-3, 600)
    spikes = np.repeat([0.1005, 0.1015, 0.1085], [592, 4, 4])  # cut elsewhere without the deviation of one bin
    unlike = np.concatenate([rng.uniform(0, 0.8, 300), rng.uniform(0.97, 1, 300)])
    for values in np.float32([clusters(4)[0], narrow, spikes, unlike]):
        scores = scores_by_loop(values, criterion)
        best = np.flatnonzero(scores >= scores.max() * (1 - 1e-9))
        got = estimate.otsu(values, criterion, BINS)
        assert float(got.threshold) == pytest.approx(((best[0] + best[-1]) // 2 + 1) / BINS, abs=1e-6)
        lower = values < got.threshold
        np.testing.assert_allclose(got[1:], (values[lower].mean(), values[~lower].mean()), rtol=1e-5)
    assert float(got.threshold) == pytest.approx({"variance": 0.6, "deviation": 0.88}[criterion], abs=0.05)


@pytest.mark.parametrize("criterion", estimate.CRITERIA)
def test_threshold_finds_what_the_lower_mean_halves(criterion):
    """Protects `values < threshold` as the rule: below the lower mean lies only about half of the lower class."""
    values, lower = clusters(0)
    got = estimate.otsu(values, criterion)
    assert metrics.f1_score(lower, values < got.threshold) > 0.98
    assert metrics.f1_score(lower, values < got.lower_mean) < 0.8


@pytest.mark.parametrize("criterion", estimate.CRITERIA)
def test_otsu_by_hand(criterion):
    """Protects the middle of an empty gap, and samples with nothing to separate: nothing is below."""
    for values, expected in (
        ([0.2005, 0.2005, 0.2005, 0.8005], (0.5, 0.2005, 0.8005)),
        ([0.0, 1.0, 0.0, 1.0], (0.5, 0.0, 1.0)),
        *(([value] * size, (0.0, 0.0, value)) for value, size in ((0.3, 4), (0.0, 1), (1.0, 1))),
    ):
        values = np.array(values, np.float32)
        got = estimate.otsu(values, criterion)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert (values < got.threshold).any() == (len(set(values)) > 1)
        assert len(set(values)) > 1 or not (values < got.lower_mean).any()


def test_otsu_of_two_gaps_equally_good():
    """Protects a dense class from the middle of two thresholds, each the best, that would cut it in half."""
    values = np.concatenate([[0.0005], np.linspace(0.4905, 0.5095, 598), [0.9995]]).astype(np.float32)
    assert (values < estimate.otsu(values).threshold).sum() in (1, 599)


def test_otsu_of_values_on_an_edge():
    """Protects the edge between neighbouring bins, where float32 falls short: what lies on it is above it."""
    for edge in (0.251, 0.253, 0.506, 0.511):
        below, above = (np.array([edge, edge, near, near], np.float32) for near in (edge - 5e-4, edge + 5e-4))
        np.testing.assert_allclose(estimate.otsu(below), (edge, edge - 5e-4, edge), rtol=1e-6)
        assert float(estimate.otsu(above).threshold) == 0.0


def test_estimates_under_jit():
    """Protects use inside a compiled step: the same split and mixture."""
    values, _ = clusters(1)
    deviation = jax.jit(estimate.otsu, static_argnums=1)(values, "deviation")
    np.testing.assert_allclose(deviation, estimate.otsu(values, "deviation"), rtol=1e-6)
    mixed = jax.jit(estimate.gaussian_mixture)(values)
    np.testing.assert_allclose(mixed, estimate.gaussian_mixture(values), rtol=1e-4)


def test_otsu_refuses_another_criterion():
    """Protects the message: what was asked for, what there is."""
    with pytest.raises(UserError, match=r'criterion: "varianc" is not one of variance, deviation'):
        estimate.otsu(np.zeros(3, np.float32), "varianc")


@pytest.mark.parametrize(
    ("share", "low", "high", "low_deviation", "high_deviation"),
    [(0.5, 1, 9, 1, 1), (0.4, 1, 4, 1, 1), (0.1, 1, 8, 1, 2), (0.8, -1, 5, 2, 0.5), (0.3, 1e4, 10004, 0.5, 1)],
)
def test_mixture_against_sklearn(share, low, high, low_deviation, high_deviation):
    """Protects EM and the posterior, lower mean first: unequal sizes and variances, values far from 0 in float32."""
    rng = np.random.default_rng(0)
    lower = rng.random(600) < share
    values = np.where(lower, rng.normal(low, low_deviation, 600), rng.normal(high, high_deviation, 600))
    values = values.astype(np.float32)
    column = values[:, None].astype(np.float64)
    want = mixture.GaussianMixture(2, tol=1e-9, max_iter=5000, random_state=0).fit(column)
    order = want.means_[:, 0].argsort()
    got = estimate.gaussian_mixture(values)
    np.testing.assert_allclose(got.weights, want.weights_[order], rtol=5e-3)
    spread = want.covariances_.ravel()[order]
    np.testing.assert_allclose((got.means - want.means_[order, 0]) / np.sqrt(spread), 0, atol=1e-2)
    np.testing.assert_allclose(got.variances, spread, rtol=5e-3)
    np.testing.assert_allclose(estimate.posterior(got, values), want.predict_proba(column)[:, order], atol=5e-3)


def test_mixture_follows_shift_and_scale():
    """Protects the fit from the unit of the values."""
    values, _ = clusters(2)
    one, other = estimate.gaussian_mixture(values), estimate.gaussian_mixture(values * 100 - 3)
    np.testing.assert_allclose(other.weights, one.weights, rtol=1e-4)
    np.testing.assert_allclose(other.means, 100 * one.means - 3, rtol=1e-4)
    np.testing.assert_allclose(other.variances, 1e4 * one.variances, rtol=1e-3)


@pytest.mark.parametrize("values", [[-3e6] * 4, [2e-25, 4e-25, 4e-25, 4e-25]])
def test_mixture_of_constant_values(values):
    """Protects the posterior from 0/0 where all values are equal, or as good as: even, not NaN."""
    values = np.array(values, np.float32)
    got = estimate.gaussian_mixture(values)
    np.testing.assert_allclose(got.means, values.mean(), rtol=1e-4)
    assert np.isfinite(got).all() and (got.variances > 0).all()
    np.testing.assert_allclose(estimate.posterior(got, values), 0.5, atol=1e-5)


def test_transition_by_hand():
    """Protects GLC's estimate: the mean belief of each trusted class, an even row for a class without an image."""
    beliefs = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]], np.float32)
    got = estimate.transition(beliefs, np.array([0, 2, 0], np.int32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[0.5, 0.3, 0.2], [1 / 3] * 3, [0.1, 0.1, 0.8]], rtol=1e-6)


def test_transition_recovers_a_known_matrix():
    """Protects T[y, ỹ] from its transpose: rows are true classes, to four standard errors of 4000 draws each."""
    rng = np.random.default_rng(0)
    known = 0.5 * np.eye(5) + 0.5 * rng.dirichlet(np.ones(5), 5)
    label = np.repeat(np.arange(5), 4000)
    beliefs = np.eye(5, dtype=np.float32)[[rng.choice(5, p=known[y]) for y in label]]
    got = estimate.transition(beliefs, label)
    assert (np.abs(got - known) < 4 * np.sqrt(known * (1 - known) / 4000)).all()
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 5), (4,)])
def test_transition_refuses_other_lengths(shape):
    """Protects against beliefs of another set, or of no classes."""
    with pytest.raises(UserError, match=r"beliefs: shape \(.*\), expected \[4, C\], a row for each trusted label"):
        estimate.transition(np.ones(shape), np.zeros(4, int))


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


@pytest.mark.parametrize("true", [0.2, 1.0, 3.0])
def test_temperature_is_found(true):
    """Protects calibration: logits t times too small are found out; a minimum by SciPy agrees."""
    rng = np.random.default_rng(0)
    z = 2.0 * rng.normal(size=(20_000, 5))
    label = (rng.random((len(z), 1)) > special.softmax(z, axis=1).cumsum(axis=1)).sum(axis=1).clip(max=4)
    got = float(estimate.temperature((z / true).astype(np.float32), label))
    assert got == pytest.approx(true, rel=0.06)
    rows = np.arange(len(z))
    missed = lambda t: -special.log_softmax(t * z / true, axis=1)[rows, label].mean()  # noqa: E731
    assert missed(got) < optimize.minimize_scalar(missed, bounds=(0.02, 5), method="bounded").fun + 1e-4
