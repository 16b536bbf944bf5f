"""A network in training: Flax's TrainState with batch statistics and, where asked, an average of the weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.training import train_state

from kdmlc_jax.nets import Output
from kdmlc_jax.shapes import Images, Key, Scalar


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
    key: Key, module: nn.Module, tx: optax.GradientTransformation, images: Images, ema_decay: float = 0.0
) -> NetState:
    """Initialises `module` on `images` f32[B, H, W, K]; keeps an average of the weights if `ema_decay` > 0."""
    variables = module.init(key, images, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    # A copy: the step donates its input, and two leaves may not share one buffer.
    ema = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema_decay > 0 else None
    return NetState(
        step=jnp.zeros((), jnp.int32),
        apply_fn=module.apply,
        params=params,
        tx=tx,
        opt_state=tx.init(params),
        batch_stats=batch_stats,
        ema=ema,
    )


def train_forward(net: NetState, params: Any, images: Images) -> tuple[Output, Any]:
    """Forward pass with batch statistics of `images`; returns the output and the moved running statistics."""
    variables = {"params": params, "batch_stats": net.batch_stats}
    output, moved = net.apply_fn(variables, images, train=True, mutable=["batch_stats"])
    return output, moved.get("batch_stats", {})


def evaluate(net: NetState, images: Images) -> Output:
    """Forward pass with running statistics, on the averaged weights where they are kept."""
    variables = net.ema if net.ema is not None else {"params": net.params, "batch_stats": net.batch_stats}
    return net.apply_fn(variables, images, train=False)
