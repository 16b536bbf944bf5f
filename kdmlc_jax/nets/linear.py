"""A linear classifier: one dense layer on the pixels, or on features that another network computed."""

from flax import linen as nn

from kdmlc_jax.nets.base import Output
from kdmlc_jax.shapes import Images

FORM = "linear"
EXAMPLES = ("linear",)


class Linear(nn.Module):
    """z = W x + b; the features are the flattened image x itself."""

    num_classes: int

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, H·W·K]."""
        x = images.reshape(images.shape[0], -1)
        return Output(nn.Dense(self.num_classes)(x), x)


def build(name: str, num_classes: int) -> Linear | None:
    """The network, or None where the name is not of this form."""
    return Linear(num_classes) if name == FORM else None
