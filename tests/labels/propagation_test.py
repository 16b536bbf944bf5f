"""Propagation against scikit-learn, SciPy and a dense solve in float64; what it does to digits; odd and bad input."""

import examples
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.sparse import linalg
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import propagation as module
from kdmlc_jax.labels.propagation import propagate

ROWS, CLASSES, K = 120, 3, 7
EXACT = {"neighbours": K, "steps": 500, "tolerance": 1e-8}


def clusters(seed=0, rows=ROWS, width=6):
    """Features around a centre a class, some cosines below 0, and the classes."""
    rng = np.random.default_rng(seed)
    truth = np.arange(rows) % CLASSES
    features = rng.normal(size=(CLASSES, width))[truth] + 0.8 * rng.normal(size=(rows, width))
    return features.astype(np.float32), truth


FEATURES, TRUTH = clusters()
SEEDS = np.where(np.arange(ROWS) < 15, TRUTH, -1)  # five of each class
MULTIPLY = jax.jit(module.multiply)


def unit(features):
    """Rows of length 1, in float64; those of zeros stay."""
    length = np.linalg.norm(np.asarray(features, np.float64), axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)


def dense_graph(features, k=K, power=3.0):
    """W = A + Aᵀ f64[N, N] by scikit-learn's neighbours."""
    rows = unit(features)
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows).kneighbors(return_distance=False)
    cosine = np.take_along_axis(rows @ rows.T, index, axis=1)
    weight = np.zeros((len(rows), len(rows)))
    np.put_along_axis(weight, index, np.maximum(cosine, 0) ** power, axis=1)
    return weight + weight.T


def operator(features, alpha=0.99, **graph):
    """I - α D^-½ W D^-½ f64[N, N]."""
    weight = dense_graph(features, **graph)
    degree = weight.sum(axis=1)
    scale = 1 / np.sqrt(np.where(degree > 0, degree, np.inf))
    return np.eye(len(weight)) - alpha * scale[:, None] * weight * scale


def seed_columns(seeds, weights, classes=CLASSES):
    """Y f64[N, C]."""
    columns = np.eye(classes + 1)[seeds][:, :classes] * weights[:, None]
    return columns / np.maximum(columns.sum(axis=0), 1e-300)


def on_simplex(z):
    z = np.maximum(z, 0)
    return z / z.sum(axis=1, keepdims=True)


def assert_sound(result):
    soft, confidence = result
    assert soft.dtype == confidence.dtype == np.float32 and np.isfinite(soft).all() and soft.min() >= 0
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-5)
    assert confidence.min() >= 0 and confidence.max() <= 1


@pytest.mark.parametrize("power", [3.0, 0.0, 1.5])
def test_graph_against_numpy(power):
    """Protects A + Aᵀ, where neighbours are mutual and where not, the clipped cosines and D^-½ on both sides."""
    cosine, neighbour = module.nearest(FEATURES, 60, 120)
    assert cosine.min() < -0.1
    got = MULTIPLY(module.normalised(cosine, neighbour, power), jnp.eye(ROWS))
    np.testing.assert_allclose(np.eye(ROWS) - 0.99 * got, operator(FEATURES, k=60, power=power or 1e-12), atol=1e-6)


@pytest.mark.parametrize(("alpha", "power"), [(0.99, 3.0), (0.5, 1.0)])
def test_against_dense_solve(alpha, power):
    """Protects Z with weights of seeds, of which one is 0: NumPy's solution in float64, and SciPy's entropy."""
    weights = np.random.default_rng(1).random(ROWS)
    weights[4] = 0
    z = np.linalg.solve(operator(FEATURES, alpha, power=power), seed_columns(SEEDS, weights))
    result = propagate(FEATURES, SEEDS, weights, alpha=alpha, power=power, **EXACT)
    assert_sound(result)
    np.testing.assert_allclose(result.soft_label, on_simplex(z), atol=2e-4)
    want = 1 - stats.entropy(on_simplex(z), axis=1) / np.log(CLASSES)
    np.testing.assert_allclose(result.confidence, want, atol=1e-3)
    without = propagate(FEATURES, np.where(weights > 0, SEEDS, -1), weights, alpha=alpha, power=power, **EXACT)
    np.testing.assert_array_equal(without.soft_label, result.soft_label)


