"""The release's form against NumPy in float64."""

import numpy as np
import pytest
from purifying import CLASSES, assert_on_simplex, clusters, differences, numpy_loss
from scipy import special

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.purify.release import purify_release


def test_release_against_numpy():
    """Protects what the release is said to compute: raw features, λ = 0, summed squares, decay inside Adam, softmax."""
    features, given, trusted, label, _ = clusters()
    x, known, target = features.astype(np.float64), trusted.astype(np.float64), np.eye(CLASSES)[label]
    y = np.eye(CLASSES)[given]
    first = second = np.zeros_like(y)
    for step in (1, 2, 3):
        gradient = differences(lambda at: numpy_loss(at, x, known, target, 0.0, release=True), y, 1e-5) + 0.05 * y
        first, second = 0.5 * first + 0.5 * gradient, 0.999 * second + 0.001 * gradient**2
        y = y - 0.01 * (first / (1 - 0.5**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    got = purify_release(features, given, trusted, label, epochs=3, label_decay=0.05)
    assert_on_simplex(got)
    np.testing.assert_allclose(got, special.softmax(y, axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "features: 6 columns in batches of 4 rows make XᵀX singular, expected a larger ridge"),
        ({"features": 5}, r"features: XᵀX of batch 0 is singular at ridge=0 \(columns that depend on one another"),
    ],
)
def test_release_refuses(change, message):
    """Protects the release's λ = 0 from labels that are noise: what cannot be inverted is said to be so."""
    features, given, trusted, label, _ = clusters()
    if "features" in change:
        change = {"features": np.append(features[:, :5], features[:, :1] * 3, axis=1)}
    arguments = {"features": features, "given_label": given, "trusted_features": trusted, "trusted_label": label}
    with pytest.raises(UserError, match=message):
        purify_release(**arguments | change)
