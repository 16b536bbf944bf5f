"""Corrections, decisions and verdict together, where it is known what they should be."""

import dataclasses

import numpy as np
import pytest

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import candidates as chosen
from kdmlc_jax.labels import vouch as vouching
from kdmlc_jax.labels.pooling import Network
from kdmlc_jax.labels.posterior import Interval, balance
from kdmlc_jax.labels.verdict import Verdict


def problem(seed, rate, rows=1200, trusted=150, classes=4, apart=1.4, width=8):
    """Overlapping Gaussians with labels shifted by one class: features, given, true, trusted features and labels."""
    rng = np.random.default_rng(seed)
    centre = np.random.default_rng(7).normal(size=(classes, width)) * apart
    true = rng.permutation(np.arange(rows + trusted) % classes)
    x = centre[true] + rng.normal(size=(rows + trusted, width))
    given = np.where(rng.random(rows + trusted) < rate, (true + 1) % classes, true)
    return x[trusted:], given[trusted:], true[trusted:], x[:trusted], true[:trusted]


@pytest.fixture(scope="module")
def noisy():
    """40 % wrong, and what is vouched for."""
    x, given, true, t, label = problem(0, 0.4, apart=2.0, trusted=200)
    return given, true, vouching.vouch(x, given, t, label, 4)


def test_corrections_put_labels_right(noisy):
    """Protects the corrected labels, their confidence, the rate's interval and the promise."""
    given, true, found = noisy
    right = found.corrected == true
    assert right.mean() > np.mean(given == true) + 0.25
    assert found.confidence.mean() == pytest.approx(right.mean(), abs=0.04)
    assert found.given_right.mean() == pytest.approx(np.mean(given == true), abs=0.04)
    assert found.verdict.wrong.low <= np.mean(given != true) <= found.verdict.wrong.high
    applied = found.decision == "correct"
    assert applied.sum() > 100
    assert np.mean(found.suggested[applied] == true[applied]) >= 0.9
    assert set(found.decision) <= {"keep", "correct", "review"}
    assert (found.suggested[applied] != given[applied]).all()


def test_verdict_counts_what_is_there(noisy):
    """Protects the verdict's figures from the arrays they stand for."""
    given, _, found = noisy
    verdict = found.verdict
    assert verdict.rows == len(given) and verdict.apply
    assert verdict.corrections == (found.decision == "correct").sum()
    assert verdict.reviews == (found.decision == "review").sum()
    assert verdict.trained_on == (found.corrected != given).sum()
    assert f"Apply {verdict.corrections} corrections" in verdict.text()


@pytest.mark.parametrize("seed", range(2))
def test_right_labels_stand(seed):
    """Protects labels that are all right: hardly one is changed, none is promised, and the verdict says so."""
    x, given, true, t, label = problem(seed, 0.0, apart=0.8, trusted=60)
    found = vouching.vouch(x, given, t, label, 4)
    assert np.mean(found.corrected == true) >= 0.998
    assert not (found.decision == "correct").any()
    assert "Do not apply corrections unseen" in found.verdict.text()
    assert found.verdict.reasons and found.verdict.helps


def test_nothing_is_known_of_one_row_a_class():
    """Protects the smallest set: given labels stand, and it is said that nothing was assessed."""
    x, given, _, t, label = problem(0, 0.3)
    one = np.array([np.flatnonzero(label == c)[0] for c in range(4)])
    found = vouching.vouch(x, given, t[one], label[one], 4)
    np.testing.assert_array_equal(found.corrected, given)
    assert "not assessed" in found.verdict.text() and "too few to hold any out" in found.verdict.text()


@pytest.mark.parametrize("counts", [(1, 1, 9, 1), (1, 6, 1, 4), (2, 2, 14, 2), (3, 3, 14, 3)])
def test_trusted_rows_of_one_class_above_all_do_not_speak_for_the_others(counts):
    """Protects labels that are all right from a handful of trusted rows, most of one class, on features that tell
    little: taken as they are these vouch for calling nearly all labels that class."""
    x, _, true, t, label = problem(2, 0.0, apart=0.5, trusted=200)
    few = np.concatenate([np.flatnonzero(label == c)[:count] for c, count in enumerate(counts)])
    found = vouching.vouch(x, true, t[few], label[few], 4)
    assert np.mean(found.corrected == true) >= 0.998
    assert not found.verdict.apply
    assert found.verdict.wrong.low < 0.1
    alone = [str(c) for c, count in enumerate(counts) if count < 3]
    says = f"labels given as classes {', '.join(alone)} stand: fewer than 3 trusted rows"
    assert (says in found.verdict.text()) == bool(alone)


