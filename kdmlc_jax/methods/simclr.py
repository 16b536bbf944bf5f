"""SimCLR: networks learn from the images alone, no label seen (Chen et al. 2020, arXiv 2002.05709).

Two random views of each noisy image (`augment.views.simclr`) go through the network to its features h and a projection
head to z; the loss pulls the two together and pushes all others in the batch away:

    L = mean over 2B views of  -log exp(⟨z_i, z_j⟩/τ) / Σ_{k≠i} exp(⟨z_i, z_k⟩/τ)        |z| = 1, j: i's other view

The other views are those of the whole batch, on whichever device they are. BatchNorm takes its statistics over each
view of the batch.

What the features are worth is measured as they grow, by labels that never reach them: the network's own last layer is
a linear probe, trained on sg[h] of the trusted images (without any, of the noisy ones with their labels), and `knn`
predicts by the newest trusted features, of all networks side by side (Wu et al. 2018, arXiv 1805.01978: votes
exp(cosine/.07)). The weights are the start of any other method (`init_from=<workdir>`), and DMLP's first stage.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.errors import UserError, choose, in_range
from kdmlc_jax.methods.base import Batch, Info, Legacy, Method, Metrics, Stage, Streams
from kdmlc_jax.nets.heads.projector import Projector
from kdmlc_jax.train_state import NetState

QUEUE = 4096  # trusted features that vote, at most
NEIGHBOURS, SHARPNESS = 20, 0.07
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


def check_images(info: Info, place: str) -> None:
    """Raises UserError where the images cannot be seen in other views."""
    if info.is_features:
        raise UserError(f"{place}: SimCLR needs images, these are features of {info.image_shape[2]} columns")


class Contrast(struct.PyTreeNode):
    """What a network in contrastive training has beside its `NetState`."""

    projector: Any  # weights
    opt_state: Any  # of the network's and the projector's
    probe_opt_state: Any


class SimCLR:
    """Modules and optimisers of one network's contrastive training, built once, and its pure functions."""

    def __init__(self, tx: optax.GradientTransformation, num_classes: int, temperature: float, probe_lr: float):
        """`tx` moves network and projector together; raises UserError for a number outside its range."""
        in_range("method.temperature", temperature, 1e-3)
        in_range("method.probe_lr", probe_lr, 0.0, 1e6)
        self.tx, self.num_classes, self.temperature, self.projector = tx, num_classes, temperature, Projector()
        self.probe_tx = optax.adam(probe_lr)

    def init(self, key: jax.Array, net: NetState, images: jax.Array) -> Contrast:
        """The state before the first step of `net`."""
        projector = self.projector.init(key, train_state.evaluate(net, images).features)["params"]
        probe = net.params[nets.head_of(net.params)]
        return Contrast(projector, self.tx.init((net.params, projector)), self.probe_tx.init(probe))

    def step(self, net: NetState, contrast: Contrast, batch: Batch) -> tuple[NetState, Contrast, Metrics, jax.Array]:
        """One update of network and projector, and one of the probe; returns the features the probe has seen, too."""

        def loss_fn(weights: tuple[Any, Any]) -> tuple[jax.Array, Any]:
            projected: list[Any] = []
            batch_stats = net.batch_stats
            for view in ("view1", "view2"):
                output, batch_stats = train_state.train_forward(
                    net.replace(batch_stats=batch_stats), weights[0], batch[view]
                )
                projected.append(self.projector.apply({"params": weights[1]}, output.features))
            return jnp.mean(losses.nt_xent(projected[0], projected[1], self.temperature)), batch_stats

        weights = net.params, contrast.projector
        (loss, batch_stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(weights)
        updates, opt_state = self.tx.update(gradient, contrast.opt_state, weights)
        params, projector = optax.apply_updates(weights, updates)

        kind = "trusted_" if "trusted_image" in batch else ""
        features = train_state.evaluate(net.replace(ema=None), batch[f"{kind}image"]).features
        target = jax.nn.one_hot(batch[f"{kind}label"], self.num_classes)

        def probe_loss(layer: Any) -> jax.Array:
            logits = features @ layer["kernel"] + layer["bias"][None]
            return jnp.mean(losses.cross_entropy(target, logits))

        head = nets.head_of(net.params)
        probe_loss_value, probe_gradient = jax.value_and_grad(probe_loss)(net.params[head])
        probe_updates, probe_opt_state = self.probe_tx.update(probe_gradient, contrast.probe_opt_state)
        params = {**params, head: optax.apply_updates(net.params[head], probe_updates)}
        moved = Contrast(projector, opt_state, probe_opt_state)
        return net.with_weights(params, batch_stats), moved, {"loss": loss, "probe_loss": probe_loss_value}, features


class State(struct.PyTreeNode):
    """The networks by name, and the newest features, among which neighbours are looked for."""

    nets: dict[str, NetState]
    contrasts: dict[str, Contrast]
    queue: jax.Array  # f32[Q, D], rows of length 1, of all networks side by side
    queue_label: jax.Array  # i32[Q], -1 before it is filled


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`."""
    options = config.method
    chosen = choose("method.encoders", options.encoders, ("both", "teacher", "student"))
    names = ("student", "teacher") if chosen == "both" else (chosen,)
    check_images(info, "method.name")
    tx = optim.build(config.optim, config.train.epochs * info.steps_per_epoch)
    modules = {name: nets.build(config[name].net, info.num_classes, f"{name}.net") for name in names}
    learner = SimCLR(tx, info.num_classes, options.temperature, options.probe_lr)
    width = config.train.trusted_batch_size if info.num_trusted else config.train.batch_size
    size = max(min(info.num_trusted or info.num_noisy, QUEUE) // width, 1) * width
    deployed = names[0]

    def init(key: jax.Array, images: jax.Array) -> State:
        made = {
            name: train_state.create(jax.random.fold_in(key, number), module, optax.identity(), images)
            for number, (name, module) in enumerate(modules.items())
        }
        contrasts = {
            name: learner.init(jax.random.fold_in(key, 10 + number), net, images)
            for number, (name, net) in enumerate(made.items())
        }
        columns = side_by_side({name: train_state.evaluate(net, images).features for name, net in made.items()}).shape[
            1
        ]
        return State(made, contrasts, jnp.zeros((size, columns)), jnp.full((size,), -1, jnp.int32))

    def step(current: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        moved, contrasts, seen = {}, {}, {}
        metrics: Metrics = {}
        for name, net in current.nets.items():
            moved[name], contrasts[name], figures, seen[name] = learner.step(net, current.contrasts[name], batch)
            metrics |= figures if name == deployed else {f"{name}_{figure}": value for figure, value in figures.items()}
        label = batch["trusted_label" if info.num_trusted else "label"]
        queue = jnp.concatenate([current.queue[width:], side_by_side(seen)])
        queue_label = jnp.concatenate([current.queue_label[width:], label])
        return State(moved, contrasts, queue, queue_label), metrics

    def predict(current: State, images: jax.Array) -> jax.Array:
        features = side_by_side(
            {name: train_state.evaluate(net, images).features for name, net in current.nets.items()}
        )
        return knn_logits(features, current.queue, current.queue_label, info.num_classes)

    def correct(current: State, images: jax.Array, given_label: jax.Array, index: jax.Array) -> jax.Array:
        return jax.nn.softmax(train_state.evaluate(current.nets[deployed], images).logits)

    streams = Streams(
        noisy=config.train.batch_size,
        trusted=config.train.trusted_batch_size if info.num_trusted else 0,
        views=True,
    )
    return Legacy(
        init=init,
        stages=(Stage("simclr", config.train.epochs, streams, step),),
        predict=predict,
        correct=correct,
        networks={name: partial(lambda name, current: current.nets[name], name) for name in names},
        deployed=deployed,
        ensemble="knn",
    )


def side_by_side(features: dict[str, jax.Array]) -> jax.Array:
    """f32[B, D1 + D2 + …], rows of length 1, in which the networks' features f32[B, D1], … weigh alike."""
    parts = [losses.unit_rows(rows) for rows in features.values()]
    return jnp.concatenate(parts, axis=1) / len(parts) ** 0.5


def knn_logits(features: jax.Array, bank: jax.Array, label: jax.Array, num_classes: int) -> jax.Array:
    """log Σ exp(⟨h, b⟩/.07) over those of the 20 nearest rows b that have a class, f32[B, C]; finite.

    Args:
      features: h, f32[B, D], of length 1.
      bank: b, f32[Q, D], of length 1.
      label: i32[Q]; -1 = does not vote.
      num_classes: C.
    """
    similarity = jnp.where(label[None] >= 0, features @ bank.T, -1.0)
    nearest, at = jax.lax.top_k(similarity, min(NEIGHBOURS, len(bank)))
    votes = jnp.exp((nearest - 1.0) / SHARPNESS)[:, :, None] * jax.nn.one_hot(label[at], num_classes)
    return jnp.log(jnp.sum(votes, axis=1) + 1e-20)
