"""Residual networks in the form the noisy-label literature uses on 32x32 images."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdmlc_jax.nets import Output

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
Conv3x3 = partial(nn.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=he_fan_out)
Norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus an option-A shortcut: stride by slicing, new channels filled with zeros."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """f32[B, H, W, K] -> f32[B, H/stride, W/stride, channels]."""
        y = Conv3x3(self.channels, strides=self.stride)(x)
        y = nn.relu(Norm(use_running_average=not train)(y))
        y = Norm(use_running_average=not train)(Conv3x3(self.channels)(y))
        added = self.channels - x.shape[-1]
        if added or self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)))
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """ResNet-(6n+2) with 16/32/64 channels (He et al. 2016, section 4.2): n = 3 is ResNet-20, n = 5 ResNet-32."""

    num_classes: int
    blocks: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Output:
        """f32[B, H, W, K] -> logits f32[B, C], features f32[B, 64]."""
        x = nn.relu(Norm(use_running_average=not train)(Conv3x3(16)(images)))
        for channels in (16, 32, 64):
            for block in range(self.blocks):
                x = BasicBlock(channels, 2 if block == 0 and channels > 16 else 1)(x, train)
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice plus a 1x1-convolution shortcut where the shape changes (He et al. 2016, identity maps)."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """f32[B, H, W, K] -> f32[B, H/stride, W/stride, channels]."""
        y = nn.relu(Norm(use_running_average=not train)(x))
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.channels:
            shortcut = nn.Conv(self.channels, (1, 1), self.stride, use_bias=False, kernel_init=he_fan_out)(y)
        y = Conv3x3(self.channels, strides=self.stride)(y)
        y = Conv3x3(self.channels)(nn.relu(Norm(use_running_average=not train)(y)))
        return shortcut + y


class PreActResNet(nn.Module):
    """PreAct-ResNet-18: stages of two blocks with 64/128/256/512 channels; 3x3 stem, no pooling before the last."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Output:
        """f32[B, H, W, K] -> logits f32[B, C], features f32[B, 512]."""
        x = Conv3x3(64)(images)
        for channels in (64, 128, 256, 512):
            for block in range(2):
                x = PreActBlock(channels, 2 if block == 0 and channels > 64 else 1)(x, train)
        x = nn.relu(Norm(use_running_average=not train)(x))
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)
