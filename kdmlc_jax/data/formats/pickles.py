"""Reading pickles and torch's .pt files of arrays without trusting them: nothing that a file names is imported.

NumPy's own functions are not called either, for they were not written for hostile input: stand-ins of a few lines build
arrays of numbers from bytes. Out of scope: torch tensors, object and structured arrays, files from before torch 1.6.
"""

import io
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from kdmlc_jax.data.formats.careful import _Careful, _RefusedError
from kdmlc_jax.data.formats.files import read_at_most, read_bytes
from kdmlc_jax.errors import UserError

# The largest published pickle, CIFAR-100's training part, has 155 MB.
MAX_BYTES = 1 << 28
# Tuples are hashed by recursion in C, which nothing stops before the stack ends: deeper nesting than this is refused.
MAX_TUPLES = 10_000
# The six lists of CIFAR-10N are 400 000 operations, each of which takes a microsecond.
MAX_OPCODES = 4_000_000

_DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
# What pickles of dicts, lists, text, numbers and arrays consist of, protocols 0 to 5. INST to NEWOBJ_EX are among them
# only to reach `find_class`, which names what they ask for; copyreg's extension codes would not.
_OPCODES = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ",
    "NEWOBJ_EX", "PERSID", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG",
    "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "LIST",
    "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
))  # fmt: skip
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_DAMAGED_ZIP = (OSError, EOFError, ValueError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error)


class _Dtype:
    """Stands in for numpy.dtype: fixed-size numbers only."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: object) -> None:
        self.code = _text(code)
        if self.code not in _DTYPES:
            raise _RefusedError(f"array of dtype {self.code[:20]!r}, expected numbers ({', '.join(sorted(_DTYPES))})")

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1])
        if order not in ("<", ">", "|") or any(field is not None for field in state[2:5]):
            raise _RefusedError("array of a structured dtype, expected plain numbers")
        self.code = order + self.code[-2:]


class _Array:
    """Stands in for an array between its creation and its state."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _numbers(data, dtype, shape, "F" if fortran else "C")


class _Global:
    """What an allowed global becomes: only to be called, and without attributes that BUILD could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("state for a function, expected it for arrays only")


def _numbers(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not (isinstance(dtype, _Dtype) and isinstance(data, (bytes, bytearray)) and isinstance(shape, tuple)):
        raise _RefusedError("array of objects, expected numbers")
    return np.frombuffer(data, dtype.code).reshape(shape, order=order)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = _numbers(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    return _numbers(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    """Python 3 writes bytes as Latin-1 text in protocols below 3."""
    if _text(encoding) not in ("latin1", "latin-1"):
        raise _RefusedError(f"text encoding {_text(encoding)[:20]!r}, expected 'latin1'")
    if not isinstance(text, str):
        raise _RefusedError("bytes of no text")
    return text.encode("latin1")


def _not_called(*_: object) -> None:
    """ndarray is only ever named, as the first argument of _reconstruct."""
    raise _RefusedError("a call of numpy.ndarray, expected numpy's own pickles")


_ALLOWED = {
    ("numpy", "dtype"): _Global(_Dtype),
    ("numpy", "ndarray"): _Global(_not_called),
    ("_codecs", "encode"): _Global(_encode),
    ("__builtin__", "bytes"): _Global(lambda: b""),  # of an empty array
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Global(lambda *_: _Array())
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _Global(_scalar)
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Global(_from_buffer)


class _Unpickler(_Careful):
    """Looks globals up among the stand-ins, and nowhere else."""

    allowed = _ALLOWED
    left = MAX_BYTES

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise _RefusedError(f"the pickle asks for {f'{module}.{name}'[:80]!r}, expected only arrays of numbers")
        if (module, name) == ("_codecs", "encode"):
            return _Global(self._encoded)
        return self.allowed[module, name]

    def _encoded(self, text: Any, encoding: Any) -> bytes:
        """`_encode`, of so many bytes in all: the same text may be named again and again."""
        raw = _encode(text, encoding)
        self.left -= len(raw)
        if self.left < 0:
            raise _RefusedError(f"bytes of more than {MAX_BYTES} in all")
        return raw

    def persistent_load(self, pid: object) -> Any:
        raise _RefusedError("the pickle refers to data outside it (a persistent id), expected only arrays of numbers")


def load_pickle(raw: bytes, place: object) -> dict[str, Any]:
    """The dict of arrays, lists, text and numbers in a pickle of any protocol, by Python 2 or 3, NumPy 1 or 2.

    No code of the pickle's choosing runs. Text of Python 2 is decoded as UTF-8, in keys, values and lists.

    Args:
      raw: the pickle.
      place: what errors call it.

    Returns:
      {key: array of numbers (perhaps read-only), list of numbers or text, text, number or None}.

    Raises:
      UserError: naming `place` and what it asks for beyond that, or the damage.
    """
    return load_plain(raw, place, _load)


def _load(raw: bytes) -> Any:
    _scan(raw)
    return _Unpickler(io.BytesIO(raw), encoding="bytes").load()


def load_plain(raw: bytes, place: object, load: Callable[[bytes], Any]) -> dict[str, Any]:
    """`load_pickle` by an unpickler of one's own, whose `load` gives what the pickle holds."""
    try:
        return _plain(load(raw))
    except _RefusedError as error:
        raise UserError(f"{place}: refused, {error}") from error
    except Exception as error:  # pickle documents that damaged input raises anything
        reason = "".join(filter(str.isprintable, str(error)))[:80] or type(error).__name__
        raise UserError(f"{place}: corrupt pickle ({reason}), expected a complete file") from error


