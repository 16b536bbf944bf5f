"""What a run writes: JSON lines, and progress for the person who waits."""

import contextlib
import json
import pathlib
import sys
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kdmlc_jax import parallel
from kdmlc_jax.errors import StorageError, visible
from kdmlc_jax.storage import files

SLOW = 5.0  # seconds of compiling that are worth a line
EVENTS = "tensorboard"  # the folder of its files


def minutes(value: float) -> str:
    """63.2 -> '1:03'."""
    return f"{int(value) // 60}:{int(value) % 60:02d}"


def scores(row: dict) -> str:
    """'  test: student 0.812', or the agreement with the labels of validation images where there is no test set."""
    for ending, title in (("_test", "test"), ("_validation_given", "validation, given labels")):
        found = [f"{name.removesuffix(ending)} {row[name]:.3f}" for name in row if name.endswith(ending)]
        if found:
            return f"  {title}: {'  '.join(found)}"
    return ""


def interactive() -> bool:
    """Whether somebody watches: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or Console().is_jupyter


def events(folder: pathlib.Path, history: list[dict]) -> Any:
    """TensorBoard's writer of scalars in `folder`; it passes over what is there of steps beyond `history`."""
    from tensorboardX import SummaryWriter

    step = history[-1]["step"] + 1 if history else 0
    return SummaryWriter(str(folder), purge_step=step, filename_suffix=f".{step}")  # named by the second otherwise


class Reporter:
    """One JSON line an epoch in `metrics.jsonl`; a bar on a terminal or in a notebook, plain lines elsewhere.

    With `tensorboard` the same figures are scalars over steps, too.
    """

    def __init__(
        self,
        path: pathlib.Path,
        history: list[dict],
        total_steps: int,
        batch: int,
        title: str,
        quiet: bool,
        after: int = 0,
        tensorboard: bool = False,
    ):
        self._path, self._file, self._after = path, None, after
        self._compiling: float | None = None
        if parallel.is_main():
            files.write_text(path, "".join(json.dumps(row) + "\n" for row in history))
            self._file = path.open("a")
        self._events = events(path.with_name(EVENTS), history) if tensorboard and self._file is not None else None
        quiet = quiet or self._file is None
        self._total, self._batch, self._title, self._quiet = total_steps, batch, title, quiet
        self._steps, self._busy = 0, 0.0
        self._last: float | None = None
        self._bar = None
        if interactive() and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
            self._bar = Progress(
                *columns, TimeRemainingColumn(), console=Console(file=getattr(sys.stderr, "unescaped", sys.stderr))
            )
            self._task = self._bar.add_task(escape(visible(title)), total=total_steps, rate="")
            self._bar.start()

    def rate(self) -> float:
        """Images a second in training steps, evaluation and the first step of each stage (compilation) left out."""
        return self._steps * self._batch / self._busy if self._busy else 0.0

    def compiling(self) -> None:
        """Told before the first call of a program."""
        self._compiling, self._last = time.monotonic(), None
        self.say(f"{self._title}  compiling; large networks take minutes, but once: programs are kept for the next run")

    def step(self, step: int, count: int = 1) -> None:
        """Told after every call of `count` steps, which ended before step `step`."""
        now = time.monotonic()
        if self._compiling is not None:
            took, self._compiling = now - self._compiling, None
            if took > SLOW:
                self.say(f"{self._title}  compiled in {took:.0f} s")
        if self._last is not None:
            self._steps, self._busy = self._steps + count, self._busy + now - self._last
        self._last = now
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=f"{self.rate():,.0f} images/s")

    def pause(self) -> None:
        """Told when something other than steps begins."""
        self._last = None

    def epoch(self, row: dict) -> None:
        """Told after every evaluated epoch."""
        if self._file is not None:
            try:
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()
            except OSError as error:
                raise StorageError(f"{self._path}: cannot be written ({error.strerror})") from error
        if self._events is not None:
            for name in [name for name, value in row.items() if isinstance(value, float)]:
                self._events.add_scalar(name, row[name], row["step"])
            self._events.flush()
        left = (self._total - row["step"] + self._after) * self._batch / self.rate() if self.rate() else 0.0
        ends = f"{minutes(left)} left" + (", at most, with the runs that follow" if self._after else "")
        self.say(
            f"{self._title}  epoch {row['epoch']:3d}  {row['stage']:8s} loss {row['loss']:.3f}{scores(row)}"
            f"  {self.rate():,.0f} images/s  {ends}"
        )

    def say(self, line: str) -> None:
        """A line for the person, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(visible(line), highlight=False, markup=False)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar and the file."""
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            with contextlib.suppress(OSError):  # what a full disk refuses again was reported when it was written
                self._file.close()
        if self._events is not None:
            self._events.close()
