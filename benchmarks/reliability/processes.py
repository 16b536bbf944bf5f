"""Two processes with two simulated devices each are stopped by one SIGTERM; what they saved is restored elsewhere.

    python benchmarks/reliability/processes.py --rounds 3 --out benchmarks/results/reliability_processes.json

Each round trains the tiny run with sharded state (fsdp), saving every step, and stops it at a random step. Checked:

    stopped   a SIGTERM to one of two processes ends both with status 75, at one step, with equal digests
    restored  the checkpoint of two processes, in one process on 1 and on 4 devices and whole on each of 4, and the
              checkpoint of one process, in two processes: each array and the host's progress are equal to the bit
    went on   2 processes -> 2, 2 -> 1 (1 and 4 devices) and 1 -> 2 train to the end (an epoch at least)
    exact     2 -> 2 ends with the bits of two uninterrupted processes

Processes write digests of what they save and restore themselves (`worker.py`). One that does not end within 400 s is
killed and counts as failed.
"""

import collections
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback

import common
import numpy as np

FSDP = {"devices": 0, "checkpoint.every_steps": 1, "parallel.sharding": "fsdp", "parallel.shard_above": 64}
WHOLE = {**FSDP, "parallel.sharding": "replicated"}
STOPPED, TIMEOUT = 75, 400


class Group:
    """The processes of one launch."""

    def __init__(self, what: str, workdir: pathlib.Path, processes: int, devices: int, arguments: str, fields=FSDP):
        self.workdir, self.folder = workdir, workdir.with_name(f"{workdir.name}-{what}-{time.monotonic_ns()}")
        self.folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        worker = pathlib.Path(__file__).with_name("worker.py")
        words = [what, str(workdir), str(self.folder), arguments, *(f"{name}={fields[name]}" for name in fields)]
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        self._logs = [self.folder / f"log-{process}" for process in range(processes)]
        self._all = [
            subprocess.Popen(
                [sys.executable, str(worker), address, str(processes), str(process), *words],
                env={**os.environ, **flags},
                stderr=log.open("w"),
            )
            for process, log in enumerate(self._logs)
        ]

    def stop(self, process: int, step: int) -> None:
        """SIGTERM to one of them when `step` or a later one is saved."""
        deadline = time.monotonic() + TIMEOUT
        while max(common.steps(self.workdir), default=0) < step and time.monotonic() < deadline:
            if any(one.poll() is not None for one in self._all):
                return
            time.sleep(0.01)
        self._all[process].send_signal(signal.SIGTERM)

    def finish(self) -> tuple[list[int | None], list[str]]:
        """Exit statuses, and what was said; processes that do not end are killed."""
        deadline = time.monotonic() + TIMEOUT
        while any(one.poll() is None for one in self._all) and time.monotonic() < deadline:
            time.sleep(0.1)
        for one in self._all:
            one.kill()
        return [one.wait() for one in self._all], [
            common.scrub(log.read_text(), self.folder.parent) for log in self._logs
        ]

    def noted(self, name: str) -> list[dict]:
        """What the processes noted of `saved-<step>` or `restored`."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(f"{name}-[01].json"))]


class Checks:
    """What was checked, and what came out."""

    def __init__(self) -> None:
        self.counts: collections.Counter = collections.Counter({"failed": 0})
        self.all: list[dict] = []

    def add(self, what: str, good: bool, **details) -> None:
        """One more."""
        self.counts[what] += 1
        self.counts["failed"] += not good
        self.all.append({"check": what, "passed": bool(good), **details})
        print(what, "passed" if good else f"FAILED {details}", flush=True)


def stopped(group: Group, process: int, step: int, checks: Checks, **details) -> dict[str, str]:
    """Stops a group; the digests of what it saved last."""
    group.stop(process, step)
    codes, said = group.finish()
    at = max(common.steps(group.workdir), default=0)
    noted = [one["digests"] for one in group.noted(f"saved-{at}")]
    good = set(codes) == {STOPPED} and len(noted) == len(codes) and all(one == noted[0] for one in noted)
    good = good and all(f"stopped and saved at step {at};" in text for text in said)
    details |= {"processes": len(codes), "signal to": process, "step": at, "codes": codes}
    checks.add("stopped", good, **details, **({} if good else {"said": said}))
    return noted[0] if noted else {}


def restored(group: Group, expected: dict[str, str], checks: Checks, **details) -> None:
    """Lets a group end, and compares what it restored."""
    codes, said = group.finish()
    noted = group.noted("restored")
    different = [common.differences(one["digests"], expected) for one in noted]
    good = set(codes) == {0} and len(noted) == len(codes) and not any(different)
    details |= {key: noted[0][key] for key in ("devices", "leaves", "split", "step")} if noted else {}
    details |= {"codes": codes} | ({} if good else {"different": different, "said": said})
    checks.add("restored", good, to=len(codes), **details)


def one_round(number: int, flags, home: pathlib.Path, checks: Checks, rng: np.random.Generator) -> None:
    """All that the docstring above says, once."""
    arguments = f"epochs={flags.epochs},seed={flags.seed + number}"
    step = int(rng.integers(1, (flags.epochs - 1) * common.STEPS - 2))  # the stop is agreed on a step late
    target = int(rng.integers(2))
    codes, said = Group("train", home / "straight", 2, 2, arguments).finish()
    checks.add("uninterrupted", codes == [0, 0], **({} if codes == [0, 0] else {"codes": codes, "said": said}))

    two = home / "two"
    expected = stopped(Group("train", two, 2, 2, arguments), target, step, checks, round=number)
    for devices, fields in ((1, FSDP), (4, FSDP), (4, WHOLE)):
        group = Group("restore", two, 1, devices, arguments, fields)
        restored(group, expected, checks, round=number, after=2, sharding=fields["parallel.sharding"])
    for processes, devices in ((2, 2), (1, 1), (1, 4)):
        copy = home / f"on-{processes}-{devices}"
        shutil.copytree(two, copy)
        group = Group("train", copy, processes, devices, arguments)
        restored(group, expected, checks, round=number, after=2, sharding="fsdp")
        went_on(copy, flags.epochs, checks, round=number, after=2, to=processes, devices=processes * devices)
    different = common.differences(common.outcome(home / "straight"), common.outcome(home / "on-2-2"))
    checks.add("exact", not different, round=number, different=different)

    one, devices = home / "one", (1, 4)[number % 2]
    expected = stopped(Group("train", one, 1, devices, arguments), 0, step, checks, round=number, devices=devices)
    restored(Group("train", one, 2, 2, arguments), expected, checks, round=number, after=1, sharding="fsdp")
    went_on(one, flags.epochs, checks, round=number, after=1, to=2, devices=4)


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All rounds; counts and checks."""
    checks, rng = Checks(), np.random.default_rng(flags.seed)
    for number in range(flags.rounds):
        home = folder / f"round-{number}"
        home.mkdir()
        try:
            one_round(number, flags, home, checks, rng)
        except Exception:
            checks.add("round", False, round=number, said=common.scrub(traceback.format_exc(), home))
    return dict(checks.counts), checks.all


def went_on(workdir: pathlib.Path, epochs: int, checks: Checks, **details) -> None:
    """Whether the run in `workdir` has ended as one run does."""
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    good = (workdir / "summary.json").exists() and [json.loads(row)["epoch"] for row in rows] == [*range(1, epochs + 1)]
    checks.add("went on", good, **details)


if __name__ == "__main__":
    report = common.Report(__doc__, rounds=(3, "how many"), epochs=(4, "of each run"))
    report.run(run, "checks", fields_here=FSDP)
