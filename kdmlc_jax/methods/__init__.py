"""The methods, one file each: `default_config(preset)` and `make(config, info)`; see `base` and `registry`."""

import sys
from types import ModuleType

from kdmlc_jax import registry

DEFAULT = "kdmlc"  # of a config that names none


def names() -> tuple[str, ...]:
    """All methods there are."""
    return registry.names(sys.modules[__name__])


def on_features() -> list[str]:
    """What any comparison on features begins with, `method:options`: all that a module names in ON_FEATURES."""
    return [words for name in names() for words in getattr(get(name), "ON_FEATURES", ())]


def usual(features: bool, trusted: bool) -> str:
    """`method:options` for who names none: on features one that fits at once, on images one that trains networks, and
    that learns from trusted images where there are any."""
    if features:
        return "linear:train_on=noisy"
    return DEFAULT if trusted else "blind_kd"


def get(name: str) -> ModuleType:
    """The module of the method called `name`; raises UserError if there is none."""
    return registry.get(sys.modules[__name__], "method.name", name)
