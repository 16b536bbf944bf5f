"""Reading .safetensors files: a JSON header with each array's type, shape and place, then their bytes, end to end.

The form is that of huggingface/safetensors (its README, "Format"). Nothing that a header claims is believed before it
is compared with the file: the whole file is read once, and every array is a view into it.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from kdmlc_jax.data.formats.files import read_bytes
from kdmlc_jax.errors import UserError

MAX_BYTES = 1 << 31  # of a file; ResNet-50 has 102 MB
MAX_HEADER = 1 << 23
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16, "I64": "<i8", "I32": "<i4", "I16": "<i2"},
    **{"I8": "i1", "U8": "u1", "BOOL": "?"},
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, in the order of the header.

    Raises:
      UserError: naming the file, for a header that is no such one or claims what the file does not hold: a size, an
        array twice, arrays that overlap or leave gaps.
    """
    raw = read_bytes(path, MAX_BYTES)
    length = struct.unpack("<Q", raw[:8])[0] if len(raw) >= 8 else -1
    if not 2 <= length <= min(MAX_HEADER, len(raw) - 8):
        found = "less than 8 bytes" if length < 0 else f"a header of {length} bytes in a file of {len(raw)}"
        raise UserError(f"{path}: {found}, expected a complete .safetensors file, header up to {MAX_HEADER} bytes")
    try:
        header = json.loads(raw[8 : 8 + length], object_pairs_hook=_once, parse_constant=_refuse, parse_float=_refuse)
        if not isinstance(header, dict):
            raise ValueError("no table of arrays")
        header.pop("__metadata__", None)
        return _arrays(header, memoryview(raw)[8 + length :])
    except (ValueError, RecursionError) as error:  # of json, too
        reason = "".join(filter(str.isprintable, str(error)))[:100]
        raise UserError(f"{path}: the header cannot be believed ({reason}), expected a .safetensors file") from None


def _arrays(header: dict[str, Any], data: memoryview) -> dict[str, np.ndarray]:
    """Views into `data`; ValueError where they are not all of it, each byte once."""
    found, spans = {}, []
    for name, about in header.items():
        known = isinstance(about, dict) and about.keys() == {"dtype", "shape", "data_offsets"}
        if not known or about["dtype"] not in tuple(_DTYPES):
            raise ValueError(f"{name!r} is {str(about)[:40]}")
        dtype, shape, place = np.dtype(_DTYPES[about["dtype"]]), about["shape"], about["data_offsets"]
        lists = isinstance(shape, list) and isinstance(place, list) and len(place) == 2 and len(shape) <= 8
        if not lists or not all(type(number) is int and 0 <= number <= MAX_BYTES for number in (*shape, *place)):
            raise ValueError(f"{name!r} has shape {str(shape)[:40]} at {str(place)[:40]}")
        begin, end = place
        if end - begin != math.prod(shape) * dtype.itemsize or end > len(data):
            raise ValueError(f"{name!r}, {about['dtype']} {shape}, at bytes {begin} to {end} of {len(data)}")
        found[name] = np.frombuffer(data[begin:end], dtype).reshape(shape)
        spans.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise ValueError(f"{name!r} begins at byte {begin}, expected {at}: arrays overlap or leave a gap")
        at = end
    if at != len(data):
        raise ValueError(f"arrays of {at} bytes in {len(data)}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{name!r} is there twice")
        table[name] = value
    return table


def _refuse(text: str) -> Any:
    raise ValueError(f"{text[:20]} where a whole number belongs")
