"""Purified labels: what becomes of digits and of awkward features, results that repeat, and bad input."""

import examples
import jax.numpy as jnp
import numpy as np
import pytest
from purifying import accuracy, assert_on_simplex, clusters
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from kdmlc_jax.errors import NonFiniteError, UserError, whole
from kdmlc_jax.labels.purify import purify


@pytest.fixture(scope="module")
def digits():
    """What the docstring's example leaves behind; it is run as printed, and prints what it says."""
    scope, printed, (before, after) = examples.run(purify, "Args:")
    assert printed[0] == pytest.approx(before, abs=0.005) and printed[1] == pytest.approx(after, abs=0.015)
    return scope


def test_example_of_the_docstring(digits):
    """Protects the example, and that the labels it purifies are better than a linear probe's on the checked ones."""
    assert_on_simplex(digits["soft"])
    probe = LogisticRegression(max_iter=1000).fit(digits["checked"] / 16, digits["checked_label"])
    assert accuracy(digits["soft"], digits["truth"]) > probe.score(digits["rest"] / 16, digits["truth"]) + 0.02


def test_digits_labels_get_right():
    """Protects the purpose under noise with structure, too (without it: the example): far more right than before."""
    images, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(11)
    order = rng.permutation(len(images))
    images, truth = images[order], truth[order]
    given = np.where(rng.random(len(truth)) < 0.4, (truth + 3) % 10, truth)
    soft = purify(images[100:], given[100:], images[:100], truth[:100])
    assert accuracy(soft, truth[100:]) > (given == truth)[100:].mean() + 0.25


