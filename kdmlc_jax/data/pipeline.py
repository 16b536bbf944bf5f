"""From a split to batches, in two ways that give the same ones.

Resident: uint8 images live on the device; a step gathers its rows there and nothing is sent to it. Stream: images stay
on the host or in their files; grain reads them ahead in threads and every step is sent its own. In both the order is a
pure function of (seed, epoch), so nothing of it needs to be saved to resume exactly, and augmentation runs inside the
compiled step.
"""

import contextlib
from collections.abc import Callable, Generator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from kdmlc_jax.data import augment
from kdmlc_jax.data.augment.views.contrastive import contrastive_view
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.methods.base import Batch, Streams
from kdmlc_jax.shapes import Inputs, Key, Seen, on_pixels, part_of

# Mean and deviation are taken over the first images of the split, a permutation, up to this many bytes.
STATS_BYTES = 1 << 28
READ_AHEAD, THREADS = 32, 2  # batches; deep, so that threads are woken seldom
NAMES = {
    "noisy": ("image", "label", "index", "soft_label"),  # the last where the labels are those of another run
    "trusted": ("trusted_image", "trusted_label", "trusted_given", "trusted_index"),
    "meta": ("meta_image", "meta_label", "meta_given", "meta_index"),
}


Place = Callable[[dict[str, Any]], Any]


def choose(dataset: Dataset, how: str, seed: int, steps: int, shard: tuple[int, int] = (0, 1)) -> "Resident | Stream":
    """The pipeline that `how` (`data.pipeline`) names, for epochs of `steps` steps; see `Stream` for `shard`."""
    return Resident(dataset, seed, steps) if is_resident(dataset, how) else Stream(dataset, seed, steps, shard)


def is_resident(dataset: Dataset, how: str) -> bool:
    """Whether the images would live on the device; auto says so where they are in memory."""
    return how == "resident" or (how == "auto" and isinstance(dataset.images, np.ndarray))


