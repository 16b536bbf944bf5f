"""SimCLR's augmentation against Pillow, scikit-image, SciPy and NumPy."""

import colorsys

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from kdmlc_jax.data.augment import flip
from kdmlc_jax.data.augment.views import color
from kdmlc_jax.data.augment.views import contrastive as views

KEY = jax.random.key(0)
QUICK = jax.random.key(0, impl="unsafe_rbg")  # compiled in a fraction of the time, where any random numbers do
H, W = 9, 12


def pictures(count, channels=3, height=H, width=W):
    """Images of 256 grey levels, so that Pillow can hold them."""
    levels = np.random.default_rng(1).integers(0, 256, (count, height, width, channels))
    return levels.astype(np.float32) / np.float32(255)


def pillow(image):
    """The image as Pillow's, 8 bits a channel."""
    return Image.fromarray(np.round(image * 255).astype(np.uint8).squeeze())


def same(after, before):
    """bool[B]: which images are what they were."""
    return (np.asarray(after) == before).all(axis=(1, 2, 3))


FACTORS = (0.0, 0.6, 1.0, 1.4)


@pytest.mark.parametrize(
    ("name", "channels"), [("Brightness", 3), ("Contrast", 3), ("Color", 3), ("Brightness", 1), ("Contrast", 1)]
)
def test_enhancements_against_pillow(name, channels):
    """Protects the rules of brightness, contrast and saturation, clipping included, up to Pillow's rounding."""
    adjust = getattr(color, f"adjust_{'saturation' if name == 'Color' else name.lower()}")
    images = pictures(3, channels)
    every = jax.jit(jax.vmap(jax.vmap(adjust, (None, 0)), (0, None)))(images, np.array(FACTORS, np.float32))
    assert every.dtype == np.float32
    for image, row in zip(images, np.asarray(every), strict=True):
        for factor, got in zip(FACTORS, row, strict=True):
            expected = np.asarray(getattr(ImageEnhance, name)(pillow(image)).enhance(factor)) / 255.0
            np.testing.assert_allclose(got.squeeze(), expected, atol=2 / 255)


def test_hue_against_colorsys():
    """Protects the hue: HSV by Python's own module, for every sextant, ties between channels, black, grey and white."""
    corners = np.stack(np.meshgrid(*[[0.0, 0.5, 1.0]] * 3), -1).reshape(27, 1, 3)
    image = np.concatenate([corners, pictures(1, height=27, width=5)[0]], axis=1).astype(np.float32)
    shifts = np.array([-0.5, -0.1, 0.0, 0.03, 0.1, 0.37, 0.5], np.float32)
    every = np.asarray(jax.jit(jax.vmap(color.adjust_hue, (None, 0)))(image, shifts))
    for shift, got in zip(shifts, every, strict=True):
        expected = np.empty_like(image)
        for place in np.ndindex(image.shape[:2]):
            hue, saturation, value = colorsys.rgb_to_hsv(*map(float, image[place]))
            expected[place] = colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_luma_against_scikit_image_and_pillow():
    """Protects the weights of grey: Pillow's, not those of scikit-image for linear light, which differ."""
    skimage_color = pytest.importorskip("skimage.color")
    (image,) = pictures(1)
    got = np.asarray(jax.jit(color.luma)(image))
    np.testing.assert_allclose(got[..., 0], np.asarray(pillow(image).convert("L")) / 255.0, atol=1 / 255)
    np.testing.assert_allclose(got[..., 0], skimage_color.rgb2yuv(image)[..., 0], atol=1e-5)
    np.testing.assert_array_equal(color.luma(jax.numpy.asarray(image[..., :1])), image[..., :1])


def bilinear(image, top, left, height, width):
    """Crop, then enlarge, point by point."""
    crop = image[top : top + height, left : left + width].astype(np.float64)
    rows = [(i + 0.5) * height / len(image) - 0.5 for i in range(len(image))]
    columns = [(j + 0.5) * width / image.shape[1] - 0.5 for j in range(image.shape[1])]
    return np.stack([np.stack([_point(crop, row, column) for column in columns]) for row in rows])


def _point(crop, row, column):
    total = np.zeros(crop.shape[-1])
    # Each pixel's weight falls linearly to 0 at a distance of 1; beyond the border the border's pixels go on.
    for i in range(-1, len(crop) + 1):
        for j in range(-1, crop.shape[1] + 1):
            weight = max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j))
            total += weight * crop[np.clip(i, 0, len(crop) - 1), np.clip(j, 0, crop.shape[1] - 1)]
    return total


resize_crop = jax.jit(views.resize_crop)


