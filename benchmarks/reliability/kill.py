"""Kills a training process with `kill -9` again and again, and compares what it ends with to an uninterrupted run.

    python benchmarks/reliability/kill.py --kills 100 --out benchmarks/results/reliability_kill.json

One run is killed at a random moment, started again with the same command, killed again, until it ends; then a run
with another seed, pipeline and saving interval begins, until there were --kills kills and the last run has ended.
Each process is a fork of this one, in which JAX is imported but no device touched (--fresh 1: a new interpreter,
`python -m kdmlc_jax.main`, which takes longer to start). Where a kill is aimed:

    any      uniform over --window milliseconds after the first checkpoint that the process completed
    writing  when a folder writing-<step> is seen, at once or up to 150 ms later
    written  when that folder has gone: renaming, deleting of older ones
    start    uniform over the first six seconds: reading data, compiling, restoring
    end      after the last step was saved: correcting labels, writing results

Counted: kills, those that left an unfinished writing- or deleting- folder behind, processes that went on from the
newest whole checkpoint, checkpoints reported damaged, processes that failed, and runs that ended with other bits
(metrics, labels, student, every array of the last checkpoint) than the uninterrupted run of the same config. A kill
leaves the operating system's write cache alone, so this is no test of power cuts.
"""

import collections
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import sys
import time
import traceback
import warnings

import common
import numpy as np

from kdmlc_jax import (
    baselines,  # noqa: F401 (imported before the forks)
    cli,
    main,
)

PIPELINES, OFTEN = ("resident", "stream"), (1, 3)
AIMS = {"any": 0.4, "writing": 0.25, "written": 0.2, "start": 0.15}
START = 6.0
GOES_ON = re.compile(r"going on after epoch (\d+)(?:, step (\d+))?")


def start(words: list[str], log: pathlib.Path, fresh: bool, program=main.main) -> int:
    """The process id of a process of `program` whose output goes to `log`."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if fresh:
        os.execv(sys.executable, [sys.executable, "-m", "kdmlc_jax.main", *words])
    try:
        sys.argv[1:] = words
        cli.guarded(program)
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Process:
    """A training process that is to be killed, and how its folder of checkpoints looks meanwhile."""

    def __init__(self, words: list[str], workdir: pathlib.Path, fresh: bool, program=main.main):
        self.log, self._checkpoints = workdir.with_suffix(".log"), workdir / "checkpoints"
        self.code: int | None = None
        self.pid, self.began = start(words, self.log, fresh, program), time.monotonic()

    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.began

    def ended(self) -> bool:
        """Whether it ended by itself."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def until(self, condition) -> bool:
        """Waits until `condition`; False where the process ends first."""
        while not self.ended():
            if condition():
                return True
            time.sleep(0.0005)
        return False

    def wait(self, seconds: float) -> bool:
        """Waits for some time; False where the process ends first."""
        until = time.monotonic() + seconds
        return self.until(lambda: time.monotonic() >= until)

    def kill(self) -> None:
        """`kill -9`."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.code = -signal.SIGKILL

    def names(self) -> list[str]:
        """What lies among the checkpoints."""
        return os.listdir(self._checkpoints) if self._checkpoints.is_dir() else []

    def newest(self) -> int:
        """The newest step that is whole, 0 where there is none."""
        return max((int(name) for name in self.names() if name.isdigit()), default=0)

    def writes(self) -> bool:
        """Whether a checkpoint is being written now."""
        return any(name.startswith("writing-") for name in self.names())


def strike(process: Process, aim: str, last: int, flags, rng: np.random.Generator) -> bool:
    """Waits for the moment that `aim` names; False where the process ended before."""
    late = float(rng.uniform(0, flags.window / 1000))
    if aim == "start":
        return process.wait(float(rng.uniform(0, START)))
    if aim == "end":
        return process.until(lambda: process.newest() == last) and process.wait(late)
    first = process.newest()
    if not process.until(lambda: process.newest() > first):
        return False
    if aim == "any":
        return process.wait(late)
    for _ in range(int(rng.integers(1, 4))):  # one of the next saves
        if not (process.until(lambda: not process.writes()) and process.until(process.writes)):
            return False
    if aim == "writing":
        return bool(rng.integers(2)) or process.wait(float(rng.uniform(0, 0.15)))
    return process.until(lambda: not process.writes())


def outcome(workdir: pathlib.Path) -> dict[str, str]:
    """`common.outcome` in a process of its own: here no device may be touched before the last fork."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(common.outcome, (workdir,))


