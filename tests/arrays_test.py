"""What functions of arrays refuse before NumPy or JAX would wrap, clamp or round it."""

import errno
import os

import numpy as np
import pytest

from kdmlc_jax.arrays import check_features, check_labels, load_array
from kdmlc_jax.data.formats.rows import rows_of
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.storage.labels import _soft


def test_good_labels_come_back_as_int32():
    """Protects callers that go on with what the check returns: the same numbers, of one type."""
    for dtype in (np.uint8, np.int32, np.int64):
        got = check_labels(np.array([0, 2, 1], dtype), 3)
        assert got.dtype == np.int32 and got.tolist() == [0, 2, 1]
    assert check_labels(np.zeros(0, np.int64), 3).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "row 1: 3 is out of range, expected 0 to 2"),
        ([-1, 0], "row 0: -1 is out of range, expected 0 to 2"),
        ([0.0, 1.0], ": float64 of shape (2,), expected integers of shape [N]"),
        ([True, False], ": bool of shape (2,), expected integers of shape [N]"),
        ([[0, 1]], ": int64 of shape (1, 2), expected integers of shape [N]"),
    ],
)
def test_bad_labels_are_named(labels, message):
    """Protects from labels that would be counted as another class: place, row, value and range in one line."""
    with pytest.raises(UserError) as caught:
        check_labels(np.array(labels), 3, "file.npy")
    assert str(caught.value) in (f"file.npy {message}", f"file.npy{message}")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([[1.0, np.nan]], "x row 0, column 1: nan is no finite float32 (1 such rows)"),
        ([[1.0], [1e300]], "x row 1, column 0: inf is no finite float32 (1 such rows)"),
        ([1.0, 2.0], "x: shape (2,), expected [rows, columns], one or more of each"),
        ([[1.0], [1.0, 2.0]], "x: rows of unequal length, expected shape [rows, columns]"),
        ([["a"]], "x: <U1 of shape (1, 1), expected real numbers"),
        ([[1j]], "x: complex128 of shape (1, 1), expected real numbers"),
    ],
)
def test_bad_features_are_named(features, message):
    """Protects distances from NaN, and from what float32 cannot hold."""
    with pytest.raises(UserError) as caught:
        check_features("x", features)
    assert str(caught.value) == message


def test_files_of_arrays(tmp_path):
    """Protects from files that are missing, cut, of something else, or of pickled objects, which are never loaded."""
    path = tmp_path / "x.npy"
    with pytest.raises(UserError, match=r"x\.npy: no such file"):
        load_array(path)
    np.save(path, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(load_array(path), [[0, 1, 2], [3, 4, 5]])
    good = path.read_bytes()
    np.save(path, np.array([None]), allow_pickle=True)
    for raw in (b"", b"text", good[:20], good[:-1], path.read_bytes()):
        path.write_bytes(raw)
        with pytest.raises(UserError, match=r"x\.npy: not an array of numbers in \.npy format \("):
            load_array(path)


def by_name(path):
    return rows_of(path, 2, 2, np.array(["a", "b"]))


def beliefs(path):
    return _soft(path, np.arange(2), np.arange(2), 2)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("read", [load_array, by_name, beliefs])
def test_what_nobody_could_look_at_is_not_absent(tmp_path, monkeypatch, read, number):
    """Protects rows and beliefs from a disk that fails when it is asked whether their file is there."""
    real, path = os.stat, tmp_path / "x.npy"

    def stat(name, *rest, **more):
        if str(name).startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number), str(name))
        return real(name, *rest, **more)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(StorageError, match=r"cannot be read \(.*nothing was changed"):
        read(path)
