"""MixUp: pairs of images and of their targets, mixed alike."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdmlc_jax.shapes import Inputs, Key


def mixup(key: Key, images: Inputs, alpha: float | int) -> tuple[Inputs, Callable[[jax.Array], jax.Array]]:
    """x̃_i = λ_i x_i + (1-λ_i) x_π(i) with λ_i ~ Beta(α, α), folded to λ ≥ ½ (MixUp, Zhang et al. 2018; the fold, by
    which an image stays nearer to itself than to its partner, is MixMatch's); also a function that mixes targets
    f32[B, C] in the same way. α = 0 mixes nothing.
    """
    if not alpha:
        return images, lambda rows: rows
    weight_key, order_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, (len(images),))
    weight = jnp.maximum(weight, 1.0 - weight)
    partner = jax.random.permutation(order_key, len(images))

    def mix(rows: jax.Array) -> jax.Array:
        w = jnp.reshape(weight, (-1,) + (1,) * (rows.ndim - 1))
        return w * rows + (1.0 - w) * rows[partner]

    return jax.tree.map(mix, images), mix
