"""Finding and reading the files of a published set, with errors that name them."""

import os
from pathlib import Path
from typing import IO

from ml_collections import ConfigDict

from kdmlc_jax.errors import UserError


def directory(data: ConfigDict, *folders: str) -> Path:
    """`data.dir`, or the first of `folders` that exists below KDMLC_DATA.

    Raises:
      UserError: where neither is given, or what is given is not a directory that can be read.
    """
    root = os.environ.get("KDMLC_DATA", "")
    if not data.dir and not root:
        parents = "/ or ".join(folders)
        raise UserError(
            f'data.dir is empty: give the folder of "{data.source}", or set KDMLC_DATA to the parent of {parents}/'
        )
    candidates = [Path(root).expanduser() / folder for folder in folders]
    if data.dir:
        candidates = [Path(data.dir).expanduser()]
    path = next((path for path in candidates if path.exists()), candidates[0])
    if not path.is_dir():
        origin = "data.dir" if data.dir else "KDMLC_DATA"
        raise UserError(f'{origin}: {path} is not a directory, expected the folder with the files of "{data.source}"')
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path}: cannot be read (Permission denied)")
    return path


def read_bytes(path: Path) -> bytes:
    """The file's bytes; raises UserError naming it."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_at_most(file: IO[bytes], size: int) -> bytes:
    """Up to `size` bytes in pieces: read(size) would allocate what a header claims before a byte is there."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
