"""Why the label of one image is suspected, or not.

    python -m kdmlc_jax.explain cat/0017.png --workdir runs/photos

The name is the image's `id` in labels.csv; the end of it, such as the file's own name, will do where no other has it.
What a method keeps of each image (blind_kd its agreement, dmlp the label it purified) is shown with the rest; of the
epochs before the last nothing is kept of single images, for no epoch passes over the whole set.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from kdmlc_jax import config as config_lib
from kdmlc_jax.cli import Parser, guarded
from kdmlc_jax.errors import UserError, in_range, suggest

SHOWN = 5  # classes
ASKED = ("noisy", "validation")  # splits whose labels are in doubt


def main(argv: list[str]) -> None:
    """Prints what the run in `--workdir` knows of one image."""
    parser = Parser("kdmlc_jax.explain", "Say why the label of one image is suspected.")
    parser.add_argument("id", help="of the image, as in labels.csv")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument("--near", type=int, default=3, help="so many trusted images that are most like it (default: 3)")
    flags = parser.parse_args(argv)
    in_range("--near", flags.near, 0, 100)

    from kdmlc_jax import finished
    from kdmlc_jax.data.reopen import reopened
    from kdmlc_jax.storage import labels as label_table

    summary = finished.ended(flags.workdir)
    for line in finished.check_files(flags.workdir, summary, ("labels.parquet", "soft_labels.npy", "noise.npz")):
        print(line, file=sys.stderr)
    table, beliefs = label_table.whole(flags.workdir)
    row = find(flags.id, [str(name) for name in table["id"]])
    dataset = reopened(config_lib.read(flags.workdir / "config.json"), flags.workdir)
    finished.check_data(dataset, flags.workdir, summary)
    for line in (*label_lines(table, beliefs[row], row, dataset.class_names), *like(table, row, dataset.class_names)):
        print(line)
    if flags.near:
        for line in near(flags, dataset, summary, str(table["id"][row])):
            print(line)


def find(name: str, ids: list[str]) -> int:
    """The row of the image called `name`, or of the only one whose id ends so.

    Raises:
      UserError: where there is none, or several.
    """
    if name in ids:
        return ids.index(name)
    ending = [row for row, each in enumerate(ids) if each.endswith(f"/{name}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        some = ", ".join(ids[row] for row in ending[:3])
        raise UserError(f'"{name}" names {len(ending)} images ({some} …), expected the whole id of one')
    raise UserError(f'"{name}" is no image of this run{suggest(name, ids[:100_000])}; labels.csv has their ids')


def label_lines(table: dict[str, np.ndarray], belief: np.ndarray, row: int, names: tuple[str, ...]) -> Iterator[str]:
    """What the run believes of the image at `row`, and what it makes of it, a line each."""
    value = {name: column[row] for name, column in table.items()}
    yield f"{value['id']} ({value['split']})"
    yield f"  given      {value['given_class']}: right with probability {value['p_given']:.3f}"
    yield f"  suggested  {value['suggested_class']}: {belief[value['suggested_label']]:.3f}"
    order = np.argsort(-belief, kind="stable")[:SHOWN]
    yield "  beliefs    " + ", ".join(f"{names[number]} {belief[number]:.3f}" for number in order)
    if value["split"] not in ASKED:
        yield "  its label is trusted: it is not in doubt, and the run has not been asked"
        return
    asked = np.isin(table["split"], ASKED)
    place = int((table["label_score"][asked] < value["label_score"]).sum()) + 1
    yield f"  suspicion  place {place} of {asked.sum()} (label_score {value['label_score']:.3f}, low is suspicious)"
    words = {"keep": "keep the given label", "review": "for a person to look at"}
    words["correct"] = f"correct to {value['suggested_class']}, which held-out trusted images vouch for"
    yield f"  decision   {value['decision']}: {words.get(str(value['decision']), '')}"
    kept = value["corrected_label"] == value["given_label"]
    what = "stays" if kept else f"becomes {value['corrected_class']}"
    yield f"  training   the label {what} (confidence {value['confidence']:.3f})"
    own = [name for name in table if name not in SAID and not _missing(value[name])]
    yield from (f"  {name:10s} {value[name]}" for name in own)


SAID = (
    *("id", "split", "given_label", "corrected_label", "suggested_label", "decision", "confidence", "p_given"),
    *("is_label_issue", "label_score", "rank", "given_class", "corrected_class", "suggested_class"),
)


def _missing(value: Any) -> bool:
    return value is None or value != value


def like(table: dict[str, np.ndarray], row: int, names: tuple[str, ...]) -> Iterator[str]:
    """How often labels of its class are doubted, and for the same class."""
    given, suggested = table["given_label"], table["suggested_label"]
    mine = np.isin(table["split"], ASKED) & (given == given[row])
    if not mine.any():
        return
    doubted = int((mine & (suggested != given)).sum())
    yield f"  its class  {doubted} of {mine.sum()} labels {names[given[row]]} are doubted"
    if suggested[row] != given[row]:
        same = int((mine & (suggested == suggested[row])).sum())
        yield f"             {same} of these for {names[suggested[row]]}"


def near(flags: argparse.Namespace, dataset: Any, summary: dict, name: str) -> Iterator[str]:
    """The trusted images that are most like it, by features."""
    from kdmlc_jax.report import evidence

    rows = np.flatnonzero(np.asarray(dataset.ids).astype(str) == name)
    trusted, found = evidence.nearest(dataset, rows[:1], evidence.network_of(summary, flags.workdir), flags.near)
    alike = [int(trusted[number]) for number in found[0]] if len(found) else []
    alike = [row for row in alike if row != rows[0]]
    if not alike:
        yield "  no trusted images to compare it with"
    for row in alike:
        yield f"  near       {dataset.ids[row]}, trusted: {dataset.class_names[dataset.given_label[row]]}"


if __name__ == "__main__":
    guarded(main)
