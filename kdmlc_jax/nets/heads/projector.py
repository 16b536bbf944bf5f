"""SimCLR's projection head, which is thrown away after pre-training."""

from flax import linen as nn
from jaxtyping import Array, Float

from kdmlc_jax.shapes import Features


class Projector(nn.Module):
    """Dense D, ReLU, Dense `size` (Chen et al. 2020, arXiv 2002.05709)."""

    size: int = 128

    @nn.compact
    def __call__(self, features: Features) -> Float[Array, "B {self.size}"]:
        """The vectors that the contrastive loss compares."""
        return nn.Dense(self.size)(nn.relu(nn.Dense(features.shape[-1])(features)))
