"""Noise against its transition matrix, and the one entry to all kinds."""

from types import SimpleNamespace

import numpy as np
import pytest

from kdmlc_jax import registry
from kdmlc_jax.data import noise, splits
from kdmlc_jax.data.noise import file, human, instance
from kdmlc_jax.data.sources.base import Part
from kdmlc_jax.errors import UserError

C = 5
LABELS = np.tile(np.arange(C, dtype=np.int32), 4000)
SIMPLE_KINDS = ("none", "uniform", "uniform_excluded", "flip", "pair")  # those for any classes
# Not in the order of the published numbers: the map goes by name.
CIFAR10 = ("frog", "cat", "truck", "horse", "Dog", "ship", "bird", "automobile", "deer", "airplane")


def drawn(labels, kind, rate, num_classes, seed):
    """Given labels of one of the kinds that have a transition matrix."""
    return noise.draw(labels, noise.transition_matrix(kind, rate, num_classes, seed), seed)


def config(kind, rate=0.4, exact=False, file="", human="worst"):
    """The part of a config that given_labels reads."""
    return SimpleNamespace(kind=kind, rate=rate, exact=exact, file=str(file), human=human)


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", SIMPLE_KINDS)
def test_matrix_is_stochastic(kind, rate):
    """Protects every kind at both ends: probabilities, rows summing to 1, no noise at rate 0."""
    matrix = noise.transition_matrix(kind, rate, C, seed=3)
    assert matrix.shape == (C, C) and matrix.dtype == np.float64
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    if rate == 0.0:
        np.testing.assert_array_equal(matrix, np.eye(C))


def test_matrix_entries_by_hand():
    """Protects the conventions: whether the true class is drawn, and which class a pair goes to."""
    uniform = noise.transition_matrix("uniform", 0.5, C, 0)
    np.testing.assert_allclose([uniform[0, 0], uniform[0, 1]], [0.6, 0.1])
    excluded = noise.transition_matrix("uniform_excluded", 0.4, C, 0)
    np.testing.assert_allclose([excluded[0, 0], excluded[0, 1]], [0.6, 0.1])
    pair = noise.transition_matrix("pair", 0.3, C, 0)
    np.testing.assert_allclose([pair[2, 2], pair[2, 3], pair[4, 0]], [0.7, 0.3, 0.3])
    np.testing.assert_array_equal(noise.transition_matrix("none", 0.9, C, 0), np.eye(C))


def test_flip_has_one_other_target_per_class():
    """Protects flip noise: one target, never the class itself, every other class reachable, moved by the seed."""
    targets = []
    for seed in range(60):
        matrix = noise.transition_matrix("flip", 0.3, C, seed)
        np.testing.assert_allclose(np.diag(matrix), 0.7)
        off = matrix - np.diag(np.diag(matrix))
        np.testing.assert_array_equal((off > 0).sum(axis=1), np.ones(C))
        np.testing.assert_allclose(off.max(axis=1), 0.3)
        targets.append(off.argmax(axis=1))
    for label in range(C):
        assert {int(row[label]) for row in targets} == set(range(C)) - {label}


@pytest.mark.parametrize("kind", SIMPLE_KINDS)
def test_labels_follow_the_matrix(kind):
    """Protects the draw: counts agree with the matrix by a chi-square test, impossible classes never occur."""
    matrix = noise.transition_matrix(kind, 0.6, C, seed=1)
    given = drawn(LABELS, kind, 0.6, C, 1)
    rate, got = noise.realised(LABELS, given, C)
    assert given.dtype == np.int32
    assert not got[matrix == 0].any()
    size = len(LABELS) / C
    possible = matrix > 0
    chi_square = (size * (got - matrix)[possible] ** 2 / matrix[possible]).sum()
    freedom = possible.sum() - C
    assert chi_square <= freedom + 5 * np.sqrt(2 * freedom)  # mean and standard deviation of the distribution
    assert rate == pytest.approx(1 - np.trace(matrix) / C, abs=0.02)
    assert rate == pytest.approx(1 - np.trace(got) / C, abs=1e-12)


