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


def get(name: str) -> ModuleType:
    """The module of the method called `name`; raises UserError if there is none."""
    return registry.get(sys.modules[__name__], "method.name", name)
