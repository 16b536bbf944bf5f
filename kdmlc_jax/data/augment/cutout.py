"""Cutout: one square of each image is hidden (DeVries & Taylor 2017, arXiv 1708.04552)."""

import jax
import jax.numpy as jnp

from kdmlc_jax.errors import in_range
from kdmlc_jax.shapes import Images, Key

FIELD, DEFAULT = "cutout", 0  # side of the square in pixels
ORDER, WEAK = 2, False


def check(side: int, size: tuple[int, ...]) -> None:
    """Raises UserError for a square larger than the image."""
    in_range("augment.cutout", side, 0, max(size))


def apply(key: Key, images: Images, side: int) -> Images:
    """Sets one square of each image to 0, the mean of normalised images.

    The square covers rows c - ⌊s/2⌋ to c - ⌊s/2⌋ + s - 1 around a centre c anywhere in the image, columns likewise; the
    border may cut it.
    """
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    rows = _hidden(row_key, batch, height, side)
    columns = _hidden(column_key, batch, width, side)
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0.0, images)


def _hidden(key: jax.Array, batch: int, length: int, side: int) -> jax.Array:
    """bool[B, L]: the positions a square of this side covers along one axis."""
    start = jax.random.randint(key, (batch, 1), 0, length) - side // 2
    position = jnp.arange(length)[None, :]
    return (position >= start) & (position < start + side)