def test_old_seeds_keep_their_labels():
    """Protects published runs: the labels that a seed has given since the first release."""
    labels = np.arange(12, dtype=np.int32) % 5
    kept = {
        "uniform": "020320110422",
        "uniform_excluded": "030320110433",
        "flip": "022310221442",
        "pair": "022400223412",
    }
    for kind, given in kept.items():
        assert "".join(map(str, drawn(labels, kind, 0.6, 5, 1))) == given


def largest_remainder(size, chances):
    """Counts item by item: each goes where the share that is still missing is largest, once the whole ones are out."""
    share = [size * float(chance) for chance in chances]
    counts = [int(np.floor(value + 1e-9)) for value in share]
    while sum(counts) < size:
        missing = [value - count for value, count in zip(share, counts, strict=True)]
        counts[missing.index(max(missing))] += 1
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_exact_counts(seed):
    """Protects exact noise: every class's counts by largest remainder, whole shares kept whole."""
    rng = np.random.default_rng(seed)
    matrix = rng.dirichlet(np.full(C, 0.5), size=C)
    matrix[1] = [0.1, 0.6, 0.3, 0, 0]
    sizes = [3, 1000, 0, 1, 777]
    labels = rng.permutation(np.repeat(np.arange(C), sizes)).astype(np.int32)
    given = noise.draw(labels, matrix, seed, exact=True)
    assert given.dtype == np.int32
    for label, size in enumerate(sizes):
        counts = np.bincount(given[labels == label], minlength=C)
        np.testing.assert_array_equal(counts, largest_remainder(size, matrix[label]))
    np.testing.assert_array_equal(np.bincount(given[labels == 1], minlength=C), [100, 600, 300, 0, 0])


def test_exact_ties_go_to_the_lower_label():
    """Protects the rule for equal remainders against the last bits of 1/3."""
    third = np.full((3, 3), 1 / 3)
    for size, counts in ((4, [2, 1, 1]), (5, [2, 2, 1]), (6, [2, 2, 2])):
        given = noise.draw(np.ones(size, np.int32), third, 0, exact=True)
        np.testing.assert_array_equal(np.bincount(given, minlength=3), counts)


def test_exact_noise_falls_on_any_image():
    """Protects against noise at the head of a class: over seeds each image is wrong as often as the rate says."""
    labels, matrix = np.zeros(50, np.int32), noise.transition_matrix("pair", 0.4, C, 0)
    wrong = np.array([noise.draw(labels, matrix, seed, exact=True) for seed in range(400)]) != 0
    np.testing.assert_array_equal(wrong.sum(axis=1), 20)
    assert np.abs(wrong.mean(axis=0) - 0.4).max() < 5 * np.sqrt(0.24 / 400)
    np.testing.assert_array_equal(noise.draw(labels, matrix, 3, exact=True), noise.draw(labels, matrix, 3, exact=True))


def test_draw_agrees_with_cleanlab():
    """Protects the meaning of T: cleanlab's generator, which has it transposed, gives the same realised matrix."""
    pytest.importorskip("cleanlab")
    from cleanlab.benchmarking import noise_generation

    columns = noise_generation.generate_noise_matrix_from_trace(
        C, 0.6 * C, py=np.full(C, 1 / C), frac_zero_noise_rates=0.3, seed=1
    )
    state = np.random.get_state()
    np.random.seed(0)  # cleanlab draws from the global stream
    theirs = noise.realised(LABELS, noise_generation.generate_noisy_labels(LABELS, columns), C)[1]
    np.random.set_state(state)
    size = len(LABELS) // C
    ours = noise.realised(LABELS, noise.draw(LABELS, columns.T, 0), C)[1]
    exact = noise.realised(LABELS, noise.draw(LABELS, columns.T, 0, exact=True), C)[1]
    assert (np.abs(ours - theirs) <= 5 * np.sqrt(columns.T * (1 - columns.T) / size) + 2 / size).all()
    # cleanlab gives rounded counts too; it rounds in another way, by up to one label each.
    assert np.abs(exact - theirs).max() <= 2 / size


def test_labels_are_drawn_independently():
    """Protects against draws shared between images: neighbours of one class agree as often as chance says."""
    given = drawn(np.zeros(20000, np.int32), "uniform", 1.0, C, 0)
    assert np.mean(given[1:] == given[:-1]) == pytest.approx(1 / C, abs=0.015)


