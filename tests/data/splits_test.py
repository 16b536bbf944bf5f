"""Splits: disjoint, balanced, repeatable, and clear about sizes that cannot be."""

import numpy as np
import pytest

from kdmlc_jax.data.images import copies
from kdmlc_jax.data.splits import Named, Splits, hold_out, hold_out_fold, split, without_copies
from kdmlc_jax.errors import UserError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4, dtype=np.int32), [40, 30, 20, 10]))


@pytest.mark.parametrize(("trusted", "validation", "noisy"), [(8, 12, 0), (10, 0, 0), (11, 20, 30), (4, 1, 95)])
def test_parts_are_disjoint_and_of_the_asked_size(trusted, validation, noisy):
    """Protects the protocol: no trusted or validation image is ever trained on with its noisy label."""
    parts = split(LABELS, trusted, validation, noisy, seed=0, num_classes=4)
    assert (len(parts.trusted), len(parts.validation)) == (trusted, validation)
    assert len(parts.noisy) == (noisy or 100 - trusted - validation)
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    assert together.min() >= 0 and together.max() < 100
    assert all(part.dtype == np.int64 for part in parts)


@pytest.mark.parametrize("trusted", [4, 8, 9, 10, 11])
def test_trusted_is_balanced(trusted):
    """Protects class balance: counts differ by one at most, for unbalanced labels too."""
    counts = np.bincount(LABELS[split(LABELS, trusted, 5, 0, 0, 4).trusted], minlength=4)
    assert counts.sum() == trusted and counts.max() - counts.min() <= 1


def test_remainder_goes_to_the_first_classes_of_the_permutation():
    """Protects against a remainder that always falls on class 0, and the rule by which it is given."""
    extra = set()
    for seed in range(30):
        parts = split(LABELS, 5, 5, 0, seed, 4)
        counts = np.bincount(LABELS[parts.trusted], minlength=4)
        extra.add(int(counts.argmax()))
        # The first image of the permutation is trusted, and its class is the one met first.
        assert counts.argmax() == LABELS[parts.trusted[0]]
    assert extra == {0, 1, 2, 3}


def test_one_permutation_decides_everything():
    """Protects comparisons: a new noisy size keeps the trusted and validation images and shortens the same row."""
    whole, part = split(LABELS, 8, 12, 0, 3, 4), split(LABELS, 8, 12, 20, 3, 4)
    np.testing.assert_array_equal(whole.trusted, part.trusted)
    np.testing.assert_array_equal(whole.validation, part.validation)
    np.testing.assert_array_equal(whole.noisy[:20], part.noisy)


def test_seed_decides():
    """Protects repeatability: the same seed gives the same parts, another seed other ones."""
    first, again, other = (split(LABELS, 8, 12, 0, seed, 4) for seed in (5, 5, 6))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert set(first.trusted) != set(other.trusted)


@pytest.mark.parametrize(
    ("sizes", "field", "value", "allowed"),
    [
        ((-1, 10, 0), "data.trusted", "-1 images", "expected 4 to 99"),
        ((3, 10, 0), "data.trusted", "3 images", "expected 4 to 99 (4 classes, 100 training images)"),
        ((101, 0, 0), "data.trusted", "101 images", "expected 4 to 99"),
        ((100, 0, 0), "data.trusted", "100 images", "expected 4 to 99"),
        ((8.5, 10, 0), "data.trusted", "8.5 is not a whole number", "expected 4 to 99"),
        ((0.01, 10, 0), "data.trusted", "1 images", "expected 4 to 99"),
        ((True, 10, 0), "data.trusted", "True is not a whole number", "expected 4 to 99"),
        ((8, -1, 0), "data.validation", "-1 images", "expected 0 to 91"),
        ((8, 92, 0), "data.validation", "92 images", "expected 0 to 91 (92 images left by data.trusted=8)"),
        ((8, 10, -1), "data.noisy", "-1 images", "expected 0 to 82"),
        ((8, 10, 83), "data.noisy", "83 images", "expected 0 to 82 (82 of 100 images left by data.trusted=8"),
        ((60, 10, 0), "data.trusted", "60 images", "needs 15 images of class 3 and there are 10"),
    ],
)
def test_impossible_sizes(sizes, field, value, allowed):
    """Protects against an empty part or one cut short in silence: field, value and range are named."""
    with pytest.raises(UserError) as caught:
        split(LABELS, *sizes, seed=0, num_classes=4)
    message = str(caught.value)
    assert message.startswith(f"{field}: {value}") and allowed in message and "\n" not in message


