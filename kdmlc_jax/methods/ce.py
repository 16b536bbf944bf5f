"""Plain cross-entropy: on the noisy labels, on the trusted ones, or on both.

"both" joins a noisy and a trusted batch in each step, so that trusted images weigh as much as in the meta-learning
methods' inner loss; every variant takes the same number of steps.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.errors import choose, in_range
from kdmlc_jax.methods.base import Batch, Info, Method, Metrics, Stage, Streams, Traits
from kdmlc_jax.shapes import Inputs, Key, Labels, Logits, Scalar, SoftLabels, joined
from kdmlc_jax.train_state import NetState

# Inputs and their labels in a batch.
PAIRS = {"image": "label", "trusted_image": "trusted_label"}


def default_config(preset: str = "") -> ConfigDict:
    """train_on: noisy | trusted | both; network: whose architecture, teacher | student; ema: decay, 0 = off."""
    choose("method.preset", preset, ("",))
    return ConfigDict({"name": "ce", "preset": preset, "train_on": "noisy", "network": "student", "ema": 0.0})


def make(config: Any, info: Info) -> "CrossEntropy":
    """The method that `config` describes; raises UserError for an option outside its range."""
    options = config.method
    train_on = choose("method.train_on", options.train_on, ("noisy", "trusted", "both"))
    network = choose("method.network", options.network, ("teacher", "student"))
    return CrossEntropy(
        traits=Traits(deployed=network),
        module=nets.build(config[network].net, info.num_classes, f"{network}.net"),
        tx=optim.build(config.optim, config.train.epochs * info.steps_per_epoch),
        num_classes=info.num_classes,
        ema=in_range("method.ema", options.ema, 0.0, 1.0),
        epochs=config.train.epochs,
        streams=Streams(
            noisy=config.train.batch_size if train_on != "trusted" else 0,
            trusted=config.train.trusted_batch_size if train_on != "noisy" else 0,
        ),
    )


@dataclass(frozen=True, eq=False)
class CrossEntropy(Method):
    """One network; its state is a `NetState`."""

    traits: Traits
    module: nn.Module
    tx: optax.GradientTransformation
    num_classes: int
    ema: float
    epochs: int
    streams: Streams

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One."""
        return (Stage("train", self.epochs, self.streams, self.step),)

    def init(self, key: Key, images: Inputs) -> NetState:
        return train_state.create(key, self.module, self.tx, images, self.ema)

    def targets(self, batch: Batch) -> tuple[Inputs, SoftLabels]:
        """All images of the batch and the distribution that each is to have."""
        there = {image: label for image, label in PAIRS.items() if image in batch}
        soft = {label: jax.nn.one_hot(batch[label], self.num_classes) for label in there.values()}
        if "soft_label" in batch:
            soft["label"] = batch["soft_label"]
        images, target = zip(*((batch[image], soft[label]) for image, label in there.items()), strict=True)
        return joined(images), jnp.concatenate(target)

    def loss(self, params: Any, net: NetState, batch: Batch) -> tuple[Scalar, Any]:
        """Mean CE over the batch, and the moved batch statistics."""
        images, target = self.targets(batch)
        output, batch_stats = train_state.train_forward(net, params, images)
        return jnp.mean(losses.cross_entropy(target, output.logits)), batch_stats

    def step(self, net: NetState, batch: Batch, key: Key) -> tuple[NetState, Metrics]:
        """One optimiser update."""
        net, loss = net.minimise(self.loss, batch, ema_decay=self.ema)
        return net, {"loss": loss}

    def predict(self, net: NetState, images: Inputs) -> Logits:
        return train_state.evaluate(net, images).logits

    def correct(self, net: NetState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """The network's own beliefs, whatever the label."""
        return jax.nn.softmax(self.predict(net, images))

    def networks(self, net: NetState) -> dict[str, NetState]:
        return {self.traits.deployed: net}
