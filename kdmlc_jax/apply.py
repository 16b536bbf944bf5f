"""Labels corrected, as a manifest or a folder of links to train on: the run's changes, and a person's.

    python -m kdmlc_jax.apply --workdir runs/photos --dry-run
    python -m kdmlc_jax.apply --workdir runs/photos --corrections corrections.csv --out photos/clean.csv
    python -m kdmlc_jax.main --config configs/folder.py:dir=photos,manifest=clean.csv --workdir runs/again
    python -m kdmlc_jax.apply --workdir runs/photos --to labelstudio --out tasks.json

Nothing that is there is touched. Without --take or --corrections the changes are those that the run promises to be
right (`decision` = correct), which may be none.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from kdmlc_jax import config as config_lib
from kdmlc_jax import handover, registry
from kdmlc_jax.cli import Parser, guarded
from kdmlc_jax.errors import UserError, in_range, suggest
from kdmlc_jax.storage import files

TAKE = ("correct", "corrected", "suggested", "none")
DECISIONS = ("accept", "keep", "other", "unsure")
READ = ("config.json", "noise.npz", "labels.parquet", "soft_labels.npy")
COLUMNS = ("path", "label", "split", "trusted", "given_label", "source")


class Label(NamedTuple):
    """What an image is labelled now, and where that comes from: given, trusted, corrected or reviewed."""

    number: int
    source: str


def main(argv: list[str]) -> None:
    """Counts the changes, and writes them."""
    parser = Parser("kdmlc_jax.apply", "Write a finished run's labels, corrected: a manifest, or a folder a class.")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument(
        "--take",
        choices=TAKE,
        help="the run's changes: correct, those it promises (default); corrected, those it would train on; suggested, "
        "all it suggests; none (default with --corrections)",
    )
    parser.add_argument("--min-confidence", type=float, metavar="P", help="only suggestions believed at P or more")
    parser.add_argument("--corrections", type=pathlib.Path, metavar="FILE.csv", help="a person's, from report.html")
    parser.add_argument("--trust-reviewed", action="store_true", help="what a person has decided becomes trusted")
    parser.add_argument("--out", type=pathlib.Path, help="a manifest (.csv), or a folder of links to the images")
    parser.add_argument("--to", metavar="TOOL", help="a file for another tool: labelstudio, fiftyone or huggingface")
    parser.add_argument("--copy", action="store_true", help="copies instead of links")
    parser.add_argument("--dry-run", action="store_true", help="only count")
    flags = parser.parse_args(argv)
    if flags.out is None and not flags.dry_run:
        raise UserError(
            "--out is missing: give a manifest (clean.csv) or a folder to write, or --dry-run to count only"
        )
    if flags.out is not None and files.exists(flags.out):
        raise UserError(f"{flags.out}: is there already, and nothing that is there is touched; choose another name")
    if flags.to is not None:
        suffix = registry.get(handover, "--to", flags.to).SUFFIX
        if flags.out is not None and flags.out.suffix.lower() != suffix:
            raise UserError(f"--out {flags.out}: expected a name that ends in {suffix}, as {flags.to} reads it")
    if flags.min_confidence is not None:
        in_range("--min-confidence", flags.min_confidence, 0.0, 1.0)
    if flags.take is None:
        flags.take = "none" if flags.corrections else "correct"
        flags.take = "suggested" if flags.min_confidence is not None else flags.take
    run(flags)


def run(flags: argparse.Namespace) -> None:
    """The command, its flags understood."""
    from kdmlc_jax import finished
    from kdmlc_jax.data import noise, provenance, sources
    from kdmlc_jax.data.prepare import ids_of

    finished.check_files(flags.workdir, finished.ended(flags.workdir), READ)
    config = config_lib.read(flags.workdir / "config.json")
    source = sources.load(config.data)
    kept, ids = provenance.load(flags.workdir / "noise.npz"), [str(name) for name in ids_of(source.train)]
    now, _ = noise.given_labels(config.noise, source.train, source.class_names, config.seed)
    check_unchanged(flags.workdir, kept, source.class_names, ids, now)
    labels = {name: Label(int(number), "given") for name, number in zip(ids, kept.given_labels, strict=True)}
    for row in kept.splits.checked:
        labels[ids[row]] = Label(int(kept.given_labels[row]), "trusted")
    given = {name: label.number for name, label in labels.items()}
    labels |= of_run(flags, given)
    if flags.corrections:
        labels |= of_person(flags.corrections, given, list(source.class_names))
    print(counted(labels, given))
    if flags.dry_run or flags.out is None:
        return
    rows = manifest(source, ids, labels, given, flags.trust_reviewed)
    if flags.to is not None:
        from kdmlc_jax.handover import _rows

        root = pathlib.Path(config.data.dir).expanduser().resolve() if config.data.source == "folder" else None
        told = _rows.of(rows, flags.workdir, root)
        registry.get(handover, "--to", flags.to).write(told, list(source.class_names), flags.out)
    elif flags.out.suffix.lower() == ".csv":
        columns = COLUMNS if config.data.source == "folder" else ("id", *COLUMNS[1:])
        rows = rows if config.data.source == "folder" else [row for row in rows if row[0] in labels]
        files.write_csv(flags.out, columns, rows)
    else:
        tree(flags.out, config, rows, flags.copy)
    tests = sum(row[2] == "test" for row in rows)
    print(f"{len(rows)} labels in {flags.out}" + f", {tests} of the test part among them" * bool(tests))


def check_unchanged(
    workdir: pathlib.Path, kept: Any, class_names: Sequence[str], ids: list[str], labels: Int[np.ndarray, " N"]
) -> None:
    """Raises UserError where images, classes or labels are not those that the run has seen."""
    from kdmlc_jax.data import provenance

    if kept.images != provenance.fingerprint(np.array(ids), class_names):
        raise UserError(
            f"{workdir}: its images or classes have changed since the run; train again in another --workdir"
        )
    other = np.flatnonzero(kept.carried_labels != labels)
    if other.size:
        name, was, now = ids[other[0]], kept.carried_labels[other[0]], labels[other[0]]
        named = [class_names[number] if number >= 0 else "none" for number in (was, now)]
        raise UserError(
            f"{workdir}: {other.size} labels have changed since the run, the first is {name}'s, {named[0]} then and "
            f"{named[1]} now; put them back, or train again in another --workdir"
        )


def of_run(flags: argparse.Namespace, given: dict[str, int]) -> dict[str, Label]:
    """The changes of the run that `--take` and `--min-confidence` name."""
    from kdmlc_jax.storage import labels as label_table

    found: dict[str, Label] = {}
    if flags.take == "none":
        return found
    column = "suggested_label" if flags.take == "suggested" else "corrected_label"
    table, beliefs = label_table.whole(flags.workdir)
    least = 0.0 if flags.min_confidence is None else flags.min_confidence
    rows = zip(table["id"], table["split"], table["decision"], table[column], beliefs, strict=True)
    for name, split, decision, label, belief in rows:
        if split not in ("noisy", "validation") or (flags.take == "correct" and decision != "correct"):
            continue
        if label != given[str(name)] and belief[label] >= least:
            found[str(name)] = Label(int(label), "corrected")
    return found


def of_person(path: pathlib.Path, given: dict[str, int], class_names: list[str]) -> dict[str, Label]:
    """What a person has decided, from the file that report.html saves: id, decision, label, given_label.

    Raises:
      UserError: naming the row for an unknown image, class or decision, an image twice, or a given label that is not
        the one decided on.
    """
    from kdmlc_jax.data.formats.tables import read_table

    wanted = {name: (name,) for name in ("id", "decision", "label", "given_label")}
    table = read_table(path, wanted, required=tuple(wanted)).columns
    number_of = {name: number for number, name in enumerate(class_names)}
    found: dict[str, Label] = {}
    seen: set[str] = set()
    for row, values in enumerate(zip(*(table[name] for name in wanted), strict=True), start=1):
        name, decision, label, was = values
        place = f"{path} row {row}"
        if name not in given:
            raise UserError(f'{place}: "{name}" is not a training image of this run')
        if name in seen:
            raise UserError(f'{place}: "{name}" is there twice, expected one decision an image')
        seen.add(name)
        if decision not in DECISIONS:
            raise UserError(
                f'{place}: decision "{decision}" is not one of {", ".join(DECISIONS)}{suggest(decision, DECISIONS)}'
            )
        for text in (label, was):
            if text not in number_of:
                raise UserError(f'{place}: "{text}" is not a class{suggest(text, class_names)}')
        if number_of[was] != given[name]:
            now = class_names[given[name]]
            raise UserError(f'{place}: "{name}" was given {was} when it was looked at and is given {now} now')
        if decision != "unsure":
            found[name] = Label(number_of[label], "reviewed")
    return found


def counted(labels: dict[str, Label], given: dict[str, int]) -> str:
    """In one line."""
    sources = Counter(label.source for label in labels.values())
    changed = sum(label.number != given[name] for name, label in labels.items() if label.source == "reviewed")
    words = [f"{len(labels)} labels: {sources['given']} as given", f"{sources['corrected']} corrected by the run"]
    words.append(f"{sources['reviewed']} decided by a person ({changed} changed)")
    return ", ".join([*words, f"{sources['trusted']} trusted"])


def manifest(
    source: Any, ids: list[str], labels: dict[str, Label], given: dict[str, int], trust_reviewed: bool
) -> list[tuple[str, ...]]:
    """A row for each image, training and test: see COLUMNS. Validation images that a run has drawn are drawn again."""
    validation = set() if source.validation is None else {ids[row] for row in source.validation}
    names = source.class_names
    rows: list[tuple[str, ...]] = []
    for name in ids:
        label = labels[name]
        trusted = label.source == "trusted" or (trust_reviewed and label.source == "reviewed")
        split = "validation" if name in validation and not trusted else "train"
        rows.append((name, names[label.number], split, "yes" if trusted else "no", names[given[name]], label.source))
    if source.test is not None and source.test.ids is not None:
        for name, number in zip(source.test.ids, source.test.labels, strict=True):
            rows.append((str(name), names[number], "test", "no", names[number], "given"))
    return rows


def tree(out: pathlib.Path, config: Any, rows: list[tuple[str, ...]], copy: bool) -> None:
    """A folder per split and class with a link to each image, or a copy; whole or not at all.

    Raises:
      UserError: for images that are in no files of their own, and a class whose name is none for a folder.
      StorageError: where the folder cannot be written.
    """
    if config.data.source != "folder":
        raise UserError(f"--out {out}: {config.data.source} has no image files to link to; write a manifest (.csv)")
    for label in sorted({row[1] for row in rows}):
        if not is_folder_name(label):
            raise UserError(f'--out {out}: no folder can be named as the class "{label}"; write a manifest (.csv)')
    root = pathlib.Path(config.data.dir).expanduser().resolve()
    for name, *_ in rows:
        if not files.exists(root / name):
            raise UserError(f"--out {out}: {root / name} is no file that could be linked to; write a manifest (.csv)")
    names = flat([row[0] for row in rows])
    with files.new_directory(out) as part:
        for (name, label, split, trusted, *_), own in zip(rows, names, strict=True):
            place = part / ("trusted" if trusted == "yes" else split) / label / own
            place.parent.mkdir(parents=True, exist_ok=True)
            if copy:
                shutil.copy2(root / name, place)
            else:
                os.symlink(root / name, place)


def flat(names: Sequence[str]) -> list[str]:
    """A file name for each path: its parts joined by __, or a digest of it where another has the same, or it is none
    that the reader of a folder would take."""
    joined = [name.replace("/", "__") for name in names]
    count = Counter(own.casefold() for own in joined)
    return [
        own
        if count[own.casefold()] == 1 and is_folder_name(own)
        else hashlib.sha256(name.encode()).hexdigest()[:32] + pathlib.PurePosixPath(name).suffix
        for name, own in zip(names, joined, strict=True)
    ]


def is_folder_name(name: str) -> bool:
    """Whether `name` is one part of a path that the reader of a folder does not pass over."""
    from kdmlc_jax.data.formats.extensions import is_hidden

    return "/" not in name and 0 < len(name.encode()) <= 255 and not is_hidden(name)


if __name__ == "__main__":
    guarded(main)
