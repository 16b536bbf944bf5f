"""Label noise: drawn from a transition matrix, drawn from the image, or read from a file."""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.noise._files import read_labels, read_matrix
from kdmlc_jax.data.noise.instance import instance_labels
from kdmlc_jax.data.noise.semantic import semantic_targets
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.data.splits import Stream, generator
from kdmlc_jax.errors import UserError, choose

# Those of `transition_matrix`, and all.
MATRIX_KINDS = ("none", "uniform", "uniform_excluded", "flip", "pair", "semantic")
RATED = (*MATRIX_KINDS[1:], "instance")  # those that noise.rate governs
KINDS = (*MATRIX_KINDS, "instance", "matrix", "human", "file")


def given_labels(
    noise_config: Any,
    truth: np.ndarray,
    images: Images,
    num_classes: int,
    seed: int,
    class_names: Sequence[str] = (),
    ids: np.ndarray | None = None,
) -> np.ndarray:
    """The labels to learn from, by `noise.kind`; a pure function of its arguments and the file named.

    none: `truth` itself. Those of `transition_matrix`: drawn from that matrix. matrix: drawn from the matrix in
    `noise.file`. instance: `instance_labels`. human: `read_human`, CIFAR-10N and CIFAR-100N.
    file: `read_labels` of `noise.file`.

    Args:
      noise_config: the config's `noise`: kind, rate, exact, file, labels.
      truth: i32[N], true labels; -1 = unknown, for none, human and file only.
      images: [N, H, W, K]; only instance noise reads them.
      num_classes: C.
      seed: 0 or more.
      class_names: C names; only semantic noise reads them.
      ids: str[N], the images' names in `noise.file`; None = 0 … N-1.

    Returns:
      i32[N], given labels.

    Raises:
      UserError: naming the config field or the file, the value and what is allowed.
    """
    kind, path = noise_config.kind, Path(noise_config.file).expanduser()
    _check(kind, noise_config.rate, num_classes)
    _check_fields(kind, noise_config.exact, noise_config.file)
    if kind == "none":
        return truth
    if kind == "instance":
        return instance_labels(truth, images, noise_config.rate, num_classes, seed)
    if kind == "file":
        return read_labels(path, len(truth), num_classes, ids, class_names)
    if kind == "human":
        from kdmlc_jax.data.noise.human import read_human

        return read_human(noise_config.file, noise_config.human, truth, num_classes)
    if kind == "matrix":
        return draw(truth, read_matrix(path, num_classes), seed, noise_config.exact)
    return draw(
        truth, transition_matrix(kind, noise_config.rate, num_classes, seed, class_names), seed, noise_config.exact
    )


def _check_fields(kind: str, exact: bool, path: str) -> None:
    if exact and kind in ("instance", "human", "file"):
        raise UserError(f'noise.exact: noise.kind "{kind}" has no transition matrix whose counts could be kept')
    if kind in ("matrix", "file") and not path:
        raise UserError(f'noise.file: is empty, expected the file that noise.kind "{kind}" reads')


def transition_matrix(
    kind: str, rate: float, num_classes: int, seed: int, class_names: Sequence[str] = ()
) -> np.ndarray:
    """T[y, ỹ] = P(given label ỹ | true label y), for noise rate r and C classes.

    none: I, whatever the rate. uniform: (1-r) I + r/C, the true class is among those drawn (MLC and most papers).
    uniform_excluded: 1-r on the diagonal, r/(C-1) off it. flip: r goes from each class to one other class, drawn
    with the seed (MLC, arXiv 1911.03809). pair: r goes from y to y+1 mod C. semantic: r goes from y to a class that
    looks like it, see `semantic_targets`; on CIFAR-10 five classes keep all their labels, so r/2 end up wrong.

    Args:
      kind: one of MATRIX_KINDS.
      rate: r, a fraction in [0, 1]; under uniform noise r (C-1)/C of the labels end up wrong.
      num_classes: C, 2 or more.
      seed: draws the targets of flip; 0 or more.
      class_names: C names, those of CIFAR-10 or CIFAR-100, for semantic.

    Returns:
      f64[C, C], rows sum to 1.

    Raises:
      UserError: naming noise.kind or noise.rate, its value and what is allowed.
    """
    _check(kind, rate, num_classes)
    identity = np.eye(num_classes)
    if kind not in MATRIX_KINDS:
        raise UserError(f'noise.kind: "{kind}" has no transition matrix of its own, {", ".join(MATRIX_KINDS)} have')
    if kind == "uniform":
        return (1.0 - rate) * identity + rate / num_classes
    if kind == "uniform_excluded":
        return (1.0 - rate) * identity + rate / (num_classes - 1) * (1.0 - identity)
    if kind == "flip":
        return (1.0 - rate) * identity + rate * identity[_flip_targets(num_classes, seed)]
    if kind == "pair":
        return (1.0 - rate) * identity + rate * np.roll(identity, 1, axis=1)
    if kind == "semantic":
        return (1.0 - rate) * identity + rate * identity[semantic_targets(class_names)]
    return identity


def _flip_targets(num_classes: int, seed: int) -> np.ndarray:
    shift = generator(seed, Stream.FLIP_MAP).integers(1, num_classes, size=num_classes)
    return (np.arange(num_classes) + shift) % num_classes


def _check(kind: str, rate: float, num_classes: int) -> None:
    choose("noise.kind", kind, KINDS)
    # NaN fails both comparisons, so it is refused here too.
    if not isinstance(rate, Real) or isinstance(rate, bool) or not 0.0 <= rate <= 1.0:
        raise UserError(f"noise.rate: {rate!r} is out of range, expected a fraction in [0, 1]")
    if num_classes < 2:
        raise UserError(f"num_classes: {num_classes} is out of range, expected 2 or more")


def draw(labels: np.ndarray, matrix: np.ndarray, seed: int, exact: bool = False) -> np.ndarray:
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
    check_labels(labels, len(matrix))
    labels = np.asarray(labels)
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
