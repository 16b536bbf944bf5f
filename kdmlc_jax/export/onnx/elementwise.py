"""Primitives of JAX that compute element by element, in ONNX's operators."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kdmlc_jax.export.onnx.graph import Call, Dim, Graph, Value, plain

DTYPES = {  # NumPy's type -> TensorProto.DataType
    **{"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10},
}
OPERATORS = {
    **{"add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow"},
    **{"exp": "Exp", "log": "Log", "sqrt": "Sqrt", "neg": "Neg", "abs": "Abs", "sign": "Sign", "tanh": "Tanh"},
    **{"logistic": "Sigmoid", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "and": "And", "or": "Or", "not": "Not"},
    **{"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal"},
}


def together(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """What arrays of one rank, and scalars, are broadcast to."""
    rank = max(map(len, shapes))
    rows = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    columns = zip(*rows, strict=True)
    return tuple(next((dim for dim in dims if not (isinstance(dim, int) and dim == 1)), 1) for dims in columns)


def by_element(graph: Graph, op: str, given: Sequence[Value | np.ndarray], **attributes: Any) -> Value:
    """`op` of arrays of one rank, and of scalars; axes stay stored as they are."""
    values = [graph.lift(each) for each in given]
    shape = together([value.shape for value in values])
    orders = [value.order for value in values if len(value.shape) == len(shape) and value.name not in graph.constants]
    order = next((each for each in orders if each != plain(len(shape))), plain(len(shape)))
    names = [graph.stored(value, order) if len(value.shape) == len(shape) else value.name for value in values]
    return Value(graph.add(op, names, **attributes)[0], shape, order)


def operator(op: str, call: Call) -> list[Any]:
    """One that ONNX has."""
    return [by_element(call.graph, op, call.given)]


def same(call: Call) -> list[Any]:
    """What changes nothing."""
    return list(call.given)


def rsqrt(call: Call) -> list[Any]:
    """1 / sqrt(x)."""
    return [by_element(call.graph, "Reciprocal", [by_element(call.graph, "Sqrt", call.given)])]


def erfc(call: Call) -> list[Any]:
    """1 - erf(x)."""
    one = np.array(1, call.outs[0].dtype)
    return [by_element(call.graph, "Sub", [one, by_element(call.graph, "Erf", call.given)])]


def not_equal(call: Call) -> list[Any]:
    """x ≠ y."""
    return [by_element(call.graph, "Not", [by_element(call.graph, "Equal", call.given)])]


def integer_pow(call: Call) -> list[Any]:
    """x to a whole power; x times x where it is 2."""
    x, power = call.given[0], call.params.get("y", 2)
    if power == 2:
        return [by_element(call.graph, "Mul", [x, x])]
    return [by_element(call.graph, "Pow", [x, np.array(power, call.outs[0].dtype)])]


def limit(given: Sequence[Value | np.ndarray]) -> tuple[Value, np.ndarray] | None:
    """A value and the number it is compared with, if the other one is one number throughout."""
    for one, other in (given, given[::-1]):
        if isinstance(one, Value) and isinstance(other, np.ndarray) and other.size and (other == other.flat[0]).all():
            return one, np.array(other.flat[0])
    return None


def maximum(call: Call) -> list[Any]:
    """ReLU where one of them is 0."""
    found = limit(call.given)
    if found is None or found[1] != 0:
        return [by_element(call.graph, "Max", call.given)]
    return [by_element(call.graph, "Relu", [found[0]])]


def minimum(call: Call) -> list[Any]:
    """Clip where one of them is a number."""
    found = limit(call.given)
    if found is None:
        return [by_element(call.graph, "Min", call.given)]
    name = call.graph.add("Clip", [found[0].name, "", call.graph.constant(found[1])])[0]
    return [Value(name, found[0].shape, found[0].order)]


def clamp(call: Call) -> list[Any]:
    """x between two bounds."""
    low, x, high = call.given
    return [by_element(call.graph, "Min", [by_element(call.graph, "Max", [low, x]), high])]


def cast(call: Call) -> list[Any]:
    """x as another type."""
    return [by_element(call.graph, "Cast", call.given[:1], to=number_of(call.graph, call.params["new_dtype"]))]


def number_of(graph: Graph, dtype: Any) -> int:
    """ONNX's number of a type."""
    if str(dtype) not in DTYPES:
        raise graph.refuse(f"the type {dtype}")
    return DTYPES[str(dtype)]


def select(call: Call) -> list[Any]:
    """Of two cases, the second where the condition holds."""
    if len(call.given) != 3 or str(call.before[0].dtype) != "bool":
        raise call.graph.refuse(f"select_n of {len(call.given) - 1} cases by {call.before[0].dtype}")
    where, no, yes = call.given
    return [by_element(call.graph, "Where", [where, yes, no])]


TABLE: dict[str, Callable[[Call], list[Any]]] = {
    **{name: functools.partial(operator, op) for name, op in OPERATORS.items()},
    **{"stop_gradient": same, "copy": same, "copy_p": same, "rsqrt": rsqrt, "erfc": erfc},
    **{"ne": not_equal, "square": integer_pow},
    **{"integer_pow": integer_pow, "max": maximum, "min": minimum, "clamp": clamp, "select_n": select},
    "convert_element_type": cast,
}
