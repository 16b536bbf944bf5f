"""Whether the tests have teeth: plants one fault at a time in a copy of the repository and runs the tests that should
notice.

    python benchmarks/mutants.py --out benchmarks/results/mutants.json            # an hour on one core; resumable
    python benchmarks/mutants.py --only kd_no_tau2,split_overlap --out /tmp/some.json

`mutants.json` beside this file lists the faults: name, kind, file, the text replaced (there exactly once) and
its replacement, and the tests that protect it. Those run with `-x` in the list's order; a fault is caught where one of
them fails. A fault that no listed test catches is a survivor: its promise is not tested. All tests run without a fault
first; one that fails then says nothing of faults and is left out.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ("caught", "survived", "broken")  # broken: pytest could not run the tests at all


def copy(root: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A copy of `root` without what git, caches and runs leave there."""
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "runs", "results", "*.egg-info")
    return pathlib.Path(shutil.copytree(root, target, ignore=unwanted))


def planted(root: pathlib.Path, mutant: dict) -> str:
    """The text of the mutant's file with the fault in it."""
    text = (root / mutant["file"]).read_text()
    if text.count(mutant["old"]) != 1:
        raise SystemExit(f"{mutant['name']}: its text stands {text.count(mutant['old'])} times in {mutant['file']}")
    return text.replace(mutant["old"], mutant["new"])


def run_tests(root: pathlib.Path, words: list[str], limit: float) -> tuple[int, list[str]]:
    """pytest's exit status in the copy, -1 where it ran out of time, and its lines about what failed."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no", *words]
    try:
        run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return -1, ["out of time"]
    return run.returncode, [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]


def tried(root: pathlib.Path, mutant: dict, left_out: list[str], limit: float) -> dict:
    """Plants the fault in the copy at `root`, runs its tests, and puts the file right again."""
    path, began = root / mutant["file"], time.monotonic()
    own = path.read_text()
    path.write_text(planted(root, mutant))
    try:
        words = [*mutant["tests"], "-x", *(f"--deselect={name}" for name in left_out)]
        status, lines = run_tests(root, words, limit)
    finally:
        path.write_text(own)
    result = {0: "survived", 1: "caught", -1: "caught"}.get(status, "broken")
    about = {"kind": mutant["kind"], "file": mutant["file"], "result": result, "by": "".join(lines[:1])[:200]}
    print(f"{result:9s} {mutant['name']:32s} {time.monotonic() - began:5.0f} s  {about['by']}", flush=True)
    return about


def main() -> None:
    """Tries what has no result yet and writes all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--list", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".json"))
    parser.add_argument("--root", type=pathlib.Path, default=ROOT, help="another checkout, with a list of its own")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds a fault")
    parser.add_argument("--jobs", type=int, default=1, help="copies at work at the same time")
    flags = parser.parse_args()
    mutants = json.loads(flags.list.read_text())
    results = json.loads(flags.out.read_text())["mutants"] if flags.out.exists() else {}
    wanted = flags.only.split(",") if flags.only else [mutant["name"] for mutant in mutants]
    due = [mutant for mutant in mutants if mutant["name"] in wanted and mutant["name"] not in results]
    for mutant in due:
        planted(flags.root, mutant)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(flags.jobs) as pool:
        roots: SimpleQueue[pathlib.Path] = SimpleQueue()
        for number in range(flags.jobs):
            roots.put(copy(flags.root, pathlib.Path(folder) / str(number)))

        def somewhere(work):
            root = roots.get()
            try:
                return work(root)
            finally:
                roots.put(root)

        files = sorted({name for mutant in due for name in mutant["tests"]})
        clean = pool.map(lambda name: somewhere(lambda root: run_tests(root, [name], flags.limit)), files)
        left_out = [line.split()[1] for _, lines in clean for line in lines if len(line.split()) > 1]
        print(f"{len(files)} files of tests run, {len(left_out)} tests fail without a fault: {left_out}", flush=True)
        work = {pool.submit(somewhere, lambda root, m=m: tried(root, m, left_out, flags.limit)): m for m in due}
        for done in as_completed(work):
            results[work[done]["name"]] = done.result()
            found = [entry["result"] for entry in results.values()]
            count = {result: found.count(result) for result in RESULTS}
            whole = {"faults": len(found), **count, "left_out": left_out, "mutants": results}
            flags.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
