"""The smallest run that still has every part: two stages, two networks, a validation split, five steps an epoch.

None of its trusted images are held out: its labels are not assessed, which would take longer than the run.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib
from kdmlc_jax.nets import Output

SPEC = "configs/digits.py:teacher=cnn3,student=cnn2,noisy=200,validation=20,epochs=3,held_out=0"
# 40 divides by the four simulated devices, and so does each half of it.
OVERRIDES = {"devices": "1", "checkpoint.every": "1", "train.batch_size": "40", "train.trusted_batch_size": "40"}
FLAGS = [f"--config.{field}={value}" for field, value in OVERRIDES.items()]
STEPS = 5


def config(arguments: str = "", fields: Mapping[str, Any] = {}) -> ConfigDict:
    """The tiny config with more arguments in its name, and fields {"noise.rate": 0.4} set last."""
    made = config_lib.load(f"{SPEC},{arguments}", OVERRIDES)
    made.update_from_flattened_dict(dict(fields))
    return made


class Linear(nn.Module):
    """The smallest network that has all a network has, batch statistics too; it compiles in no time."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images, train):
        """f32[B, H, W, K] -> logits, features."""
        x = nn.Dense(self.width)(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return Output(nn.Dense(self.num_classes)(x), x)
