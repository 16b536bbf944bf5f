"""The one host loop: build → restore → for stage: for step → evaluate → save → correct labels → summary."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax import assess, finished, metrics, parallel, stopping, warm_start, writers
from kdmlc_jax import config as config_lib
from kdmlc_jax import progress as progress_lib
from kdmlc_jax import summary as summary_lib
from kdmlc_jax.data import provenance
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import NonFiniteError, StoppedError, UserError
from kdmlc_jax.experiment import Experiment, changed_leaves
from kdmlc_jax.methods.base import Stage
from kdmlc_jax.storage import files
from kdmlc_jax.storage.checkpoint import Checkpoints, saved_steps

Configs = Sequence[ConfigDict]  # of runs that the same command has still to do, for the time that is left


def run(
    config: ConfigDict, workdir: str | pathlib.Path, quiet: bool = False, title: str = "", after: Configs = ()
) -> dict:
    """Trains one method, or goes on where `workdir` stopped; returns its summary.

    Raises:
      UserError: for bad input, before anything is written.
      StorageError: where a file cannot be written; what was saved stays.
      NonFiniteError: naming the step and its images; the last good checkpoint stays.
      StoppedError: after a signal, with the state saved.
    """
    workdir = pathlib.Path(workdir)
    config_lib.check(config)
    config = warm_start.seen(config)
    ended = finished.read(workdir)
    changed = finished.changes(config, workdir, ended)
    say = (lambda line: None) if quiet or not parallel.is_main() else (lambda line: print(line, file=sys.stderr))
    if ended is not None and not any(change.startswith(finished.ENDS) for change in changed):
        for line in finished.check(prepare(config), workdir, ended) + assess.check_folds(config, workdir):
            say(line)
        say(f"{title or config.name}  finished before, read from {workdir / finished.SUMMARY}")
        return ended
    if config.data.cross_fit and config.data.fold < 0:
        run_folds(config, workdir, quiet, title or config.name, after)
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        locks: list[None] = []

        def lock() -> None:
            if not locks:
                locks.append(held.enter_context(files.locked(workdir)))

        # A new folder is made when all input has been looked at.
        parallel.on_main(lambda: lock() if files.is_dir(workdir) else None)
        dataset = prepare(config)
        kept = dataset.provenance()
        provenance.check_same(digests := provenance.digests(kept), provenance.begun(workdir), workdir)
        experiment = Experiment(config, dataset)
        carry = experiment.init()
        starts: list[str] = []
        if not saved_steps(workdir / "checkpoints"):
            carry, starts = warm_start.begin(experiment, carry)

        parallel.on_main(lock)
        for note in dataset.said + changed + finished.stretched(config, workdir) + starts:
            say(note)
        if experiment.is_split:
            say(parallel.show_table(experiment.memory()))

        def begin() -> None:
            (workdir / finished.SUMMARY).unlink(missing_ok=True)  # a run with other epochs or networks is not finished
            files.write_sealed(workdir / "config.json", config.to_dict())
            files.write_csv(workdir / "bad_images.csv", ("image", "reason"), dataset.skipped)
            provenance.save(workdir / "noise.npz", kept)

        with (
            stopping.requests() as request,
            contextlib.closing(Checkpoints(workdir / "checkpoints", config.checkpoint.keep, say)) as checkpoints,
        ):
            loop = Loop(experiment, carry, checkpoints, workdir, quiet, title or config.name, began, digests, after)
            loop.progress["notes"] += starts
            parallel.on_main(begin)
            loop.train(request)
            summary = loop.finish(request)
            if parallel.is_main():
                summary = finished.write(config, workdir, summary)
        if parallel.in_any(bool(request.name)):  # other runs may follow, in a comparison
            raise StoppedError(f"{request.name or 'another process'}: this run has finished; the same command goes on")
        return summary


def run_folds(config: ConfigDict, workdir: pathlib.Path, quiet: bool, title: str, after: Configs) -> None:
    """The runs below `workdir` that each hold out one part of the trusted images; one that has finished stays."""
    for fold in range(config.data.cross_fit):
        one = config.copy_and_resolve_references()
        one.data.fold = fold
        part, left = f"{title} without part {fold + 1} of {config.data.cross_fit}", config.data.cross_fit - fold
        run(one, assess.fold_dir(workdir, fold), quiet, part, [*[config] * left, *after])  # other parts, and the run


class Loop:
    """All stages of a run, from its newest checkpoint if there is one.

    `progress["seconds"]` counts from `began` (a monotonic time) and adds what earlier, cut runs took; `digests` are of
    the data (`provenance.digests`).
    """

    def __init__(
        self,
        experiment: Experiment,
        carry: Any,
        checkpoints: Checkpoints,
        workdir: pathlib.Path,
        quiet: bool,
        title: str,
        began: float,
        digests: dict[str, str],
        after: Configs,
    ):
        self.experiment, self.carry, self.checkpoints = experiment, carry, checkpoints
        self.workdir, self.began = workdir, began
        self._stop: Any = False
        self.config, self.stages, self.traits = experiment.config, experiment.method.stages, experiment.method.traits
        self.steps = experiment.info.steps_per_epoch
        self.progress = progress_lib.fresh()
        if (restored := checkpoints.restore(carry)) is not None:
            self.carry, self.progress = restored[0], self.progress | restored[1]
            at = len(self.progress["history"]) * self.steps + self.progress["epoch_step"]
            changed = config_lib.changes_of(self.config, config_lib.from_json(self.progress["config"]), workdir)
            provenance.check_same(digests, self.progress["data"], workdir)
            self.progress["changes"] += [f"step {at}: {change}" for change in changed]
            self._fit_epochs()
        self.progress |= {"config": self.config.to_dict(), "data": digests}
        self.history, self.spent = self.progress["history"], self.progress["seconds"]
        total = sum(stage.epochs for stage in self.stages) * self.steps
        batch, path = self.config.train.batch_size, workdir / "metrics.jsonl"
        told = title, quiet, experiment.epochs_of(after) * self.steps, self.config.tensorboard
        self.reporter = writers.Reporter(path, self.history, total, batch, *told)
        if restored is not None:
            extra = f", step {self.progress['epoch_step']}" if self.progress["epoch_step"] else ""
            self.reporter.say(f"{title}  going on after epoch {len(self.history)}{extra}")

    def _fit_epochs(self) -> None:
        """A run that had ended goes on where `train.epochs` was raised."""
        progress, last = self.progress, self.stages[-1]
        trained, wanted = len(progress["history"]), self._total()
        if trained + bool(progress["epoch_step"]) > wanted and not progress["early"]:
            more = " and a part of the next" if progress["epoch_step"] else ""
            raise UserError(f"train.epochs: {self.config.train.epochs}, but {self.workdir} has trained {trained}{more}")
        if progress["stage"] == len(self.stages) and not progress["early"]:
            done = sum(row["stage"] == last.name for row in progress["history"])
            progress |= {"stage": len(self.stages) - 1, "stage_epoch": done}

    def train(self, request: stopping.Request) -> None:
        """Trains to the end; `carry` and `progress` are then the final ones.

        Raises:
          StoppedError: after the step in which `request` was made, with the state saved.
        """
        with contextlib.closing(self.reporter):
            while self.progress["stage"] < len(self.stages):
                self._stage(self.stages[self.progress["stage"]], request)

    def finish(self, request: stopping.Request) -> dict:
        """Corrects the labels, writes what the run leaves, and returns the summary.

        Raises:
          StoppedError: where `request` was made; the run is trained to its end.
        """
        self.checkpoints.wait()
        if parallel.in_any(bool(request.name)):
            raise StoppedError(f"{request.name or 'another process'}: trained to the end; the same command goes on")
        trained = time.monotonic()
        summary = summary_lib.finish(self.experiment, *self.deployed(), self.progress, self.workdir)
        return summary | {"seconds": self.progress["seconds"] + time.monotonic() - trained}

    def _stage(self, stage: Stage, request: stopping.Request) -> None:
        """What is left of one stage."""
        progress = self.progress
        if self._left(stage) > 0 or not progress["stage_epoch"]:  # nothing begins again after the last epoch
            self._begin(stage)
        start = len(self.history) * self.steps + progress["epoch_step"]
        stop = (len(self.history) + self._left(stage)) * self.steps
        calls: dict[int, Callable] = {}
        ended = self._left(stage) <= 0  # where the config's epochs were lowered to what is trained
        if ended:
            progress |= {"stage": progress["stage"] + 1, "stage_epoch": 0}
        with contextlib.closing(self.experiment.feeds(stage, start, stop)) as feeds:
            while not ended:
                row = self._epoch(stage, calls, feeds, request)
                self.history.append(row)
                self.reporter.epoch(row)
                progress |= {"stage_epoch": progress["stage_epoch"] + 1, "epoch_step": 0, "meter": None}
                early = stage.done is not None and stage.done(progress_lib.visible(self.history))
                ended = early or self._left(stage) <= 0
                if ended:
                    progress |= {"stage": progress["stage"] + 1, "stage_epoch": 0}
                last = progress["stage"] == len(self.stages)
                progress["early"] = early and last
                due = last or len(self.history) % self.config.checkpoint.every == 0
                if due or progress_lib.is_deployed(self.config, self.traits, self.history):
                    self._save(row["step"], progress_lib.chosen_by(self.config, self.traits, row))
                if not ended:
                    self._begin(stage)

    def _begin(self, stage: Stage) -> None:
        """`stage.begin`, where an epoch is its first one or it is time again."""
        done, inside = self.progress["stage_epoch"], self.progress["epoch_step"] > 0
        if stage.begin is None or inside or (done % stage.every if stage.every else done):
            return
        view = self.experiment.evaluator.view(progress_lib.visible(self.history), self._note)
        before = self.carry["method"]
        begun = stage.begin(before, view)
        parallel.assert_same(changed_leaves(before, begun), f"the beginning of stage {stage.name}")
        self.carry = self.experiment.place({**self.carry, "method": begun})

    def _epoch(self, stage: Stage, calls: dict[int, Callable], feeds: Iterator, request: stopping.Request) -> dict:
        """What is left of one epoch of `stage`, and its evaluation; returns the epoch's row."""
        experiment, epoch, config = self.experiment, len(self.history), self.config
        meter = metrics.Meter(config.train.on_nonfinite == "skip", self.progress["meter"])
        often = config.checkpoint.every_steps
        try:
            for done in range(self.progress["epoch_step"], self.steps, config.train.steps_per_call):
                count = min(config.train.steps_per_call, self.steps - done)
                at = epoch * self.steps + done + count
                if count not in calls:
                    calls[count] = experiment.compile(stage, count)
                    self.reporter.compiling()
                given = [next(feeds) for _ in range(count)]
                feed = given[0] if count == 1 else given
                self.carry, out = experiment.call(calls[count], self.carry, feed, bool(request.name))
                stop = out.pop("stop", None)
                meter.add(at - count, out)
                self.reporter.step(at, count)
                stopped = self._agreed(request, stop)
                due = often and at // often > (at - count) // often and done + count < self.steps
                if stopped or due:
                    meter.settle()
                    self.progress |= {"epoch_step": done + count, "meter": meter.kept()}
                    self._save(at)
                if stopped:
                    self.checkpoints.wait()
                    asked = request.name or "another process"
                    raise StoppedError(f"{asked}: stopped and saved at step {at}; the same --workdir goes on there")
            means = meter.means()
            self.reporter.pause()
            evaluated = experiment.evaluate(self.carry["method"])
        except NonFiniteError as error:
            raise self._blamed(error, stage) from None
        for line in metrics.warnings(means):
            self.reporter.say(f"warning: {line}")
        return {"epoch": epoch + 1, "stage": stage.name, "step": (epoch + 1) * self.steps, **means, **evaluated}

    def _total(self) -> int:
        return progress_lib.total_epochs(self.stages, self.traits, self.progress)

    def deployed(self) -> tuple[Any, int]:
        """The state that the run leaves, and how many epochs it has: the last one, or the best on validation."""
        found = self.checkpoints.restore(self.carry, best=True) if self.config.deploy == "best_val" else None
        carry, progress = found or (self.carry, self.progress)
        return carry["method"], len(progress["history"])

    def _left(self, stage: Stage) -> int:
        """Epochs that `stage` still has; the last one has all that the run has. One that was begun is ended in it."""
        if stage is self.stages[-1]:
            return self._total() - len(self.history)
        return max(int(stage.epochs - self.progress["stage_epoch"]), int(self.progress["epoch_step"] > 0))

    def _note(self, line: str) -> None:
        self.progress["notes"].append(line)
        self.reporter.say(line)

    def _agreed(self, request: stopping.Request, stop: Any) -> bool:
        """Whether to stop now; several processes agree on it in their step, and look one call later: none waits."""
        before, self._stop = self._stop, stop
        return bool(request.name) if parallel.alone() else bool(before)

    def _save(self, step: int, metric: float | None = None) -> None:
        self.progress["seconds"] = self.spent + time.monotonic() - self.began
        self.progress["images_per_second"] = self.reporter.rate() or self.progress["images_per_second"]
        self.checkpoints.save(step, self.carry, self.progress, metric)

    def _blamed(self, error: NonFiniteError, stage: Stage) -> NonFiniteError:
        """`error` with its epoch and images; all of them are written to `nonfinite.json`."""
        where = f"{error} in epoch {len(self.history) + 1} (stage {stage.name})"
        if error.step is not None:
            images = self.experiment.images_of(stage, error.step)
            about = {"step": error.step, "stage": stage.name, "message": str(error), "images": images}
            if parallel.is_main():
                files.write_json(self.workdir / "nonfinite.json", about)
            kind, ids = next(iter(images.items()))
            some = ", ".join(map(str, ids[:5]))
            where += f", on {kind} images {some}, … ({len(ids)}; all in {self.workdir / 'nonfinite.json'})"
        return NonFiniteError(f"{where}; training stopped, what was saved before is kept", error.step)
