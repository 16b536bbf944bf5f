"""IPC: labels follow the gradient of a validation loss, through the closed form of ridge regression."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.nn import log_softmax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from kdmlc_jax.labels.purify.ridge import ridge_weights
from kdmlc_jax.labels.purify.rows import Batches, View
from kdmlc_jax.shapes import Scalar


class Regression(NamedTuple):
    """What a batch's labels are judged by."""

    factor: jax.Array  # of `ridge_factor` of rows
    rows: jax.Array  # X, f[B, D]; padding is zeros
    weight: jax.Array  # [B], 1, or 0 for padding
    trusted: jax.Array  # X_v, f[M, D]
    target: jax.Array  # Y_v, one-hot, f[M, C]


def validation_loss(label: Float[Array, "B C"], data: Regression) -> Scalar:
    """L_val(Y) = mean_v CE(y_v, X_v W*) + mean_v ‖X_v W* - Y_v‖² + KL(uniform ‖ mean softmax(X W*)).

    No row is dropped and no operator on the trusted rows kept (X_v(XᵀX + λI)⁻¹Xᵀ would be f32[M, N] in all): the KL
    needs W* itself, so a step is XᵀY, a solve with the factor, X W*, and the same transposed for the gradient.
    """
    solution = ridge_weights(data.factor, data.rows, label)
    logits = data.trusted @ solution
    hits = -jnp.mean(jnp.sum(data.target * log_softmax(logits), axis=1))
    squares = jnp.sum((logits - data.target) ** 2) / len(data.target)
    return hits + squares + imbalance(data.rows @ solution, data.weight)


def imbalance(logits: Float[Array, "B C"], weight: Float[Array, " B"]) -> Scalar:
    """KL(uniform ‖ mean softmax(z)), the mean over rows of weight 1; in log space, or a dying class has log 0."""
    mean = logsumexp(log_softmax(logits), axis=0, b=weight[:, None]) - jnp.log(jnp.sum(weight))
    return -jnp.log(logits.shape[1]) - jnp.mean(mean)


class Descent(NamedTuple):
    """How labels go down a loss; hashable, so that it is compiled once."""

    loss: Callable
    optimiser: Callable  # of the settings
    settings: tuple[float, ...]  # rate, β₁, β₂, weight decay
    project: Callable


def adamw(rate: float, beta1: float, beta2: float, decay: float) -> Any:
    """Adam with its weight decay apart from the gradient."""
    return optax.adamw(rate, beta1, beta2, weight_decay=decay)


def descend(label: Float[Array, "B C"], data: Regression, steps: Any, how: Descent) -> Float[Array, "B C"]:
    """One batch's labels after so many steps."""
    optimiser = how.optimiser(*how.settings)

    def step(_: Any, state: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        y, momenta = state
        updates, momenta = optimiser.update(jax.grad(how.loss)(y, data), momenta, y)
        return how.project(y + updates), momenta

    return jax.lax.fori_loop(0, steps, step, (label, optimiser.init(label)))[0]


@partial(jax.jit, static_argnames="how")
def correct(
    label: Float[Array, "N C"], view: View, batches: Batches, target: Float[Array, "M C"], steps: Any, how: Descent
) -> Float[Array, "N C"]:
    """All labels after so many steps, batch after batch: only one is copied out of X at a time.

    Y has a row for each of X, its row of zeros included; `target` is Y_v, one-hot.
    """

    def corrected(batch: Batches) -> jax.Array:
        weight = (batch.part < len(view.rows) - 1).astype(view.rows.dtype)
        data = Regression(batch.factor, view.rows[batch.part], weight, view.trusted, target)
        return descend(label[batch.part], data, steps, how)

    return label.at[batches.part].set(jax.lax.map(corrected, batches))
