"""The contract: a method is to noisy-label training what a `GradientTransformation` is to optimisation.

`methods/<name>.py` holds `default_config(preset) -> ConfigDict`, `make(config, info) -> Method` and the method itself:
a frozen dataclass of modules, optimisers and options, whose functions are pure. RECIPES there, if any, is what the
method needs on some data set, or on all (`config.resolve`); ON_FEATURES how a comparison on features names it, if it
begins with it. A method knows no file, flag, clock or device, and nothing
outside `methods/` knows its name. `tests/method_contract_test.py` runs on every method found.
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from kdmlc_jax.shapes import Inputs, Key, Labels, Logits, Matrix, SoftLabels
from kdmlc_jax.train_state import NetState

State = Any  # a pytree of arrays
Batch = dict[str, Any]  # arrays, and `Inputs`
Metrics = dict[str, jax.Array]


class Info(NamedTuple):
    """What a method may know of the data before it sees any."""

    num_classes: int
    image_shape: tuple[int, ...]  # H, W, K
    steps_per_epoch: int
    num_noisy: int
    num_trusted: int
    num_features: int = 0  # columns of `DatasetView.features`, 0 = none were given
    num_own_given: int = 0  # trusted images whose own given label, the one before it was checked, is known
    class_entropy: float = 0.0  # in nats: of the given labels or of the trusted ones, the lesser; 0 = not known
    trusted_of: Mapping[str, int] = {}  # trusted images to learn from, of each class by name, in the classes' order

    @property
    def is_features(self) -> bool:
        """Whether the images are vectors, of one pixel: no augmentation of them."""
        return self.image_shape[0] * self.image_shape[1] == 1


class Streams(NamedTuple):
    """Inputs per step of each kind; 0 leaves the kind's arrays out of the batch.

    Every batch has `epoch` i32[], from 0, which goes on where a step is undone (`train.on_nonfinite`).
    noisy: `image` f32[B, H, W, K], `label` i32[B] (the given label), `index` i32[B]; `soft_label` f32[B, C] where the
      labels are those of another run (`data.labels`), `label` being their largest entry.
    views: also `view1` and `view2` f32[B, H, W, K], two augmentations of the noisy images as SimCLR makes them.
    trusted: `trusted_image`, `trusted_label`, `trusted_given`, `trusted_index`.
    meta: `meta_image` and so on, of trusted images disjoint from this step's `trusted_image`; without Cutout.
      `*_given` is the label a trusted image carried before it was checked, -1 where that is not known.
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
    # fn() -> pytree of host arrays, called in process 0 alone; every process is given what it returns. Whatever is
    # decided for the whole set is decided here, never computed in every process and hoped to be equal.
    decide: Callable[[Callable[[], Any]], Any]
    fetch: Callable[[Any], Any]  # host copies of a pytree of arrays of the state, wherever they lie
    history: list[dict]  # the epochs so far, without test or true-label figures
    # A line for the person, which `summary.json` keeps; one that begins with "warning: " is in the verdict, too.
    note: Callable[[str], None]
    features: dict[str, np.ndarray] | None = None  # {"noisy" | "trusted": f32[rows, D]} of `data.features`, if given


class Stage(NamedTuple):
    """A span of epochs with one pure step; epochs that an early end leaves over go to the last stage."""

    name: str
    epochs: int
    streams: Streams
    step: Callable[[State, Batch, Key], tuple[State, Metrics]]
    begin: Callable[[State, DatasetView], State] | None = None
    done: Callable[[list[dict]], bool] | None = None  # epochs so far, no test or true-label figures -> end this stage
    every: int = 0  # `begin` again after so many epochs of the stage, 0 = only before the first


class Panel(NamedTuple):
    """A picture of the method's own on a run's page, declared: what is drawn is what the run leaves under these names.

    kind and what `of` names:
      curve: `Report.figures` f32[n]; else metrics of its steps, by epoch. One scale for all.
      histogram: a column of `Report.columns` with values in [0, 1].
      matrix: a figure f32[C, C].
      table: figures f32[] or small arrays.
    """

    title: str
    kind: str
    of: tuple[str, ...]
    mark: str = ""  # a figure f32[]; a line stands where its absolute value is
    over: str = ""  # of a curve: a figure f32[n], from the left to the right; "" = 1 … n
    note: str = ""  # what it tells, a sentence


PANELS = ("curve", "histogram", "matrix", "table")


@dataclass(frozen=True)
class Traits:
    """What the house must know of a method besides its functions."""

    deployed: str  # which of `Method.networks` is the one a user deploys
    ensemble: str = ""  # the name of `predict` where it is not the deployed network but several together
    needs_trusted: bool = False  # whether a trusted image of every class must be there
    takes_trusted: bool = False  # whether it learns from trusted images, where there are any, that no stream names
    takes_teacher: bool = False  # whether "teacher" may come trained from another run (`teacher.run`); it stands still
    pretrained: bool = False  # whether `init_from`, where it is given, must hold all networks
    preparing: tuple[str, ...] = ()  # stages of whose epochs last5, best_val and best_test do not speak
    panels: tuple[Panel, ...] = ()  # what a run's page draws beside what it draws of every method


# The columns of `labels.table` that `Report.columns` may speak in the place of.
FLAGS = ("is_label_issue", "label_score")


class Report(NamedTuple):
    """What a method has found, besides beliefs and networks."""

    transition: Matrix | None = None  # estimated T̂, rows true, columns given
    # Of the noisy images, [N] each, by name: those of FLAGS in place of `labels.table`'s, others beside them.
    columns: Mapping[str, Any] = {}
    figures: Mapping[str, jax.Array] = {}  # small arrays for `summary.json`, by name

    def without_flags(self) -> "Report":
        """The same but for its flags, which are of the labels that the method has learned from: where those are not
        the ones first given, the table's own flags stand."""
        return self._replace(columns={name: rows for name, rows in self.columns.items() if name not in FLAGS})


class Method(abc.ABC):
    """A method of learning with noisy labels."""

    traits: Traits

    @abc.abstractmethod
    def init(self, key: Key, images: Inputs) -> State:
        """The state before the first step, from a key and example images."""

    @property
    @abc.abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """What is trained, in its order."""

    @abc.abstractmethod
    def predict(self, state: State, images: Inputs) -> Logits:
        """Logits of the deployed network, or of the ensemble that the traits name."""

    @abc.abstractmethod
    def correct(self, state: State, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """Beliefs about the true labels, rows on the simplex; `index` is the row of the noisy split, -1 elsewhere."""

    @abc.abstractmethod
    def networks(self, state: State) -> dict[str, NetState]:
        """The networks in a state, "student" and "teacher" or one of them: the very objects, no copies."""

    def report(self, state: State) -> Report:
        """What else the method has found; nothing, unless it says so."""
        return Report()
