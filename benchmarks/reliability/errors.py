"""Read errors at every call that looks at a file: opens, stats, listings, reads of whatever library.

    python benchmarks/reliability/errors.py --out benchmarks/results/reliability_errors.json

A folder of images and runs on it are made once. Each command below is given a fresh copy of all that, in which the n-th
call that looks at anything fails, in turn with EIO, ESTALE, EACCES. Calls of one kind on files whose names differ in
digits alone (images, arrays of a checkpoint) are tried --each times: the first ones and the last. With --writes 1
those calls fail that write, make, flush or rename, with ENOSPC, EDQUOT, EIO. Counted is what the command ends with:

    told        one line and exit status 4
    not needed  the same result as without the error
    misjudged   one line, but as if the input were wrong (status 2)
    wrong       another result, and no error
    failed      a traceback

and, where anything but the lock has changed in the folder, the command is given again without an error: `inexact`
counts those that then end with other files than they do without any error, `set aside` checkpoints named damaged-*.
"""

import collections
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import sys
from collections.abc import Callable
from unittest import mock

import common
import faults
import numpy as np
import small

LOOKING, WRITING = (errno.EIO, errno.ESTALE, errno.EACCES), (errno.ENOSPC, errno.EDQUOT, errno.EIO)
CLASSES, SHARES = ("cat", "dog", "owl"), {"train": 2, "trusted": 2, "test": 1}
BAD = ("misjudged", "wrong", "failed")


def photos(folder: pathlib.Path) -> None:
    """A folder of small images, classes told by their brightness; one of them is none."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in SHARES.items():
        for number, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(80 * number, 80 * number + 90, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{k}.png")
    (folder / "train" / "cat" / "bad.png").write_bytes(b"no image")


def config(home: pathlib.Path, *fields: str) -> list[str]:
    """The words of a run on those images."""
    name = f"configs/folder.py:dir={home}/photos,method=ce,train_on=both,teacher=mlp8,student=mlp8,epochs=2"
    given = ("devices=1", "baselines=()", "data.on_bad_image=skip", "data.validation=0", "data.held_out=0.5")
    sizes = ("train.batch_size=3", "train.trusted_batch_size=3")
    return ["--config", name, *(f"--config.{one}" for one in (*given, *sizes, *fields))]


def commands(home: pathlib.Path) -> dict[str, tuple[Callable, list[str]]]:
    """Program and words of each command, on the folder `home`."""
    from kdmlc_jax import apply, embed, export, main, predict
    from kdmlc_jax.compare import __main__ as comparing
    from kdmlc_jax.data import check
    from kdmlc_jax.export import __main__ as exporting
    from kdmlc_jax.report import __main__ as reporting

    del export
    ended, out, new = str(home / "ended"), str(home / "out"), str(home / "new")
    corrected = "noise.column=corrected_label"
    cells = ["--methods", "ce:train_on=noisy", "--seeds", "0"]
    return {
        "check": (check.main, config(home)),
        "first": (main.main, [*config(home), "--workdir", new]),
        "resume": (main.main, [*config(home), "--workdir", str(home / "cut")]),
        "finished before": (main.main, [*config(home), "--workdir", ended]),
        "alone": (main.main, ["--workdir", ended]),
        "compare": (comparing.main, [*config(home), *cells, "--workdir", str(home / "cells")]),
        "labels of a run": (main.main, [*config(home, f"data.labels={ended}"), "--workdir", new]),
        "table as noise": (
            main.main,
            [*config(home, "noise.kind=file", f"noise.file={ended}/labels.csv", corrected), "--workdir", new],
        ),
        "features": (main.main, [*config(home, f"data.features={home}/embedded"), "--workdir", new]),
        "init_from": (main.main, [*config(home, f"init_from={ended}"), "--workdir", new]),
        "report": (reporting.main, ["--workdir", ended]),
        "apply": (apply.main, ["--workdir", ended, "--take", "suggested", "--out", f"{out}.csv"]),
        "predict": (predict.main, ["--model", f"{ended}/student", f"{home}/photos/test", "--out", f"{out}.csv"]),
        "export": (exporting.main, ["--workdir", ended, "--to", "safetensors", "--out", out]),
        "embed": (embed.main, [*config(home), "--encoder", f"{ended}/student", "--out", f"{home}/embedded"]),
    }


def cut(program: Callable, words: list[str]) -> None:
    """Runs a command that is told to stop in its second epoch."""
    from kdmlc_jax import writers

    told = writers.Reporter.epoch

    def signalled(reporter, row: dict) -> None:
        told(reporter, row)
        os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(writers.Reporter, "epoch", signalled):
        answer = small.call(program, words)
    if answer.code != 75:
        raise SystemExit(f"not stopped: {answer}")


def left(home: pathlib.Path) -> dict[str, str]:
    """What lies below `home`, locks apart."""
    return {name: each for name, each in small.tree(home).items() if pathlib.Path(name).name != "lock"}


class Home:
    """Images and runs, and fresh copies of them at the same place."""

    def __init__(self, folder: pathlib.Path):
        self.kept, self.home = folder / "kept", folder / "home"
        if not self.kept.exists():
            self.make()
        self.begun = left(self.kept)

    def make(self) -> None:
        """The images and the runs, in the folder where they are read."""
        shutil.rmtree(self.home, ignore_errors=True)
        photos(self.home / "photos")
        made = commands(self.home)
        cut(*made["resume"])
        for name in ("finished before", "compare", "embed"):
            program, words = made[name]
            self.good(name, small.call(program, words))
        self.home.rename(self.kept)

    @staticmethod
    def good(name: str, answer: small.Answer) -> small.Answer:
        """`answer`; ends the script where nothing was to fail and something did."""
        if answer.code:
            raise SystemExit(f"{name}, without an error: {answer.code}\n{answer.err}")
        return answer

    def fresh(self) -> None:
        """All as it was."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.kept, self.home)

    def outcome(self) -> dict[str, str]:
        """What the command has made of it, without times and checkpoints."""
        return small.outcome(self.home)


