"""The methods, one file each. `get(name)` imports `kdmlc_jax.methods.<name>`; there is no table to edit."""

import importlib
import pkgutil
from types import ModuleType

from kdmlc_jax.errors import UserError, suggest


def names() -> tuple[str, ...]:
    """All methods there are: every module of this package but the contract itself."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"))


def get(name: str) -> ModuleType:
    """The module of the method called `name`: `default_config(preset)` and `make(config, info)`.

    Raises:
      UserError: if there is no such method.
    """
    if name not in names():
        raise UserError(f'method "{name}" is not one of {", ".join(names())}{suggest(name, names())}')
    return importlib.import_module(f"{__name__}.{name}")
