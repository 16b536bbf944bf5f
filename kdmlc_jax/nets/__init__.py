"""Networks by name. Every image network maps f32[B, H, W, K] to logits f32[B, C] and pooled features f32[B, D]."""

import re
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from kdmlc_jax.errors import UserError, suggest


class Output(NamedTuple):
    """What an image network returns: logits f32[B, C] and the pooled features f32[B, D] under its last layer."""

    logits: jax.Array
    features: jax.Array


def head_of(params: Any) -> str:
    """The name of the last layer, nn.Dense from features to logits, in which every network here ends."""
    return max(
        (name for name in params if name.startswith("Dense_")), key=lambda name: int(name.removeprefix("Dense_"))
    )


IMAGENET = {
    "imagenet_resnet18": ((2, 2, 2, 2), False),
    "imagenet_resnet34": ((3, 4, 6, 3), False),
    "imagenet_resnet50": ((3, 4, 6, 3), True),
}

NAMES = ("cnn<width>", "mlp<width>", "resnet20", "resnet32", "preact_resnet18", "wrn40_2", "wrn16_2", *IMAGENET)


def build(name: str, num_classes: int, place: str = "network") -> nn.Module:
    """The image network called `name`.

    Args:
      name: cnn<width> (three convolutions, e.g. cnn16), mlp<width> (two hidden layers, for features, e.g. mlp256),
        resnet<6n+2> (CIFAR form, e.g. resnet20, resnet32), preact_resnet18, wrn<6n+4>_<width> (wide, e.g. wrn40_2,
        wrn16_2), or imagenet_resnet18, 34 or 50 (large images).
      num_classes: C.
      place: the config field that an error names.

    Raises:
      UserError: for a name not listed above.
    """
    from kdmlc_jax.nets import cnn, imagenet, mlp, resnet, wide_resnet

    if match := re.fullmatch(r"cnn([1-9]\d{0,3})", name):
        return cnn.SmallCNN(num_classes, int(match[1]))
    if match := re.fullmatch(r"mlp([1-9]\d{0,3})", name):
        return mlp.MLP(num_classes, int(match[1]))
    if (match := re.fullmatch(r"resnet([1-9]\d{0,2})", name)) and (int(match[1]) - 2) % 6 == 0 and int(match[1]) > 2:
        return resnet.CifarResNet(num_classes, (int(match[1]) - 2) // 6)
    if name == "preact_resnet18":
        return resnet.PreActResNet(num_classes)
    wide = re.fullmatch(r"wrn([1-9]\d{1,2})_([1-9]\d{0,2})", name)
    if wide and (int(wide[1]) - 4) % 6 == 0:
        return wide_resnet.WideResNet(num_classes, (int(wide[1]) - 4) // 6, int(wide[2]))
    if name in IMAGENET:
        return imagenet.ImageNetResNet(num_classes, *IMAGENET[name])
    allowed = ("cnn16", "mlp256", *NAMES[2:])
    raise UserError(f'{place}: "{name}" is not one of {", ".join(NAMES)}{suggest(name, allowed)}')