def test_against_label_spreading():
    """Protects the whole: scikit-learn's LabelSpreading on the same graph, as many seeds of each class."""
    model = LabelSpreading(kernel=lambda x, _: dense_graph(x), alpha=0.99, max_iter=20_000, tol=1e-13)
    want = model.fit(FEATURES, SEEDS).label_distributions_
    np.testing.assert_allclose(propagate(FEATURES, SEEDS, **EXACT).soft_label, want, atol=2e-4)


@pytest.mark.parametrize(("steps", "tolerance"), [(6, 1e-6), (500, 0.03)])
def test_ends_against_scipy(steps, tolerance):
    """Protects the end of each class's steps, by number as the papers count them and by residual: SciPy's, by class."""
    seeds, counts = np.where(np.arange(ROWS) < np.array([60, 19, 3])[TRUTH], TRUTH, -1), [0] * CLASSES
    columns, z = seed_columns(seeds, np.ones(ROWS)), np.zeros((ROWS, CLASSES))
    for c in range(CLASSES):

        def count(_, c=c):
            counts[c] += 1

        z[:, c], _ = linalg.cg(operator(FEATURES), columns[:, c], rtol=tolerance, maxiter=steps, callback=count)
    assert counts == [6] * 3 if steps == 6 else len(set(counts)) > 1
    got = propagate(FEATURES, seeds, neighbours=K, steps=steps, tolerance=tolerance)
    np.testing.assert_allclose(got.soft_label, on_simplex(z), atol=1e-4)
    exact = np.linalg.solve(operator(FEATURES), columns)
    assert np.abs(got.soft_label - on_simplex(exact)).max() > 3e-3


def test_reading_of_z():
    """Protects what is negative from counting, by hand: clipped, and even with confidence 0 where nothing is left."""
    z = jnp.float32([[-9, 2, 6], [-1, -2, 0], [0, 0, 0], [-1, 1e-30, 1e-30], [1e30, -1e30, 0]])
    soft, confidence = module.read(z)
    np.testing.assert_allclose(soft, [[0, 0.25, 0.75], [1 / 3] * 3, [1 / 3] * 3, [0, 0.5, 0.5], [1, 0, 0]], atol=1e-7)
    half, quarter = (1 - stats.entropy(p) / np.log(3) for p in ([0.5, 0.5], [0.25, 0.75]))
    np.testing.assert_allclose(confidence, [quarter, 0, 0, half, 1], atol=1e-6)
    assert (confidence[1:3] == 0).all()