def test_absent_class():
    """Protects the trusted set from a class it cannot show."""
    with pytest.raises(UserError, match=r"data\.trusted: 10 .* needs 2 images of class 4 and there are 0"):
        split(LABELS, 10, 10, 0, 0, 5)


def test_bad_labels():
    """Protects the balance from labels out of range."""
    with pytest.raises(UserError, match=r"labels row \d+: 3 is out of range, expected 0 to 2"):
        split(LABELS, 10, 10, 0, 0, 3)


def test_shares_are_of_the_training_set():
    """Protects fractions: a tenth of 100 images is 10, whatever was taken before."""
    parts = split(LABELS, 0.1, 0.2, 0.5, 0, 4)
    assert [len(part) for part in parts[:3]] == [50, 10, 20]


def test_named_roles_stay():
    """Protects what the source says: its trusted and validation images, and nobody else, have those roles."""
    trusted, validation = np.array([3, 50, 7]), np.array([90, 1])
    parts = split(LABELS, 0, 0, 0, 0, 4, named=Named(trusted, validation))
    assert set(parts.trusted) == set(trusted) and set(parts.validation) == set(validation)
    assert len(parts.noisy) == 95 and len(np.unique(np.concatenate(parts))) == 100
    for sizes, field in (((5, 0, 0), "data.trusted"), ((0, 5, 0), "data.validation")):
        with pytest.raises(UserError, match=f"{field}: 5 images .* expected 0 to 0 .the source names its"):
            split(LABELS, *sizes, 0, 4, named=Named(trusted, validation))


def test_copies_of_held_images_train_nobody():
    """Protects against leaks by content: no copy of a trusted image elsewhere, of a validation one in noisy."""
    groups = np.repeat(np.arange(50), 2)
    parts = split(LABELS, 8, 12, 0, 0, 4, groups)
    noisy, trusted, validation = (set(groups[part].tolist()) for part in parts[:3])
    assert not noisy & trusted and not noisy & validation and not validation & trusted
    whole = split(LABELS, 8, 12, 0, 0, 4)
    np.testing.assert_array_equal(parts.trusted, whole.trusted)
    kept = ~np.isin(groups[whole.noisy], groups[np.concatenate([parts.trusted, parts.validation])])
    assert set(whole.noisy[kept]) <= set(parts.noisy)


def test_duplicates_are_counted():
    """Protects the report: extra copies, contents with two labels, copies left out, training images in the test set."""
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    images[1], images[2], images[11] = images[0], images[0], images[10]
    train, test = copies.groups([copies.digests(images), copies.digests(images[[4, 4, 5]])])
    given = np.zeros(20, np.int32)
    given[1] = 1
    counted = copies.count(train, test, given, Splits(np.array([0, 3, 4]), np.array([10]), np.array([5])))
    assert counted == copies.Duplicates(extra=3, conflicting=1, left_out=1, leaked=2, leaked_used=2)
    assert len(set(train.tolist())) == 17 and test[0] == test[1] == train[4] and test[2] == train[5]


def test_shares_yield_to_named_images():
    """Protects shipped configs, whose shares are defaults: a folder validation/ is used and no error."""
    parts = split(LABELS, 0.1, 0.2, 0, 0, 4, named=Named(np.array([3, 50]), np.array([90, 1, 7])))
    assert sorted(parts.trusted) == [3, 50] and sorted(parts.validation) == [1, 7, 90]


def test_splits_of_another_run_lose_their_copies():
    """Protects splits that were made without a search for copies."""
    groups = np.array([0, 0, 1, 1, 2, 2, 3])
    parts = without_copies(Splits(np.array([1, 3, 5, 6]), np.array([0]), np.array([2, 1])), groups)
    assert [part.tolist() for part in parts] == [[5, 6], [0], [2], []]
    parts = without_copies(parts, groups, np.arange(7) == 5)
    assert [part.tolist() for part in parts] == [[6], [0], [2], []]


