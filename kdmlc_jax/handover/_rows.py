"""The rows that tools are given: those of `apply`'s manifest, beside the run's label table."""

from collections.abc import Sequence
from pathlib import Path

from kdmlc_jax.handover.base import Row
from kdmlc_jax.storage import files
from kdmlc_jax.storage import labels as label_table


def of(manifest: Sequence[tuple[str, ...]], workdir: Path, root: Path | None) -> list[Row]:
    """A row for each of `manifest`: path, label, split, trusted (yes or no), given_label, source.

    Args:
      manifest: as `apply.manifest` has it.
      workdir: of the run.
      root: of the images' files; None where they are in none.
    """
    table, beliefs = label_table.whole(workdir)
    at = {str(name): row for row, name in enumerate(table["id"])}
    rows = []
    for name, label, split, trusted, given, source in manifest:
        path = None if root is None or not files.exists(root / name) else root / name
        known = Row(name, path, label, split, trusted == "yes", given, source)
        if (row := at.get(name)) is not None and split != "test":
            suggested = int(table["suggested_label"][row])
            known = known._replace(
                suggested=str(table["suggested_class"][row]),
                confidence=float(beliefs[row, suggested]),
                p_given=float(table["p_given"][row]),
                label_score=float(table["label_score"][row]),
                flagged=bool(table["is_label_issue"][row]),
            )
        rows.append(known)
    return rows
