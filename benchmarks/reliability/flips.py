"""Flips bits in every file that runs leave, and gives them to everything that reads these files.

    python benchmarks/reliability/flips.py --flips 1200 --out benchmarks/results/reliability_flips.json

A comparison leaves runs of kdmlc, ce and dmlp, two further ones have a baseline and folds of the trusted images. Each
trial copies one of them, flips one random bit of one of its files (every file in turn; a name that a run chooses at
random counts as one of its kind), and lets each reader of that file read the copy. By what a reader ends with, against
what it made of the files as they were left:

    refused  one line and exit status 2 or 4
    noticed  the same result, and a warning
    same     the same result (the bit was none that this reader uses, or the file was made anew)
    wrong    another result: silently wrong
    failed   a traceback

All of it happens in this process. `again` is the same command on a finished run, `resume` the same where summary.json
is gone: it goes on from the newest checkpoint, and everything that it leaves must be as it was.
"""

import collections
import functools
import json
import pathlib
import re
import shutil
import sys

import common
import numpy as np
import small

from kdmlc_jax import apply, embed, export, main, predict, train, warm_start
from kdmlc_jax.compare import __main__ as comparing
from kdmlc_jax.data import prepare as prepare_lib
from kdmlc_jax.data import provenance
from kdmlc_jax.data.noise import file as label_file
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.report import __main__ as reporting
from kdmlc_jax.storage.checkpoint import Checkpoints
from kdmlc_jax.train_state import named_leaves