def torment(words: list[str], workdir: pathlib.Path, flags, counts, rng: np.random.Generator) -> dict:
    """Kills the run in `workdir` until there were enough kills, and lets it end; what happened to it."""
    last, kills, failures = flags.epochs * common.STEPS, [], []
    while True:
        before = max(common.steps(workdir), default=0) if kills else 0
        process = Process(words, workdir, bool(flags.fresh))
        counts["processes"] += 1
        aim = str(rng.choice(list(AIMS), p=list(AIMS.values())))
        if before >= last - 6 and rng.integers(2):
            aim = "end"
        killed = False
        if counts["kills"] < flags.kills:
            killed = strike(process, aim, last, flags, rng)
        else:
            process.until(lambda: False)
        if killed:
            process.kill()
            counts["kills"] += 1
            left = process.names()
            counts[f"kills aimed at {aim}"] += 1
            for folder in ("writing-", "deleting-"):
                counts[f"kills that left {folder}"] += any(name.startswith(folder) for name in left)
            kills.append({"aim": aim, "seconds": process.seconds(), "from": before, "newest": process.newest()})
            kills[-1]["left"] = sorted(left)
        said = common.scrub(process.log.read_text(errors="replace"), workdir.parent)
        counts["checkpoints reported damaged"] += (damaged := said.count("is damaged"))
        found = GOES_ON.search(said)
        if before and (found or not killed):
            at = int(found[1]) * common.STEPS + int(found[2] or 0) if found else 0
            counts["went on from the newest checkpoint"] += at == before
            counts["went on from another checkpoint"] += at != before
            if at != before:
                failures.append({"what": f"went on from step {at}, not {before}", "kills": kills, "log": said})
        elif before:
            counts["killed before they had restored"] += 1
        if damaged:
            failures.append({"what": "a checkpoint is damaged", "kills": kills, "log": said})
        if not killed:
            if process.code:
                counts["processes that failed"] += 1
                failures.append({"what": f"exit code {process.code}", "kills": kills, "log": said})
            return {"code": process.code, "kills": kills, "failures": failures}


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All runs; the counts, and what happened to each of them."""
    counts: collections.Counter = collections.Counter()
    for name in ("went on from another checkpoint", "checkpoints reported damaged", "processes that failed", "inexact"):
        counts[name] = 0
    rng, runs = np.random.default_rng(flags.seed), []
    for seed, (often, pipeline) in enumerate(itertools.cycle(itertools.product(OFTEN, PIPELINES)), flags.seed):
        if counts["kills"] >= flags.kills:
            return dict(counts), runs
        fields = common.FIELDS | {"checkpoint.every_steps": often, "data.pipeline": pipeline}
        config = ["--config", f"{common.SPEC},epochs={flags.epochs},seed={seed}"]
        config += [f"--config.{name}={value}" for name, value in fields.items()]
        straight, cut = folder / f"straight-{seed}", folder / f"cut-{seed}"
        whole = Process([*config, "--workdir", str(straight)], straight, bool(flags.fresh))
        whole.until(lambda: False)
        if whole.code:
            raise SystemExit(f"the uninterrupted run failed:\n{whole.log.read_text()}")
        about = {"command": " ".join(config), **torment([*config, "--workdir", str(cut)], cut, flags, counts, rng)}
        if about.pop("code") == 0:
            counts["runs that ended"] += 1
            about["different"] = common.differences(outcome(straight), outcome(cut))
            counts["inexact"] += bool(about["different"])
        runs.append(about)
        print(json.dumps(dict(counts)), file=sys.stderr, flush=True)
        if not flags.folder and not about["failures"] and not about.get("different"):
            shutil.rmtree(straight)
            shutil.rmtree(cut)
    return dict(counts), runs


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    report = common.Report(
        __doc__,
        kills=(100, "how many"),
        epochs=(8, "of each run"),
        window=(1500, "milliseconds, see above"),
        fresh=(0, "1: a new interpreter for each process"),
    )
    report.run(run, "runs")
