"""Weights from files: .safetensors and torch's two forms are read right, and what is damaged or hostile is one line."""

import json
import pickle
import struct

import jax.numpy as jnp
import numpy as np
import pytest
import torch_bytes
from torch_bytes import ROW, TENSORS, ZIP, in_a_row, table, tensor, word, zipped

from kdmlc_jax.data.formats.safetensors import read_safetensors
from kdmlc_jax.data.formats.torch_weights import MAX_PICKLE, read_weights
from kdmlc_jax.errors import UserError

ONE = np.arange(4, dtype=np.float32)


def file(folder, raw, suffix):
    path = folder / f"weights{suffix}"
    path.write_bytes(raw)
    return path


def tensors_file(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def about(dtype="F32", shape=(4,), place=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


def test_safetensors(tmp_path):
    """Protects the arrays: names, types, shapes, also of bfloat16, of nothing, and of a number alone."""
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    half = np.array([1.5, -2], jnp.bfloat16)
    header = {
        "__metadata__": {"format": "pt"},
        "x.half": about("BF16", (2,), (24, 28)),
        "x": about("F32", (2, 3), (0, 24)),
        "empty": about("F64", (0, 3), (28, 28)),
        "one": about("I64", (), (28, 36)),
    }
    raw = tensors_file(header, data.tobytes() + half.tobytes() + np.int64(7).tobytes())
    found = read_safetensors(file(tmp_path, raw, ".safetensors"))
    assert list(found) == ["x.half", "x", "empty", "one"] and found["empty"].shape == (0, 3) and found["one"] == 7
    np.testing.assert_array_equal(found["x"], data)
    np.testing.assert_array_equal(found["x.half"].astype(np.float32), [1.5, -2])


LATE = b"{" + b"".join(b'"%d":0,' % at for at in range(100_000)) + b'"99999":0}'
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD_HEADERS = {
    "short": (b"\0\0", "less than 8 bytes"),
    "no header": (tensors_file(b"", length=10**15), "a header of 1000000000000000 bytes in a file of 8"),
    "long header": (tensors_file({"x": about()}, ONE.tobytes(), length=1000), "a header of 1000 bytes"),
    "no JSON": (tensors_file(b"\xff\xfe{}"), "cannot be believed"),
    "a list": (tensors_file(b"[1, 2]"), "no table of arrays"),
    "deep": (tensors_file(DEEP), "cannot be believed"),
    "twice": (tensors_file(b'{"x": {"dtype": "F32"}, "x": {}}'), "'x' is there twice"),
    "twice within": (tensors_file(b'{"x": {"dtype": "F32", "dtype": "F64"}}'), "'dtype' is there twice"),
    "twice after many": (tensors_file(LATE), "'99999' is there twice"),
    "beyond": (tensors_file({"x": about()}, ONE.tobytes()[:8]), "bytes 0 to 16 of 8"),
    "too small": (tensors_file({"x": about(shape=(3,))}, ONE.tobytes()), r"F32 \[3\], at bytes 0 to 16"),
    "overlap": (
        tensors_file({"x": about(), "y": about(place=(8, 24))}, bytes(24)),
        "'y' begins at byte 8, expected 16",
    ),
    "same place": (tensors_file({"x": about(), "y": about()}, bytes(16)), "overlap"),
    "gap": (tensors_file({"x": about(place=(4, 20))}, bytes(20)), "leave a gap"),
    "rest": (tensors_file({"x": about()}, bytes(20)), "arrays of 16 bytes in 20"),
    "dtype": (tensors_file({"x": about("F8")}, bytes(16)), "'x' is"),
    "dtype list": (tensors_file({"x": about(["F32"])}, bytes(16)), "'x' is"),
    "negative": (tensors_file({"x": about(shape=(-2, -2))}, bytes(16)), "has shape"),
    "truth": (tensors_file({"x": about(shape=(True, 4))}, bytes(16)), "has shape"),
    "float": (tensors_file(b'{"x": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}}', bytes(16)), "4.0"),
    "infinite": (tensors_file(b'{"x": Infinity}'), "Infinity where a whole number belongs"),
    "huge": (tensors_file({"x": about(shape=(2**40, 2**40), place=(0, 16))}, bytes(16)), "has shape"),
    "many axes": (tensors_file({"x": about(shape=(1,) * 9, place=(0, 4))}, bytes(4)), "has shape"),
    "no offsets": (tensors_file({"x": {"dtype": "F32", "shape": [4]}}, bytes(16)), "'x' is"),
}


@pytest.mark.parametrize("raw, message", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_hostile_headers(raw, message, tmp_path):
    """Protects memory and numbers from a header that claims what the file does not hold: one line that names it."""
    path = file(tmp_path, raw, ".safetensors")
    with pytest.raises(UserError, match=message) as error:
        read_safetensors(path)
    assert (
        str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(path))
    )


@pytest.mark.parametrize("raw", [ZIP, ROW], ids=["zip", "row"])
def test_what_torch_has_written(raw, tmp_path):
    """Protects both forms: tensors of torch 2.13, views and transposed ones, bfloat16 and numbers alone."""
    found = read_weights(file(tmp_path, raw, ".pth"))
    assert list(found) == list(TENSORS)
    for name, want in TENSORS.items():
        np.testing.assert_array_equal(found[name].astype(want.dtype), want)
        assert found[name].shape == want.shape and (found[name].dtype == want.dtype or name == "b")


def test_weights_beside_other_things(tmp_path):
    """Protects checkpoints of training scripts: the weights stand in `state_dict`."""
    inner = table({"w": tensor("0", ONE)})[2:-1]
    raw = zipped(table({"epoch": torch_bytes.whole(3), "state_dict": inner}), {"0": ONE.tobytes()})
    np.testing.assert_array_equal(read_weights(file(tmp_path, raw, ".pth"))["w"], ONE)


def call(name, *rest):
    """Opcodes that call a global."""
    return f"c{name}\n".encode() + b"(" + b"".join(rest) + b"tR"


class Evil:
    def __reduce__(self):
        return eval, ("open('{}', 'w')",)


GOOD = {"0": ONE.tobytes()}
CHAIN = b"\x80\x02" + b"(" * 20_000 + b"t" * 20_000 + b"."
BAD_PICKLES = {
    "eval": (pickle.dumps(Evil()), GOOD, "asks for 'builtins.eval'"),
    "system": (table({"w": call("posix\nsystem", word("true"))}), GOOD, "asks for 'posix.system'"),
    "other of torch": (table({"w": call("torch._utils\n_rebuild_parameter")}), GOOD, "torch._utils._rebuild_parameter"),
    "load of torch": (table({"w": call("torch.serialization\nload", word("x"))}), GOOD, "torch.serialization.load"),
    "hidden name": (table({"w": call("collections\nOrderedDict.__init__")}), GOOD, "OrderedDict.__init__"),
    "numpy": (table({"w": call("numpy.core.multiarray\n_reconstruct")}), GOOD, "asks for 'numpy"),
    "extension": (b"\x80\x02\x82\x01.", GOOD, "opcode EXT1"),
    "long": (b"N" * MAX_PICKLE + b".", GOOD, "a pickle of 4194305 bytes, expected at most 4194304"),
    "nested": (CHAIN, GOOD, "tuples, expected at most"),
    "no tensors": (table({"w": torch_bytes.whole(3)}), GOOD, "no tensors by name"),
    "a list": (b"\x80\x02]" + tensor("0", ONE) + b"a.", GOOD, "no tensors by name"),
    "beyond": (table({"w": tensor("0", ONE, shape=(5,))}), GOOD, r"shape \[5\] in a storage of 4"),
    "strides beyond": (table({"w": tensor("0", ONE, shape=(2, 2), strides=(3, 2))}), GOOD, r"shape \[2, 2\]"),
    "spread": (table({"w": tensor("0", ONE, shape=(2**30, 2**30), strides=(0, 0))}), GOOD, "in a storage of 4"),
    "many axes": (table({"w": tensor("0", ONE, shape=(1,) * 9, strides=(1,) * 9)}), GOOD, "more than 8 axes"),
    "negative": (table({"w": tensor("0", ONE, shape=(-4,), strides=(1,))}), GOOD, "a tensor that is none"),
    "negative stride": (table({"w": tensor("0", ONE, strides=(-1,))}), GOOD, "a tensor that is none"),
    "claims more": (table({"w": tensor("0", ONE, size=8)}), GOOD, "data/0 is 16, expected 32"),
    "claims all": (table({"w": tensor("0", ONE, size=2**31 - 1)}), GOOD, "storage without name or size"),
    "absent": (table({"w": tensor("9", ONE)}), GOOD, "data/9 is absent"),
    "outside": (table({"w": tensor("../../x", ONE)}), GOOD, "is absent"),
    "two sizes": (table({"w": tensor("0", ONE), "v": tensor("0", ONE, size=2, shape=(2,))}), GOOD, "two sizes"),
    "no storage": (b"\x80\x02" + word("x") + b"Q.", GOOD, "is no storage"),
    "a storage is called": (table({"w": call("torch\nFloatStorage", word("x"))}), GOOD, "damaged"),
    "cut": (table({"w": tensor("0", ONE)})[:-3], GOOD, "damaged"),
}


@pytest.mark.parametrize("pickled, storages, message", BAD_PICKLES.values(), ids=BAD_PICKLES)
def test_hostile_pickles(pickled, storages, message, tmp_path):
    """Protects the machine: no global but those of tensors, no view beyond its storage, one line that says what."""
    path = file(tmp_path, zipped(pickled, storages), ".pth")
    with pytest.raises(UserError, match=message) as error:
        read_weights(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_hostile_rows(tmp_path):
    """Protects the older form alike: other globals, storages cut or of other sizes, another magic."""
    good = table({"w": tensor("0", ONE).replace(b"tQ", b"NtQ")})
    size = (4).to_bytes(8, "little")
    path = file(tmp_path, in_a_row(good, ["0"], size + ONE.tobytes()), ".pth")
    np.testing.assert_array_equal(read_weights(path)["w"], ONE)
    bad = {
        in_a_row(pickle.dumps(Evil()), ["0"]): "asks for 'builtins.eval'",
        in_a_row(good, ["0"], size + ONE.tobytes()[:9]): "is cut, expected 4",
        in_a_row(good, ["0"], (9).to_bytes(8, "little") + ONE.tobytes()): "has 9 numbers",
        in_a_row(good, ["1"], size + ONE.tobytes()): "damaged",
        in_a_row(good, [], b""): "damaged",
        in_a_row(good)[:-9]: "damaged",
        b"N" * MAX_PICKLE + b".": "pickle exhausted",
        pickle.dumps({"w": 1}): "neither a zip archive nor torch's magic number",
        b"": "damaged",
        b"hello": "damaged|neither",
    }
    for raw, message in bad.items():
        with pytest.raises(UserError, match=message) as error:
            read_weights(file(tmp_path, raw, ".pth"))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("raw", [ZIP, ROW], ids=["zip", "row"])
def test_cut_files(raw, tmp_path):
    """Protects from a cut download: cut anywhere, a file is refused in one line."""
    for end in range(0, len(raw) - 1, 97):
        with pytest.raises(UserError, match=r"expected|refused") as error:
            read_weights(file(tmp_path, raw[:end], ".pth"))
        assert "\n" not in str(error.value)


SMALL = tensors_file({"x": about("F32", (2, 3), (0, 24)), "y": about("BF16", (2,), (24, 28))}, bytes(28))


@pytest.mark.parametrize("raw, read", [(ZIP, read_weights), (ROW, read_weights), (SMALL, read_safetensors)])
def test_changed_files(raw, read, tmp_path):
    """Protects from what nobody has thought of: files of which a few bytes are others, gone or more are read or refused
    in one line, and never end otherwise."""
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        changed = bytearray(raw)
        at = rng.integers(len(changed))
        changed[at : at + rng.integers(0, 9)] = rng.integers(0, 256, rng.integers(0, 5)).astype(np.uint8).tobytes()
        try:
            for array in read(file(tmp_path, bytes(changed), ".weights")).values():
                array.copy()
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 300 + len(str(tmp_path))
    assert refused > 100
