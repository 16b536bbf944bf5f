"""Cuts a tiny run at every step, goes on, and compares what it ends with to an uninterrupted run.

    python benchmarks/reliability/cuts.py --out benchmarks/results/reliability_cuts.json

For both pipelines and for one and two steps a call (five steps an epoch, so that the last call of an epoch is short),
three ways:

    stopped    SIGTERM during the call that ends at the step: the state is saved there, StoppedError is raised; every
               step that a call can end at, those before the evaluation of an epoch included
    twice      two signals, as an impatient person sends them: nothing is saved, and the run goes on from the end of the
               epoch before; in every epoch, so also at the boundary of the warm-up and before anything was saved
    each       one run that is stopped at each of these steps in turn

The signals are real and go to this process. Compared by SHA-256: metrics, labels, the student's weights, every array
of the last checkpoint and the host's progress.
"""

import itertools
import os
import pathlib
import shutil
import signal
import traceback
from unittest import mock

import common

from kdmlc_jax import train, writers
from kdmlc_jax.errors import StoppedError

PIPELINES, CALLS = ("resident", "stream"), (1, 2)


def cut(config, workdir: pathlib.Path, step: int, signals: int) -> None:
    """Trains until `signals` signals arrive in the call that ends at `step`.

    Raises:
      RuntimeError: where the run does not end there as it should.
    """
    told = writers.Reporter.step

    def signalled(reporter, at: int, count: int = 1) -> None:
        told(reporter, at, count)
        for _ in range(signals if at == step else 0):
            os.kill(os.getpid(), signal.SIGTERM)

    with mock.patch.object(writers.Reporter, "step", signalled):
        try:
            train.run(config, workdir, quiet=True)
        except StoppedError as error:
            if signals == 1 and f"SIGTERM: stopped and saved at step {step};" in str(error):
                return
            raise
        except KeyboardInterrupt:
            if signals == 2:
                return
            raise
    raise RuntimeError(f"the run was not stopped at step {step}")


def attempt(config, workdir: pathlib.Path, cuts: list[int], signals: int, expected: dict) -> list[str]:
    """What differs after a run that was cut at `cuts`; a traceback where it failed."""
    try:
        for step in cuts:
            cut(config, workdir, step, signals)
        train.run(config, workdir, quiet=True)
        different = common.differences(common.outcome(workdir), expected)
    except Exception:
        different = [common.scrub(traceback.format_exc(), workdir)]
    shutil.rmtree(workdir)
    return different


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All cuts; the counts, and what was found in each setting."""
    counts, settings = {"runs cut": 0, "cuts": 0, "inexact": 0}, []
    for pipeline, calls in itertools.product(PIPELINES, CALLS):
        fields = {"data.pipeline": pipeline, "train.steps_per_call": calls}
        config = common.tiny(f"epochs={flags.epochs},seed={flags.seed}", fields)
        train.run(config, folder / "straight", quiet=True)
        expected = common.outcome(folder / "straight")
        shutil.rmtree(folder / "straight")
        ends = [*range(calls, common.STEPS, calls), common.STEPS]
        steps = [epoch * common.STEPS + end for epoch in range(flags.epochs) for end in ends]
        firsts = [epoch * common.STEPS + ends[0] for epoch in range(flags.epochs)]
        tried = [("stopped", [step], 1) for step in steps]
        tried += [("twice", [step], 2) for step in firsts] + [("each", steps, 1)]
        inexact = []
        for how, cuts, signals in tried:
            if different := attempt(config, folder / "cut", cuts, signals, expected):
                inexact.append({"how": how, "cuts": cuts, "different": different})
            counts["runs cut"] += 1
            counts["cuts"] += len(cuts)
        counts["inexact"] += len(inexact)
        settings.append({"fields": fields, "stopped": steps, "twice": firsts, "each": steps, "inexact": inexact})
        print(settings[-1], flush=True)
    return counts, settings


if __name__ == "__main__":
    report = common.Report(__doc__, epochs=(3, "of each run"))
    report.run(run, "settings")
