"""Label noise: drawn from a transition matrix, drawn from the image, or read from a file.

A kind of noise is a module here, found by its name (`kdmlc_jax.registry`), with

* `RATED`: whether `noise.rate` governs it;
* `CORRUPTS`: whether it makes given labels from true ones, so that every image needs one; else labels come as they are;
* `CARRIED`, where True: the labels are people's, those that trusted images had before they were checked among them, so
  that methods may learn from these, too (`prepare.own_labels`);
* `matrix(request) -> f64[C, C]`, where it has a transition matrix T[y, ỹ] = P(given label ỹ | true label y), from which
  labels are then drawn; or `labels(request) -> i32[N]`, the given labels themselves. What a person should know of how
  a file was read goes to `request.say`.
"""

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax import registry
from kdmlc_jax.data.noise.base import Request, draw, realised
from kdmlc_jax.data.sources.base import Part
from kdmlc_jax.errors import UserError, in_range

__all__ = ["Request", "draw", "given_labels", "is_carried", "is_rated", "realised", "transition_matrix"]


def given_labels(
    config: Any, train: Part, class_names: Sequence[str], seed: int, say: Callable[[str], None] = lambda line: None
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """The labels to learn from, by `noise.kind`; a pure function of its arguments and the file named.

    Args:
      config: `config.noise`: kind, rate, exact, file, human, column.
      train: N images with the labels they came with.
      class_names: C names.
      seed: 0 or more.
      say: is told how a file was read, a line each.

    Returns:
      i32[N] given labels, -1 where there is none, and i32[N] true labels, -1 where unknown.

    Raises:
      UserError: naming the config field or the file, the value and what is allowed.
    """
    kind = _kind(config.kind)
    in_range("noise.rate", config.rate, 0.0, 1.0)
    truth = np.full_like(train.labels, -1) if train.truth is None else train.truth.copy()
    if kind.CORRUPTS:
        # Who draws noise says by it that the labels at hand are right.
        truth = train.labels.copy() if train.truth is None else truth
        if missing := np.count_nonzero(truth < 0):
            why = f"needs the true label of every image, {missing} have none"
            raise UserError(f'noise.kind: "{config.kind}" {why}; take "none"')
    if config.exact and not hasattr(kind, "matrix"):
        raise UserError(f'noise.exact: noise.kind "{config.kind}" has no transition matrix whose counts could be kept')
    request = Request(
        config.rate, len(class_names), seed, class_names, train.labels, truth, train.images, train.ids, config.file,
        config.human, getattr(config, "column", ""), say,
    )  # fmt: skip
    if request.named and config.kind != "file":
        raise UserError(f'noise.column: noise.kind "{config.kind}" reads no table of labels, "file" does')
    if hasattr(kind, "labels"):
        return kind.labels(request), truth
    return draw(truth, kind.matrix(request), seed, config.exact), truth


def transition_matrix(
    kind: str, rate: float | int, num_classes: int, seed: int, class_names: Sequence[str] = ()
) -> Float[np.ndarray, "C C"]:
    """T[y, ỹ] = P(given label ỹ | true label y) of a kind that has it without a file.

    Args:
      kind, rate, num_classes, seed, class_names: as in `Request`.

    Raises:
      UserError: naming noise.kind or noise.rate, its value and what is allowed.
    """
    module = _kind(kind)
    in_range("noise.rate", rate, 0.0, 1.0)
    in_range("num_classes", num_classes, 2)
    if not hasattr(module, "matrix"):
        raise UserError(f'noise.kind: "{kind}" has no transition matrix')
    made: np.ndarray = module.matrix(Request(rate, num_classes, seed, class_names))
    return made


def is_rated(kind: str) -> bool:
    """Whether `noise.rate` says how much noise of this kind there is."""
    return bool(_kind(kind).RATED)


def is_carried(kind: str) -> bool:
    """Whether images of this kind carry people's labels, neither drawn nor read from a file."""
    return bool(getattr(_kind(kind), "CARRIED", False))


def _kind(name: str) -> ModuleType:
    return registry.get(sys.modules[__name__], "noise.kind", name)
