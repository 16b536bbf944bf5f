"""Matrices and labels read from files: what is accepted, and the one line for what is not."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from kdmlc_jax.data import splits
from kdmlc_jax.data.noise import Request, file
from kdmlc_jax.data.noise.file import read_labels
from kdmlc_jax.data.noise.matrix import read_matrix
from kdmlc_jax.data.provenance import Provenance, fingerprint, save
from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.table import table
from kdmlc_jax.storage import labels as labels_lib

C, N = 3, 4
MATRIX = np.array([[0.7, 0.2, 0.1], [0, 1, 0], [0.25, 0.25, 0.5]])
GIVEN = np.array([2, 0, 1, 1], np.int32)
IDS = np.array(["a/dog.png", "b.png", "007", "é"])


def refused(read, path, *arguments):
    """The one line of the error, after the path it names."""
    with pytest.raises(UserError) as caught:
        read(path, *arguments)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize("name", ["t.npy", "t.csv", "T.TXT"])
def test_matrix_round_trip(tmp_path, name):
    """Protects every format: the numbers and their orientation come back."""
    path = tmp_path / name
    if name == "t.npy":
        np.save(path, MATRIX)
    else:
        np.savetxt(path, MATRIX, delimiter=",", header="true label down, given label across", encoding="utf-8-sig")
    matrix = read_matrix(path, C)
    np.testing.assert_array_equal(matrix, MATRIX)
    assert matrix.dtype == np.float64


def test_matrix_of_integers_and_rounded_rows(tmp_path):
    """Protects permutations saved as integers, and rows rounded to seven digits."""
    np.save(tmp_path / "t.npy", np.eye(C, dtype=np.int8)[[1, 2, 0]])
    np.testing.assert_array_equal(read_matrix(tmp_path / "t.npy", C), np.roll(np.eye(C), 1, axis=1))
    (tmp_path / "t.csv").write_text("0.3333333,0.3333333,0.3333333\n\n0,1,0\r\n0,0,1")
    assert read_matrix(tmp_path / "t.csv", C).shape == (C, C)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,0,0\n0,1,0\n0,0", ": the number of columns changed from 3 to 2 at row 3"),
        ("1,0,0\n0,x,0\n0,0,1", ": could not convert string 'x' to float64 at row 1, column 2."),
        ("1,0\n0,1", ": float64 of shape (2, 2), expected numbers of shape (3, 3)"),
        ("", ": no rows, expected numbers with commas between them"),
        ("1,0,0\n0,1.2,-0.2\n0,0,1", " row 1 column 1: 1.2 is not a probability in [0, 1]"),
        ("1,0,0\n0,1,0\n-0.5,0.5,1", " row 2 column 0: -0.5 is not a probability in [0, 1]"),
        ("1,0,0\n0,nan,1\n0,0,1", " row 1 column 1: nan is not a probability in [0, 1]"),
        ("1,0,0\n0,1,0\n0.3,0.3,0.3", " row 2: sums to 0.9, expected 1 within 1e-06"),
        ("60,20,20\n0,100,0\n0,0,100", " row 0 column 0: 60.0 is not a probability in [0, 1]"),
    ],
)
def test_matrix_that_is_none(tmp_path, text, message):
    """Protects from matrices that are ragged, of another set, in percent, or no probabilities: row and value named."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert refused(read_matrix, path, C) == message


@pytest.mark.parametrize("read", [lambda path: read_matrix(path, C), lambda path: read_labels(path, N, C)])
def test_damaged_and_foreign_npy(tmp_path, read):
    """Protects from files that are missing, pickled, cut or flipped in any byte of the header."""
    path = tmp_path / "x.npy"
    assert refused(read, path) == ": no such file"
    np.save(path, np.array([None, 1]), allow_pickle=True)
    assert refused(read, path).startswith(
        ": not an array of numbers in .npy format (Array can't be memory-mapped: Python"
    )
    np.save(path, GIVEN)
    good = path.read_bytes()
    for raw in (b"", b"text", good[:20], good[:-1]):
        path.write_bytes(raw)
        assert refused(read, path).startswith(": not an array of numbers in .npy format (")
    for place in range(0, 128):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            read(path)
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)


