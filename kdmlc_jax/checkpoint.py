"""Checkpoints: the only file that imports Orbax."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp


def _named_leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


class Checkpoints:
    """The newest `keep` states of a run, each with the host's progress beside it."""

    def __init__(self, directory: pathlib.Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, step: int, state: Any, progress: dict) -> None:
        """Starts writing `state` (a pytree of arrays) and `progress` (JSON) as step `step`; atomic, asynchronous."""
        parts = {"state": ocp.args.StandardSave(_named_leaves(state)), "progress": ocp.args.JsonSave(progress)}
        self._manager.save(step, args=ocp.args.Composite(**parts))

    def restore(self, like: Any) -> tuple[Any, dict] | None:
        """The newest state, in structure, dtypes and sharding like `like`, and its progress; None if there is none."""
        self._manager.wait_until_finished()
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = {name: ocp.utils.to_shape_dtype_struct(leaf) for name, leaf in _named_leaves(like).items()}
        parts = {"state": ocp.args.StandardRestore(abstract), "progress": ocp.args.JsonRestore()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**parts))
        leaves = [restored.state[name] for name in abstract]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), restored.progress

    def close(self) -> None:
        """Waits until all that was saved is durable."""
        self._manager.wait_until_finished()
        self._manager.close()
