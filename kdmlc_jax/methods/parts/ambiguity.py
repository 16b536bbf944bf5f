"""How much an image counts: little where it lies between two classes (AML-KD, doi 10.1109/TNNLS.2023.3335829)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from kdmlc_jax.losses import unit_rows
from kdmlc_jax.shapes import Features, Key, Labels, Logits, PerImage


@partial(jax.jit, static_argnames="num_classes")
def cosines(features: Features, label: Labels, num_classes: int) -> Float[Array, "B C"]:
    """Cosine of features to the mean direction of each class; -1 to one without an image."""
    rows = unit_rows(features)
    members = jax.nn.one_hot(label, num_classes)
    centres = unit_rows(members.T @ rows / jnp.maximum(jnp.sum(members, axis=0), 1.0)[:, None])
    return jnp.where(jnp.sum(members, axis=0) > 0, rows @ centres.T, -1.0)


@jax.jit
def closed_weight(cosine: Logits, label: Labels) -> PerImage:
    """s = σ(10 (cosine to the own centre - the largest other one))."""
    own = jax.nn.one_hot(label, cosine.shape[1], dtype=bool)
    mine, other = (jnp.max(cosine, axis=1, where=part, initial=-1) for part in (own, ~own))
    return jax.nn.sigmoid(10.0 * (mine - other))


class WeightNet(nn.Module):
    """Cosines and onehot(ŷ), f32[N, 2C] -> f32[N], before the sigmoid."""

    @nn.compact
    def __call__(self, rows: Float[Array, "N C2"]) -> Float[Array, " N"]:
        """See the class."""
        return nn.Dense(1)(nn.relu(nn.Dense(rows.shape[1] // 2)(rows)))[:, 0]


@partial(jax.jit, static_argnames="steps")
def learned_weight(
    key: Key, cosine: Float[Array, "N C"], label: Int[Array, " N"], easy: Bool[Array, " N"], steps: int = 200
) -> Float[Array, " N"]:
    """s in [.05, 1]: σ of a `WeightNet` fitted to `easy` by binary cross-entropy, `steps` of Adam on all rows.

    It cannot collapse: weights follow the share of easy images, not the student's loss, and none is below .05.
    """
    rows = jnp.concatenate([cosine, jax.nn.one_hot(label, cosine.shape[1])], axis=1)
    net, tx = WeightNet(), optax.adam(1e-2)
    params = net.init(key, rows)

    def loss(params: Any) -> jax.Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(net.apply(params, rows), easy.astype(jnp.float32)))

    def step(_: Any, carry: Any) -> Any:
        params, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, _ = jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))
    logits: Any = net.apply(params, rows)
    return jnp.maximum(jax.nn.sigmoid(logits), 0.05)
