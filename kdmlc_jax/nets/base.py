"""What the families share: their output, the one convolution, the one normalisation."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from flax import linen as nn

from kdmlc_jax.shapes import Features, Logits

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class Output(NamedTuple):
    """What an image network returns: logits and the pooled features under its last layer."""

    logits: Logits
    features: Features


class Published(NamedTuple):
    """How the weights of a network that others have published are named, and the images that they are made for."""

    layers: dict[str, str]  # path of our layer -> name of theirs: {"Block_0/Conv_1": "layer1.0.conv2"}
    mean: tuple[float, ...]  # of the pixels in [0, 1], by channel
    std: tuple[float, ...]
    side: int  # of the images, in pixels
    unseen: tuple[str, ...] = ()  # arrays of theirs that are not needed
    said: tuple[str, str] | None = None  # (theirs, another's): names that one has to have said where arrays are alike


class Timm(NamedTuple):
    """A network as timm has it."""

    architecture: str  # for timm.create_model
    layers: dict[str, str]  # as `Published.layers`
    arguments: Mapping[str, bool] = {}  # of timm.create_model, beside those that say classes and channels


def conv(channels: int, kernel: int = 3, stride: int = 1, init: nn.initializers.Initializer = he_fan_out) -> nn.Conv:
    """A convolution without bias, padded by half its kernel on both sides, as in all the papers' networks.

    "SAME" pads an even image on the far side only where the stride is 2: the kernel would stand one pixel beside the
    pixel that a shortcut of the same stride reads.
    """
    return nn.Conv(channels, (kernel, kernel), stride, kernel // 2, use_bias=False, kernel_init=init)


def head_of(params: Iterable[str]) -> str:
    """The name of the last layer, nn.Dense from features to logits, in which every network here ends."""
    return max((name for name in params if name.startswith("Dense_")), key=lambda name: int(name[len("Dense_") :]))
