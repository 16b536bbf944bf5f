"""A small convolutional network for CPU-scale work."""

import re

import jax.numpy as jnp
from flax import linen as nn

from kdmlc_jax.nets.base import Output, conv
from kdmlc_jax.shapes import Images

FORM = "cnn<width>"
EXAMPLES = ("cnn16",)


class SmallCNN(nn.Module):
    """Three 3x3 convolutions (w, 2w, 4w channels; the last two with stride 2), BatchNorm, ReLU, global average pool.

    Strides instead of max-pooling: the look-ahead differentiates twice, and pooling's second derivative is slow.
    """

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, 4w]; the first convolution, too, halves images of more than 16 pixels."""
        first = 2 if min(images.shape[1:3]) > 16 else 1
        x = images
        for factor, stride in ((1, first), (2, 2), (4, 2)):
            x = conv(factor * self.width, stride=stride, init=nn.initializers.he_normal())(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)


def build(name: str, num_classes: int) -> SmallCNN | None:
    """The network, or None where the name is not of this form."""
    match = re.fullmatch(r"cnn([1-9]\d{0,3})", name)
    return SmallCNN(num_classes, int(match[1])) if match else None
