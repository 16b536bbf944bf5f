"""The closing lines of a run."""

import pathlib

from kdmlc_jax import closing


def test_report_shows_what_is_missing_as_a_dash():
    """Protects the closing lines of a run without a teacher, a transition matrix or flagged labels."""
    summary = {
        "label": "ce",
        "networks": {"student": {"name": "cnn2", "parameters": 1234, "last": 0.5}},
        "noise": {"realised": 0.25, "estimated": None},
        "labels": {"accuracy_before": 0.75, "accuracy_after": 0.8, "precision": None, "recall": 0.0, "flagged": 7},
    }
    text = closing.report([summary], pathlib.Path("runs/x"))
    assert "cnn2: 1,234 weights" in text and "75.0% before, 80.0% after" in text
    assert "precision –, recall 0.000" in text and "0.250 realised, – estimated" in text and "runs/x" in text
