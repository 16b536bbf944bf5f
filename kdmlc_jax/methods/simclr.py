"""SimCLR: networks learn from the images alone, no label seen (Chen et al. 2020, arXiv 2002.05709).

    L = mean over 2B views of  -log exp(⟨z_i, z_j⟩/τ) / Σ_{k≠i} exp(⟨z_i, z_k⟩/τ)        |z| = 1, j: i's other view

The other views are those of the whole batch, on whichever device they are. The step and the linear probe that
measures the features as they grow are `parts.contrastive`'s; `knn` predicts by the newest trusted features, of all
networks side by side. The weights are the start of any other method (`init_from=<workdir>`), and DMLP's first stage.
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
from ml_collections import ConfigDict

from kdmlc_jax import nets, optim, train_state
from kdmlc_jax.errors import choose
from kdmlc_jax.methods.base import Batch, Info, Method, Metrics, Stage, Streams, Traits
from kdmlc_jax.methods.parts import contrastive
from kdmlc_jax.methods.parts.contrastive import Contrastive, ContrastiveState, joint_features, knn_logits
from kdmlc_jax.shapes import Inputs, Key, Labels, Logits, SoftLabels
from kdmlc_jax.train_state import NetState

QUEUE = 4096  # features that vote, at most
RECIPES = {
    # SupContrast's SimCLR, github.com/HobbitLong/SupContrast.
    "cifar10": {
        "optim.schedule": "cosine",
        "optim.lr": 0.5,
        "optim.warm_up": 0.01,
        "optim.weight_decay": 1e-4,
        "train.epochs": 1000,
        "train.batch_size": 1024,
    },
    "cifar10,quick": {"train.epochs": 20},
}


def default_config(preset: str = "") -> ConfigDict:
    """encoders: which of the networks learn, both | teacher | student.

    temperature: τ > 0. probe_lr: Adam's, for the probe.
    """
    choose("method.preset", preset, ("",))
    return ConfigDict({"name": "simclr", "preset": preset, "encoders": "both", "temperature": 0.5, "probe_lr": 0.01})


def make(config: Any, info: Info) -> "SimCLR":
    """The method that `config` describes; raises UserError for an option outside its range."""
    options = config.method
    chosen = choose("method.encoders", options.encoders, ("both", "teacher", "student"))
    names = ("student", "teacher") if chosen == "both" else (chosen,)
    contrastive.check_images(info, "method.name")
    tx = optim.build(config.optim, config.train.epochs * info.steps_per_epoch)
    width = config.train.trusted_batch_size if info.num_trusted else config.train.batch_size
    return SimCLR(
        traits=Traits(deployed=names[0], ensemble="knn"),
        modules={name: nets.build(config[name].net, info.num_classes, f"{name}.net") for name in names},
        learner=contrastive.build(tx, info.num_classes, options.temperature, options.probe_lr),
        queue=max(min(info.num_trusted or info.num_noisy, QUEUE) // width, 1) * width,
        epochs=config.train.epochs,
        streams=Streams(
            noisy=config.train.batch_size,
            trusted=config.train.trusted_batch_size if info.num_trusted else 0,
            views=True,
        ),
    )


class SimCLRState(struct.PyTreeNode):
    """The networks by name, and the newest features, among which neighbours are looked for."""

    nets: dict[str, NetState]
    contrastive: dict[str, ContrastiveState]
    queue: Float[Array, "Q D"]  # rows of length 1, of all networks side by side
    queue_label: Int[Array, " Q"]  # -1 before it is filled


@dataclass(frozen=True, eq=False)
class SimCLR(Method):
    """One network or two, each with a projector and a probe of its own."""

    traits: Traits
    modules: Mapping[str, nn.Module]
    learner: Contrastive
    queue: int
    epochs: int
    streams: Streams

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One."""
        return (Stage("simclr", self.epochs, self.streams, self.step),)

    def init(self, key: Key, images: Inputs) -> SimCLRState:
        made = {
            name: train_state.create(jax.random.fold_in(key, number), module, optax.identity(), images)
            for number, (name, module) in enumerate(self.modules.items())
        }
        beside = self.learner.init_all(key, made, images)
        empty = jnp.zeros((self.queue, joint_features(made, images).shape[1]))
        return SimCLRState(made, beside, empty, jnp.full((self.queue,), -1, jnp.int32))

    def step(self, state: SimCLRState, batch: Batch, key: Key) -> tuple[SimCLRState, Metrics]:
        """One update of each network; the labelled images' features join the queue."""
        moved, beside, metrics, newest = self.learner.step_all(state.nets, state.contrastive, batch)
        metrics = {name.removeprefix(f"{self.traits.deployed}_"): value for name, value in metrics.items()}
        label = batch["trusted_label" if "trusted_label" in batch else "label"]
        queue = jnp.concatenate([state.queue[len(newest) :], newest])
        queue_label = jnp.concatenate([state.queue_label[len(newest) :], label])
        return SimCLRState(moved, beside, queue, queue_label), metrics

    def predict(self, state: SimCLRState, images: Inputs) -> Logits:
        """The vote of the nearest features in the queue."""
        num_classes = self.learner.num_classes
        return knn_logits(joint_features(state.nets, images), state.queue, state.queue_label, num_classes)

    def correct(self, state: SimCLRState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """The deployed network's linear probe, whatever the label."""
        return jax.nn.softmax(train_state.evaluate(state.nets[self.traits.deployed], images).logits)

    def networks(self, state: SimCLRState) -> dict[str, NetState]:
        return dict(state.nets)
