"""From a config to the data of one run: source → splits → noise."""

from typing import Any, NamedTuple

import numpy as np

from kdmlc_jax.data import noise, sources, splits
from kdmlc_jax.errors import UserError


class Dataset(NamedTuple):
    """The data of one run, on the host. `truth` is for metrics only and never reaches a method."""

    name: str
    class_names: tuple[str, ...]
    images: np.ndarray  # u8[N, H, W, K]
    given_label: np.ndarray  # i32[N], what the methods learn from; the true label on trusted images
    trusted_given: np.ndarray  # i32[N], the label before it was checked, -1 where it is not known
    truth: np.ndarray  # i32[N]
    splits: splits.Splits
    test_images: np.ndarray  # u8[M, H, W, K]
    test_label: np.ndarray  # i32[M]
    rate: float  # realised share of wrong labels in the noisy split
    matrix: np.ndarray  # f64[C, C], realised transition matrix there


def prepare(config: Any) -> Dataset:
    """Loads, splits and corrupts; a pure function of the config and the files it names.

    Raises:
      UserError: for bad files, counts, rates or names, and for a batch larger than its split.
    """
    source = sources.load(config.data)
    truth, classes = source.train.labels, len(source.class_names)
    noisy = noise.corrupt(truth, config.noise.kind, config.noise.rate, classes, config.seed)
    parts = splits.split(truth, config.data.trusted, config.data.validation, config.data.noisy, config.seed, classes)
    check_batches(config, parts, source.train.images.shape[1:3])
    given, trusted_given = noisy.copy(), np.full_like(noisy, -1)
    given[parts.trusted] = truth[parts.trusted]
    if config.data.trusted_given:
        trusted_given[parts.trusted] = noisy[parts.trusted]
    rate, matrix = noise.realised(truth[parts.noisy], given[parts.noisy], classes)
    return Dataset(
        source.name, source.class_names, source.train.images, given, trusted_given, truth, parts,
        source.test.images, source.test.labels, rate, matrix,
    )  # fmt: skip


def check_batches(config: Any, parts: splits.Splits, size: tuple[int, int]) -> None:
    """Raises UserError where a batch is larger than its split, or the augmentation than the image."""
    for field, split in (("batch_size", "noisy"), ("trusted_batch_size", "trusted")):
        batch, have = config.train[field], len(getattr(parts, split))
        if not 1 <= batch <= have:
            raise UserError(f"train.{field}: {batch} is outside [1, {have}], the number of {split} images")
    for field, limit in (("pad", min(size) - 1), ("cutout", max(size))):
        if not 0 <= config.augment[field] <= limit:
            raise UserError(f"augment.{field}: {config.augment[field]} is outside [0, {limit}] for {size} images")
