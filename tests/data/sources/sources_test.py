"""Reading published files: what comes out of good ones, and one clear line for each kind of bad one."""

import gzip
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from loading import load
from sklearn.datasets import load_digits

from kdmlc_jax.errors import NonFiniteError, UserError, suggest

SIZES = {"train": 12, "t10k": 5}


def idx_bytes(array, magic):
    return magic.to_bytes(4, "big") + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_mnist(folder, compressed):
    """A miniature set of 4x3 images; returns its arrays by file name."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, size in SIZES.items():
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (size, 4, 3), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, size).astype(np.uint8)
    for name, array in arrays.items():
        raw = idx_bytes(array, 0x00000800 | array.ndim)
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(raw) if compressed else raw)
    return arrays


def error_of(name, folder):
    """The one line that loading `name` fails with; the folder is as it was before."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        load(name, str(folder))
    assert sorted(folder.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_come_back_as_written(tmp_path, name, compressed):
    """Protects pixel order, label order and dtypes of IDX files, plain and compressed."""
    arrays = write_mnist(tmp_path, compressed)
    source = load(name, str(tmp_path))
    for part, got in (("train", source.train), ("t10k", source.test)):
        np.testing.assert_array_equal(got.images, arrays[f"{part}-images-idx3-ubyte"][..., None])
        np.testing.assert_array_equal(got.labels, arrays[f"{part}-labels-idx1-ubyte"])
        assert (got.images.dtype, got.labels.dtype) == (np.uint8, np.int32)
    assert source.name == name and len(source.class_names) == 10
    assert source.class_names[9] == ("9" if name == "mnist" else "Ankle boot")


def test_environment_names_the_parent_folder(tmp_path, monkeypatch):
    """Protects the search under KDMLC_DATA, and that a given directory goes before it."""
    for folder in ("mnist", "fashion-mnist"):
        (tmp_path / folder).mkdir()
        write_mnist(tmp_path / folder, True)
    monkeypatch.setenv("KDMLC_DATA", str(tmp_path))
    for name in ("mnist", "fashion_mnist"):
        assert len(load(name).train.labels) == 12
    monkeypatch.setenv("KDMLC_DATA", str(tmp_path / "absent"))
    assert len(load("mnist", str(tmp_path / "mnist")).train.labels) == 12
    with pytest.raises(UserError, match=r"KDMLC_DATA: .*absent/mnist is not a directory"):
        load("mnist")


def test_digits_are_split_the_same_way_for_everyone():
    """Protects the built-in set: grey scale, a test part of 36 per class that no seed moves, nothing in both parts."""
    first = load("digits")
    np.testing.assert_array_equal(first.test.images, load("digits").test.images)
    assert first.train.images.shape == (1437, 8, 8, 1) and first.test.images.shape == (360, 8, 8, 1)
    assert first.train.images.max() == 255 and first.train.images.dtype == np.uint8
    assert first.train.labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(first.test.labels), np.full(10, 36))
    both = np.concatenate([first.train.images, first.test.images]).reshape(1797, -1)
    expected = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, both)) == sorted(map(bytes, expected))


def test_real_fashion_mnist(data_dir):
    """Protects the reader against the files as published: sizes, balance, mean grey level."""
    if not (data_dir / "fashion-mnist").is_dir():
        pytest.skip("KDMLC_DATA holds no fashion-mnist")
    source = load("fashion_mnist")
    assert source.train.images.shape == (60000, 28, 28, 1) and source.test.images.shape == (10000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(source.train.labels), np.full(10, 6000))
    assert source.train.images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # the published channel mean


def test_unknown_set_is_named_with_a_suggestion():
    """Protects the answer to a typing error: the value, what is allowed, the nearest name."""
    with pytest.raises(UserError) as caught:
        load("cifar-10")
    for part in (
        "data.source",
        '"cifar-10"',
        "cifar10, cifar100, clothing1m, digits",
        '(did you mean "cifar10"?)',
    ):
        assert part in str(caught.value)


def test_no_directory_says_what_to_give(monkeypatch):
    """Protects the first error a new user sees: it names the config field and the variable."""
    monkeypatch.delenv("KDMLC_DATA", raising=False)
    with pytest.raises(UserError, match=r'data\.dir is empty.*"cifar10".*KDMLC_DATA.*cifar-10-batches-bin'):
        load("cifar10")


def test_directory_that_is_none(tmp_path):
    """Protects against a traceback where data.dir is absent or a file."""
    (tmp_path / "file").write_text("")
    for place in ("absent", "file"):
        with pytest.raises(UserError) as caught:
            load("mnist", str(tmp_path / place))
        assert f"data.dir: {tmp_path / place} is not a directory" in str(caught.value)


