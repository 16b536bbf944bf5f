"""A fully connected network for precomputed features."""

import jax
from flax import linen as nn

from kdmlc_jax.nets import Output
from kdmlc_jax.nets.resnet import Norm


class MLP(nn.Module):
    """Two hidden layers of `width`, each Dense-BatchNorm-ReLU; the second one's output is the features.

    The batch norm also evens out the scale of features that another network computed.
    """

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Output:
        """f32[B, H, W, K], flattened -> logits f32[B, C], features f32[B, width]."""
        x = images.reshape(len(images), -1)
        for _ in range(2):
            x = nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.he_normal())(x)
            x = nn.relu(Norm(use_running_average=not train)(x))
        return Output(nn.Dense(self.num_classes)(x), x)