def test_poor_features_do_not_spoil_good_labels():
    """Protects mildly noisy labels from weak features: where a probe is right on half the rows and the labels on four
    fifths, there are no fewer right afterwards."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 10, 4000)
    features = np.eye(10)[truth] + rng.normal(size=(4000, 10))
    given = np.where(rng.random(4000) < 0.2, (truth + 1) % 10, truth)
    probe = LogisticRegression(max_iter=1000).fit(features[:400], truth[:400])
    assert probe.score(features[400:], truth[400:]) < 0.6
    soft = purify(features[400:], given[400:], features[:400], truth[:400])
    assert accuracy(soft, truth[400:]) >= (given == truth)[400:].mean()


def test_right_labels_stay():
    """Protects labels of which none is wrong: as evidence they outweigh what the heads get wrong."""
    features, _, trusted, label, truth = clusters()
    assert accuracy(purify(features, truth, trusted, label, batch_size=40), truth) > 0.98


def test_same_seed_same_bits():
    """Protects results that can be repeated, inputs that stay as they were, and other batches from another seed."""
    features, given, trusted, label, _ = clusters()
    before = features.copy(), given.copy()
    results = [purify(features, given, trusted, label, batch_size=40, seed=seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-4
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(given, before[1])


def test_types_and_units_of_features():
    """Protects lists, other number types and rows of other length (of any magnitude) from giving other labels."""
    features, given, trusted, label, _ = clusters()
    want = purify(features, given, trusted, label, batch_size=40)
    length = 2.0 ** np.random.default_rng(0).integers(-60, 60, (len(features), 1))
    for same in (features.tolist(), features.astype(np.float64) * length, jnp.asarray(features)):
        got = purify(same, given.astype(np.uint8), trusted.astype(np.float64) * 8, label.tolist(), batch_size=40)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_awkward_features():
    """Protects λ: a batch with fewer rows than columns, which depend on one another or are constant; rows of zeros."""
    features, given, trusted, label, truth = clusters()
    more = np.random.default_rng(0).normal(size=(6, 60)).astype(np.float32)
    features, trusted = (np.append(rows @ more, np.ones((len(rows), 1)), axis=1) for rows in (features, trusted))
    features[4], trusted[2] = 0, 0
    soft = purify(features, given, trusted, label, batch_size=40)
    assert_on_simplex(soft)
    assert accuracy(soft, truth) > (given == truth).mean() + 0.15


def changed(array, place, value):
    """A copy with one entry replaced."""
    array = array.copy()
    array[place] = value
    return array


FEATURES, GIVEN, TRUSTED, LABEL, _ = clusters()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": changed(FEATURES, (7, 2), np.nan)}, "features row 7, column 2: nan is no finite float32"),
        ({"features": changed(FEATURES.astype(float), (7, 2), 1e99)}, "features row 7, column 2: inf is no finite"),
        ({"trusted_features": changed(TRUSTED, (3, 0), -np.inf)}, "trusted_features row 3, column 0: -inf is no"),
        ({"features": FEATURES[0]}, r"features: shape \(6,\), expected \[rows, columns\]"),
        ({"features": FEATURES[:0]}, r"features: shape \(0, 6\), expected \[rows, columns\], one or more of each"),
        ({"features": FEATURES * 1j}, r"features: complex64 of shape \(91, 6\), expected real numbers"),
        ({"features": [[1.0], [1.0, 2.0]]}, "features: rows of unequal length"),
        ({"features": FEATURES[:80]}, r"given_label: shape \(91,\), expected \[80\], a label for each row"),
        ({"features": np.ones_like(FEATURES)}, "features: all 91 rows are equal once scaled to length 1"),
        ({"features": np.outer(np.arange(1, 92), FEATURES[0])}, "features: all 91 rows are equal once scaled"),
        ({"trusted_features": TRUSTED[:, :5]}, "trusted_features: 5 columns, expected 6 as in features"),
        ({"trusted_features": TRUSTED[:0], "trusted_label": LABEL[:0]}, r"trusted_features: shape \(0, 6\)"),
        ({"trusted_label": LABEL[1:]}, r"trusted_label: shape \(14,\), expected \[15\]"),
        ({"trusted_label": LABEL + 0.5}, "trusted_label: float64 of shape"),
        ({"given_label": changed(GIVEN, 5, -1)}, "given_label row 5: -1 is out of range, expected 0 to 2"),
        ({"given_label": changed(GIVEN, 5, 3), "num_classes": 3}, "given_label row 5: 3 is out of range"),
        ({"given_label": changed(GIVEN, 5, 4)}, "trusted_label: no row of class 3, 4, expected one or more of each"),
        ({"given_label": changed(GIVEN, 5, 10**9)}, "trusted_label: no row of class 3, 4.* and 999999988 more"),
        ({"given_label": 0 * GIVEN, "trusted_label": 0 * LABEL}, "given_label: all labels are 0"),
        ({"num_classes": 1}, "num_classes: 1 is outside"),
        ({"second_features": FEATURES}, "second_features: they come with second_trusted_features"),
        (
            {"second_features": FEATURES[1:], "second_trusted_features": TRUSTED},
            "second_features: 90 rows, expected 91 as in features",
        ),
        ({"batch_size": 1}, "batch_size: 1 is out of range, expected a whole number, 2 or more"),
        ({"epochs": 0}, "epochs: 0 is out of range, expected a whole number, 1 or more"),
        ({"epochs": True}, "epochs: True is out of range"),
        ({"seed": -1}, "seed: -1 is out of range, expected a whole number, 0 or more"),
        ({"keep": 1.1}, "keep: 1.1 is outside"),
        ({"ridge": -1.0}, "ridge: -1.0 is outside"),
        ({"label_betas": (0.5, 1.0)}, r"label_betas: \(0.5, 1.0\) is out of range, expected two numbers in \[0, 1\)"),
    ],
)
def test_bad_input(change, message):
    """Protects the user from labels made of bad input: one line that names the argument, the value and what may be."""
    arguments = {"features": FEATURES, "given_label": GIVEN, "trusted_features": TRUSTED, "trusted_label": LABEL}
    with pytest.raises(UserError, match=message) as raised:
        purify(**arguments | change)
    assert "\n" not in str(raised.value)


def test_divergence_is_an_error():
    """Protects against NaN in place of labels: rates at which the head diverges."""
    with pytest.raises(NonFiniteError, match=r"labels became NaN or infinite \(label_rate=0.01, head_rate=1\)"):
        purify(FEATURES, GIVEN, TRUSTED, LABEL, head_rate=1.0, prior_weight=1e38, batch_size=40)


def test_half_an_epoch():
    """Protects counts from fractions, which a loop would round in silence."""
    with pytest.raises(UserError, match=r"epochs: 1.5 is out of range, expected a whole number, 1 or more"):
        whole("epochs", 1.5, 1)
