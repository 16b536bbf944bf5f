"""Networks inside a step that several devices share: weights gathered under jit, images in slices under pmap."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh

from kdmlc_jax.parallel.mesh import replicated
from kdmlc_jax.shapes import Inputs
from kdmlc_jax.train_state import NetState


def one_per_device(step: Callable, mesh: Mesh) -> Callable:
    """(state, *arguments) -> outputs of `step`, run by pmap on every device of the mesh with networks `in_slices`.

    All arguments and outputs are whole on every device. Compile it with `compile_step`.
    """
    each_step = with_networks(step, in_slices)

    def mapped(*arguments: Any) -> Any:
        each = jax.pmap(
            lambda _, *rest: each_step(*rest),
            axis_name="data",
            in_axes=(0, *[None] * len(arguments)),
            out_axes=(None, None),
            devices=list(mesh.devices.flat),
        )
        return each(np.arange(mesh.size), *arguments)

    return mapped


def with_networks(step: Callable, wrap: Callable[[Callable], Callable]) -> Callable:
    """`step` (carry, *arguments) -> (carry, outputs), in which every network's apply function is wrapped."""

    def is_net(node: Any) -> bool:
        return isinstance(node, NetState)

    def replaced(carry: Any, functions: Iterable[Callable]) -> Any:
        left = iter(functions)
        return jax.tree.map(
            lambda node: node.replace(apply_fn=next(left)) if is_net(node) else node, carry, is_leaf=is_net
        )

    def wrapped(carry: Any, *arguments: Any) -> Any:
        plain = [node.apply_fn for node in jax.tree.leaves(carry, is_leaf=is_net) if is_net(node)]
        new, out = step(replaced(carry, map(wrap, plain)), *arguments)
        return replaced(new, plain), out

    return wrapped


def gathering(apply_fn: Callable, mesh: Mesh) -> Callable:
    """Inside jit: a network's apply function that has its weights whole on every device, and their gradient, too.

    State and optimiser stay split. Left to itself the compiler splits the network's own work by the weights' layout
    and sends activations between the devices, which are larger.
    """

    def applied(variables: Any, images: Inputs, **keywords: Any) -> Any:
        # The constraint is its own transpose: what is gathered on the way in is summed whole on the way back.
        return apply_fn(lax.with_sharding_constraint(variables, replicated(mesh)), images, **keywords)

    return applied


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def average_gradient(params: Any, axis: str) -> Any:
    """`params` itself; the gradient with respect to it is averaged over the devices of a pmap axis."""
    return params


average_gradient.defvjp(
    lambda params, axis: (params, None), lambda axis, _, gradient: (lax.pmean(gradient, axis_name=axis),)
)


def in_slices(apply_fn: Callable, axis: str = "data") -> Callable:
    """A network's apply function, computed in slices by the devices of a pmap axis.

    Each device applies the network to its slice of the rows and gathers all outputs; BatchNorm takes its statistics
    over all slices; the gradient with respect to the parameters is averaged over the devices where it arises, inside
    whatever is being differentiated, so that a look-ahead moves along the gradient of the whole batch. (A device's own
    gradient counts its slice once for each device that gathered it, so the mean is the whole batch's gradient.)
    Rows that the devices do not divide are computed whole on each.
    """

    def synchronised(call: Callable, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            object.__setattr__(context.module, "axis_name", axis)  # modules are frozen; this one is a bound copy
        return call(*arguments, **keywords)

    def applied(variables: Any, images: Inputs, **keywords: Any) -> Any:
        devices = lax.axis_size(axis)
        if len(images) % devices:
            return apply_fn(variables, images, **keywords)
        rows = len(images) // devices
        mine = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, lax.axis_index(axis) * rows, rows), images)
        with nn.intercept_methods(synchronised):
            out = apply_fn({**variables, "params": average_gradient(variables["params"], axis)}, mine, **keywords)
        whole = partial(lax.all_gather, axis_name=axis, axis=0, tiled=True)
        if keywords.get("mutable"):
            return jax.tree.map(whole, out[0]), out[1]
        return jax.tree.map(whole, out)

    return applied
