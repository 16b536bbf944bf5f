"""How much of a state lies on each device, as a table."""

from typing import Any, NamedTuple

import jax
import numpy as np


class Placed(NamedTuple):
    """One array of a state."""

    name: str
    shape: str
    kind: str
    split: str  # the dimension that is split, "" where none is
    whole: int  # bytes
    own: int  # bytes on each device


def table(tree: Any, shardings: Any) -> list[Placed]:
    """What lies where, a row a leaf of `tree` (arrays or their shapes)."""
    rows = []
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(shardings), strict=True
    ):
        size = leaf.dtype.itemsize
        split = ",".join(str(dim) for dim, axis in enumerate(sharding.spec) if axis is not None)
        own = int(np.prod(sharding.shard_shape(leaf.shape))) * size
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        rows.append(Placed(jax.tree_util.keystr(path), shape, str(leaf.dtype), split, leaf.size * size, own))
    return rows


def show_table(rows: list[Placed]) -> str:
    """`table` summed over the parts of the state, as lines for a person."""
    parts: dict[str, list[Placed]] = {}
    for row in rows:
        parts.setdefault(row.name.split("[")[0].strip(".") or "state", []).append(row)
    lines = [f"{'state':34s}{'arrays':>8s}{'split':>7s}{'KiB':>12s}{'KiB a device':>14s}"]
    for part, some in {**parts, "all": rows}.items():
        divided, whole, own = (
            sum(column) for column in zip(*((bool(r.split), r.whole, r.own) for r in some), strict=True)
        )
        lines.append(f"{part:34s}{len(some):8d}{divided:7d}{whole / 1024:12.1f}{own / 1024:14.1f}")
    return "\n".join(lines)
