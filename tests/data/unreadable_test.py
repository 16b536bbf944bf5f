"""What the system does not let be read says nothing about what is there: status 4, and nothing is skipped."""

import builtins
import errno
import io
import os
import pathlib

import loading
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from kdmlc_jax.arrays import load_array
from kdmlc_jax.data.formats import boxed, files, label_lists, pickles, rows, tables
from kdmlc_jax.data.images.files import survey
from kdmlc_jax.data.sources import _idx
from kdmlc_jax.errors import StorageError
from kdmlc_jax.storage import labels

READERS = {
    "lines": lambda path: files.read_lines(path),
    "bytes": lambda path: files.read_bytes(path),
    "names": lambda path: rows.read_names(path),
    "csv": lambda path: tables.read_columns(path.with_suffix(".csv"), {"a": ("a",)}, ()),
    "parquet": lambda path: tables.read_columns(path.with_suffix(".parquet"), {"a": ("a",)}, ()),
    "json": lambda path: label_lists.read_json(path),
    "a boxed dictionary": lambda path: boxed.read_boxed(path),
    "torch": lambda path: pickles.read_torch(path),
    "array": lambda path: load_array(path.with_suffix(".npy")),
    "idx": lambda path: _idx._idx(path, 0x803),
    "labels of a run": lambda path: labels.read(path.with_suffix(".parquet"), np.arange(2), np.zeros(2, int), 2),
    "images": lambda path: survey([path], 64.0, True),
    "archive": lambda path: files.open_files(path, (), {}),
}


def fail(number, real=builtins.open):
    """`real` that fails so for the files of these tests."""

    def opened(path, *arguments, **options):
        if isinstance(path, str | os.PathLike) and "failing" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **options)

    return opened


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("name", READERS)
def test_readers(tmp_path, monkeypatch, name, number):
    """Protects from damage seen where a server stumbles or rights are missing."""
    path = tmp_path / "failing"
    for suffix in ("", ".csv", ".parquet", ".npy"):
        path.with_suffix(suffix).write_bytes(b"x" * 20)
    for place in (builtins, io):
        monkeypatch.setattr(place, "open", fail(number))
    monkeypatch.setattr(os, "open", fail(number, os.open))
    # Arrow opens files itself.
    monkeypatch.setattr(parquet, "read_table", lambda path, **options: open(path))  # noqa: SIM115
    with pytest.raises(StorageError, match="cannot be read"):
        READERS[name](path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("fields", [{}, {"on_bad_image": "skip"}, {"on_bad_image": "skip", "verify": False}])
def test_no_image_is_skipped(tmp_path, monkeypatch, number, fields):
    """Protects a set from losing images for an error of the disk: the run ends, whatever is to be skipped."""
    for name in ("cat/a.png", "cat/failing.png", "dog/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    monkeypatch.setattr(builtins, "open", fail(number))
    monkeypatch.setattr(os, "open", fail(number, os.open))
    with pytest.raises(StorageError, match=r"failing\.png: cannot be read"):
        loading.load("folder", tmp_path, **fields)


def test_no_folder_is_passed_over(tmp_path, monkeypatch):
    """Protects a class whose folder cannot be listed."""
    for name in ("cat/a.png", "dog/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name)
    real = os.scandir

    def scanned(path):
        if pathlib.Path(path).name == "dog":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scanned)
    with pytest.raises(StorageError, match="dog: cannot be read"):
        loading.load("folder", tmp_path)
