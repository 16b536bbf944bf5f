"""SimCLR's projection head, which is thrown away after pre-training."""

import jax
from flax import linen as nn


class Projector(nn.Module):
    """Dense D, ReLU, Dense `size`: features f32[B, D] -> f32[B, size] (Chen et al. 2020, arXiv 2002.05709)."""

    size: int = 128

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """The vectors that the contrastive loss compares."""
        return nn.Dense(self.size)(nn.relu(nn.Dense(features.shape[-1])(features)))
