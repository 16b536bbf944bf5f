"""EAC: a linear head learns from the labels; its beliefs are mixed into them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, softmax
from jaxtyping import Array, Float, Int

from kdmlc_jax.labels.purify.intrinsic import imbalance
from kdmlc_jax.labels.purify.rows import View
from kdmlc_jax.losses import cross_entropy, entropy
from kdmlc_jax.shapes import Scalar

MOMENTUM = 0.9


class Penalties(NamedTuple):
    """What the head's loss has beside its cross-entropy."""

    prior: float | jax.Array  # weight of KL(uniform ‖ mean p)
    entropy: float | jax.Array  # weight of mean Σ p log p


def head_logits(weights: Float[Array, "K C"], view: View, rows: Float[Array, "B K"]) -> Float[Array, "B C"]:
    """Of (x - centre) / scale, without a copy of X."""
    scaled = weights / view.scale[:, None]
    return rows @ scaled - (view.centre @ scaled)[None]


def head_loss(
    weights: Float[Array, "K C"],
    view: View,
    target: Float[Array, "N C"],
    part: Int[Array, " B"],
    penalties: Penalties,
) -> Scalar:
    """L_c = mean CE(argmax Y, head) + prior · KL(uniform ‖ mean p) + entropy · mean Σ p log p, over real rows.

    `target` is the one-hot argmax Y of all rows; in the batch's `part` X's last row, of zeros, is padding.
    """
    weight = (part < len(view.rows) - 1).astype(view.rows.dtype)
    z = head_logits(weights, view, view.rows[part])
    p = softmax(z)
    each = cross_entropy(target[part], z) - penalties.entropy * entropy(p)
    return jnp.sum(each * weight) / jnp.sum(weight) + penalties.prior * imbalance(z, weight)


@jax.jit
def train_head(
    head: tuple[Float[Array, "K C"], Float[Array, "K C"]],
    view: View,
    label: Float[Array, "N C"],
    orders: Int[Array, "epochs parts B"],
    rates: Float[Array, " epochs"],
    penalties: Penalties,
) -> tuple[tuple[Float[Array, "K C"], Float[Array, "K C"]], Float[Array, "N C"]]:
    """SGD with momentum on `head_loss`: the head, weights and velocity, and its log beliefs of all rows of X.

    Labels Y have X's row of zeros, too; `orders` are each epoch's batches, by row numbers.
    """
    target = jax.nn.one_hot(jnp.argmax(label, axis=1), label.shape[1])

    def step(state: tuple, batch: tuple) -> tuple:
        (weights, velocity), (part, rate) = state, batch
        velocity = MOMENTUM * velocity + jax.grad(head_loss)(weights, view, target, part, penalties)
        return (weights - rate * velocity, velocity), None

    each_batch = (orders.reshape(-1, orders.shape[2]), jnp.repeat(rates, orders.shape[1]))
    head, _ = jax.lax.scan(step, head, each_batch)
    return head, log_softmax(head_logits(head[0], view, view.rows))
