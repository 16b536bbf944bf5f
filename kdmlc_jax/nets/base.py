"""What the families share: their output, the one convolution, the one normalisation."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from flax import linen as nn

from kdmlc_jax.shapes import Features, Logits

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
Norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class Output(NamedTuple):
    """What an image network returns: logits and the pooled features under its last layer."""

    logits: Logits
    features: Features


def conv(channels: int, kernel: int = 3, stride: int = 1, init: nn.initializers.Initializer = he_fan_out) -> nn.Conv:
    """A convolution without bias, padded by half its kernel on both sides, as in all the papers' networks.

    "SAME" pads an even image on the far side only where the stride is 2: the kernel would stand one pixel beside the
    pixel that a shortcut of the same stride reads.
    """
    return nn.Conv(channels, (kernel, kernel), stride, kernel // 2, use_bias=False, kernel_init=init)


def head_of(params: Iterable[str]) -> str:
    """The name of the last layer, nn.Dense from features to logits, in which every network here ends."""
    return max((name for name in params if name.startswith("Dense_")), key=lambda name: int(name[len("Dense_") :]))
