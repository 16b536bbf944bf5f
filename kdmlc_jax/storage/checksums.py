"""SHA-256 of all that lies in a folder, in a file beside it; `sha256sum -c` understands it."""

import hashlib
import os
import pathlib
from collections.abc import Collection

from kdmlc_jax.errors import StorageError, UserError, reading, unreadable
from kdmlc_jax.storage import door, files

SUMS = "SHA256SUMS"


def sums(folder: pathlib.Path) -> str:
    """The text of SHA256SUMS for the files now in `folder`."""
    found = sorted(pathlib.Path(parent, name) for parent, _, names in os.walk(folder, onerror=refuse) for name in names)
    return "".join(f"{file_sum(path)}  {path.relative_to(folder)}\n" for path in found if path.name != SUMS)


def refuse(error: OSError) -> None:
    """For `os.walk`, which else takes a folder that cannot be listed for an empty one."""
    raise error


def file_sum(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with door.opened(path, door.MAX_ARRAY) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sum_of(path: pathlib.Path) -> str:
    """`file_sum` of a file of a run; UserError where it is not there, StorageError where it cannot be read."""
    with reading(path, "a file that this run has left"):
        return file_sum(path)


def check(folder: pathlib.Path, names: Collection[str] = ()) -> None:
    """Holds files of `folder`, those of `names` or all, to SHA256SUMS in it; nothing where there is no such file.

    Raises:
      StorageError: naming the first that is another, is gone, or cannot be read.
    """
    if not files.exists(folder / SUMS):
        return
    with reading(folder / SUMS, "sums of files", StorageError):
        lines = [line.split("  ", 1) for line in door.read_text(folder / SUMS).splitlines()]
        written = {pathlib.PurePath(name).name: found for found, name in lines}
    for name in [name for name in written if name in names or not names]:
        if not files.exists(folder / name) or sum_of(folder / name) != written[name]:
            raise StorageError(
                f"{folder / name}: not what was written beside {SUMS}; if the change is yours, delete {folder / SUMS}"
            )


def damage(folder: pathlib.Path) -> str:
    """What is wrong with the checkpoint in `folder`, in a few words; '' where it is as it was written.

    Raises:
      StorageError: where the system did not let it be read: that is no damage.
    """
    try:
        written, found = door.read(folder / SUMS, door.MAX_JSON), sums(folder).encode()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        return f"{error.filename}: {error.strerror}"
    except UserError as error:  # no regular file
        return str(error)
    except OSError as error:
        raise unreadable(error, folder) from error
    if written == found:
        return ""
    there, listed = set(found.splitlines()), set(written.splitlines())
    changed = sorted(line[66:] for line in (there - listed or listed - there))
    return f"{changed[0].decode(errors='replace') if changed else SUMS} is not what was written"
