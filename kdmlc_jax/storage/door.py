"""The one door by which input files are opened: regular files only, no larger than what is read of such a file.

A pipe, a device, a socket or a folder in a file's place is one line at once: opening it may wait for ever, reading it
may never end. What a file claims to hold is the business of its reader, which starts from `bounded`.
"""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from kdmlc_jax.errors import UserError

# Bytes of a file, each far above honest data, and below what would fill a usual machine's memory.
MAX_TEXT = 1 << 30  # tables and lists of names: 14 million rows of 70 characters
MAX_JSON = 1 << 26  # a summary of 1000 classes has 15 MB with all its matrices; JSON in memory is 20 times as large
MAX_FILE = 1 << 31  # archives and weights, read whole
MAX_ARRAY = 1 << 40  # arrays are mapped, checkpoints summed piece by piece: this is only to say a number
# What packed data may hold: so much in any case, or so many times the bytes of its file.
UNPACKED, RATIO = 1 << 26, 100
PIECE = 1 << 20

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind(mode: int) -> str:
    """What a file that is not regular is, in words; '' for a regular one."""
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no regular file")


def refuse_odd(path: str | os.PathLike[str], most: int = MAX_ARRAY) -> int:
    """The size in bytes of a regular file that somebody else is going to open; 0 where there is nothing.

    Raises:
      UserError: for what is no regular file, or larger than `most` bytes.
      OSError: where the system does not say; a file that is not there is left to who opens it.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    _check(path, status, most)
    return status.st_size


def _check(path: str | os.PathLike[str], status: os.stat_result, most: int) -> None:
    if odd := kind(status.st_mode):
        found = "cannot be read (Is a directory)" if stat.S_ISDIR(status.st_mode) else f"is {odd}"
        raise UserError(f"{os.fspath(path)}: {found}, expected a regular file")
    if status.st_size > most:
        raise UserError(f"{os.fspath(path)}: {status.st_size} bytes, expected at most {most}")


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], most: int = MAX_FILE) -> Iterator[io.BufferedReader]:
    """The open file.

    Raises:
      UserError: for what is no regular file, or larger than `most` bytes.
      OSError: as `open`, and naming the file where it was open and the system refused to go on.
    """
    refuse_odd(path, most)  # before it is opened: a socket cannot be, and opening some devices does something
    # Not waiting: another could have put a pipe there since.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        with open(handle, "rb") as file:
            _check(path, os.fstat(handle), most)
            yield file
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = os.fspath(path)
        raise


def read(path: str | os.PathLike[str], most: int = MAX_FILE) -> bytes:
    """The bytes of a file, `most` at most; raises as `opened`."""
    with opened(path, most) as file:
        raw = bounded(file, most + 1)  # a file may grow, and those of /proc have no size
    if len(raw) > most:
        raise UserError(f"{os.fspath(path)}: more than {most} bytes")
    return raw


def bounded(file: io.BufferedReader | io.BytesIO, size: int) -> bytes:
    """Up to `size` bytes in pieces: read(size) would allocate what a header claims before a byte is there."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def read_text(path: Path, most: int = MAX_JSON) -> str:
    """The UTF-8 text of a file; raises as `opened`, and UnicodeDecodeError."""
    return read(path, most).decode()


def unpacked(file_size: int) -> int:
    """How many bytes a packed file of `file_size` may hold."""
    return max(UNPACKED, RATIO * file_size)
