"""Which training image is noisy, trusted, validation or held out: one permutation, so no image has two roles.

MLC's release shuffles anew for each part and lets 979 of 1000 trusted images sit in the noisy set as well.
"""

import enum
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.errors import UserError


class Stream(enum.IntEnum):
    """Independent random streams of the data; a number is never reused, or old seeds change their meaning."""

    # From 100: NumPy pads seeds with zeros, so (seed, 1) would be the stream that the pipeline calls (seed, 1, 0).
    SPLIT = 100
    FLIP_MAP = 101
    NOISE = 102
    NOISE_EXACT = 103
    INSTANCE_RATE = 104
    INSTANCE_MAP = 105
    INSTANCE_DRAW = 106
    HELD_OUT = 107


class Splits(NamedTuple):
    """Stable indices i64 into the training set, pairwise disjoint."""

    noisy: np.ndarray
    trusted: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray = np.zeros(0, np.int64)  # trusted, and kept out of all that is trained, fitted or chosen

    @property
    def checked(self) -> np.ndarray:
        """All images whose labels somebody has checked: `trusted`, then `held_out`."""
        return np.concatenate([self.trusted, self.held_out])


def generator(seed: int, stream: Stream | str) -> np.random.Generator:
    """The random stream of (seed, stream), with seed ≥ 0; UserError otherwise.

    A new kind of noise needs no number of its own: it gives its name.
    """
    if seed < 0:
        raise UserError(f"seed: {seed} is out of range, expected 0 or more")
    return np.random.default_rng((seed, zlib.crc32(stream.encode()) if isinstance(stream, str) else int(stream)))


class Named(NamedTuple):
    """Rows whose role the source itself gives; None where it gives none."""

    trusted: np.ndarray | None = None
    validation: np.ndarray | None = None


def split(
    labels: Int[np.ndarray, " N"],
    trusted: float | int,
    validation: float | int,
    noisy: float | int,
    seed: int,
    num_classes: int,
    groups: Int[np.ndarray, " N"] | None = None,
    named: Named | None = None,
    unused: Bool[np.ndarray, " N"] | None = None,
) -> Splits:
    """Cuts one seeded permutation of the training set into trusted, validation and noisy images, in that order.

    The trusted images are class-balanced: ⌊trusted/C⌋ of each class, and one more of the classes that the
    permutation meets first until the remainder is used up. A copy of a trusted image is in no other part, a copy of
    a validation image not in the noisy one. Sizes below 1 that are not whole are shares of the training set.

    Args:
      labels: i32[N], the best known labels; only the balance of the trusted images depends on them.
      trusted: number of trusted images, num_classes to N, or 0: those that `named` gives, or none.
      validation: number of validation images, 0 or more; 0 where `named` gives them.
      noisy: number of noisy images; 0 takes all the rest.
      seed: 0 or more.
      num_classes: C.
      groups: i64[N], equal for images of equal content; None = all differ.
      named: rows whose role is given; None = none.
      unused: rows that are in no part, for example as they are test images, too; None = none.

    Returns:
      Disjoint index arrays, each in the order of the permutation.

    Raises:
      UserError: naming data.trusted, data.validation or data.noisy, its value and the allowed range.
    """
    labels, total = check_labels(labels, num_classes), len(labels)
    order = generator(seed, Stream.SPLIT).permutation(total).astype(np.int64)
    order = order if unused is None else order[~unused[order]]
    groups, named = np.arange(total) if groups is None else groups, named or Named()
    chosen = _trusted(labels, order, trusted, num_classes, named)
    rest = _unlike(order, chosen, groups)
    beside = f"data.trusted={len(chosen)}"
    kept_back = _validation(rest, validation, named, total, beside)
    rest = _unlike(rest, kept_back, groups)
    beside += f" and data.validation={len(kept_back)}"
    why = f"{len(rest)} of {total} images left by {beside}; 0 takes them all"
    wanted = _size("data.noisy", noisy, 0, len(rest), why, total)
    if not len(rest):
        raise UserError(f"data.noisy: no image of {total} is left by {beside}")
    return Splits(noisy=rest[:wanted] if wanted else rest, trusted=chosen, validation=kept_back)


def _trusted(labels: np.ndarray, order: np.ndarray, wanted: float | int, num_classes: int, named: Named) -> np.ndarray:
    """The trusted rows: those that are named, or a balanced draw; one image at least stays for the noisy set."""
    total = len(labels)
    if named.trusted is not None:
        chosen = order[np.isin(order, named.trusted)]
        why = f"the source names its {len(chosen)} trusted images"
        _size("data.trusted", _unless_share(wanted), 0, 0, why, total)
        return chosen
    why = f"{num_classes} classes, {total} training images"
    size = _size("data.trusted", wanted, num_classes, total - 1, why, total) if wanted else 0
    free = order if named.validation is None else order[~np.isin(order, named.validation)]
    return free[_balanced(labels[free], size, num_classes)]


