"""The closing lines of a run."""

import pathlib

from kdmlc_jax import closing

SUMMARY = {
    "label": "ce",
    "deploy": "best_val",
    "deployed": "student",
    "networks": {
        "teacher": {"name": "cnn4", "parameters": 5678, "last": 0.6, "epoch": 3},
        "student": {"name": "cnn2", "parameters": 1234, "last": 0.5, "epoch": 3},
    },
    "noise": {"realised": 0.25, "estimated": 0.3},
    "labels": {
        **{"accuracy_before": 0.75, "accuracy_after": 0.8, "accuracy_method": 0.6, "precision": None, "recall": 0.0},
        "flagged": 7,
    },
    "verdict": {"text": "Do not apply corrections unseen: " + "it cannot be shown that any label is wrong; " * 4},
}


def test_report_shows_what_is_missing_as_a_dash():
    """Protects the closing lines of a run without a transition matrix or flagged labels."""
    text = closing.report([{**SUMMARY, "noise": {"realised": 0.25, "estimated": None}}], pathlib.Path("runs/x"))
    assert "cnn2: 1,234 weights" in text and "75.0% before, 80.0% after" in text and "0.600 by what the method" in text
    assert "precision –, recall 0.000" in text and "0.250 realised, – estimated" in text and "runs/x" in text


def test_report_ends_with_the_verdict_and_the_network_to_deploy():
    """Protects the verdict, in lines that fit a terminal, and the network that the traits name, with its epoch."""
    text = closing.report([SUMMARY], pathlib.Path("runs/x"))
    assert "Verdict: Do not apply corrections unseen" in text
    verdict = text[text.index("Verdict") : text.index("Files in")]
    assert max(map(len, verdict.splitlines())) <= 120
    assert " ".join(verdict.split()).count("it cannot be shown") == 4
    assert "student/ (the network to deploy of epoch 3)" in text
    old = {name: value for name, value in SUMMARY.items() if name not in ("deploy", "deployed", "verdict")}
    assert "teacher/ (the network to deploy)," in closing.report([old], pathlib.Path("runs/x"))
