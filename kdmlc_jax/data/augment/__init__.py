"""Random crop, flip and Cutout as pure functions of (key, images), to be called inside the jitted step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def channel_stats(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every channel, of uint8 on the scale 0..1.

    Args:
      images: u8[N, H, W, K], the training images, or features f32[N, H, W, K].

    Returns:
      f32[K] and f32[K]; a deviation is 1/255 at least (1e-6 of features), so that a constant channel can be
      divided by it.
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


def normalise(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """(x/255 - mean) / std per channel; features f32 are not divided by 255.

    Args:
      images: u8[..., K], grey levels 0..255, or features f32[..., K].
      mean: f32[K], from `channel_stats`.
      std: f32[K], above 0.

    Returns:
      f32[..., K].
    """
    channel = (1,) * (images.ndim - 1) + (-1,)
    scaled = images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images
    return (scaled - jnp.reshape(mean, channel)) / jnp.reshape(std, channel)


def random_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Pads by reflection and cuts a window of the old size at a random place, its own for each image.

    Args:
      key: typed key.
      images: f32[B, H, W, K].
      pad: pixels on each side, static, 0 to min(H, W) - 1.

    Returns:
      f32[B, H, W, K].

    Raises:
      ValueError: for a pad out of range, at trace time.
    """
    shape = images.shape[1:]
    if not 0 <= pad < min(shape[:2]):
        raise ValueError(f"augment.pad: {pad} is out of range, expected 0 to {min(shape[:2]) - 1} pixels")
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), shape))(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      key: typed key.
      images: f32[B, H, W, K].

    Returns:
      f32[B, H, W, K].
    """
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def cutout(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """Sets one square of each image to 0, the mean of normalised images (DeVries & Taylor 2017, arXiv 1708.04552).

    The square covers rows c - ⌊size/2⌋ to c - ⌊size/2⌋ + size - 1 around a centre c anywhere in the image,
    columns likewise; the border may cut it.

    Args:
      key: typed key.
      images: f32[B, H, W, K], mean-centred.
      size: side in pixels, static, 0 or more.

    Returns:
      f32[B, H, W, K].

    Raises:
      ValueError: for a negative size, at trace time.
    """
    if size < 0:
        raise ValueError(f"augment.cutout: {size} is out of range, expected 0 or more pixels")
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)
    rows = _hidden(row_key, batch, height, size)
    columns = _hidden(column_key, batch, width, size)
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0.0, images)


def _hidden(key: jax.Array, batch: int, length: int, size: int) -> jax.Array:
    """bool[B, L]: the positions a square of this side covers along one axis."""
    start = jax.random.randint(key, (batch, 1), 0, length) - size // 2
    position = jnp.arange(length)[None, :]
    return (position >= start) & (position < start + size)


def augment(key: jax.Array, images: jax.Array, pad: int, flip: bool, cutout_size: int) -> jax.Array:
    """Crop, then flip, then Cutout; each has its own key, so switching one off leaves the others as they were.

    Args:
      key: typed key.
      images: f32[B, H, W, K], normalised.
      pad: reflected pixels on each side, static; 0 = no crop.
      flip: mirror half of the images, static.
      cutout_size: side of the square in pixels, static; 0 = none.

    Returns:
      f32[B, H, W, K].

    Raises:
      ValueError: for a pad or size out of range, at trace time.
    """
    crop_key, flip_key, cutout_key = jax.random.split(key, 3)
    if pad:
        images = random_crop(crop_key, images, pad)
    if flip:
        images = random_flip(flip_key, images)
    return cutout(cutout_key, images, cutout_size) if cutout_size else images


def mixup(key: jax.Array, images: jax.Array, alpha: float) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """x̃_i = λ_i x_i + (1-λ_i) x_π(i) with λ_i ~ Beta(α, α), folded to λ ≥ ½ (MixUp, Zhang et al. 2018; the fold, by
    which an image stays nearer to itself than to its partner, is MixMatch's).

    Args:
      key: typed key.
      images: f32[B, H, W, K].
      alpha: α > 0.

    Returns:
      The mixed images, and a function that mixes targets f32[B, C] in the same way.
    """
    weight_key, order_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, (len(images),))
    weight = jnp.maximum(weight, 1.0 - weight)
    partner = jax.random.permutation(order_key, len(images))

    def mix(rows: jax.Array) -> jax.Array:
        w = jnp.reshape(weight, (-1,) + (1,) * (rows.ndim - 1))
        return w * rows + (1.0 - w) * rows[partner]

    return mix(images), mix
