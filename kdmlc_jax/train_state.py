"""A network in training: Flax's TrainState with batch statistics and, where asked, an average of the weights."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.training import train_state

from kdmlc_jax.nets import Output, head_of
from kdmlc_jax.shapes import Inputs, Key, Scalar, part_of


class NetState(train_state.TrainState):
    """Parameters, optimiser state and batch statistics of one network; `ema` averages the first and the last."""

    batch_stats: Any
    ema: Any  # {"params", "batch_stats"}, or None where no average is kept

    def commit(self, params: Any, opt_state: optax.OptState, batch_stats: Any, ema_decay: float = 0.0) -> "NetState":
        """Takes a finished update; the average moves to d·ema + (1-d)·new, with d ≤ (1+t)/(10+t) early on."""
        ema = self.ema
        if ema is not None:
            step = jnp.asarray(self.step, jnp.float32)
            d = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
            new = {"params": params, "batch_stats": batch_stats}
            ema = jax.tree.map(lambda old, now: d * old + (1.0 - d) * now, ema, new)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, batch_stats=batch_stats, ema=ema)

    def with_weights(self, params: Any, batch_stats: Any) -> "NetState":
        """Other weights, averaged ones too, in an otherwise unchanged state: no step is counted."""
        ema = None if self.ema is None else jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
        return self.replace(params=params, batch_stats=batch_stats, ema=ema)

    def descend(self, gradient: Any, batch_stats: Any, ema_decay: float = 0.0) -> "NetState":
        """One optimiser update from `gradient`, committed."""
        updates, opt_state = self.tx.update(gradient, self.opt_state, self.params)
        return self.commit(optax.apply_updates(self.params, updates), opt_state, batch_stats, ema_decay)

    def minimise(self, loss: Callable, *arguments: Any, ema_decay: float = 0.0) -> tuple["NetState", Scalar]:
        """One update on `loss(params, net, *arguments)` -> (value, moved batch statistics), and that value."""
        (value, batch_stats), gradient = jax.value_and_grad(loss, has_aux=True)(self.params, self, *arguments)
        return self.descend(gradient, batch_stats, ema_decay), value


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def replace_net(tree: Any, old: NetState, new: NetState) -> Any:
    """`tree` with `new` in the place of `old`, which is told by identity."""
    return jax.tree.map(lambda node: new if node is old else node, tree, is_leaf=lambda node: node is old)


class Bank(struct.PyTreeNode):
    """What a method remembers of every image of the noisy split: `rows` [N, ...], addressed by a batch's `index`.

    A large one may be split over the devices by its rows (`parallel.split_banks`).
    """

    rows: jax.Array


def create(
    key: Key, module: nn.Module, tx: optax.GradientTransformation, images: Inputs, ema_decay: float = 0.0
) -> NetState:
    """Initialises `module` on `images` f32[B, H, W, K]; keeps an average of the weights if `ema_decay` > 0."""
    part = getattr(module, "sees", "pixels")
    variables = module.init(key, part_of(images, part), train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    # A copy: the step donates its input, and two leaves may not share one buffer.
    ema = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema_decay > 0 else None
    return NetState(
        step=jnp.zeros((), jnp.int32),
        apply_fn=Shown(module.apply, part),
        params=params,
        tx=tx,
        opt_state=tx.init(params),
        batch_stats=batch_stats,
        ema=ema,
    )


@dataclass(frozen=True)
class Shown:
    """A network's apply function, for images of which it sees a part."""

    apply_fn: Callable
    part: str  # pixels | features

    def __call__(self, variables: Any, images: Inputs, **keywords: Any) -> Any:
        return self.apply_fn(variables, part_of(images, self.part), **keywords)


@dataclass(frozen=True)
class HeadAlone:
    """A network's apply function of which the last layer alone has a gradient, and no statistic moves."""

    apply_fn: Callable
    head: str

    def __call__(self, variables: Any, images: Inputs, train: bool, mutable: Any = ()) -> Any:
        """As `nn.Module.apply`; in training, too, the layers below normalise by their running statistics."""
        features = jax.lax.stop_gradient(self.apply_fn(variables, images, train=False).features)
        layer = variables["params"][self.head]
        output = Output(jnp.dot(features, layer["kernel"]) + layer["bias"][None], features)
        return (output, {"batch_stats": variables["batch_stats"]}) if mutable else output


@functools.lru_cache
def of_head(tx: optax.GradientTransformation, below: float = 0.0) -> optax.GradientTransformation:
    """`tx` for a network's last layer; `below` times its updates for all else, which stands still at 0, weight decay
    included. One object for each `tx`."""

    def parts(params: Any) -> Any:
        head = head_of(params)
        return {name: jax.tree.map(lambda _, own=name == head: own, part) for name, part in params.items()}

    rest = optax.chain(tx, optax.scale(below)) if below else optax.set_to_zero()
    return optax.multi_transform({True: tx, False: rest}, parts)


def frozen(net: NetState) -> NetState:
    """`net` of which the last layer alone learns: no gradient, no weight decay, no batch statistic moves the others."""
    tx = of_head(net.tx)
    return net.replace(apply_fn=HeadAlone(net.apply_fn, head_of(net.params)), tx=tx, opt_state=tx.init(net.params))


def slowed(net: NetState, below: float) -> NetState:
    """`net` of which all below the last layer learns at `below` times its learning rate."""
    tx = of_head(net.tx, below)
    return net.replace(tx=tx, opt_state=tx.init(net.params))


def train_forward(net: NetState, params: Any, images: Inputs) -> tuple[Output, Any]:
    """Forward pass with batch statistics of `images`; returns the output and the moved running statistics."""
    variables = {"params": params, "batch_stats": net.batch_stats}
    output, moved = net.apply_fn(variables, images, train=True, mutable=["batch_stats"])
    return output, moved.get("batch_stats", {})


def evaluate(net: NetState, images: Inputs) -> Output:
    """Forward pass with running statistics, on the averaged weights where they are kept."""
    variables = net.ema if net.ema is not None else {"params": net.params, "batch_stats": net.batch_stats}
    return net.apply_fn(variables, images, train=False)
