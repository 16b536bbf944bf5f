"""What methods share whose network is fitted at once, to all rows, and not trained by steps.

`begin` fits, and the one epoch's steps put what was found into the network. With p a method's beliefs by x alone,

    q(y | x, ỹ) ∝ p(y | x) T̂[y, ỹ]     the corrected label

T̂ is found by EM on p and the given labels (`labels.posterior`). A fit to given labels says nothing of T̂: there q is p.
No image is augmented, and `optim` and `train.epochs` have no effect.
"""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Float

from kdmlc_jax import train_state
from kdmlc_jax.labels.posterior import fit_noise
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Method, Metrics, Report, Stage, Streams, Traits
from kdmlc_jax.shapes import Features, Inputs, Key, Labels, Logits, Matrix, PerImage, Scalar, SoftLabels, part_of
from kdmlc_jax.train_state import Bank, NetState


def flattened(current: Any, images: Inputs, label: Labels) -> Features:
    """The rows that are fitted to."""
    return part_of(images, "pixels").reshape(len(images), -1)


class FittedState(struct.PyTreeNode):
    """The network, and what `begin` has found."""

    net: NetState
    fitted: Any  # parameters that the network gets
    beliefs: Bank  # p f32[N, C] of the noisy images
    transition: Matrix  # T̂; even, which says nothing, before it is found
    figures: dict[str, Scalar]  # FIGURES
    columns: dict[str, PerImage]  # COLUMNS, of the noisy images


@dataclass(frozen=True, eq=False)
class FittedAtOnce(Method):
    """One network; what a method adds is `begin`, which ends in `found`, and `believed`."""

    FIGURES: ClassVar[tuple[str, ...]] = ()  # for the summary, "held_out_loss" among them
    COLUMNS: ClassVar[tuple[str, ...]] = ()  # for the label table

    traits: Traits
    module: nn.Module
    info: Info
    train_on: str  # trusted | noisy | both

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One, of an epoch that looks at no image."""
        return (Stage("fit", 1, Streams(), self.step, self.begin),)

    def init(self, key: Key, images: Inputs) -> FittedState:
        """See `Method.init`."""
        net = train_state.create(key, self.module, optax.identity(), images)
        even = lambda rows: jnp.full((rows, self.info.num_classes), 1.0 / self.info.num_classes)  # noqa: E731
        return FittedState(
            net=net,
            fitted=jax.tree.map(jnp.zeros_like, self.late(net.params)),
            beliefs=Bank(even(self.info.num_noisy)),
            transition=even(self.info.num_classes),
            figures={name: jnp.zeros(()) for name in self.FIGURES},
            columns={name: jnp.zeros(self.info.num_noisy) for name in self.COLUMNS},
        )

    def late(self, params: Any) -> Any:
        """Those parameters that the network gets by the step."""
        return params

    @abc.abstractmethod
    def begin(self, state: FittedState, view: DatasetView) -> FittedState:
        """Fits."""

    @abc.abstractmethod
    def believed(self, net: NetState, images: Inputs, label: Labels) -> SoftLabels:
        """p of images, whatever the label."""

    def found(
        self, state: FittedState, view: DatasetView, beliefs: Float[np.ndarray, "N C"], fit: Any, **columns: Any
    ) -> FittedState:
        """`state` with p of the noisy images, the T̂ that follows, and FIGURES, attributes of `fit`."""
        transition = state.transition
        if self.train_on == "trusted":
            transition = view.decide(lambda: fit_noise(beliefs, view.given_label)).transition
        return state.replace(
            beliefs=Bank(jnp.float32(beliefs)),
            transition=jnp.float32(transition),
            figures={name: jnp.float32(getattr(fit, name)) for name in self.FIGURES},
            columns={name: jnp.float32(column) for name, column in columns.items()},
        )

    def step(self, state: FittedState, batch: Batch, key: Key) -> tuple[FittedState, Metrics]:
        """The network gets what was fitted; `loss` is of images left out in turn."""
        net = state.net.with_weights({**state.net.params, **state.fitted}, {})
        return state.replace(net=net), {"loss": state.figures["held_out_loss"]}

    def predict(self, state: FittedState, images: Inputs) -> Logits:
        """See `Method.predict`."""
        return train_state.evaluate(state.net, images).logits

    def correct(self, state: FittedState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """q, by the p of `begin` for noisy images and by the network's for others."""
        known = state.beliefs.rows[jnp.maximum(index, 0)]
        p = jnp.where(index[:, None] >= 0, known, self.believed(state.net, images, given_label))
        q = p * state.transition.T[given_label]
        return q / jnp.sum(q, axis=1, keepdims=True)

    def networks(self, state: FittedState) -> dict[str, NetState]:
        """See `Method.networks`."""
        return {"student": state.net}

    def report(self, state: FittedState) -> Report:
        """T̂ where there is one, and what was chosen."""
        transition = state.transition if self.train_on == "trusted" else None
        return Report(transition, state.columns, state.figures)
