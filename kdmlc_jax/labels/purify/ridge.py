"""Ridge regression in closed form."""

from typing import Any

import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float


def ridge_factor(rows: Float[Array, "B D"], penalty: Any) -> Float[Array, "K K"]:
    """The Cholesky factor of XᵀX + λI, or of XXᵀ + λI where that is smaller: K = min(B, D).

    λ > 0, or 0 for B >= D and columns that are independent.
    """
    gram = rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T
    return jnp.linalg.cholesky(gram + penalty * jnp.eye(len(gram), dtype=rows.dtype))


def ridge_weights(
    factor: Float[Array, "K K"], rows: Float[Array, "B D"], label: Float[Array, "B C"]
) -> Float[Array, "D C"]:
    """W*(Y) = (XᵀX + λI)⁻¹ XᵀY = Xᵀ (XXᵀ + λI)⁻¹ Y from the `ridge_factor` of X; linear in Y."""
    if rows.shape[1] <= rows.shape[0]:
        return cho_solve((factor, True), rows.T @ label)
    return rows.T @ cho_solve((factor, True), label)
