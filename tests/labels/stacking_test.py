"""What given labels teach, and beliefs stacked on it."""

import numpy as np

from kdmlc_jax.labels import stacking
from kdmlc_jax.labels.linear import coordinates, linear_beliefs
from kdmlc_jax.labels.stacking import View

CLASSES = 4


def problem(seed, rows=2000, trusted=24, width=40, rate=0.4):
    """Many features, few trusted rows: what the rows are shows in the given labels of many."""
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.arange(rows + trusted) % CLASSES)
    x = np.random.default_rng(7).normal(size=(CLASSES, width))[true] * 0.4 + rng.normal(size=(rows + trusted, width))
    given = np.where(rng.random(rows + trusted) < rate, (true + 1) % CLASSES, true)
    return x[trusted:], given[trusted:], true[trusted:], x[:trusted], true[:trusted]


def test_a_row_has_no_part_in_what_it_is_told():
    """Protects the out-of-part belief: a row's own given label does not move its scores by more than the ridge and
    temperature that all share; trusted labels have no part at all."""
    x, given, _, t, _ = problem(0)
    one = stacking.taught_by_given(x, given, t, CLASSES)
    assert one.noisy.shape == (2000, CLASSES) and one.trusted.shape == (24, CLASSES)
    other = given.copy()
    other[:1] = (given[:1] + 2) % CLASSES
    two = stacking.taught_by_given(x, other, t, CLASSES)
    assert np.abs(one.noisy[0] - two.noisy[0]).max() < 0.01
    np.testing.assert_allclose(one.noisy.mean(axis=1), 0, atol=1e-9)


def test_a_stack_knows_more_than_few_trusted_rows():
    """Protects the use of given labels: with many features few trusted rows know little, with what given labels teach
    more, and nothing that says nothing is preferred."""
    x, given, true, t, label = problem(0)
    plain = View(*coordinates(x, t))
    taught = stacking.taught_by_given(x, given, t, CLASSES)
    alone, both = (stacking.stacked_beliefs(views, label, CLASSES) for views in ([plain], [plain, taught]))
    right = [np.mean(found.noisy.argmax(axis=1) == true) for found in (alone, both)]
    assert right[1] > right[0] + 0.05
    assert stacking.out_of_fold_loss(both, label) < stacking.out_of_fold_loss(alone, label)
    rng = np.random.default_rng(0)
    lot = View(rng.normal(size=taught.noisy.shape), rng.normal(size=taught.trusted.shape))
    kept = stacking.stacked_beliefs([plain, lot], label, CLASSES)
    assert stacking.out_of_fold_loss(kept, label) <= stacking.out_of_fold_loss(alone, label)


def test_one_view_is_linear_beliefs():
    """Protects the plain case."""
    x, _, _, t, label = problem(1, rows=50)
    view = View(*coordinates(x, t))
    one, two = stacking.stacked_beliefs([view], label, CLASSES, 3), linear_beliefs(*view, label, CLASSES, 3)
    np.testing.assert_array_equal(one.noisy, two.noisy)
