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
    num_noisy: int
    num_trusted: int
    untrusted: tuple[str, ...] = ()  # names of the classes without a trusted image
    num_features: int = 0  # columns of `DatasetView.features`, 0 = none were given

    @property
    def is_features(self) -> bool:
        """Whether the images are vectors, of one pixel: no augmentation of them."""
        return self.image_shape[0] * self.image_shape[1] == 1


class Streams(NamedTuple):
    """Images per step of each kind; 0 leaves the kind's arrays out of the batch.

    Every batch has `epoch` i32[], from 0, which goes on where a step is undone (`train.on_nonfinite`).
    noisy: `image` f32[B, H, W, K], `label` i32[B] (the given label), `index` i32[B]; `soft_label` f32[B, C] where the
      labels are those of another run (`data.labels`), `label` being their largest entry.
    views: also `view1` and `view2` f32[B, H, W, K], two augmentations of the noisy images as SimCLR makes them.
    trusted: `trusted_image`, `trusted_label`, `trusted_given`.
    meta: `meta_image`, `meta_label`, `meta_given`: trusted images disjoint from this step's `trusted_image`, without
      Cutout. `*_given` is the label a trusted image carried before it was checked, -1 where that is not known.
    """

    noisy: int = 0
    trusted: int = 0
    meta: int = 0
    views: bool = False


class DatasetView(NamedTuple):
    """What `Stage.begin` may see of the whole set and of the run so far, on the host."""

    given_label: np.ndarray  # i32[N]
    trusted_label: np.ndarray  # i32[M]
    # ("noisy" | "trusted", fn, current, label = the given ones) -> host rows of all images of that split, in its order,
    # from batches of fn(current, images f32[B, H, W, K] un-augmented, label i32[B]) -> pytree of rows
    map: Callable[..., Any]
    fetch: Callable[[Any], Any]  # host copies of a pytree of arrays of the state, wherever they lie
    history: list[dict]  # the epochs so far, without test or true-label figures
    note: Callable[[str], None]  # a line for the person, which `summary.json` keeps
    features: dict[str, np.ndarray] | None = None  # {"noisy" | "trusted": f32[rows, D]} of `data.features`, if given


class Stage(NamedTuple):
    """A span of epochs with one pure step; epochs that an early end leaves over go to the last stage."""

    name: str
    epochs: int
    streams: Streams
    step: Callable[[State, Batch, jax.Array], tuple[State, Metrics]]
    begin: Callable[[State, DatasetView], State] | None = None
    done: Callable[[list[dict]], bool] | None = None  # epochs so far, no test or true-label figures -> end this stage
    counts: bool = True  # whether its epochs are among those of which last5, best_val and best_test speak
    every: int = 0  # `begin` again after so many epochs of the stage, 0 = only before the first


# The columns of `labels.table` that `Method.examine` may speak in the place of.
FLAGS = ("is_label_issue", "label_score")


def without_flags(examined: Mapping[str, Any]) -> dict[str, Any]:
    """What a method says of images beside its flags, which are of the labels that it has learned from: where those are
    not the ones first given, the table's own flags stand."""
    return {name: rows for name, rows in examined.items() if name not in FLAGS}


class Method(NamedTuple):
    """A method of learning with noisy labels."""

    init: Callable[[jax.Array, jax.Array], State]  # key, example images f32[B, H, W, K]
    stages: tuple[Stage, ...]
    predict: Callable[[State, jax.Array], jax.Array]  # images -> logits f32[B, C]: the deployed network, or `ensemble`
    # images, given labels i32[B], index i32[B] (rows of the noisy split, -1 for other images) -> beliefs f32[B, C]
    correct: Callable[[State, jax.Array, jax.Array, jax.Array], jax.Array]
    networks: Mapping[str, Callable[[State], Any]]  # "student" | "teacher" -> its NetState in a state
    deployed: str  # which of `networks` is the one a user deploys
    transition: Callable[[State], jax.Array] | None = None  # estimated T̂ f32[C, C], rows true, columns given
    ensemble: str = ""  # the name of `predict` where it is not the deployed network but several together
    # Of the noisy images, [N] each, by name: "is_label_issue" and "label_score" in place of `labels.table`'s, others
    # beside them.
    examine: Callable[[State], dict[str, jax.Array]] | None = None
    diagnostics: Callable[[State], dict[str, jax.Array]] | None = None  # small figures for the report, by name
    pretrained: tuple[str, ...] = ()  # those of `networks` that `init_from`, where it is given, must hold
    reads_features: bool = False  # whether `DatasetView.features` are of use
    taught: bool = False  # whether "teacher" may come trained from another run (`teacher.run`), and then stands still
