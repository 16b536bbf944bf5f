"""Features in .npy files: what comes out of good ones, and one clear line for each kind of bad one."""

from functools import partial

import loading
import numpy as np
import pytest

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
TEST = RNG.normal(size=(3, 4)).astype(np.float32)


load, error_of = partial(loading.load, "features"), partial(loading.error_of, "features")


@pytest.fixture
def folder(tmp_path):
    """The two files that every set has."""
    save(tmp_path, features=FEATURES, labels=LABELS)
    return tmp_path


def save(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_features_come_back_as_written(folder, dtype, order):
    """Protects values and rows in every float format and memory order: one pixel of D channels, float32, native."""
    written = np.asarray(FEATURES, dtype, order=order)
    save(folder, features=written, labels=LABELS.astype(np.uint8))
    source = load(folder)
    assert source.train.images.shape == (6, 1, 1, 4) and source.train.images.dtype == np.float32
    np.testing.assert_array_equal(source.train.images[:, 0, 0], written.astype(np.float32))
    np.testing.assert_array_equal(source.train.labels, LABELS)
    assert source.train.labels.dtype == np.int32 and source.train.images.flags.writeable
    assert source.class_names == ("0", "1", "2")
    assert (source.test, source.trusted, source.train.truth, source.train.ids) == (None,) * 4


def test_optional_files(folder):
    """Protects each optional file's way into the source."""
    save(folder, true_labels=np.array([0, -1, 2, 1, 1, -1]), trusted=np.array([5, 0, 5]))
    save(folder, test_features=TEST, test_labels=np.array([0, 3, 1]))
    (folder / "classes.txt").write_text("cat\nwild dog \neel\nüber\n", encoding="utf-8")
    (folder / "ids.txt").write_text("".join(f"photo {row}.jpg\n" for row in range(6)))
    source = load(folder)
    assert source.class_names == ("cat", "wild dog", "eel", "über")
    assert list(source.train.truth) == [0, -1, 2, 1, 1, -1] and source.train.truth.dtype == np.int32
    assert list(source.trusted) == [0, 5] and source.trusted.dtype == np.int64
    assert list(source.train.ids) == [f"photo {row}.jpg" for row in range(6)]
    np.testing.assert_array_equal(source.test.images[:, 0, 0], TEST)
    assert list(source.test.labels) == [0, 3, 1]


def test_trusted_as_a_mask(folder):
    """Protects a mask, of zeros and ones too, from being read as the rows 0 and 1."""
    for dtype in (bool, np.int64, np.uint8):
        save(folder, trusted=np.array([0, 0, 1, 0, 1, 0]).astype(dtype))
        assert list(load(folder).trusted) == [2, 4]
    save(folder, trusted=np.array([0, 1]))
    assert list(load(folder).trusted) == [0, 1]
    save(folder, trusted=np.zeros(6, int))
    assert error_of(folder) == f"{folder}/trusted.npy: names no row, expected at least one"


def test_classes_are_counted_over_all_files(folder):
    """Protects a class that only the true or the test labels have."""
    save(folder, true_labels=np.array([0, 1, 2, 3, -1, -1]))
    assert load(folder).class_names == ("0", "1", "2", "3")
    save(folder, test_features=TEST, test_labels=np.array([4, 0, 1]))
    assert len(load(folder).class_names) == 5


def test_classes_are_the_distinct_labels(folder):
    """Protects from outputs that nothing is labelled with: labels are names, in numeric order."""
    save(folder, labels=np.array([2020, 2019, 10**9, 2019, 2020, 2020], np.uint32))
    save(folder, true_labels=np.array([-1, 7, 2019, -1, 2020, 2020]))
    source = load(folder)
    assert source.class_names == ("7", "2019", "2020", "1000000000")
    assert source.train.labels.tolist() == [2, 1, 3, 1, 2, 2] and source.train.truth.tolist() == [-1, 0, 1, -1, 2, 2]
    assert source.train.labels.dtype == source.train.truth.dtype == np.int32


def test_a_class_an_image_is_refused(folder):
    """Protects from row numbers or ids taken for labels."""
    save(folder, features=RNG.normal(size=(60, 4)), labels=np.arange(60))
    assert f"{folder}/labels.npy: 60 different labels for 60 images" in error_of(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("features", FEATURES[0], "features.npy: shape (4,), expected [rows, columns], one or more of each"),
        ("features", FEATURES[:0], "features.npy: shape (0, 4), expected [rows, columns]"),
        ("features", FEATURES[..., None], "features.npy: shape (6, 4, 1), expected [rows, columns]"),
        ("features", FEATURES * 1j, "features.npy: complex64 of shape (6, 4), expected real numbers"),
        ("labels", LABELS[:5], "labels.npy: shape (5,), expected (6,), one label for each row of features"),
        ("labels", np.eye(6, 3, dtype=int), "labels.npy: shape (6, 3), expected (6,)"),
        ("labels", LABELS * 1.0, "labels.npy: float64 values, expected integers"),
        ("labels", LABELS - 1, "labels.npy row 0: -1 is no class, expected 0 or more"),
        ("labels", LABELS * 0, "labels.npy: all labels are 0, expected at least 2 classes"),
        ("labels", LABELS * 0 - 1, "labels.npy row 0: -1 is no class, expected 0 or more"),
        ("true_labels", LABELS[:4], "true_labels.npy: shape (4,), expected (6,)"),
        ("true_labels", LABELS - 2, "true_labels.npy row 0: -2 is no class, expected 0 or more"),
        ("true_labels", LABELS == 1, "true_labels.npy: bool values, expected integers"),
        ("trusted", np.array([1, 6]), "trusted.npy row 1: index 6 is out of range, expected 0 to 5"),
        ("trusted", np.array([-1, 2]), "trusted.npy row 0: index -1 is out of range, expected 0 to 5"),
        ("trusted", np.zeros(6, bool), "trusted.npy: names no row, expected at least one"),
        ("trusted", np.ones(5, bool), "trusted.npy: bool of shape (5,), expected bool of shape (6,) or the rows"),
        (
            "trusted",
            np.array([0.0, 1.0]),
            "trusted.npy: float64 of shape (2,), expected bool of shape (6,) or the rows",
        ),
        ("trusted", np.array(3), "trusted.npy: int64 of shape (), expected bool of shape (6,) or the rows"),
    ],
)
def test_bad_array_is_named(folder, name, array, message):
    """Protects training from arrays that NumPy or JAX would broadcast, clamp or wrap in silence."""
    save(folder, **{name: array})
    assert error_of(folder).startswith(f"{folder}/{message}")


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (-np.inf, "-inf"), (1e300, "inf")])
def test_features_must_be_finite_in_float32(folder, value, shown):
    """Protects training from NaN: the row, the column, and a float64 that float32 cannot hold."""
    features = FEATURES.astype(np.float64)
    features[4, 2] = value
    save(folder, features=features)
    assert error_of(folder) == f"{folder}/features.npy row 4, column 2: {shown} is no finite float32 (1 such rows)"


