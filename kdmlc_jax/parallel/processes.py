"""What the processes of one run say to each other on the host. All of them call these functions, in the same order."""

import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdmlc_jax.errors import UserError
from kdmlc_jax.train_state import named_leaves


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return jax.process_index() == 0


def alone() -> bool:
    """Whether this is the only process of its run."""
    return jax.process_count() == 1


def from_main(value: int) -> int:
    """Process 0's `value`, in every process; all of them wait for it."""
    return value if alone() else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def in_any(flag: bool) -> bool:
    """Whether `flag` is set in any process; all of them wait for it."""
    return flag if alone() else bool(multihost_utils.process_allgather(np.array(flag)).any())


def on_main(action: Callable[[], Any]) -> None:
    """Calls `action` in process 0 while the others wait; what it raises there is a UserError in the others."""
    error = None
    if is_main():
        try:
            action()
        except BaseException as caught:  # the others would wait for ever
            error = caught
    if from_main(int(error is not None)):
        raise error or UserError("process 0 ended; it says why")


def decide(fn: Callable[[], Any]) -> Any:
    """What `fn` gives in process 0, a pytree of host arrays and numbers, in every process; the others wait for it.

    `fn` exchanges nothing with the others, which do not call it: it looks at no array that they hold parts of. What it
    raises is a UserError there.
    """
    if alone():
        return fn()
    made: list[Any] = []
    on_main(lambda: made.append(fn()))
    sent = np.frombuffer(pickle.dumps(made[0]) if made else b"", np.uint8)
    size = from_main(len(sent))
    sent = multihost_utils.broadcast_one_to_all(sent if made else np.zeros(size, np.uint8))
    return pickle.loads(np.asarray(sent).tobytes())


def assert_same(tree: Any, what: str) -> None:
    """Compares the processes' own copies of `tree`, by SHA-256 of each leaf; parts that only one holds are left out.

    Raises:
      UserError: beginning with `what`, in every process, where one has another tree, or the first leaf that differs.
    """
    if alone():
        return
    found = {name: _own(leaf) for name, leaf in named_leaves(tree).items()}
    about = {name: f"{leaf.dtype}{leaf.shape}" for name, leaf in found.items()}
    if _differ(repr(about).encode())[0]:
        raise UserError(f"{what}: the processes have arrays of other names, shapes or types")
    different = _differ(*(leaf.tobytes() for leaf in found.values()))
    for name, other in zip(found, different, strict=True):
        if other:
            raise UserError(f"{what}: {name or 'the value'} is not the same in all {jax.process_count()} processes")


def _own(leaf: Any) -> np.ndarray:
    """The array as this process holds it whole; empty where no process does."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.empty(0, leaf.dtype)
    return np.asarray(leaf)


def _differ(*parts: bytes) -> list[bool]:
    """Of each part, whether it is not the same in all processes."""
    if not parts:
        return []
    own = np.stack([np.frombuffer(hashlib.sha256(part).digest(), np.uint8) for part in parts])
    every = multihost_utils.process_allgather(own)
    return (every != every[:1]).any(axis=(0, 2)).tolist()