def stats(dataset: Dataset) -> dict[str, np.ndarray]:
    """Mean and deviation f32[K] of the config, or of the noisy and trusted images; see STATS_BYTES."""
    if dataset.scale is not None:
        return dict(zip(("mean", "std"), dataset.scale, strict=True))
    size = int(np.prod(dataset.images.shape[1:])) * dataset.images.dtype.itemsize
    rows = np.concatenate([dataset.splits.noisy, dataset.splits.trusted])[: max(1, STATS_BYTES // size)]
    mean, std = augment.channel_stats(dataset.images[rows])
    return {"mean": mean, "std": std}


def feature_stats(dataset: Dataset) -> dict[str, np.ndarray]:
    """Of the features that networks see beside the pixels, where any does: mean and deviation f32[D]."""
    if not isinstance(dataset.inputs, Seen):
        return {}
    rows = np.concatenate([dataset.splits.noisy, dataset.splits.trusted])
    mean, std = augment.channel_stats(dataset.inputs.features[rows])
    return {"features_mean": mean, "features_std": std}


def scales(fixed: Any) -> dict[str, Any]:
    """What `scaled` needs of `fixed`."""
    return {name: rows for name, rows in fixed.items() if name.endswith(("mean", "std"))}


def scaled(images: Any, fixed: Any) -> Inputs:
    """Normalised images, and features; inside jit, by what is `fixed`."""
    made: Inputs = on_pixels(lambda pixels: augment.normalise(pixels, fixed["mean"], fixed["std"]), images)
    if isinstance(made, Seen):
        features = augment.normalise(made.features, fixed["features_mean"], fixed["features_std"])
        made = made.replace(features=features)
    return made


def select(dataset: Dataset, kind: str, rows: Int[np.ndarray, " n"]) -> dict[str, Any]:
    """What training reads of the images at `rows` of a split; the hidden truth is not among it.

    `kind` is noisy, trusted or meta; the last is the trusted split under other names.
    """
    at = (dataset.splits.noisy if kind == "noisy" else dataset.splits.trusted)[rows]
    index = rows.astype(np.int32)
    columns = [dataset.inputs[at], dataset.given_label[at]]
    columns += [index] if kind == "noisy" else [dataset.trusted_given[at], index]
    if kind == "noisy" and dataset.soft_label is not None:
        columns.append(dataset.soft_label[rows])
    return dict(zip(NAMES[kind], columns, strict=False))


def images_of(dataset: Dataset, seed: int, steps: int, streams: Streams, step: int) -> dict[str, list]:
    """The ids of the images that one step of the run eats, by kind."""
    parts = dataset.splits
    order = epoch_order(seed, step // steps, steps, streams, len(parts.noisy), len(parts.trusted))
    split = {kind: parts.noisy if kind == "noisy" else parts.trusted for kind in order}
    return {kind: dataset.ids[split[kind][rows[step % steps]]].tolist() for kind, rows in order.items()}


class Resident:
    """All images on the device; the feed of a step is its epoch's order."""

    per_step = False  # whether each step has a feed of its own, whose rows may be split over devices

    def __init__(self, dataset: Dataset, seed: int, steps: int):
        """Holds the noisy and the trusted rows of `dataset`; `steps` an epoch."""
        self.seed, self.steps, parts = seed, steps, dataset.splits
        self.sizes = len(parts.noisy), len(parts.trusted)
        self.fixed = stats(dataset) | feature_stats(dataset)  # what every step reads, to be put on the device once
        for kind, size in zip(("noisy", "trusted"), self.sizes, strict=True):
            self.fixed |= select(dataset, kind, np.arange(size))

    def feeds(self, streams: Streams, start: int, stop: int, place: Place = lambda feed: feed) -> Generator[Any]:
        """What each step from `start` to `stop` is given, host arrays that `place` has put where they are used, once an
        epoch."""
        for epoch in range(start // self.steps, -(-stop // self.steps)):
            order = place(epoch_order(self.seed, epoch, self.steps, streams, *self.sizes))
            first, last = max(start, epoch * self.steps), min(stop, (epoch + 1) * self.steps)
            yield from [order] * (last - first)

    def rows(self, fixed: Any, feed: Any, position: jax.Array | int) -> dict[str, Any]:
        """Inside jit: the step's rows under the names of a `Batch`, images still uint8; `position` in its epoch."""
        made: dict[str, Any] = {}
        for kind, order in feed.items():
            pairs = zip(NAMES[kind], NAMES["noisy" if kind == "noisy" else "trusted"], strict=True)
            made |= {name: fixed[of][order[position]] for name, of in pairs if of in fixed}
        return made


class Stream:
    """Rows read ahead by grain, the noisy and the trusted ones zipped into one iterator that can be checkpointed."""

    per_step = True

    def __init__(self, dataset: Dataset, seed: int, steps: int, shard: tuple[int, int] = (0, 1)):
        """`steps` an epoch; with `shard` (i, n) only the i-th of n equal slices of every batch is read."""
        self.dataset, self.seed, self.steps, self.shard = dataset, seed, steps, shard
        self.sizes = len(dataset.splits.noisy), len(dataset.splits.trusted)
        self.fixed = stats(dataset) | feature_stats(dataset)
        self._order = lru_cache(maxsize=4)(partial(epoch_order, seed))

    def read(self, streams: Streams, kinds: tuple[str, ...], step: int) -> dict[str, Any]:
        """The rows of one step of the whole run, of these kinds, under the names of a `Batch`."""
        order = self._order(step // self.steps, self.steps, streams, *self.sizes)
        number, count = self.shard
        made: dict[str, Any] = {}
        for kind in kinds:
            if kind in order:
                rows = order[kind][step % self.steps]
                made |= select(self.dataset, kind, rows.reshape(count, -1)[number])
        return made

    def iterator(self, streams: Streams, start: int, stop: int, place: Place = lambda feed: feed) -> Any:
        """A grain iterator over the steps from `start` to `stop`; `get_state` and `set_state` checkpoint it.

        Its threads `place` the rows too: the copy to the device overlaps with the step before.
        """
        import grain  # slow to import

        steps = grain.MapDataset.range(start, stop)
        parts = [steps.map(partial(self.read, streams, kinds)) for kinds in (("noisy",), ("trusted", "meta"))]
        merged = grain.experimental.ZipMapDataset(parts).map(lambda pair: place(pair[0] | pair[1]))
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=READ_AHEAD)
        return iter(merged.to_iter_dataset(options))

    def feeds(self, streams: Streams, start: int, stop: int, place: Place = lambda feed: feed) -> Generator[Any]:
        """As `Resident.feeds`, an array of rows a step."""
        with contextlib.closing(self.iterator(streams, start, stop, place)) as iterator:
            yield from iterator

    def rows(self, fixed: Any, feed: Any, position: jax.Array | int) -> dict[str, Any]:
        """As `Resident.rows`."""
        return dict(feed)


def trusted_order(seed: int, first: int, steps: int, width: int, size: int) -> Int[np.ndarray, "steps width"]:
    """i32[steps, width] from an endless row of permutations of range(size), each cut into whole batches.

    What is left of a permutation is dropped, so that no step sees an image twice.
    """
    batches = size // width
    turns = range(first // batches, (first + steps - 1) // batches + 1)
    order = [np.random.default_rng((seed, 2, turn)).permutation(size)[: batches * width] for turn in turns]
    return np.concatenate(order).reshape(-1, width)[first % batches :][:steps].astype(np.int32)


def epoch_order(seed: int, epoch: int, steps: int, streams: Streams, noisy: int, trusted: int) -> dict[str, np.ndarray]:
    """Which images each step of an epoch eats, i32[steps, B] for each kind that `streams` asks for.

    noisy: rows of the noisy split without replacement; trusted and meta: rows of the trusted split, disjoint in a step.
    """
    order = {}
    if streams.noisy:
        turn = np.random.default_rng((seed, 1, epoch)).permutation(noisy)[: steps * streams.noisy]
        order["noisy"] = turn.astype(np.int32).reshape(steps, streams.noisy)
    if width := streams.trusted + streams.meta:
        both = trusted_order(seed, epoch * steps, steps, width, trusted)
        halves = {"trusted": both[:, : streams.trusted], "meta": both[:, streams.trusted :]}
        order |= {kind: half for kind, half in halves.items() if half.shape[1]}
    return order


def make_batch(rows: dict[str, Any], fixed: Any, key: Key, how: Any, views: bool = False) -> Batch:
    """The normalised and augmented batch of one step, inside jit, from a pipeline's `rows` and what is `fixed`.

    `how` is `config.augment`; `views`: also two views of the noisy images (`Streams.views`), u8 only.
    """
    batch = dict(rows)
    for number in (1, 2) if views else ():
        view_key = jax.random.fold_in(key, 100 + number)
        pixels = part_of(rows["image"], "pixels").astype(jnp.float32) / 255.0
        view = contrastive_view(view_key, pixels, how.view_blur, how.flip, (how.view_area, 1.0))
        batch[f"view{number}"] = augment.normalise(view, fixed["mean"], fixed["std"])
    for number, name in enumerate(name for name in ("image", "trusted_image", "meta_image") if name in rows):
        batch[name] = scaled(rows[name], fixed)
        if name != "meta_image" or how.meta != "none":
            weak, image_key = name == "meta_image" and how.meta == "weak", jax.random.fold_in(key, 3 * number)
            batch[name] = on_pixels(partial(augment.augmented, image_key, how=how, weak=weak), batch[name])
    return batch