def trial(home: Home, command: tuple, nth: int, error: int, kinds: int, stay: bool, expected: tuple):
    """One command with its n-th call failing: what it ended with, what it said, how many calls; see the top."""
    with faults.armed(home.home, nth, error, kinds, stay) as found:
        answer = small.call(*command)
        failed = found.failed
    said, made = expected
    about = {"n": nth, "call": failed.replace(str(home.home), "…"), "error": errno.errorcode[error]}
    about["set aside"] = sum(path.name.startswith("damaged-") for path in home.home.rglob("*"))
    if answer.code == 0:
        same = home.outcome() == made and (not said or answer.out == said)
        about["result"] = "not needed" if same else "wrong"
        about["differs"] = common.differences(home.outcome(), made)[:5]
    elif not answer.clean:
        about["result"] = "failed"
    else:
        about["result"] = "told" if answer.code == 4 else "misjudged"
    if left(home.home) != home.begun:
        if answer.code:
            again = small.call(*command)
            about["again"] = common.differences(home.outcome(), made)[:5] if again.code == 0 else [again.err[-300:]]
        home.fresh()
    about["said"] = common.scrub(answer.err[-400:], home.home)
    return about


def chosen(calls: list[str], each: int) -> list[int]:
    """Which calls are to fail, from 1: the first ones of each kind and the last one."""
    kinds: dict[str, list[int]] = {}
    for number, call in enumerate(calls, 1):
        kinds.setdefault(re.sub(r"[0-9a-f]{32}|[0-9]+", "#", call), []).append(number)
    return sorted({number for found in kinds.values() for number in (*found[: each - 1], found[-1])})


def attempts(home: Home, name: str, command: tuple, flags) -> tuple[dict, list[dict]]:
    """All trials of one command: the counts, and those that ended badly."""
    kinds, errors = (faults.WRITES, WRITING) if flags.writes else (faults.LOOKS, LOOKING)
    counts, bad = collections.Counter(dict.fromkeys(("calls", "errors", *BAD, "inexact", "set aside"), 0)), []
    home.fresh()
    answer = home.good(name, small.call(*command))
    expected = answer.out if name in ("check", "apply", "predict") else "", home.outcome()
    home.fresh()
    with faults.armed(home.home, faults.NEVER, 0, kinds) as found:
        small.call(*command)
        calls = found.calls
    counts["calls"] += len(calls)
    home.fresh()
    for nth in chosen(calls, flags.each):
        about = trial(home, command, nth, errors[nth % len(errors)], kinds, bool(flags.stay), expected)
        counts["errors"] += bool(about["call"])
        counts[about["result"]] += bool(about["call"])
        counts["set aside"] += about["set aside"]
        counts["went on"] += "again" in about
        counts["inexact"] += bool(about.get("again"))
        if about["result"] in BAD or about["set aside"] or about.get("again"):
            bad.append({"command": name, **about})
            print(bad[-1], file=sys.stderr, flush=True)
    return dict(counts), bad


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All commands; the counts, those of each, and each trial that ended badly. Those that are in `folder` stay."""
    counts, bad, each = collections.Counter(), [], {}
    with small.remembering():
        home = Home(folder)
        for name, command in commands(home.home).items():
            if flags.only and name not in flags.only.split(","):
                continue
            done = folder / f"{name}-{flags.each}-{flags.stay}-{flags.writes}.json"
            if not done.exists():
                done.write_text(json.dumps(attempts(home, name, command, flags)))
            each[name], found = json.loads(done.read_text())
            counts.update(each[name])
            bad += found
            print(name, each[name], file=sys.stderr, flush=True)
    return {**counts, "commands": each}, bad


if __name__ == "__main__":
    faults.preload()
    report = common.Report(
        __doc__,
        each=(3, "of the calls of one kind"),
        stay=(0, "1: all calls after the n-th fail, too"),
        writes=(0, "1: those that write fail"),
    )
    report.parser.add_argument("--only", default="", help="commands, with commas (default: all)")
    report.run(run, "bad")
