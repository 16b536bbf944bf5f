"""Devices: what lies where, how much of it, and how it gets there."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax import parallel, train_state
from kdmlc_jax.errors import UserError


@pytest.mark.parametrize("devices, size", [(0, 4), (1, 1), (3, 3), (4, 4)])
def test_make_mesh(devices, size):
    """Protects the meaning of `devices`: 0 is all of them, otherwise the first so many."""
    mesh = parallel.make_mesh(devices)
    assert mesh.shape == {"data": size, "model": 1} and list(mesh.devices.flat) == jax.devices()[:size]


@pytest.mark.parametrize("devices, model", [(4, 3), (3, 2), (4, 0), (1, 2)])
def test_model_axis_must_divide(devices, model):
    """Protects a user's arithmetic: the number of devices that share a slice is named where it does not divide."""
    with pytest.raises(UserError, match=rf"parallel\.model: {model} does not divide the {devices} devices"):
        parallel.make_mesh(devices, model)


@pytest.mark.parametrize("devices", [99, 5, -1])
def test_make_mesh_refuses_what_is_not_there(devices):
    """Protects a user on a smaller machine: the error names the value and the number of devices."""
    with pytest.raises(UserError, match=rf"devices: {devices} is outside \[0, 4\], the number of cpu devices"):
        parallel.make_mesh(devices)


@pytest.mark.parametrize("devices", [1, 4])
def test_replicate_does_not_alias(devices):
    """Protects what is kept beside a donated state: the copy is consumed, the original stays usable."""
    mesh = parallel.make_mesh(devices)
    host, device = np.arange(6.0, dtype=np.float32), jnp.arange(6.0)
    copies = parallel.replicate({"host": host, "device": device}, mesh)
    double = parallel.compile_step(
        lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate=(0,), out=parallel.replicated(mesh)
    )
    doubled = double(copies)
    assert all(copy.is_deleted() for copy in copies.values())
    for original in (host, device):
        np.testing.assert_array_equal(original, np.arange(6.0))
    for result in doubled.values():
        assert result.sharding.is_fully_replicated and len(result.devices()) == devices
        np.testing.assert_array_equal(result, 2 * np.arange(6.0))


def test_batch_is_split_over_the_devices():
    """Protects data parallelism: each device holds its part of every leaf, made inside jit or sent from the host."""
    mesh = parallel.make_mesh(4)
    batch = {"image": np.zeros((8, 2)), "label": np.zeros(8, np.int32)}
    inside = jax.jit(lambda tree: parallel.split_batch(tree, mesh))(batch)
    for split in (inside, parallel.put_batch(batch, mesh)):
        assert {name: leaf.sharding.shard_shape(leaf.shape)[0] for name, leaf in split.items()} == dict.fromkeys(
            batch, 2
        )


class State(NamedTuple):
    """A state of two parts."""

    large: dict
    whole: dict


def how(**fields):
    """The config's fields `parallel`."""
    return SimpleNamespace(**{"sharding": "fsdp", "shard_above": 48, "split_banks": True} | fields)


def example():
    """Arrays that meet every branch of the rule."""
    return {
        "large": np.zeros((6, 8, 4), np.float32),
        "square": np.zeros((8, 8), np.float32),
        "odd": np.zeros((7, 9), np.float32),
        "small": np.zeros((4, 11), np.float32),
        "count": np.zeros((), np.int32),
        "bank": train_state.Bank(np.zeros((40, 3), np.float32)),
        "uneven": train_state.Bank(np.zeros((41, 3), np.float32)),
    }


@pytest.mark.parametrize("model", [1, 2])
def test_layout_splits_what_is_large_and_divides(model):
    """Protects memory and results: the largest dimension that divides, the first of equals; the rest stays whole."""
    tree = example()
    got = parallel.layout(tree, parallel.make_mesh(4, model), how())
    parts = jax.tree.map(lambda leaf, sharding: sharding.shard_shape(leaf.shape), tree, got)
    assert parts == {
        "large": (6, 2, 4),
        "square": (2, 8),
        "odd": (7, 9),
        "small": (4, 11),
        "count": (),
        "bank": train_state.Bank((40 // (4 // model), 3)),
        "uneven": train_state.Bank((41, 3)),
    }
    whole = parallel.layout(tree, parallel.make_mesh(4, model), how(sharding="replicated", split_banks=False))
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(whole))


def test_table_counts_the_bytes_of_each_device():
    """Protects a memory plan: the table's bytes are those that the arrays really take on a device."""
    tree, mesh = example(), parallel.make_mesh(4)
    shardings = parallel.layout(tree, mesh, how())
    rows = parallel.table(tree, shardings)
    placed = jax.tree.leaves(parallel.place(tree, shardings))
    for (_, _, _, _, whole, own), leaf in zip(rows, placed, strict=True):
        assert whole == leaf.nbytes and own == leaf.addressable_shards[0].data.nbytes
    assert sum(own for *_, own in rows) < sum(whole for *_, whole, _ in rows)


def test_table_is_printed_by_part_of_the_state():
    """Protects a person who asks for fsdp: what is split and the bytes of a device are told, part by part."""
    tree, mesh = {"large": example(), "whole": {"bias": np.zeros(8, np.float32)}}, parallel.make_mesh(4)
    rows = parallel.table(State(**tree), parallel.layout(State(**tree), mesh, how()))
    head, *lines = (line.split() for line in parallel.show_table(rows).splitlines())
    got = {name: list(map(float, numbers)) for name, *numbers in lines}
    assert head[0] == "state" and got.keys() == {"large", "whole", "all"}
    assert got["whole"] == [1, 0, 0.0, 0.0] and got["all"][:2] == [8, 3]
    assert got["all"][2] == pytest.approx(sum(row.whole for row in rows) / 1024, abs=0.06)
    assert got["all"][3] == pytest.approx(sum(row.own for row in rows) / 1024, abs=0.06)
