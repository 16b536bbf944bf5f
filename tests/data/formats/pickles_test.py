"""Reading pickles from strangers: arrays come back, nothing else happens, and damage is one clear line."""

import builtins
import codecs
import datetime
import io
import operator
import os
import pickle
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from kdmlc_jax.data.formats import pickles
from kdmlc_jax.errors import UserError

CONTENT = {
    "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "big": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "labels": [0, 2, 1],
    "filenames": ["a.png", "ä.png"],
    "count": 3,
    "half": np.float64(0.5),
}


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def error_of(raw):
    """The one line that a pickle fails with."""
    with pytest.raises(UserError) as caught:
        pickles.load_pickle(raw, "file")
    assert str(caught.value).startswith("file: ") and str(caught.value).isprintable()
    return str(caught.value)


def write_torch(path, raw, name="archive/data.pkl", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, raw)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_from_every_protocol(protocol):
    """Protects honest files, of whatever Python wrote them: values, shapes, byte orders, memory orders, text."""
    loaded = pickles.load_pickle(pickle.dumps(CONTENT, protocol), "file")
    assert list(loaded) == list(CONTENT)
    for key, value in CONTENT.items():
        np.testing.assert_array_equal(loaded[key], value)
    assert loaded["data"].dtype == np.uint8 and loaded["big"].dtype == np.dtype(">i4")
    assert type(loaded["labels"]) is list and type(loaded["half"]) is float


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_both_names_of_numpys_core(core):
    """Protects files by NumPy 1 under NumPy 2 and the reverse, which moved the module that pickles name."""
    raw = pickle.dumps({"data": np.arange(3)}, 2)
    raw = raw.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", core)
    np.testing.assert_array_equal(pickles.load_pickle(raw, "file")["data"], np.arange(3))