def test_test_part_must_fit(folder):
    """Protects evaluation: as many columns as in training, labels in range, both files or none."""
    save(folder, test_features=TEST)
    assert error_of(folder) == f"{folder}/test_labels.npy: no such file"
    save(folder, test_labels=np.array([0, 1]))
    assert f"{folder}/test_labels.npy: shape (2,), expected (3,)" in error_of(folder)
    save(folder, test_labels=np.array([0, -1, 1]))
    assert f"{folder}/test_labels.npy row 1: -1 is no class, expected 0 or more" in error_of(folder)
    save(folder, test_features=TEST[:, :3])
    assert error_of(folder) == f"{folder}/test_features.npy: 3 columns, expected 4 as in features.npy"
    (folder / "test_features.npy").unlink()
    assert error_of(folder) == f"{folder}/test_features.npy: no such file"


def test_labels_beyond_classes_txt(folder):
    """Protects names from labels of another list: classes.txt alone says how many there are."""
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert f"{folder}/labels.npy row 2: 2 is out of range, expected 0 to 1" in error_of(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classes.txt", b"cat\n", "classes.txt: 1 lines, expected at least 2"),
        ("classes.txt", b"cat\n\ndog\n", "classes.txt line 2: empty, expected a name"),
        ("classes.txt", b"cat\ndog\ncat\n", 'classes.txt line 3: "cat" is in line 1 already'),
        (
            "classes.txt",
            b"caf\xe9\ndog\n",
            "classes.txt: byte 3 is not UTF-8 text (line 1, 0xe9: it may be Windows-1252; save it as UTF-8)",
        ),
        ("ids.txt", b"a\nb\n\n\n", "ids.txt: 2 lines, expected 6, the rows of features.npy"),
        ("ids.txt", b"a\nb\nc\nd\na\nf\n", 'ids.txt line 5: "a" is in line 1 already'),
    ],
)
def test_bad_text_is_named(folder, file, text, message):
    """Protects reports and lists of trusted names: every line a name of its own."""
    (folder / file).write_bytes(text)
    assert error_of(folder) == f"{folder}/{message}"


