"""A network learns from images alone, no label seen, and a probe says what its features are worth (SimCLR: Chen et al.
2020, arXiv 2002.05709).

Two random views of each noisy image (`augment.views.simclr`) go through the network to its features h and a projection
head to z; `losses.nt_xent` of z pulls the two together and pushes all others in the batch away. BatchNorm takes its
statistics over each view of the batch.

The probes' labels never reach the features: the network's own last layer is a linear probe on sg[h] of the trusted
images (without any, of the noisy ones with their labels); the vote of near features is `knn_logits` (Wu et al. 2018,
arXiv 1805.01978).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from kdmlc_jax import losses, nets, train_state
from kdmlc_jax.errors import UserError, in_range
from kdmlc_jax.methods.base import Batch, Info, Metrics
from kdmlc_jax.nets.heads.projector import Projector
from kdmlc_jax.shapes import Features, Inputs, Key, Logits, Scalar, SoftLabels
from kdmlc_jax.train_state import NetState

NEIGHBOURS, SHARPNESS = 20, 0.07


class ContrastiveState(struct.PyTreeNode):
    """What a network in contrastive training has beside its `NetState`."""

    projector: Any  # weights
    opt_state: Any  # of the network's and the projector's
    probe_opt_state: Any


def build(tx: optax.GradientTransformation, num_classes: int, temperature: float, probe_lr: float) -> "Contrastive":
    """The step of every network that `tx` moves together with its projector; τ of the loss, Adam's rate for the probe.

    Raises:
      UserError: for a number outside its range, named as the config's.
    """
    in_range("method.temperature", temperature, 1e-3)
    in_range("method.probe_lr", probe_lr, 0.0, 1e6)
    return Contrastive(tx, optax.adam(probe_lr), Projector(), num_classes, temperature)


@dataclass(frozen=True, eq=False)
class Contrastive:
    """One network's contrastive training; `build` makes it."""

    tx: optax.GradientTransformation
    probe_tx: optax.GradientTransformation
    projector: nn.Module
    num_classes: int
    temperature: float

    def init(self, key: Key, net: NetState, images: Inputs) -> ContrastiveState:
        """The state before the first step of `net`."""
        projector = self.projector.init(key, train_state.evaluate(net, images).features)["params"]
        probe = net.params[nets.head_of(net.params)]
        return ContrastiveState(projector, self.tx.init((net.params, projector)), self.probe_tx.init(probe))

    def loss(self, weights: tuple[Any, Any], net: NetState, batch: Batch) -> tuple[Scalar, Any]:
        """Mean NT-Xent of the batch's two views, and the moved batch statistics; weights: of network and projector."""
        batch_stats: Any = net.batch_stats
        projected: list[Any] = []
        for view in ("view1", "view2"):
            before = net.replace(batch_stats=batch_stats)
            output, batch_stats = train_state.train_forward(before, weights[0], batch[view])
            projected.append(self.projector.apply({"params": weights[1]}, output.features))
        return jnp.mean(losses.nt_xent(projected[0], projected[1], self.temperature)), batch_stats

    def probe_loss(self, layer: Any, features: Features, target: SoftLabels) -> Scalar:
        """Mean CE of the linear probe; layer: its kernel and bias."""
        logits = features @ layer["kernel"] + layer["bias"][None]
        return jnp.mean(losses.cross_entropy(target, logits))

    def step(
        self, net: NetState, state: ContrastiveState, batch: Batch
    ) -> tuple[NetState, ContrastiveState, Metrics, Features]:
        """One update of network and projector and one of the probe; also the features that the probe learned from."""
        weights = net.params, state.projector
        (loss, batch_stats), gradient = jax.value_and_grad(self.loss, has_aux=True)(weights, net, batch)
        updates, opt_state = self.tx.update(gradient, state.opt_state, weights)
        params, projector = optax.apply_updates(weights, updates)

        kind = "trusted_" if "trusted_image" in batch else ""
        features = train_state.evaluate(net.replace(ema=None), batch[f"{kind}image"]).features
        target = jax.nn.one_hot(batch[f"{kind}label"], self.num_classes)
        head = nets.head_of(net.params)
        probe_loss, gradient = jax.value_and_grad(self.probe_loss)(net.params[head], features, target)
        updates, probe_opt_state = self.probe_tx.update(gradient, state.probe_opt_state)
        params = {**params, head: optax.apply_updates(net.params[head], updates)}
        moved = ContrastiveState(projector, opt_state, probe_opt_state)
        return net.with_weights(params, batch_stats), moved, {"loss": loss, "probe_loss": probe_loss}, features

    def init_all(self, key: Key, networks: Mapping[str, NetState], images: Inputs) -> dict[str, ContrastiveState]:
        """`init` of each network."""
        return {
            name: self.init(jax.random.fold_in(key, 10 + number), net, images)
            for number, (name, net) in enumerate(networks.items())
        }

    def step_all(
        self, networks: Mapping[str, NetState], states: Mapping[str, ContrastiveState], batch: Batch
    ) -> tuple[dict[str, NetState], dict[str, ContrastiveState], Metrics, Features]:
        """`step` of each network, with figures "<name>_loss", …, and the features side by side."""
        moved, beside, features = {}, {}, {}
        metrics: Metrics = {}
        for name, net in networks.items():
            moved[name], beside[name], figures, features[name] = self.step(net, states[name], batch)
            metrics |= {f"{name}_{figure}": value for figure, value in figures.items()}
        return moved, beside, metrics, side_by_side(features)


def joint_features(networks: Mapping[str, NetState], images: Inputs) -> Features:
    """The networks' features side by side."""
    return side_by_side({name: train_state.evaluate(net, images).features for name, net in networks.items()})


def check_images(info: Info, place: str) -> None:
    """Raises UserError where the images cannot be seen in other views."""
    if info.is_features:
        raise UserError(f"{place}: SimCLR needs images, these are features of {info.image_shape[2]} columns")


def side_by_side(features: Mapping[str, Float[Array, "B _"]]) -> Features:
    """f32[B, D1 + D2 + …], rows of length 1, in which the networks' features f32[B, D1], … weigh alike."""
    parts = [losses.unit_rows(rows) for rows in features.values()]
    return jnp.concatenate(parts, axis=1) / len(parts) ** 0.5


def knn_logits(features: Features, bank: Float[Array, "Q D"], label: Int[Array, " Q"], num_classes: int) -> Logits:
    """log Σ exp(⟨h, b⟩/.07) over those of the 20 nearest rows b that have a class; finite.

    All rows are of length 1; one whose label is -1 does not vote.
    """
    similarity = jnp.where(label[None] >= 0, features @ bank.T, -1.0)
    nearest, at = jax.lax.top_k(similarity, min(NEIGHBOURS, len(bank)))
    votes = jnp.exp((nearest - 1.0) / SHARPNESS)[:, :, None] * jax.nn.one_hot(label[at], num_classes)
    return jnp.log(jnp.sum(votes, axis=1) + 1e-20)