def test_python_2_text_is_decoded():
    """Protects the published CIFAR files, whose keys, names and pixels are Python 2 strings of bytes."""
    raw = b"\x80\x02}(U\x05namesq\x01](U\x03catU\x03doge."[:-1] + b"U\x05labelK\x07u."
    assert pickles.load_pickle(raw, "file") == {"names": ["cat", "dog"], "label": 7}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch canary",), "posix.system"),
        (builtins.eval, ("open('canary', 'w')",), "eval"),
        (builtins.exec, ("open('canary', 'w')",), "exec"),
        (builtins.getattr, (os, "system"), "getattr"),
        (builtins.open, ("canary", "w"), "io.open"),
        (builtins.__import__, ("canary_module",), "__import__"),
        (operator.attrgetter("system"), (1,), "operator.attrgetter"),
        (np.load, ("canary.npy",), "numpy.load"),
        (np.fromfile, ("canary",), "fromfile"),
        (np.save, ("canary", 1), "numpy.save"),
        (np.memmap, ("canary", "u1", "w+", 0, (1,)), "numpy.memmap"),
        (codecs.open, ("canary", "w"), "codecs.open"),
        (datetime.date, (2000, 1, 1), "datetime.date"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_call_of_the_files_choosing(tmp_path, monkeypatch, function, arguments, name, protocol):
    """Protects the machine: harmful and harmless functions alike are named, none is called, and no file appears."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canary_module.py").write_text("open('canary', 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    if function is builtins.getattr:
        arguments = ("text", "upper")  # modules cannot be pickled
    raw = pickle.dumps({"data": Calls(function, *arguments)}, protocol)
    assert name in error_of(raw)
    assert os.listdir(tmp_path) == ["canary_module.py"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"(S'touch canary'\nios\nsystem\n.", "'os.system'"),  # INST
        (b"(cos\nsystem\nS'touch canary'\no.", "'os.system'"),  # OBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R.", "'os.system'"),  # STACK_GLOBAL
        (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.tofil\x93.", "'numpy.ndarray.tofil'"),  # attribute of what is allowed
        (b"\x80\x04\x8c\x05numpy\x8c\x04\n\x1b[H\x93.", r"'numpy.\n\x1b[H'"),  # control characters
        (b"cnumpy\nndarray\n(K\x03tR.", "a call of numpy.ndarray"),
        (b"cnumpy\nndarray\n}S'x'\nI1\nsb.", "state for a function"),  # would set attributes
        (b"cnumpy\nndarray\nN}S'__call__'\nI1\ns\x86b.", "state for a function"),
        (b"cnumpy\ndtype\n)\x81.", "not a type"),
        (b"(dS'a'\nc__builtin__\nbytes\n(I1000000000000\ntRs.", "corrupt pickle"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "text encoding 'rot13', expected 'latin1'"),
        (b"(dS'a'\ncnumpy\nndarray\ns.", "a value of type global"),
        (b"(dS'a'\ncnumpy.core.multiarray\n_reconstruct\n(tRs.", "a value of type array"),  # never given its state
        (b"(dS'a'\nPpersistent\ns.", "a persistent id"),
        (b"\x80\x02}U\x01aU\x01bQs.", "a persistent id"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"]I1\na.", "it holds a list, expected a dict of arrays"),
        (b"(dI1\nI2\ns.", "int where a name belongs"),
        (b"(dS'a'\n(dss.", "corrupt pickle"),
        (b"(dS'a'\n(ds.", "a value of type dict"),
        (b"(dS'a'\n(ts.", "a value of type tuple"),
    ],
)
def test_hand_made_pickles(tmp_path, monkeypatch, raw, message):
    """Protects against what no pickler writes: every other way to a global, and misuse of the allowed ones."""
    monkeypatch.chdir(tmp_path)
    assert message in error_of(raw)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "array",
    [
        np.array([Calls(os.system, "touch canary")]),
        np.array([None]),
        np.zeros(2, [("x", "i4"), ("y", "f4")]),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.array(["2000-01-01"], "datetime64[D]"),
        np.zeros(2, complex),
    ],
    ids=["object call", "object", "structured", "str", "bytes", "datetime", "complex"],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_only_arrays_of_numbers(tmp_path, monkeypatch, array, protocol):
    """Protects against object arrays, which are pickles inside a pickle, and against any dtype nobody needs."""
    monkeypatch.chdir(tmp_path)
    message = error_of(pickle.dumps({"data": array}, protocol))
    assert "file: refused, " in message and os.listdir(tmp_path) == []


def test_stand_ins_cannot_be_changed():
    """Protects the next file from this one: what a pickle does to the allowed names ends with it."""
    before = {key: value._function for key, value in pickles._ALLOWED.items()}
    error_of(b"cnumpy\ndtype\nN}S'_function'\nI1\ns\x86b.")
    assert {key: value._function for key, value in pickles._ALLOWED.items()} == before
    with pytest.raises(AttributeError):
        pickles._ALLOWED["numpy", "dtype"].extra = 1


def test_damage_is_one_line():
    """Protects against tracebacks: every truncation, and every single byte set to some other, is refused or read."""
    raw = pickle.dumps({"data": np.arange(4, dtype=np.uint8), "labels": [1, 2], "name": "x"}, 2)
    for size in range(len(raw)):
        assert "corrupt pickle" in error_of(raw[:size])
    rng = np.random.default_rng(0)
    for at in range(len(raw)):
        for value in rng.integers(0, 256, 12):
            changed = raw[:at] + bytes([value]) + raw[at + 1 :]
            try:
                assert isinstance(pickles.load_pickle(changed, "file"), dict)
            except UserError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("raw", [b"", b"cat\ndog\n", b"<!DOCTYPE html>\n<html>", bytes(1000), b"\x80", b"\x80\xff."])
def test_other_files_are_not_pickles(raw):
    """Protects against a text file, a saved web page or a list of names under a pickle's name."""
    assert "file: corrupt pickle (" in error_of(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x02K\x00r\xff\xff\xff\x7f.",  # a memo of 2^31 places
        b"\x80\x02K\x00p2147483647\n.",
        b"I0\np2147483647\n.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x10\x00\x00\x00abc.",  # 64 GiB of bytes
        b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00abc.",
        b"\x80\x04\x95\x00\x00\x00\x00\x10\x00\x00\x00K\x00.",  # a frame of 64 GiB
    ],
)
def test_claimed_sizes_are_not_allocated(raw):
    """Protects memory from a few bytes that claim gigabytes."""
    tracemalloc.start()
    error_of(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def test_deep_nesting_does_not_crash():
    """Protects the process: hashing tuples nested a million deep overflows the C stack, which no handler catches."""
    assert "tuples, expected at most 10000" in error_of(b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x00s.")
    assert "a tuple as a key" in error_of(b"\x80\x02})" + b"\x85" * 9_000 + b"K\x00s.")


def test_too_large_a_pickle(monkeypatch):
    """Protects memory and time from a file that is no such set."""
    monkeypatch.setattr(pickles, "MAX_BYTES", 100)
    assert "101 bytes, expected at most 100" in error_of(bytes(101))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_torch_file_of_arrays(tmp_path, compression):
    """Protects the format of the published CIFAR-N files: a zip archive with one pickle, compressed or not."""
    path = write_torch(tmp_path / "a.pt", pickle.dumps(CONTENT, 2), compression=compression)
    loaded = pickles.read_torch(path)
    for key, value in CONTENT.items():
        np.testing.assert_array_equal(loaded[key], value)


def test_torch_file_that_calls(tmp_path, monkeypatch):
    """Protects against the same attacks inside a .pt file, and against tensors read as something else."""
    monkeypatch.chdir(tmp_path)
    path = write_torch(tmp_path / "a.pt", pickle.dumps({"clean_label": Calls(os.system, "touch canary")}, 2))
    with pytest.raises(UserError, match=r"a\.pt: refused, the pickle asks for 'posix\.system'"):
        pickles.read_torch(path)
    write_torch(path, b"\x80\x02}X\x05\x00\x00\x00labelctorch._utils\n_rebuild_tensor_v2\n(U\x01sQtRs.")
    with pytest.raises(UserError, match=r"'torch\._utils\._rebuild_tensor_v2'"):
        pickles.read_torch(path)
    assert os.listdir(tmp_path) == ["a.pt"]


def test_zip_bomb(tmp_path, monkeypatch):
    """Protects memory: a member above the limit is refused by its header, and a header that lies gains nothing."""
    monkeypatch.setattr(pickles, "MAX_BYTES", 1 << 20)
    path = write_torch(tmp_path / "a.pt", bytes(1 << 24), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(UserError, match=r"data\.pkl unpacks to 16777216 bytes, expected at most 1048576"):
        pickles.read_torch(path)
    path.write_bytes(path.read_bytes().replace((1 << 24).to_bytes(4, "little"), (1 << 19).to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(UserError):
        pickles.read_torch(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23


def test_torch_file_that_is_none(tmp_path):
    """Protects the message for a truncated download, another file, an older torch, another zip archive."""
    path = write_torch(tmp_path / "a.pt", pickle.dumps(CONTENT, 2))
    raw = path.read_bytes()
    for other in (b"", b"text\n", raw[:-30], raw[:50], pickle.dumps(CONTENT, 2)):
        path.write_bytes(other)
        with pytest.raises(UserError, match=r"a\.pt: not a complete zip archive, expected a \.pt file of torch 1\.6"):
            pickles.read_torch(path)
    write_torch(path, b"", name="archive/other.pkl")
    with pytest.raises(UserError, match=r"a\.pt: 0 members named data\.pkl, expected 1"):
        pickles.read_torch(path)
    with pytest.raises(UserError, match=r"absent\.pt: no such file"):
        pickles.read_torch(tmp_path / "absent.pt")


def test_damaged_zip_is_one_line(tmp_path):
    """Protects against tracebacks from any bit of a .pt file, in headers and in the compressed stream."""
    buffer = io.BytesIO()
    raw = write_torch(buffer, pickle.dumps(CONTENT, 2), compression=zipfile.ZIP_DEFLATED).getvalue()
    path = tmp_path / "a.pt"
    rng = np.random.default_rng(0)
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ int(rng.integers(1, 256))]) + raw[at + 1 :])
        try:
            assert isinstance(pickles.read_torch(path), dict)
        except UserError as error:
            assert "\n" not in str(error)


def test_integers_are_whole_and_small():
    """Protects labels: floats, text, truth values and numbers beyond 64 bits are refused, not rounded or cut."""
    for good in ([0, 1], np.array([0, 1], np.uint8)):
        np.testing.assert_array_equal(pickles.integers(good, "file", "labels"), [0, 1])
    for bad in ([0.0, 1.0], ["0"], [True], [1 << 70], np.zeros(2), np.zeros((2, 1), int), "01", 3, [[1]]):
        with pytest.raises(UserError, match=r'file: "labels" is .*, expected a list of whole numbers'):
            pickles.integers(bad, "file", "labels")


def nested(key):
    """A dict with one key, in a pickle of two bytes for each tuple."""
    return b"\x80\x02}" + key + b"K\x00s."


HOSTILE = {
    "tuples of themselves": nested(b")" + b"q\x00h\x00\x86" * 60),
    "numbers that collide": b"\x80\x02}("
    + b"".join(b"\x8a\x09" + (n * (2**61 - 1)).to_bytes(9, "little") + b"N" for n in range(1, 120))
    + b"u.",
    "in DICT": b"(" + b")K\x00" + b"d.",
    "negative": nested(b"J\xff\xff\xff\xff"),
    "a float": nested(b"G?\xf0\x00\x00\x00\x00\x00\x00"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_keys_that_take_for_ever(name):
    """Protects time: keys whose hashing or comparing has no bound are refused before they are put into a dict."""
    began = time.monotonic()
    assert "as a key, expected text" in error_of(HOSTILE[name])
    assert time.monotonic() - began < 1


def test_what_is_named_a_million_times():
    """Protects memory: a text or list that the pickle names again and again is made once."""
    text = b"B" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20)
    names = b"".join(b"X\x05\x00\x00\x00%05dh\x00" % number for number in range(20_000))
    loaded = pickles.load_pickle(b"\x80\x03(X\x01\x00\x00\x00a" + text + b"q\x00" + names + b"d.", "file")
    assert len({id(value) for value in loaded.values()}) == 1
    again = b"".join(b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86Ra" for _ in range(300))
    raw = b"\x80\x02X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20) + b"q\x00]" + again + b"."
    assert "bytes of more than" in error_of(raw)
