"""Pixels to numbers a network likes: per channel, with the statistics of the training images."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

Pixels = Num[Array | np.ndarray, "*B K"]
Channels = Float[Array | np.ndarray, " K"]


def channel_stats(images: Num[np.ndarray, "N H W K"]) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Mean and standard deviation of every channel, of uint8 on the scale 0..1, of features f32 as they are.

    A deviation is 1/255 at least (1e-6 of features), so that a constant channel can be divided by it.
    """
    if images.dtype != np.uint8:
        rows = images.reshape(-1, images.shape[-1]).astype(np.float64)
        return rows.mean(axis=0).astype(np.float32), np.maximum(rows.std(axis=0), 1e-6).astype(np.float32)
    channels = images.shape[-1]
    levels = np.arange(256) / 255.0
    # Counting grey levels is exact and never holds a float copy of the set.
    counts = np.zeros((channels, 256))
    for block in np.array_split(images, max(1, len(images) // 1024)):
        counts += [np.bincount(block[..., k].ravel(), minlength=256) for k in range(channels)]
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(axis=1)
    return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1 / 255).astype(np.float32)


def normalise(images: Pixels, mean: Channels, std: Channels) -> Float[jax.Array, "*B K"]:
    """(x/255 - mean) / std per channel, of `channel_stats`; features f32 are not divided by 255."""
    channel = (1,) * (images.ndim - 1) + (-1,)
    scaled = images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images
    return jnp.asarray((scaled - jnp.reshape(mean, channel)) / jnp.reshape(std, channel))
