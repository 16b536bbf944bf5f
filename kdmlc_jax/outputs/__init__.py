"""What a finished run leaves in its folder, one output a file: `write(result, workdir)`; see `base` and `registry`."""

import pathlib
import sys

from kdmlc_jax import registry
from kdmlc_jax.outputs.base import Result
from kdmlc_jax.storage import files
from kdmlc_jax.storage.checksums import sum_of


def write_all(result: Result, workdir: pathlib.Path) -> dict[str, str]:
    """Writes every output there is, in the order of their names; before `summary.json`, which says that all is done.

    Returns:
      The SHA-256 of each file written, by its path from `workdir`.
    """
    package, before = sys.modules[__name__], _there(workdir)
    for name in registry.names(package):
        registry.get(package, "output", name).write(result, workdir)
    written = sorted(path for path, *_ in _there(workdir) - before)
    return {str(path.relative_to(workdir)): sum_of(path) for path in written}


def _there(workdir: pathlib.Path) -> set[tuple[pathlib.Path, int, int]]:
    """Each file with what tells it from another of its name, for all are replaced as a whole."""
    found = ((path, path.stat()) for path in files.below(workdir))
    return {(path, status.st_ino, status.st_mtime_ns) for path, status in found}
