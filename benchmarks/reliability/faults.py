"""Errors of the file system on demand, in this process and its children: faults.c, preloaded.

A script calls `preload` before it does anything: it is started again with the library in LD_PRELOAD. Then `armed` lets
the n-th call fail that opens, looks at, reads or writes anything below a folder, whichever library calls it.
"""

import contextlib
import ctypes
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

LOOKS, WRITES = 1, 2  # open, stat, access, list, read, map; create, write, flush, rename
NEVER = 0


def preload() -> None:
    """Starts this script again with the library, once; it needs a C compiler, `cc`."""
    if "faults" in os.environ.get("LD_PRELOAD", ""):
        return
    library = pathlib.Path(tempfile.gettempdir(), f"faults-{os.getuid()}.so")
    source = pathlib.Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True)
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": str(library)})


class Armed:
    """What was counted since the library was armed."""

    _library = ctypes.CDLL(None)

    def __init__(self, folder: pathlib.Path, nth: int, error: int, kinds: int, stay: bool):
        self._library.last.restype = ctypes.c_char_p
        self._library.arm(str(folder).encode(), ctypes.c_long(nth), error, kinds, int(stay))

    @property
    def failed(self) -> str:
        """The first call that failed, with its path; '' where none did."""
        return str(self._library.last().decode(errors="replace"))

    @property
    def calls(self) -> list[str]:
        """All calls with their paths, where none was to fail."""
        self._library.trace.restype = ctypes.c_char_p
        return str(self._library.trace().decode(errors="replace")).splitlines()


@contextlib.contextmanager
def armed(folder: pathlib.Path, nth: int, error: int, kinds: int = LOOKS, stay: bool = False) -> Iterator[Armed]:
    """Within, the `nth` call of `kinds` below `folder` fails with `error`; with `stay` all later ones, too."""
    try:
        yield Armed(folder, nth, error, kinds, stay)
    finally:
        Armed._library.arm(b"", ctypes.c_long(NEVER), 0, 0, 0)
