"""Devices: what lies where, networks in slices over a pmap axis, and backend options that change nothing but time."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import struct

from kdmlc_jax import methods, nets, parallel, train, train_state
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.methods import ce


def test_compiler_options_change_time_only():
    """Protects results from the backend's options: unknown ones are left out, known ones compute the same."""
    options = parallel.compiler_options()
    assert options == {} or jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2

    def loss(kernel, images):
        dims = jax.lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        out = jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=dims)
        return jnp.mean(jnp.tanh(out) ** 2)

    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 8)) / 5
    images = jax.random.normal(jax.random.key(1), (16, 12, 12, 3))
    plain = jax.jit(jax.value_and_grad(loss))(kernel, images)
    ours = parallel.compile_step(jax.value_and_grad(loss))(kernel, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5), plain, ours)


def test_options_are_those_of_the_backend(monkeypatch):
    """Protects accelerators and other jaxlibs: CPU options are neither given to another backend nor insisted on."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert parallel.compiler_options.__wrapped__() == {}
    monkeypatch.undo()
    monkeypatch.setattr(parallel.compile, "CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert parallel.compiler_options.__wrapped__() == {}


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


def test_compiled_programs_are_kept_where_the_user_says(tmp_path, monkeypatch):
    """Protects a folder the user chose for compiled programs, and the default place where none was chosen."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        for chosen, expected in ((str(tmp_path / "mine"), tmp_path / "mine"), (None, tmp_path / "kdmlc_jax")):
            jax.config.update("jax_compilation_cache_dir", chosen)
            parallel.keep_compiled()
            assert jax.config.jax_compilation_cache_dir == str(expected)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


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


def test_table_is_printed_by_part_of_the_state(tmp_path, capsys):
    """Protects a person who asks for fsdp: what is split and the bytes of a device are told, part by part."""
    fields = {"devices": 4, "parallel.sharding": "fsdp", "parallel.shard_above": 64}
    config = tiny.config("method=ce,epochs=1", fields)
    train.run(config, tmp_path)
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().err.splitlines() if line.strip()}
    job = train.Experiment(config, prepare(config))
    rows = job.memory()
    assert {"params", "opt_state", "batch_stats", "all"} < lines.keys()
    arrays, split, whole, own = map(float, lines["all"])
    assert arrays == len(rows) == len(jax.tree.leaves(job.init()["method"])) and 0 < split < arrays
    assert whole == pytest.approx(sum(row[4] for row in rows) / 1024, abs=0.06)
    assert own == pytest.approx(sum(row[5] for row in rows) / 1024, abs=0.06) and own < whole / 2


class Remembering(struct.PyTreeNode):
    """CE's network, and how often each noisy image was seen and what was believed of it."""

    net: object
    bank: train_state.Bank


def remembering(config, info):
    """CE that writes its beliefs into a bank and reads them back, as methods with soft labels do."""
    plain = ce.make(config, info)
    (stage,) = plain.stages

    def step(current, batch, key):
        net, metrics = stage.step(current.net, batch, key)
        beliefs = jax.nn.softmax(plain.predict(net, batch["image"]))
        bank = current.bank.rows.at[batch["index"]].add(beliefs)
        seen = bank[batch["index"]].sum()
        return Remembering(net, train_state.Bank(bank)), metrics | {"seen": seen}

    return plain._replace(
        init=lambda key, images: Remembering(
            plain.init(key, images), train_state.Bank(jnp.zeros((200, info.num_classes)))
        ),
        stages=(stage._replace(step=step),),
        predict=lambda current, images: plain.predict(current.net, images),
        correct=lambda current, images, given, index: plain.correct(current.net, images, given, index),
        networks={"student": lambda current: current.net},
    )


@pytest.mark.parametrize("fields", [{"parallel.split_banks": True}, {}, {"parallel.mode": "pmap"}])
def test_banks_are_the_same_however_they_lie(monkeypatch, fields):
    """Protects what a method remembers of every image: by rows, whole, or under pmap, it is one device's."""

    def trained(**fields):
        config = tiny.config("method=ce", fields)
        with monkeypatch.context() as patch:
            patch.setattr(methods, "get", lambda name: SimpleNamespace(make=remembering))
            job = train.Experiment(config, prepare(config))
        carry, stage = job.init(), job.method.stages[0]
        compiled = job.compile(stage)
        for feed in job.feeds(stage, 0, 7):
            carry, out = compiled(carry, job.fixed, feed, job.key)
        return carry["method"].bank.rows, out

    (one, one_out), (four, four_out) = trained(), trained(devices=4, **fields)
    assert four.sharding.shard_shape(four.shape)[0] == (50 if "parallel.split_banks" in fields else 200)
    assert float(one.sum()) == pytest.approx(7 * 40, rel=1e-4)
    np.testing.assert_allclose(four, one, atol=1e-4)
    np.testing.assert_allclose(four_out["seen"], one_out["seen"], rtol=1e-4)


NETS = ["cnn4", "mlp8", "resnet8"]


@pytest.mark.parametrize("name", NETS)
def test_networks_in_slices_equal_whole_ones(name):
    """Protects pmap: outputs, running statistics and gradients of a slice-wise network are those of the whole batch.

    Five rows, which four devices do not divide, are computed whole.
    """
    module = nets.build(name, 3)
    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 1))
    variables = jax.jit(lambda: module.init(jax.random.key(0), images, train=False))()
    weights = jax.random.normal(jax.random.key(2), (8, 3))

    def both(apply_fn, images):
        def loss(params):
            output, moved = apply_fn({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return (output.logits * weights[: len(images)]).sum() + (output.features**2).mean(), (output, moved)

        return jax.grad(loss, has_aux=True)(variables["params"])

    for rows in (8, 5):
        part = images[:rows]
        whole = jax.jit(lambda part: both(module.apply, part))(part)
        each = jax.pmap(
            lambda _, part: both(parallel.in_slices(module.apply), part),
            axis_name="data",
            in_axes=(0, None),
            out_axes=None,
        )
        for a, b in zip(jax.tree.leaves(each(np.arange(4), part)), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(jnp.abs(b).max()) + 1e-5)