def test_balance_is_the_share_among_given_labels():
    """Protects the weights: three quarters of the way to the given labels' shares, mean 1, other rows do not matter."""
    label, given = np.array([0, 0, 0, 1, 2]), np.repeat([0, 1, 2], [10, 30, 60])
    rows = np.array([True, True, True, True, False])
    got = balance(label, given, rows)
    np.testing.assert_allclose(got[:4], [0.5, 0.5, 0.5, 2.5])
    assert got[rows].mean() == pytest.approx(1.0)


def test_a_class_without_a_trusted_row_is_refused():
    """Protects labels that are all right: of a class without a trusted row all rows would be taken for others."""
    x, _, true, t, label = problem(0, 0.0)
    known = label != 2
    with pytest.raises(UserError, match="trusted_label: no row of class 2, expected one or more of each of 4"):
        vouching.vouch(x, true, t[known], label[known], 4)


def test_labels_that_are_none_are_refused():
    """Protects from labels that NumPy would wrap: the row is named."""
    x, given, _, t, label = problem(0, 0.4)
    with pytest.raises(UserError, match="given_label row 3: -1 is out of range"):
        vouching.vouch(x, np.where(np.arange(len(given)) == 3, -1, given), t, label, 4)


def test_features_that_say_nothing_change_nothing():
    """Protects from beliefs without content: noise for features, at any rate of wrong labels."""
    rng = np.random.default_rng(0)
    _, given, _, _, label = problem(0, 0.4)
    found = vouching.vouch(rng.normal(size=(1200, 8)), given, rng.normal(size=(150, 8)), label, 4)
    np.testing.assert_array_equal(found.corrected, given)
    assert not found.verdict.apply


@pytest.mark.parametrize(
    ("judged", "want"),
    [
        ([(0.1, 0.02, True, 0.05, 0.0)], 1),
        ([(0.1, 0.02, True, 0.05, 0.0), (0.09, 0.02, True, 0.08, 0.0)], 2),  # teaches as well, more labels right
        ([(0.1, 0.02, True, 0.05, 0.0), (0.09, 0.02, False, 0.08, 0.0)], 1),  # surely teaches worse
        ([(0.01, 0.02, True, 0.05, 0.0)], 0),  # heads are in doubt, and so are counts
        ([(-0.1, 0.02, True, 0.05, 0.0)], 0),  # heads get worse
        ([(0.1, 0.02, True, -0.01, 0.0)], 0),  # labels get worse
        ([(0.045, 0.02, True, 0.05, 0.0)], 0),  # heads are not sure enough for themselves
        ([(0.045, 0.02, False, 0.05, 0.02)], 1),  # they are where counts are sure, too
        ([(0.03, 0.02, True, 0.05, 0.02)], 0),  # counts alone do not suffice
        ([], 0),
    ],
)
def test_given_labels_have_the_benefit_of_the_doubt(judged, want):
    """Protects the rule: doubt is in favour of the given labels, then most labels right."""
    rows = [chosen.GIVEN, *(chosen.Candidate(0.5, 1, *c) for c in judged)]
    assert chosen.choose(rows, shown=True) == want


def test_thresholds_of_each_class_count_where_no_other_stands():
    """Protects from what fits held-out rows more closely: taken only if no threshold for all classes stands; and a set
    that does not gain in the given labels' proportions never."""
    good, each = (0.1, 0.02, True, 0.05, 0.0), np.array([0.5, np.inf])
    by_class = chosen.Candidate(each, 1, 0.1, 0.02, True, 0.06, 0.0)
    assert chosen.choose([chosen.GIVEN, chosen.Candidate(0.5, 1, *good), by_class], shown=True) == 1
    assert chosen.choose([chosen.GIVEN, chosen.Candidate(0.5, 1, *good, even=False), by_class], shown=True) == 2
    assert chosen.choose([chosen.GIVEN, by_class._replace(even=False)], shown=True) == 0


def test_where_no_wrong_label_is_shown_counts_do_not_count():
    """Protects labels that may all be right from counts that rest on a rate which may be 0."""
    for taught, right_low, want in ((0.045, 0.02, 0), (0.06, 0.0, 1)):
        rows = [chosen.GIVEN, chosen.Candidate(0.5, 1, taught, 0.02, True, 0.05, right_low)]
        assert chosen.choose(rows, shown=False) == want
        assert chosen.choose(rows, shown=True) == 1


