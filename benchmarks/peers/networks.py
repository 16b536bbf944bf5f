"""The networks of `kdmlc_jax.nets` that peers are timed on, in PyTorch, with our weights."""

import torch
import torch.nn.functional as F
from torch import nn

from kdmlc_jax.nets import Output


class Norm(nn.BatchNorm2d):
    """BatchNorm that, while `quiet`, uses the batch's statistics and moves none (the look-ahead evaluation)."""

    quiet = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, K, H, W] -> the same."""
        if self.quiet:
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(x)


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """As `kdmlc_jax.nets.base.conv`."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class Block(nn.Module):
    """As `kdmlc_jax.nets.resnet.BasicBlock`."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.convs = nn.ModuleList([conv(inputs, outputs, stride), conv(outputs, outputs)])
        self.norms = nn.ModuleList([Norm(outputs), Norm(outputs)])
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, K, H, W] -> [B, k, H/stride, W/stride]."""
        y = self.norms[1](self.convs[1](F.relu(self.norms[0](self.convs[0](x)))))
        if self.added or self.stride > 1:
            half = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))
        return F.relu(x + y)


class Net(nn.Module):
    """A stem of convolutions, blocks, their mean, and a last layer."""

    def __init__(self, stem: list[tuple[int, int, int]], blocks: list[tuple[int, int, int]], classes: int):
        super().__init__()
        self.convs = nn.ModuleList([conv(*each) for each in stem])
        self.norms = nn.ModuleList([Norm(outputs) for _, outputs, _ in stem])
        self.blocks = nn.ModuleList([Block(*each) for each in blocks])
        self.last = nn.Linear((blocks or stem)[-1][1], classes)

    def forward(self, images: torch.Tensor) -> Output:
        """[B, K, H, W] -> logits [B, C] and features [B, D]."""
        for each, norm in zip(self.convs, self.norms, strict=True):
            images = F.relu(norm(each(images)))
        for block in self.blocks:
            images = block(images)
        features = images.mean(dim=(2, 3))
        return Output(self.last(features), features)


def build(name: str, channels: int, side: int, classes: int) -> Net:
    """resnet<6n+2> or cnn<width>, as in `kdmlc_jax.nets`."""
    if name.startswith("resnet"):
        depth, widths = (int(name.removeprefix("resnet")) - 2) // 6, (16, 32, 64)
        blocks = [
            (widths[max(stage - (block == 0), 0)], width, 2 if stage and not block else 1)
            for stage, width in enumerate(widths)
            for block in range(depth)
        ]
        return Net([(channels, 16, 1)], blocks, classes)
    width = int(name.removeprefix("cnn"))
    stem = [(channels, width, 2 if side > 16 else 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
    return Net(stem, [], classes)


class Corrector(nn.Module):
    """As `kdmlc_jax.nets.heads.corrector.Corrector`, plain."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.embed = nn.Embedding(classes, 128)
        self.layers = nn.ModuleList([nn.Linear(features + 128, 128), nn.Linear(128, 128), nn.Linear(128, classes)])

    def forward(self, features: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [B, C] of the true label."""
        x = torch.cat([features, self.embed(given)], dim=1)
        for layer in self.layers[:2]:
            x = torch.tanh(layer(x))
        return F.log_softmax(self.layers[2](x), dim=1)
