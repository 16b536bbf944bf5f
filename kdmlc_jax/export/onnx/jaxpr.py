"""A jaxpr read into a graph: what is known is computed now, the rest becomes nodes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jax.extend.core import Literal

from kdmlc_jax.export.onnx import axes, elementwise
from kdmlc_jax.export.onnx.graph import Call, Graph, Value

PRIMITIVES = elementwise.TABLE | axes.TABLE
OPEN = ("broadcast_in_dim", "dim_as_value")  # one need not grow, the other is the batch's size
# Functions within functions, which become part of the whole.
INLINED = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


def read(function: Callable, name: str, shape: Sequence[int], dtype: Any, place: str) -> tuple[Graph, Value]:
    """The graph of function(array [B, *shape]) -> array [B, …] for any number of rows B, and its output.

    Args:
      function: of JAX, traced here; the weights that it holds become constants.
      name: of the input in the graph.
      shape, dtype: of a row of it.
      place: what an error begins with.

    Raises:
      UserError: naming the first primitive that is not known.
    """
    (batch,) = jax_export.symbolic_shape("b")
    whole = (batch, *shape)
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(whole, dtype))
    graph = Graph(batch, place)
    (found,) = follow(graph, closed.jaxpr, closed.consts, [graph.given(name, whole)])
    return graph, graph.lift(found)


def follow(graph: Graph, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr, whose inputs are values, or arrays where they are constants."""
    known = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    known |= dict(zip(jaxpr.invars, given, strict=True))

    def look(atom: Any) -> Any:
        return np.asarray(atom.val, getattr(atom.aval, "dtype", None)) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        outcome = computed(graph, equation, [look(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, outcome, strict=True))
    return [look(atom) for atom in jaxpr.outvars]


def computed(graph: Graph, equation: Any, given: list[Any]) -> list[Any]:
    """The outputs of one equation."""
    name, params = equation.primitive.name, equation.params
    if name in INLINED:
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        return follow(graph, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
    before, outs = ([atom.aval for atom in atoms] for atoms in (equation.invars, equation.outvars))
    if all(isinstance(each, np.ndarray) for each in given) and name not in OPEN:
        if all(isinstance(dim, int) for aval in (*before, *outs) for dim in aval.shape):
            whole = [np.broadcast_to(each, aval.shape) for each, aval in zip(given, before, strict=True)]
            return bound(equation, whole)
        if name in elementwise.TABLE:
            return bound(equation, list(np.broadcast_arrays(*given)))
    if name not in PRIMITIVES:
        raise graph.refuse(f'the primitive "{name}", which is not among {", ".join(sorted(PRIMITIVES))},')
    return PRIMITIVES[name](Call(graph, given, params, before, outs))


def bound(equation: Any, given: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the primitive makes of arrays."""
    result = equation.primitive.bind(*given, **equation.params)
    return [np.asarray(each) for each in (result if equation.primitive.multiple_results else [result])]
