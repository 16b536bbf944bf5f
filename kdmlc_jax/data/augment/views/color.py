"""Colour jitter and grey as pure functions of (key, images f32 in 0..1), and the changes of one image they consist of.

The operations are those of Pillow's ImageEnhance and of torchvision, in float instead of 8 bits.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdmlc_jax.shapes import Images, Key, Scalar

# ITU-R 601-2 luma, as Pillow's mode L.
_LUMA = (0.299, 0.587, 0.114)


def color_jitter(
    key: Key,
    images: Images,
    brightness: float | int = 0.4,
    contrast: float | int = 0.4,
    saturation: float | int = 0.4,
    hue: float | int = 0.1,
    probability: float | int = 0.8,
) -> Images:
    """Changes brightness, contrast, saturation and hue of each image with some probability, in random order.

    Factors f ~ U(max(0, 1 - s), 1 + s) for strength s, hue shift ~ U(-hue, hue). The order is one for the whole
    batch, for else all four would be computed four times for each image; the numbers are each image's own.
    Grey images (K = 1) have no saturation and no hue; only brightness and contrast change.

    Args:
      key: typed key.
      images: in 0..1, as is what is returned.
      brightness, contrast, saturation: strengths, 0 or more; 0 = as it is.
      hue: in turns, 0 to 1/2.
      probability: of changing an image at all.

    Raises:
      ValueError: as `check_channels`.
    """
    check_channels(images)
    which_key, order_key, hue_key, *keys = jax.random.split(key, 6)
    count = len(images)
    steps = []
    adjusts = (adjust_brightness, adjust_contrast, adjust_saturation)
    for adjust, strength, factor_key in zip(adjusts, (brightness, contrast, saturation), keys, strict=True):
        low, high = max(0.0, 1.0 - strength), 1.0 + strength
        steps.append(_each(adjust, jax.random.uniform(factor_key, (count,), minval=low, maxval=high)))
    steps.append(_each(adjust_hue, jax.random.uniform(hue_key, (count,), minval=-hue, maxval=hue)))
    steps = steps if images.shape[-1] == 3 else steps[:2]
    changed = images
    for step in jax.random.permutation(order_key, len(steps)):
        changed = jax.lax.switch(step, steps, changed)
    return sometimes(which_key, probability, changed, images)


def _each(adjust: Callable[[jax.Array, jax.Array], jax.Array], amount: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda images: jax.vmap(adjust)(images, amount)


def random_grey(key: Key, images: Images, probability: float | int = 0.2) -> Images:
    """Turns each image grey with some probability; a grey image (K = 1) stays as it is. Raises as `check_channels`."""
    check_channels(images)
    return sometimes(key, probability, jnp.broadcast_to(luma(images), images.shape), images)


def luma(images: Float[Array, "*B K"]) -> Float[Array, "*B 1"]:
    """.299 R + .587 G + .114 B (ITU-R 601-2); the images themselves for K = 1."""
    if images.shape[-1] == 1:
        return images
    weight = jnp.reshape(jnp.array(_LUMA, images.dtype), (1,) * (images.ndim - 1) + (3,))
    return jnp.sum(weight * images, axis=-1, keepdims=True)


def adjust_brightness(image: Float[Array, "H W K"], factor: Scalar) -> Float[Array, "H W K"]:
    """f x, clipped to 0..1."""
    return jnp.clip(factor * image, 0.0, 1.0)


def adjust_contrast(image: Float[Array, "H W K"], factor: Scalar) -> Float[Array, "H W K"]:
    """f x + (1-f) m with m the mean of `luma`, clipped to 0..1."""
    return jnp.clip(factor * image + (1.0 - factor) * jnp.mean(luma(image)), 0.0, 1.0)


def adjust_saturation(image: Float[Array, "H W K"], factor: Scalar) -> Float[Array, "H W K"]:
    """f x + (1-f) `luma`(x), clipped to 0..1."""
    return jnp.clip(factor * image + (1.0 - factor) * luma(image), 0.0, 1.0)


def adjust_hue(image: Float[Array, "H W K"], shift: Scalar) -> Float[Array, "H W K"]:
    """Turns the hue of RGB: h ← h + shift mod 1, saturation and value of HSV as they are; a shift of 1 is a turn.

    With V = max, c = V - min and h' = 6 h, channel n gets V - c min(max(min(k, 4-k), 0), 1), k = n + h' mod 6,
    n = 5, 3, 1 for R, G, B.
    """
    value = jnp.max(image, axis=-1, keepdims=True)
    chroma = value - jnp.min(image, axis=-1, keepdims=True)
    red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sextant = jnp.where(value == red, (green - blue) / safe, 2.0 + (blue - red) / safe)
    sextant = jnp.where((value == blue) & (value > red) & (value > green), 4.0 + (red - green) / safe, sextant)
    k = jnp.mod(sextant + 6.0 * shift + jnp.array([5.0, 3.0, 1.0]).reshape(1, 1, 3), 6.0)
    return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)


def check_channels(images: Images) -> None:
    """Raises ValueError where the images are neither grey nor RGB, at trace time."""
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"images: {images.shape[-1]} channels, expected 1 (grey) or 3 (RGB)")


def sometimes(key: Key, probability: float | int, changed: Images, images: Images) -> Images:
    """Each image changed with the given probability."""
    chosen = jax.random.bernoulli(key, probability, (len(images), 1, 1, 1))
    return jnp.where(chosen, changed, images)
