"""What a training step costs on the device at hand: first step, steady pace, memory, and the share of its matmul rate.

    python benchmarks/accelerator.py --config configs/cifar10.py --out benchmarks/results/accelerator.json

Per method: seconds until the first step has run (initialisation and compilation), milliseconds a step with one and
with `--together` steps in a dispatch (medians of the rounds), FLOPs of the step by the compiler's count, FLOP/s from
these and their share of what a plain matmul of the same precision reaches here, and the device's peak memory. Methods
take turns, so that whatever else the machine does slows them alike. Without `--data` the images are random: cost does
not depend on them.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np

from kdmlc_jax import config
from kdmlc_jax.config.words import expand, join
from kdmlc_jax.data.prepare import from_source, prepare
from kdmlc_jax.data.sources.base import Part, Source
from kdmlc_jax.experiment import Experiment

METHODS = "ce:train_on=noisy,network=student ce:train_on=noisy,network=teacher mlc:network=teacher kdmlc:preset=paper "
METHODS += "kdmlc:preset=strong,warm_up=0"


def matmul_rate(size: int = 8192, repeats: int = 10) -> float:
    """FLOP/s of f32[size, size] products at the precision that networks use here."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x, y: x @ y)
    jax.block_until_ready(product(a, a))
    begin = time.perf_counter()
    out = a
    for _ in range(repeats):
        out = product(a, out)
    jax.block_until_ready(out)
    return 2 * size**3 * repeats / (time.perf_counter() - begin)


def random_source() -> Source:
    """50 000 random images in CIFAR-10's form."""
    rng = np.random.default_rng(0)

    def part(count: int) -> Part:
        return Part(rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count).astype(np.int32))

    return Source("random", tuple("abcdefghij"), part(50_000), part(1_000))


class Timed:
    """One method's steps, one and several in a dispatch."""

    def __init__(self, spec: str, method: str, has_data: bool, together: int):
        began = time.perf_counter()
        run = config.load(join(spec, expand(method)[0]))
        run.data.verify = has_data
        self.experiment = Experiment(run, prepare(run) if has_data else from_source(run, random_source()))
        self.stage, self.together = self.experiment.method.stages[-1], together
        self.carry = self.experiment.init()
        self.feeds = self.experiment.feeds(self.stage, 0, 1 << 20)
        self.calls = {count: self.experiment.compile(self.stage, count) for count in {1, together}}
        prepared = time.perf_counter()
        self.round(1, 1)
        self.first = {"prepare_s": prepared - began, "first_step_s": time.perf_counter() - prepared}
        arguments = (self.carry, self.experiment.fixed, next(self.feeds), self.experiment.key)
        self.flops = float(self.calls[1].lower(*arguments).compile().cost_analysis()["flops"])  # type: ignore[attr-defined]
        self.seconds: dict[int, list[float]] = {count: [] for count in self.calls}

    def round(self, count: int, steps: int) -> float:
        """Seconds a step, `count` of them in each dispatch."""
        begin = time.perf_counter()
        for _ in range(max(steps // count, 1)):
            fed = [next(self.feeds) for _ in range(count)]
            feed = fed[0] if count == 1 else fed
            self.carry, metrics = self.experiment.call(self.calls[count], self.carry, feed)
        jax.block_until_ready((self.carry, metrics))
        return (time.perf_counter() - begin) / (max(steps // count, 1) * count)


def row(one: Timed, method: str, rate: float) -> dict[str, Any]:
    """What was measured of one method."""
    options = one.experiment.config
    medians = {count: statistics.median(values) for count, values in one.seconds.items()}
    fastest = min(medians.values())
    return {
        "method": method,
        "teacher": options.teacher.net,
        "student": options.student.net,
        **one.first,
        **{f"ms_a_step_{count}_a_dispatch": 1e3 * value for count, value in medians.items()},
        "flops": one.flops,
        "flops_per_s": one.flops / fastest,
        "share_of_matmul_rate": one.flops / fastest / rate,
        "noisy_images_per_s": options.train.batch_size / fastest,
    }


def main() -> None:
    """Measures all methods in turns and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/cifar10.py")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--data", action="store_true", help="the config's own images instead of random ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="a round")
    parser.add_argument("--together", type=int, default=20, help="steps in a dispatch; pays on accelerators only")
    parser.add_argument("--matmul", type=int, default=8192, help="side of the product that the rate is measured by")
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    rate = matmul_rate(flags.matmul)
    print(f"matmul {rate / 1e12:.1f} TFLOP/s", flush=True)
    timed = {}
    for method in flags.methods.split():
        timed[method] = Timed(flags.config, method, flags.data, flags.together)
        print(f"{method:40s} first step {timed[method].first['first_step_s']:.1f} s", flush=True)
    for turn in range(flags.rounds + 1):
        for one in timed.values():
            for count in one.calls:
                seconds = one.round(count, flags.steps)
                if turn:  # the first round compiles
                    one.seconds[count].append(seconds)
    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    result = {
        "config": flags.config,
        "device": device.device_kind,
        "jax": jax.__version__,
        "matmul_flops_per_s": rate,
        "peak_bytes_all_methods": memory.get("peak_bytes_in_use"),
        "rows": [row(one, method, rate) for method, one in timed.items()],
    }
    for entry in result["rows"]:
        times = "  ".join(f"{entry[f'ms_a_step_{count}_a_dispatch']:8.2f} ms ({count})" for count in one.calls)
        print(f"{entry['method']:40s}{times}  {entry['flops'] / 1e9:8.2f} GFLOP  {entry['share_of_matmul_rate']:.3f}")
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
