"""Checkpoints: the only file that imports Orbax.

    checkpoints/<step>/arrays/        the state, as Orbax writes it
    checkpoints/<step>/progress.json  the host's progress, the figure that chooses the best, each array's shape and type
    checkpoints/<step>/SHA256SUMS     a line for every file above

A step's folder is written under another name and renamed when it is complete, so it is whole or not there. What was
written is checked against its sums before it is used: Orbax itself restores changed bytes without a word.
"""

import contextlib
import json
import logging
import math
import os
import pathlib
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from kdmlc_jax import parallel
from kdmlc_jax.errors import StorageError, UserError, reading
from kdmlc_jax.storage import door, files
from kdmlc_jax.storage.checksums import SUMS, damage, sums
from kdmlc_jax.train_state import named_leaves

PROGRESS, ARRAYS = "progress.json", "arrays"
UNFINISHED, OLD, DAMAGED = "writing-", "deleting-", "damaged-"

# Orbax logs a failed write once per thread, with the stack; the error that is raised says it in a line.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
logging.getLogger("asyncio").addFilter(lambda record: "orbax" not in record.getMessage())


def saved_steps(directory: pathlib.Path) -> list[int]:
    """The steps that lie whole in a folder of checkpoints, oldest first; none where there is no folder.

    Raises:
      StorageError: where the folder cannot be listed, which is not the same as an empty one.
    """
    return sorted(int(path.name) for path in files.listed(directory) if path.name.isdigit())


