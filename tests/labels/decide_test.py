"""Promises to a person: against enumeration, draws and the exact binomial test."""

import numpy as np
import pytest
from scipy import stats

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import decide
from kdmlc_jax.labels.posterior import posterior, towards_clean

PAIR = 0.7 * np.eye(4) + 0.3 * np.roll(np.eye(4), 1, axis=1)


def drawn(seed, rows, sharp=2.0, matrix=PAIR):
    """Calibrated beliefs, true and given labels."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, len(matrix))) * sharp
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    label = (p.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, 3)
    given = (matrix[label].cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, 3)
    return p, label, given


def test_changes_are_what_draws_of_given_labels_give():
    """Protects the enumeration: chances of change, right and harm against 4000 draws of each label."""
    p, label, _ = drawn(0, 5)
    found = decide.answers(p, label, PAIR, PAIR)
    rng = np.random.default_rng(1)
    given = (PAIR[label].cumsum(axis=1)[None] < rng.random((4000, 5, 1))).sum(axis=2)
    q = posterior(np.tile(p, (4000, 1)), PAIR, given.ravel()).reshape(4000, 5, 4)
    moved = (q.argmax(axis=2) != given) & (q.max(axis=2) >= 0.6)
    right = moved & (q.argmax(axis=2) == label)
    harmed = moved & (given == label)
    for got, want in zip(decide.changes(found, 0.6), (moved, right, harmed), strict=True):
        np.testing.assert_allclose(got, want.mean(axis=0), atol=0.03)
    gain = (right * 1.0 - harmed).mean()
    assert decide.gains(found, 0.6).mean() == pytest.approx(gain, abs=0.01)


def test_known_given_labels_are_not_drawn():
    """Protects own_given: all weight on the row's own, drawn ones elsewhere."""
    p, label, given = drawn(0, 6)
    own = np.where(np.arange(6) < 3, given, -1)
    found = decide.answers(p, label, PAIR, towards_clean(PAIR, 0.5), own)
    np.testing.assert_array_equal(found.weight[:3], np.eye(4)[given[:3]])
    np.testing.assert_allclose(found.weight[3:], 0.5 * PAIR[label[3:]] + 0.5 * np.eye(4)[label[3:]])


def test_p_value_is_valid_and_near_the_binomial():
    """Protects the finite-sample rule: at the edge of H0 at most 10 % of p-values are below .1; and it has power."""
    rng = np.random.default_rng(0)
    right = rng.random((3000, 40)) < 0.9
    p = np.array([decide.evidence_against(row - 0.9, low=-0.9) for row in right])
    for level in (0.02, 0.1, 0.3):
        assert np.mean(p <= level) <= level
    exact = stats.binomtest(100, 100, 0.9, alternative="greater").pvalue
    assert exact < decide.evidence_against(np.full(100, 0.1), low=-0.9) < 30 * exact
    assert decide.evidence_against(np.full(50, -0.1), low=-0.9) == 1
    # Blind to the order of the rows.
    z = rng.random(30) - 0.4
    assert decide.evidence_against(z, -0.4) == pytest.approx(decide.evidence_against(z[::-1], -0.4))


def test_promises_are_kept():
    """Protects the promise: realised precision of noisy rows below .9 in at most the stated share of 60 tries."""
    broken = made = 0
    for seed in range(60):
        p, label, _ = drawn(seed, 300, sharp=4.0)
        test_p, test_label, test_given = drawn(1000 + seed, 6000, sharp=4.0)
        q = posterior(test_p, PAIR, test_given)
        moved = q.argmax(axis=1) != test_given
        found = decide.answers(p, label, PAIR, PAIR)
        kept = decide.promise(found, q.max(axis=1)[moved])
        rows = moved & (q.max(axis=1) >= kept.threshold)
        made += rows.any()
        broken += rows.any() and np.mean(q.argmax(axis=1)[rows] == test_label[rows]) < 0.9
        assert not rows.any() or kept.low <= kept.precision <= kept.high
    assert made >= 30
    assert broken <= 6 + 5  # 10 %, and two standard deviations


def test_nothing_is_promised_where_no_label_is_wrong():
    """Protects clean labels: drawn from the identity, no change is right, whatever the posterior says."""
    p, label, _ = drawn(0, 300)
    found = decide.answers(p, label, PAIR, np.eye(4))
    kept = decide.promise(found, np.full(50, 0.99))
    assert kept.threshold == np.inf and kept.precision == 0
    assert decide.gains(found, 0.0).mean() < 0


