"""SHA-256 of all that lies in a folder, in a file beside it; `sha256sum -c` understands it."""

import hashlib
import pathlib

SUMS = "SHA256SUMS"


def sums(folder: pathlib.Path) -> str:
    """The text of SHA256SUMS for the files now in `folder`."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder)}\n")
    return "".join(lines)


def damage(folder: pathlib.Path) -> str:
    """What is wrong with the checkpoint in `folder`, in a few words; '' where it is as it was written."""
    try:
        written, found = (folder / SUMS).read_bytes(), sums(folder).encode()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if written == found:
        return ""
    there, listed = set(found.splitlines()), set(written.splitlines())
    changed = sorted(line[66:] for line in (there - listed or listed - there))
    return f"{changed[0].decode(errors='replace') if changed else SUMS} is not what was written"
