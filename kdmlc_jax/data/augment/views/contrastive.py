"""SimCLR's augmentation as pure functions of (key, images): crop and resize, flip, colour, blur.

Each random function draws its numbers and hands them to a deterministic one that works on a single image. Images are
f32 in 0..1, before normalisation. Chen et al. 2020, "A Simple Framework for Contrastive Learning of
Visual Representations" (arXiv 2002.05709), appendix A; the operations are those of Pillow and torchvision.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdmlc_jax.data.augment import flip as mirror
from kdmlc_jax.data.augment.views.color import color_jitter, random_grey, sometimes
from kdmlc_jax.shapes import Images, Key, Scalar

# Rectangles tried before the largest central one is taken.
_ATTEMPTS = 10


def contrastive_view(
    key: Key,
    images: Images,
    blur: bool = False,
    flip: bool = True,
    scale: tuple[float, float] = (0.2, 1.0),
) -> Images:
    """Crop of `scale` of the area, flip, colour jitter .4/.4/.4/.1 (p = .8), grey (p = .2), and blur (p = .5).

    The numbers are those of SupContrast's SimCLR for CIFAR (Khosla et al. 2020, arXiv 2004.11362), which has no blur;
    with `blur` the kernel is a tenth of the shorter side, as in SimCLR. Each step has its own key.

    Images in 0..1 stay so; `flip` is False where a mirrored image means something else, as a digit does; `scale` is
    the least and greatest share of the area. Raises as `color.check_channels`.
    """
    crop_key, flip_key, jitter_key, grey_key, blur_key = jax.random.split(key, 5)
    images = random_resized_crop(crop_key, images, scale)
    images = mirror.apply(flip_key, images) if flip else images
    images = random_grey(grey_key, color_jitter(jitter_key, images))
    size = max(3, min(images.shape[1:3]) // 10 | 1)
    return gaussian_blur(blur_key, images, size) if blur else images


def random_resized_crop(
    key: Key,
    images: Images,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Images:
    """Cuts a random rectangle out of each image and enlarges it to the image's size.

    Area a ~ U(scale) H W, log(width/height) ~ U(log ratio), sides rounded to whole pixels, place uniform. Of ten
    rectangles the first that fits is taken; where none does, the largest central one with a ratio in the range.
    """
    size = images.shape[1], images.shape[2]

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        return resize_crop(image, *_rectangle(key, size, scale, ratio))

    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def _rectangle(
    key: jax.Array, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Top, left, height and width, f32 whole pixels."""
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (_ATTEMPTS,), minval=scale[0], maxval=scale[1]) * (size[0] * size[1])
    log_ratio = jax.random.uniform(ratio_key, (_ATTEMPTS,), minval=math.log(ratio[0]), maxval=math.log(ratio[1]))
    height = jnp.round(jnp.sqrt(area * jnp.exp(-log_ratio)))
    width = jnp.round(jnp.sqrt(area * jnp.exp(log_ratio)))
    fits = (height >= 1) & (height <= size[0]) & (width >= 1) & (width <= size[1])
    aspect = min(max(size[1] / size[0], ratio[0]), ratio[1])
    largest = round(min(size[0], size[1] / aspect)), round(min(size[1], size[0] * aspect))
    first = jnp.argmax(fits)
    height = jnp.where(fits.any(), height[first], largest[0])
    width = jnp.where(fits.any(), width[first], largest[1])
    free = jnp.stack([size[0] - height, size[1] - width])
    # The minimum guards against u (n + 1) rounding up to n + 1 in float32.
    place = jnp.minimum(jnp.floor(jax.random.uniform(place_key, (2,)) * (free + 1)), free)
    top, left = jnp.where(fits.any(), place, jnp.floor(free / 2))
    return top, left, height, width


def resize_crop(
    image: Float[Array, "H W K"], top: Scalar, left: Scalar, height: Scalar, width: Scalar
) -> Float[Array, "H W K"]:
    """The rectangle, enlarged to the image's size by bilinear interpolation between centres of pixels.

    Row i of H shows row top + min(max((i + ½) height/H - ½, 0), height - 1); columns likewise.
    All four are whole pixels, inside the image.
    """
    return _stretch(_stretch(image, 0, top, height), 1, left, width)


def _stretch(image: jax.Array, axis: int, start: jax.Array, length: jax.Array) -> jax.Array:
    size = image.shape[axis]
    at = (jnp.arange(size) + 0.5) * (length / size) - 0.5
    at = start + jnp.clip(at, 0.0, length - 1.0)
    low = jnp.floor(at).astype(jnp.int32)
    high = jnp.minimum(low + 1, size - 1)
    weight = jnp.expand_dims(at - low, [other for other in range(3) if other != axis])
    return (1.0 - weight) * jnp.take(image, low, axis) + weight * jnp.take(image, high, axis)


def gaussian_blur(
    key: Key,
    images: Images,
    size: int,
    sigma: tuple[float, float] = (0.1, 2.0),
    probability: float | int = 0.5,
) -> Images:
    """Blurs each image with some probability, σ ~ U(sigma) in pixels, by a kernel of `size` x `size` pixels.

    Raises:
      ValueError: for a size that is even or not in 1 to 2 min(H, W) - 1, at trace time.
    """
    limit = 2 * min(images.shape[1:3]) - 1
    if size % 2 == 0 or not 1 <= size <= limit:
        raise ValueError(f"size: {size} is out of range, expected an odd number of pixels from 1 to {limit}")
    which_key, sigma_key = jax.random.split(key)
    sigmas = jax.random.uniform(sigma_key, (len(images),), minval=sigma[0], maxval=sigma[1])
    blurred = jax.vmap(lambda image, sigma: blur_image(image, sigma, size))(images, sigmas)
    return sometimes(which_key, probability, blurred, images)


def blur_image(image: Float[Array, "H W K"], sigma: Scalar, size: int) -> Float[Array, "H W K"]:
    """Σ_k w_k x_{i+k} along rows and columns, w_k ∝ exp(-k²/2σ²) for |k| ≤ (size - 1)/2, reflected at the border.

    σ > 0 in pixels; size is odd, 1 to 2 min(H, W) - 1.
    """
    radius = size // 2
    weight = jax.nn.softmax(-0.5 * jnp.square(jnp.arange(-radius, radius + 1) / sigma))
    for axis in (0, 1):
        pad = [(radius, radius) if other == axis else (0, 0) for other in range(3)]
        padded, length = jnp.pad(image, pad, mode="reflect"), image.shape[axis]
        terms = [weight[k] * jax.lax.slice_in_dim(padded, k, k + length, axis=axis) for k in range(size)]
        image = sum(terms[1:], terms[0])
    return image
