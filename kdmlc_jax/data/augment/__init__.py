"""Augmentation as pure functions of (key, images), called inside the jitted step.

An augmentation is a module here, found by its name (`kdmlc_jax.registry`), with

* `FIELD` and `DEFAULT`: its field of `config.augment`, and the value that leaves images as they are;
* `ORDER`: its place among the others, and the number of its random stream: no two have the same, and a new one takes a
  new number;
* `WEAK`: whether the meta images get it too where `augment.meta` is weak;
* `check(value, (H, W))`, which raises UserError for a value out of range;
* `apply(key, images, value)`: normalised f32[B, H, W, K] to the same, `value` static.
"""

import sys
from types import ModuleType
from typing import Any

import jax
import numpy as np

from kdmlc_jax import registry
from kdmlc_jax.data.augment._mixup import mixup
from kdmlc_jax.data.augment._scale import channel_stats, normalise
from kdmlc_jax.errors import UserError
from kdmlc_jax.shapes import Images, Key


def augmentations() -> list[ModuleType]:
    """All there are, in the order in which they are applied."""
    package = sys.modules[__name__]
    return sorted((registry.get(package, "augment", name) for name in registry.names(package)), key=lambda m: m.ORDER)


def defaults() -> dict[str, Any]:
    """{field of `config.augment`: the value that leaves images as they are}."""
    return {module.FIELD: module.DEFAULT for module in augmentations()}


def check(how: Any, size: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises UserError where `config.augment` asks for what images of this size cannot be given; features take none."""
    for module in augmentations():
        value = getattr(how, module.FIELD)
        if dtype != np.uint8 and value != module.DEFAULT:
            raise UserError(f"augment.{module.FIELD}: features cannot be augmented, leave it at {module.DEFAULT}")
        module.check(value, size)


def augmented(key: Key, images: Images, how: Any, weak: bool = False) -> Images:
    """All that `config.augment` asks for; each has its own key, so switching one off leaves the others as they were.

    Images are normalised, `how` is `config.augment`; with `weak` only those that are `WEAK`.
    """
    for module in augmentations():
        value = getattr(how, module.FIELD)
        if value != module.DEFAULT and (module.WEAK or not weak):
            images = module.apply(jax.random.fold_in(key, module.ORDER), images, value)
    return images
