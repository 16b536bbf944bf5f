"""What held-out rows foretell of the list of suspected labels: against labels whose truth is known."""

import numpy as np
import pytest

from kdmlc_jax.labels import decide, suspects
from kdmlc_jax.labels.posterior import posterior
from kdmlc_jax.labels.table import believed_columns

PAIR = 0.7 * np.eye(4) + 0.3 * np.roll(np.eye(4), 1, axis=1)


def drawn(seed, rows, sharp=2.0):
    """Calibrated beliefs without the given labels, true and given labels."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 4)) * sharp
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    label = (p.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, 3)
    given = (PAIR[label].cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, 3)
    return p, label, given


def noisy(score, count=20_000):
    """Scores of the list of a noisy set, and which of its labels are wrong, most suspicious first."""
    p, label, given = drawn(1, count)
    q = posterior(p, PAIR, given)
    columns = believed_columns(given, q, score)
    listed = suspects.in_doubt(columns["suggested_label"], given, decide.decisions(q, given, np.inf))
    order = np.argsort(columns["label_score"][listed], kind="stable")
    return columns["label_score"][listed][order], (given != label)[listed][order]


@pytest.mark.parametrize("score", ["margin", "p_given"])
def test_held_out_rows_foretell_how_many_of_the_first_are_wrong(score):
    """Protects the promise of a list's head: many rows give what the truth is, at each depth."""
    scores, wrong = noisy(score)
    p, label, _ = drawn(2, 6000)
    found = decide.answers(p, label, PAIR, PAIR)
    counts = (1000, 3000, len(scores))
    got = suspects.depths(found, found, scores.astype(np.float32), score, (*counts, len(scores) + 1))
    assert [each.first for each in got] == list(counts)
    for each in got:
        assert each.wrong.estimate == pytest.approx(wrong[: each.first].mean(), abs=0.03)
        assert each.wrong.low < each.wrong.estimate < each.wrong.high
        assert each.worth == pytest.approx(6000 * each.first / 20_000, rel=0.1)
    assert wrong[:1000].mean() > wrong.mean() + 0.03  # the head is better than the whole, or order would not matter


def test_the_interval_holds_the_truth():
    """Protects "how sure": of a hundred sets of 80 held-out rows nine in ten or more foretell the truth within their
    interval, and few rows foretell nothing."""
    scores, wrong = noisy("margin")
    held, count = 0, 3000
    for seed in range(100):
        p, label, _ = drawn(100 + seed, 80)
        found = decide.answers(p, label, PAIR, PAIR)
        (each,) = suspects.depths(found, found, scores, "margin", (count,))
        held += each.wrong.low <= wrong[:count].mean() <= each.wrong.high
    assert held >= 88
    p, label, _ = drawn(0, 10)
    few = decide.answers(p, label, PAIR, PAIR)
    (each,) = suspects.depths(few, few, scores, "margin", (100,))
    assert np.isnan(each.wrong.estimate) and each.worth < suspects.FEW


def test_less_noise_lowers_the_lower_end_alone():
    """Protects who reads the interval: it holds for as little noise as may be, too."""
    scores, _ = noisy("margin")
    p, label, _ = drawn(3, 500)
    found = decide.answers(p, label, PAIR, PAIR)
    careful = found._replace(weight=0.5 * found.weight + 0.5 * np.eye(4)[label])
    (one,), (other,) = (suspects.depths(found, each, scores, "margin", (3000,)) for each in (found, careful))
    assert other.wrong.low < one.wrong.low - 0.05
    assert (one.wrong.estimate, one.wrong.high) == (other.wrong.estimate, other.wrong.high)


def test_labels_that_are_never_changed_stand_in_no_list():
    """Protects classes with too few trusted rows: theirs are out of the list, as in `candidates.guarded`."""
    p, label, _ = drawn(4, 50)
    found = decide.answers(p, label, PAIR, PAIR)
    assert suspects.listed(found).any()
    assert not suspects.listed(found._replace(sure=np.full_like(found.sure, -1.0))).any()


def test_confidence_is_that_of_each_answer():
    """Protects the reliability diagram: a held-out row under each label it might have, weighed by its chance; nothing
    where no row is held out."""
    p, label, _ = drawn(5, 30)
    found = decide.answers(p, label, PAIR, PAIR)
    told = suspects.told(found, found, np.array([0.1]), "margin", (1,))
    assert told.weight.sum() == pytest.approx(30) and len(told.right) == 60
    q = np.stack([posterior(p, PAIR, np.full(30, c)) for c in range(4)], axis=1)
    np.testing.assert_allclose(told.confidence, q.max(axis=2)[found.weight > 0])
    np.testing.assert_array_equal(told.right, (q.argmax(axis=2) == label[:, None])[found.weight > 0])
    assert suspects.told(None, None, np.array([0.1]), "margin", (1,)) == suspects.Held()