def test_number_of_seeds_does_not_win():
    """Protects rare classes: mirrored clusters with twelve seeds and one, and a row between them that stays even."""
    rng = np.random.default_rng(0)
    half = np.append(1 + 0.05 * rng.random((20, 1)), 0.05 * rng.normal(size=(20, 3)), axis=1)
    mirrored = half[:, [1, 0, 2, 3]]
    features = np.concatenate([half, mirrored, [[1, 1, 0, 0]]])
    for weights in (np.ones(41), np.append(np.full(20, 9.0), np.full(21, 0.1))):
        both = np.where(np.arange(41) % 20 < 12, np.arange(41) // 20, -1)
        both[40] = -1
        even = propagate(features, both, weights, neighbours=40, steps=200)
        np.testing.assert_allclose(even.soft_label[40], 0.5, atol=1e-4)
        assert even.confidence[40] < 1e-4
    one = np.where((both == 0) | (np.arange(41) == 20), both, -1)
    few = propagate(features, one, neighbours=40, steps=200)
    np.testing.assert_allclose(few.soft_label[40], 0.5, atol=0.02)


@pytest.fixture(scope="module")
def digits():
    """What the docstring's example leaves behind; it is run as printed, and prints what it says."""
    scope, printed, (right, surer) = examples.run(module, "With v_i")
    assert printed[0] == pytest.approx(right, abs=0.005) and printed[1] == pytest.approx(surer, abs=0.002)
    return scope


def test_example_of_the_docstring(digits):
    """Protects the example, its numbers, and seeds that need not be given twice: they are on the simplex too."""
    assert_sound((digits["soft"], digits["confidence"]))


@pytest.mark.parametrize("noise", ["uniform", "flip"])
def test_noisy_seeds_get_right(noise):
    """Protects the purpose: all rows are seeds, four of ten labels wrong; the graph outvotes them."""
    images, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(3)
    other = rng.integers(0, 10, len(truth)) if noise == "uniform" else (truth + 3) % 10
    given = np.where(rng.random(len(truth)) < 0.4, other, truth)
    soft, confidence = propagate(images, given)
    right = soft.argmax(axis=1) == truth
    assert right.mean() > (given == truth).mean() + 0.2
    assert right[confidence > np.median(confidence)].mean() > right.mean()


def test_rows_out_of_reach():
    """Protects rows like no other, rows of zeros and a part without seeds: even, confidence 0; a seed keeps its own."""
    rng = np.random.default_rng(0)
    features = np.zeros((60, 12), np.float32)
    features[:30, :4] = rng.random((30, 4))
    features[30:50, 4:8] = rng.random((20, 4))  # no seed
    features[50, 8] = features[51, 9] = 1.0  # alone, 51 a seed
    features[52, :4] = -1.0  # opposite to all; from 53 on zeros, 59 a seed
    seeds = np.full(60, -1)
    seeds[[0, 1, 51, 59]] = [0, 1, 0, 1]
    result = propagate(features, seeds, neighbours=24)
    assert_sound(result)
    unreached = np.r_[30:51, 52:59]
    np.testing.assert_array_equal(result.soft_label[unreached], 0.5)
    np.testing.assert_array_equal(result.confidence[unreached], 0.0)
    np.testing.assert_array_equal(result.soft_label[[51, 59]], [[1, 0], [0, 1]])
    assert (np.abs(result.soft_label[:30, 0] - 0.5) > 0).all()


def test_rounding_is_no_similarity():
    """Protects rows at right angles, turned: cosines of 1e-8 in place of 0 do not become edges of weight 1."""
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))
    features = np.eye(12)[np.r_[np.repeat([0, 1], 25), 2:12]] @ turn
    seeds = np.full(60, -1)
    seeds[[0, 25]] = [0, 1]
    result = propagate(features, seeds, neighbours=24)
    np.testing.assert_allclose(result.soft_label[:50], np.repeat(np.eye(2), 25, axis=0), atol=1e-6)
    np.testing.assert_array_equal(result.soft_label[50:], 0.5)


def test_copies():
    """Protects copies: similarity 1 with each other but not with themselves, and labels that are alike."""
    features = FEATURES.copy()
    features[-4:] = features[60]
    result = propagate(features, SEEDS, **EXACT)
    assert_sound(result)
    z = np.linalg.solve(operator(features), seed_columns(SEEDS, np.ones(ROWS)))
    np.testing.assert_allclose(result.soft_label, on_simplex(z), atol=2e-4)
    np.testing.assert_allclose(result.soft_label[-4:], result.soft_label[[60] * 4], atol=1e-2)
    features[-K - 1 :] = features[60]  # more copies than neighbours
    assert_sound(propagate(features, SEEDS, **EXACT))


def test_class_without_seeds():
    """Protects a class that exists without a seed: probability 0; and confidence, which counts it."""
    seeds = np.where(SEEDS == 1, -1, SEEDS)
    result = propagate(FEATURES, seeds, num_classes=CLASSES, **EXACT)
    assert_sound(result)
    np.testing.assert_array_equal(result.soft_label[:, 1], 0.0)
    want = on_simplex(np.linalg.solve(operator(FEATURES), seed_columns(seeds, np.ones(ROWS))[:, [0, 2]]))
    np.testing.assert_allclose(result.soft_label[:, [0, 2]], want, atol=2e-4)
    np.testing.assert_allclose(result.confidence, 1 - stats.entropy(want, axis=1) / np.log(CLASSES), atol=1e-3)


def test_types_and_units():
    """Protects lists, other number types, any length of a row, any unit of the weights; and inputs from change."""
    before, weights = FEATURES.copy(), np.arange(ROWS, 0.0, -1)
    want = propagate(FEATURES, SEEDS, weights, neighbours=K)
    length = 2.0 ** np.random.default_rng(0).integers(-75, 75, (ROWS, 1))
    for features, scale in ((FEATURES.tolist(), 1.0), (FEATURES * length, 1e306), (jnp.asarray(FEATURES), 1e-300)):
        got = propagate(features, SEEDS.tolist(), scale * weights, neighbours=K, block=K)
        np.testing.assert_allclose(got.soft_label, want.soft_label, atol=1e-5)
    np.testing.assert_array_equal(FEATURES, before)
    all_seeds = propagate(FEATURES, TRUTH.astype(np.uint8), neighbours=K, alpha=0.0)
    np.testing.assert_array_equal(all_seeds.soft_label, np.eye(CLASSES)[TRUTH])


