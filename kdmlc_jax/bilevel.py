"""The differentiable one-step look-ahead of bi-level optimisation.

Knows losses and optax; knows no network, no label and no data. Everything here is a pure function of pytrees.
Longer unrolls and implicit differentiation are out of scope: the methods of this package look one step ahead.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool

from kdmlc_jax.shapes import Scalar

PyTree = Any


class LookAhead(NamedTuple):
    """The state after one inner update: commit it instead of computing it again."""

    params: PyTree
    opt_state: optax.OptState
    loss: Scalar
    aux: Any


def look_ahead(
    inner_loss: Callable[[PyTree], tuple[Scalar, Any]],
    tx: optax.GradientTransformation,
    params: PyTree,
    opt_state: optax.OptState,
) -> LookAhead:
    """One optax update on `inner_loss`, differentiable in all that the loss closes over.

    w' = w + tx(∇_w L(w), w): momentum, weight decay, schedules and clipping of `tx` included; loss and aux are at w.

    Any optax transformation; Adam needs `eps_root > 0` here: its square root has an infinite derivative wherever an
    inner gradient is exactly 0, and the meta-gradient becomes NaN.
    """
    (loss, aux), gradient = jax.value_and_grad(inner_loss, has_aux=True)(params)
    updates, opt_state = tx.update(gradient, opt_state, params)
    return LookAhead(optax.apply_updates(params, updates), opt_state, loss, aux)


def meta_gradient(
    inner_loss: Callable[[PyTree, PyTree], tuple[Scalar, Any]],
    outer_loss: Callable[[PyTree], Scalar],
    tx: optax.GradientTransformation,
    meta_params: PyTree,
    params: PyTree,
    opt_state: optax.OptState,
) -> tuple[PyTree, Scalar, LookAhead]:
    """Gradient of the outer loss after one inner update, with respect to the meta-parameters.

    ∇_α L_outer(w'(α)) with w'(α) = w + tx(∇_w L_inner(w, α), w), by reverse mode straight through the update.

    Args:
      inner_loss: (w, α) -> (scalar loss, aux).
      outer_loss: w' -> scalar loss.
      tx: the inner optimiser; see `look_ahead` for Adam.
      meta_params: α.
      params: w.
      opt_state: the state of `tx` at w.

    Returns:
      (∇_α, outer loss at w', the look-ahead itself, ready to be committed).

    Source: MLC (Zheng et al., AAAI 2021), eq. 4-7; here without its finite-difference approximation.
    """

    def objective(meta_params: PyTree) -> tuple[jax.Array, LookAhead]:
        ahead = look_ahead(lambda w: inner_loss(w, meta_params), tx, params, opt_state)
        return outer_loss(ahead.params), ahead

    (outer, ahead), gradient = jax.value_and_grad(objective, has_aux=True)(meta_params)
    return gradient, outer, ahead


class MetaMemory(struct.PyTreeNode):
    """What the k-step recursion and the monitors remember of earlier meta-gradients."""

    accumulated: PyTree
    previous: PyTree
    count: jax.Array  # i32[], look-aheads since the meta-parameters last moved


def init_memory(meta_params: PyTree) -> MetaMemory:
    """An empty memory for meta-parameters of this shape."""
    # Twice: two leaves may not share one buffer where a step donates its input.
    accumulated, previous = optax.tree.zeros_like(meta_params), optax.tree.zeros_like(meta_params)
    return MetaMemory(accumulated, previous, count=jnp.zeros((), jnp.int32))


def decay(outer_before: PyTree, outer_after: PyTree, step_size: float | jax.Array) -> Scalar:
    """The k-step recursion's γ = clip((1 - η)⟨g', g⟩ / ‖g‖², 0, 1), as a scalar.

    g and g' are the outer gradients at w and w', η is the inner learning rate.

    Source: MLC's release; the clip is ours, because γ has no bound as ‖g‖ → 0.
    """
    norm2 = optax.tree.vdot(outer_before, outer_before)
    gamma = (1.0 - step_size) * optax.tree.vdot(outer_after, outer_before) / jnp.maximum(norm2, 1e-12)
    return jnp.clip(gamma, 0.0, 1.0)


def recur(
    memory: MetaMemory, gradient: PyTree, gamma: Scalar, steps: int
) -> tuple[PyTree, Bool[Array, ""], MetaMemory]:
    """One turn of the k-step recursion: a_t = ∇_α + γ_t a_{t-1}; α moves at every k-th turn, then a is reset.

    `gradient` is this turn's one-step meta-gradient, γ_t that of `decay`, k ≥ 1 is `steps`.

    Returns:
      (a_t, whether α moves now, the memory for the next turn).
    """
    total = optax.tree.add_scale(gradient, gamma, memory.accumulated)
    count = memory.count + 1
    due = count >= steps
    kept = optax.tree.where(due, optax.tree.zeros_like(total), total)
    return total, due, MetaMemory(kept, gradient, jnp.where(due, 0, count))


def monitors(memory: MetaMemory, gradient: PyTree) -> dict[str, Scalar]:
    """Norm of the meta-gradient and its cosine to the one before (0 while there is none)."""
    norm = optax.tree.norm(gradient)
    previous = optax.tree.norm(memory.previous)
    cosine = optax.tree.vdot(gradient, memory.previous) / jnp.maximum(norm * previous, 1e-20)
    return {"meta_gradient_norm": norm, "meta_gradient_cosine": cosine}