class Checkpoints:
    """The newest `keep` states of a run and the best one, each with the host's progress beside it.

    Args:
      directory: of the checkpoints; created.
      keep: how many of the newest stay.
      warn: is given a line where a damaged checkpoint is passed over.
    """

    def __init__(self, directory: pathlib.Path, keep: int, warn: Callable[[str], Any] | None = None):
        self._directory, self._keep = directory.absolute(), keep
        self._warn = warn or (lambda line: print(line, file=sys.stderr, flush=True))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._step = 0  # the last that was begun
        if parallel.is_main():
            files.make_directory(self._directory)
            self._recover()
        options = ocp.AsyncOptions(create_directories_asynchronously=False)
        self._arrays = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler(), async_options=options)

    def _recover(self) -> None:
        """Puts steps back that lie whole under another name, and removes what a kill has left.

        Killed between two renames, a step may only be set aside; one that was held for damaged may have been hard to
        read. Nothing is removed that could not be looked at.
        """
        for prefix in (OLD, DAMAGED):
            for path in files.listed(self._directory, prefix):
                target = self._directory / path.name.removeprefix(prefix)
                if not target.name.isdigit() or files.exists(target):
                    continue
                try:
                    if not damage(path):
                        path.rename(target)
                except StorageError:
                    if prefix == OLD:  # it may be all there is
                        raise
        for path in [*files.listed(self._directory, OLD), *files.listed(self._directory, UNFINISHED)]:
            shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[int]:
        """The steps that were saved whole, oldest first."""
        return saved_steps(self._directory)

    def save(self, step: int, state: Any, progress: dict, metric: float | None = None) -> None:
        """Starts writing `state` (a pytree of arrays) and `progress` (JSON) as step `step`; atomic, asynchronous.

        One that is there already is replaced; the arrays may be donated as soon as this returns. The best checkpoint is
        the one where `metric` is highest; None never is.

        Raises:
          StorageError: where this one or the one before cannot be written; older ones stay as they are.
        """
        self.wait()
        self._step = step
        leaves, folder = named_leaves(state), self._directory / f"{UNFINISHED}{step}"
        shapes = {name: [str(leaf.dtype), *leaf.shape] for name, leaf in leaves.items()}
        text = json.dumps({"progress": progress, "metric": metric, "leaves": shapes}, allow_nan=False)
        with self._storage(step):
            parallel.on_main(lambda: _make_afresh(folder))  # the others wait for it
            self._arrays.save(folder / ARRAYS, args=ocp.args.StandardSave(leaves))
        self._thread = threading.Thread(target=self._finish, args=(step, folder, text))
        self._thread.start()

    def _finish(self, step: int, folder: pathlib.Path, text: str) -> None:
        try:
            with self._storage(step):
                self._arrays.wait_until_finished()
                if parallel.is_main():
                    files.write_text(folder / PROGRESS, text)
                    files.write_text(folder / SUMS, sums(folder))
                    target, old = self._directory / str(step), self._directory / f"{OLD}{step}"
                    if files.exists(target):
                        target.rename(old)
                    folder.rename(target)
                    _sync(self._directory)
                    shutil.rmtree(old, ignore_errors=True)
                    self._prune()
        except BaseException as error:
            self._error = error

    def _prune(self) -> None:
        """Deletes what is neither among the newest nor the best; nothing where the best is not known."""
        found = self.steps()
        try:
            kept = {*found[-self._keep :], max(found, key=self._rank)}
        except StorageError as error:
            self._warn(f"warning: no old checkpoint is deleted: {error}")
            return
        for step in found:
            if step not in kept:
                self._delete(self._directory / str(step))

    def _rank(self, step: int, otherwise: float | None = None) -> tuple[float, ...]:
        """Highest for the best, the earliest of equals; steps without a metric come after all others, newest first."""
        metric = self._metric(step, otherwise)
        return (0, step) if metric is None else (1, metric, -step)

    def _metric(self, step: int, otherwise: float | None) -> float | None:
        """A saved checkpoint's metric, or `otherwise` where it is damaged, for what is old must not stop what is new.

        Raises:
          StorageError: where the system did not let it be read.
        """
        path = self._directory / str(step) / PROGRESS
        try:
            with reading(path, "the progress of a run"):
                found = json.loads(door.read_text(path))["metric"]
                return None if found is None else float(found)
        except StorageError:
            raise
        except UserError:
            return otherwise

    def _delete(self, folder: pathlib.Path) -> None:
        """A folder that is being deleted is never taken for a checkpoint."""
        doomed = folder.rename(folder.with_name(f"{OLD}{folder.name}"))
        shutil.rmtree(doomed, ignore_errors=True)

    @contextlib.contextmanager
    def _storage(self, step: int) -> Iterator[None]:
        """Turns whatever Orbax raises for a disk that fails into one line."""
        try:
            yield
        except StorageError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            first = (str(error) or type(error).__name__).splitlines()[0][:300]
            kept = ""
            with contextlib.suppress(StorageError):  # the disk may refuse that, too
                kept = f"; saved before and kept: steps {self.steps()}" if files.exists(self._directory) else ""
            raise StorageError(
                f"checkpoint {self._directory / str(step)}: cannot be written ({first}){kept}"
            ) from error

    def wait(self) -> None:
        """Waits until what was saved is durable; raises StorageError where it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def restore(self, like: Any, best: bool = False) -> tuple[Any, dict] | None:
        """The newest intact state, in structure and sharding like `like`, and its progress; None if there is none.

        A damaged checkpoint is reported, renamed to damaged-<step>, and the one before it is used; one that cannot be
        looked at is not damaged, and nothing is done to any. With `best` the one
        whose metric is highest (the earliest of equals, the newest where no metric was saved), and then the next best.

        Raises:
          StorageError: where there are checkpoints, but all are damaged, or one cannot be read.
          UserError: where the state has other arrays than `like`; the first one is named.
        """
        self.wait()
        found = [0]
        parallel.on_main(lambda: found.append(self._last_intact(best)))
        step = parallel.from_main(found[-1])
        if step == -2:
            raise StorageError(f"{self._directory}: every checkpoint is damaged; to train afresh, delete this folder")
        return None if step < 0 else self._read(step, like)

    def _last_intact(self, best: bool) -> int:
        """The newest or best step that is as it was written; -1 where there was none ever, -2 where all are damaged."""
        order = self.steps()
        if best:  # what cannot be read is damaged, and told before another takes its place
            order.sort(key=lambda step: self._rank(step, otherwise=math.inf))
        for step in reversed(order):
            folder = self._directory / str(step)
            wrong = damage(folder)
            if not wrong:
                return step
            self._warn(f"warning: checkpoint {folder} is damaged and left out: {wrong}")
            shutil.rmtree(folder.with_name(f"{DAMAGED}{step}"), ignore_errors=True)
            folder.rename(folder.with_name(f"{DAMAGED}{step}"))
        return -2 if order or files.listed(self._directory, DAMAGED) else -1

    def _read(self, step: int, like: Any) -> tuple[Any, dict]:
        folder, leaves = self._directory / str(step), named_leaves(like)
        with reading(folder / PROGRESS, "the progress of a run"):
            about = json.loads(door.read_text(folder / PROGRESS))
        wanted = {name: [str(leaf.dtype), *leaf.shape] for name, leaf in leaves.items()}
        for name in sorted(wanted.keys() | about["leaves"].keys()):
            old, new = about["leaves"].get(name, "absent"), wanted.get(name, "absent")
            if old != new:
                raise UserError(f"checkpoint {folder}: state{name} is {old} there and {new} here")
        abstract = {name: ocp.utils.to_shape_dtype_struct(leaf) for name, leaf in leaves.items()}
        try:
            state = self._arrays.restore(folder / ARRAYS, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # Orbax takes a file that it cannot look at for none
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise StorageError(f"{folder}: cannot be read ({reason}); its sums hold, so try again") from error
        return jax.tree.unflatten(jax.tree.structure(like), [state[name] for name in leaves]), about["progress"]

    def close(self) -> None:
        """Waits until all that was saved is durable."""
        try:
            self.wait()
        finally:
            with self._storage(self._step):  # Orbax may hold another error of the write that was told before
                self._arrays.close()


def _make_afresh(folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _sync(directory: pathlib.Path) -> None:
    """Makes a rename in `directory` durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
