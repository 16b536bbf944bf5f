"""The door for input files: what is no regular file is one line at once, and nothing larger than said is read."""

import errno
import os
import re
import socket
import time

import numpy as np
import pytest

from kdmlc_jax.arrays import load_array
from kdmlc_jax.data import provenance
from kdmlc_jax.data.formats.files import read_bytes, read_lines
from kdmlc_jax.data.formats.safetensors import read_safetensors
from kdmlc_jax.data.formats.tables import read_columns
from kdmlc_jax.data.formats.torch_weights import read_weights
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.storage import checksums, door, files, labels, networks

READERS = {
    "x": read_bytes,
    "x.txt": read_lines,
    "x.csv": lambda path: read_columns(path, {}, ()),
    "x.parquet": lambda path: read_columns(path, {}, ()),
    "x.npy": load_array,
    "x.npz": provenance.load,
    "x.safetensors": read_safetensors,
    "x.pth": read_weights,
    "x.json": lambda path: files.read_sealed(path, "an object"),
    "labels.parquet": lambda path: labels.whole(path.parent),
    "network.json": lambda path: networks.read(path.parent),
    "sum": checksums.file_sum,
}


def odd(path, kind):
    """Makes something at `path` that is no file to read."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "socket"])
@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits(tmp_path, monkeypatch, name, kind):
    """Protects every reader from pipes, which block, and devices, which never end: one line that says what it is."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    path = tmp_path / name
    odd(path.relative_to(tmp_path), kind)
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        READERS[name](path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert f"a {kind}" in str(caught.value) and time.monotonic() - began < 5


def test_size(tmp_path):
    """Protects memory: the size is asked before anything is read, and more than that is not read if a file grows."""
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    assert door.read(path, 100) == bytes(100)
    with pytest.raises(UserError, match="100 bytes, expected at most 99"):
        door.read(path, 99)
    os.truncate(path, 1 << 40)  # takes no room
    with pytest.raises(UserError, match="1099511627776 bytes, expected at most 2147483648"):
        read_bytes(path)
    with pytest.raises(UserError, match=r"/proc/self/maps: more than 10 bytes"):
        door.read("/proc/self/maps", 10)


def test_a_packed_file_that_claims_too_much(tmp_path):
    """Protects memory from half a megabyte of zeros; what numpy writes, packed or not, is read."""
    path = tmp_path / "noise.npz"
    np.savez_compressed(path, given_labels=np.zeros(100_000_000, np.int32))
    with pytest.raises(UserError, match="unpack to 4000001"):
        provenance.load(path)


def test_an_error_while_reading_names_the_file(tmp_path, monkeypatch):
    """Protects the line that a person is told: the system names no file where it refuses to go on reading one."""
    path = tmp_path / "x"
    path.write_bytes(b"a")

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:  # pytest asks, too
        patched.setattr(os, "fstat", refuse)
        with pytest.raises(OSError, match=re.escape(f"Input/output error: '{path}'")):
            door.read(path)
        with pytest.raises(StorageError, match=re.escape(f"{path}: cannot be read (Input/output error)")):
            checksums.sum_of(path)
