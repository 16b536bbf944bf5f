"""The resident pipeline: uint8 images live on the device, batches are gathered and augmented inside the step.

The order is a pure function of (seed, epoch): nothing of it needs to be saved to resume exactly.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdmlc_jax.data import augment
from kdmlc_jax.data.prepare import Dataset
from kdmlc_jax.methods.base import Batch, Streams


def resident(dataset: Dataset) -> dict[str, np.ndarray]:
    """All that training reads, as host arrays to be put on the device; the hidden truth is not among it."""
    noisy, trusted = dataset.splits.noisy, dataset.splits.trusted
    seen = dataset.images[np.concatenate([noisy, trusted])]
    mean, std = augment.channel_stats(seen)
    return {
        "image": dataset.images[noisy],
        "label": dataset.given_label[noisy],
        "index": np.arange(len(noisy), dtype=np.int32),
        "trusted_image": dataset.images[trusted],
        "trusted_label": dataset.given_label[trusted],
        "trusted_given": dataset.trusted_given[trusted],
        "mean": mean,
        "std": std,
    }


def permutations(seed: int, stream: int, start: int, count: int, size: int) -> np.ndarray:
    """Positions start…start+count-1 of an endless row of permutations of range(size), as i32[count]."""
    first, last = start // size, (start + count - 1) // size
    rows = [np.random.default_rng((seed, stream, turn)).permutation(size) for turn in range(first, last + 1)]
    return np.concatenate(rows)[start - first * size :][:count].astype(np.int32)


def epoch_order(seed: int, epoch: int, steps: int, streams: Streams, noisy: int, trusted: int) -> dict[str, np.ndarray]:
    """Which images each step of an epoch eats: noisy i32[steps, B] without replacement, trusted i32[steps, B']."""
    order = {}
    if streams.noisy:
        turn = np.random.default_rng((seed, 1, epoch)).permutation(noisy)[: steps * streams.noisy]
        order["noisy"] = turn.astype(np.int32).reshape(steps, streams.noisy)
    if width := streams.trusted + streams.meta:
        flat = permutations(seed, 2, epoch * steps * width, steps * width, trusted)
        order["trusted"] = flat.reshape(steps, width)
    return order


def make_batch(arrays: Any, order: Any, position: jax.Array, key: jax.Array, streams: Streams, how: Any) -> Batch:
    """The augmented batch of one step, inside jit.

    Args:
      arrays: `resident`'s arrays on the device.
      order: `epoch_order`'s arrays on the device.
      position: i32[], the step within the epoch.
      key: this step's random key.
      streams: what the stage eats.
      how: config fields pad, flip, cutout.
    """
    batch: Batch = {}

    def images(name: str, rows: jax.Array, cutout: int) -> jax.Array:
        pixels = augment.normalise(arrays[name][rows], arrays["mean"], arrays["std"])
        return augment.augment(jax.random.fold_in(key, len(batch)), pixels, how.pad, how.flip, cutout)

    if streams.noisy:
        rows = order["noisy"][position]
        batch["image"] = images("image", rows, how.cutout)
        batch |= {"label": arrays["label"][rows], "index": arrays["index"][rows]}
    if streams.trusted + streams.meta:
        rows = order["trusted"][position]
        halves = (("trusted", rows[: streams.trusted], how.cutout), ("meta", rows[streams.trusted :], 0))
        for name, part, cutout in halves:
            if len(part):
                batch[f"{name}_image"] = images("trusted_image", part, cutout)
                batch[f"{name}_label"] = arrays["trusted_label"][part]
                batch[f"{name}_given"] = arrays["trusted_given"][part]
    return {name: jnp.asarray(value) for name, value in batch.items()}
