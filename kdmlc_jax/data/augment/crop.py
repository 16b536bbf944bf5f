"""Random crop: a window of the image padded by reflection, its own for each image."""

import jax
import jax.numpy as jnp

from kdmlc_jax.errors import in_range
from kdmlc_jax.shapes import Images, Key

FIELD, DEFAULT = "pad", 0  # pixels on each side
ORDER, WEAK = 0, True


def check(pad: int, size: tuple[int, ...]) -> None:
    """Raises UserError for a reflection that does not exist."""
    in_range("augment.pad", pad, 0, min(size) - 1)


def apply(key: Key, images: Images, pad: int) -> Images:
    """Pads by reflection and cuts a window of the old size at a random place; UserError as `check`, at trace time."""
    shape = images.shape[1:]
    check(pad, shape[:2])
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), shape))(padded, corners)
