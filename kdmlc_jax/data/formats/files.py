"""Finding and reading the files of a published set, with errors that name them."""

import errno
import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Container, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Protocol, runtime_checkable

from ml_collections import ConfigDict

from kdmlc_jax.data.formats.dialects import as_text
from kdmlc_jax.errors import UserError, is_failure, unreadable
from kdmlc_jax.storage import door
from kdmlc_jax.storage.files import exists, is_dir

# The published CIFAR archives unpack to 185 MB.
MAX_UNPACKED_BYTES = 1 << 29
_PIECE = 1 << 20


@runtime_checkable
class Readable(Protocol):
    """What files, archive members and decompressed streams have in common."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


def locate(data: ConfigDict, *names: str, archive: bool = False) -> Path:
    """`data.dir`, or the first of `names` that exists below KDMLC_DATA: a folder, or with `archive` also a file.

    Raises:
      UserError: where neither is given, or what is given is not there or cannot be read.
    """
    root = os.environ.get("KDMLC_DATA", "")
    if not (data.dir or root):
        below = " or ".join(names)
        raise UserError(
            f'data.dir is empty: give the folder of "{data.source}", or set KDMLC_DATA to the parent of {below}'
        )
    paths = [Path(data.dir)] if data.dir else [Path(root) / name for name in names]
    paths = [path.expanduser() for path in paths]
    path = next((path for path in paths if exists(path)), paths[0])
    if not (exists(path) if archive else is_dir(path)):
        found, what = ("does not exist", "or the .tar.gz") if archive else ("is not a directory", "with the files")
        origin = "data.dir" if data.dir else "KDMLC_DATA"
        raise UserError(f'{origin}: {path} {found}, expected the folder {what} of "{data.source}"')
    if not os.access(path, os.R_OK | (os.X_OK if is_dir(path) else 0)):
        raise unreadable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), path)
    return path


def read_bytes(path: Path, most: int = door.MAX_FILE) -> bytes:
    """The file's bytes; raises UserError naming it where it is no file, StorageError where it cannot be read."""
    try:
        return door.read(path, most)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        if is_failure(error):
            raise unreadable(error, path) from error
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a file in UTF-8 or UTF-16, stripped, without empty ones at its end; raises UserError naming it."""
    try:
        text, _ = as_text(read_bytes(path, door.MAX_TEXT), western=False)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8 text ({error.reason})") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip()
    return [line.strip() for line in text.split("\n")] if text else []


def read_at_most(file: Readable, size: int) -> bytes:
    """Up to `size` bytes in pieces: read(size) would allocate what a header claims before a byte is there."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


class Files(NamedTuple):
    """The files of a set by name, from its folder or its archive."""

    place: Path
    members: Mapping[str, bytes] | None  # None = `place` is a folder
    published: Mapping[str, tuple[int, str]]  # name -> (bytes, md5)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return exists(self.place / name) if self.members is None else name in self.members

    def read(self, name: str) -> bytes:
        """The file's bytes; raises UserError naming it where it is missing, unreadable or damaged."""
        if self.members is not None and name not in self.members:
            raise UserError(f"{self.place / name}: no such file in the archive")
        raw = read_bytes(self.place / name) if self.members is None else self.members[name]
        check_published(self.place / name, io.BytesIO(raw), len(raw), self.published)
        return raw


def open_files(path: Path, names: Container[str], published: Mapping[str, tuple[int, str]]) -> Files:
    """The files of a folder or of a .tar.gz, of which only those whose base names are among `names` are kept.

    Raises:
      UserError: for an archive that is damaged, unpacks to more than MAX_UNPACKED_BYTES or has suspicious members.
    """
    if is_dir(path):
        return Files(path, None, published)
    try:
        with door.opened(path) as file:
            check_published(path, file, os.fstat(file.fileno()).st_size, published)
            file.seek(0)
            return Files(path, _untar(file, path, names), published)
    except UserError:
        raise
    except OSError as error:
        if is_failure(error):
            raise unreadable(error, path) from error
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def check_published(path: Path, file: Readable, size: int, published: Mapping[str, tuple[int, str]]) -> None:
    """Tells a damaged download from a file that is meant to differ, which has another name or size.

    Raises:
      UserError: where `path` has a published file's name and size but not its bytes.
    """
    known_size, expected = published.get(path.name, (-1, ""))
    if size != known_size:
        return
    digest = hashlib.md5(usedforsecurity=False)
    while piece := file.read(_PIECE):
        digest.update(piece)
    if digest.hexdigest() != expected:
        raise UserError(f"{path}: md5 is {digest.hexdigest()}, expected {expected}: a damaged download")


class _Bounded(io.RawIOBase):
    """Reads a decompressed stream to its end, or to the limit."""

    def __init__(self, file: Readable, path: Path) -> None:
        self._file, self._path, self._left = file, path, MAX_UNPACKED_BYTES

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(min(size, _PIECE) if size >= 0 else _PIECE)
        self._left -= len(piece)
        if self._left < 0:
            raise UserError(f"{self._path}: unpacks to more than {MAX_UNPACKED_BYTES} bytes, the most that is read")
        return piece


def _untar(file: IO[bytes], path: Path, names: Container[str]) -> dict[str, bytes]:
    """The members with these base names; nothing is written to disk."""
    try:
        with gzip.open(file) as unzipped:
            stream = _Bounded(unzipped, path)
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as archive:
                found = _members(archive, path, names)
            while stream.read(_PIECE):  # gzip's checksum stands at the end
                pass
            return found
    except UserError:
        raise
    except (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError) as error:
        reason = "".join(filter(str.isprintable, str(error)))[:80]
        raise UserError(f"{path}: corrupt archive ({reason}), expected a complete .tar.gz") from error


def _members(archive: tarfile.TarFile, path: Path, names: Container[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for member in archive:
        inside = PurePosixPath(member.name)
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{path}: member {member.name[:80]!r} lies outside the archive, expected paths below it")
        if member.isdir():
            continue
        content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
        if content is None:
            raise UserError(f"{path}: member {member.name[:80]!r} is a link or device, expected only files and folders")
        if inside.name in found:
            raise UserError(f"{path}: two members named {inside.name!r}, expected one")
        if inside.name in names:
            found[inside.name] = read_at_most(content, member.size)
    return found
