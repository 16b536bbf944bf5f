"""Networks that devices share, in slices under pmap or with gathered weights, and what a method remembers by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kdmlc_jax import nets, parallel, train
from kdmlc_jax.data.prepare import prepare


@pytest.mark.parametrize("name, sizes", [("cnn2", [8]), ("mlp8", [8, 5])])
def test_networks_in_slices_equal_whole_ones(name, sizes):
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

    for rows in sizes:
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


@pytest.fixture(scope="module")
def one_device():
    """What the toy comes to on one device."""
    with pytest.MonkeyPatch.context() as patch:
        toy.install(patch)
        config = toy.config()
        return toy.few_steps(train.Experiment(config, prepare(config)))


BANK = "['carry']['method'].labels.rows"
PLACEMENTS = {
    "banks by rows": {"parallel.split_banks": True},
    "pmap": {"parallel.mode": "pmap"},
    "fsdp": {"parallel.sharding": "fsdp", "parallel.shard_above": 64, "parallel.model": 2},
}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_results_are_the_same_however_they_lie(one_device, monkeypatch, name):
    """Protects scaling out: what is learned, and remembered of every image by row, is one device's."""
    toy.install(monkeypatch)
    config = toy.config(fields={"devices": 4, **PLACEMENTS[name]})
    job = train.Experiment(config, prepare(config))
    rows = job.init()["method"].labels.rows
    assert rows.sharding.shard_shape(rows.shape)[0] == (50 if name == "banks by rows" else 200)
    assert job.is_split == (name in ("banks by rows", "fsdp"))
    got = toy.few_steps(job)
    assert got[BANK].sum() == pytest.approx(200, rel=1e-4) and (got[BANK].max(axis=1) < 1).all()
    toy.assert_close(got, one_device)
