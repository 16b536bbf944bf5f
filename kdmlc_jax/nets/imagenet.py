"""Residual networks in the form used on photographs of about 224x224 pixels."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdmlc_jax.nets.base import IMAGENET_MEAN, IMAGENET_STD, Norm, Output, Published, Timm, conv
from kdmlc_jax.shapes import Images

FORM = "imagenet_resnet<18|34|50>"
FORMS = {  # name -> blocks per stage, bottleneck
    "imagenet_resnet18": ((2, 2, 2, 2), False),
    "imagenet_resnet34": ((3, 4, 6, 3), False),
    "imagenet_resnet50": ((3, 4, 6, 3), True),
}
EXAMPLES = tuple(FORMS)


class Block(nn.Module):
    """Convolutions with BatchNorm, added to a shortcut: x itself, or a 1x1 convolution where the shape changes.

    The last BatchNorm's scale starts at 0, so that a new block is its shortcut (Goyal et al. 2017, section 5.1).
    """

    channels: int
    stride: int
    bottleneck: bool  # 1x1, 3x3, 1x1 with four times the channels, not 3x3 twice; the stride is on the (first) 3x3

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "B h w k"]:
        """[B, H, W, K] -> [B, H/stride, W/stride, channels], with `bottleneck` 4·channels."""
        layers = [(self.channels, 3, self.stride), (self.channels, 3, 1)]
        if self.bottleneck:
            layers = [(self.channels, 1, 1), (self.channels, 3, self.stride), (4 * self.channels, 1, 1)]
        y = x
        for layer in layers[:-1]:
            y = nn.relu(Norm(use_running_average=not train)(conv(*layer)(y)))
        y = Norm(use_running_average=not train, scale_init=nn.initializers.zeros)(conv(*layers[-1])(y))
        if x.shape != y.shape:
            x = Norm(use_running_average=not train)(conv(y.shape[-1], 1, self.stride)(x))
        return nn.relu(x + y)


class ImageNetResNet(nn.Module):
    """7x7 stem and max-pool, each with stride 2, then stages of 64/128/256/512 channels (He et al. 2016, table 1).

    The stride of a bottleneck is on its 3x3 convolution, as in torchvision ("v1.5"). Max-pooling is slow to
    differentiate twice, as the look-ahead does; it stays because published weights are for it.
    """

    num_classes: int
    blocks: tuple[int, ...]  # per stage
    bottleneck: bool = False

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, 512], with `bottleneck` [B, 2048]."""
        x = nn.relu(Norm(use_running_average=not train)(conv(64, 7, 2)(images)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                x = Block(64 << stage, 2 if block == 0 and stage else 1, self.bottleneck)(x, train)
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)


def build(name: str, num_classes: int) -> ImageNetResNet | None:
    """The network, or None where the name is not of this form."""
    return ImageNetResNet(num_classes, *FORMS[name]) if name in FORMS else None


def published(name: str) -> tuple[Published, ...]:
    """torchvision's names, which are timm's for these networks."""
    stages, bottleneck = FORMS[name]
    layers, number, convs = {"Conv_0": "conv1", "BatchNorm_0": "bn1", "Dense_0": "fc"}, 0, 3 if bottleneck else 2
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            theirs = f"layer{stage + 1}.{block}"
            pairs = [(f"{theirs}.conv{at + 1}", f"{theirs}.bn{at + 1}") for at in range(convs)]
            if block == 0 and (stage or bottleneck):
                pairs.append((f"{theirs}.downsample.0", f"{theirs}.downsample.1"))
            for at, (conv_name, norm_name) in enumerate(pairs):
                layers[f"Block_{number}/Conv_{at}"] = conv_name
                layers[f"Block_{number}/BatchNorm_{at}"] = norm_name
            number += 1
    return (Published(layers, IMAGENET_MEAN, IMAGENET_STD, side=224),)


def timm(name: str) -> Timm:
    """resnet18, resnet34 and resnet50 there, by the same names."""
    return Timm(name.removeprefix("imagenet_"), published(name)[0].layers)
