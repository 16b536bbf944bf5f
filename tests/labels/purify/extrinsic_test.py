"""The head against a loop in NumPy."""

import jax.numpy as jnp
import numpy as np
from purifying import CLASSES, clusters, differences, standard, unit
from scipy import special

from kdmlc_jax.labels.purify.extrinsic import Penalties, train_head
from kdmlc_jax.labels.purify.rows import partition, unit_rows, view_of


def test_head_against_numpy():
    """Protects EAC's loss and the sign of each term, its momentum and its rates: beliefs of a float64 loop."""
    features, given, trusted, _, _ = clusters()
    rows, hard = standard(unit(features)), np.eye(CLASSES)[given]
    rng = np.random.default_rng(0)
    orders = np.stack([partition(rng.permutation(len(rows)), 8) for _ in range(2)])
    rates = (0.06, 0.02)

    def loss(weights, part):
        z = rows[part] @ weights
        p = special.softmax(z, axis=1)
        hits = -(hard[part] * special.log_softmax(z, axis=1)).sum(axis=1).mean()
        balance = special.rel_entr(np.full(CLASSES, 1 / CLASSES), p.mean(axis=0)).sum()
        return hits + 1.5 * balance + 0.4 * (p * np.log(p)).sum(axis=1).mean()

    weights = velocity = np.zeros((rows.shape[1], CLASSES))
    for order, rate in zip(orders, rates, strict=True):
        for part in order:
            real = part[part < len(rows)]
            velocity = 0.9 * velocity + differences(lambda w, real=real: loss(w, real), weights, 1e-5)
            weights = weights - rate * velocity
    view = view_of("features", features, trusted, unit_rows)
    soft = jnp.asarray(np.append(0.4 * hard + 0.2, [[1, 0, 0]], axis=0), jnp.float32)
    head = (jnp.zeros(weights.shape), jnp.zeros(weights.shape))
    (got, _), belief = train_head(head, view, soft, jnp.asarray(orders), jnp.float32(rates), Penalties(1.5, 0.4))
    np.testing.assert_allclose(got, weights, atol=2e-4)
    np.testing.assert_allclose(belief[:-1], special.log_softmax(rows @ weights, axis=1), atol=2e-3)
