"""Ridge regression in closed form against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from purifying import CLASSES
from sklearn.linear_model import Ridge

from kdmlc_jax.labels.purify.ridge import ridge_factor, ridge_weights


@pytest.mark.parametrize(("rows", "width"), [(20, 7), (7, 20)])
def test_ridge_against_sklearn(rows, width):
    """Protects W*(Y) in both forms, with more rows than columns and with fewer."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, width)), rng.normal(size=(rows, CLASSES))
    with jax.enable_x64(True):
        got = ridge_weights(ridge_factor(jnp.asarray(x), 0.3), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(got.T, Ridge(0.3, fit_intercept=False).fit(x, y).coef_, rtol=1e-8)
