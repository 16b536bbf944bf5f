"""Label tables on disk: whole or not at all, back by image, and whatever does not fit is refused."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import table as labels
from kdmlc_jax.storage import files
from kdmlc_jax.storage import labels as storage

BELIEFS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.5, 0.0], [0.1, 0.3, 0.6], [0.0, 0.0, 1.0]], np.float32)
GIVEN = np.array([0, 1, 1, 1, 0], np.int32)
IDS = np.array([10, 7, 30, 5, 2])
SPLITS = ["noisy", "noisy", "trusted", "noisy", "noisy"]


# Row 3 stays as given, against what is believed.
DECIDED = labels.Decided(np.array([0, 2, 1, 1, 2]), np.array(["keep", "review", "keep", "review", "correct"]))
TAKEN = np.where(np.arange(5)[:, None] == 3, np.eye(3, dtype=np.float32)[GIVEN], BELIEFS)


def make(**changes):
    arguments = {"ids": IDS, "split_names": SPLITS, "given": GIVEN, "beliefs": BELIEFS, "decided": DECIDED} | changes
    return labels.table(**arguments)


def replaced(row, values):
    beliefs = BELIEFS.copy()
    beliefs[row] = values
    return beliefs


def test_files_come_back_as_written(tmp_path):
    """Protects labels.csv and labels.parquet: the same rows and columns from both, nothing else left behind."""
    rows = make(ids=["a", 'b"x', "c,d", "é", "="])
    paths = storage.write(rows, str(tmp_path))
    assert [path.name for path in paths] == ["labels.csv", "labels.parquet"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert parquet.read_table(paths[1]).equals(rows)
    back = csv.read_csv(paths[0])
    assert back.column_names == list(labels.COLUMNS)
    assert back["id"].to_pylist() == ["a", 'b"x', "c,d", "é", "'="]  # as a spreadsheet does not calculate it
    ids = pa.array(map(files.unguarded, back["id"].to_pylist()))
    assert back.set_column(0, "id", ids).cast(rows.schema).equals(rows)


def test_write_into_no_directory(tmp_path):
    """Protects the message where the directory is gone; nothing is made."""
    with pytest.raises(UserError) as caught:
        storage.write(make(), tmp_path / "absent")
    assert f"{tmp_path}/absent/labels.csv: cannot be written" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """Protects a finished table from a second run that dies while writing."""
    storage.write(make(), tmp_path)
    old = (tmp_path / "labels.csv").read_bytes()

    def full(rows, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "write_csv", full)
    with pytest.raises(UserError, match=r"labels\.csv: cannot be written \(No space left on device\)"):
        storage.write(make(), tmp_path)
    assert (tmp_path / "labels.csv").read_bytes() == old and len(list(tmp_path.iterdir())) == 2


NAMES = ["e.png", "a.png", "d.png", "ü.png", "b.png"]


def left(folder, soft=True, **changes):
    """The folder of a run that has left the table of `make(**changes)`."""
    storage.write(make(**changes), folder, BELIEFS if soft else None)
    return folder


def back(source, rows=(0, 1, 3, 4), ids=IDS, given=GIVEN, classes=3):
    """The beliefs that are read for these rows of the table."""
    rows = list(rows)
    return storage.read(source, np.asarray(ids)[rows], given[rows], classes)[1]


def read_error(*arguments, **changes):
    """The one line that reading fails with."""
    with pytest.raises(UserError) as caught:
        back(*arguments, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ids", [IDS, NAMES], ids=["numbers", "names"])
@pytest.mark.parametrize("rows", [(0, 1, 3, 4), (4, 0, 3), (1,)], ids=["all", "some, turned around", "one"])
def test_beliefs_come_back_by_image(tmp_path, ids, rows):
    """Protects the labels that another run learns from: each image gets its own, in the order it asks, from the folder
    as from the table in it."""
    left(tmp_path, ids=ids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "labels.parquet", "soft_labels.npy"]
    for source in (tmp_path, str(tmp_path), tmp_path / "labels.parquet"):
        got = back(source, rows, ids)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, TAKEN[list(rows)])


def test_suggestions_are_taken_only_where_asked_for(tmp_path):
    """Protects what nothing vouches for from being learned unasked: a given label that stands comes back as certain."""
    rows, known = left(tmp_path), np.array([0, 1, 3, 4])
    for column, label, soft in (("corrected", [0, 2, 1, 2], TAKEN), ("suggested", [0, 2, 2, 2], BELIEFS)):
        got, beliefs = storage.read(rows, IDS[known], GIVEN[known], 3, column)
        np.testing.assert_array_equal(got, label)
        np.testing.assert_array_equal(beliefs, soft[known])


def test_table_without_beliefs_is_taken_as_certain(tmp_path):
    """Protects a table of one's own: four columns are enough, and its labels are one-hot, not the method's."""
    left(tmp_path, soft=False)
    np.testing.assert_array_equal(back(tmp_path), np.eye(3, dtype=np.float32)[[0, 2, 1, 2]])
    columns = {"split": ["noisy", "noisy"], "given_label": [0, 1], "corrected_label": [2, 0], "id": ["x", "y"]}
    parquet.write_table(pa.table(columns), tmp_path / "mine.parquet")
    label, got = storage.read(tmp_path / "mine.parquet", np.array(["y", "x"]), np.array([1, 0]), 3)
    np.testing.assert_array_equal(got, [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(label, [0, 2])


def test_trusted_images_there_are_refused(tmp_path):
    """Protects trusted labels: a table holds them as certain, so none may come back as the label of a noisy image."""
    message = read_error(left(tmp_path, ids=NAMES), range(5), NAMES)
    assert message.startswith(f"{tmp_path}/labels.parquet: 1 of 5 noisy images are not among the noisy ones there")
    assert "the first is d.png; take that run's splits (data.splits=…/noise.npz) or its seed" in message
    for ids in (np.arange(100, 105), NAMES):
        assert "4 of 4 noisy images" in read_error(left(tmp_path), ids=ids), "images of another data set"


def test_other_given_labels_are_refused(tmp_path):
    """Protects from corrections of other noise: the first image whose given label differs is named."""
    other = np.array([0, 1, 1, 0, 2])
    message = read_error(left(tmp_path), (0, 4, 3), given=other)
    assert message.startswith(f"{tmp_path}/labels.parquet: image 2 has the given label 0 there and 2 here (2 such")
    assert back(tmp_path, (0, 1)).shape == (2, 3), "images that nobody asks for do not matter"


def test_label_table_that_cannot_be_read(tmp_path):
    """Protects the message where there is no label table: no such folder, no run in it, another file, a column gone."""
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.mkdir()
    assert read_error(absent) == f"{absent}: no such file, expected the folder of a finished run"
    assert read_error(empty) == f"{empty}/labels.parquet: no such file, expected the folder of a finished run"
    left(tmp_path)
    assert read_error(tmp_path / "labels.csv").startswith(f"{tmp_path}/labels.csv: cannot be read as a label table (")
    path = tmp_path / "labels.parquet"
    for name in ("id", "split", "given_label", "corrected_label"):
        parquet.write_table(make().drop_columns([name]), path)
        message = read_error(tmp_path)
        assert message.startswith(f"{path}: cannot be read as a label table (") and name in message
    path.write_bytes(path.read_bytes()[:-100])
    assert read_error(tmp_path).startswith(f"{path}: cannot be read as a label table (")


@pytest.mark.parametrize("column", ["given_label", "corrected_label"])
def test_label_outside_the_classes_is_refused(tmp_path, column):
    """Protects from a run with more classes, -1 and gaps, which NumPy would wrap around to the last class."""
    left(tmp_path, soft=False)
    for values, fault in (
        ([0, 2, 1, 3, 2], " row 3: 3 is out of range, expected 0 to 2"),
        ([0, -1, 1, 2, 2], " row 1: -1 is out of range, expected 0 to 2"),
        ([0.0, 1.0, 1.0, 2.0, 2.0], ": float64 of shape (5,), expected integers"),
        ([0, None, 1, 2, 2], ": object of shape (5,), expected integers"),
    ):
        rows = make()
        rows = rows.set_column(rows.column_names.index(column), column, pa.array(values))
        parquet.write_table(rows, tmp_path / "labels.parquet")
        assert read_error(tmp_path).startswith(f"{tmp_path}/labels.parquet {column}{fault}")


@pytest.mark.parametrize(
    ("soft", "fault"),
    [
        (BELIEFS[:4], ": float32 of shape (4, 3), expected floats of shape (5, 3), a row for each of the table"),
        (BELIEFS[:, :2], ": float32 of shape (5, 2), expected floats of shape (5, 3), a row for each of the table"),
        (BELIEFS.ravel(), ": float32 of shape (15,), expected floats of shape (5, 3), a row for each of the table"),
        (np.eye(3, dtype=np.int64)[GIVEN], ": int64 of shape (5, 3), expected floats of shape (5, 3)"),
        (replaced(3, [np.nan, 0.5, 0.5]), " row 3: sum nan"),
        (replaced(1, [0.5, 0.5, 0.1]), " row 1: sum 1.1, least 0.1, expected finite, 0 or more, sum 1"),
        (replaced(2, [1.5, -0.5, 0.0]), " row 2: sum 1, least -0.5, expected finite, 0 or more"),
        (np.array([{}] * 5), ": not an array of numbers in .npy format ("),
    ],
    ids=["rows", "classes", "dimensions", "integers", "nan", "sum", "negative", "pickled"],
)
def test_beliefs_that_do_not_fit_are_refused(tmp_path, soft, fault):
    """Protects training from targets that are no distributions, or of other images."""
    np.save(left(tmp_path) / "soft_labels.npy", soft)
    assert read_error(tmp_path).startswith(f"{tmp_path}/soft_labels.npy{fault}")


@pytest.mark.parametrize("size", [0, 4, 60, 128, 150])
def test_cut_off_beliefs_are_refused(tmp_path, size):
    """Protects from a file that was cut off anywhere, in its header or in its numbers."""
    path = left(tmp_path) / "soft_labels.npy"
    path.write_bytes(path.read_bytes()[:size])
    assert read_error(tmp_path).startswith(f"{path}: not an array of numbers in .npy format (")


def test_a_tie_keeps_the_given_label(tmp_path):
    """Protects a label for which nothing better was found: what is learned from is the table's label, not the first
    of two classes that are believed alike."""
    beliefs = replaced(1, [0.5, 0.5, 0.0])
    given = np.array([0, 1, 1, 0, 2])
    storage.write(labels.table(IDS, SPLITS, given, beliefs), tmp_path, beliefs)
    label, _ = storage.read(tmp_path, np.asarray(IDS)[[1]], given[[1]], 3)
    assert label.tolist() == [1]


def test_beliefs_of_another_table_are_refused(tmp_path):
    """Protects from one image's beliefs at another: a table that was sorted or edited beside its beliefs is refused,
    and beliefs do not outlive the table they came with."""
    left(tmp_path)
    rows = make()
    turned = rows.take(list(range(len(rows)))[::-1])
    parquet.write_table(turned, tmp_path / "labels.parquet")
    message = read_error(tmp_path)
    assert (
        message.startswith(f"{tmp_path}/soft_labels.npy row ") and "is believed most, but the table beside" in message
    )
    left(tmp_path, soft=False)
    assert not (tmp_path / "soft_labels.npy").exists()


def test_archive_instead_of_beliefs(tmp_path):
    """Protects from a traceback where an .npz carries the name, whole or cut off."""
    path = left(tmp_path) / "soft_labels.npy"
    with path.open("wb") as file:
        np.savez(file, a=BELIEFS)
    for size in (None, 100):
        path.write_bytes(path.read_bytes()[:size])
        assert read_error(tmp_path).startswith(f"{path}: not an array of numbers in .npy format (")
