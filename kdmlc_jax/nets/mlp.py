"""A fully connected network for precomputed features."""

import re

from flax import linen as nn

from kdmlc_jax.nets.base import Norm, Output
from kdmlc_jax.shapes import Images

FORM = "mlp<width>"
EXAMPLES = ("mlp256",)


class MLP(nn.Module):
    """Two hidden layers of `width`, each Dense-BatchNorm-ReLU; the second one's output is the features.

    The batch norm also evens out the scale of features that another network computed.
    """

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, width] of flattened images."""
        x = images.reshape(images.shape[0], -1)
        for _ in range(2):
            x = nn.Dense(self.width, use_bias=False, kernel_init=nn.initializers.he_normal())(x)
            x = nn.relu(Norm(use_running_average=not train)(x))
        return Output(nn.Dense(self.num_classes)(x), x)


def build(name: str, num_classes: int) -> MLP | None:
    """The network, or None where the name is not of this form."""
    match = re.fullmatch(r"mlp([1-9]\d{0,3})", name)
    return MLP(num_classes, int(match[1])) if match else None
