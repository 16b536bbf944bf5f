"""Random flip: left to right."""

import jax
import jax.numpy as jnp

from kdmlc_jax.shapes import Images, Key

FIELD, DEFAULT = "flip", False
ORDER, WEAK = 1, True


def check(flip: bool, size: tuple[int, ...]) -> None:
    """Any image can be mirrored."""


def apply(key: Key, images: Images, flip: bool | jax.Array = True) -> Images:
    """Mirrors each image left to right with probability 1/2; False leaves all as they are."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1)) & flip
    return jnp.where(mirrored, images[:, :, ::-1], images)
