"""One rule for all that can be added: a file in the right folder is found by its name; there is no table to edit.

Methods, data sources, networks, noise kinds, augmentations and outputs are each the modules of one package. What such
a package shares among its modules lies in `base`, in a module whose name begins with `_`, or in a package below it.
"""

import importlib
import pkgutil
from types import ModuleType

from kdmlc_jax.errors import UserError, suggest


def names(package: ModuleType) -> tuple[str, ...]:
    """The names of all there is of a kind, sorted."""
    found = (module for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)
    return tuple(sorted(module.name for module in found if module.name != "base" and module.name[0] != "_"))


def get(package: ModuleType, place: str, name: str) -> ModuleType:
    """The module called `name`; UserError naming `place`, the config field, if there is none, with the nearest name."""
    known = names(package)
    if name not in known:
        raise UserError(f'{place}: "{name}" is not one of {", ".join(known)}{suggest(name, known)}')
    return importlib.import_module(f"{package.__name__}.{name}")
