"""Noise against its transition matrix, and the file of labels a run trained on."""

import numpy as np
import pytest

from kdmlc_jax.data import noise, splits
from kdmlc_jax.errors import UserError

C = 5
LABELS = np.tile(np.arange(C, dtype=np.int32), 4000)


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", noise.KINDS)
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


@pytest.mark.parametrize("kind", noise.KINDS)
def test_labels_follow_the_matrix(kind):
    """Protects the draw: counts agree with the matrix by a chi-square test, impossible classes never occur."""
    matrix = noise.transition_matrix(kind, 0.6, C, seed=1)
    given = noise.corrupt(LABELS, kind, 0.6, C, seed=1)
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


def test_labels_are_drawn_independently():
    """Protects against draws shared between images: neighbours of one class agree as often as chance says."""
    given = noise.corrupt(np.zeros(20000, np.int32), "uniform", 1.0, C, seed=0)
    assert np.mean(given[1:] == given[:-1]) == pytest.approx(1 / C, abs=0.015)


def test_corrupt_is_a_pure_function_of_its_arguments():
    """Protects repeatability: same arguments, same labels; global randomness is neither read nor moved."""
    before = np.random.get_state()[1:]
    labels = LABELS.copy()
    first = noise.corrupt(labels, "uniform", 0.5, C, seed=7)
    after = np.random.get_state()[1:]
    assert after[1:] == before[1:] and (after[0] == before[0]).all()
    np.random.random()
    np.testing.assert_array_equal(first, noise.corrupt(labels, "uniform", 0.5, C, seed=7))
    assert (first != noise.corrupt(labels, "uniform", 0.5, C, seed=8)).any()
    np.testing.assert_array_equal(labels, LABELS)


def test_streams_differ():
    """Protects independence: split, flip map, noise and the pipeline's orders never share a random stream."""
    heads = [splits.generator(5, stream).random() for stream in splits.Stream]
    heads += [np.random.default_rng((5, number, turn)).random() for number in range(4) for turn in range(4)]
    assert len(set(heads)) == len(splits.Stream) + 16


def test_realised_by_hand():
    """Protects the reported rate and matrix, and a class without images."""
    rate, matrix = noise.realised(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 1]), 4)
    assert rate == 0.5
    third = 1 / 3
    np.testing.assert_allclose(matrix, [[third, third, third, 0], [0, 1, 0, 0], [0] * 4, [0] * 4])


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan"), float("inf"), "0.5", None, True])
def test_rate_out_of_range(rate):
    """Protects against percent taken for fractions, NaN and text."""
    with pytest.raises(UserError) as caught:
        noise.corrupt(LABELS, "uniform", rate, C, seed=0)
    assert "noise.rate" in str(caught.value) and repr(rate) in str(caught.value) and "[0, 1]" in str(caught.value)


def test_unknown_kind():
    """Protects the answer to a typing error."""
    with pytest.raises(UserError) as caught:
        noise.transition_matrix("unifrom", 0.5, C, 0)
    for part in ("noise.kind", '"unifrom"', "none, uniform, uniform_excluded, flip, pair", '(did you mean "uniform"?)'):
        assert part in str(caught.value)


def test_other_arguments_are_checked():
    """Protects against silent wrap-around of labels, one class, and a seed NumPy refuses in its own words."""
    with pytest.raises(UserError, match=r"labels row 1: -1 is out of range, expected 0 to 4"):
        noise.corrupt(np.array([0, -1]), "uniform", 0.5, C, 0)
    with pytest.raises(UserError, match=r"labels row 0: 5 is out of range, expected 0 to 4"):
        noise.realised(np.array([0]), np.array([5]), C)
    with pytest.raises(UserError, match=r"labels: 0 given for 2 true ones"):
        noise.realised(np.array([0, 1]), np.zeros(0, int), C)
    with pytest.raises(UserError, match=r"labels: float64 of shape \(2,\), expected integers"):
        noise.corrupt(np.array([0.0, 1.0]), "uniform", 0.5, C, 0)
    with pytest.raises(UserError, match=r"num_classes: 1 is out of range, expected 2 or more"):
        noise.transition_matrix("uniform_excluded", 0.5, 1, 0)
    with pytest.raises(UserError, match=r"seed: -1 is out of range, expected 0 or more"):
        noise.corrupt(LABELS, "uniform", 0.5, C, -1)


def artefact():
    parts = splits.split(LABELS, 10, 20, 0, 0, C)
    given = noise.corrupt(LABELS, "uniform", 0.5, C, 0)
    return noise.Artefact(parts, given, *noise.realised(LABELS, given, C))


def test_artefact_round_trip(tmp_path):
    """Protects noise.npz: every array and dtype comes back, under the promised keys, and overwriting works."""
    path, saved = tmp_path / "noise.npz", artefact()
    path.write_text("old")
    noise.save_artefact(path, *saved)
    loaded = noise.load_artefact(str(path))
    for name in splits.Splits._fields:
        np.testing.assert_array_equal(getattr(loaded.splits, name), getattr(saved.splits, name))
        assert getattr(loaded.splits, name).dtype == np.int64
    np.testing.assert_array_equal(loaded.given_labels, saved.given_labels)
    assert loaded.given_labels.dtype == np.int32
    assert loaded.realised_rate == saved.realised_rate
    np.testing.assert_array_equal(loaded.realised_matrix, saved.realised_matrix)
    with np.load(path, allow_pickle=False) as file:
        keys = {"noisy", "trusted", "validation", "given_labels", "realised_rate", "realised_matrix"}
        assert set(file) == keys
    assert list(tmp_path.iterdir()) == [path]


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """Protects against half-written artefacts: a full disk leaves the old file and no temporary one."""
    path = tmp_path / "noise.npz"
    path.write_text("old")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"noise\.npz: cannot be written \(No space left on device\)"):
        noise.save_artefact(path, *artefact())
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_save_into_no_directory(tmp_path):
    """Protects the message where the workdir is gone."""
    path = tmp_path / "absent" / "noise.npz"
    with pytest.raises(UserError) as caught:
        noise.save_artefact(path, *artefact())
    assert f"{path}: cannot be written (No such file or directory)" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_load_refuses_what_is_not_an_artefact(tmp_path):
    """Protects resume: missing, foreign, pickled and damaged files give one line with the path."""
    path = tmp_path / "noise.npz"
    with pytest.raises(UserError, match=r"noise\.npz: no such file"):
        noise.load_artefact(path)
    noise.save_artefact(path, *artefact())
    good = path.read_bytes()
    np.savez(tmp_path / "other.npz", noisy=np.arange(3))
    np.savez(tmp_path / "pickled.npz", **{k: np.array([None]) for k in ("noisy", "trusted", "validation")})
    foreign = [(tmp_path / name).read_bytes() for name in ("other.npz", "pickled.npz")]
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    for raw in (b"", b"text", good[:middle], flipped, *foreign):
        path.write_bytes(raw)
        with pytest.raises(UserError, match=r"noise\.npz: cannot be read as the noise\.npz of a run") as caught:
            noise.load_artefact(path)
        assert "\n" not in str(caught.value)
