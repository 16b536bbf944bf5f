"""Cost of one training step of each method beside plain CE, and beside peers, measured in turns in one process.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false OMP_NUM_THREADS=1 python -m benchmarks.step_time \\
        --config configs/cifar10.py:teacher=resnet32,student=resnet20 --peers --out benchmarks/results/step_time.json

Per method: seconds of the processor a step (median, least and most of the rounds; other processes lengthen them less
than they do the clock's), their ratio to CE on the same network, FLOPs of the compiled step from the compiler's own
count (compiled without backend options: library calls hide their FLOPs), and the memory the compiled step asks for.
Rounds alternate between the methods, so that a busy machine slows them alike. `--peers` (extra `bench`: PyTorch) adds
MLC's step in three forms, `benchmarks/peers`, on the teacher's network and random images of the same shape, without a
student; `python -m benchmarks.peers.agree` holds their gradients to ours.
"""

import argparse
import json
import os
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np

from kdmlc_jax import config, train
from kdmlc_jax.config.words import expand, join
from kdmlc_jax.data.prepare import prepare

METHODS = "ce:train_on=noisy,network=teacher mlc:network=teacher kdmlc:preset=paper kdmlc:preset=strong,warm_up=0 "
METHODS += "kdmlc:preset=strong,warm_up=0,bilevel=off"


SUMMARIES = {"": statistics.median, "_least": min, "_most": max}


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
        start = time.process_time()
        for _ in range(steps):
            self.carry, metrics = self.step(self.carry, self.job.fixed, next(self.feeds), self.job.key)
        jax.block_until_ready((self.carry, metrics))
        if keep:
            self.seconds.append((time.process_time() - start) / steps)


class TimedPeer:
    """One form of `peers.steps`, on random images as many and as large as those of `like`."""

    flops = bytes = None

    def __init__(self, form: str, like: Timed):
        import torch

        from benchmarks.peers import steps

        torch.set_num_threads(1)
        config, data = like.job.config, like.job.dataset
        half, shape, classes = config.train.trusted_batch_size // 2, data.inputs.shape[1:], len(data.class_names)
        self.peer, rng = steps.Peer(form, config.teacher.net, shape, classes), np.random.default_rng(0)
        self.batches = [steps.batch(rng, count, shape, classes) for count in (config.train.batch_size, half, half)]
        self.seconds: list[float] = []

    def round(self, steps: int, keep: bool) -> None:
        """As `Timed.round`."""
        start = time.process_time()
        for _ in range(steps):
            self.peer.step(*self.batches)
        if keep:
            self.seconds.append((time.process_time() - start) / steps)


def main() -> None:
    """Times all methods in alternation and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/fashion_mnist.py")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    timed: dict[str, Any] = {method: Timed(flags.config, method) for method in flags.methods.split()}
    first = next(iter(timed.values()))
    if flags.peers:
        from benchmarks.peers.steps import FORMS

        timed |= {f"peer {form}": TimedPeer(form, first) for form in FORMS}
    before = os.getloadavg()[0]
    for turn in range(flags.rounds + 1):
        for one in timed.values():
            one.round(flags.steps, keep=turn > 0)  # the first round compiles
    rows = [
        {
            "method": method,
            **{f"seconds{name}": how(one.seconds) for name, how in SUMMARIES.items()},
            "seconds_ratio": statistics.median(one.seconds) / statistics.median(first.seconds),
            "flops": one.flops,
            "flops_ratio": one.flops and one.flops / first.flops,
            "bytes": one.bytes,
        }
        for method, one in timed.items()
    ]
    nets = {place: first.job.config[place].net for place in ("teacher", "student")}
    about = {"config": flags.config, **nets, "device": jax.devices()[0].device_kind, "jax": jax.__version__}
    result = about | {"load": [before, os.getloadavg()[0]], "rounds": flags.rounds, "rows": rows}
    for row in rows:
        spread = f"({1e3 * row['seconds_least']:.0f} to {1e3 * row['seconds_most']:.0f})"
        counted = f"{row['flops'] / 1e9:7.2f} GFLOP  x{row['flops_ratio']:5.2f}" if row["flops"] else ""
        print(
            f"{row['method']:45s} {1e3 * row['seconds']:8.1f} ms {spread:16s} x{row['seconds_ratio']:5.2f}  {counted}"
        )
    if flags.out:
        flags.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