def changed(array, place, value):
    """A copy with one entry replaced."""
    array = np.array(array)
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": changed(FEATURES, (7, 2), np.nan)}, "features row 7, column 2: nan is no finite float32"),
        ({"features": FEATURES[0]}, r"features: shape \(6,\), expected \[rows, columns\]"),
        ({"features": FEATURES[:, :0]}, r"features: shape \(120, 0\), expected \[rows, columns\], one or more"),
        ({"features": 0 * FEATURES}, "features: no row has a neighbour of similarity above 0"),
        ({"features": np.eye(ROWS)}, r"features: no row has a neighbour of similarity above 0 \(at power=3\)"),
        ({"features": FEATURES[:80]}, r"seeds: shape \(120,\), expected \[80\], one for each row of features"),
        ({"seeds": SEEDS[:, None]}, r"seeds: shape \(120, 1\), expected \[120\]"),
        ({"seeds": SEEDS + 0.5}, "seeds: float64, expected integers, -1 for no seed"),
        ({"seeds": changed(SEEDS, 3, -2)}, r"seeds \(-1 = none\) row 3: -2 is out of range, expected 0 to 2"),
        ({"seeds": SEEDS, "num_classes": 2}, r"seeds \(-1 = none\) row 2: 2 is out of range, expected 0 to 1"),
        ({"seeds": np.full(ROWS, -1)}, r"seeds: none \(all are -1 or of weight 0\), expected seeds of two classes"),
        ({"seeds": np.minimum(SEEDS, 0), "num_classes": 3}, "seeds: class 0 only, expected seeds of two classes"),
        ({"weights": np.zeros(ROWS)}, r"seeds: none \(all are -1 or of weight 0\)"),
        ({"seeds": SEEDS + (SEEDS >= 0)}, "seeds: 1 of 4 classes, class 0 first, have no seed.* num_classes=4 if that"),
        ({"seeds": changed(SEEDS, 0, 10**9)}, "seeds: 999999997 of 1000000001 classes, class 3 first, have no seed"),
        ({"weights": np.ones(3)}, r"weights: shape \(3,\), expected \[120\]"),
        ({"weights": changed(np.ones(ROWS), 4, -1)}, "weights row 4: -1 is out of range, expected finite, 0 or more"),
        ({"weights": changed(np.ones(ROWS), 4, np.nan)}, "weights row 4: nan is out of range"),
        ({"weights": changed(np.ones(ROWS), 4, np.inf)}, "weights row 4: inf is out of range"),
        ({"weights": np.ones(ROWS, complex)}, "weights: complex128, expected real numbers"),
        ({"num_classes": 1}, "num_classes: 1 is out of range, expected a whole number, 2 or more"),
        ({"neighbours": 0}, "neighbours: 0 is out of range, expected a whole number, 1 or more"),
        ({"neighbours": ROWS}, "neighbours: 120 is out of range, expected 1 to 119, the other rows"),
        ({"neighbours": 2.5}, "neighbours: 2.5 is out of range"),
        ({"steps": 0}, "steps: 0 is out of range"),
        ({"block": True}, "block: True is out of range"),
        ({"alpha": 1.0}, r"alpha: 1.0 is outside \[0, 0.9999\]"),
        ({"alpha": np.nan}, "alpha: nan is outside"),
        ({"power": -1}, r"power: -1 is outside \[0, inf\]"),
        ({"tolerance": 0.0}, r"tolerance: 0.0 is outside \[1e-08, 1\]"),
    ],
)
def test_bad_input(change, message):
    """Protects the user from labels made of bad input: one line that names the argument, the value and what may be."""
    with pytest.raises(UserError, match=message) as raised:
        propagate(**{"features": FEATURES, "seeds": SEEDS} | change)
    assert "\n" not in str(raised.value)