def test_few_rows_promise_nothing():
    """Protects against a handful of trusted rows: ten, all answered rightly, cannot show 90 %."""
    p, label = np.eye(4)[np.arange(10) % 4] * 0.96 + 0.01, np.arange(10) % 4
    assert decide.promise(decide.answers(p, label, PAIR, PAIR), np.full(9, 0.95)).threshold == np.inf
    many = decide.answers(np.tile(p, (40, 1)), np.tile(label, 40), PAIR, PAIR)
    assert decide.promise(many, np.full(9, 0.95)).threshold == 0.95
    assert np.isnan(decide.promise(many, np.zeros(0)).precision)
    with pytest.raises(UserError, match=r"labels\.precision"):
        decide.promise(many, np.full(9, 0.9), precision=1.5)


def test_the_score_that_ranks_better_is_chosen():
    """Protects the choice: by the area under the curve on held-out rows, weighted by how likely each label is given."""
    transition = np.array([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    beliefs = np.array([[0.5, 0.25, 0.25], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6], [0.4, 0.4, 0.2]])
    found = decide.answers(beliefs, np.array([0, 1, 2, 0]), transition, transition)
    np.testing.assert_allclose(found.p_given + found.other <= 1 + 1e-12, True)
    wrong = (np.arange(3) != found.label[:, None])[found.weight > 0]
    weight = found.weight[found.weight > 0]
    area = {}
    for name, score in (("p_given", found.p_given), ("margin", found.p_given - found.other)):
        score = score[found.weight > 0]
        pairs = weight[wrong][:, None] * weight[~wrong][None]
        better = (score[wrong][:, None] < score[~wrong][None]) + 0.5 * (score[wrong][:, None] == score[~wrong][None])
        area[name] = (pairs * better).sum() / pairs.sum()
    assert decide.ranking(found) == ("margin" if area["margin"] > area["p_given"] else "p_given")
    worse = found._replace(p_given=np.where(np.arange(3) != found.label[:, None], 0.4, 0.3))
    assert decide.ranking(worse._replace(other=np.where(np.arange(3) != found.label[:, None], 0.5, 0.0))) == "margin"
    assert decide.ranking(found._replace(weight=np.eye(3)[found.label])) == "p_given"  # no label is ever wrong


def test_a_threshold_for_each_class_gains_most():
    """Protects thresholds by class: each is the best one for the changes to its class, by trying all; none (infinity)
    where changes to it make more wrong. Where beliefs mistake one class, only that class pays."""
    p, label, _ = drawn(3, 400)
    fooled = p[:, [0, 1, 3, 2]]  # what is 2 is believed to be 3
    found = decide.answers(fooled, label, PAIR, PAIR)
    tried = (0.0, 0.5, 0.9)
    got = decide.class_thresholds(found, tried)
    for c in range(4):
        gain = [decide.gains(found, np.where(np.arange(4) == c, at, np.inf)).sum() for at in (*tried, np.inf)]
        mine = decide.gains(found, np.where(np.arange(4) == c, got[c], np.inf)).sum()
        assert mine == pytest.approx(max(gain), abs=1e-9)
    assert (got[:2] < 1).all() and np.isinf(got[2:]).any()
    assert decide.gains(found, got).sum() >= max(decide.gains(found, at).sum() for at in tried) - 1e-9


def test_review_is_as_right_as_held_out_rows_are():
    """Protects the precision that is foretold of labels in review: that of fresh rows where beliefs are true, and far
    below the posterior's own where beliefs are too sure of themselves."""
    p, label, _ = drawn(5, 600)
    fresh, truth, given = drawn(6, 6000)
    for beliefs, asked in ((p, fresh), (np.roll(p, 1, axis=1), np.roll(fresh, 1, axis=1))):
        q = posterior(asked, PAIR, given)
        review = decide.decisions(q, given, np.inf) == decide.REVIEW
        right = np.mean(q.argmax(axis=1)[review] == truth[review])
        found = decide.answers(beliefs, label, PAIR, PAIR)
        assert decide.review_precision(found, q[review], np.inf, 10) == pytest.approx(right, abs=0.06)
    # Without held-out rows to tell, the posterior's own.
    none = decide.answers(p[:0], label[:0], PAIR, PAIR)
    assert decide.review_precision(none, q[review], np.inf, 10) == pytest.approx(q[review].max(axis=1).mean())
    assert np.isnan(decide.review_precision(none, q[review], np.inf, 0))