COMPARED = ["kdmlc", "ce:train_on=both", "dmlp:ssl_epochs=1,purify_epochs=2"]
# Readers of a file by its name; the first pattern that fits.
USES = [
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
SLOW = {"resume": 0.1, "embed": 0.2, "report": 0.5}  # in so many of their trials


class Home:
    """The runs, a copy of one of them, and its readers."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.trial, self.out = folder / "left", folder / "trial", folder / "out"
        self.pixels = folder / "pixels.npy"
        np.save(self.pixels, np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8))
        self.cells: dict[str, pathlib.Path] = {}
        if not (self.folder / "done").exists():
            self.make()
        for path in sorted(self.folder.rglob("summary.json")):
            self.cells[str(path.parent.relative_to(self.folder))] = path.parent
        self.compare = json.loads((self.folder / "done").read_text())

    def make(self) -> None:
        """Runs them all, in the folder where they are read."""
        shutil.rmtree(self.trial, ignore_errors=True)
        spec = small.DATA.format(small.MLP, 2)
        methods = ["--methods", " ".join(COMPARED), "--seeds", "0", "--workdir", str(self.trial / "cells")]
        compare = ["--config", spec, *small.flags(), *methods]
        base = '(("linear","linear"),)'
        crossed = {"data__cross_fit": 2, "data__held_out": 0}
        for program, words in (
            (comparing.main, compare),
            (main.main, small.words("ce", self.trial / "based", 2, baselines=base)),
            (main.main, small.words("ce", self.trial / "folds", 2, **crossed)),
        ):
            if (answer := small.call(program, words)).code:
                raise SystemExit(answer.err)
        (self.trial / "done").write_text(json.dumps(compare))
        self.trial.rename(self.folder)

    def config(self, run: pathlib.Path):
        """That of a run, as it was left."""
        return train.config_lib.read(self.folder / run.relative_to(self.trial) / "config.json")

    @functools.cache  # noqa: B019 (one home a process)
    def begun(self, run: pathlib.Path):
        """The experiment of a run, and its state before the first step."""
        experiment = train.Experiment(self.config(run), prepare(self.config(run)))
        return experiment, experiment.init()

    def words(self, run: pathlib.Path) -> list[str]:
        """The command line of a run, whatever its config.json says."""
        fields = train.config_lib.flatten(self.config(run))
        plain = {name: value for name, value in fields.items() if not name.startswith("method.")}
        method = [f"{name[7:]}={fields[name]}" for name in fields if name.startswith("method.") and fields[name] != ""]
        method = [f"method={fields['method.name']}", *(each for each in method if not each.startswith("name="))]
        said = [f"--config.{name}={plain[name]}" for name in plain if name not in ("name", "devices")]
        return ["--config", f"configs/digits.py:{','.join(method)}", *said, "--config.devices=1", "--workdir", str(run)]


def read(home: Home, reader: str, run: pathlib.Path) -> tuple[small.Answer, dict]:
    """What a reader ends with on a run in the trial's folder: its answer, and digests of what it makes of it."""
    made: dict = {}
    out = home.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()

    def command(program, *words: str) -> None:
        program([*map(str, words)])
        made.update(small.tree(out))

    def digest(**arrays) -> None:
        made.update({name: common.sha(np.ascontiguousarray(value).tobytes()) for name, value in arrays.items()})

    def changed(**fields):
        config = home.config(run).copy_and_resolve_references()
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config

    def noise(_) -> None:
        table = (home.folder / run.relative_to(home.trial) / "labels.csv").read_text()
        ids = np.array([line.split(",")[0] for line in table.splitlines()[1:]])
        for name in ("labels.csv", "labels.parquet"):
            if (run / name).exists():
                config = changed(noise__kind="file", noise__file=str(run / name))
                prepare_lib.held_to_sums(config)
                digest(**{name: label_file.read_labels(run / name, len(ids), 10, ids, [*map(str, range(10))])})
        config = changed(noise__kind="file", noise__file=str(run / "noise.npz"))
        made.update(provenance.digests(prepare(config).provenance()))

    def labels(_) -> None:
        data = prepare(changed(data__labels=str(run)))
        made.update(provenance.digests(data.provenance()))
        digest(soft=data.soft_label)
        print(data.notes, file=sys.stderr)

    def splits(_) -> None:
        made.update(provenance.digests(prepare(changed(data__splits=str(run / "noise.npz"))).provenance()))

    def init(_) -> None:
        experiment, carry = home.begun(run)
        begun, _ = warm_start.start_from(experiment, carry, run)
        made.update(common.digests(named_leaves(begun["method"]), {}))

    def restore(_) -> None:
        # In place of the loop: the newest state that is whole, from which the rest of a run follows (see cuts.py).
        checkpoints = Checkpoints(run / "checkpoints", 2)
        state, progress = checkpoints.restore(home.begun(run)[1])
        checkpoints.close()
        left = home.folder / run.relative_to(home.trial) / "checkpoints"
        was = common.saved(left / str(common.steps(run)[-1]))
        made["other than saved"] = str(common.differences(common.digests(named_leaves(state), progress), was))

    def resume(words) -> None:
        (run / "summary.json").unlink(missing_ok=True)
        main.main(words)
        made.update(small.outcome(run))

    def again(words) -> None:
        main.main(words)
        made.update(small.outcome(run))

    def compare(_) -> None:
        comparing.main(home.compare)

    readers = {
        "again": lambda: again(home.words(run)),
        "alone": lambda: again(["--workdir", str(run)]),
        "resume": lambda: resume(home.words(run)),
        "compare": lambda: compare(None),
        "load": lambda: digest(**{n: export.load(run / n)(np.load(home.pixels)) for n in nets(run)}),
        "predict": lambda: command(predict.main, "--model", run / nets(run)[0], home.pixels, "--out", out / "p.csv"),
        "apply": lambda: command(apply.main, "--workdir", run, "--take", "suggested", "--out", out / "a.csv"),
        "report": lambda: command(reporting.main, "--workdir", run, "--out", out / "r.html"),
        "embed": lambda: command(embed.main, "--encoder", run / nets(run)[0], "--out", out / "e"),
        "labels": lambda: labels(None),
        "noise": lambda: noise(None),
        "splits": lambda: splits(None),
        "init": lambda: init(None),
        "restore": lambda: restore(None),
    }
    answer = small.call(lambda _: readers[reader](), [])
    if reader in ("again", "alone", "compare"):
        made["said"] = common.sha(answer.out.encode())
    if answer.code:
        made = {}
    return answer, made


def nets(run: pathlib.Path) -> list[str]:
    """The networks that a run has left."""
    return [name for name in ("student", "teacher") if (run / name).is_dir()]


def verdict(answer: small.Answer, made: dict, expected: dict) -> str:
    """What a reader has ended with; see the top."""
    if answer.code:
        return "refused" if answer.clean else "failed"
    if made != expected:
        return "wrong"
    return "noticed" if "warning" in answer.err or "is gone" in answer.err else "same"


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All trials; the counts, and each trial that ended badly."""
    home = Home(folder)
    expected: dict = {}
    counts = collections.Counter({"flips": 0, "readings": 0, "wrong": 0, "failed": 0})
    rng, bad = np.random.default_rng(flags.seed), []
    files = sorted(path for path in home.folder.rglob("*") if path.is_file() and path.stat().st_size)
    files = [path for path in files if path.name not in ("done", "lock", "table.json", "table.md")]
    kinds: dict[str, list[pathlib.Path]] = {}
    for path in files:  # Orbax names some of its files at random
        kinds.setdefault(re.sub(r"[0-9a-f]{32}", "*", str(path.relative_to(home.folder))), []).append(path)
    for number in range(flags.flips):
        kind = list(kinds)[number % len(kinds)]
        path = kinds[kind][rng.integers(len(kinds[kind]))]
        top, uses = path.relative_to(home.folder).parts[0], next(u for p, u in USES if re.search(p, str(path)))
        owner = max((cell for cell in home.cells.values() if cell in path.parents), key=lambda cell: len(cell.parts))
        own = home.trial / owner.relative_to(home.folder)
        raw = bytearray(path.read_bytes())
        at, bit = int(rng.integers(len(raw))), int(rng.integers(8))
        raw[at] ^= 1 << bit
        counts["flips"] += 1
        for reader in uses:
            if rng.random() >= SLOW.get(reader, 1) or (reader == "compare" and top != "cells"):
                continue
            if reader in ("labels", "noise", "splits", "init", "embed", "load", "predict") and not nets(owner):
                continue
            for flipped in (False, True) if (reader, owner) not in expected else (True,):
                shutil.rmtree(home.trial, ignore_errors=True)
                shutil.copytree(home.folder / top, home.trial / top, symlinks=True)
                if flipped:
                    (home.trial / path.relative_to(home.folder)).write_bytes(raw)
                answer, made = read(home, reader, own)
                if not flipped:
                    expected[reader, owner] = made
                    if answer.code:
                        raise SystemExit(f"{reader} of {owner}, nothing flipped:\n{answer.err}")
            result = verdict(answer, made, expected[reader, owner])
            counts["readings"] += 1
            counts[result] += 1
            counts[f"{reader}: {result}"] += 1
            if result in ("wrong", "failed"):
                about = {"file": kind, "byte": at, "bit": bit, "reader": reader, "result": result}
                about["said"] = common.scrub(answer.err[-600:], home.trial)
                about["differs"] = common.differences(made, expected[reader, owner])[:5]
                bad.append(about)
                print(about, file=sys.stderr, flush=True)
        if number % 50 == 49:
            print(dict(counts), file=sys.stderr, flush=True)
    return dict(counts), bad


if __name__ == "__main__":
    report = common.Report(__doc__, flips=(1200, "how many"))
    report.run(run, "bad")
