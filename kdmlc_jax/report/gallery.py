"""The gallery: suspected labels as small pictures, each with the trusted images nearest to it."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.images.thumbnails import data_uri
from kdmlc_jax.report import evidence
from kdmlc_jax.report.figures import Columns
from kdmlc_jax.storage import files

NEAR_SIDE = 48  # pixels of the images shown as evidence


def gallery(
    dataset: Dataset,
    rows: Int[np.ndarray, " N"],
    columns: Columns,
    beliefs: Float[np.ndarray, "N C"],
    shown: Int[np.ndarray, " n"],
    network: Path,
    folder: Path | None,
) -> tuple[list[dict], list[dict]]:
    """What the script draws: the suspected labels, and the trusted images that they refer to by their place.

    Args:
      dataset: of the run.
      rows: of `dataset`, a row each of the table.
      columns, beliefs: of the table.
      shown: rows of the table, most suspicious first.
      network: the folder of the network by whose features images are alike.
      folder: that the images' names are paths in, if they are.
    """
    pictures = dataset.images.dtype == np.uint8
    trusted, near = evidence.nearest(dataset, rows[shown] if pictures else rows[:0], network)
    used: list[int] = [int(number) for number in np.unique(near)]
    place = {number: position for position, number in enumerate(used)}
    images = [data_uri(dataset.images[rows[row : row + 1]][0]) if pictures else "" for row in shown]
    items: list[dict] = []
    for number, row in enumerate(shown):
        suggested, name = int(columns["suggested_label"][row]), str(columns["id"][row])
        items.append(
            {
                "id": name,
                "path": path_of(folder, name),
                "given": int(columns["given_label"][row]),
                "suggested": suggested,
                "sure": round(float(beliefs[row, suggested]), 4),
                "own": round(float(columns["p_given"][row]), 4),
                "decision": str(columns["decision"][row]),
                "rank": number + 1,
                "image": images[number],
                "near": [place[int(alike)] for alike in near[number]] if pictures else [],
            }
        )
    known = [
        {
            "id": str(dataset.ids[row]),
            "label": int(dataset.given_label[row]),
            "image": data_uri(dataset.images[np.array([row])][0], NEAR_SIDE),
        }
        for row in trusted[used]
    ]
    return items, known


def path_of(folder: Path | None, name: str) -> str:
    """Where an image lies, in full, if it lies in `folder`; else its name."""
    if folder is None or "\0" in name:
        return name
    path = folder / name
    return str(path) if files.exists(path) else name


def run_of(summary: dict, columns: Columns, shown: Int[np.ndarray, " n"]) -> str:
    """What decisions are kept under: a digest of the run and the labels that it shows."""
    found = hashlib.sha256(f"{summary['dataset']}{summary['method']}{summary['seed']}".encode())
    for row in shown:
        found.update(f"{columns['id'][row]}\0{columns['given_label'][row]}\0".encode())
    return found.hexdigest()[:16]