def test_draw_is_a_pure_function_of_its_arguments():
    """Protects repeatability: same arguments, same labels; global randomness is neither read nor moved."""
    before = np.random.get_state()[1:]
    labels = LABELS.copy()
    first = drawn(labels, "uniform", 0.5, C, 7)
    after = np.random.get_state()[1:]
    assert after[1:] == before[1:] and (after[0] == before[0]).all()
    np.random.random()
    np.testing.assert_array_equal(first, drawn(labels, "uniform", 0.5, C, 7))
    assert (first != drawn(labels, "uniform", 0.5, C, 8)).any()
    np.testing.assert_array_equal(labels, LABELS)


def test_streams_differ():
    """Protects independence: split, flip map, noise and the pipeline's orders never share a random stream."""
    heads = [splits.generator(5, stream).random() for stream in splits.Stream]
    heads.append(splits.generator(5, "a new kind").random())
    heads += [np.random.default_rng((5, number, turn)).random() for number in range(4) for turn in range(4)]
    assert len(set(heads)) == len(splits.Stream) + 17
    assert splits.generator(5, "a new kind").random() != splits.generator(5, "another").random()


def test_realised_by_hand():
    """Protects the reported rate and matrix, and a class without images."""
    rate, matrix = noise.realised(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 1]), 4)
    assert rate == 0.5
    third = 1 / 3
    np.testing.assert_allclose(matrix, [[third, third, third, 0], [0, 1, 0, 0], [0] * 4, [0] * 4])


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan"), float("inf")])
def test_rate_out_of_range(rate):
    """Protects against percent taken for fractions, and NaN, whoever asks."""
    message = rf"noise\.rate: {rate} is outside \[0, 1\]"
    with pytest.raises(UserError, match=message):
        drawn(LABELS, "uniform", rate, C, 0)
    with pytest.raises(UserError, match=message):
        given_labels(config("uniform", rate), LABELS)


def given_labels(chosen, labels, truth=None, images=None, ids=None, classes=C, seed=0, names=None):
    """Given labels of images that are zeros where nothing is said."""
    images = np.zeros((len(labels), 1, 1, 1), np.uint8) if images is None else images
    names = names or tuple(map(str, range(classes)))
    return noise.given_labels(chosen, Part(images, labels, truth, ids), names, seed)


def test_every_kind_keeps_the_contract():
    """Protects who adds a kind: what each module says of itself, and that a rated one corrupts at the rate."""
    names = registry.names(noise)
    assert {"none", "uniform", "matrix", "instance", "file"} <= set(names)
    assert {name for name in names if noise.is_carried(name)} == {"none", "human"}
    for name in names:
        module = registry.get(noise, "noise.kind", name)
        assert type(module.RATED) is bool and type(module.CORRUPTS) is bool and module.__doc__
        assert hasattr(module, "matrix") or hasattr(module, "labels")
        assert noise.is_rated(name) is module.RATED
        if module.RATED:
            images = np.random.default_rng(0).integers(0, 256, (1000, 2, 2, 1)).astype(np.uint8)
            truth = np.tile(np.arange(10, dtype=np.int32), 100)
            rates = []
            for rate in (0.0, 0.6):
                given, _ = given_labels(config(name, rate), truth, images=images, classes=10, names=CIFAR10)
                rates.append(np.mean(given != truth))
            assert rates[0] == 0 and 0.25 < rates[1] < 0.65


def test_unknown_kind():
    """Protects the answer to a typing error, whoever asks."""
    message = r'noise\.kind: "unifrom" is not one of .*none, .*pair, .*uniform, .*\(did you mean "uniform"\?\)'
    with pytest.raises(UserError, match=message):
        noise.transition_matrix("unifrom", 0.5, C, 0)
    with pytest.raises(UserError, match=message):
        given_labels(config("unifrom"), LABELS)


@pytest.mark.parametrize("kind", ["instance", "instance_published", "twins", "human", "file"])
def test_kinds_without_a_matrix(kind):
    """Protects callers of the matrix: kinds that have none say so, instead of giving the identity."""
    with pytest.raises(UserError, match=rf'noise\.kind: "{kind}" has no transition matrix'):
        noise.transition_matrix(kind, 0.5, C, 0)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", [*SIMPLE_KINDS[1:], "semantic"])
