"""The figures of a finished run, by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from kdmlc_jax import summary
from kdmlc_jax.methods.base import Report


@pytest.mark.parametrize(
    ("transition", "soft_label", "rate"),
    [
        ([[0.9, 0.1], [0.3, 0.7]], None, 1 - (0.25 * 0.9 + 0.75 * 0.7)),
        (None, None, 1 / 3),
        ([[0.9, 0.1], [0.3, 0.7]], np.ones((3, 2), np.float32), 1 / 3),
    ],
)
def test_estimated_rate(transition, soft_label, rate):
    """Protects the estimated rate: by T̂ and the corrected labels' prior; else the share of noisy labels flagged."""
    beliefs = np.array([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]], np.float32)
    table = pa.table({"is_label_issue": [True, False, False, True], "split": ["noisy", "noisy", "noisy", "trusted"]})
    experiment = SimpleNamespace(dataset=SimpleNamespace(soft_label=soft_label))
    report = Report(transition=None if transition is None else jnp.asarray(transition))
    assert summary.estimated_rate(experiment, report, beliefs, table) == pytest.approx(rate)
