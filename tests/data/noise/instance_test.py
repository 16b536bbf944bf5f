"""Instance-dependent noise against its definition."""

import itertools

import numpy as np
import pytest
from scipy import stats

from kdmlc_jax.data.noise import Request, instance, realised
from kdmlc_jax.errors import UserError

C = 5
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, C, 20_000).astype(np.int32)
IMAGES = RNG.integers(0, 256, (len(LABELS), 4, 4, 1)).astype(np.uint8)


def distributions(labels, images, rate=0.4, seed=0):
    """f64[N, C], every row set exactly once."""
    result, times = np.full((len(labels), C), np.nan), np.zeros(len(labels), int)
    for rows, chance in instance.distributions(labels, images, rate, C, seed):
        result[rows] = chance
        times[rows] += 1
    assert (times == 1).all()
    return result


def instance_labels(labels, images, rate, num_classes, seed):
    return instance.labels(Request(rate, num_classes, seed, truth=labels, images=images))


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4, 0.8])
def test_flip_rates_are_truncated_normal(rate):
    """Protects q_i: the law of scipy's truncated normal by a Kolmogorov-Smirnov test, and rows that sum to 1."""
    chance = distributions(LABELS, IMAGES, rate)
    assert (chance >= 0).all()
    np.testing.assert_allclose(chance.sum(axis=1), 1.0, atol=1e-12)
    flip = 1 - chance[np.arange(len(LABELS)), LABELS]
    law = stats.truncnorm(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
    assert stats.kstest(flip, law.cdf).pvalue > 1e-3


def test_wrong_labels_follow_a_softmax_of_projections():
    """Protects P_i: given all of one class, log-odds of the other classes are linear in the image with N(0, 1) weights.

    The oracle fits W by least squares: the fit is perfect, and the weights have mean 0 and variance 1.
    """
    labels = np.full(3000, 2, np.int32)
    chance = distributions(labels, IMAGES[:3000])
    flat = IMAGES[:3000].reshape(3000, -1) / 255.0
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.sqrt((flat**2).sum(axis=1, keepdims=True))
    log_odds = np.log(chance[:, [1, 3, 4]] / chance[:, [0]])
    weights, *_ = np.linalg.lstsq(flat, log_odds, rcond=None)
    np.testing.assert_allclose(flat @ weights, log_odds, atol=1e-9)
    # Differences of two independent weights have variance 2; one of 16 directions is lost to the images' mean 0.
    assert (weights**2).sum() / (15 * 3) == pytest.approx(2.0, rel=0.5)


def test_labels_follow_their_own_distributions():
    """Protects the draw: the sums of P_i are the expected counts of every pair of classes."""
    given = instance_labels(LABELS, IMAGES, 0.4, C, 0)
    chance = distributions(LABELS, IMAGES)
    assert given.dtype == np.int32
    for label, other in itertools.product(range(C), repeat=2):
        rows = label == LABELS
        expected, variance = chance[rows, other].sum(), (chance[rows, other] * (1 - chance[rows, other])).sum()
        assert abs((given[rows] == other).sum() - expected) <= 5 * np.sqrt(variance)
    # Where P_i says likely, the label comes more often than where it says unlikely.
    likely = chance[:, 0] > np.median(chance[LABELS != 0, 0])
    hit = given == 0
    assert hit[likely & (LABELS != 0)].mean() > 1.5 * hit[~likely & (LABELS != 0)].mean()


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.6, 0.8])
def test_realised_rate_is_near_the_nominal_one(rate):
    """Protects the meaning of the rate: away from 0 and 1, the share of wrong labels."""
    given = instance_labels(LABELS, IMAGES, rate, C, 1)
    assert realised(LABELS, given, C)[0] == pytest.approx(rate, abs=0.02)