@pytest.mark.parametrize("seen", [False, True])
def test_labels_from_elsewhere_are_judged_by_rows_that_had_no_part_in_them(seen):
    """Protects the choice of another method's labels: taken where they teach surely better on rows they were made
    without, not where all trusted rows had a part in them, and not where they are worse."""
    x, given, true, t, label = problem(2, 0.48, apart=1.0, trusted=200)
    few = np.concatenate([np.flatnonzero(label == c)[:5] for c in range(4)])
    t, label = t[few], label[few]
    rng = np.random.default_rng(0)
    worse = rng.integers(0, 4, len(given))
    beliefs = np.log(np.full((len(x), 4), 0.25)), np.log(np.full((len(t), 4), 0.25))
    network = Network(*beliefs, np.zeros(len(x), bool), np.full(len(t), not seen))
    found = vouching.vouch(x, given, t, label, 4, network=network, proposals={"truth": true, "worse": worse})
    names = [c.name for c in found.chosen.candidates]
    if seen:
        assert "truth" not in names
        assert (found.corrected != true).any()
    else:
        better, random = found.chosen.candidates[-2:]
        assert names[-2:] == ["truth", "worse"] and better.taught > random.taught
        np.testing.assert_array_equal(found.chosen.labels, true)
        assert np.isnan(found.chosen.threshold)
        assert len(better.by_class) == 4
        # Balanced classes: what is gained is the mean of what each gains.
        assert np.mean([gain for gain, _ in better.by_class]) == pytest.approx(better.taught, abs=0.02)


def test_a_network_takes_no_judges_away(noisy):
    """Protects corrections that all trusted rows vouch for from a network that has learned from most of these."""
    given, true, without = noisy
    x, _, _, t, label = problem(0, 0.4, apart=2.0, trusted=200)
    rng = np.random.default_rng(0)

    def believes(truth):
        return np.log(0.03 + 0.88 * np.eye(4)[np.where(rng.random(len(truth)) < 0.95, truth, (truth + 2) % 4)])

    fresh, held = np.arange(len(x)) < 200, np.arange(len(t)) < 8
    found = vouching.vouch(x, given, t, label, 4, network=Network(believes(true), believes(label), fresh, held))
    assert not np.allclose(found.posterior, without.posterior)  # it has a part in beliefs
    assert np.mean(found.corrected == true) > np.mean(without.corrected == true) - 0.02


def test_a_share_is_not_said_twice():
    """Protects the verdict from "0.72 are right, or 0.72 if …"."""
    assert vouching._right(0.7249, 0.7151).endswith("would get, 0.72 are right")
    assert vouching._right(0.72, 0.41).endswith("0.72 are right, or 0.41 if as few labels are wrong as may be")


def test_verdict_reads_as_one_paragraph():
    """Protects the text with every part, and without any."""
    full = Verdict(2640, 312, Interval(0.94, 0.87, 0.98), 480, 0.61, 0.34, Interval(0.27, 0.22, 0.33), 400)
    assert full.text() == (
        "Estimated wrong: 27 % of the 2640 labels (90 % interval 22-33). Apply 312 corrections (decision = correct; "
        "held-out precision 0.94, 90 % interval 0.87-0.98). Review 480 more (decision = review, about 61 % of the "
        "suggestions are right, or 34 % if as few labels are wrong as may be). Keep the rest. To train again, use "
        "corrected_label (400 labels changed: on held-out trusted rows these teach better, though not each is right)."
    )
    unknown = Interval(float("nan"), float("nan"), float("nan"))
    nothing = dataclasses.replace(
        full,
        corrections=0,
        reviews=0,
        trained_on=0,
        reasons=("a", "b"),
        helps=("c",),
        wrong=unknown,
    )
    assert nothing.text() == (
        "How many labels are wrong was not assessed. Do not apply corrections unseen: a; b. Keep the rest. To train "
        "again, use the given labels: no change was shown to teach better. What would help: c."
    )


@pytest.mark.parametrize(
    ("reviews", "says"),
    [(10, "cannot be told from right ones"), (30, ""), (60, "More are pointed at than are wrong")],
)
def test_flagged_and_estimated_disagree_with_a_sentence(reviews, says):
    """Protects from two rates side by side that a reader cannot reconcile."""
    rate = Interval(0.3, 0.2, 0.4)
    text = Verdict(100, 0, Interval(0.8, 0.7, 0.9), reviews, 0.6, 0.6, rate, 0).text()
    assert says in text
    assert ("pointed at" in text) == bool(says)
