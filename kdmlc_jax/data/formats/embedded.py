"""Parquet tables that hold the images themselves, as Hugging Face's `datasets` writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdmlc_jax.data.formats import columns
from kdmlc_jax.data.images.decode import Encoded
from kdmlc_jax.errors import UserError

MAX_BYTES = 4 << 30  # of encoded images, all in memory
BATCH = 64  # rows read at once: what a dictionary repeats is only counted once it is there


def read(path: Path, column: str, spent: int = 0) -> tuple[np.ndarray, list[str]]:
    """The images of a column of bytes, or of {bytes, path}.

    Args:
      path: a Parquet file.
      column: its name in any case.
      spent: bytes of images that are in memory already.

    Returns:
      Encoded[N], with no content where there are no bytes, and N names: those that the column has, where they tell all
      images apart, else `<file>/<row>`, counted from 1.

    Raises:
      UserError: naming the file, for a column of another kind, and for more than MAX_BYTES.
    """
    contents, names, total = [], [], spent
    with columns.opened(path, once=False) as file:
        name = next(each for each in file.schema_arrow.names if each.strip().lower() == column)
        for batch in file.iter_batches(batch_size=BATCH, columns=[name]):
            for cell in batch.to_pydict()[name]:
                content, text = _cell(cell)
                if content is not None and not isinstance(content, bytes):
                    kind = file.schema_arrow.field(name).type
                    raise UserError(
                        f'{path}: column "{column}" is {kind}, expected paths, bytes, or struct<bytes, path>'
                    )
                total += len(content or b"")
                if total > MAX_BYTES:
                    raise UserError(f"{path}: more than {MAX_BYTES >> 30} GiB of images, expected those as files")
                contents.append(content or b"")
                names.append(text)
    if len({*names} - {""}) < len(names):
        names = [f"{path.stem}/{row:0{len(str(len(names)))}d}" for row in range(1, len(names) + 1)]
    images = np.empty(len(contents), object)
    for row, content in enumerate(contents):
        images[row] = Encoded(f"{path} row {row + 1} ({names[row]})", content)
    return images, names


def _cell(cell: Any) -> tuple[Any, str]:
    if isinstance(cell, dict):
        return cell.get("bytes"), str(cell.get("path") or "")
    return cell, ""


def class_names(path: Path, column: str) -> tuple[str, ...]:
    """The names that `datasets` has written beside a column of whole numbers, () where there are none."""
    try:
        with columns.opened(path) as file:
            told = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        names = next(feature["names"] for name, feature in told.items() if name.strip().lower() == column)
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) and len({*map(str, names)}) == len(names) > 1 else ()