def test_given_labels_of_matrix_kinds(kind, exact):
    """Protects the entry: kind, rate, seed, names and `exact` reach the draw, and the labels at hand are the truth."""
    labels = np.tile(np.arange(10, dtype=np.int32), 50)
    expected = noise.draw(labels, noise.transition_matrix(kind, 0.3, 10, 2, CIFAR10), 2, exact)
    got, truth = given_labels(config(kind, 0.3, exact), labels, seed=2, names=CIFAR10)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(truth, labels)
    assert got.dtype == np.int32 and (got != labels).any()


def test_given_labels_are_drawn_from_the_truth():
    """Protects against noise upon noise: where a source has true labels, those alone are corrupted."""
    labels, truth = np.zeros(50, np.int32), np.full(50, 2, np.int32)
    got, known = given_labels(config("pair", 1.0), labels, truth)
    np.testing.assert_array_equal(got, 3)
    np.testing.assert_array_equal(known, truth)
    got, known = given_labels(config("none"), labels, truth)
    np.testing.assert_array_equal(got, labels)
    np.testing.assert_array_equal(known, truth)
    assert not np.shares_memory(got, labels) and not np.shares_memory(known, truth)
    assert (given_labels(config("none"), labels)[1] == -1).all()


def test_given_labels_of_the_other_kinds(tmp_path, monkeypatch):
    """Protects the dispatch: what each kind reads of the data set and of the config."""
    labels = np.tile(np.arange(C, dtype=np.int32), 20)
    images = np.random.default_rng(0).integers(0, 256, (100, 2, 2, 3)).astype(np.uint8)
    got, _ = given_labels(config("instance"), labels, images=images, seed=3)
    request = noise.Request(0.4, C, 3, truth=labels, images=images)
    np.testing.assert_array_equal(got, instance.labels(request))
    np.save(tmp_path / "matrix.npy", np.roll(np.eye(C), 1, axis=1))
    for exact in (False, True):
        got, _ = given_labels(config("matrix", exact=exact, file=tmp_path / "matrix.npy"), labels)
        np.testing.assert_array_equal(got, (labels + 1) % C)
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"n{row},2\n" for row in range(100)))
    ids = np.array([f"n{row}" for row in range(100)])
    got, truth = given_labels(config("file", file=tmp_path / "labels.csv"), np.full(100, -1, np.int32), ids=ids)
    np.testing.assert_array_equal(got, 2)
    np.testing.assert_array_equal(truth, -1)
    asked = []
    for module in (human, file):
        monkeypatch.setattr(module, "labels", lambda request: asked.append(request) or request.given)
    given_labels(config("human", file="x", human="aggre"), labels, labels)
    assert asked[0].file == "x" and asked[0].column == "aggre" and (asked[0].truth == labels).all()


def test_given_labels_refuses_fields_that_do_not_fit():
    """Protects against settings without effect: exact counts of nothing, and a file that is not named."""
    labels = np.zeros(4, np.int32)
    for kind in ("instance", "instance_published", "twins", "human", "file"):
        with pytest.raises(UserError, match=rf'noise\.exact: noise\.kind "{kind}" has no transition matrix'):
            given_labels(config(kind, exact=True, file="x"), labels)
    for kind in ("matrix", "file"):
        with pytest.raises(UserError, match=rf'noise\.file: is empty, expected the file that noise\.kind "{kind}"'):
            given_labels(config(kind), labels)


def test_other_arguments_are_checked():
    """Protects against silent wrap-around of labels, one class, and a seed NumPy refuses in its own words."""
    with pytest.raises(UserError, match=r"labels row 1: -1 is out of range, expected 0 to 4"):
        drawn(np.array([0, -1]), "uniform", 0.5, C, 0)
    with pytest.raises(UserError, match=r"labels row 0: 5 is out of range, expected 0 to 4"):
        noise.realised(np.array([0]), np.array([5]), C)
    with pytest.raises(UserError, match=r"labels: 0 given for 2 true ones"):
        noise.realised(np.array([0, 1]), np.zeros(0, int), C)
    with pytest.raises(UserError, match=r"num_classes: 1 is outside"):
        noise.transition_matrix("uniform_excluded", 0.5, 1, 0)
    with pytest.raises(UserError, match=r"seed: -1 is out of range, expected 0 or more"):
        drawn(LABELS, "uniform", 0.5, C, -1)
