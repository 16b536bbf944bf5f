"""Wide residual networks: few blocks of many channels (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdmlc_jax.nets import Output
from kdmlc_jax.nets.resnet import Conv3x3, Norm, PreActBlock


class WideResNet(nn.Module):
    """WRN-d-w, d = 6n + 4: three stages of n pre-activation blocks with 16w/32w/64w channels, no dropout.

    n = 2 and w = 2 is WRN-16-2, n = 6 and w = 2 WRN-40-2. The stem has 16 channels whatever w is; a shortcut is a 1x1
    convolution of the activated input where the shape changes, as in the authors' release.
    """

    num_classes: int
    blocks: int
    width: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> Output:
        """f32[B, H, W, K] -> logits f32[B, C], features f32[B, 64w]."""
        x = Conv3x3(16)(images)
        for stage, channels in enumerate((16, 32, 64)):
            for block in range(self.blocks):
                x = PreActBlock(channels * self.width, 2 if block == 0 and stage > 0 else 1)(x, train)
        x = nn.relu(Norm(use_running_average=not train)(x))
        features = jnp.mean(x, axis=(1, 2))
        return Output(nn.Dense(self.num_classes)(features), features)
