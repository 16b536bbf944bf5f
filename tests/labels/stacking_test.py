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


def test_what_is_asked_twice_is_found_once(monkeypatch):
    """Protects a run and its baselines from asking the same for minutes, each from an answer to another question."""
    rng = np.random.default_rng(0)
    label = np.arange(12) % 3
    view = View(rng.normal(size=(30, 4)), rng.normal(size=(12, 4)) + label[:, None])
    asked = []

    def counted(*given):
        asked.append(1)
        return linear_beliefs(*given)

    monkeypatch.setattr(stacking, "linear_beliefs", counted)
    first = stacking.stacked_beliefs([view], label, 3)
    again = stacking.stacked_beliefs([View(*(rows.copy() for rows in view))], label.copy(), 3)
    assert len(asked) == 1
    np.testing.assert_array_equal(first.noisy, again.noisy)
    for other in (([view], np.roll(label, 1), 3), ([view], label, 4), ([view], label, 3, 1), ([view, view], label, 3)):
        stacking.stacked_beliefs(*other)
    assert len(asked) == 1 + 1 + 1 + 1 + 3
    monkeypatch.setattr(stacking, "REMEMBERED_SIZE", 10)  # large answers would fill the memory
    stacking.stacked_beliefs([view], label, 3)
    assert len(asked) == 8
    monkeypatch.setattr(stacking, "REMEMBERED_SIZE", 1 << 20)
    for seed in range(stacking.REMEMBERED + 1):
        stacking.stacked_beliefs([view], label, 3, seed + 100)
    assert len(stacking._remembered) == stacking.REMEMBERED