def test_unknown_suffix(tmp_path):
    """Protects the answer to a file of another kind."""
    assert "is not one of .npy, .csv, .txt" in refused(read_matrix, tmp_path / "t.mat", C)
    assert "is not one of .npz, .npy, .csv, .parquet" in refused(read_labels, tmp_path / "t.pt", N, C)


def test_labels_of_arrays(tmp_path):
    """Protects labels by row: from noise.npz of a run, and from .npy of any integer type, whose rows have names where
    images have."""
    parts = splits.Splits(np.array([0]), np.array([1]), np.array([2, 3]))
    checked, carried = GIVEN.copy(), GIVEN.copy()
    checked[1], carried[2] = (GIVEN[1] + 1) % C, -1  # a trusted image's label is given as it was before
    images = fingerprint(np.array(IDS), "abc")
    save(tmp_path / "noise.npz", Provenance(parts, checked, 0.5, MATRIX, carried, images, ""))
    np.save(tmp_path / "g.npy", GIVEN[::-1].astype(np.uint8))
    (tmp_path / "ids.txt").write_text("\n".join(map(str, IDS[::-1])))
    for name in ("noise.npz", "g.npy"):
        got = read_labels(tmp_path / name, N, C, IDS, "abc")
        np.testing.assert_array_equal(got, GIVEN)
        assert got.dtype == np.int32
    for ids, classes in ((IDS[::-1], "abc"), (IDS, "abd")):
        message = refused(read_labels, tmp_path / "noise.npz", N, C, ids, classes)
        assert message == f": is of {N} other images or classes, expected these {N}"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([0, 1, -1, 2], " row 2: -1 is out of range, expected 0 to 2"),
        ([0, 1, 3, 2], " row 2: 3 is out of range, expected 0 to 2"),
        ([0, 1.5, 1, 2], ": float64 of shape (4,), expected integers of shape [N]"),
        ([0.0, 1, 1, 2], ": float64 of shape (4,), expected integers of shape [N]"),
        ([True, False, True, True], ": bool of shape (4,), expected integers of shape [N]"),
        (["0", "1", "1", "2"], ": <U1 of shape (4,), expected integers of shape [N]"),
        ([0, 1, 2], ": 3 rows, expected 4, one for each image in their order"),
        ([[0], [1], [2], [0]], ": labels of shape (4, 1), expected (4,), one per training image"),
    ],
)
def test_array_that_holds_no_labels(tmp_path, array, message):
    """Protects from labels that NumPy would wrap or round: file, row, value and range in one line."""
    np.save(tmp_path / "g.npy", np.array(array))
    assert refused(read_labels, tmp_path / "g.npy", N, C) == message


