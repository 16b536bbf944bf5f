"""Devices: four simulated ones give what one gives, and the backend's options change nothing but time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import parallel, train
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError


def after_one_step(devices):
    """State and metrics after one correction step of a tiny KDMLC run, the student's ramp being over."""
    config = tiny.config(fields={"devices": devices})
    job = train.Run(config, prepare(config))
    assert job.mesh.size == devices
    stage, carry = job.method.stages[-1], job.init()
    current = carry["method"]
    late = parallel.replicate(np.full((), 3 * tiny.STEPS, np.int32), job.mesh)
    carry["method"] = current.replace(student=current.student.replace(step=late))
    carry, out = job.compile(stage)(carry, job.fixed, next(job.feeds(stage, 0, 1)), job.key)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(carry))
    return jax.device_get((carry["method"], out))


def test_four_devices_equal_one():
    """Protects scaling out: networks, statistics, T̂ and metrics of a step do not depend on the number of devices."""
    (one, one_out), (four, four_out) = after_one_step(1), after_one_step(4)
    assert one_out.keys() == four_out.keys() and one_out["student_loss"] > 0
    for name in one_out:
        np.testing.assert_allclose(four_out[name], one_out[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for part in (
        lambda s: (s.teacher.net.params, s.teacher.net.batch_stats, s.teacher.net.ema, s.teacher.joint),
        lambda s: (s.student.params, s.student.batch_stats, s.student.ema),
        lambda s: s.teacher.corrector.params,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5), part(one), part(four))


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
    monkeypatch.setattr(parallel, "_CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert parallel.compiler_options.__wrapped__() == {}


@pytest.mark.parametrize("devices, size", [(0, 4), (1, 1), (3, 3), (4, 4)])
def test_make_mesh(devices, size):
    """Protects the meaning of `devices`: 0 is all of them, otherwise the first so many."""
    mesh = parallel.make_mesh(devices)
    assert mesh.shape == {"data": size, "model": 1} and list(mesh.devices.flat) == jax.devices()[:size]


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
