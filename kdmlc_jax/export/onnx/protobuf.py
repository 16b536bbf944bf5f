"""ONNX's file, an encoded `ModelProto`: the field numbers are those of onnx.proto (IR version 8, opset 17)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdmlc_jax.export.onnx.elementwise import DTYPES
from kdmlc_jax.export.onnx.graph import Dim, Graph, Node

IR, OPSET = 8, 17
MOST = 2**31 - 1  # bytes of a message


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64 bits."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: Any) -> bytes:
    """A field: whole numbers as varints, texts and messages with their lengths."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(number: int, values: Iterable[Any]) -> bytes:
    """A repeated field."""
    return b"".join(field(number, value) for value in values)


def attribute(name: str, value: Any) -> bytes:
    """AttributeProto: a whole number (2), a text (3) or whole numbers (7)."""
    if isinstance(value, str):
        return field(1, name) + field(4, value) + field(20, 3)
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    return field(1, name) + fields(8, map(int, value)) + field(20, 7)


def node(node: Node) -> bytes:
    """NodeProto."""
    attributes = fields(5, (attribute(*each) for each in node.attributes.items()))
    return fields(1, node.inputs) + fields(2, node.outputs) + field(4, node.op) + attributes


def tensor(name: str, array: np.ndarray) -> bytes:
    """TensorProto, its numbers as little-endian bytes."""
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return fields(1, array.shape) + field(2, DTYPES[str(array.dtype)]) + field(8, name) + field(9, raw)


def port(name: str, dtype: Any, shape: Sequence[Dim]) -> bytes:
    """ValueInfoProto of an input or output; a dimension that is no number is called by its name."""
    sizes = fields(1, (field(1, dim) if isinstance(dim, int) else field(2, str(dim)) for dim in shape))
    kind = field(1, DTYPES[str(np.dtype(dtype))]) + field(2, sizes)
    return field(1, name) + field(2, field(1, kind))


def model(graph: Graph, given: bytes, result: bytes, producer: tuple[str, str], about: Mapping[str, str]) -> bytes:
    """ModelProto of a graph with one input and one output, `given` and `result`, and properties by name.

    Raises:
      UserError: where it is larger than ONNX's files can be.
    """
    used = {name for each in graph.nodes for name in each.inputs}
    constants = [tensor(name, array) for name, array in graph.constants.items() if name in used]
    body = fields(1, map(node, graph.nodes)) + field(2, "network") + fields(5, constants)
    body += field(11, given) + field(12, result)
    properties = fields(14, (field(1, key) + field(2, value) for key, value in about.items()))
    whole = field(1, IR) + field(2, producer[0]) + field(3, producer[1]) + field(7, body)
    whole += field(8, field(1, "") + field(2, OPSET)) + properties
    if len(whole) > MOST:
        raise graph.refuse(f"a network of {len(whole)} bytes, more than {MOST},")
    return whole