@pytest.mark.parametrize("box", [(0, 0, H, W), (0, 0, 1, 1), (2, 3, 5, 4), (4, 8, 5, 4), (0, 11, 9, 1), (8, 0, 1, 12)])
def test_resize_crop_against_pillow_and_numpy(box):
    """Protects place, size and border of the crop: nothing from outside the rectangle, centres aligned."""
    (image,) = pictures(1)
    got = np.asarray(resize_crop(image, *map(np.float32, box)))
    np.testing.assert_allclose(got, bilinear(image, *box), atol=1e-5)
    top, left, height, width = box
    for channel in range(3):
        crop = Image.fromarray(image[top : top + height, left : left + width, channel])
        expected = crop.resize((W, H), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(got[..., channel], np.asarray(expected), atol=1e-5)
    if box == (0, 0, H, W):
        np.testing.assert_allclose(got, image, atol=1e-6)


def rectangles(count, size, scale, ratio):
    """f32[count, 4]: top, left, height, width."""
    keys = jax.random.split(KEY, count)
    draw = jax.jit(jax.vmap(lambda key: jax.numpy.stack(views._rectangle(key, size, scale, ratio))))
    return np.asarray(draw(keys))


def test_rectangles_follow_the_recipe():
    """Protects area, ratio and place: uniform, log-uniform and uniform, by tests against those laws."""
    size, scale, ratio = (400, 400), (0.2, 0.5), (3 / 4, 4 / 3)  # every rectangle fits
    top, left, height, width = rectangles(4000, size, scale, ratio).T
    assert all((value == np.round(value)).all() for value in (top, left, height, width))
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 400).all() and (left + width <= 400).all()
    area = (height * width / 400**2 - 0.2) / 0.3
    log_ratio = (np.log(width / height) - np.log(3 / 4)) / np.log(16 / 9)
    places = ((top + 0.5) / (401 - height), (left + 0.5) / (401 - width))
    for value in (area, log_ratio, *places):
        assert stats.kstest(value, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(area, log_ratio)[0, 1]) < 0.08 and abs(np.corrcoef(places)[0, 1]) < 0.08


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_rectangles_stay_inside(size):
    """Protects small and long images: a whole rectangle inside, the largest central one where none fits."""
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    top, left, height, width = rectangles(500, size, scale, ratio).T
    assert (height >= 1).all() and (width >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()
    if max(size) == 200:
        assert set(zip(height, width, strict=True)) == {tuple(3 if side == 3 else 4 for side in size)}
        assert set(zip(top, left, strict=True)) == {tuple(0 if side == 3 else 98 for side in size)}


def test_random_resized_crop_uses_each_images_own_rectangle():
    """Protects the batch: image i is its own crop at its own rectangle."""
    images = pictures(6)

    @jax.jit
    def both(images):
        one = lambda key: jax.numpy.stack(views._rectangle(key, (H, W), (0.2, 1.0), (3 / 4, 4 / 3)))  # noqa: E731
        return views.random_resized_crop(KEY, images), jax.vmap(one)(jax.random.split(KEY, 6))

    got, boxes = map(np.asarray, both(images))
    boxes = boxes.astype(int)
    assert len({tuple(box) for box in boxes}) > 1
    for after, before, box in zip(got, images, boxes, strict=True):
        np.testing.assert_allclose(after, bilinear(before, *box), atol=1e-5)


@pytest.mark.parametrize(("size", "sigma"), [(1, 1.0), (3, 0.8), (17, 2.0)])
def test_blur_against_scipy(size, sigma):
    """Protects the kernel and its border, up to the largest kernel the image can be reflected for."""
    (image,) = pictures(1)
    expected = ndimage.gaussian_filter(image.astype(np.float64), sigma, mode="mirror", radius=[size // 2, size // 2, 0])
    got = jax.jit(views.blur_image, static_argnums=2)(image, np.float32(sigma), size)
    np.testing.assert_allclose(got, expected, atol=1e-5)


RANDOM = {
    "crop": (views.random_resized_crop, None),
    "jitter": (color.color_jitter, 0.8),
    "grey": (color.random_grey, 0.2),
    "blur": (lambda key, images: views.gaussian_blur(key, images, 3, (0.5, 2.0)), 0.5),
    "simclr": (lambda key, images: views.contrastive_view(key, images, True), None),
}


@pytest.mark.parametrize(
    ("name", "channels"),
    [("crop", 3), ("jitter", 3), ("jitter", 1), ("grey", 3), ("grey", 1), ("blur", 3), ("simclr", 1)],
)
def test_random_functions(name, channels):
    """Protects all of them: pure, jittable, in 0..1, each image's own numbers, changed as often as promised."""
    change, probability = jax.jit(RANDOM[name][0]), RANDOM[name][1]
    images = np.repeat(pictures(1, channels), 1000, axis=0)
    first = np.asarray(change(QUICK, images))
    assert first.shape == images.shape and first.dtype == np.float32
    assert (first >= -1e-6).all() and (first <= 1 + 1e-6).all()
    np.testing.assert_array_equal(first, change(QUICK, images))
    if (name, channels) == ("grey", 1):
        np.testing.assert_array_equal(first, images)
        return
    assert (first != np.asarray(change(jax.random.fold_in(QUICK, 1), images))).any()
    if probability is not None:
        assert 1 - same(first, images).mean() == pytest.approx(probability, abs=0.07)
    if name != "grey":
        assert len(np.unique(first, axis=0)) > 50


def test_jitter_draws_factors_from_their_ranges():
    """Protects the strengths: one change alone, read back where nothing is clipped, is uniform in its range."""
    images = np.full((2000, 2, 2, 3), 0.25, np.float32)
    bright = jax.jit(lambda images: color.color_jitter(QUICK, images, 0.4, 0, 0, 0, 1.0))
    factor = np.asarray(bright(images))[:, 0, 0, 0] / 0.25
    assert stats.kstest((factor - 0.6) / 0.8, "uniform").pvalue > 1e-3
    images[...] = [0.5, 0.25, 0.25]
    hue = jax.jit(lambda images: color.color_jitter(QUICK, images, 0, 0, 0, 0.1, 1.0))
    shift = np.array([colorsys.rgb_to_hsv(*map(float, image[0, 0]))[0] for image in np.asarray(hue(images))])
    shift = (shift + 0.5) % 1 - 0.5
    assert stats.kstest((shift + 0.1) / 0.2, "uniform").pvalue > 1e-3


def test_jitter_changes_order():
    """Protects the random order: brightness, which clips at 1, comes before contrast or after, as the key says."""
    images = jax.numpy.array([[[[0.4], [0.9]]]])  # grey: the other two changes are not compiled
    both = lambda key: color.color_jitter(key, images, 0.9, 0.9, 0, 0, 1.0)[0]  # noqa: E731
    # A change that is switched off leaves the numbers of the other as they were, so each can be seen alone.
    bright = lambda key: color.color_jitter(key, 0.5 * images, 0.9, 0, 0, 0, 1.0)[0, 0, 0, 0] / 0.2  # noqa: E731
    contrast = lambda key: color.color_jitter(key, 0.5 * images, 0, 0.9, 0, 0, 1.0)[0, 0, :, 0]  # noqa: E731
    every = jax.jit(jax.vmap(lambda key: (both(key), bright(key), contrast(key))))
    found, keys = set(), jax.random.split(KEY, 24)
    for image, factor, (dark, light) in zip(*map(np.asarray, every(keys)), strict=True):
        ratio = (light - dark) / 0.25
        first = contrasted(np.minimum(factor * np.asarray(images[0]), 1), ratio)
        last = np.clip(factor * contrasted(np.asarray(images[0]), ratio), 0, 1)
        matches = {name for name, made in (("first", first), ("last", last)) if np.abs(made - image).max() < 1e-4}
        assert matches
        found |= matches if len(matches) == 1 else set()
    assert found == {"first", "last"}


def contrasted(image, factor):
    """Contrast of a grey picture by NumPy."""
    return np.clip(factor * image + (1 - factor) * image.mean(), 0, 1)


def test_grey_is_luma_in_all_channels():
    """Protects grey images: still three channels, all of them the luma; the others untouched."""
    images = pictures(200)
    got, luma = (np.asarray(made) for made in jax.jit(lambda x: (color.random_grey(QUICK, x), color.luma(x)))(images))
    grey = ~same(got, images)
    expected = np.broadcast_to(luma, images.shape)
    np.testing.assert_allclose(got[grey], expected[grey], atol=1e-6)
    assert 0 < grey.sum() < 200


def composed(key, images):
    """The recipe written out, without and with blur."""
    keys = jax.random.split(key, 5)
    images = flip.apply(keys[1], views.random_resized_crop(keys[0], images))
    images = color.random_grey(keys[3], color.color_jitter(keys[2], images))
    return images, views.gaussian_blur(keys[4], images, 3)


def test_simclr_is_the_composition_of_its_steps():
    """Protects the recipe: the steps in their order, each with its own key, blur last and only where asked for."""
    images = jax.numpy.asarray(pictures(32))

    @jax.jit
    def both(key):
        return (views.contrastive_view(key, images), views.contrastive_view(key, images, blur=True)), composed(
            key, images
        )

    got, expected = both(QUICK)
    for mine, written in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, written, atol=1e-5)
    assert 0 < same(got[0], np.asarray(got[1])).sum() < 32


@pytest.mark.parametrize("size", [-1, 0, 2, 19])
def test_blur_beyond_the_image(size):
    """Protects from kernels without a centre, or wider than the reflection goes."""
    with pytest.raises(
        ValueError, match=rf"size: {size} is out of range, expected an odd number of pixels from 1 to 17"
    ):
        views.gaussian_blur(KEY, jax.numpy.asarray(pictures(1)), size)


@pytest.mark.parametrize("change", [color.color_jitter, color.random_grey, views.contrastive_view])
def test_other_numbers_of_channels(change):
    """Protects from features and RGBA images taken for colours."""
    with pytest.raises(ValueError, match=r"images: 4 channels, expected 1 \(grey\) or 3 \(RGB\)"):
        jax.eval_shape(change, KEY, pictures(1, 4))
