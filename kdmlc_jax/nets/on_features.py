"""A network on the features that `data.features` has of the images, beside networks that see their pixels.

`teacher=features_mlp512,student=efficientnet_lite0` with features of a frozen encoder: the teacher is a head on it, and
the encoder has seen each image once; the student learns from augmented images. On vectors it is the network itself.
"""

from flax import linen as nn

from kdmlc_jax import nets
from kdmlc_jax.nets.base import Output
from kdmlc_jax.shapes import ON_FEATURES, Images

FORM = f"{ON_FEATURES}<network>"
EXAMPLES = (f"{ON_FEATURES}mlp256",)


class OnFeatures(nn.Module):
    """`net`, under its own parameters' names, shown features."""

    net: nn.Module
    sees = "features"

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits and features of `net` for f32[B, 1, 1, D]."""
        nn.share_scope(self, self.net)
        output: Output = self.net(images, train)
        return output


def build(name: str, num_classes: int) -> OnFeatures | None:
    """The network, or None where the name is not of this form."""
    if not name.startswith(ON_FEATURES):
        return None
    return OnFeatures(nets.build(name.removeprefix(ON_FEATURES), num_classes, f'network in "{name}"'))
