"""Augmentation against NumPy, image by image, and against the chances it promises."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kdmlc_jax import registry
from kdmlc_jax.config import base
from kdmlc_jax.data import augment
from kdmlc_jax.data.augment import crop, cutout, flip
from kdmlc_jax.errors import UserError

KEY = jax.random.key(0)


def pictures(count, height=6, width=5, channels=2):
    """Images whose every pixel differs from all others, so that each output tells where it came from."""
    size = count * height * width * channels
    values = np.random.default_rng(1).permutation(size).astype(np.float32) + 1.0
    return values.reshape(count, height, width, channels)


def with_fields(**fields):
    """`config.augment` with these fields."""
    how = base().augment
    how.update(fields)
    return how


def crop_corner(before, after, pad):
    """Where NumPy finds `after` in the padded `before`; one place exactly."""
    height, width, _ = before.shape
    padded = np.pad(before, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    corners = itertools.product(range(2 * pad + 1), repeat=2)
    found = [(i, j) for i, j in corners if np.array_equal(padded[i : i + height, j : j + width], after)]
    assert len(found) == 1
    return found[0]


def test_crop_is_a_window_of_the_reflected_image():
    """Protects the crop: each image is a window of its own padding, at every place equally often."""
    images, pad = pictures(1800), 2
    cropped = np.asarray(jax.jit(crop.apply, static_argnums=2)(KEY, images, pad))
    corners = [crop_corner(before, after, pad) for before, after in zip(images, cropped, strict=True)]
    counts = np.bincount([i * 5 + j for i, j in corners], minlength=25)
    assert ((counts - 72) ** 2 / 72).sum() <= 24 + 5 * np.sqrt(48)  # chi-square, 24 degrees of freedom


def test_flip_mirrors_half_of_the_images():
    """Protects the flip: left to right only, half of the images."""
    images = pictures(1000)
    flipped = np.asarray(jax.jit(flip.apply, static_argnums=2)(KEY, images, True))
    mirrored = np.array([np.array_equal(after, before[:, ::-1]) for before, after in zip(images, flipped, strict=True)])
    kept = np.array([np.array_equal(after, before) for before, after in zip(images, flipped, strict=True)])
    assert (mirrored ^ kept).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.07)


cut = jax.jit(cutout.apply, static_argnums=2)


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_cutout_is_one_square_with_its_centre_anywhere(size):
    """Protects Cutout: zeros where NumPy slices a square round some centre, all else untouched, all centres occur."""
    images = pictures(600)
    height, width = images.shape[1:3]
    masks = {}
    for row, column in itertools.product(range(height), range(width)):
        mask = np.ones((height, width), bool)
        top, left = row - size // 2, column - size // 2
        mask[max(top, 0) : top + size, max(left, 0) : left + size] = False
        masks.setdefault(mask.tobytes(), []).append((row, column))
    hidden = np.asarray(cut(KEY, images, size))
    found = set()
    for before, after in zip(images, hidden, strict=True):
        mask = (after != 0).all(axis=-1)
        np.testing.assert_array_equal(after, before * mask[..., None])
        assert mask.tobytes() in masks
        found.add(mask.tobytes())
    assert found == set(masks)


def test_cutout_row_and_column_are_independent():
    """Protects against one number used for both coordinates: off the diagonal there are squares too."""
    hidden = np.asarray(cut(KEY, pictures(600, 5, 5), 1))
    places = {tuple(np.argwhere(image[..., 0] == 0)[0]) for image in hidden}
    assert len(places) == 25


def test_normalise_against_numpy():
    """Protects scale and channel order, for a batch and for one image."""
    raw = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 2)).astype(np.uint8)
    mean, std = np.array([0.2, 0.6], np.float32), np.array([0.5, 0.1], np.float32)
    expected = (raw / 255.0 - mean) / std
    got = augment.normalise(raw, mean, std)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(augment.normalise(raw[0], mean, std), expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 7, 3000])
def test_channel_stats_against_numpy(count):
    """Protects the statistics, whatever the number of blocks they are counted in."""
    raw = np.random.default_rng(0).integers(0, 256, (count, 3, 3, 3)).astype(np.uint8)
    raw[..., 1] //= 3
    mean, std = augment.channel_stats(raw)
    np.testing.assert_allclose(mean, (raw / 255.0).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (raw / 255.0).std(axis=(0, 1, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_constant_channel_can_be_normalised():
    """Protects against NaN from a channel without variation."""
    raw = np.full((2, 3, 3, 1), 7, np.uint8)
    mean, std = augment.channel_stats(raw)
    assert std[0] == np.float32(1 / 255)
    np.testing.assert_allclose(augment.normalise(raw, mean, std), 0.0, atol=1e-5)


def test_augmentations_keep_the_contract():
    """Protects who adds one: each has its own field, place and stream, its default is off, and config has the field."""
    found = augment.augmentations()
    assert {module.__name__.rpartition(".")[2] for module in found} == set(registry.names(augment))
    assert [module.ORDER for module in found] == sorted({module.ORDER for module in found})
    assert len({module.FIELD for module in found}) == len(found)
    for module in found:
        assert base().augment[module.FIELD] == module.DEFAULT and type(module.WEAK) is bool
        module.check(module.DEFAULT, (1, 1))


def test_composition_keys_and_order():
    """Protects old seeds and ablations: crop, flip, Cutout, with the three keys of one split, whichever are on."""
    images, every = pictures(32, 5, 5), {"pad": 2, "flip": True, "cutout": 3}

    @jax.jit
    def made(images):
        keys = jax.random.split(KEY, 3)
        alone = crop.apply(keys[0], images, 2), flip.apply(keys[1], images), cutout.apply(keys[2], images, 3)
        fields = ({"pad": 2}, every, {})
        together = [augment.augmented(KEY, images, with_fields(**each)) for each in fields]
        return alone, together, augment.augmented(KEY, images, with_fields(**every), weak=True)

    (cropped, mirrored, hidden), (only, whole, none), weak = jax.device_get(made(images))
    which = (mirrored != images).any(axis=(1, 2, 3))
    assert 0 < which.sum() < 32 and (hidden == 0).any()
    both = np.where(which[:, None, None, None], cropped[:, :, ::-1], cropped)
    np.testing.assert_array_equal(only, cropped)
    np.testing.assert_array_equal(whole, np.where(hidden == 0, 0.0, both))
    np.testing.assert_array_equal(weak, both)
    np.testing.assert_array_equal(none, images)


@pytest.mark.parametrize("pad", [-1, 5, 9])
def test_pad_beyond_the_image(pad):
    """Protects from a reflection that does not exist: refused before anything is compiled."""
    message = rf"augment\.pad: {pad} is outside \[0, 4\]"
    with pytest.raises(UserError, match=message):
        crop.apply(KEY, jnp.asarray(pictures(2)), pad)
    with pytest.raises(UserError, match=message):
        augment.check(with_fields(pad=pad), (6, 5), np.dtype(np.uint8))


@pytest.mark.parametrize(("side", "fits"), [(-1, False), (0, True), (6, True), (7, False)])
def test_cutout_beyond_the_image(side, fits):
    """Protects from a square of negative side, and from one that hides every image whole."""
    if fits:
        augment.check(with_fields(cutout=side), (6, 5), np.dtype(np.uint8))
    else:
        with pytest.raises(UserError, match=rf"augment\.cutout: {side} is outside \[0, 6\]"):
            augment.check(with_fields(cutout=side), (6, 5), np.dtype(np.uint8))


@pytest.mark.parametrize(("field", "value"), [("pad", 1), ("flip", True), ("cutout", 1)])
def test_features_cannot_be_augmented(field, value):
    """Protects vectors from being cropped, mirrored or cut out."""
    augment.check(with_fields(), (1, 1), np.dtype(np.float32))
    with pytest.raises(UserError, match=rf"augment\.{field}: features cannot be augmented, leave it at"):
        augment.check(with_fields(**{field: value}), (1, 1), np.dtype(np.float32))


def test_mixup_against_numpy():
    """Protects MixUp: weights of Beta(α, α) folded to ½ and more, one partner each, and targets mixed alike."""
    images = pictures(1000, 2, 2, 1)

    @jax.jit
    def both(images, targets):
        mixed, mix = augment.mixup(KEY, images, 0.75)
        return mixed, mix(targets)

    mixed, shares = map(np.asarray, both(images, np.eye(1000, dtype=np.float32)))
    np.testing.assert_allclose(mixed, np.einsum("ij,jhwk->ihwk", shares, images), rtol=1e-5)
    weight = np.diag(shares)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(shares.sum(axis=0) - weight, 1 - weight[np.argsort(partners(shares))], atol=1e-6)
    law = stats.beta(0.75, 0.75)
    assert weight.min() >= 0.5
    assert stats.kstest(weight, lambda value: 2 * law.cdf(value) - 1).pvalue > 1e-3


def partners(shares):
    """Whom each image is mixed with; itself where all of the weight is its own."""
    others = shares - np.diag(np.diag(shares))
    return np.where(others.any(axis=1), others.argmax(axis=1), np.arange(len(shares)))
