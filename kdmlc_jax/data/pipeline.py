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


def trusted_order(seed: int, first: int, steps: int, width: int, size: int) -> np.ndarray:
    """i32[steps, width] from an endless row of permutations of range(size), each cut into whole batches.

    What is left of a permutation is dropped, so that no step sees an image twice.
    """
    batches = size // width
    turns = range(first // batches, (first + steps - 1) // batches + 1)
    order = [np.random.default_rng((seed, 2, turn)).permutation(size)[: batches * width] for turn in turns]
    return np.concatenate(order).reshape(-1, width)[first % batches :][:steps].astype(np.int32)


def epoch_order(seed: int, epoch: int, steps: int, streams: Streams, noisy: int, trusted: int) -> dict[str, np.ndarray]:
    """Which images each step of an epoch eats: noisy i32[steps, B] without replacement, trusted i32[steps, B']."""
    order = {}
    if streams.noisy:
        turn = np.random.default_rng((seed, 1, epoch)).permutation(noisy)[: steps * streams.noisy]
        order["noisy"] = turn.astype(np.int32).reshape(steps, streams.noisy)
    if width := streams.trusted + streams.meta:
        order["trusted"] = trusted_order(seed, epoch * steps, steps, width, trusted)
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