def test_distribution_depends_on_the_image_and_on_nothing_else():
    """Protects instance dependence: equal images of a class err alike, others do not; scale and shift are no matter."""
    images = IMAGES[:400].copy()
    labels = np.repeat([0, 1], 200).astype(np.int32)
    images[100] = images[0]
    images[101] = images[0] // 2 * 2  # nearly the same
    images[300] = images[0]
    chance = distributions(labels, images)
    shape = chance.copy()
    shape[np.arange(400), labels] = 0
    shape /= shape.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shape[100], shape[0], atol=1e-12)
    np.testing.assert_allclose(shape[101], shape[0], atol=0.02)
    assert np.abs(shape[1:100] - shape[0]).max(axis=1).min() > 0.01
    assert np.abs(shape[300, 2:] - shape[0, 2:]).max() > 0.01  # another class, another projection
    scaled = distributions(labels, images / 510.0 + 0.25)
    np.testing.assert_allclose(scaled, chance, atol=1e-9)


def test_other_rows_do_not_matter():
    """Protects independence: labels and images of other rows leave a row's distribution and its label as they were."""
    labels, images = LABELS[:1000].copy(), IMAGES[:1000].copy()
    before, given = distributions(labels, images), instance_labels(labels, images, 0.4, C, 0)
    labels[500:], images[500:] = 3, 7
    np.testing.assert_allclose(distributions(labels, images)[:500], before[:500], atol=1e-12)
    np.testing.assert_array_equal(instance_labels(labels, images, 0.4, C, 0)[:500], given[:500])


def test_pure_function_of_the_seed():
    """Protects repeatability: the seed decides, global randomness is not touched, the arguments stay as they were."""
    labels, images, before = LABELS[:500].copy(), IMAGES[:500].copy(), np.random.get_state()[1]
    first = instance_labels(labels, images, 0.5, C, 7)
    np.testing.assert_array_equal(first, instance_labels(labels, images, 0.5, C, 7))
    assert (first != instance_labels(labels, images, 0.5, C, 8)).any()
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(labels, LABELS[:500])
    np.testing.assert_array_equal(images, IMAGES[:500])


class Lazy:
    """Images that can be read by row only, and how many at most were."""

    def __init__(self, images):
        self.images, self.shape, self.dtype, self.most = images, images.shape, images.dtype, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        self.most = max(self.most, len(rows))
        return self.images[rows]


def test_images_are_read_in_blocks(monkeypatch):
    """Protects memory: lazy images are asked for few rows at a time, and the blocks do not change the labels."""
    expected = instance_labels(LABELS[:2000], IMAGES[:2000], 0.4, C, 0)
    monkeypatch.setattr(instance, "_BLOCK", 16 * 10)
    lazy = Lazy(IMAGES[:2000])
    np.testing.assert_array_equal(instance_labels(LABELS[:2000], lazy, 0.4, C, 0), expected)
    assert lazy.most <= 10


def test_borders():
    """Protects rate 0, which is no noise although the truncated normal has mean .08, and images without detail."""
    np.testing.assert_array_equal(instance_labels(LABELS, IMAGES, 0.0, C, 0), LABELS)
    flat = distributions(np.zeros(3, np.int32), np.full((3, 4, 4, 1), 9, np.uint8))
    np.testing.assert_allclose(flat[:, 1:], np.tile((1 - flat[:, :1]) / (C - 1), C - 1))
    assert instance_labels(np.zeros(0, np.int32), IMAGES[:0], 0.4, C, 0).shape == (0,)
    features = RNG.normal(size=(50, 1, 1, 8)).astype(np.float32)
    assert (instance_labels(np.zeros(50, np.int32), features, 0.5, C, 0) != 0).any()


def test_arguments_are_checked():
    """Protects against rates in percent, labels out of range, and images of another set."""
    with pytest.raises(UserError, match=r"noise\.rate: 40 is outside \[0, 1\]"):
        instance_labels(LABELS, IMAGES, 40, C, 0)
    with pytest.raises(UserError, match=r"labels row 0: 9 is out of range, expected 0 to 4"):
        instance_labels(np.array([9]), IMAGES[:1], 0.4, C, 0)
    with pytest.raises(UserError, match=r"images: 3 for 4 labels, expected as many"):
        instance_labels(LABELS[:4], IMAGES[:3], 0.4, C, 0)
