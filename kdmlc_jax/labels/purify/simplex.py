"""The probability simplex."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def project_simplex(rows: Float[Array, "B C"]) -> Float[Array, "B C"]:
    """The point of the probability simplex nearest to each row: max(y - τ, 0) with τ such that it sums to 1.

    τ is found by dropping what lies below it until nothing more does (Michelot 1986): C rounds at most, one or two
    for rows near the simplex, and no sort, so that on a CPU it takes a third (C = 10) to a tenth (C = 100) of the
    time of `optax.projections.projection_simplex` over the rows. All are finite.
    """
    rows = rows - jnp.max(rows, axis=1, keepdims=True)  # the largest is 0 and τ below it: something always stays

    def threshold(kept: Bool[Array, "B C"]) -> Float[Array, "B 1"]:
        total = jnp.sum(jnp.where(kept, rows, 0.0), axis=1, keepdims=True)
        return (total - 1.0) / jnp.sum(kept, axis=1, keepdims=True)

    def drop(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, _ = state
        fewer = kept & (rows > threshold(kept))
        return fewer, jnp.any(fewer != kept)

    start = (jnp.ones_like(rows, dtype=bool), jnp.asarray(True))
    kept, _ = jax.lax.while_loop(lambda state: state[1], drop, start)
    return jnp.maximum(rows - threshold(kept), 0.0)
