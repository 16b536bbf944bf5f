"""Instance-dependent noise at the published strength, against its definition; what the image decides in each form."""

import os

import numpy as np
import pytest
from scipy import stats

from kdmlc_jax import config as config_lib
from kdmlc_jax.data import sources
from kdmlc_jax.data.noise import Request, instance, instance_published

RATE = 0.4


def training_images(source):
    """Images and labels of a source, the first 10 000; skipped where its files are not there."""
    if source != "digits" and "KDMLC_DATA" not in os.environ:
        pytest.skip("KDMLC_DATA is not set")
    config = config_lib.base()
    config.data.source = source
    train = sources.load(config.data).train
    return train.images[:10_000], train.labels[:10_000]


def explained(truth, images, features):
    """I(ỹ; image | y, ỹ ≠ y) / H(ỹ | y, ỹ ≠ y): what the image decides of what the class leaves open; and H in nats."""
    tables = [[] for _ in range(10)]
    for rows, chance in instance.distributions(truth, images, RATE, 10, 0, features):
        tables[truth[rows[0]]].append(chance)
    left, open_ = 0.0, 0.0
    for label, chance in enumerate(map(np.concatenate, tables)):
        chance[:, label] = 0.0
        weight = chance.sum(axis=1)
        left += weight @ stats.entropy(chance, axis=1)
        open_ += weight.sum() * stats.entropy(chance.sum(axis=0))
    return 1 - left / open_, open_ / (RATE * len(truth))


@pytest.mark.parametrize(
    ("source", "soft", "soft_open", "published_open"), [("digits", 0.06, 1.9, 0.7), ("fashion_mnist", 0.08, 2.0, 0.9)]
)
def test_how_much_the_image_decides(source, soft, soft_open, published_open):
    """Protects the figures that docstrings and README give of both forms."""
    images, truth = training_images(source)
    share, left_open = explained(truth, images, instance.standardised)
    assert share == pytest.approx(soft, abs=0.01) and left_open == pytest.approx(soft_open, abs=0.1)
    share, left_open = explained(truth, images, instance_published.pixels)
    assert share > 0.99 and left_open == pytest.approx(published_open, abs=0.25)


def test_labels_are_those_of_the_pixels_by_definition():
    """Protects the draw: rate and q_i as in `instance`, and a wrong label is argmax x W_y over the other classes.

    The oracle does not know W: of images that lie on a line (brightness t of one picture) all wrong labels of a class
    are one and the same, whatever t, and with two opposite pictures, x and -x, they are two.
    """
    rng = np.random.default_rng(0)
    picture, brightness = rng.normal(size=(1, 4, 4, 1)), rng.uniform(1e3, 5e3, 3000)
    sign = np.where(np.arange(3000) % 2, 1, -1)
    truth = np.full(3000, 2, np.int32)
    images = (picture * (brightness * sign)[:, None, None, None]).astype(np.float32)
    given = instance_published.labels(Request(RATE, 5, 0, truth=truth, images=images))
    wrong = given != truth
    assert given.dtype == np.int32 and wrong.mean() == pytest.approx(RATE, abs=5 * np.sqrt(0.24 / 3000))
    bright, dark = (set(given[wrong & (sign == side)].tolist()) for side in (1, -1))
    assert len(bright) == len(dark) == 1 and bright != dark
    ((_, sharp),), ((_, soft),) = (
        instance.distributions(truth, images, RATE, 5, 0, form)
        for form in (instance_published.pixels, instance.standardised)
    )
    np.testing.assert_allclose(sharp[:, 2], soft[:, 2], atol=1e-12)


def test_standardising_is_left_out():
    """Protects the strength: images of another contrast have softer or harder labels, which `instance` cannot tell."""
    images = np.random.default_rng(0).normal(size=(400, 2, 2, 1))
    truth = np.zeros(400, np.int32)

    def sharpest(scale):
        blocks = instance.distributions(truth, images * scale, RATE, 4, 0, instance_published.pixels)
        return np.mean(
            [chance[:, 1:].max() / chance[:, 1:].sum() for _, chances in blocks for chance in chances[:, None]]
        )

    assert sharpest(0.01) < 0.4 < 0.95 < sharpest(100)
