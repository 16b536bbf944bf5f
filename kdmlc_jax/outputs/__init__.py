"""What a finished run leaves in its folder, one output a file: `write(result, workdir)`; see `base` and `registry`."""

import pathlib
import sys

from kdmlc_jax import registry
from kdmlc_jax.outputs.base import Result


def write_all(result: Result, workdir: pathlib.Path) -> None:
    """Writes every output there is, in the order of their names; before `summary.json`, which says that all is done."""
    package = sys.modules[__name__]
    for name in registry.names(package):
        registry.get(package, "output", name).write(result, workdir)
