"""Plain cross-entropy: on the noisy labels, on the trusted ones, or on both.

"both" joins a noisy and a trusted batch in each step, so that trusted images weigh as much as in the meta-learning
methods' inner loss; every variant takes the same number of steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.errors import choose, in_range
from kdmlc_jax.methods.base import Batch, Info, Method, Metrics, Stage, Streams
from kdmlc_jax.train_state import NetState

# Images and their labels in a batch.
PAIRS = {"image": "label", "trusted_image": "trusted_label"}


def default_config(preset: str = "") -> ConfigDict:
    """train_on: noisy | trusted | both; network: whose architecture, teacher | student; ema: decay, 0 = off."""
    choose("method.preset", preset, ("",))
    return ConfigDict({"name": "ce", "preset": preset, "train_on": "noisy", "network": "student", "ema": 0.0})


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`."""
    options = config.method
    train_on = choose("method.train_on", options.train_on, ("noisy", "trusted", "both"))
    network = choose("method.network", options.network, ("teacher", "student"))
    in_range("method.ema", options.ema, 0.0, 1.0)
    module = nets.build(config[network].net, info.num_classes, f"{network}.net")
    tx = optim.build(config.optim, config.train.epochs * info.steps_per_epoch)
    streams = Streams(
        noisy=config.train.batch_size if train_on != "trusted" else 0,
        trusted=config.train.trusted_batch_size if train_on != "noisy" else 0,
    )

    def init(key: jax.Array, images: jax.Array) -> NetState:
        return train_state.create(key, module, tx, images, options.ema)

    def step(net: NetState, batch: Batch, key: jax.Array) -> tuple[NetState, Metrics]:
        there = {image: label for image, label in PAIRS.items() if image in batch}
        soft = {label: jax.nn.one_hot(batch[label], info.num_classes) for label in there.values()}
        if "soft_label" in batch:
            soft["label"] = batch["soft_label"]
        parts = [(batch[image], soft[label]) for image, label in there.items()]
        images, target = (jnp.concatenate(column) for column in zip(*parts, strict=True))

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            output, batch_stats = train_state.train_forward(net, params, images)
            return jnp.mean(losses.cross_entropy(target, output.logits)), batch_stats

        (loss, batch_stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(net.params)
        return net.descend(gradient, batch_stats, options.ema), {"loss": loss}

    def predict(net: NetState, images: jax.Array) -> jax.Array:
        return train_state.evaluate(net, images).logits

    def correct(net: NetState, images: jax.Array, given_label: jax.Array, index: jax.Array) -> jax.Array:
        return jax.nn.softmax(predict(net, images))

    stages = (Stage("train", config.train.epochs, streams, step),)
    return Method(init, stages, predict, correct, {network: lambda net: net}, network)
