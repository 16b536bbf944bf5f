"""A small convolutional network for CPU-scale work."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdmlc_jax.nets import Output


class SmallCNN(nn.Module):
    """Three 3x3 convolutions (w, 2w, 4w channels; the last two with stride 2), BatchNorm, ReLU, global average pool.

    Strides instead of max-pooling: the look-ahead differentiates twice, and pooling's second derivative is slow.
    """

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Output:
        """f32[B, H, W, K] -> logits f32[B, C], features f32[B, 4w]."""
        first = 2 if min(images.shape[1:3]) > 16 else 1
        x = images
        for factor, stride in ((1, first), (2, 2), (4, 2)):
            x = nn.Conv(factor * self.width, (3, 3), stride, use_bias=False, kernel_init=nn.initializers.he_normal())(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)