def write(path, columns):
    """A table in the format of the path's suffix."""
    (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(pa.table(columns), path)


@pytest.mark.parametrize("column", ["label", "given_label", "noisy_label", "corrected_label"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_of_tables(tmp_path, suffix, column):
    """Protects labels by id: any order of rows, names and numbers, further columns, each name of the label's column."""
    path, order = tmp_path / f"labels{suffix}", [2, 0, 3, 1]
    write(path, {"score": [0.1] * N, column: GIVEN[order], "id": IDS[order]})
    np.testing.assert_array_equal(read_labels(path, N, C, IDS), GIVEN)
    write(path, {"id": order, column: GIVEN[order]})
    got = read_labels(path, N, C)
    np.testing.assert_array_equal(got, GIVEN)
    assert got.dtype == np.int32


def test_labels_that_a_run_has_written(tmp_path):
    """Protects runs that go on from another: labels.csv and labels.parquet give what that run was given."""
    beliefs = np.full((N, C), 1 / C)
    for path in labels_lib.write(table(IDS, ["noisy"] * N, GIVEN, beliefs), tmp_path):
        np.testing.assert_array_equal(read_labels(path, N, C, IDS), GIVEN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0\n1,-1\n2,0\n3,0", ' row 1 (id "1"): label "-1" is not a whole number from 0 to 2'),
        ("0,0\n1,0\n2,3\n3,0", ' row 2 (id "2"): label "3" is not a whole number from 0 to 2'),
        ("0,0\n1,1.5\n2,0\n3,0", ' row 1 (id "1"): label "1.5" is not a whole number from 0 to 2'),
        ("0,nan\n1,0\n2,0\n3,0", ' row 0 (id "0"): label "nan" is not a whole number from 0 to 2'),
        ("0,0\n1,\n2,0\n3,0", ' row 1 (id "1"): label "" is not a whole number from 0 to 2'),
        ("0,dog\n1,0\n2,0\n3,0", ' row 0 (id "0"): label "dog" is not a whole number from 0 to 2'),
        ("0,²\n1,0\n2,0\n3,0", ' row 0 (id "0"): label "²" is not a whole number from 0 to 2'),
        ("0,0\n1,0\n3,0", ': 1 of 4 images have no label, first id "2"'),
        ("0,0\n1,0\n2,0\n3,0\n1,2", ' row 4 (id "1"): the id is already in row 1, expected every id once'),
        ("0,0\n1,0\n2,0\n4,0", ' row 3 (id "4"): the id is not that of a training image'),
    ],
)
def test_table_that_does_not_fit(tmp_path, text, message):
    """Protects from labels out of range and ids that do not match: file, row, id, value and range in one line."""
    path = tmp_path / "labels.csv"
    path.write_text(f"id,label\n{text}\n")
    assert refused(read_labels, path, N, C) == message


NAMED = {"label": ["2", "10", "1", "2"], "noisy_label": [2.0, 10.0, 1.0, 2.0], "given_label": ["002", "10", "1", "2"]}


@pytest.mark.parametrize("column", NAMED)
def test_labels_by_the_names_of_classes(tmp_path, column):
    """Protects classes named 1, 2, 10 from labels 1, 2, 10 read as the numbers of classes, and numbers from names."""
    names = ("1", "002", "10") if column == "given_label" else ("1", "2", "10")
    write(tmp_path / "n.csv", {"id": range(N), column: NAMED[column]})
    np.testing.assert_array_equal(read_labels(tmp_path / "n.csv", N, C, None, names), [1, 2, 0, 1])
    np.save(tmp_path / "n.npy", np.array([2, 10, 1, 2]))
    np.testing.assert_array_equal(read_labels(tmp_path / "n.npy", N, C, None, names), [1, 2, 0, 1])
    for numbers in (GIVEN, GIVEN.astype(str)):
        write(tmp_path / "n.csv", {"id": range(N), column: numbers})
        np.testing.assert_array_equal(read_labels(tmp_path / "n.csv", N, C, None, names), GIVEN)
    write(tmp_path / "n.csv", {"id": range(N), "label": ["cat", "dog", "owl", "cat"]})
    np.testing.assert_array_equal(read_labels(tmp_path / "n.csv", N, C, None, ("owl", "cat", "dog")), [1, 2, 0, 1])
    message = refused(read_labels, tmp_path / "n.csv", N, C, None, ("owl", "cat", "dogs"))
    assert message == ' row 1 (id "1"): label "dog" is not one of the 3 classes (did you mean "dogs"?)'


def test_a_runs_own_table_has_numbers(tmp_path):
    """Protects a run on the classes 2, 1, 0, in this order, from its own label table read by name."""
    names = ("2", "1", "0")
    rows = table(IDS, ["noisy"] * N, GIVEN, np.full((N, C), 1 / C), names)
    for path in labels_lib.write(rows, tmp_path):
        np.testing.assert_array_equal(read_labels(path, N, C, IDS, names), GIVEN)


def test_huge_number_as_label(tmp_path):
    """Protects from Python's own complaint about numbers of thousands of digits."""
    path = tmp_path / "labels.csv"
    path.write_text(f"id,label\n0,{'9' * 5000}\n")
    assert refused(read_labels, path, 1, C).endswith("is not a whole number from 0 to 2")


def test_misspelt_name(tmp_path):
    """Protects the user of named images: the nearest name is suggested, and a missing one is named."""
    path = tmp_path / "labels.parquet"
    write(path, {"id": ["a/dgo.png", "b.png", "007", "é"], "label": GIVEN})
    expected = ' row 0 (id "a/dgo.png"): the id is not that of a training image (did you mean "a/dog.png"?)'
    assert refused(read_labels, path, N, C, IDS) == expected
    write(path, {"id": IDS[:3], "label": GIVEN[:3]})
    assert refused(read_labels, path, N, C, IDS) == ': 1 of 4 images have no label, first id "é"'


@pytest.mark.parametrize(
    "values", [[0.0, 1.5, 2.0, 0.0], [0, None, 2, 0], [True, True, False, False], ["0", "x", "1", "1"]]
)
def test_parquet_columns_of_other_types(tmp_path, values):
    """Protects from fractions, nulls, truth values and text: none is taken for a label in silence."""
    path = tmp_path / "labels.parquet"
    write(path, {"id": range(N), "label": values})
    assert refused(read_labels, path, N, C).endswith("is not a whole number from 0 to 2")


@pytest.mark.parametrize("names", [("name", "label"), ("id", "target")])
def test_missing_column(tmp_path, names):
    """Protects the user of another tool's table: told what is there and what is expected."""
    path = tmp_path / "labels.csv"
    write(path, {names[0]: range(N), names[1]: GIVEN})
    message = refused(read_labels, path, N, C)
    missing = "id" if names[0] == "name" else "label"
    assert message.startswith(f': no column "{missing}"') and message.endswith(f", found {', '.join(names)}")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_that_cannot_be_read(tmp_path, suffix):
    """Protects from empty, binary and cut files."""
    path = tmp_path / f"labels{suffix}"
    assert refused(read_labels, path, N, C) == ": no such file"
    for raw in (b"", b"id,label\n0,1,2\n", b"id,label\n0,\xff\xfe\n", b"PAR1PAR1"):
        path.write_bytes(raw)
        refused(read_labels, path, N, C)


def read_of(path, given=GIVEN, ids=None, names=("a", "b", "c"), column=""):
    """Labels and notes as a run reads them; `given` are the data set's own."""
    given = np.asarray(given, np.int32)
    notes = []
    request = Request(0.0, C, 0, names, given, given, ids=ids, file=str(path), named=column, say=notes.append)
    return file.labels(request), tuple(notes)


def test_json_lists(tmp_path):
    """Protects DivideMix's lists: the order of numbered images, names by ids.txt, objects of id and label, and one line
    for what is none."""
    path = tmp_path / "0.5_sym.json"
    path.write_text(json.dumps(GIVEN.tolist()))
    np.testing.assert_array_equal(read_labels(path, N, C), GIVEN)
    assert ": 4 rows, expected 5" in refused(read_labels, path, 5, C)
    assert str(tmp_path / "ids.txt") in error_of(read_labels, path, N, C, IDS)
    (tmp_path / "ids.txt").write_text("\n".join(IDS[::-1]))
    np.testing.assert_array_equal(read_labels(path, N, C, IDS), GIVEN[::-1])
    path.write_text(json.dumps(dict(zip(IDS[::-1].tolist(), ["a", "b", "c", "a"], strict=True))))
    np.testing.assert_array_equal(read_labels(path, N, C, IDS, "abc"), [0, 2, 1, 0])
    for text, message in {
        "[0, 1, 3, 0]": ' row 2 (id "2"): label "3" is not a whole number from 0 to 2',
        "[0, 1, 0.5, 0]": " entry 2: '0.5' is a float, expected a label: a whole number or a name",
        "[0, true]": " entry 1: 'True' is a bool, expected a label: a whole number or a name",
        "[]": ": empty, expected a list of labels, or an object of id and label",
        '{"a": 1, "a": 2}': ': cannot be read as a JSON list of labels ("a" is there twice)',
        "[0, 1": ": cannot be read as a JSON list of labels (",
        "[" * 100_000: ": cannot be read as a JSON list of labels (",
    }.items():
        path.write_text(text)
        assert refused(read_labels, path, N, C).startswith(message), text


def error_of(read, *arguments):
    with pytest.raises(UserError) as caught:
        read(*arguments)
    return str(caught.value)


FRAME = {"is_label_issue": [False] * N, "label_quality": [0.5] * N, "given_label": GIVEN, "predicted_label": [0] * N}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_cleanlabs_frames(tmp_path, suffix):
    """Protects the order of a frame that cleanlab has made, with its index in any order, without one, or with names;
    what it believes by noise.column."""
    path, order = tmp_path / f"issues{suffix}", np.array([2, 0, 3, 1])
    write(path, FRAME)
    got, notes = read_of(path)
    np.testing.assert_array_equal(got, GIVEN)
    assert notes == (f'noise.file: column "given_label" of {path} is read; noise.column=<name> reads predicted_label',)
    np.testing.assert_array_equal(read_of(path, column="predicted_label")[0], [0] * N)
    index = "" if suffix == ".csv" else "__index_level_0__"
    write(path, {index: order} | {name: np.asarray(cells)[order] for name, cells in FRAME.items()})
    np.testing.assert_array_equal(read_of(path)[0], GIVEN)
    write(path, {index: IDS[order]} | {name: np.asarray(cells)[order] for name, cells in FRAME.items()})
    np.testing.assert_array_equal(read_of(path, ids=IDS)[0], GIVEN)
    write(path, FRAME)
    assert str(tmp_path / "ids.txt") in error_of(read_of, path, GIVEN, IDS)
    write(path, {name: FRAME[name] for name in ("given_label", "predicted_label")})
    assert 'no column "id"' in error_of(read_of, path)


def test_the_other_columns_of_a_runs_table(tmp_path):
    """Protects who means corrected labels from being given the uncorrected ones without a word."""
    beliefs = np.eye(C)[(GIVEN + 1) % C]
    for path in labels_lib.write(table(IDS, ["noisy"] * N, GIVEN, beliefs), tmp_path):
        got, notes = read_of(path, ids=IDS)
        np.testing.assert_array_equal(got, GIVEN)
        assert len(notes) == 1 and "noise.column=<name> reads corrected_label" in notes[0]
        np.testing.assert_array_equal(read_of(path, ids=IDS, column="Suggested_Label")[0], (GIVEN + 1) % C)
        assert 'no column "corected_label"' in error_of(read_of, path, GIVEN, IDS, "abc", "corected_label")


def test_lists_of_path_and_label(tmp_path):
    """Protects text lists: blanks, tabs and commas, names with blanks, a header where there is one, imagenette's
    columns of several rates."""
    for text in (
        "a/dog.png 2\n\n./b.png 0\n007 1\né 1\n",
        "a/dog.png\tc\nb.png\ta\n007\tb\né\tb\n",
        "path,label\na/dog.png,2\nb.png,0\n007,1\né,1\n",
        "a/dog.png,2\nb.png, 0\n007 1\né\t1\n",
    ):
        (tmp_path / "list.txt").write_text(text)
        np.testing.assert_array_equal(read_labels(tmp_path / "list.txt", N, C, IDS, "abc"), GIVEN)
    (tmp_path / "list.txt").write_text("a/dog.png 2 1\n")
    assert refused(read_labels, tmp_path / "list.txt", N, C, IDS) == ' line 1: 2 labels "2 1", expected one'
    (tmp_path / "list.txt").write_text("a/dog.png\n")
    assert refused(read_labels, tmp_path / "list.txt", N, C, IDS).startswith(' line 1: "a/dog.png" is not a path')
    path = tmp_path / "noisy_imagenette.csv"
    write(path, {"path": IDS, "noisy_labels_0": GIVEN, "noisy_labels_5": [0] * N, "is_valid": [False] * N})
    message = error_of(read_of, path, GIVEN, IDS)
    assert message.endswith("noise.column=<name> reads one of noisy_labels_0, noisy_labels_5")
    np.testing.assert_array_equal(read_of(path, ids=IDS, column="noisy_labels_5")[0], [0] * N)


def test_another_order_is_warned_of(tmp_path):
    """Protects from labels of other images: as few agree with those at hand as by chance; noise does not."""
    rng = np.random.default_rng(0)
    given = rng.integers(0, C, 200)
    noisy = np.where(rng.random(200) < 0.6, rng.integers(0, C, 200), given)
    for labels, warned in ((noisy, False), (rng.permutation(given), True), (given, False)):
        np.save(tmp_path / "g.npy", labels)
        (tmp_path / "g.json").write_text(json.dumps(labels.tolist()))
        for name in ("g.npy", "g.json"):
            notes = read_of(tmp_path / name, given)[1]
            assert bool(notes) == warned and all(note.startswith("warning: noise.file: ") for note in notes)


def test_a_dictionary_of_labels(tmp_path):
    """Protects who takes the file of CIFAR-10N for labels: told what reads it, nothing unpickled."""
    np.save(tmp_path / "human.npy", {"clean_label": GIVEN, "worse_label": GIVEN}, allow_pickle=True)
    message = refused(read_labels, tmp_path / "human.npy", N, C)
    assert (
        message.startswith(": a dictionary (clean_label, worse_label), expected an array") and "noise=human" in message
    )
