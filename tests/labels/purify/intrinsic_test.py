"""The intrinsic corrector against NumPy in float64 and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from purifying import CLASSES, differences, numpy_loss

from kdmlc_jax.labels.purify import intrinsic, release
from kdmlc_jax.labels.purify.ridge import ridge_factor


@pytest.mark.parametrize(("width", "released"), [(5, False), (15, False), (5, True)])
def test_gradient_against_solving_anew(width, released):
    """Protects L_val and its gradient through the closed form: NumPy's own solution of each moved label; padding."""
    rng = np.random.default_rng(1)
    rows, trusted = rng.normal(size=(9, width)), rng.normal(size=(6, width))
    target, label = np.eye(CLASSES)[np.arange(6) % CLASSES], rng.dirichlet(np.ones(CLASSES), 9)
    padded, weight = np.append(rows, np.zeros((2, width)), axis=0), np.append(np.ones(9), np.zeros(2))
    with jax.enable_x64(True):
        data = [jnp.asarray(array) for array in (padded, weight, trusted, target)]
        factor = ridge_factor(data[0], 0.2)
        start = jnp.asarray(np.append(label, np.full((2, CLASSES), 0.7), axis=0))
        loss = release.loss if released else intrinsic.validation_loss
        value, gradient = jax.jit(jax.value_and_grad(loss))(start, intrinsic.Regression(factor, *data))
    assert value == pytest.approx(numpy_loss(label, rows, trusted, target, 0.2, released), rel=1e-10)
    want = differences(lambda y: numpy_loss(y, rows, trusted, target, 0.2, released), label, 1e-5)
    np.testing.assert_allclose(gradient[:9], want, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(gradient[9:], 0, atol=1e-12)
