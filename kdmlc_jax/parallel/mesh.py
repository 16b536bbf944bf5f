"""The mesh, what lies where on it, and how it gets there and back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from kdmlc_jax.errors import UserError
from kdmlc_jax.parallel.processes import alone
from kdmlc_jax.shapes import Key
from kdmlc_jax.train_state import Bank


def make_mesh(devices: int = 0, model: int = 1) -> Mesh:
    """A mesh with the axes "data" and "model" over the first `devices` devices (0 means all), `model` of them a row.

    Raises:
      UserError: if there are fewer, or they do not divide.
    """
    have = jax.devices()
    if not 0 <= devices <= len(have):
        raise UserError(f"devices: {devices} is outside [0, {len(have)}], the number of {have[0].platform} devices")
    if not alone() and devices not in (0, len(have)):
        raise UserError(f"devices: {devices}: several processes use all of their {len(have)} devices together")
    chosen = np.array(have[: devices or len(have)])
    if model < 1 or len(chosen) % model or jax.local_device_count() % model:
        raise UserError(f"parallel.model: {model} does not divide the {len(chosen)} devices, or those of a process")
    return Mesh(chosen.reshape(-1, model), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is split along its first axis over the data axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def layout(tree: Any, mesh: Mesh, how: Any) -> Any:
    """The sharding of each array of a state, by rule.

    Replicated, but: with `how.sharding` "fsdp" an array of at least `how.shard_above` elements, parameter, optimiser
    state or average alike, is split along its largest dimension that the devices divide (the first of equals); with
    `how.split_banks` a `Bank` is split along its rows, over the data axis, where that divides them. `how` is
    `config.parallel`, `tree` of arrays or their shapes.
    """

    def of(leaf: Any) -> Any:
        if isinstance(leaf, Bank):
            divides = how.split_banks and len(leaf.rows) % mesh.shape["data"] == 0
            return leaf.replace(rows=by_rows(mesh) if divides else replicated(mesh))
        if how.sharding == "fsdp" and mesh.size > 1 and leaf.size >= how.shard_above:
            sizes = [size if size % mesh.size == 0 else 0 for size in leaf.shape]
            if any(sizes):
                spec: list[Any] = [None] * len(sizes)
                spec[int(np.argmax(sizes))] = ("data", "model")
                return NamedSharding(mesh, PartitionSpec(*spec))
        return replicated(mesh)

    return jax.tree.map(of, tree, is_leaf=lambda node: isinstance(node, Bank))


def place(tree: Any, shardings: Any) -> Any:
    """`tree` on the devices, in buffers of its own; every process gives the same values."""

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(jnp.copy, out_shardings=sharding)(leaf)
        if alone():
            # device_put shares the first device's buffer with its source, whatever may_alias says.
            return jax.device_put(leaf.copy() if isinstance(leaf, jax.Array) else leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, shardings)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """`tree` whole on every device of the mesh, in buffers of its own."""
    return place(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def replicate_key(make: Callable[[], Key], mesh: Mesh) -> Key:
    """The random key that `make` gives, whole on every device; no process sends it to another."""
    return jax.jit(make, out_shardings=replicated(mesh))()


def own_rows(count: int) -> slice:
    """Which rows of a batch of `count`, which the processes divide, this process reads."""
    each = count // jax.process_count()
    return slice(jax.process_index() * each, (jax.process_index() + 1) * each)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Host arrays of one batch on the mesh, split along their first axis; each process gives its `own_rows`."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(by_rows(mesh), np.asarray(rows)), batch)


def put_flag(flag: bool, mesh: Mesh) -> Bool[Array, " slices"]:
    """Every process's `flag`, for a program that tells them all whether one is set: one a slice of the data axis."""
    made: jax.Array = put_batch(np.full(mesh.shape["data"] // jax.process_count(), flag), mesh)
    return made


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Inside jit: each leaf of a batch split along its first axis, which divides by the data axis."""
    return batch if mesh.size == 1 else lax.with_sharding_constraint(batch, by_rows(mesh))


def fetch(tree: Any) -> Any:
    """Host copies of a tree's arrays; where several processes hold parts of them, all processes call this."""

    def get(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            sharding: Any = leaf.sharding
            leaf = jax.jit(jnp.copy, out_shardings=replicated(sharding.mesh))(leaf)
        return np.asarray(leaf)

    return jax.tree.map(get, tree)
