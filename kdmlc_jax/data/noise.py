"""Label noise with a known transition matrix, and the file that keeps the labels a run trained on."""

import zipfile
import zlib
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdmlc_jax.data.splits import Splits, Stream, check_labels, generator
from kdmlc_jax.errors import UserError, suggest
from kdmlc_jax.files import atomic_write

KINDS = ("none", "uniform", "uniform_excluded", "flip", "pair")

# What NumPy and zipfile raise on damaged files, as found by flipping bits.
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Artefact(NamedTuple):
    """What noise.npz holds; `given_labels` i32[N] runs over the whole training set, by stable index."""

    splits: Splits
    given_labels: np.ndarray
    realised_rate: float
    realised_matrix: np.ndarray


def transition_matrix(kind: str, rate: float, num_classes: int, seed: int) -> np.ndarray:
    """T[y, ỹ] = P(given label ỹ | true label y), for noise rate r and C classes.

    none: I, whatever the rate. uniform: (1-r) I + r/C, the true class is among those drawn (MLC and most papers).
    uniform_excluded: 1-r on the diagonal, r/(C-1) off it. flip: r goes from each class to one other class, drawn
    with the seed (MLC, arXiv 1911.03809). pair: r goes from y to y+1 mod C.

    Args:
      kind: one of KINDS.
      rate: r, a fraction in [0, 1]; under uniform noise r (C-1)/C of the labels end up wrong.
      num_classes: C, 2 or more.
      seed: draws the targets of flip; 0 or more.

    Returns:
      f64[C, C], rows sum to 1.

    Raises:
      UserError: naming noise.kind or noise.rate, its value and what is allowed.
    """
    _check(kind, rate, num_classes)
    identity = np.eye(num_classes)
    if kind == "uniform":
        return (1.0 - rate) * identity + rate / num_classes
    if kind == "uniform_excluded":
        return (1.0 - rate) * identity + rate / (num_classes - 1) * (1.0 - identity)
    if kind == "flip":
        return (1.0 - rate) * identity + rate * identity[_flip_targets(num_classes, seed)]
    if kind == "pair":
        return (1.0 - rate) * identity + rate * np.roll(identity, 1, axis=1)
    return identity


def _flip_targets(num_classes: int, seed: int) -> np.ndarray:
    shift = generator(seed, Stream.FLIP_MAP).integers(1, num_classes, size=num_classes)
    return (np.arange(num_classes) + shift) % num_classes


def _check(kind: str, rate: float, num_classes: int) -> None:
    if kind not in KINDS:
        raise UserError(f'noise.kind: "{kind}" is not one of {", ".join(KINDS)}{suggest(kind, KINDS)}')
    # NaN fails both comparisons, so it is refused here too.
    if not isinstance(rate, Real) or isinstance(rate, bool) or not 0.0 <= rate <= 1.0:
        raise UserError(f"noise.rate: {rate!r} is out of range, expected a fraction in [0, 1]")
    if num_classes < 2:
        raise UserError(f"num_classes: {num_classes} is out of range, expected 2 or more")


def corrupt(labels: np.ndarray, kind: str, rate: float, num_classes: int, seed: int) -> np.ndarray:
    """Given labels ỹ_i ~ T[y_i, ·], drawn independently; a pure function of its arguments.

    Args:
      labels: i32[N], true labels.
      kind, rate, num_classes, seed: as in `transition_matrix`.

    Returns:
      i32[N], given labels.

    Raises:
      UserError: as `transition_matrix`, and for labels out of range.
    """
    cumulative = np.cumsum(transition_matrix(kind, rate, num_classes, seed), axis=1)
    check_labels(labels, num_classes)
    draws = generator(seed, Stream.NOISE).random(len(labels))
    given = np.empty(len(labels), np.int32)
    for label in range(num_classes):
        rows = labels == label
        # Divided by the total, the last step is exactly 1: rounding can never reach a class of probability 0.
        steps = cumulative[label] / cumulative[label, -1]
        given[rows] = np.searchsorted(steps, draws[rows], side="right")
    return given


def realised(true: np.ndarray, given: np.ndarray, num_classes: int) -> tuple[float, np.ndarray]:
    """The noise as it came out: mean(ỹ ≠ y) and the matrix of counts n(y, ỹ) / n(y).

    Args:
      true: i32[N], true labels.
      given: i32[N], given labels.
      num_classes: C.

    Returns:
      The rate, a fraction, and f64[C, C]; the row of a class without images is 0.

    Raises:
      UserError: for labels out of range, no labels, or arrays of different length.
    """
    check_labels(true, num_classes)
    check_labels(given, num_classes)
    if len(true) != len(given) or not len(true):
        raise UserError(f"labels: {len(given)} given for {len(true)} true ones, expected as many and 1 or more")
    pairs = np.asarray(true, np.int64) * num_classes + given
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return float(np.mean(true != given)), counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def save_artefact(path: str | Path, splits: Splits, given_labels: np.ndarray, rate: float, matrix: np.ndarray) -> None:
    """Writes noise.npz, whole or not at all.

    Args:
      path: the file; its directory exists.
      splits: index arrays into the training set.
      given_labels: i32[N], over the whole training set, by stable index.
      rate: realised rate, a fraction.
      matrix: f64[C, C], realised matrix.

    Raises:
      UserError: where the file cannot be written.
    """
    labels = np.asarray(given_labels, np.int32)
    with atomic_write(path) as file:
        np.savez(file, **splits._asdict(), given_labels=labels, realised_rate=float(rate), realised_matrix=matrix)


def load_artefact(path: str | Path) -> Artefact:
    """Reads what `save_artefact` wrote.

    Args:
      path: the file.

    Returns:
      The splits, the labels trained on, the realised rate and matrix.

    Raises:
      UserError: for a missing, damaged or foreign file.
    """
    try:
        # np.load leaves a file open that it cannot read, so it is not given the path.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            splits = Splits(*(file[name] for name in Splits._fields))
            rate, matrix = float(file["realised_rate"]), file["realised_matrix"]
            return Artefact(splits, file["given_labels"], rate, matrix)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected the noise.npz of a run") from error
    except _UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as the noise.npz of a run ({error})") from error