@pytest.mark.parametrize("named", [None, Named(np.array([3, 50]), np.array([90, 1, 7]))])
def test_unused_rows_are_in_no_part(named):
    """Protects from rows that must stay out, named ones too; all others keep their order."""
    unused = np.isin(np.arange(len(LABELS)), [1, 3, 4, 5])
    sizes = (8, 12) if named is None else (0, 0)
    parts = split(LABELS, *sizes, 0, 0, 4, None, named, unused)
    rows = np.concatenate(parts)
    assert not {1, 3, 4, 5} & set(rows.tolist()) and len(rows) == len(LABELS) - 4
    if named is not None:
        whole = split(LABELS, *sizes, 0, 0, 4, None, named)
        assert parts.noisy.tolist() == [row for row in whole.noisy if not unused[row]]


@pytest.mark.parametrize(("share", "of_each"), [(0.2, {1: 0, 2: 1, 3: 1, 4: 2, 10: 2, 15: 3, 100: 20}), (0.5, {9: 4})])
def test_held_out_share_of_each_class(share, of_each):
    """Protects both sides: a few of every class judge, and no class loses more than half of what is learned from."""
    labels = np.repeat(np.arange(len(of_each), dtype=np.int32), list(of_each))
    parts = Splits(np.zeros(0, int), np.arange(len(labels)), np.zeros(0, int))
    held = hold_out(parts, labels, share, seed=3)
    assert np.bincount(labels[held.held_out], minlength=len(of_each)).tolist() == list(of_each.values())
    assert sorted(np.concatenate(held).tolist()) == list(range(len(labels)))
    np.testing.assert_array_equal(hold_out(parts, labels, share, seed=3).held_out, held.held_out)
    assert set(hold_out(parts, labels, share, seed=4).held_out) != set(held.held_out) or len(held.held_out) < 5
    back = hold_out(held, labels, 0.0, seed=3)
    assert not len(back.held_out) and sorted(back.trusted) == sorted(parts.trusted)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_trusted_image_is_in_one_part(folds):
    """Protects cross-fitting: parts are disjoint and even, all classes are left to learn from, a class's only image is
    in none, and the order of the trusted images does not matter to nothing else."""
    labels = np.repeat(np.arange(4, dtype=np.int32), [9, 1, 2, 8])
    parts = Splits(np.zeros(0, int), np.arange(20), np.zeros(0, int))
    held = [hold_out_fold(parts, labels, folds, k, seed=3) for k in range(folds)]
    assert sorted(np.concatenate([each.held_out for each in held]).tolist()) == [i for i in range(20) if i != 9]
    for each in held:
        assert sorted([*each.trusted, *each.held_out]) == list(range(20))
        assert set(labels[each.trusted]) == set(range(4))
    sizes = [len(each.held_out) for each in held]
    assert max(sizes) - min(sizes) <= 2


def test_fewer_trusted_images_than_parts():
    """Protects from training several times for nothing."""
    parts = Splits(np.arange(4), np.arange(4, 6), np.zeros(0, int))
    with pytest.raises(UserError, match=r"data\.cross_fit: 3 parts of 2 trusted images"):
        hold_out_fold(parts, np.zeros(6, np.int32), 3, 0, 0)


def test_copies_are_in_one_part():
    """Protects the judgement: what a part holds out is not learned from under another name."""
    groups, labels = np.array([0, 0, 0, 1, 2, 3, 0, 1]), np.zeros(8, np.int32)
    parts = Splits(np.zeros(0, int), np.arange(8), np.zeros(0, int))
    for k in range(2):
        held = hold_out_fold(parts, labels, 2, k, 0, groups)
        assert not set(groups[held.held_out]) & set(groups[held.trusted])


def test_copies_are_held_out_together():
    """Protects the judgement: what is held out is not learned from under another name, in any part."""
    groups, labels = np.array([0, 0, 0, 1, 2, 3, 0, 1]), np.zeros(8, np.int32)
    parts = Splits(np.array([6, 7]), np.arange(6), np.zeros(0, int))
    for seed in range(8):
        held = hold_out(parts, labels, 0.2, seed, groups)
        assert not set(groups[held.held_out]) & set(groups[held.trusted])
    assert without_copies(held, groups).noisy.tolist() == []


def test_no_range_is_negative():
    """Protects the message where nothing is left to choose from."""
    with pytest.raises(UserError) as caught:
        split(np.array([0, 1]), 2, 0, 0, 0, 2)
    assert str(caught.value) == "data.trusted: 2 images, and no number is possible (2 classes, 2 training images)"
