"""A dictionary that `numpy.save` pickled into a .npy file, as CIFAR-10N's authors do, read without trusting it."""

import io
from pathlib import Path
from typing import Any

from kdmlc_jax.data.formats.files import read_bytes
from kdmlc_jax.data.formats.pickles import (
    _ALLOWED,
    _Array,
    _Dtype,
    _Global,
    _RefusedError,
    _scan,
    _Unpickler,
    load_plain,
)
from kdmlc_jax.errors import UserError, reading
from kdmlc_jax.storage import door, files

_MAGIC = b"\x93NUMPY"
_OBJECT = "O8"


class _AnyDtype(_Dtype):
    """Numbers, or objects, of which `_Box` takes one alone."""

    __slots__ = ()

    def __init__(self, code: Any, *rest: object) -> None:
        if code in (_OBJECT, _OBJECT.encode()):
            self.code = _OBJECT
        else:
            super().__init__(code, *rest)


class _Box(_Array):
    """An array of numbers, or one that holds a single dictionary."""

    __slots__ = ("inside",)

    def __init__(self) -> None:
        super().__init__()
        self.inside: dict | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, _, data = state
        if not isinstance(dtype, _AnyDtype) or dtype.code[-2:] != _OBJECT:
            super().__setstate__(state)
        elif shape == () and isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict):
            self.inside = data[0]
        else:
            raise _RefusedError("an array of objects, expected numbers or a single dictionary")


_BOXES = _ALLOWED | {("numpy", "dtype"): _Global(_AnyDtype)}
_BOXES |= {place: _Global(lambda *_: _Box()) for place in _ALLOWED if place[1] == "_reconstruct"}


class _BoxUnpickler(_Unpickler):
    allowed = _BOXES


def is_boxed(path: Path) -> bool:
    """Whether a .npy file says of itself that it holds objects; False where there is no file."""
    if not files.is_file(path):
        return False
    with reading(path, "an array"), door.opened(path, door.MAX_ARRAY) as file:
        head = file.read(128)
    return head.startswith(_MAGIC) and b"'|O'" in head


def read_boxed(path: Path) -> dict[str, Any]:
    """The dictionary of a .npy file, as `pickles.load_pickle`; no code of the file's choosing runs.

    Raises:
      UserError: naming the file, for anything else.
    """
    raw = read_bytes(path)
    size = 2 if raw[6:7] == b"\x01" else 4
    start = 8 + size + int.from_bytes(raw[8 : 8 + size], "little")
    if not raw.startswith(_MAGIC) or start >= len(raw):
        raise UserError(f"{path}: cut off or no .npy file, expected a complete one")
    return load_plain(raw[start:], path, _load)


def _load(raw: bytes) -> Any:
    _scan(raw)
    loaded = _BoxUnpickler(io.BytesIO(raw), encoding="bytes").load()
    return loaded.inside if isinstance(loaded, _Box) and loaded.inside is not None else loaded