def _validation(rest: np.ndarray, wanted: float | int, named: Named, total: int, beside: str) -> np.ndarray:
    """The validation rows among the `rest`: those that are named, or the first."""
    if named.validation is not None:
        chosen = rest[np.isin(rest, named.validation)]
        why = f"the source names its {len(chosen)} validation images"
        _size("data.validation", _unless_share(wanted), 0, 0, why, total)
        return chosen
    why = f"{len(rest)} images left by {beside}"
    return rest[: _size("data.validation", wanted, 0, len(rest) - 1, why, total)]


def without_copies(
    parts: Splits, groups: Int[np.ndarray, " N"], unused: Bool[np.ndarray, " N"] | None = None
) -> Splits:
    """`parts` without validation images that copy a trusted one, noisy ones that copy either, and any `unused` one."""
    if unused is not None:
        parts = Splits(*(rows[~unused[rows]] for rows in parts))
    trusted = parts.checked
    validation = _unlike(parts.validation, trusted, groups)
    noisy = _unlike(parts.noisy, np.concatenate([trusted, validation]), groups)
    return parts._replace(noisy=noisy, validation=validation)


def hold_out(
    parts: Splits,
    labels: Int[np.ndarray, " N"],
    share: float,
    seed: int,
    groups: Int[np.ndarray, " N"] | None = None,
) -> Splits:
    """Takes a share of each class out of the trusted images, to judge with what nothing has learned from.

    Of n trusted images of a class max(⌊share n + ½⌋, 2) are held out, but half of them at most: a class's only image
    stays. A copy of one held out is held out too.

    Args:
      parts: whose held-out images count as trusted.
      labels: of the training images.
      share: 0 holds out none.
      seed: 0 or more.
      groups: i64[N], equal for images of equal content; None = all differ.
    """
    trusted = parts.checked
    if not share:
        return parts._replace(trusted=trusted, held_out=trusted[:0])
    order = generator(seed, Stream.HELD_OUT).permutation(trusted)
    chosen = [
        of[: min(max(int(share * len(of) + 0.5), 2), len(of) // 2)]
        for of in (order[labels[order] == label] for label in np.unique(labels[order]))
    ]
    held = np.concatenate(chosen) if chosen else trusted[:0]
    held = trusted[np.isin(trusted, held) if groups is None else np.isin(groups[trusted], groups[held])]
    return parts._replace(trusted=trusted[~np.isin(trusted, held)], held_out=held)


def hold_out_fold(
    parts: Splits,
    labels: Int[np.ndarray, " N"],
    folds: int,
    fold: int,
    seed: int,
    groups: Int[np.ndarray, " N"] | None = None,
) -> Splits:
    """Takes one of `folds` parts of the trusted images out of them; every class is spread over all parts.

    A class's only image is in no part. Copies are in one part.

    Args:
      parts: whose held-out images count as trusted.
      labels: of the training images.
      folds: 2 or more.
      fold: which part, counted from 0.
      seed: 0 or more.
      groups: i64[N], equal for images of equal content; None = all differ.

    Raises:
      UserError: for fewer trusted images than parts.
    """
    trusted = parts.checked
    if len(trusted) < folds:
        raise UserError(f"data.cross_fit: {folds} parts of {len(trusted)} trusted images, expected 0 or fewer parts")
    order = generator(seed, Stream.HELD_OUT).permutation(len(trusted))
    order = order[np.argsort(labels[trusted[order]], kind="stable")]
    part = np.empty(len(trusted), int)
    part[order] = np.arange(len(trusted)) % folds
    if groups is not None:
        _, first, copy_of = np.unique(groups[trusted], return_index=True, return_inverse=True)
        part = part[first][copy_of]
    alone = np.bincount(labels[trusted])[labels[trusted]] == 1
    held = (part == fold) & ~alone
    return parts._replace(trusted=trusted[~held], held_out=trusted[held])


def _unlike(rows: np.ndarray, others: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Those of `rows` that are neither among `others` nor copies of one."""
    return rows[~np.isin(groups[rows], groups[others])]


def _unless_share(value: float | int) -> float | int:
    """A share, as configs give it, yields to images that are named."""
    return 0 if 0.0 < value < 1.0 else value


def _size(field: str, value: float | int, low: int, high: int, why: str, total: int) -> int:
    """`value` as a number of images, a share of `total` if it is a fraction below 1."""
    if high < low:
        raise UserError(f"{field}: {value:g} images, and no number is possible ({why})")
    if isinstance(value, float) and 0.0 < value < 1.0:
        value = round(value * total)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        allowed = f"{low} to {high}, or a share below 1"
        raise UserError(f"{field}: {value!r} is not a whole number of images, expected {allowed} ({why})")
    if not low <= value <= high:
        raise UserError(f"{field}: {value} images is out of range, expected {low} to {high} ({why})")
    return int(value)


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
