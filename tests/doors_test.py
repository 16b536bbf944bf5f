"""Every door under any bytes: a result or one line, in bounded time and memory, and nothing is written.

KDMLC_EXAMPLES says how many inputs each door gets (default 12; benchmarks/README.md has what thousands found).
"""

import gzip
import io
import json
import os
import pickle
import resource
import time
import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from torch_bytes import saved

from kdmlc_jax import config as config_lib
from kdmlc_jax import finished
from kdmlc_jax.arrays import load_array
from kdmlc_jax.config import fields
from kdmlc_jax.data import provenance
from kdmlc_jax.data.formats import manifest, pickles
from kdmlc_jax.data.formats.classes import class_file
from kdmlc_jax.data.formats.safetensors import read_safetensors
from kdmlc_jax.data.formats.tables import read_table
from kdmlc_jax.data.formats.torch_weights import read_weights
from kdmlc_jax.data.images.decode import BadImage, decode, read_pixels
from kdmlc_jax.data.noise.matrix import read_matrix
from kdmlc_jax.data.sources import _idx
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import files, labels

EXAMPLES = int(os.environ.get("KDMLC_EXAMPLES", "12"))
SECONDS, MEBIBYTES = 10, 1024


def written(write):
    """What `write` writes into a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def image(kind, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    return written(lambda file: Image.fromarray(pixels).save(file, kind, **options))


def table(**options):
    columns = {"path": ["a.png", "b.png"], "label": ["cat", "dog"], "n": [1, 2]}
    return written(lambda file: parquet.write_table(pa.table(columns), file, **options))


def noise():
    splits = Splits(*(np.arange(2) for _ in Splits._fields))._asdict()
    arrays = {"given_labels": np.arange(4), "carried_labels": np.arange(4), "realised_rate": np.float64(0.1)}
    arrays |= {"realised_matrix": np.eye(2), "images": np.array("x"), **splits}
    return written(lambda file: np.savez(file, **arrays)), written(lambda file: np.savez_compressed(file, **arrays))


def safetensors():
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def idx():
    return bytes((0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2)) + bytes(4)


def pickled(protocol):
    return pickle.dumps({"data": np.arange(6).reshape(2, 3), "labels": [0, 1], b"x": "y"}, protocol)


def listed(path):
    config = fields.base().data
    config.manifest = path.name
    return manifest.read(path.parent, config)


SUMMARY = json.dumps(files.sealed({"networks": {}, "noise": {}, "labels": {"accuracy_before": None}})).encode()
CONFIG = json.dumps(files.sealed(config_lib.load("configs/digits.py", {}).to_dict())).encode()
MAGIC = 0x00000803
DOORS = {  # name of the file -> (reader, good files)
    "a.csv": (listed, [b"path,label\na.png,cat\nb.png,dog\n", "path;label\na.png;é\n".encode("utf-16")]),
    "a.parquet": (listed, [table(), table(compression="zstd"), table(use_dictionary=False)]),
    "table.csv": (lambda path: read_table(path, {"id": ("path",)}, ("id",)), [b"sep=;\npath;label\n'=a;1\n"]),
    "classes.txt": (class_file, [b"cat\ndog\n"]),
    "matrix.csv": (lambda path: read_matrix(path, 2), [b"0.9,0.1\n0,1\n"]),
    "a.npy": (load_array, [written(lambda file: np.save(file, np.eye(3)))]),
    "noise.npz": (provenance.load, list(noise())),
    "idx": (lambda path: _idx._idx(path, MAGIC), [idx()]),
    "idx.gz": (lambda path: _idx._idx(path, MAGIC), [gzip.compress(idx())]),
    "pickle": (lambda path: pickles.load_pickle(path.read_bytes(), path), [pickled(0), pickled(2), pickled(5)]),
    "a.pth": (read_weights, [saved({"a.weight": np.zeros((2, 2), np.float32)})]),
    "a.safetensors": (read_safetensors, [safetensors()]),
    "summary.json": (lambda path: finished.read(path.parent), [SUMMARY]),
    "config.json": (config_lib.read, [CONFIG]),
    "labels.parquet": (lambda path: labels.read(path, np.array(["a.png"]), np.array([0]), 2), [table()]),
    "image": (
        lambda path: (decode(path, 8, 3, 1.0), read_pixels(path, 1.0)),
        [
            *(image(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")),
            image("JPEG", progressive=True),
            image("TIFF", compression="tiff_lzw"),
        ],
    ),
}


@st.composite
def changed(draw, good):
    """A good file, cut, with bytes changed, repeated or put in."""
    raw = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        what = draw(st.sampled_from(("flip", "byte", "cut", "insert", "repeat")))
        if what == "flip" and raw:
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "byte" and raw:
            raw[at] = draw(st.sampled_from((0, 1, 127, 128, 255)))
        elif what == "cut":
            del raw[at:]
        elif what == "insert":
            raw[at:at] = draw(st.binary(max_size=20))
        else:
            raw += raw[at : at + draw(st.integers(0, 200))] * draw(st.integers(1, 50))
    return bytes(raw)


def peak():
    """MiB, the most that this process has ever taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.parametrize("name", DOORS)
def test_any_bytes(tmp_path, name):
    """Protects every reader from whatever a file may hold."""
    reader, good = DOORS[name]
    path = tmp_path / name
    for raw in good:
        path.write_bytes(raw)
        try:
            reader(path)
        except UserError as error:  # a file that is not enough for its reader alone
            assert name in ("a.csv", "labels.parquet"), error
    inputs = st.one_of(st.binary(max_size=300), changed(good), st.sampled_from(good).map(lambda raw: raw * 2))
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=quiet, database=None, derandomize=True)
    @given(raw=inputs)
    def try_one(raw):
        path.write_bytes(raw)
        began, most = time.monotonic(), peak()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                reader(path)
            except (UserError, BadImage) as error:
                assert "\n" not in str(error), error
        assert time.monotonic() - began < SECONDS and peak() - most < MEBIBYTES
        assert os.listdir(tmp_path) == [name] and path.read_bytes() == raw

    try_one()


@given(text=st.text(max_size=60), field=st.sampled_from(("optim.lr", "seed", "baselines", "data.mean", "method.name")))
@settings(max_examples=EXAMPLES * 3, deadline=None, derandomize=True, database=None)
def test_any_text_of_a_config(text, field):
    """Protects the command line: whatever is typed is a value or one line."""
    config = fields.base()
    for attempt in (
        lambda: config_lib.parse_arguments(text),
        lambda: config_lib.assign(config, field if field != "method.name" else text, text),
        lambda: config_lib.assign(config, "optim.lr", "(" * 5_000),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            try:
                attempt()
            except UserError as error:
                assert str(error)
