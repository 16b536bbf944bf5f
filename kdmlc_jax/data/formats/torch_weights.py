"""Reading weights that `torch.save` wrote, zip or older, without torch and without trusting them.

The pickle within may ask for `torch._utils._rebuild_tensor_v2`, torch's storages and `collections.OrderedDict`, and
gets stand-ins of a few lines for these; anything else is refused by its name. A file from before torch 1.6 is a row of
pickles (a magic number, the protocol, sizes of C's types, the tensors, the names of their storages), and then the
storages' bytes.
"""

import collections
import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdmlc_jax.data.formats.careful import _Careful, _RefusedError
from kdmlc_jax.data.formats.files import read_at_most, read_bytes
from kdmlc_jax.data.formats.pickles import _Global, _scan
from kdmlc_jax.errors import UserError

MAX_BYTES = 1 << 31
MAX_PICKLE = 1 << 22  # names, shapes and places of tensors, not their numbers; ResNet-50's has 40 kB
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES: dict[str, Any] = {
    **{"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": jnp.bfloat16},
    **{"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1"},
    "BoolStorage": "?",
}
_WRAPPERS = ("state_dict", "model")  # where training scripts keep the weights beside other things


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    size: int  # in numbers


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Ordered(dict):
    """Stands in for collections.OrderedDict; what torch hangs on it (`_metadata`) is dropped."""

    def __init__(self, pairs: object = ()) -> None:
        if not isinstance(pairs, list | tuple) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise _RefusedError("an OrderedDict of something else than pairs")
        if not all(isinstance(name, str) for name, _ in pairs):
            raise _RefusedError("a key that is no text")
        super().__init__(pairs)

    def __setstate__(self, state: object) -> None:
        pass


def _rebuild(*arguments: Any) -> _Tensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) > 8:
        raise _RefusedError("a tensor without shape, or of more than 8 axes")
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers):
        raise _RefusedError("a tensor that is none, expected numbers in a storage")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    size = math.prod(shape)
    if size > storage.size or (size and last >= storage.size):
        raise _RefusedError(f"a tensor of shape {list(shape)} in a storage of {storage.size} numbers")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Global(_rebuild),
    ("collections", "OrderedDict"): _Global(_Ordered),
    **{("torch", name): np.dtype(dtype) for name, dtype in _STORAGES.items()},
}


class _Unpickler(_Careful):
    """Looks globals up among the stand-ins, and nowhere else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"the pickle asks for {f'{module}.{name}'[:80]!r}, expected only tensors by name")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], np.dtype):
            raise _RefusedError("a reference to something outside that is no storage")
        _, dtype, key, _, count = pid[:5]
        if not isinstance(key, str) or type(count) is not int or not 0 <= count <= MAX_BYTES // dtype.itemsize:
            raise _RefusedError("a storage without name or size")
        if len(pid) > 5 and pid[5] is not None:
            raise _RefusedError("a view of a storage, which no torch since 0.4 has written")
        return _Storage(dtype, key, count)


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name; those of its `state_dict` or `model` where it holds other things, too.

    No code of the file's choosing runs.

    Raises:
      UserError: naming the file, for damage, other globals, tensors beyond their storage, or none.
    """
    raw = read_bytes(path, MAX_BYTES)
    try:
        loaded, storage = _zipped(raw) if raw[:2] == b"PK" else _in_a_row(raw)
        for name in _WRAPPERS:
            if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
                loaded = loaded[name]
                break
        if not isinstance(loaded, dict) or not any(isinstance(value, _Tensor) for value in loaded.values()):
            raise _RefusedError("no tensors by name, expected the state_dict of a network")
        arrays: dict[str, np.ndarray] = {}
        for name, tensor in loaded.items():
            if isinstance(tensor, _Tensor):
                arrays[str(name)] = _view(tensor, storage(tensor.storage))
        return arrays
    except _RefusedError as error:
        raise UserError(f"{path}: refused, {error}") from None
    except Exception as error:  # pickle documents that damaged input raises anything
        reason = "".join(filter(str.isprintable, str(error)))[:80] or type(error).__name__
        raise UserError(f"{path}: damaged ({reason}), expected a complete file of torch.save") from None


