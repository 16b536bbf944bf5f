"""Where the time of a training step goes: `python -m kdmlc_jax.main --config … --profile`, which trains nothing."""

import gzip
import json
import pathlib
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from kdmlc_jax import parallel, warm_start
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.experiment import Experiment
from kdmlc_jax.storage import files

SOURCE = r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{.*?op_name="([^"]*)"'  # of an instruction in the program's text
HOLDERS = ("while", "conditional", "call")  # their time is that of the operations in them


class Operation(NamedTuple):
    """One instruction of the compiled step: its name there, where it comes from, and seconds a step."""

    name: str
    source: str
    seconds: float


class Profile(NamedTuple):
    """Steps of one stage: `seconds` a step on the clock, and the operations by their time, the dearest first."""

    stage: str
    seconds: float
    operations: list[Operation]
    trace: pathlib.Path

    def text(self, count: int = 10) -> str:
        """A table of the `count` dearest operations."""
        total = sum(one.seconds for one in self.operations)
        lines = [
            f"stage {self.stage}: {1e3 * self.seconds:.2f} ms a step, {1e3 * total:.2f} ms of it in "
            f"{len(self.operations)} operations (of all threads together)",
            f"{'ms a step':>10}  {'share':>6}  operation",
        ]
        for one in self.operations[:count]:
            share = one.seconds / total
            lines.append(f"{1e3 * one.seconds:10.3f}  {share:6.1%}  {one.name:<32}  {one.source}".rstrip())
        return "\n".join([*lines, f"trace for Perfetto or TensorBoard: {self.trace}"])


def profile(config: ConfigDict, workdir: pathlib.Path, steps: int = 5) -> Profile:
    """Traces `steps` steps of the last stage of the run that `config` describes, from its start, and forgets them.

    The trace is written below `workdir`/profile.

    Raises:
      UserError: for bad input, and where several processes run together.
    """
    if not parallel.alone():
        raise UserError("--profile: several processes, expected one (a process's own devices tell what a step costs)")
    config = warm_start.seen(config)
    experiment = Experiment(config, prepare(config))
    folder = workdir / "profile"
    files.make_directory(folder)
    stage, carry = experiment.method.stages[-1], experiment.init()
    feeds = experiment.feeds(stage, 0, steps + 2)
    jitted = experiment.compile(stage)
    first = next(feeds)
    program = jitted.lower(carry, experiment.fixed, first, experiment.key).compile()  # type: ignore[attr-defined]
    carry = jax.block_until_ready(experiment.call(program, carry, first))[0]
    carry = jax.block_until_ready(experiment.call(program, carry, next(feeds)))[0]
    before = {*files.below(folder)}
    with jax.profiler.trace(folder):
        began = time.perf_counter()
        for feed in feeds:
            carry, _ = experiment.call(program, carry, feed)
        jax.block_until_ready(carry)
        seconds = (time.perf_counter() - began) / steps
    (trace,) = (path for path in files.below(folder) if path.name.endswith(".trace.json.gz") and path not in before)
    spent: dict[str, float] = {}
    for name, duration in operations(trace):
        spent[name] = spent.get(name, 0.0) + duration
    sources = dict(re.findall(SOURCE, program.as_text(), re.MULTILINE))
    rows = [Operation(name, sources.get(name, ""), taken / steps) for name, taken in spent.items()]
    return Profile(stage.name, seconds, sorted(rows, key=lambda row: -row.seconds), trace.parent)


def operations(path: pathlib.Path) -> Iterator[tuple[str, float]]:
    """(name, seconds) of each operation in a trace; on accelerators those of the line of operations, if there is one.

    The trace's JSON is read: `jax.profiler.ProfileData` of jaxlib 0.12 aborts on the statistics of some events.
    """
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    named = [event for event in events if event.get("name") == "thread_name"]
    lines = {(event["pid"], event["tid"]) for event in named if event["args"]["name"] == "XLA Ops"}
    for event in (event for event in events if event.get("ph") == "X"):
        name = event.get("args", {}).get("hlo_op", event["name"] if lines else "")
        if lines and (event["pid"], event["tid"]) not in lines:
            continue
        if name and not name.startswith(HOLDERS) and not event["name"].startswith("end: "):
            yield name, event.get("dur", 0.0) / 1e6
