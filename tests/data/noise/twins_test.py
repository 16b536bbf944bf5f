"""Noise of look-alike classes against its definition."""

import numpy as np
import pytest
from scipy import spatial

from kdmlc_jax.data.noise import Request, twins
from kdmlc_jax.errors import UserError

C = 5
RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, C, 3000).astype(np.int32)
# Class 3 is far from all, pixel 4 never changes.
IMAGES = (
    RNG.normal(100, 30, (3000, 2, 3, 1))
    + 12 * RNG.normal(size=(C, 2, 3, 1))[TRUTH]
    + 200 * (TRUTH == 3)[:, None, None, None]
)
IMAGES[:, 1, 1] = 7.1


def twin_labels(truth, images, rate, num_classes=C, seed=0):
    return twins.labels(Request(rate, num_classes, seed, truth=truth, images=images))


def expected(truth, images):
    """Twins and margins by scipy's distances, one class left out at a time."""
    flat = images.reshape(len(images), -1)
    flat = flat[:, flat.std(axis=0) > 1e-9]
    z = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    distance = spatial.distance.cdist(z, [z[truth == label].mean(axis=0) for label in range(C)], "sqeuclidean")
    others = np.where(np.arange(C) == truth[:, None], np.inf, distance)
    return others.argmin(axis=1), distance[np.arange(len(truth)), truth] - others.min(axis=1)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_twins_by_definition(shift, monkeypatch):
    """Protects the twin and the margin: nearest centre of another class, whatever the blocks and the pixels' offset."""
    want, margin = expected(TRUTH, IMAGES)
    monkeypatch.setattr(twins, "_BLOCK", 6 * 100)
    got, hardness = twins.twins(TRUTH, IMAGES + shift, C)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(hardness, margin, atol=1e-6)
    assert len(set(got)) > 2 and (got != TRUTH).all()


class Lazy:
    """Images that can be read by row only, and how many at most were."""

    def __init__(self, images):
        self.images, self.shape, self.dtype, self.most = images, images.shape, images.dtype, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        self.most = max(self.most, len(self.images[rows]))
        return self.images[rows]


def test_images_are_read_in_blocks(monkeypatch):
    """Protects memory: lazy images are asked for few rows at a time."""
    want = twin_labels(TRUTH, IMAGES, 0.4)
    monkeypatch.setattr(twins, "_BLOCK", 6 * 100)
    lazy = Lazy(IMAGES)
    np.testing.assert_array_equal(twin_labels(TRUTH, lazy, 0.4), want)
    assert lazy.most <= 100


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4, 0.5, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_mean_chance_is_the_rate(rate, size):
    """Protects the rate: exact in expectation, high ones too; chances rise with the margin."""
    margin = np.random.default_rng(1).normal(size=size)
    chance = twins.chances(margin, rate)
    assert chance.mean() == pytest.approx(rate, abs=1e-12)
    assert (chance >= 0).all() and (chance <= 1).all()
    assert (np.diff(chance[np.argsort(margin)]) >= 0).all()


def test_wrong_labels_are_twins_of_hard_images():
    """Protects the draw: wrong ones say the twin, come at the rate, and more often on hard images."""
    given, (twin, margin) = twin_labels(TRUTH, IMAGES, 0.3), twins.twins(TRUTH, IMAGES, C)
    wrong = given != TRUTH
    assert given.dtype == np.int32
    np.testing.assert_array_equal(given[wrong], twin[wrong])
    assert wrong.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 3000))
    hard = margin > np.median(margin)
    for part, rate in ((hard, 0.45), (~hard, 0.15)):
        assert wrong[part].mean() == pytest.approx(rate, abs=5 * np.sqrt(0.25 / 1500))


def test_class_without_images_is_nobodys_twin():
    """Protects from a centre of nothing, which lies where the images' mean does."""
    given = twin_labels(TRUTH, IMAGES, 1.0, num_classes=C + 2)
    assert given.max() < C and (given != TRUTH).all()


def test_pure_function_of_the_seed():
    """Protects repeatability: the seed decides, and the arguments stay as they were."""
    truth, images = TRUTH.copy(), IMAGES.copy()
    first = twin_labels(truth, images, 0.5, seed=7)
    np.testing.assert_array_equal(first, twin_labels(truth, images, 0.5, seed=7))
    assert (first != twin_labels(truth, images, 0.5, seed=8)).any()
    np.testing.assert_array_equal(truth, TRUTH)
    np.testing.assert_array_equal(images, IMAGES)


def test_borders():
    """Protects no noise, no images, and images that are all alike."""
    np.testing.assert_array_equal(twin_labels(TRUTH, IMAGES, 0.0), TRUTH)
    assert twin_labels(TRUTH[:0], IMAGES[:0], 0.4).shape == (0,)
    alike = np.full((4, 2, 2, 1), 9, np.uint8)
    np.testing.assert_array_equal(twin_labels(np.array([0, 0, 1, 1], np.int32), alike, 1.0), [1, 1, 0, 0])


def test_arguments_are_checked():
    """Protects against rates in percent, labels out of range, images of another set, and nothing to be taken for."""
    with pytest.raises(UserError, match=r"noise\.rate: 40 is outside \[0, 1\]"):
        twin_labels(TRUTH, IMAGES, 40)
    with pytest.raises(UserError, match=r"labels row 0: 9 is out of range, expected 0 to 4"):
        twin_labels(np.array([9]), IMAGES[:1], 0.4)
    with pytest.raises(UserError, match=r"images: 3 for 4 labels, expected as many"):
        twin_labels(TRUTH[:4], IMAGES[:3], 0.4)
    with pytest.raises(UserError, match=r'noise\.kind: "twins" needs images of 2 classes or more'):
        twin_labels(np.zeros(3, np.int32), IMAGES[:3], 0.4)
