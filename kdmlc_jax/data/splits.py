"""Which training image is noisy, trusted or validation: one permutation, so no image has two roles.

MLC's release shuffles anew for each part and lets 979 of 1000 trusted images sit in the noisy set as well.
"""

import enum
from typing import NamedTuple

import numpy as np

from kdmlc_jax.errors import UserError


class Stream(enum.IntEnum):
    """Independent random streams of the data; a number is never reused, or old seeds change their meaning."""

    # From 100: NumPy pads seeds with zeros, so (seed, 1) would be the stream that the pipeline calls (seed, 1, 0).
    SPLIT = 100
    FLIP_MAP = 101
    NOISE = 102


class Splits(NamedTuple):
    """Stable indices i64 into the training set, pairwise disjoint."""

    noisy: np.ndarray
    trusted: np.ndarray
    validation: np.ndarray


def generator(seed: int, stream: Stream) -> np.random.Generator:
    """The random stream of (seed, stream), with seed ≥ 0; UserError otherwise."""
    if seed < 0:
        raise UserError(f"seed: {seed} is out of range, expected 0 or more")
    return np.random.default_rng((seed, int(stream)))


def split(labels: np.ndarray, trusted: int, validation: int, noisy: int, seed: int, num_classes: int) -> Splits:
    """Cuts one seeded permutation of the training set into trusted, validation and noisy images, in that order.

    The trusted images are class-balanced: ⌊trusted/C⌋ of each class, and one more of the classes that the
    permutation meets first until the remainder is used up.

    Args:
      labels: i32[N], true labels; only the balance of the trusted images depends on them.
      trusted: number of trusted images, num_classes to N.
      validation: number of validation images, 0 or more.
      noisy: number of noisy images; 0 takes all the rest.
      seed: 0 or more.
      num_classes: C.

    Returns:
      Disjoint index arrays, each in the order of the permutation.

    Raises:
      UserError: naming data.trusted, data.validation or data.noisy, its value and the allowed range.
    """
    check_labels(labels, num_classes)
    _check_sizes(len(labels), trusted, validation, noisy, num_classes)
    order = generator(seed, Stream.SPLIT).permutation(len(labels)).astype(np.int64)
    is_trusted = _balanced(labels[order], trusted, num_classes)
    rest = order[~is_trusted]
    end = validation + noisy if noisy else len(rest)
    return Splits(noisy=rest[validation:end], trusted=order[is_trusted], validation=rest[:validation])


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Refuses labels that are not integers in 0..C-1: NumPy and JAX would wrap or clamp them in silence.

    Args:
      labels: i[N].
      num_classes: C.

    Raises:
      UserError: naming the first bad row.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels: {labels.dtype} of shape {labels.shape}, expected integers of shape [N]")
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if bad.size:
        raise UserError(f"labels row {bad[0]}: {labels[bad[0]]} is out of range, expected 0 to {num_classes - 1}")


def _check_sizes(total: int, trusted: int, validation: int, noisy: int, num_classes: int) -> None:
    # One image at least stays for the noisy set.
    _check_range("data.trusted", trusted, num_classes, total - 1, f"{num_classes} classes, {total} training images")
    left = total - trusted
    _check_range("data.validation", validation, 0, left - 1, f"{left} images left by data.trusted={trusted}")
    left -= validation
    beside = f"data.trusted={trusted} and data.validation={validation}"
    _check_range("data.noisy", noisy, 0, left, f"{left} of {total} images left by {beside}; 0 takes them all")


def _check_range(field: str, value: int, low: int, high: int, why: str) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise UserError(f"{field}: {value!r} is not a whole number of images, expected {low} to {high} ({why})")
    if not low <= value <= high:
        raise UserError(f"{field}: {value} images is out of range, expected {low} to {high} ({why})")


def _balanced(labels: np.ndarray, size: int, num_classes: int) -> np.ndarray:
    """bool[N], true for the first images of each class, `size` in all; labels come in permuted order."""
    present, first = np.unique(labels, return_index=True)
    quota = np.full(num_classes, size // num_classes)
    quota[present[np.argsort(first)][: size % num_classes]] += 1
    chosen = np.zeros(len(labels), bool)
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < quota[label]:
            need = f"a balanced set needs {quota[label]} images of class {label}"
            raise UserError(f"data.trusted: {size} images is out of range, {need} and there are {len(rows)}")
        chosen[rows[: quota[label]]] = True
    return chosen
