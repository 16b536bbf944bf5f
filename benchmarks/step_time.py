"""Cost of one training step of each method beside plain CE, measured in turns in one process.

    python benchmarks/step_time.py --config configs/fashion_mnist.py --out benchmarks/results/step_time.json

Per method: seconds a step (median of the rounds), its ratio to CE on the same network, FLOPs of the compiled step
from the compiler's own count (compiled without backend options: library calls hide their FLOPs), and the memory
the compiled step asks for. Rounds alternate between the methods, so that a busy machine slows them alike.
"""

import argparse
import json
import pathlib
import statistics
import time

import jax

from kdmlc_jax import config, train
from kdmlc_jax.config.words import expand, join
from kdmlc_jax.data.prepare import prepare

METHODS = "ce:train_on=noisy,network=teacher mlc:network=teacher kdmlc:preset=paper kdmlc:preset=strong,warm_up=0 "
METHODS += "kdmlc:preset=strong,warm_up=0,bilevel=off"


class Timed:
    """One method's compiled step, and its own state."""

    def __init__(self, spec: str, method: str):
        run_config = config.load(join(spec, expand(method)[0]))
        self.job = train.Experiment(run_config, prepare(run_config))
        stage = self.job.method.stages[-1]
        self.carry, self.feeds = self.job.init(), self.job.feeds(stage, 0, 1 << 20)
        self.step = self.job.compile(stage)
        arguments = (self.carry, self.job.fixed, next(self.feeds), self.job.key)
        plain = jax.jit(self.step.__wrapped__).lower(*arguments).compile()
        memory = plain.memory_analysis()
        self.flops = plain.cost_analysis()["flops"]
        self.bytes = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        self.seconds: list[float] = []

    def round(self, steps: int, keep: bool) -> None:
        """Runs `steps` steps and keeps the mean time of one."""
        start = time.perf_counter()
        for _ in range(steps):
            self.carry, metrics = self.step(self.carry, self.job.fixed, next(self.feeds), self.job.key)
        jax.block_until_ready((self.carry, metrics))
        if keep:
            self.seconds.append((time.perf_counter() - start) / steps)


def main() -> None:
    """Times all methods in alternation and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/fashion_mnist.py")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    timed = {method: Timed(flags.config, method) for method in flags.methods.split()}
    for turn in range(flags.rounds + 1):
        for one in timed.values():
            one.round(flags.steps, keep=turn > 0)  # the first round compiles
    first = next(iter(timed.values()))
    rows = [
        {
            "method": method,
            "seconds": statistics.median(one.seconds),
            "seconds_ratio": statistics.median(one.seconds) / statistics.median(first.seconds),
            "flops": one.flops,
            "flops_ratio": one.flops / first.flops,
            "bytes": one.bytes,
        }
        for method, one in timed.items()
    ]
    result = {"config": flags.config, "device": jax.devices()[0].device_kind, "jax": jax.__version__, "rows": rows}
    for row in rows:
        print(
            f"{row['method']:45s} {1e3 * row['seconds']:8.1f} ms  x{row['seconds_ratio']:5.2f}"
            f"  {row['flops'] / 1e9:7.2f} GFLOP  x{row['flops_ratio']:5.2f}  {row['bytes'] / 2**20:8.1f} MiB"
        )
    if flags.out:
        flags.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