def _view(tensor: _Tensor, data: Any) -> np.ndarray:
    """The tensor within its storage's bytes."""
    flat = np.frombuffer(data, tensor.storage.dtype)
    strides = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)


def _load(raw: bytes) -> Any:
    if len(raw) > MAX_PICKLE:
        raise _RefusedError(f"a pickle of {len(raw)} bytes, expected at most {MAX_PICKLE}")
    _scan(raw)
    return _Unpickler(io.BytesIO(raw)).load()


Bytes = Callable[[_Storage], Any]


def _zipped(raw: bytes) -> tuple[Any, Bytes]:
    """What data.pkl holds, and the bytes of each storage."""
    archive = zipfile.ZipFile(io.BytesIO(raw))
    infos = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in infos if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(pickles) != 1 or len(infos) < len(archive.infolist()):
        raise _RefusedError(f"{len(pickles)} members named data.pkl or names twice, expected one as torch.save writes")
    folder = pickles[0].removesuffix("data.pkl")

    def member(name: str, size: int | None = None) -> bytes:
        info = infos.get(folder + name)
        if info is None or info.file_size > len(raw) or (size is not None and info.file_size != size):
            expected = f"at most {len(raw)}" if size is None else size
            raise _RefusedError(f"{name} is {'absent' if info is None else info.file_size}, expected {expected} bytes")
        with archive.open(info) as file:
            return read_at_most(file, info.file_size)

    if folder + "byteorder" in infos and member("byteorder") != b"little":
        raise _RefusedError("numbers with the highest byte first, expected little-endian ones")
    read: dict[str, bytes] = {}

    def storage(about: _Storage) -> bytes:
        if about.key not in read:
            read[about.key] = member(f"data/{about.key}", about.size * about.dtype.itemsize)
        if len(read[about.key]) != about.size * about.dtype.itemsize:
            raise _RefusedError(f"storage {about.key!r} with two sizes")
        return read[about.key]

    return _load(member("data.pkl")), storage


def _in_a_row(raw: bytes) -> tuple[Any, Bytes]:
    """The same of the form before torch 1.6."""
    at, loaded = 0, []
    for _ in range(5):
        ends = (place for code, _, place in pickletools.genops(raw[at : at + MAX_PICKLE]) if code.name == "STOP")
        end = at + 1 + next(place for place in ends if place is not None)
        loaded.append(_load(raw[at:end]))
        at = end
        if loaded[0] != _MAGIC:
            raise _RefusedError("neither a zip archive nor torch's magic number at its beginning")
    _, _, system, content, keys = loaded
    if system.get("little_endian") is not True:
        raise _RefusedError("numbers with the highest byte first, expected little-endian ones")
    begins, sizes = {}, _sizes(content)
    for key in keys:
        about = sizes[key]
        count = int.from_bytes(raw[at : at + 8], "little")
        size = about.size * about.dtype.itemsize
        if count != about.size or at + 8 + size > len(raw):
            raise _RefusedError(f"storage {key!r} has {count} numbers or is cut, expected {about.size}")
        begins[key] = at + 8
        at += 8 + size
    whole = memoryview(raw)
    return content, lambda about: whole[begins[about.key] :][: about.size * about.dtype.itemsize]


def _sizes(content: Any) -> dict[str, _Storage]:
    """All storages that tensors within dicts, lists and tuples lie in."""
    found: dict[str, _Storage] = {}
    left = collections.deque([content])
    seen: set[int] = set()
    while left:
        each = left.popleft()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, _Tensor):
            if found.setdefault(each.storage.key, each.storage) != each.storage:
                raise _RefusedError(f"storage {each.storage.key!r} with two sizes")
        elif isinstance(each, dict):
            left.extend(each.values())
        elif isinstance(each, list | tuple):
            left.extend(each)
    return found
