"""Residual networks in the form the noisy-label literature uses on 32x32 images (He et al. 2016, section 4.2)."""

import re

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdmlc_jax.nets.base import Norm, Output, conv
from kdmlc_jax.shapes import Images

FORM = "resnet<6n+2>"
EXAMPLES = ("resnet20", "resnet32")


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus an option-A shortcut: stride by slicing, new channels filled with zeros."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "B h w k"]:
        """[B, H, W, K] -> [B, H/stride, W/stride, channels]."""
        y = conv(self.channels, stride=self.stride)(x)
        y = nn.relu(Norm(use_running_average=not train)(y))
        y = Norm(use_running_average=not train)(conv(self.channels)(y))
        added = self.channels - x.shape[-1]
        if added or self.stride > 1:
            x = jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, self.stride, self.stride, 1))
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)))
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """ResNet-(6n+2) with 16/32/64 channels: n = 3 is ResNet-20, n = 5 ResNet-32."""

    num_classes: int
    blocks: int

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, 64]."""
        x = nn.relu(Norm(use_running_average=not train)(conv(16)(images)))
        for channels in (16, 32, 64):
            for block in range(self.blocks):
                x = BasicBlock(channels, 2 if block == 0 and channels > 16 else 1)(x, train)
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)


def build(name: str, num_classes: int) -> CifarResNet | None:
    """The network, or None where the name is not of this form."""
    match = re.fullmatch(r"resnet([1-9]\d{0,2})", name)
    blocks, rest = divmod(int(match[1]) - 2, 6) if match else (0, 0)
    return CifarResNet(num_classes, blocks) if blocks > 0 and rest == 0 else None
