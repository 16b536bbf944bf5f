"""Flips bits in every file that runs leave, and gives them to everything that reads these files.

    python benchmarks/reliability/flips.py --flips 1200 --out benchmarks/results/reliability_flips.json

A comparison leaves runs of kd and ce, two further ones have a baseline and folds of the trusted images; one
network is exported in three formats, and the images' features are written. Each trial flips one random bit of one of
these files (every file in turn; a name that a run chooses at random counts as one of its kind), and lets a reader of
that file read it (every one in turn). By what it ends with, against what it made of the files as they were left:

    refused  one line and exit status 2 or 4
    noticed  the same result, and a warning
    same     the same result (the bit was none that this reader uses, or the file was made anew)
    wrong    another result: silently wrong
    failed   a traceback

All of it happens in this process. `again` is the same command on a finished run, `resume` the same where summary.json
is gone: it goes on from the newest checkpoint, and everything that it leaves must be as it was. `sums` is what
`sha256sum -c` says of an exported folder, `features` and `shown` are runs on the written features, beside the images
and in their place.
"""

import collections
import functools
import json
import pathlib
import re
import sys

import common
import left
import numpy as np
import small

# Readers of a file by its name; the first pattern that fits.
USES = [
    (r"exports/export/", ["sums"]),
    (r"exports/features/.*json$", ["features", "shown", "embed again"]),
    (r"exports/features/", ["features", "shown"]),
    (r"checkpoints/", ["restore", "resume"]),
    (r"(config\.json|metrics\.jsonl)$", ["again", "alone", "apply", "report", "resume"]),
    (r"noise\.npz$", ["again", "apply", "report", "splits", "noise", "init", "resume"]),
    (r"labels\.parquet$", ["again", "apply", "report", "labels", "noise"]),
    (r"soft_labels\.npy$", ["again", "apply", "report", "labels"]),
    (r"labels\.csv$", ["again", "noise"]),
    (r"(student|teacher)/", ["again", "load", "predict", "init", "embed"]),
    (r"summary\.json$", ["again", "compare", "apply", "report", "labels"]),
    (r"", ["again"]),
]
WITH_NETWORKS = ("labels", "noise", "splits", "init", "embed", "load", "predict")


def verdict(answer: small.Answer, made: dict, expected: dict) -> str:
    """What a reader has ended with; see the top."""
    if answer.code:
        return "refused" if answer.clean else "failed"
    if made != expected:
        return "wrong"
    return "noticed" if "warning" in answer.err or "is gone" in answer.err else "same"


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All trials; the counts, and each trial that ended badly."""
    home = left.Home(folder)
    expected: dict = {}
    counts = collections.Counter({"flips": 0, "wrong": 0, "failed": 0})
    bad: list[dict] = []
    state = folder / "flips.json"  # a cut script goes on there
    if state.exists():
        begun, found, bad = json.loads(state.read_text())
        counts.update(found)
    else:
        begun = 0
    files = sorted(path for path in home.folder.rglob("*") if path.is_file() and path.stat().st_size)
    files = [path for path in files if path.name not in ("done", "lock", "table.json", "table.md")]
    kinds: dict[str, list[pathlib.Path]] = {}
    for path in files:  # Orbax names some of its files at random
        kinds.setdefault(re.sub(r"[0-9a-f]{32}", "*", str(path.relative_to(home.folder))), []).append(path)
    for number in range(begun, flags.flips):
        rng, turn = np.random.default_rng((flags.seed, number)), number // len(kinds)
        kind = list(kinds)[number % len(kinds)]
        path = kinds[kind][rng.integers(len(kinds[kind]))]
        name = str(path.relative_to(home.folder))
        owners = [cell for cell in home.cells.values() if cell in path.parents]
        owner = max(owners, key=lambda cell: len(cell.parts), default=home.folder / "based")
        own = home.trial / owner.relative_to(home.folder)
        uses = next(uses for pattern, uses in USES if re.search(pattern, name))
        uses = [use for use in uses if use != "compare" or name.startswith("cells/")]
        uses = [use for use in uses if use not in WITH_NETWORKS or left.nets(own)]
        reader = uses[turn % len(uses)]
        raw = bytearray(path.read_bytes())
        at, bit = int(rng.integers(len(raw))), int(rng.integers(8))
        raw[at] ^= 1 << bit
        counts["flips"] += 1
        if (reader, own) not in expected:
            answer, expected[reader, own] = left.read(home, reader, own)
            home.fresh()
            if answer.code:
                raise SystemExit(f"{reader} of {own}, nothing flipped:\n{answer.err}")
        answer, made = home.flipped(name, bytes(raw), functools.partial(left.read, home, reader, own))
        result = verdict(answer, made, expected[reader, own])
        counts[result] += 1
        counts[f"{reader}: {result}"] += 1
        if result in ("wrong", "failed"):
            about = {"file": kind, "byte": at, "bit": bit, "reader": reader, "result": result}
            about["said"] = common.scrub(answer.err[-600:], home.trial)
            about["differs"] = common.differences(made, expected[reader, own])[:5]
            bad.append(about)
            print(about, file=sys.stderr, flush=True)
        if number % 20 == 19:
            state.write_text(json.dumps([number + 1, counts, bad]))
            print(dict(counts), file=sys.stderr, flush=True)
    return dict(counts), bad


if __name__ == "__main__":
    report = common.Report(__doc__, flips=(1200, "how many"))
    with small.remembering():
        report.run(run, "bad")
