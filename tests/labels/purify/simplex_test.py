"""The projection on the simplex against its definition."""

import jax
import numpy as np
from purifying import nearest_on_simplex

from kdmlc_jax.labels.purify.simplex import project_simplex


def test_simplex_projection_against_sorting():
    """Protects the nearest point: the sorted definition, and no vertex lies on the far side (a convex set's test)."""
    rng = np.random.default_rng(2)
    for classes in (2, 10, 200):
        y = np.concatenate([rng.normal(size=(50, classes)) * scale for scale in (0.01, 0.3, 1, 30)])
        with jax.enable_x64(True):
            got = np.asarray(jax.jit(project_simplex)(y))
        np.testing.assert_allclose(got, nearest_on_simplex(y), atol=1e-12)
        away = y - got
        assert (away - (away * got).sum(axis=1, keepdims=True)).max() < 1e-9  # (y - p)·(e_c - p) <= 0


def test_simplex_projection_in_float32():
    """Protects rows already on it, ties, and numbers so large that 1 is lost in them."""
    rows = np.float32([[1, 0, 0], [0.2, 0.3, 0.5], [7, 7, 7], [1e30, 0, -1e30], [3e7, 3e7 - 2, 0], [-5, -5.5, -9]])
    want = [[1, 0, 0], [0.2, 0.3, 0.5], [1 / 3] * 3, [1, 0, 0], [1, 0, 0], [0.75, 0.25, 0]]
    got = jax.jit(project_simplex)(rows)
    np.testing.assert_allclose(got, want, atol=1e-7)
    np.testing.assert_allclose(project_simplex(got), got, atol=1e-7)
