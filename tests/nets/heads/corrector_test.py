"""The forms of the label corrector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util

from kdmlc_jax.nets.heads.corrector import Corrector

KEY = jax.random.key(0)
FEATURES = jax.random.normal(jax.random.key(2), (6, 5))
GIVEN = jnp.array([0, 1, 2, 3, 0, 1])
PRIOR = 2 * jax.random.normal(jax.random.key(3), (6, 4))
FORMS = {"plain": {}, "residual": {"residual": True}, "skip": {"skip": True}, "both": {"residual": True, "skip": True}}


def make(form, prior=None):
    module = Corrector(4, **FORMS[form])
    return module, jax.jit(module.init)(KEY, FEATURES, GIVEN, prior)["params"]


def test_corrector_size():
    """Protects MLC's corrector: 43 786 parameters for 64 features and 10 classes."""
    inputs = (jnp.zeros((2, 64)), jnp.zeros(2, jnp.int32))
    variables = jax.eval_shape(lambda: Corrector(10).init(KEY, *inputs))
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert size == 10 * 128 + (64 + 128 + 1) * 128 + 129 * 128 + 129 * 10 == 43786


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prior", [None, PRIOR])
def test_corrector_rows_sum_to_one(form, prior):
    """Protects the simplex in every form, for large parameters too."""
    module, params = make(form, prior)
    for factor in (1.0, 30.0):
        flat, unravel = flatten_util.ravel_pytree(params)
        big = unravel(factor * flat + (factor > 1) * jax.random.normal(KEY, flat.shape))
        log_p = module.apply({"params": big}, FEATURES, GIVEN, prior)
        assert log_p.shape == (6, 4)
        np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1.0, rtol=1e-5)


def test_residual_corrector_starts_at_the_prior():
    """Protects the residual form: at the start it gives the prior's own belief, whatever the label."""
    module, params = make("residual", PRIOR)
    got = module.apply({"params": params}, FEATURES, GIVEN, PRIOR)
    np.testing.assert_allclose(got, jax.nn.log_softmax(PRIOR), rtol=1e-6)
    np.testing.assert_array_equal(jnp.exp(got).argmax(-1), PRIOR.argmax(-1))


def test_corrector_reads_features_and_label():
    """Protects both inputs: another label or another feature gives another correction."""
    module, params = make("plain")
    apply = lambda features, given: module.apply({"params": params}, features, given)  # noqa: E731
    first = apply(FEATURES, GIVEN)
    assert (np.abs(apply(FEATURES, (GIVEN + 1) % 4) - first).max(-1) > 1e-4).all()
    assert (np.abs(apply(FEATURES + 1, GIVEN) - first).max(-1) > 1e-4).all()


def open_gate(params, bias):
    """The same parameters with the gate (the dense layer of one output) at `bias`."""
    return {
        name: {**layer, "bias": jnp.full(1, bias)} if layer.get("bias", jnp.zeros(0)).shape == (1,) else layer
        for name, layer in params.items()
    }


def test_skip_gate():
    """Protects p = (1-a)·softmax + a·onehot(ỹ): the given label where the gate is open, the correction where shut."""
    module, params = make("skip")
    rows = lambda bias: jnp.exp(module.apply({"params": open_gate(params, bias)}, FEATURES, GIVEN))  # noqa: E731
    given = np.eye(4)[GIVEN]
    np.testing.assert_allclose(rows(100.0), given, atol=1e-6)
    shut = rows(-100.0)
    assert np.abs(shut - given).max() > 0.1
    plain = {name: layer for name, layer in params.items() if layer.get("bias", jnp.zeros(0)).shape != (1,)}
    np.testing.assert_allclose(shut, jnp.exp(Corrector(4).apply({"params": plain}, FEATURES, GIVEN)), rtol=1e-5)
    between = rows(0.0)
    share = (between - shut) / np.where(np.abs(given - shut) > 1e-3, given - shut, np.nan)
    assert np.nanmin(share) > 0 and np.nanmax(share) < 1
    assert np.nanmax(np.nanmax(share, -1) - np.nanmin(share, -1)) < 1e-3


def test_skip_gate_gradient_is_finite():
    """Protects training with an open gate: log-space keeps the gradient finite where probabilities vanish."""
    module, params = make("skip")
    loss = lambda p: -jnp.mean(module.apply({"params": p}, FEATURES, GIVEN)[:, 0])  # noqa: E731
    for bias in (-100.0, 100.0):
        gradient = jax.grad(loss)(open_gate(params, bias))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
