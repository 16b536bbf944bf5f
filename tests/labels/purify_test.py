"""The purifier against NumPy in float64, scikit-learn and finite differences; what it does to digits; bad input."""

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from kdmlc_jax.errors import NonFiniteError, UserError
from kdmlc_jax.labels import purify as module
from kdmlc_jax.labels.calibration import temperature
from kdmlc_jax.labels.purify import project_simplex, purify, ridge_factor, ridge_weights, validation_loss
from kdmlc_jax.labels.transition import fitted_transition

CLASSES = 3


def clusters(rows=91, trusted=15, width=6, seed=0, wrong=0.4):
    """Features around a centre a class, given labels partly wrong, trusted ones, and the truth."""
    rng = np.random.default_rng(seed)
    truth = np.arange(rows + trusted) % CLASSES
    features = rng.normal(size=(CLASSES, width))[truth] + 0.3 * rng.normal(size=(len(truth), width))
    given = np.where(rng.random(rows) < wrong, rng.integers(0, CLASSES, rows), truth[:rows])
    return features[:rows].astype(np.float32), given, features[rows:].astype(np.float32), truth[rows:], truth[:rows]


def numpy_loss(label, rows, trusted, target, penalty, release=False):
    """L_val from its formula, ridge regression solved anew."""
    solution = np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ label)
    logits = trusted @ solution
    read = special.softmax(logits, axis=1) if release else logits
    hits = -(target * special.log_softmax(read, axis=1)).sum(axis=1).mean()
    squares = ((logits - target) ** 2).sum() / (1 if release else len(target))
    mean = special.softmax(rows @ solution, axis=1).mean(axis=0)
    return hits + squares + special.rel_entr(np.full(len(mean), 1 / len(mean)), mean).sum()


def differences(function, at, step):
    """The gradient by central differences."""
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        moved = at.copy()
        moved[place] += step
        up = function(moved)
        moved[place] -= 2 * step
        gradient[place] = (up - function(moved)) / (2 * step)
    return gradient


def unit(features):
    """X of the fixed variant, in float64: rows of length 1 and a 1."""
    features = features.astype(np.float64)
    return np.append(features / np.linalg.norm(features, axis=1, keepdims=True), np.ones((len(features), 1)), axis=1)


def standard(rows):
    """What the head sees of X: columns centred and scaled, the bias as it is."""
    columns = rows[:, :-1] - rows[:, :-1].mean(axis=0)
    variance = columns.var(axis=0)
    return np.append(columns / np.sqrt(variance + 0.01 * variance.mean()), rows[:, -1:], axis=1)


def nearest_on_simplex(y):
    """The projection by its definition with sorted entries."""
    descending = -np.sort(-y, axis=1)
    threshold = (np.cumsum(descending, axis=1) - 1) / np.arange(1, y.shape[1] + 1)
    last = (descending > threshold).sum(axis=1) - 1
    return np.maximum(y - threshold[np.arange(len(y)), last][:, None], 0)


def accuracy(soft, truth):
    """The share of rows whose largest soft label is the true one."""
    return (soft.argmax(axis=1) == truth).mean()


