"""The given label is evidence beside what the heads believe."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, softmax
from jaxtyping import Array, Float, Int

from kdmlc_jax.labels.calibration import temperature
from kdmlc_jax.labels.transition import fitted_transition


@jax.jit
def with_evidence(
    log_beliefs: Sequence[jax.Array],
    of_trusted: Sequence[jax.Array],
    given: Int[Array, " N"],
    target: Int[Array, " M"],
) -> Float[Array, "N C"]:
    """∝ p T̂[:, ỹ], p ∝ (p₁ p₂)ᵗ, with the t at which p predicts the trusted labels best (`calibration.temperature`)
    and the T̂ under which the given labels are most likely (`transition.fitted_transition`).

    log p₁ and log p₂ are f32[N, C] each, both heads' logits of the trusted rows f32[M, C], their labels `target`.
    """
    t = temperature(sum(log_softmax(logits) for logits in of_trusted), target)
    log_p = log_softmax(t * sum(log_beliefs))
    return softmax(log_p + jnp.log(fitted_transition(jnp.exp(log_p), given)).T[given])
