"""The given labels as evidence."""

import jax.numpy as jnp
import numpy as np
from purifying import CLASSES
from scipy import special

from kdmlc_jax.labels.calibration import temperature
from kdmlc_jax.labels.purify.evidence import with_evidence
from kdmlc_jax.labels.transition import fitted_transition


def test_given_labels_are_evidence():
    """Protects the result: ∝ p T̂[:, ỹ] with p ∝ (p₁ p₂)ᵗ, in float64."""
    rng = np.random.default_rng(0)
    beliefs, given = rng.dirichlet(np.ones(CLASSES), (2, 20)), rng.integers(0, CLASSES, 20)
    logits, known = rng.normal(size=(2, 9, CLASSES)), rng.integers(0, CLASSES, 9)
    t = float(temperature(np.sum(special.log_softmax(logits, axis=2), axis=0).astype(np.float32), known))
    p = (beliefs[0] * beliefs[1]) ** t
    p /= p.sum(axis=1, keepdims=True)
    want = p * np.asarray(fitted_transition(p.astype(np.float32), given))[:, given].T
    log_beliefs = [jnp.log(jnp.float32(belief)) for belief in beliefs]
    got = with_evidence(log_beliefs, [jnp.float32(rows) for rows in logits], given, known)
    np.testing.assert_allclose(got, want / want.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-5)
