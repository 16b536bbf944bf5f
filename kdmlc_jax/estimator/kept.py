"""What an estimator keeps of its run, in a folder of its own or in a pickle."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdmlc_jax.storage import door, files

DATA = "data"  # the folder that the run reads
LEFT = ("checkpoints", DATA, "baselines", "lock")  # neither saved nor pickled


def temporary(owner: object) -> Path:
    """A new folder that goes when `owner` does."""
    folder = tempfile.mkdtemp(prefix="kdmlc-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def is_json(value: Any) -> bool:
    """Whether a parameter can be written as JSON."""
    return value is None or isinstance(value, str | int | float | bool | dict)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a run but what is LEFT out, by their paths."""
    inside = ((path, path.relative_to(folder)) for path in files.below(folder))
    return {part.as_posix(): door.read(path) for path, part in inside if part.parts[0] not in LEFT}


def restore(folder: Path, content: Mapping[str, bytes]) -> None:
    """Writes `content`; whole or not at all where the folder is new."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name, raw in content.items():
        files.make_directory((part / name).parent)
        with files.atomic_write(part / name) as file:
            file.write(raw)
    if files.is_dir(folder):  # a temporary one of our own, empty
        folder.rmdir()
    part.rename(folder)
