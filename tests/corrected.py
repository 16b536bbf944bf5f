"""What a run leaves of 30 photographs, made in no time: one change promised, two suggested, one of these at .6."""

import pathlib

import numpy as np
import photos

from kdmlc_jax import apply
from kdmlc_jax import config as config_lib
from kdmlc_jax.data import provenance
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.labels.table import Decided, table
from kdmlc_jax.storage import files
from kdmlc_jax.storage import labels as label_table
from kdmlc_jax.storage.checksums import file_sum

SIZES = "validation=6,held_out=0"
SMALL = {"train.batch_size": "5", "train.trusted_batch_size": "5"}


def make(folder: pathlib.Path) -> tuple[pathlib.Path, list[str], np.ndarray]:
    """The run's folder, its ids in the table's order, and their given labels; the photographs are in photos/."""
    photos.make(folder / "photos", train=30, trusted=6, test=6)
    config = config_lib.load(f"configs/folder.py:dir={folder / 'photos'},{SIZES}", SMALL)
    dataset, workdir = prepare(config), folder / "run"
    workdir.mkdir()
    rows = np.concatenate(dataset.splits)
    names = np.repeat(dataset.splits._fields, [len(part) for part in dataset.splits])
    given = dataset.given_label[rows]
    beliefs = np.full((len(rows), 3), 0.01)
    beliefs[np.arange(len(rows)), given] = 0.98
    decision, corrected = np.full(len(rows), "keep", object), given.copy()
    for row, (sure, said) in {0: (0.97, "correct"), 1: (0.96, "review"), 2: (0.6, "review")}.items():
        beliefs[row] = (1 - sure) / 2
        beliefs[row, (given[row] + 1) % 3] = sure
        decision[row] = said
    corrected[:2] = (given[:2] + 1) % 3
    made = table(dataset.ids[rows], names, given, beliefs, photos.CLASSES, {}, Decided(corrected, decision, "p_given"))
    label_table.write(made, workdir, beliefs)
    files.write_sealed(workdir / "config.json", config.to_dict())
    provenance.save(workdir / "noise.npz", dataset.provenance())
    seal(workdir)
    return workdir, [str(name) for name in dataset.ids[rows]], given


def seal(workdir: pathlib.Path) -> None:
    """As the end of a run does: the sums of what it has left."""
    sums = {name: file_sum(workdir / name) for name in apply.READ}
    files.write_sealed(
        workdir / "summary.json", {"networks": {}, "noise": {}, "labels": {"accuracy_before": None}, "files": sums}
    )
