"""Hugging Face `datasets`: a Parquet file with the images in it and the classes by name.

    datasets.load_dataset("parquet", data_files="clean.parquet")

The schema's metadata say that `image` is an Image and the labels are ClassLabels. Such a file is a manifest here, too.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from kdmlc_jax.handover.base import Row
from kdmlc_jax.storage import door, files

SUFFIX = ".parquet"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LABELS = ("label", "given_label", "suggested_label")  # -1 = none
PLAIN = {"id": pa.string(), "split": pa.string(), "trusted": pa.bool_(), "is_label_issue": pa.bool_()}
PLAIN |= {"confidence": pa.float32(), "label_score": pa.float32(), "source": pa.string()}
ROWS = 200  # images in memory at a time, and in a row group


def schema(class_names: Sequence[str], pictures: bool) -> pa.Schema:
    """The columns, with what `datasets` reads of them in the metadata."""
    features: dict[str, Any] = {"image": {"_type": "Image"}} if pictures else {}
    features |= {name: {"names": list(class_names), "_type": "ClassLabel"} for name in LABELS}
    words = {pa.string(): "string", pa.bool_(): "bool", pa.float32(): "float32"}
    features |= {name: {"dtype": words[kind], "_type": "Value"} for name, kind in PLAIN.items()}
    columns = {"image": IMAGE} if pictures else {}
    columns |= dict.fromkeys(LABELS, pa.int64()) | PLAIN
    about = json.dumps({"info": {"features": features}})
    return pa.schema(list(columns.items()), metadata={"huggingface": about})


def write(rows: Sequence[Row], class_names: Sequence[str], out: Path) -> None:
    """All images, their files as they are; without the column image where they are in no files of their own."""
    made = schema(class_names, pictures=all(row.path is not None for row in rows))
    number = {name: place for place, name in enumerate(class_names)}
    with files.atomic_write(out) as file, parquet.ParquetWriter(file, made) as writer:
        for start in range(0, len(rows), ROWS):
            part = [cells(row, number) for row in rows[start : start + ROWS]]
            writer.write_table(pa.Table.from_pylist(part, schema=made))


def cells(row: Row, number: dict[str, int]) -> dict[str, Any]:
    """One image, by column."""
    found = {"id": row.id, "split": row.split, "trusted": row.trusted, "source": row.source}
    found |= {"label": number[row.label], "given_label": number[row.given], "is_label_issue": row.flagged}
    found |= {"suggested_label": number.get(row.suggested, -1)}
    if row.suggested:
        found |= {"confidence": row.confidence, "label_score": row.label_score}
    if row.path is not None:
        found["image"] = {"bytes": door.read(row.path), "path": row.id}
    return found
