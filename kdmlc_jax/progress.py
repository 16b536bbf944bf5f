"""What the host knows of a run between two steps: JSON, saved with every checkpoint; and how epochs are counted."""

import collections
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax.methods.base import Stage, Traits


def fresh() -> dict[str, Any]:
    """What is known before the first step.

    stage, stage_epoch, epoch_step: how many are done; meter: of the epoch's steps so far (`metrics.Meter.kept`); early:
    the last stage ended itself; changes: fields that a resumed run was given anew, against `config` as of the save;
    notes: what methods have said; data: digests of what the run is of.
    """
    progress: dict[str, Any] = {"stage": 0, "stage_epoch": 0, "epoch_step": 0, "meter": None, "early": False}
    return progress | {"data": {}, "history": [], "changes": [], "notes": [], "seconds": 0.0, "images_per_second": 0.0}


def visible(history: list[dict]) -> list[dict]:
    """The epochs' rows without what is measured on the test set or by true labels."""
    return [{name: row[name] for name in row if not name.endswith(("_test", "_true"))} for row in history]


def total_epochs(stages: Sequence[Stage], traits: Traits, progress: dict) -> int:
    """Epochs of the run; a stage that only prepares others, once it is over, has had those that it was trained."""
    trained = collections.Counter(row["stage"] for row in progress["history"])
    over = [stage.name for stage in stages[: progress["stage"]] if stage.name in traits.preparing]
    return sum(trained[stage.name] if stage.name in over else stage.epochs for stage in stages)


def chosen_by(config: ConfigDict, traits: Traits, row: dict) -> float | None:
    """The figure by which the best epoch is chosen; None in a stage that only prepares others, and without one."""
    name = f"{traits.deployed}_validation_{config.data.select_on}"
    return None if row["stage"] in traits.preparing else row.get(name)


def is_deployed(config: ConfigDict, traits: Traits, history: list[dict]) -> bool:
    """Whether the newest epoch is, of those so far, the one that the run would leave for its figures."""
    *earlier, newest = (chosen_by(config, traits, row) for row in history)
    known = [figure for figure in earlier if figure is not None]
    return config.deploy == "best_val" and newest is not None and newest > max(known, default=-1.0)