def test_nothing_is_unpickled(folder):
    """Protects against code in a downloaded file: a pickle is refused before it is looked into."""
    marker = folder / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    np.save(folder / "labels.npy", np.array([Evil()] * 6, object), allow_pickle=True)
    assert error_of(folder).startswith(f"{folder}/labels.npy: not an array of numbers in .npy format (")
    (folder / "labels.npy").write_bytes(np.array([Evil()], object).dumps())
    assert error_of(folder).startswith(f"{folder}/labels.npy: not an array of numbers in .npy format (")
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello, features", b"PK\x03\x04"])
def test_foreign_and_damaged_files(folder, content):
    """Protects against a traceback for a file that is no array."""
    (folder / "features.npy").write_bytes(content)
    assert error_of(folder).startswith(f"{folder}/features.npy: not an array of numbers in .npy format (")


@pytest.mark.parametrize(("good", "bad"), [(b"}", b"{"), (b"'<f4'", b"'<f9'"), (b"(6, 4)", b"(06,4)"), (b"4)", b"9)")])
@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # NumPy takes a damaged header for one of Python 2
def test_damaged_header(folder, good, bad):
    """Protects against the many errors of NumPy's header parser, and a shape larger than the file."""
    path = folder / "features.npy"
    raw = path.read_bytes()
    assert good in raw
    path.write_bytes(raw.replace(good, bad, 1))
    assert error_of(folder).startswith(f"{path}: not an array of numbers in .npy format (")


def test_truncated_file(folder):
    """Protects against an incomplete copy, for which the header still claims all rows."""
    path = folder / "features.npy"
    path.write_bytes(path.read_bytes()[:-8])
    assert error_of(folder).startswith(f"{path}: not an array of numbers in .npy format (")


def test_archive_instead_of_an_array(folder):
    """Protects the one who used np.savez and renamed the file."""
    np.savez(folder / "x.npz", a=LABELS)
    (folder / "x.npz").rename(folder / "labels.npy")
    assert error_of(folder).startswith(f"{folder}/labels.npy: not an array of numbers in .npy format (")


@pytest.mark.parametrize("name", ["features.npy", "labels.npy"])
def test_missing_or_unreadable_file_is_named(folder, name):
    """Protects against a traceback for an incomplete folder."""
    (folder / name).unlink()
    assert error_of(folder) == f"{folder}/{name}: no such file"
    (folder / name).mkdir()
    assert error_of(folder) == f"{folder}/{name}: cannot be read (Is a directory), expected a regular file"


def test_a_mask_of_another_length(folder):
    """Protects from a mask of zeros and ones that is taken for the rows 0 and 1."""
    for mask in (np.array([0, 0, 1, 0, 1]), np.array([0, 0, 1, 0, 1, 0, 0], np.uint8)):
        save(folder, trusted=mask)
        assert "zeros and ones of shape" in error_of(folder) and "expected (6,)" in error_of(folder)
