"""T̂[y, ỹ] = P(an image of class y carries the label ỹ): every estimator of it, and what follows from it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from kdmlc_jax.errors import UserError
from kdmlc_jax.shapes import Labels, Logits, Matrix


def counted_transition(beliefs: Float[ArrayLike, "N C"], given_label: Int[ArrayLike, " N"]) -> Matrix:
    """T̂[y, ỹ] = (1 + n(y, ỹ)) / Σ_ỹ' (1 + n(y, ỹ')), n counting the noisy images believed to be y and labelled ỹ.

    Needs no trusted label; what the beliefs get wrong is counted as noise.
    """
    beliefs = jnp.asarray(beliefs)
    count = jnp.ones((beliefs.shape[1],) * 2).at[jnp.argmax(beliefs, axis=1), jnp.asarray(given_label)].add(1.0)
    return count / jnp.sum(count, axis=1, keepdims=True)


def fitted_transition(
    beliefs: Float[ArrayLike, "N C"], given_label: Int[ArrayLike, " N"], steps: int = 50
) -> Float[Array, "C C"]:
    """T̂ under which the given labels are most likely: argmax Π_i Σ_y p_y(x_i) T[y, ỹ_i], by EM.

    One step: q_i ∝ p(x_i) T[:, ỹ_i], then T[y, ỹ] ∝ 1 + Σ_i q_iy [ỹ_i = ỹ]. The likelihood is concave in T, and with
    calibrated beliefs (`calibration.temperature`) uncertain ones do not blur T̂; `counted_transition` they do.
    It starts `halfway`.
    """
    p, given = jnp.asarray(beliefs), jnp.asarray(given_label)

    def step(_: jax.Array, matrix: jax.Array) -> jax.Array:
        joint = p * matrix.T[given]
        q = joint / jnp.maximum(jnp.sum(joint, axis=1, keepdims=True), 1e-30)
        count = 1.0 + jnp.zeros_like(matrix).at[given].add(q).T
        return count / jnp.sum(count, axis=1, keepdims=True)

    return jax.lax.fori_loop(0, steps, step, halfway(p.shape[1]))


def halfway(num_classes: int) -> Matrix:
    """½ I + ½ 1/C, what an estimate starts from: between no noise and ignorance."""
    return 0.5 * jnp.eye(num_classes) + 0.5 / num_classes


def transition_matrix(joint: Matrix) -> Matrix:
    """T̂[y, ỹ] = P(ỹ | y) from the joint P(y, ỹ) f32[C, C]."""
    return joint / jnp.sum(joint, axis=1, keepdims=True)


def update_joint(joint: Matrix, logits: Logits, given_label: Labels, keep: float = 0.99) -> Matrix:
    """One step of online EM for P(y, ỹ): the posterior q ∝ p(y|x) T̂[y, ỹ] of a batch, averaged in [ours].

    What `fitted_transition` does to a whole set, in training; blurred beliefs do not blur T̂ here either. The logits
    are of the network whose beliefs are used, `keep` is the share of the old estimate kept per step.
    """
    given = jax.nn.one_hot(given_label, joint.shape[0])
    # Without the floor an entry that no image supports reaches 0 in time, and its logarithm leaves the reals.
    floor = 1e-6 / joint.size
    posterior = jax.nn.softmax(jax.nn.log_softmax(logits) + jnp.log(transition_matrix(joint)).T[given_label])
    return keep * joint + (1.0 - keep) * (posterior.T @ given / logits.shape[0] + floor)


def trusted_transition(beliefs: ArrayLike, label: ArrayLike) -> Float[np.ndarray, "C C"]:
    """T̂[y, ỹ] = mean of p(ỹ | x) over the trusted images of class y (GLC, Hendrycks et al. 2018, equation 1).

    Beliefs f32[M, C] are of a network trained on the noisy labels, which has not seen these images, labels i32[M] the
    trusted ones. A class without a trusted image has an even row.

    Raises:
      UserError: for lengths that disagree.
    """
    beliefs, label = np.asarray(beliefs, np.float64), np.asarray(label)
    if beliefs.ndim != 2 or len(beliefs) != len(label):
        raise UserError(f"beliefs: shape {beliefs.shape}, expected [{len(label)}, C], a row for each trusted label")
    classes = beliefs.shape[1]
    total = np.zeros((classes, classes))
    np.add.at(total, label, beliefs)
    total[total.sum(axis=1) == 0] = 1.0
    return (total / total.sum(axis=1, keepdims=True)).astype(np.float32)


def label_right(
    beliefs: Float[ArrayLike, "N C"],
    given_label: Int[ArrayLike, " N"],
    transition: Float[ArrayLike, "C C"],
    steps: int = 10,
) -> Float[Array, " N"]:
    """P(the given label is the true one | image) = q_ỹ T[ỹ, ỹ] / (q T)_ỹ, where q T ≈ p [ours].

    p is a belief about the label that an image carries, as networks trained on noisy labels have it; q, about its true
    class, is the distribution for which KL(p ‖ q T) is least: `steps` steps of EM from the even one,
    q_y ← q_y Σ_c T[y, c] p_c / (q T)_c. How often classes are mistaken for each other then counts beside what the
    networks see in the image. All entries of T are above 0; few steps leave q smoother.
    """
    p, transition = jnp.asarray(beliefs), jnp.asarray(transition)
    even = jnp.full_like(p, 1.0 / p.shape[1])
    q = jax.lax.fori_loop(0, steps, lambda _, q: q * ((p / (q @ transition)) @ transition.T), even)
    label = jnp.asarray(given_label)[:, None]
    kept = jnp.take_along_axis(q, label, axis=1)[:, 0] * jnp.diagonal(transition)[label[:, 0]]
    return jnp.clip(kept / jnp.take_along_axis(q @ transition, label, axis=1)[:, 0], 0.0, 1.0)
