"""Writing a file whole or not at all, and JSON that holds its own sum."""

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from kdmlc_jax.errors import StorageError, UserError, is_failure, reading, unreadable
from kdmlc_jax.storage import door

TEMPORARY = re.compile(r"\..+\.\d+\.writing")  # `atomic_write`'s names
SEAL = "sha256"  # the field of a JSON file that holds the sum of all others


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` and renames it at the end: a reader never sees half a file.

    Raises:
      StorageError: where the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system refuses while `path`, or what lies in it, is written inside the block into one line.

    Raises:
      StorageError: naming the file.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: cannot be written ({error.strerror or error})") from error


def exists(path: str | Path) -> bool:
    """Whether there is something at `path`; raises StorageError where nobody can say."""
    return _mode(path) != 0


def is_dir(path: str | Path) -> bool:
    """Whether there is a folder at `path`; raises as `exists`."""
    return stat.S_ISDIR(_mode(path))


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file at `path`; raises as `exists`."""
    return stat.S_ISREG(_mode(path))


def _mode(path: str | Path) -> int:
    """What is at `path`, as `os.stat` says it; 0 for nothing, for which `os.path` takes refusals, too."""
    try:
        return os.stat(path).st_mode
    except ValueError:  # a name that no file can have
        return 0
    except OSError as error:
        if is_failure(error):
            raise unreadable(error, path) from error
        return 0


def listed(directory: Path, prefix: str = "") -> list[Path]:
    """What lies in `directory` under names that begin with `prefix`, sorted; nothing where there is no folder.

    Raises:
      StorageError: where it cannot be listed; `Path.glob` would take that for an empty one.
    """
    try:
        return sorted(directory / name for name in os.listdir(directory) if name.startswith(prefix))
    except OSError as error:
        if is_failure(error):
            raise unreadable(error, directory) from error
        return []


def below(folder: Path) -> list[Path]:
    """All files below `folder`, sorted; raises StorageError where one of its folders cannot be listed.

    `Path.rglob` would leave those out without a word.
    """

    def refuse(error: OSError) -> None:
        if is_failure(error):
            raise unreadable(error, folder) from error

    walked = os.walk(folder, onerror=refuse)
    return sorted(Path(parent, name) for parent, _, names in walked for name in names)


def make_directory(path: Path) -> None:
    """Creates a folder and those above it; raises StorageError where that is not possible."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{str(path)!a}: not UTF-8, expected a folder of such a name") from None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be created ({error.strerror})") from error


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into, which gets that name at the end: what is there is whole.

    Raises:
      UserError: where there is something at `path`.
      StorageError: where nothing can be written.
    """
    if exists(path) or path.is_symlink():
        raise UserError(f"{path}: is there already, expected a name that is free; nothing is overwritten")
    make_directory(path.parent)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # what a killed process has left
    try:
        with writing(path):
            part.mkdir()
            yield part
            os.rename(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the lock of `directory`, which is created; a process that dies leaves it open for the next.

    Raises:
      UserError: where another process holds it; it is named.
      StorageError: where nothing can be written.
    """
    make_directory(directory)
    with contextlib.ExitStack() as held:
        try:
            # Not through a link: what it points to would be emptied.
            handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            file = held.enter_context(os.fdopen(handle, "r+"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{directory} is in use by {file.read().strip() or 'another process'}") from None
        except OSError as error:
            link = "; lock is a symbolic link: remove it" if error.errno == errno.ELOOP else ""
            raise StorageError(f"{directory}: cannot be locked ({error.strerror}{link})") from error
        sweep(directory)
        yield


def sweep(directory: Path) -> None:
    """Removes what `atomic_write` has left in `directory` and its networks' folders where it was killed; for who holds
    the lock."""
    for path in [*directory.glob(".*"), *directory.glob("*/.*")]:
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def tidy(directory: Path) -> None:
    """`sweep` of a folder that nobody holds the lock of; nothing where somebody does."""
    with contextlib.suppress(UserError), locked(directory):
        pass


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` by `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON by `atomic_write`; NaN is refused, for JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_sealed(path: str | Path, value: dict[str, Any]) -> dict[str, Any]:
    """Writes `value` by `write_json`, and its sum beside its fields, which `read_sealed` checks; returns all of it."""
    whole = sealed(value)
    write_json(path, whole)
    return whole


def read_sealed(path: Path, what: str) -> dict[str, Any]:
    """What `write_sealed` wrote, without the sum.

    Raises:
      UserError: where there is no such file.
      StorageError: where it cannot be read, or is not what was written; `what` it should be is said.
    """
    with reading(path, what, StorageError):
        value = json.loads(door.read_text(path))
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__}, expected an object")
        if SEAL not in value:  # a flipped bit may have taken its name, so that none is no reason to believe the rest
            raise ValueError(f"not what was written: it has no {SEAL}")
        if value.pop(SEAL) != sealed(value)[SEAL]:
            raise ValueError(f"not what was written: its {SEAL} is another")
        return value


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """`value` as JSON reads it again, with the SHA-256 of that."""
    plain: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    return {**plain, SEAL: hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


GUARDED = r"^('*[=+\-@\t\r])"  # how a cell begins that a spreadsheet would calculate, or that was guarded once
NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"


def guarded(cell: str) -> str:
    """A cell of a CSV file as text: one that begins with = + - @, a tab or a return gets ' before it, numbers do not.

    `unguarded` undoes this exactly, and every table that is read goes through it.
    """
    return f"'{cell}" if re.match(GUARDED, cell) and not re.match(NUMBER, cell) else cell


def unguarded(cell: str) -> str:
    """What `guarded` was given."""
    return cell[1:] if cell.startswith("'") and re.match(GUARDED, cell) else cell


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes a table of text by `atomic_write`, a row at a time; no file where there are no rows."""
    waiting = iter(rows)
    if (first := next(waiting, None)) is None:
        return
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        csv.writer(text, lineterminator="\n").writerows(
            [*map(guarded, row)] for row in itertools.chain((header, first), waiting)
        )
        text.detach()
