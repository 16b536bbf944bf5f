"""Primitives of JAX that work along axes (layers, shapes, indices), in ONNX's operators."""

import functools
import string
from collections.abc import Callable
from typing import Any

import numpy as np

from kdmlc_jax.export.onnx.elementwise import number_of
from kdmlc_jax.export.onnx.graph import Call, Value, plain


def broadcast(call: Call) -> list[Any]:
    """Axes of length 1 are put in; what uses it broadcasts them."""
    return [widened(call, call.given[0], len(call.params["shape"]), call.params["broadcast_dimensions"])]


def widened(call: Call, value: Value | np.ndarray, rank: int, axes: tuple[int, ...]) -> Value | np.ndarray:
    """`value` with its axes at `axes` of `rank`, the others of length 1."""
    shape: list[Any] = [1] * rank
    for axis, length in zip(axes, value.shape, strict=True):
        shape[axis] = length
    if isinstance(value, np.ndarray):
        return value.reshape(shape)
    if len(axes) == rank:
        return value
    new = [axis for axis in range(rank) if axis not in axes]
    names = [call.graph.stored(value, plain(len(axes))), call.numbers(new)]
    return Value(call.graph.add("Unsqueeze", names)[0], tuple(shape), plain(rank))


def reshape(call: Call) -> list[Any]:
    """Other lengths, the batch's being what is left."""
    sizes = [dim if isinstance(dim, int) else -1 for dim in call.outs[0].shape]
    if sizes.count(-1) > 1:
        raise call.graph.refuse(f"reshape to {call.outs[0].shape}")
    return call.add("Reshape", [call.name(), call.numbers(sizes)])


def transpose(call: Call) -> list[Any]:
    """No node: the same numbers, their axes called otherwise."""
    value, axes = call.value(), tuple(call.params["permutation"])
    shape = tuple(value.shape[axis] for axis in axes)
    return [Value(value.name, shape, tuple(axes.index(axis) for axis in value.order))]


def reduction(op: str, call: Call) -> list[Any]:
    """Over axes wherever they are stored."""
    value, over = call.value(), call.params["axes"]
    stored = sorted(value.order.index(axis) for axis in over)
    left = sorted(set(value.order) - set(over))
    order = [left.index(axis) for axis in value.order if axis not in over]
    if op == "ReduceSum":  # the only one whose axes are an input before opset 18
        return call.add(op, [value.name, call.numbers(stored)], order, keepdims=0)
    return call.add(op, [value.name], order, axes=stored, keepdims=0)


def product(call: Call) -> list[Any]:
    """[B, K] times [K, N]; any other, as of attention, by its letters."""
    (lefts, rights), (lots, others) = call.params["dimension_numbers"]
    ranks = [len(aval.shape) for aval in call.before]
    if ranks != [2, 2] or lots or len(lefts) != 1:
        letters = string.ascii_lowercase
        first, second = list(letters[: ranks[0]]), list(letters[ranks[0] : sum(ranks)])
        for ours, theirs in zip((*lefts, *lots), (*rights, *others), strict=True):
            second[theirs] = first[ours]
        used = {first[axis] for axis in (*lefts, *lots)}
        out = [first[axis] for axis in lots] + [each for each in (*first, *second) if each not in used]
        values = call.value(0), call.value(1)
        stored = [
            "".join(part[axis] for axis in value.order) for part, value in zip((first, second), values, strict=True)
        ]
        return call.add("Einsum", [value.name for value in values], equation=f"{','.join(stored)}->{''.join(out)}")
    left, right = lefts[0], rights[0]
    names = [call.graph.stored(call.value(0), (1 - left, left)), call.graph.stored(call.value(1), (right, 1 - right))]
    return call.add("Gemm", names)


def convolution(call: Call) -> list[Any]:
    """Conv, its axes stored with channels first."""
    left, right, out = call.params["dimension_numbers"]
    if call.params["batch_group_count"] != 1 or set(call.params["lhs_dilation"]) != {1}:
        raise call.graph.refuse("a convolution of groups of the batch or of a spread input")
    return call.add(
        "Conv",
        [call.graph.stored(call.value(0), left), call.graph.stored(call.value(1), right)],
        out,
        strides=[*call.params["window_strides"]],
        pads=[edges[end] for end in (0, 1) for edges in call.params["padding"]],
        dilations=[*call.params["rhs_dilation"]],
        group=call.params["feature_group_count"],
    )


def max_pool(call: Call) -> list[Any]:
    """MaxPool over two axes, stored last."""
    value, window, padding = call.value(), call.params["window_dimensions"], call.params["padding"]
    inside = [axis for axis, length in enumerate(window) if length > 1]
    dilated = {*call.params["base_dilation"], *call.params["window_dilation"]} != {1}
    if dilated or len(window) != 4 or len(inside) != 2:
        raise call.graph.refuse(f"a maximum over windows {window}")
    order = (*(axis for axis in range(4) if axis not in inside), *inside)
    return call.add(
        "MaxPool",
        [call.graph.stored(value, order)],
        order,
        kernel_shape=[window[axis] for axis in inside],
        strides=[call.params["window_strides"][axis] for axis in inside],
        pads=[padding[axis][end] for end in (0, 1) for axis in inside],
    )


