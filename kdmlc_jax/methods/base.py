"""The contract: a method is a small tuple of pure functions; nothing else in the house knows more of it.

`methods/<name>.py` holds `default_config(preset) -> ConfigDict`, `make(config, info) -> Method` and its state (a
pytree of arrays). It knows no file, flag, clock or device. `tests/method_contract_test.py` runs on every method found.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

State = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Info(NamedTuple):
    """What a method may know of the data before it sees any."""

    num_classes: int
    image_shape: tuple[int, ...]  # H, W, K
    steps_per_epoch: int


class Streams(NamedTuple):
    """Images per step of each kind; 0 leaves the kind's arrays out of the batch.

    noisy: `image` f32[B, H, W, K], `label` i32[B] (the given label), `index` i32[B].
    trusted: `trusted_image`, `trusted_label`, `trusted_given`.
    meta: `meta_image`, `meta_label`, `meta_given`: trusted images disjoint from this step's `trusted_image`, without
      Cutout. `*_given` is the label a trusted image carried before it was checked, -1 where that is not known.
    """

    noisy: int = 0
    trusted: int = 0
    meta: int = 0


class DatasetView(NamedTuple):
    """What `Stage.begin` may see of the whole set: images f32 through `map`, labels as i32 on the host."""

    given_label: np.ndarray  # i32[N]
    trusted_label: np.ndarray  # i32[M]
    map: Callable[[str, Callable], Any]  # ("noisy" | "trusted", images f32[B, ...] -> pytree of rows) -> rows of all


class Stage(NamedTuple):
    """A span of epochs with one pure step."""

    name: str
    epochs: int
    streams: Streams
    step: Callable[[State, Batch, jax.Array], tuple[State, Metrics]]
    begin: Callable[[State, DatasetView], State] | None = None
    done: Callable[[list[dict]], bool] | None = None  # epochs so far, no test or true-label figures -> end this stage


class Method(NamedTuple):
    """A method of learning with noisy labels."""

    init: Callable[[jax.Array, jax.Array], State]  # key, example images f32[B, H, W, K]
    stages: tuple[Stage, ...]
    predict: Callable[[State, jax.Array], jax.Array]  # images -> logits f32[B, C] of the network a user deploys
    correct: Callable[[State, jax.Array, jax.Array], jax.Array]  # images, given labels i32[B] -> beliefs f32[B, C]
    networks: Mapping[str, Callable[[State], Any]]  # "student" | "teacher" -> its NetState in a state
    deployed: str  # which of `networks` is the one `predict` uses
    transition: Callable[[State], jax.Array] | None = None  # estimated T̂ f32[C, C], rows true, columns given
