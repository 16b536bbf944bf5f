"""Chains that hold rows out of everything, and the referee that judges label sets by them."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from kdmlc_jax.labels import cross_fit, linear, referee
from kdmlc_jax.labels.stacking import View


def noisy_set(seed, rows=1500, trusted=80, classes=4, rate=0.5, apart=1.2, width=8):
    """Overlapping Gaussians; labels shifted by one class at `rate`: features, given, true, trusted features, labels."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(classes, width)) * apart
    true = rng.permutation(np.arange(rows + trusted) % classes)
    x = centre[true] + rng.normal(size=(rows + trusted, width))
    given = np.where(rng.random(rows + trusted) < rate, (true + 1) % classes, true)
    return x[trusted:], given[trusted:], true[trusted:], x[:trusted], true[:trusted]


def test_a_fold_has_no_part_in_what_judges_it():
    """Protects from the trap: the chain that judges a fold is, bit for bit, the same whatever that fold's labels."""
    noisy, given, _, trusted, label = noisy_set(0, rows=200)
    fold = linear.stratified(label, 4, seed=0)
    other = np.where(fold == 1, (label + 2) % 4, label)
    one, two = (
        cross_fit.cross_fit([View(noisy, trusted)], labels, given, 4, fold=fold)[1].folds for labels in (label, other)
    )
    for number, (a, b) in enumerate(zip(one, two, strict=True)):
        np.testing.assert_array_equal(a.held, np.flatnonzero(fold == number))
        assert np.array_equal(a.posterior, b.posterior) == (number == 1)
        assert np.array_equal(a.trusted, b.trusted) == (number == 1)
        assert np.array_equal(a.noise.transition, b.noise.transition) == (number == 1)


def test_chains_know_the_pairs_of_the_other_folds_only():
    """Protects T̂ from the held-out rows' own given labels, and that known ones count."""
    noisy, given, _, trusted, label = noisy_set(0, rows=200)
    fold = linear.stratified(label, 4, seed=0)
    own = np.where(np.arange(80) % 2, (label + 1) % 4, -1)
    other = np.where(fold == 2, 0, own)
    one, two = (cross_fit.cross_fit([View(noisy, trusted)], label, given, 4, o, fold)[1].folds for o in (own, other))
    np.testing.assert_array_equal(one[2].noise.transition, two[2].noise.transition)
    assert not np.array_equal(one[0].noise.transition, two[0].noise.transition)
    want = np.roll(np.diag(np.bincount(label[1::2], minlength=4)), 1, axis=1)
    np.testing.assert_array_equal(cross_fit.count_pairs(label, own, 4), want)


def test_lone_rows_and_tiny_sets():
    """Protects a class with one trusted row (in every chain, judged by none), and sets too small for folds."""
    noisy, given, _, trusted, label = noisy_set(1, rows=100)
    rows = np.concatenate([np.flatnonzero(label != 3)[:12], np.flatnonzero(label == 3)[:1]])
    _, (_, chains), _ = cross_fit.cross_fit([View(noisy, trusted[rows])], label[rows], given, 4)
    assert 12 not in np.concatenate([c.held for c in chains])
    one = np.array([np.flatnonzero(label == c)[0] for c in range(4)])
    _, (full, chains), _ = cross_fit.cross_fit([View(noisy, trusted[one])], label[one], given, 4)
    assert chains == [] and np.isfinite(full.posterior).all()


def test_heads_are_ridge_regression():
    """Protects the closed form: scikit-learn's Ridge with an intercept that is not shrunk."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 2))
    one = np.concatenate([x, np.ones((60, 1))], axis=1)
    gram = one.T @ one
    got = referee.heads(gram, one.T @ y, 0.3)
    model = Ridge(alpha=0.3 * np.trace(gram) / 6).fit(x, y)
    np.testing.assert_allclose(got[:5].T, model.coef_, atol=1e-5)
    np.testing.assert_allclose(got[5], model.intercept_, atol=1e-5)


def test_head_coordinates_keep_distances():
    """Protects the projection: of many features on few rows nothing is lost, and never more than WIDEST are kept."""
    rng = np.random.default_rng(0)
    noisy, trusted = rng.normal(2, 3, size=(40, 700)), rng.normal(2, 3, size=(20, 700))
    a, b = referee.head_coordinates(noisy, trusted)
    both = np.concatenate([noisy, trusted])
    z = (both - both.mean(axis=0)) / both.std(axis=0)
    np.testing.assert_allclose(np.concatenate([a, b])[:, :-1] @ a[:, :-1].T, z @ z[:40].T, atol=0.05)
    assert (a[:, -1] == 1).all() and a.dtype == np.float32


def test_the_better_labels_win():
    """Protects the sign: true labels gain, worse ones lose, by more than a standard error, and given ones are 0."""
    noisy, given, true, trusted, label = noisy_set(0)
    worse = np.where(np.random.default_rng(0).random(len(given)) < 0.6, (true + 1) % 4, true)
    x, t = referee.head_coordinates(noisy, trusted)
    fold = linear.stratified(label, 5, seed=0)
    labels = np.stack([given, true, worse])
    judged = referee.judge(x, t, label, [(np.flatnonzero(fold == k), labels) for k in range(5)], 4)
    gain, error = judged.gain()
    assert gain[0] == 0 and error[0] == 0
    assert gain[1] > 2 * error[1] > 0 and gain[2] < -error[2]
    assert len(judged.rows) == 80


def test_a_head_has_not_seen_the_rows_it_answers_to():
    """Protects the held-out fold in the heads: its labels, turned round, change its losses and no weights."""
    noisy, given, _, trusted, label = noisy_set(2, rows=300)
    x, t = referee.head_coordinates(noisy, trusted)
    fold = linear.stratified(label, 5, seed=0)
    sets = [(np.flatnonzero(fold == k), given[None]) for k in range(5)]
    swapped = label.copy()
    i, j = np.flatnonzero(fold == 0)[:2]
    swapped[[i, j]] = (label[[i, j]] + 1) % 4
    rows = np.setdiff1d(np.flatnonzero(fold == 0), [i, j])
    one, two = (referee.judge(x, t, labels, sets, 4).loss[0] for labels in (label, swapped))
    np.testing.assert_array_equal(one[rows], two[rows])
    assert one[i] != two[i]
    assert not np.array_equal(one[fold == 1], two[fold == 1])


@pytest.mark.parametrize("seed", range(3))
def test_labels_by_lot_never_gain(seed):
    """Protects given labels that are all right from candidates that say nothing."""
    noisy, _, true, trusted, label = noisy_set(seed, rows=400)
    lot = np.random.default_rng(seed).integers(0, 4, len(true))
    x, t = referee.head_coordinates(noisy, trusted)
    fold = linear.stratified(label, 5, seed=0)
    judged = referee.judge(x, t, label, [(np.flatnonzero(fold == k), np.stack([true, lot])) for k in range(5)], 4)
    assert judged.gain()[0][1] < 0


def test_one_held_out_row_decides_nothing():
    """Protects from a single judge, in the only fold there is: its loss is known, its word means nothing."""
    noisy, given, true, trusted, label = noisy_set(0, rows=200)
    judged = referee.judge(
        *referee.head_coordinates(noisy, trusted), label, [(np.array([3]), np.stack([given, true]))], 4
    )
    assert list(judged.rows) == [3]
    assert np.isinf(judged.gain()[1]).all()
