"""Shapes as annotations, read by people and checked in the tests (`jaxtyping`); and images that have features, too.

B images of a batch, N of the noisy split, M trusted ones, H x W pixels of K channels, C classes, D features.
Within one call a letter stands for one number.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

ON_FEATURES = "features_"  # how names of networks begin that are shown features


class Seen(struct.PyTreeNode):
    """Images with the features that another network has of them: networks called features_… see these, others pixels.

    Stands wherever images stand: `len`, `shape` and `dtype` are those of the pixels, rows are taken of both.
    """

    pixels: Any  # [B, H, W, K]
    features: Any  # f32[B, 1, 1, D]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape)

    @property
    def dtype(self) -> Any:
        return self.pixels.dtype

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> "Seen":
        return Seen(self.pixels[rows], self.features[rows])


Key = PRNGKeyArray
Scalar = Float[Array, ""]
Images = Float[Array, "B H W K"]
Inputs = Images | Seen  # what a method is given
Labels = Int[Array, " B"]
Logits = Float[Array, "B C"]
SoftLabels = Float[Array, "B C"]  # rows on the simplex
PerImage = Float[Array, " B"]
Features = Float[Array, "B D"]
Matrix = Float[Array, "C C"]  # rows true classes, columns given ones


def joined(parts: Sequence[Any]) -> Any:
    """The `Inputs` of several batches, one after another."""
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)


def part_of(images: Any, part: str) -> Any:
    """What a network sees of images: their "pixels" or "features"; all of images that have but one of these."""
    return getattr(images, part) if isinstance(images, Seen) else images


def on_pixels(fn: Callable, images: Any) -> Any:
    """`images` with fn(pixels) in place of their pixels."""
    return images.replace(pixels=fn(images.pixels)) if isinstance(images, Seen) else fn(images)
