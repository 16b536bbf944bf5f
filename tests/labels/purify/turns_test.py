"""Two purifiers that take turns, against NumPy in float64."""

import numpy as np
from purifying import CLASSES, clusters, differences, nearest_on_simplex, numpy_loss, unit

from kdmlc_jax.labels.purify import purify


def test_steps_on_two_views_against_numpy():
    """Protects Adam, its fresh start, the projection and the swap: each label meets one view, then the other."""
    features, given, trusted, label, _ = clusters()
    views = [(unit(features), unit(trusted)), (unit(features**3), unit(trusted**3))]
    target, start = np.eye(CLASSES)[label], np.eye(CLASSES)[given]
    results = []
    for first in (0, 1):
        y = start
        for rows, known in (views[first], views[1 - first]):
            penalty = 1e-3 * len(rows)
            gradient = differences(lambda at, x=rows, v=known, p=penalty: numpy_loss(at, x, v, target, p), y, 1e-5)
            # Adam's first step: both moments are the gradient's own, corrected for their start at 0.
            y = nearest_on_simplex(y - 0.01 * (gradient / (np.abs(gradient) + 1e-8) + 3e-4 * y))
        results.append(y)
    got = purify(
        features,
        given,
        trusted,
        label,
        second_features=features**3,
        second_trusted_features=trusted**3,
        epochs=2,
        exchange_every=1,
        keep=1.0,
        evidence=False,
    )
    np.testing.assert_allclose(got, np.mean(results, axis=0), atol=1e-4)
    assert np.abs(got - start).max() > 5e-3
