"""What kinds of noise share: what they are given, drawing labels from a matrix, and the noise as it came out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.data.splits import Stream, generator
from kdmlc_jax.errors import UserError

_NO_LABELS, _NO_IMAGES = np.zeros(0, np.int32), np.zeros((0, 1, 1, 1), np.uint8)


class Request(NamedTuple):
    """What a kind of noise may use; a kind draws from `splits.generator`, with a stream of its own."""

    rate: float | int  # noise.rate, a fraction in [0, 1]
    num_classes: int  # C
    seed: int  # 0 or more
    class_names: Sequence[str] = ()  # C names
    given: np.ndarray = _NO_LABELS  # i32[N], the labels as the source has them, -1 = none
    truth: np.ndarray = _NO_LABELS  # i32[N], true labels, -1 = unknown
    images: Images = _NO_IMAGES
    ids: np.ndarray | None = None  # str[N], their names; None = 0 … N-1
    file: str = ""  # noise.file
    column: str = ""  # noise.human
    named: str = ""  # noise.column
    say: Callable[[str], None] = lambda line: None  # what a person should know of a file

    def path(self, kind: str) -> Path:
        """`noise.file`; raises UserError where it is empty."""
        if not self.file:
            raise UserError(f'noise.file: is empty, expected the file that noise.kind "{kind}" reads')
        return Path(self.file).expanduser()


def draw(
    labels: Int[np.ndarray, " N"], matrix: Float[np.ndarray, "C C"], seed: int, exact: bool = False
) -> Int[np.ndarray, " N"]:
    """Given labels ỹ_i ~ T[y_i, ·], drawn independently; a pure function of its arguments.

    With `exact`, m(y, ỹ) of the n_y images of class y are given ỹ, and a permutation of them says which:
    m(y, ỹ) = ⌊n_y T[y, ỹ]⌋, and one more for the largest remainders n_y T[y, ỹ] - ⌊n_y T[y, ỹ]⌋ until
    Σ_ỹ m(y, ỹ) = n_y (ties to the lower ỹ).

    Args:
      labels: i32[N], true labels.
      matrix: f64[C, C], rows sum to 1.
      seed: 0 or more.
      exact: the expected counts instead of independent draws.

    Returns:
      i32[N], given labels.

    Raises:
      UserError: for labels out of range.
    """
    labels = check_labels(labels, len(matrix))
    return _draw_exact(labels, matrix, seed) if exact else _draw_independent(labels, matrix, seed)


def _draw_independent(labels: np.ndarray, matrix: np.ndarray, seed: int) -> np.ndarray:
    cumulative = np.cumsum(matrix, axis=1)
    draws = generator(seed, Stream.NOISE).random(len(labels))
    given = np.empty(len(labels), np.int32)
    for label in range(len(matrix)):
        rows = labels == label
        # Divided by the total, the last step is exactly 1: rounding can never reach a class of probability 0.
        steps = cumulative[label] / cumulative[label, -1]
        given[rows] = np.searchsorted(steps, draws[rows], side="right")
    return given


def _draw_exact(labels: np.ndarray, matrix: np.ndarray, seed: int) -> np.ndarray:
    order = generator(seed, Stream.NOISE_EXACT).permutation(len(labels))
    given = np.empty(len(labels), np.int32)
    for label, chances in enumerate(matrix):
        rows = order[labels[order] == label]
        given[rows] = np.repeat(np.arange(len(matrix)), _apportion(len(rows), chances))
    return given


def _apportion(size: int, chances: np.ndarray) -> np.ndarray:
    """i64[C], `size` items by largest remainder."""
    share = size * chances / chances.sum()
    # Rounding of the last bits would decide between remainders that are equal, or take one off a whole share.
    count = np.floor(np.round(share, 9)).astype(np.int64)
    remainder = np.round(share - count, 9)
    count[np.argsort(-remainder, kind="stable")[: size - count.sum()]] += 1
    return count


def realised(
    true: Int[np.ndarray, " N"], given: Int[np.ndarray, " M"], num_classes: int
) -> tuple[float, Float[np.ndarray, "C C"]]:
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
    true, given = check_labels(true, num_classes), check_labels(given, num_classes)
    if len(true) != len(given) or not len(true):
        raise UserError(f"labels: {len(given)} given for {len(true)} true ones, expected as many and 1 or more")
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (true, given), 1)
    return float(np.mean(true != given)), counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
