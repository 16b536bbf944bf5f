"""`kill -9` of every method, of runs with baselines and folds, and of a comparison; compares with uninterrupted runs.

    python benchmarks/reliability/kill_every.py --kills 9 --out benchmarks/results/reliability_kill_every.json

The smallest run of each case (`small.METHODS`) is run to its end twice: the second time, from compiled programs, says
how long it takes. Then it is killed --kills times and started again with the same command each time, and at last ends.
A kill is aimed, in turn,

    any    uniformly over the time that an uninterrupted run takes; a process that ends before begins afresh
    final  at a file of the final writing (tables, networks, page, summary), when it or its temporary name appears, and
           up to 30 ms later

and compared is every file that the runs leave, times and checkpoints apart: label tables, weights, metrics, every
figure of summary.json. Each process is a fork of this one, in which JAX is imported but no device touched. Compiled
programs, and what is vouched for of the same arrays, are kept in --folder, so that a process takes seconds. A cut
script goes on after the cases that are in --folder.
"""

import collections
import json
import os
import pathlib
import shutil
import sys
import time
import warnings

import common
import kill
import numpy as np
import small

from kdmlc_jax import baselines, compare, main  # noqa: F401 (imported before the forks)
from kdmlc_jax.compare import __main__ as comparing

FINAL = (
    "soft_labels.npy",
    "labels.csv",
    "labels.parquet",
    "weights.msgpack",
    "network.json",
    "report.html",
    "summary.json",
)
COMPARED = ("table.json", "table.md")


def cases() -> dict[str, tuple]:
    """Program and command line of each case, the workdir left out."""
    found = {name: (main.main, lambda place, name=name: small.words(name, place)) for name in small.METHODS}
    base = '(("linear","linear"),("plain","ce:train_on=trusted"))'
    found["kdmlc and baselines"] = (main.main, lambda place: small.words("kdmlc", place, 2, baselines=base))
    crossed = {"data__cross_fit": 2, "data__held_out": 0}
    found["ce, cross_fit"] = (main.main, lambda place: small.words("ce", place, 2, **crossed))
    spec = [
        "--config",
        small.DATA.format(small.MLP, 2),
        "--seeds",
        "0,1",
        "--methods",
        "ce:train_on=noisy,network=student kd",
    ]
    found["compare"] = (comparing.main, lambda place: [*spec, *small.flags()[:-1], "--workdir", str(place)])
    return found


def present(workdir: pathlib.Path) -> collections.Counter:
    """The files of the final writing that are there now, under their own or a temporary name."""
    found: collections.Counter = collections.Counter()
    for _, folders, names in os.walk(workdir):
        folders[:] = [name for name in folders if name != "checkpoints"]
        found.update(name for name in names if any(end in name for end in (*FINAL, *COMPARED)))
    return found


def strike(process: kill.Process, aim: str, workdir: pathlib.Path, seconds: float, rng: np.random.Generator) -> bool:
    """Waits for the moment; False where the process ended before."""
    if aim == "any":
        return process.wait(float(rng.uniform(0, seconds)))
    before, nth = present(workdir), int(rng.integers(1, 9))
    seen: collections.Counter = collections.Counter()

    def new() -> bool:
        seen.update({name: 1 for name in present(workdir) - before if name not in seen})
        return len(seen) >= nth

    return process.until(new) and process.wait(float(rng.uniform(0, 0.03)))


def whole(words: list[str], workdir: pathlib.Path, program) -> float:
    """Runs to the end; the seconds it took."""
    process = kill.Process(words, workdir, False, program)
    process.until(lambda: False)
    if process.code:
        raise SystemExit(f"a run that nobody cut failed:\n{process.log.read_text()}")
    return process.seconds()


def torment(program, words: list[str], workdir: pathlib.Path, seconds: float, flags, rng) -> dict:
    """Kills the run in `workdir` until there were enough kills, and lets it end; what happened."""
    kills, failures, late = [], [], 0
    while True:
        process = kill.Process(words, workdir, False, program)
        aim = ("any", "final")[len(kills) % 2]
        killed = len(kills) < flags.kills and strike(process, aim, workdir, seconds, rng)
        if killed:
            process.kill()
            kills.append({"aim": aim, "seconds": round(process.seconds(), 3), "there": sorted(present(workdir))})
            continue
        process.until(lambda: False)
        said = common.scrub(process.log.read_text(errors="replace"), workdir.parent)
        if process.code or "is damaged" in said:
            failures.append({"code": process.code, "log": said})
        if len(kills) >= flags.kills or process.code or late > 50:
            return {"kills": kills, "ended before a kill": late, "failures": failures}
        late += 1
        shutil.rmtree(workdir)  # it had ended; the next begins afresh


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All cases; the counts, and what happened in each."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    import jax

    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    small.vouched_in(folder)
    counts, found = collections.Counter({"kills": 0, "inexact": 0, "processes that failed": 0}), []
    for number, (name, (program, words)) in enumerate(cases().items()):
        done = folder / f"case-{number}.json"
        if not done.exists():
            rng = np.random.default_rng((flags.seed, number))
            place, straight = folder / "run", folder / "straight"
            for each in (place, straight):
                shutil.rmtree(each, ignore_errors=True)
            whole(words(place), place, program)
            expected = small.outcome(place)
            place.rename(straight)
            seconds = whole(words(place), place, program)
            again = common.differences(small.outcome(place), expected)
            shutil.rmtree(place)
            began = time.monotonic()
            about = {"case": name, "seconds": round(seconds, 1), "twice": again}
            about |= torment(program, words(place), place, seconds, flags, rng)
            about["different"] = common.differences(small.outcome(place), expected)
            about["took"] = round(time.monotonic() - began, 1)
            done.write_text(json.dumps(about))
        about = json.loads(done.read_text())
        counts["kills"] += len(about["kills"])
        counts["kills in the final writing"] += sum(each["aim"] == "final" for each in about["kills"])
        counts["runs that ended"] += 1
        counts["inexact"] += bool(about["different"])
        counts["not the same twice, uncut"] += bool(about["twice"])
        counts["processes that failed"] += len(about["failures"])
        found.append(about)
        print(name, about["seconds"], about["different"], about["failures"], file=sys.stderr, flush=True)
    return dict(counts), found


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    report = common.Report(__doc__, kills=(9, "of each case"))
    report.run(run, "cases")
