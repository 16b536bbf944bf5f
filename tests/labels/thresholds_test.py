"""Otsu's threshold and the two Gaussians, against scikit-image, scikit-learn and plain loops, and by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import thresholds

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
        want, got = filters.threshold_otsu(values, nbins=BINS), float(thresholds.otsu(values, bins=BINS).threshold)
        assert abs(got - want) < 1.5 / BINS or ((values < got) == (values < want + 0.5 / BINS)).all()


@pytest.mark.parametrize("criterion", thresholds.CRITERIA)
def test_otsu_against_its_formula(criterion):
    """Protects each criterion in float32, also where they differ and for narrow classes: a float64 loop's threshold."""
    rng = np.random.default_rng(3)
    narrow = np.where(rng.random(600) < 0.02, 0.1, 0.9) + np.linspace(0, 3e-3, 600)
    spikes = np.repeat([0.1005, 0.1015, 0.1085], [592, 4, 4])  # cut elsewhere without the deviation of one bin
    unlike = np.concatenate([rng.uniform(0, 0.8, 300), rng.uniform(0.97, 1, 300)])
    for values in np.float32([clusters(4)[0], narrow, spikes, unlike]):
        scores = scores_by_loop(values, criterion)
        best = np.flatnonzero(scores >= scores.max() * (1 - 1e-9))
        got = thresholds.otsu(values, criterion, BINS)
        assert float(got.threshold) == pytest.approx(((best[0] + best[-1]) // 2 + 1) / BINS, abs=1e-6)
        lower = values < got.threshold
        np.testing.assert_allclose(got[1:], (values[lower].mean(), values[~lower].mean()), rtol=1e-5)
    assert float(got.threshold) == pytest.approx({"variance": 0.6, "deviation": 0.88}[criterion], abs=0.05)


@pytest.mark.parametrize("criterion", thresholds.CRITERIA)
def test_threshold_finds_what_the_lower_mean_halves(criterion):
    """Protects `values < threshold` as the rule: below the lower mean lies only about half of the lower class."""
    values, lower = clusters(0)
    got = thresholds.otsu(values, criterion)
    assert metrics.f1_score(lower, values < got.threshold) > 0.98
    assert metrics.f1_score(lower, values < got.lower_mean) < 0.8


@pytest.mark.parametrize("criterion", thresholds.CRITERIA)
def test_otsu_by_hand(criterion):
    """Protects the middle of an empty gap, and samples with nothing to separate: nothing is below."""
    for values, expected in (
        ([0.2005, 0.2005, 0.2005, 0.8005], (0.5, 0.2005, 0.8005)),
        ([0.0, 1.0, 0.0, 1.0], (0.5, 0.0, 1.0)),
        *(([value] * size, (0.0, 0.0, value)) for value, size in ((0.3, 4), (0.0, 1), (1.0, 1))),
    ):
        values = np.array(values, np.float32)
        got = thresholds.otsu(values, criterion)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert (values < got.threshold).any() == (len(set(values)) > 1)
        assert len(set(values)) > 1 or not (values < got.lower_mean).any()


def test_otsu_of_two_gaps_equally_good():
    """Protects a dense class from the middle of two thresholds, each the best, that would cut it in half."""
    values = np.concatenate([[0.0005], np.linspace(0.4905, 0.5095, 598), [0.9995]]).astype(np.float32)
    assert (values < thresholds.otsu(values).threshold).sum() in (1, 599)


def test_otsu_of_values_on_an_edge():
    """Protects the edge between neighbouring bins, where float32 falls short: what lies on it is above it."""
    for edge in (0.251, 0.253, 0.506, 0.511):
        below, above = (np.array([edge, edge, near, near], np.float32) for near in (edge - 5e-4, edge + 5e-4))
        np.testing.assert_allclose(thresholds.otsu(below), (edge, edge - 5e-4, edge), rtol=1e-6)
        assert float(thresholds.otsu(above).threshold) == 0.0


def test_otsu_refuses_another_criterion():
    """Protects the message: what was asked for, what there is."""
    with pytest.raises(UserError, match=r'criterion: "varianc" is not one of variance, deviation'):
        thresholds.otsu(np.zeros(3, np.float32), "varianc")


@pytest.mark.parametrize(
    ("share", "low", "high", "low_deviation", "high_deviation"),
    [(0.5, 1, 9, 1, 1), (0.4, 1, 4, 1, 1), (0.1, 1, 8, 1, 2), (0.8, -1, 5, 2, 0.5), (0.3, 1e4, 10004, 0.5, 1)],
)
def test_mixture_against_em(share, low, high, low_deviation, high_deviation):
    """Protects the fit and which component is the upper one: unequal sizes and variances, values far from 0; against
    EM in plain NumPy from the truth, to its end."""
    rng = np.random.default_rng(0)
    lower = rng.random(600) < share
    values = np.where(lower, rng.normal(low, low_deviation, 600), rng.normal(high, high_deviation, 600))
    values = values.astype(np.float32).astype(np.float64)
    upper = 1.0 - lower
    for _ in range(3000):
        parts = np.stack([1 - upper, upper])
        n = parts.sum(axis=1)
        mean = parts @ values / n
        deviation = np.sqrt((parts * (values - mean[:, None]) ** 2).sum(axis=1) / n)
        density = n[:, None] * stats.norm.pdf(values, mean[:, None], deviation[:, None])
        upper = density[1] / density.sum(axis=0)
    got = thresholds.upper_probability(values.astype(np.float32))
    np.testing.assert_allclose(got, upper, atol=5e-3)
    assert got.mean() == pytest.approx(1 - share, abs=0.06)


def test_mixture_follows_shift_and_scale():
    """Protects the fit from the unit of the values."""
    values, _ = clusters(2)
    one, other = thresholds.upper_probability(values), thresholds.upper_probability(values * 100 - 3)
    np.testing.assert_allclose(other, one, atol=1e-4)


@pytest.mark.parametrize("values", [[-3e6] * 4, [0.0], [2e-25, 4e-25, 4e-25, 4e-25]])
def test_mixture_of_constant_values(values):
    """Protects from 0/0 where all values are equal, or as good as: even, and numbers in any case."""
    got = thresholds.upper_probability(np.array(values, np.float32))
    assert ((got >= 0) & (got <= 1)).all()
    if len(set(values)) == 1:
        np.testing.assert_array_equal(got, 0.5)
