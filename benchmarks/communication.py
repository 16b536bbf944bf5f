"""What the devices exchange in one training step, counted in the compiled program; no step is run unless asked.

    python benchmarks/communication.py --config configs/fashion_mnist.py --devices 4 \\
        --config.train.batch_size=96 --config.train.trusted_batch_size=96 --config.parallel.shard_above=1024
    python benchmarks/communication.py --config configs/clothing1m.py --devices 8 --random 224x224x3,14 \\
        --methods "ce:train_on=both,network=teacher kdmlc" --out benchmarks/results/communication_clothing1m.json
    python benchmarks/communication.py --config configs/clothing1m.py --devices 1 --random 224x224x3,14 --steps 3 \\
        --placements jit --methods "ce:train_on=both,network=teacher kdmlc" \\
        --config.train.batch_size=4 --config.train.trusted_batch_size=4

`--devices N` simulates N CPU devices in this process; 0 takes the machine's own. `--random HxWxK,C` stands in for a
data set that is not here: random images, C classes, streamed. `--steps S` also times S steps of each, in turns, after
one that compiles. `--config.field=value` sets any field.

Per method and placement, of one device: FLOPs by the compiler's own count, memory of the compiled step, and the
collectives of its HLO: how many, bytes of their results, and bytes that a device sends in a ring of n devices:

    all-reduce          2 (n-1)/n x result        all-gather   (n-1)/n x result (the whole array)
    reduce-scatter      (n-1) x result            all-to-all   (n-1)/n x result
    collective-permute  result

`least` is 2 (n-1)/n times the bytes of the gradients that must be averaged over the devices in whatever program: those
of the network (CE), and of the teacher at w and at w', of the corrector and of the student (MLC, KDMLC; with
look_ahead_steps > 1 also the outer gradient at w). All is compiled without backend options: library calls hide FLOPs.
"""

import argparse
import json
import math
import pathlib
import re
import statistics
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from kdmlc_jax import config, parallel
from kdmlc_jax.cli import parse
from kdmlc_jax.config.words import expand, join
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.experiment import Experiment

METHODS = "ce:train_on=both,network=teacher mlc:network=teacher kdmlc:preset=paper kdmlc:preset=strong,warm_up=0"
PLACEMENTS = {
    "jit": {},
    "fsdp": {"parallel.sharding": "fsdp"},
    "pmap": {"parallel.mode": "pmap"},
}

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "bf16": 16} | {f"{kind}{bits}": bits for kind in "suf" for bits in (8, 16, 32, 64)}
COLLECTIVE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.+?) ({'|'.join(KINDS)})(-start)?\(")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Collective(NamedTuple):
    """One collective of a program, as one device sees it."""

    kind: str
    shapes: list[str]  # of its results, as "f32[64,128]"
    group: int  # devices that take part in it together
    operation: str  # what in the source it comes from, by the compiler's record

    @property
    def bytes(self) -> int:
        """Size of the results."""
        return sum(map(size, self.shapes))

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a ring; see the module."""
        n, own = self.group, self.bytes
        factors = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1.0, "collective-permute": 1.0}
        return factors.get(self.kind, (n - 1) / n) * own


def size(shape: str) -> int:
    """Bytes of an array "f32[64,128]"."""
    kind, dims = shape.rstrip("]").split("[")
    return math.prod(int(dim) for dim in dims.split(",") if dim) * BITS[kind] // 8


def last_element(text: str) -> str:
    """The second part of a pair "(operands, results)", as the start of an asynchronous collective has it."""
    depth, cuts = 0, []
    for at, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 1:
            cuts.append(at)
    return text[cuts[0] + 1 : cuts[1] if len(cuts) > 1 else None] if cuts else text


def group_size(line: str, devices: int) -> int:
    """How many devices a collective joins."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    return int(counted[1]) if counted else devices


def collectives(program: str, devices: int) -> tuple[list[Collective], list[Collective]]:
    """The collectives of a compiled program, those in loops apart: how often these run is not known here."""
    found: list[tuple[str, Collective]] = []
    calls: dict[str, set[str]] = {}
    loops: set[str] = set()
    where = ""
    for line in program.splitlines():
        if header := COMPUTATION.match(line):
            where = header[1]
        called = CALLED.findall(line)
        for names in BRANCHES.findall(line):
            called += [name.strip().lstrip("%") for name in names.split(",")]
        calls.setdefault(where, set()).update(called)
        loops |= set(called) if " while(" in line else set()
        if match := COLLECTIVE.match(line):
            result, kind, started = match.groups()
            if started and kind in ("all-gather", "collective-permute"):
                result = last_element(result)
            shapes = re.findall(r"\b[a-z]+\d*\[[\d,]*\]", result)
            operation = re.search(r'op_name="([^"]*)"', line)
            found.append(
                (where, Collective(kind, shapes, group_size(line, devices), operation[1] if operation else ""))
            )
    while more := set().union(*(calls.get(name, set()) for name in loops)) - loops:
        loops |= more
    once = [one for where, one in found if where not in loops]
    return once, [one for where, one in found if where in loops]


def averaged(job: Experiment, state: Any) -> int:
    """Bytes of the gradients that a step must average over the devices; see the module."""
    weigh = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
    options, networks = job.config.method, job.method.networks(state)
    if options.name == "ce":
        return sum(weigh(net.params) for net in networks.values())
    teacher = getattr(state, "teacher", state)
    times = 1 if options.bilevel == "off" else 2 + (options.look_ahead_steps > 1)
    own = weigh(networks["student"].params) if options.name == "kdmlc" else 0
    return times * weigh(teacher.net.params) + weigh(teacher.corrector.params) + own


def random_dataset(text: str, count: int) -> Dataset:
    """`count` noisy and as many trusted random images "HxWxK,C" of C classes."""
    shape, _, classes = text.partition(",")
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (2 * count, *map(int, shape.split("x"))), np.uint8)
    labels = draw.integers(0, int(classes), 2 * count).astype(np.int32)
    parts, none = Splits(*np.split(np.arange(2 * count), [count, 2 * count])), np.full_like(labels, -1)
    names = tuple(f"class {number}" for number in range(int(classes)))
    return Dataset(
        "random", names, images, labels, labels, none, none, parts, None, labels[:0], None, None, np.arange(2 * count)
    )


