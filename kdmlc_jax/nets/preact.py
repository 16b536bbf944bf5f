"""Residual networks whose norms stand before the convolutions (He et al. 2016, identity mappings)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdmlc_jax.nets.base import Norm, Output, conv
from kdmlc_jax.shapes import Images

FORM = "preact_resnet<18>"
EXAMPLES = ("preact_resnet18",)


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice, plus x, or a 1x1 convolution of the activated x where the shape changes."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "B h w k"]:
        """[B, H, W, K] -> [B, H/stride, W/stride, channels]."""
        y = nn.relu(Norm(use_running_average=not train)(x))
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.channels:
            shortcut = conv(self.channels, 1, self.stride)(y)
        y = conv(self.channels, stride=self.stride)(y)
        y = conv(self.channels)(nn.relu(Norm(use_running_average=not train)(y)))
        return shortcut + y


class PreActResNet(nn.Module):
    """A 3x3 stem and stages of `blocks` each, all but the first with stride 2; the only pooling is the last."""

    num_classes: int
    stem: int
    channels: tuple[int, ...]  # per stage
    blocks: int

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, channels of the last stage]."""
        x = conv(self.stem)(images)
        for stage, channels in enumerate(self.channels):
            for block in range(self.blocks):
                x = PreActBlock(channels, 2 if block == 0 and stage > 0 else 1)(x, train)
        x = nn.relu(Norm(use_running_average=not train)(x))
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)


def build(name: str, num_classes: int) -> PreActResNet | None:
    """The network, or None where the name is not of this form."""
    return PreActResNet(num_classes, 64, (64, 128, 256, 512), 2) if name in EXAMPLES else None
