"""Labels of classes that too few trusted images are of stand while a corrector learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import methods
from kdmlc_jax.methods.base import Info
from kdmlc_jax.methods.parts.standing import Standing

INFO = Info(3, (1, 1, 4), 5, 40, 9, trusted_of={"cat": 6, "dog": 3, "fox": 0})
GIVEN = jnp.asarray([0, 1, 2, 2])


def test_which_labels_stand():
    """Protects classes of few trusted images, by count, and the sentence that names them."""
    soft = jnp.full((4, 3), 1 / 3)
    for fewest, stand in {1: [False, False, True], 4: [False, True, True]}.items():
        standing = Standing(INFO, fewest)
        np.testing.assert_array_equal(standing.classes, stand)
        kept = np.asarray(standing.keep(soft, GIVEN))
        alone = np.asarray(stand)[np.asarray(GIVEN)]
        np.testing.assert_array_equal(kept[alone], np.eye(3)[np.asarray(GIVEN)[alone]])
        np.testing.assert_allclose(kept[~alone], 1 / 3)
    assert Standing(INFO, 1).note == "labels given as fox stand: no trusted image to learn from"
    assert Standing(INFO, 4).note == "labels given as dog, fox stand: fewer than 4 trusted images to learn from"
    assert not Standing(INFO._replace(trusted_of={"cat": 1}), 1).note


@pytest.mark.parametrize("name", ["mlc", "kdmlc"])
@pytest.mark.parametrize("preset", ["paper", "strong"])
def test_no_class_is_erased(name, preset):
    """Protects a class without trusted images in the labels trained on and reported, whatever the corrector says."""
    method = methods.get(name).make(tiny.config(f"method={name},preset={preset},teacher=mlp4,student=mlp4"), INFO)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1, 1, 4)), jnp.float32)
    state = method.init(jax.random.key(0), images)
    got = np.asarray(method.correct(state, images, GIVEN, jnp.arange(4)))
    np.testing.assert_array_equal(got[2:], [[0, 0, 1]] * 2)
    assert not np.allclose(got[:2].max(axis=1), 1)
    net = state.net if name == "mlc" else state.teacher.net
    meta, inner = method.meta, state if name == "mlc" else state.teacher
    output = net.apply_fn({"params": net.params, "batch_stats": net.batch_stats}, images, train=False)
    target = np.asarray(meta.target(inner.corrector.params, inner, output, GIVEN, False))
    np.testing.assert_array_equal(target[2:], [[0, 0, 1]] * 2)
