"""One process of a run, started by `processes.py`; it writes digests of what it saves and restores.

python worker.py COORDINATOR PROCESSES PROCESS WHAT WORKDIR FOLDER ARGUMENTS [FIELD=VALUE…]

WHAT is `train` (to the end, or until a signal) or `restore` (the newest checkpoint, nothing more). FOLDER gets
saved-<step>-<process>.json and restored-<process>.json.
"""

import json
import pathlib
import sys
from unittest import mock

import common
import jax

from kdmlc_jax import cli, parallel, train
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.storage.checkpoint import Checkpoints
from kdmlc_jax.train_state import named_leaves


def note(path: pathlib.Path, state, progress: dict) -> None:
    """Writes the digests of a state, how it lies on how many devices, and the host's progress."""
    leaves = named_leaves(state)
    split = sum(not leaf.is_fully_replicated for leaf in leaves.values())
    about = {"devices": jax.device_count(), "leaves": len(leaves), "split": split, "step": int(state["step"])}
    path.write_text(json.dumps({**about, "digests": common.digests(leaves, progress)}))


def noting(folder: pathlib.Path) -> type[Checkpoints]:
    """Checkpoints that note what they save and restore."""

    class Noting(Checkpoints):
        def save(self, step: int, state, progress: dict, metric: float | None = None) -> None:
            note(folder / f"saved-{step}-{jax.process_index()}.json", state, progress)
            super().save(step, state, progress, metric)

        def restore(self, like, best: bool = False):
            found = super().restore(like, best)
            if found is not None:
                note(folder / f"restored-{jax.process_index()}.json", *found)
            return found

    return Noting


def work(words: list[str]) -> None:
    """Trains or restores."""
    what, workdir, folder, arguments, *fields = words
    config = common.tiny(arguments, dict(field.split("=", 1) for field in fields))
    with mock.patch.object(train, "Checkpoints", noting(pathlib.Path(folder))):
        if what == "train":
            train.run(config, workdir, quiet=True)
        else:
            checkpoints = train.Checkpoints(pathlib.Path(workdir) / "checkpoints", 2)
            checkpoints.restore(train.Experiment(config, prepare(config)).init())
            checkpoints.close()


if __name__ == "__main__":
    coordinator, processes, process, *rest = sys.argv[1:]
    if int(processes) > 1:
        parallel.join_processes(parallel.Launch(coordinator, int(processes), int(process)))
    cli.guarded(lambda _: work(rest))