class Counted:
    """One method's last stage under one placement: what its step exchanges, computes and needs, and its own state."""

    def __init__(self, job: Experiment, steps: int):
        self.job, stage = job, job.method.stages[-1]
        self.step, self.feeds = job.compile(stage), job.feeds(stage, 0, steps)
        self.carry: Any = None
        self.seconds: list[float] = []
        like, whole, n = jax.eval_shape(job._first), parallel.replicated(job.mesh), job.mesh.size
        carry = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like, job.layout
        )
        out = (job.layout, whole) if job.is_split else whole
        plain = jax.jit(self.step.__wrapped__, donate_argnums=0, out_shardings=out)
        compiled = plain.lower(carry, job.fixed, next(self.feeds), job.key).compile()
        memory = compiled.memory_analysis()
        found, repeated = collectives(compiled.as_text(), n)
        # Random draws by rejection ask each other in a loop whether all have ended; arrays there would upset the count.
        assert sum(one.bytes for one in repeated) < 1024, f"collectives in loops are counted once only: {repeated}"
        asked = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        least, sent = 2 * (n - 1) / n * averaged(job, like["method"]), sum(one.sent for one in found)
        of = {kind: [one for one in found if one.kind == kind] for kind in KINDS}
        self.row: dict[str, Any] = {
            "flops": compiled.cost_analysis()["flops"],
            "memory_bytes": asked + memory.temp_size_in_bytes,
            "state_bytes": sum(row[-1] for row in job.memory()),
            "collectives": {
                kind: {"count": len(some), "bytes": sum(one.bytes for one in some), "sent": sum(o.sent for o in some)}
                for kind, some in of.items()
                if some
            },
            "in_loops": len(repeated),  # a few bytes each, at every turn of their loop
            "sent": sent,
            "least": least,
            "ratio": sent / least if least else None,
            "largest": [
                {"kind": one.kind, "bytes": one.bytes, "arrays": len(one.shapes), "first": one.shapes[0]}
                for one in sorted(found, key=lambda one: -one.bytes)[:10]
            ],
        }

    def round(self, keep: bool) -> None:
        """Runs one step as training runs it, with the backend's options."""
        self.carry, feed = self.carry or self.job.init(), next(self.feeds)
        start = time.perf_counter()
        self.carry, metrics = self.step(self.carry, self.job.fixed, feed, self.job.key)
        jax.block_until_ready((self.carry, metrics))
        if keep:
            self.seconds.append(time.perf_counter() - start)

    def show(self, method: str, placement: str) -> str:
        """The row as a line for a person."""
        row, kinds = self.row, "  ".join(f"{one['count']} {kind}" for kind, one in self.row["collectives"].items())
        return (
            f"{method:42s} {placement:5s}{row['flops'] / 1e9:9.2f} GFLOP {row['memory_bytes'] / 2**20:8.1f} MiB"
            f"  sends {row['sent'] / 1e6:9.3f} MB, least {row['least'] / 1e6:8.3f}  {kinds}"
        )


def main() -> None:
    """Counts all methods under all placements and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/fashion_mnist.py")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--placements", default=" ".join(PLACEMENTS))
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--random", metavar="HxWxK,C")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    flags, overrides = parse(parser, sys.argv[1:])
    if flags.devices:  # before the first device is asked for
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", flags.devices)
    given = {"devices": "0", "train.steps_per_call": "1", **({"data.pipeline": "stream"} if flags.random else {})}
    rows, counted = [], []
    for method in flags.methods.split():
        for placement in flags.placements.split():
            spec = join(flags.config, expand(method)[0])
            made = config.load(spec, {**given, **PLACEMENTS[placement], **overrides})
            batch = made.train.batch_size, made.train.trusted_batch_size
            data = random_dataset(flags.random, max(batch)) if flags.random else prepare(made)
            one = Counted(Experiment(made, data), flags.steps + 2)  # one to compile for, one that is not timed
            counted.append(one)
            rows.append({"method": method, "placement": placement, "batch": batch, **one.row})
            print(one.show(method, placement), flush=True)
    for turn in range(flags.steps + 1 if flags.steps else 0):
        for one in counted:
            one.round(keep=turn > 0)  # the first round compiles
    for one, row in zip(counted, rows, strict=True):
        if one.seconds:
            row["seconds"] = {"median": statistics.median(one.seconds), "least": min(one.seconds)}
            print(f"{row['method']:42s} {row['placement']:5s}", row["seconds"])
    about = {"devices": jax.device_count(), "device": jax.devices()[0].device_kind, "jax": jax.__version__}
    if flags.out:
        flags.out.write_text(json.dumps({"config": flags.config, **overrides, **about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
