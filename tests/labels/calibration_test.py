"""The temperature against a minimum by SciPy."""

import numpy as np
import pytest
from scipy import optimize, special

from kdmlc_jax.labels.calibration import temperature


@pytest.mark.parametrize("true", [0.2, 1.0, 3.0])
def test_temperature_is_found(true):
    """Protects calibration: logits t times too small are found out; a minimum by SciPy agrees."""
    rng = np.random.default_rng(0)
    z = 2.0 * rng.normal(size=(20_000, 5))
    label = (rng.random((len(z), 1)) > special.softmax(z, axis=1).cumsum(axis=1)).sum(axis=1).clip(max=4)
    got = float(temperature((z / true).astype(np.float32), label))
    assert got == pytest.approx(true, rel=0.06)
    rows = np.arange(len(z))
    missed = lambda t: -special.log_softmax(t * z / true, axis=1)[rows, label].mean()  # noqa: E731
    assert missed(got) < optimize.minimize_scalar(missed, bounds=(0.02, 5), method="bounded").fun + 1e-4
