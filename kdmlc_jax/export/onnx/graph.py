"""A graph of ONNX nodes as it grows: values, constants, and the order in which axes are stored.

JAX has channels last, ONNX convolves with channels first. A value therefore knows in which order its axes are stored;
what computes element by element keeps that order, and constants are turned to it when the file is written.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kdmlc_jax.errors import UserError

Dim = Any  # int, or the symbol of the batch's size


@dataclasses.dataclass(frozen=True)
class Value:
    """An array of the graph.

    Args:
      name: in the graph.
      shape: in JAX's order of axes; 1 where it is only to be broadcast.
      order: stored axis i is axis order[i] of `shape`.
    """

    name: str
    shape: tuple[Dim, ...]
    order: tuple[int, ...]


@dataclasses.dataclass
class Node:
    """One operation, as ONNX names it; `attributes` are whole numbers, texts, or lists of whole numbers."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


def plain(rank: int) -> tuple[int, ...]:
    """JAX's own order."""
    return tuple(range(rank))


class Graph:
    """Nodes in the order in which they compute, and constants by name."""

    def __init__(self, batch: Dim, place: str):
        """Of no nodes yet; `batch` is the symbol of the batch's size, `place` what error lines begin with."""
        self.batch, self.place = batch, place
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[tuple, str] = {}
        self._size: str | None = None
        self.images = ""

    def refuse(self, what: str) -> UserError:
        """The error for what cannot be said in ONNX."""
        return UserError(f"{self.place}: {what} cannot be exported to ONNX")

    def given(self, name: str, shape: Sequence[Dim]) -> Value:
        """The graph's input."""
        self.images = name
        return Value(name, tuple(shape), plain(len(shape)))

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant; equal ones are one."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = f"c{len(self.constants)}"
            self.constants[self._names[key]] = np.ascontiguousarray(array).reshape(array.shape)
        return self._names[key]

    def lift(self, value: Value | np.ndarray) -> Value:
        """A constant as a value."""
        if isinstance(value, Value):
            return value
        return Value(self.constant(value), value.shape, plain(value.ndim))

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds a node; the names of what it computes."""
        names = [f"v{len(self.nodes)}" + (f"_{place}" if place else "") for place in range(outputs)]
        self.nodes.append(Node(op, list(inputs), names, attributes))
        return names

    def stored(self, value: Value, order: Sequence[int]) -> str:
        """The name of `value` with its axes stored in `order`."""
        if value.order == tuple(order):
            return value.name
        axes = [value.order.index(axis) for axis in order]
        if value.name in self.constants:
            return self.constant(self.constants[value.name].transpose(axes))
        return self.add("Transpose", [value.name], perm=axes)[0]

    def whole(self, value: Value, shape: Sequence[Dim]) -> str:
        """The name of `value` broadcast to `shape`, its axes in JAX's order."""
        name = self.stored(value, plain(len(value.shape)))
        if value.shape == tuple(shape):
            return name
        return self.add("Expand", [name, self.sizes(shape)])[0]

    def sizes(self, shape: Sequence[Dim]) -> str:
        """The name of a shape, i64[rank]."""
        if all(isinstance(dim, int) for dim in shape):
            return self.constant(np.array(shape, np.int64))
        parts = [self.constant(np.array([dim], np.int64)) if isinstance(dim, int) else self.size(dim) for dim in shape]
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=0)[0]

    def size(self, dim: Dim) -> str:
        """The name of the batch's size, i64[1]."""
        if dim != self.batch:
            raise self.refuse(f"an array of {dim} rows")
        if self._size is None:
            self._size = self.add("Shape", [self.images], start=0, end=1)[0]
        return self._size


class Call(NamedTuple):
    """A primitive of JAX where it is called."""

    graph: Graph
    given: Sequence[Value | np.ndarray]  # arrays are constants
    params: dict[str, Any]
    before: Sequence[Any]  # shapes and types of what is given in JAX: here it may be smaller, where it is broadcast
    outs: Sequence[Any]  # those of what it gives

    def value(self, place: int = 0) -> Value:
        """What is given there, of the shape that it has in JAX."""
        value, shape = self.graph.lift(self.given[place]), tuple(self.before[place].shape)
        return value if value.shape == shape else Value(self.graph.whole(value, shape), shape, plain(len(shape)))

    def name(self, place: int = 0) -> str:
        """Its name, with axes in JAX's order."""
        value = self.value(place)
        return self.graph.stored(value, plain(len(value.shape)))

    def add(self, op: str, inputs: Sequence[str], order: Sequence[int] | None = None, **attributes: Any) -> list[Value]:
        """A node that is all of the primitive: its output, of the shape that it has in JAX."""
        shape = tuple(self.outs[0].shape)
        name = self.graph.add(op, inputs, **attributes)[0]
        return [Value(name, shape, plain(len(shape)) if order is None else tuple(order))]

    def numbers(self, numbers: Any) -> str:
        """The name of a constant of whole numbers, i64."""
        return self.graph.constant(np.array(numbers, np.int64))