def pad(call: Call) -> list[Any]:
    """Pad, of axes wherever they are stored."""
    value, edges = call.value(), call.params["padding_config"]
    if any(inner for _, _, inner in edges):
        raise call.graph.refuse("padding between the elements")
    sizes = [edges[axis][end] for end in (0, 1) for axis in value.order]
    return call.add("Pad", [value.name, call.numbers(sizes), call.name(1)], value.order)


def cut(call: Call) -> list[Any]:
    """Slice, of axes wherever they are stored."""
    value, starts, ends = call.value(), call.params["start_indices"], call.params["limit_indices"]
    steps = call.params["strides"] or (1,) * len(starts)
    axes = [
        axis for axis, length in enumerate(value.shape) if (starts[axis], ends[axis], steps[axis]) != (0, length, 1)
    ]
    if any(not isinstance(ends[axis], int) for axis in axes):
        raise call.graph.refuse("a part of the batch")
    stored = [value.order.index(axis) for axis in axes]
    columns = [[starts[axis] for axis in axes], [ends[axis] for axis in axes], stored, [steps[axis] for axis in axes]]
    return call.add("Slice", [value.name, *map(call.numbers, columns)], value.order)


def concatenate(call: Call) -> list[Any]:
    """Concat, in JAX's order of axes."""
    names = [call.name(place) for place in range(len(call.given))]
    return call.add("Concat", names, axis=call.params["dimension"])


def iota(call: Call) -> list[Any]:
    """0, 1, 2 … along the batch; along another axis they are constants."""
    shape, axis = call.params["shape"], call.params["dimension"]
    count = call.graph.add("Squeeze", [call.graph.size(shape[axis])])[0]
    name = call.graph.add("Range", [call.numbers(0), count, call.numbers(1)])[0]
    name = call.graph.add("Cast", [name], to=number_of(call.graph, call.outs[0].dtype))[0]
    return [widened(call, Value(name, (shape[axis],), (0,)), len(shape), (axis,))]


def batch_size(call: Call) -> list[Any]:
    """The number of rows as a scalar."""
    name = call.graph.add("Squeeze", [call.graph.size(call.params["dim"])])[0]
    return call.add("Cast", [name], to=number_of(call.graph, call.outs[0].dtype))


def top_k(call: Call) -> list[Any]:
    """TopK: values and their places, the greatest first."""
    shape, axis = tuple(call.outs[0].shape), call.params.get("axis", len(call.outs[0].shape) - 1)
    values, places = call.graph.add("TopK", [call.name(), call.numbers([call.params["k"]])], outputs=2, axis=axis)
    places = call.graph.add("Cast", [places], to=number_of(call.graph, call.outs[1].dtype))[0]
    return [Value(each, shape, plain(len(shape))) for each in (values, places)]


def gather(call: Call) -> list[Any]:
    """Single elements; by indices that are in bounds."""
    numbers = call.params["dimension_numbers"]
    whole = plain(len(call.before[0].shape))
    if numbers.offset_dims or tuple(numbers.start_index_map) != whole or set(call.params["slice_sizes"]) != {1}:
        raise call.graph.refuse("gather of more than single elements")
    return call.add("GatherND", [call.name(), _long(call, 1)])


def scatter_add(call: Call) -> list[Any]:
    """To single elements; by indices that are in bounds."""
    numbers = call.params["dimension_numbers"]
    whole = plain(len(call.before[0].shape))
    if numbers.update_window_dims or tuple(numbers.scatter_dims_to_operand_dims) != whole:
        raise call.graph.refuse("scatter-add to more than single elements")
    return call.add("ScatterND", [call.name(0), _long(call, 1), call.name(2)], reduction="add")


def _long(call: Call, place: int) -> str:
    """Indices as ONNX has them, i64."""
    return call.graph.add("Cast", [call.name(place)], to=number_of(call.graph, np.dtype(np.int64)))[0]


TABLE: dict[str, Callable[[Call], list[Any]]] = {
    **{"broadcast_in_dim": broadcast, "reshape": reshape, "squeeze": reshape, "expand_dims": reshape},
    **{"transpose": transpose, "slice": cut, "pad": pad, "concatenate": concatenate, "dot_general": product},
    **{"conv_general_dilated": convolution, "reduce_window_max": max_pool, "iota": iota, "dim_as_value": batch_size},
    **{
        name: functools.partial(reduction, op)
        for name, op in (("reduce_sum", "ReduceSum"), ("reduce_max", "ReduceMax"))
    },
    **{"reduce_min": functools.partial(reduction, "ReduceMin"), "top_k": top_k, "gather": gather},
    "scatter-add": scatter_add,
}
