"""Images that occur more than once: with two labels, or in the test part as well."""

from typing import Any

import numpy as np

from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.images import near
from kdmlc_jax.data.images.thumbnails import data_uri
from kdmlc_jax.errors import UserError

SHOWN = 20  # of each kind


def section(dataset: Dataset, near_copies: bool) -> dict[str, Any]:
    """What the page says of copies: a line each, and some with their pictures.

    Args:
      dataset: of the run, with `copies` where they were looked for.
      near_copies: re-encoded and resized images are looked for, which reads all images.

    Raises:
      UserError: for near-copies of what are no pictures, or without the library that finds them.
    """
    found = dataset.duplicates
    if found is None or dataset.copies is None:
        lines = ["Exact copies were not looked for (data.verify is off)."]
        groups: list[dict] = []
    else:
        lines = [
            f"{found.extra} training images repeat another; {found.conflicting} contents carry two labels or more; "
            f"{found.left_out} were left out because the original is trusted or a validation image.",
            f"{found.leaked} training images are also in the test part, {found.leaked_used} of them were used.",
        ]
        groups = [*conflicts(dataset, dataset.copies[0]), *leaks(dataset, *dataset.copies)]
    if not near_copies:
        lines.append("Near-copies (re-encoded, resized) were not looked for; --near-copies of the report command does.")
        return {"lines": lines, "groups": groups}
    if dataset.images.dtype != np.uint8:
        raise UserError("--near-copies: the data are features, expected images")
    if not near.is_known():
        raise UserError('--near-copies: not installed, expected pip install "kdmlc-jax[copies]"')
    for kind, pairs in near.misleading(dataset).items():
        lines.append(f"Near-copies: {len(pairs)} pairs of {kind}.")
        groups += [group(dataset, f"near-copies: {kind}", pair) for pair in pairs[:SHOWN].tolist()]
    return {"lines": lines, "groups": groups}


def conflicts(dataset: Dataset, content: np.ndarray) -> list[dict]:
    """The first SHOWN contents with more than one given label."""
    label = dataset.reported_label
    _, first, inverse, count = np.unique(content, return_index=True, return_inverse=True, return_counts=True)
    differ = np.unique(inverse[(label != label[first][inverse]) & (count[inverse] > 1)])[:SHOWN]
    found = [np.flatnonzero(inverse == one)[:6].tolist() for one in differ]
    return [group(dataset, "one content, two labels", rows) for rows in found]


def leaks(dataset: Dataset, content: np.ndarray, test: np.ndarray) -> list[dict]:
    """The first SHOWN training images that are in the test part."""
    rows = np.flatnonzero(np.isin(content, test))[:SHOWN]
    place = [int(np.flatnonzero(test == content[row])[0]) for row in rows]
    count = len(content)
    return [
        group(dataset, "also in the test part", [int(row), count + there])
        for row, there in zip(rows, place, strict=True)
    ]


def group(dataset: Dataset, title: str, rows: list[int]) -> dict:
    """Some images side by side; rows from the number of training images on are of the test part."""
    items, train = [], len(dataset.given_label)
    for row in rows:
        images, at = (dataset.images, row) if row < train else (dataset.test_images, row - train)
        label = dataset.reported_label[row] if row < train else dataset.test_label[at]
        picture = images is not None and images.dtype == np.uint8
        items.append(
            {
                "image": data_uri(images[np.array([at])][0], 64) if picture and images is not None else "",
                "label": dataset.class_names[label],
                "id": str(dataset.ids[row]) if row < train else f"test image {at}",
            }
        )
    return {"title": title, "items": items}