def assert_on_simplex(soft):
    assert soft.dtype == np.float32 and np.isfinite(soft).all() and soft.min() >= 0
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(("rows", "width"), [(20, 7), (7, 20)])
def test_ridge_against_sklearn(rows, width):
    """Protects W*(Y) in both forms, with more rows than columns and with fewer."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, width)), rng.normal(size=(rows, CLASSES))
    with jax.enable_x64(True):
        got = ridge_weights(ridge_factor(jnp.asarray(x), 0.3), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(got.T, Ridge(0.3, fit_intercept=False).fit(x, y).coef_, rtol=1e-8)


@pytest.mark.parametrize(("width", "release"), [(5, False), (15, False), (5, True)])
def test_gradient_against_solving_anew(width, release):
    """Protects L_val and its gradient through the closed form: NumPy's own solution of each moved label; padding."""
    rng = np.random.default_rng(1)
    rows, trusted = rng.normal(size=(9, width)), rng.normal(size=(6, width))
    target, label = np.eye(CLASSES)[np.arange(6) % CLASSES], rng.dirichlet(np.ones(CLASSES), 9)
    padded, weight = np.append(rows, np.zeros((2, width)), axis=0), np.append(np.ones(9), np.zeros(2))
    with jax.enable_x64(True):
        data = [jnp.asarray(array) for array in (padded, weight, trusted, target)]
        factor = ridge_factor(data[0], 0.2)
        start = jnp.asarray(np.append(label, np.full((2, CLASSES), 0.7), axis=0))
        value, gradient = jax.jit(jax.value_and_grad(validation_loss), static_argnums=6)(start, factor, *data, release)
    assert value == pytest.approx(numpy_loss(label, rows, trusted, target, 0.2, release), rel=1e-10)
    want = differences(lambda y: numpy_loss(y, rows, trusted, target, 0.2, release), label, 1e-5)
    np.testing.assert_allclose(gradient[:9], want, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(gradient[9:], 0, atol=1e-12)


def test_simplex_projection_against_sorting():
    """Protects the nearest point: the sorted definition, and no vertex lies on the far side (a convex set's test)."""
    rng = np.random.default_rng(2)
    for classes in (2, 10, 200):
        y = np.concatenate([rng.normal(size=(50, classes)) * scale for scale in (0.01, 0.3, 1, 30)])
        with jax.enable_x64(True):
            got = np.asarray(jax.jit(project_simplex)(y))
        np.testing.assert_allclose(got, nearest_on_simplex(y), atol=1e-12)
        away = y - got
        assert (away - (away * got).sum(axis=1, keepdims=True)).max() < 1e-9  # (y - p)·(e_c - p) <= 0


def test_simplex_projection_in_float32():
    """Protects rows already on it, ties, and numbers so large that 1 is lost in them."""
    rows = np.float32([[1, 0, 0], [0.2, 0.3, 0.5], [7, 7, 7], [1e30, 0, -1e30], [3e7, 3e7 - 2, 0], [-5, -5.5, -9]])
    want = [[1, 0, 0], [0.2, 0.3, 0.5], [1 / 3] * 3, [1, 0, 0], [1, 0, 0], [0.75, 0.25, 0]]
    got = jax.jit(project_simplex)(rows)
    np.testing.assert_allclose(got, want, atol=1e-7)
    np.testing.assert_allclose(project_simplex(got), got, atol=1e-7)


@pytest.mark.parametrize(("total", "size"), [(10, 3), (10, 10), (10, 500), (11, 2), (7000, 499), (2, 2)])
def test_batches_hold_each_row_once(total, size):
    """Protects every row, the last ones too: parts that differ by one row, none over the size, filled up with N."""
    order = np.random.default_rng(0).permutation(total)
    parts = module._partition(order, size)
    real = parts < total
    np.testing.assert_array_equal(parts[real], order)
    assert parts.shape[1] <= size and set(np.ptp(real.sum(axis=1), keepdims=True)) <= {0, 1}
    assert (parts[~real] == total).all()


def test_steps_on_two_views_against_numpy():
    """Protects Adam, its fresh start, the projection and the swap: each label meets one view, then the other."""
    features, given, trusted, label, _ = clusters()
    views = [(unit(features), unit(trusted)), (unit(features**3), unit(trusted**3))]
    target, start = np.eye(CLASSES)[label], np.eye(CLASSES)[given]
    results = []
    for first in (0, 1):
        y = start
        for rows, known in (views[first], views[1 - first]):
            penalty = 1e-3 * len(rows)
            gradient = differences(lambda at, x=rows, v=known, p=penalty: numpy_loss(at, x, v, target, p), y, 1e-5)
            # Adam's first step: both moments are the gradient's own, corrected for their start at 0.
            y = nearest_on_simplex(y - 0.01 * (gradient / (np.abs(gradient) + 1e-8) + 3e-4 * y))
        results.append(y)
    got = purify(
        features,
        given,
        trusted,
        label,
        second_features=features**3,
        second_trusted_features=trusted**3,
        epochs=2,
        exchange_every=1,
        keep=1.0,
        evidence=False,
    )
    np.testing.assert_allclose(got, np.mean(results, axis=0), atol=1e-4)
    assert np.abs(got - start).max() > 5e-3


def test_head_against_numpy():
    """Protects EAC's loss and the sign of each term, its momentum and its rates: beliefs of a float64 loop."""
    features, given, trusted, _, _ = clusters()
    rows, hard = standard(unit(features)), np.eye(CLASSES)[given]
    rng = np.random.default_rng(0)
    orders = np.stack([module._partition(rng.permutation(len(rows)), 8) for _ in range(2)])
    rates = (0.06, 0.02)

    def loss(weights, part):
        z = rows[part] @ weights
        p = special.softmax(z, axis=1)
        hits = -(hard[part] * special.log_softmax(z, axis=1)).sum(axis=1).mean()
        balance = special.rel_entr(np.full(CLASSES, 1 / CLASSES), p.mean(axis=0)).sum()
        return hits + 1.5 * balance + 0.4 * (p * np.log(p)).sum(axis=1).mean()

    weights = velocity = np.zeros((rows.shape[1], CLASSES))
    for order, rate in zip(orders, rates, strict=True):
        for part in order:
            real = part[part < len(rows)]
            velocity = 0.9 * velocity + differences(lambda w, real=real: loss(w, real), weights, 1e-5)
            weights = weights - rate * velocity
    view = module._view(features, trusted, False)
    soft = jnp.asarray(np.append(0.4 * hard + 0.2, [[1, 0, 0]], axis=0), jnp.float32)
    head = (jnp.zeros(weights.shape), jnp.zeros(weights.shape))
    (got, _), belief = module._learn(head, view, soft, jnp.asarray(orders), jnp.float32(rates), (1.5, 0.4))
    np.testing.assert_allclose(got, weights, atol=2e-4)
    np.testing.assert_allclose(belief[:-1], special.log_softmax(rows @ weights, axis=1), atol=2e-3)


def test_given_labels_are_evidence():
    """Protects the result: ∝ p T̂[:, ỹ] with p ∝ (p₁ p₂)ᵗ, in float64; labels of which none is wrong stay."""
    rng = np.random.default_rng(0)
    beliefs, given = rng.dirichlet(np.ones(CLASSES), (2, 21)), rng.integers(0, CLASSES, 20)
    logits, known = rng.normal(size=(2, 9, CLASSES)), rng.integers(0, CLASSES, 9)
    t = float(temperature(np.sum(special.log_softmax(logits, axis=2), axis=0).astype(np.float32), known))
    p = (beliefs[0, :-1] * beliefs[1, :-1]) ** t
    p /= p.sum(axis=1, keepdims=True)
    want = p * np.asarray(fitted_transition(p.astype(np.float32), given))[:, given].T
    log_beliefs = [jnp.log(jnp.float32(belief)) for belief in beliefs]
    got = module._with_evidence(log_beliefs, [jnp.float32(rows) for rows in logits], given, known)
    np.testing.assert_allclose(got, want / want.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-5)
    features, _, trusted, label, truth = clusters()
    assert accuracy(purify(features, truth, trusted, label), truth) > 0.98


@pytest.fixture(scope="module")
def digits():
    """What the docstring's example leaves behind; it is run as printed, and prints what it says."""
    scope, printed, (before, after) = examples.run(purify, "Per epoch")
    assert printed[0] == pytest.approx(before, abs=0.005) and printed[1] == pytest.approx(after, abs=0.015)
    return scope


def test_example_of_the_docstring(digits):
    """Protects the example, and that the labels it purifies are better than a linear probe's on the checked ones."""
    assert_on_simplex(digits["soft"])
    probe = LogisticRegression(max_iter=1000).fit(digits["checked"] / 16, digits["checked_label"])
    assert accuracy(digits["soft"], digits["truth"]) > probe.score(digits["rest"] / 16, digits["truth"]) + 0.02


@pytest.mark.parametrize(("noise", "gain"), [("uniform .6", 0.4), ("flip .4", 0.25)])
def test_digits_labels_get_right(digits, noise, gain):
    """Protects the purpose, under noise without structure and with it: far more labels right than before."""
    images, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(11)
    order = rng.permutation(len(images))
    images, truth = images[order], truth[order]
    wrong = rng.random(len(truth)) < float(noise.split()[1])
    given = np.where(wrong, rng.integers(0, 10, len(truth)) if noise[0] == "u" else (truth + 3) % 10, truth)
    soft = purify(images[100:], given[100:], images[:100], truth[:100])
    assert accuracy(soft, truth[100:]) > (given == truth)[100:].mean() + gain


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


@pytest.mark.parametrize("kind", ["more columns than rows", "collinear"])
def test_awkward_features(kind):
    """Protects λ: a batch with fewer rows than columns; columns that depend on one another; rows of zeros."""
    features, given, trusted, label, truth = clusters()
    if kind == "more columns than rows":
        more = np.random.default_rng(0).normal(size=(6, 60)).astype(np.float32)
        features, trusted, size = features @ more, trusted @ more, 40
    else:
        features, trusted = (np.concatenate([part, 2 * part, 0 * part + 1], axis=1) for part in (features, trusted))
        features[4], trusted[2], size = 0, 0, 7000
    soft = purify(features, given, trusted, label, batch_size=size)
    assert_on_simplex(soft)
    assert accuracy(soft, truth) > (given == truth).mean() + 0.15


def test_release_against_numpy():
    """Protects what the release is said to compute: raw features, λ = 0, summed squares, decay inside Adam, softmax."""
    features, given, trusted, label, _ = clusters()
    x, known, target = features.astype(np.float64), trusted.astype(np.float64), np.eye(CLASSES)[label]
    y = np.eye(CLASSES)[given]
    first = second = np.zeros_like(y)
    for step in (1, 2, 3):
        gradient = differences(lambda at: numpy_loss(at, x, known, target, 0.0, release=True), y, 1e-5) + 0.05 * y
        first, second = 0.5 * first + 0.5 * gradient, 0.999 * second + 0.001 * gradient**2
        y = y - 0.01 * (first / (1 - 0.5**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    got = purify(features, given, trusted, label, variant="release", epochs=3, label_decay=0.05)
    assert_on_simplex(got)
    np.testing.assert_allclose(got, special.softmax(y, axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 4}, "features: 6 columns in batches of 4 rows make XᵀX singular, expected a larger ridge"),
        ({"features": 5}, r"features: XᵀX of batch 0 is singular at ridge=0 \(columns that depend on one another"),
        ({"second_features": 5}, 'second_features: variant="release" has identical twins, expected None'),
    ],
)
def test_release_refuses(change, message):
    """Protects the release's λ = 0 from labels that are noise: what cannot be inverted is said to be so."""
    features, given, trusted, label, _ = clusters()
    if "features" in change:
        change = {"features": np.append(features[:, :5], features[:, :1] * 3, axis=1)}
    if "second_features" in change:
        change = {"second_features": features, "second_trusted_features": trusted}
    arguments = {"features": features, "given_label": given, "trusted_features": trusted, "trusted_label": label}
    with pytest.raises(UserError, match=message):
        purify(**arguments | change, variant="release")


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
        ({"variant": "fix"}, r'variant: "fix" is not one of fixed, release \(did you mean "fixed"'),
        ({"batch_size": 1}, "batch_size: 1 is out of range, expected a whole number, 2 or more"),
        ({"epochs": 0}, "epochs: 0 is out of range, expected a whole number, 1 or more"),
        ({"epochs": 1.5}, "epochs: 1.5 is out of range"),
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