def test_missing_file_is_named(tmp_path):
    """Protects the message for an incomplete download."""
    write_mnist(tmp_path, True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert f"{tmp_path}/t10k-labels-idx1-ubyte: no such file, with or without .gz" in error_of("mnist", tmp_path)


def test_unreadable_file_is_named(tmp_path):
    """Protects against a traceback for a file that cannot be opened: here, a folder of that name."""
    write_mnist(tmp_path, True)
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    assert f"{tmp_path}/train-images-idx3-ubyte: cannot be read (Is a directory)" in error_of("mnist", tmp_path)


def test_wrong_magic_number(tmp_path):
    """Protects against labels read as images and the reverse: the magic number found and the one expected."""
    write_mnist(tmp_path, False)
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    image_bytes, label_bytes = images.read_bytes(), labels.read_bytes()
    images.write_bytes(label_bytes)
    assert f"{images}: magic number is 0x00000801, expected 0x00000803" in error_of("mnist", tmp_path)
    images.write_bytes(image_bytes)
    labels.write_bytes(image_bytes)
    assert f"{labels}: magic number is 0x00000803, expected 0x00000801" in error_of("mnist", tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], "only 143 bytes after the header, expected 144 for shape (12, 4, 3)"),
        (lambda raw: raw + b"\0", "more bytes after the header, expected 144 for shape (12, 4, 3)"),
        (lambda raw: raw[:10], "10 bytes, expected a header of 16"),
        (lambda raw: b"", "0 bytes, expected a header of 16"),
        (lambda raw: raw[:4] + bytes(4) + raw[8:], "header gives shape (0, 4, 3), expected 1 to 1073741824 bytes"),
        (lambda raw: raw[:4] + b"\xff" * 12, "header gives shape (4294967295, 4294967295, 4294967295), expected 1"),
    ],
)
def test_length_must_match_the_header(tmp_path, change, message, compressed):
    """Protects against truncated and overlong files, and against memory for whatever a header claims."""
    write_mnist(tmp_path, compressed)
    path = tmp_path / ("train-images-idx3-ubyte.gz" if compressed else "train-images-idx3-ubyte")
    raw = change(gzip.decompress(path.read_bytes()) if compressed else path.read_bytes())
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    assert f"{path}: {message}" in error_of("mnist", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:-20],
        lambda raw: b"no gzip" + raw,
        lambda raw: raw[:-6] + bytes([raw[-6] ^ 1]) + raw[-5:],
        lambda raw: raw[:12] + b"\xff" + raw[13:],
    ],
    ids=["truncated", "no gzip", "wrong checksum", "damaged stream"],
)
def test_corrupt_gzip(tmp_path, change):
    """Protects against damage in transit; the checksum at the end counts too."""
    write_mnist(tmp_path, True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    message = error_of("mnist", tmp_path)
    assert message.startswith(f"{path}: corrupt gzip (") and message.endswith("expected a complete file")


def test_counts_must_agree(tmp_path):
    """Protects against images and labels of different downloads."""
    write_mnist(tmp_path, False)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.zeros(11, np.uint8), 0x801))
    assert f"{path}: 11 labels, expected 12, the images in train-images-idx3-ubyte" in error_of("mnist", tmp_path)


def test_image_shapes_must_agree(tmp_path):
    """Protects evaluation from a test set of another image size."""
    write_mnist(tmp_path, False)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((5, 3, 3), np.uint8), 0x803))
    assert "mnist: images have shape (4, 3, 1) in training and (3, 3, 1) in test" in error_of("mnist", tmp_path)


def test_labels_out_of_range(tmp_path):
    """Protects training from labels beyond the classes, which JAX would clamp or turn into NaN in silence."""
    write_mnist(tmp_path, False)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.array([0, 9, 3, 10, 255], np.uint8), 0x801))
    assert f"{path} row 3: 10 is out of range, expected 0 to 9" in error_of("mnist", tmp_path)


def test_big_header_is_not_allocated(tmp_path):
    """Protects memory: a gigabyte claimed by a header within the limit costs no more than the file holds."""
    write_mnist(tmp_path, False)
    path = tmp_path / "train-images-idx3-ubyte"
    raw = path.read_bytes()
    path.write_bytes(raw[:4] + np.array([1 << 20, 32, 32], ">u4").tobytes() + raw[16:])
    tracemalloc.start()
    message = error_of("mnist", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{path}: only 144 bytes after the header, expected 1073741824" in message and peak < 1 << 24


def test_suggestion_and_kinds_of_error():
    """Protects the two errors main.py tells apart, and the wording of suggestions."""
    assert suggest("Fashion-MNIST", ["mnist", "fashion_mnist"]) == ' (did you mean "fashion_mnist"?)'
    assert suggest("qqq", ["mnist"]) == "" and suggest("x", []) == ""
    assert issubclass(UserError, ValueError) and issubclass(NonFiniteError, RuntimeError)
    assert not issubclass(NonFiniteError, UserError)


def test_module_does_not_import_sklearn():
    """Protects start-up time: scikit-learn is imported where it is used."""
    code = "import sys, kdmlc_jax.data.sources, kdmlc_jax.labels; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
