"""How well a table finds the wrong labels, against scikit-learn."""

import json

import numpy as np
import pytest
from sklearn import metrics

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.detection import detection


def test_detection_against_sklearn():
    """Protects the scores: wrong labels are positive, low label_score is suspicious."""
    rng = np.random.default_rng(0)
    noisy = rng.random(200) < 0.4
    score = np.clip(0.6 - 0.3 * noisy + 0.2 * rng.normal(size=200), 0, 1)
    issue = score < 0.5
    got = detection(noisy, score, issue)
    assert got["flagged"] == issue.sum()
    assert got["precision"] == pytest.approx(metrics.precision_score(noisy, issue))
    assert got["recall"] == pytest.approx(metrics.recall_score(noisy, issue))
    assert got["f1"] == pytest.approx(metrics.f1_score(noisy, issue))
    pairs = score[noisy][:, None] - score[~noisy][None, :]
    assert got["auroc"] == pytest.approx(np.mean((pairs < 0) + 0.5 * (pairs == 0)))
    assert got["average_precision"] == pytest.approx(metrics.average_precision_score(noisy, -score))
    assert 0.75 < got["auroc"] < 1
    json.dumps(got)


def test_detection_where_undefined():
    """Protects summaries from made-up zeros, NaN and warnings: what is undefined is None."""
    nothing, everything = np.zeros(4, bool), np.ones(4, bool)
    score = np.array([0.1, 0.2, 0.8, 0.9])
    clean = detection(nothing, score, score < 0.5)
    assert clean == {"flagged": 2, "precision": 0.0} | dict.fromkeys(("recall", "f1", "auroc", "average_precision"))
    silent = detection(score < 0.5, score, nothing)
    assert (silent["precision"], silent["recall"], silent["f1"], silent["auroc"]) == (None, 0.0, 0.0, 1.0)
    wrong = detection(everything, score, everything)
    assert (wrong["precision"], wrong["recall"], wrong["auroc"], wrong["average_precision"]) == (1.0, 1.0, None, 1.0)
    empty = detection(nothing[:0], score[:0], nothing[:0])
    assert empty["flagged"] == 0 and empty["auroc"] is None


def test_detection_refuses_bad_input():
    """Protects against scores of another set and NaN in a score."""
    flags = np.zeros(3, bool)
    with pytest.raises(UserError, match=r"shapes \(3,\), \(2,\), \(3,\), expected one shape \[N\]"):
        detection(flags, np.zeros(2), flags)
    with pytest.raises(UserError, match=r"label_score row 1: nan, expected a finite number"):
        detection(flags, np.array([0, np.nan, 0]), flags)
