"""FiftyOne: a table for its CSV importer.

    fo.Dataset.from_dir(dataset_type=fo.types.CSVDataset, labels_path="labels.csv")

Its columns come as text; `fields={"label": None, "split": None, "label_score": float, …}` has those that are wanted, as
numbers. Paths are absolute: with `data_path` as well it would list all that lies below. No column is named `tags`, for
FiftyOne wants a list there, and refuses text.
"""

from collections.abc import Sequence
from pathlib import Path

from kdmlc_jax.errors import UserError
from kdmlc_jax.handover.base import Row
from kdmlc_jax.storage import files

SUFFIX = ".csv"
HEADER = (
    *("filepath", "split", "trusted", "label", "given_label", "suggested_label"),
    *("confidence", "p_given", "label_score", "is_label_issue", "source"),
)


def write(rows: Sequence[Row], class_names: Sequence[str], out: Path) -> None:
    """A row an image.

    Raises:
      UserError: where an image is in no file of its own.
    """
    for row in rows:
        if row.path is None:
            raise UserError(f"--to fiftyone: {row.id} is in no file of its own, which FiftyOne could show")
    files.write_csv(out, HEADER, [line(row) for row in rows])


def line(row: Row) -> list[str]:
    """One image."""
    known = (row.confidence, row.p_given, row.label_score) if row.suggested else ()
    numbers = [f"{value:.6g}" for value in known] or [""] * 3
    head = (str(row.path), row.split, str(row.trusted), row.label, row.given, row.suggested)
    return [*head, *numbers, str(row.flagged), row.source]