def read_torch(path: Path) -> dict[str, Any]:
    """What `torch.save` of a dict of NumPy arrays wrote, by `load_pickle`; no torch is needed.

    Raises:
      UserError: naming the file, for tensors, other classes, damage, and a pickle above MAX_BYTES.
    """
    raw = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(names) != 1:
                raise UserError(f"{path}: {len(names)} members named data.pkl, expected 1, as torch.save writes it")
            if names[0].file_size > MAX_BYTES:
                raise UserError(f"{path}: data.pkl unpacks to {names[0].file_size} bytes, expected at most {MAX_BYTES}")
            with archive.open(names[0]) as member:
                pickled = read_at_most(member, MAX_BYTES)
    except UserError:
        raise
    except _DAMAGED_ZIP as error:
        raise UserError(f"{path}: not a complete zip archive, expected a .pt file of torch 1.6 or later") from error
    return load_pickle(pickled, path)


def entry(content: dict[str, Any], key: str, place: object) -> Any:
    """`content[key]`; raises UserError naming `place`, `key` and the keys there are."""
    if key not in content:
        raise UserError(f'{place}: no entry "{key}", found {", ".join(map(repr, content))[:100] or "none"}')
    return content[key]


def integers(values: Any, place: object, key: str) -> Int[np.ndarray, " N"]:
    """A list or an array of whole numbers as i64[N].

    Raises:
      UserError: naming `place` and `key`, for anything else.
    """
    whole = isinstance(values, list) and all(type(value) is int and abs(value) < 1 << 62 for value in values)
    if whole:
        return np.array(values, np.int64)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        return values.astype(np.int64)
    raise UserError(f'{place}: "{key}" is {describe(values)}, expected a list of whole numbers')


def describe(value: Any) -> str:
    """An array's dtype and shape, or the name of another value's type."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    return f"a {type(value).__name__}"


def _scan(raw: bytes) -> None:
    """Before anything is built: only known opcodes, and no memory or recursion out of proportion to the bytes."""
    if len(raw) > MAX_BYTES:
        raise _RefusedError(f"{len(raw)} bytes, expected at most {MAX_BYTES}")
    tuples = 0
    for count, (opcode, argument, position) in enumerate(pickletools.genops(raw), 1):
        if opcode.name not in _OPCODES:
            raise _RefusedError(f"opcode {opcode.name}, which no array of numbers needs")
        # The memo is an array as long as the largest index.
        if opcode.name in _PUTS and int(argument or 0) > (position or 0):
            raise _RefusedError(f"memo index {argument} at byte {position}, expected no more than that")
        tuples += opcode.name.startswith("TUPLE")
        if count > MAX_OPCODES:
            raise _RefusedError(f"more than {MAX_OPCODES} operations")
    if tuples > MAX_TUPLES:
        raise _RefusedError(f"{tuples} tuples, expected at most {MAX_TUPLES}")


def _plain(loaded: object) -> dict[str, Any]:
    if not isinstance(loaded, dict):
        raise _RefusedError(f"it holds a {type(loaded).__name__}, expected a dict of arrays")
    made: dict[int, Any] = {}
    return {_text(key): _value(value, made) for key, value in loaded.items()}


def _value(value: Any, made: dict[int, Any]) -> Any:
    """Plain, each object once (`made`, by identity): a pickle may name a large one a million times."""
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    if isinstance(value, list):
        if id(value) not in made:
            made[id(value)] = [_item(item, made) for item in value]
        return made[id(value)]
    return _item(value, made)


def _item(value: Any, made: dict[int, Any]) -> Any:
    if isinstance(value, (bytes, bytearray)):
        if id(value) not in made:
            made[id(value)] = value.decode("utf-8", "replace")
        return made[id(value)]
    if value is None or isinstance(value, (int, float, str)):
        return value
    kind = type(value).__name__.lstrip("_").lower()
    raise _RefusedError(f"a value of type {kind}, expected arrays, and lists of numbers or text")


def _text(value: Any) -> str:
    if not isinstance(value, (bytes, str)):
        raise _RefusedError(f"{type(value).__name__.lstrip('_').lower()} where a name belongs, expected text")
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
