"""What the fields may hold, where no other part of the program looks at them before training."""

import importlib.util
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax.config.fields import flatten
from kdmlc_jax.errors import UserError, choose, in_range

CHOICES = {
    "data.select_on": ("given", "true"),
    "data.labels_column": ("corrected", "suggested"),
    "data.pipeline": ("auto", "resident", "stream"),
    "data.on_bad_image": ("fail", "skip"),
    "data.test_copies": ("leave_out", "keep"),
    "augment.meta": ("none", "weak", "all"),
    "train.on_nonfinite": ("stop", "skip"),
    "deploy": ("last", "best_val"),
    "parallel.mode": ("jit", "pmap"),
    "parallel.sharding": ("replicated", "fsdp"),
}

RANGES = {
    "seed": (0, 2**63 - 1),
    "augment.view_area": (1e-3, 1.0),
    "data.held_out": (0.0, 0.5),
    "data.cross_fit": (0, 10),
    "labels.precision": (0.5, 0.99),
    "train.epochs": (1,),
    "train.eval_batch_size": (1, 1_000_000),
    "train.steps_per_call": (1,),
    "checkpoint.every": (1,),
    "checkpoint.every_steps": (0,),
    "checkpoint.keep": (1,),
    "parallel.model": (1,),
    "parallel.shard_above": (1,),
    "optim.lr": (0.0,),
    "teacher.lr_below": (1e-6, 1.0),
    "student.lr_below": (1e-6, 1.0),
    "optim.weight_decay": (0.0,),
    "optim.clip": (0.0,),
    "optim.momentum": (0.0, 1.0),
    "optim.warm_up": (0.0, 1.0),
}


def check_field(field: str, value: Any) -> None:
    """Raises UserError for a value outside CHOICES or RANGES."""
    if field in CHOICES:
        choose(field, value, CHOICES[field])
    if field in RANGES:
        in_range(field, value, *RANGES[field])


def check(config: ConfigDict) -> None:
    """Raises UserError for a value outside CHOICES or RANGES, and for fields that do not go together."""
    values = flatten(config)
    for field in (*CHOICES, *RANGES):
        check_field(field, values[field])
    for share in config.optim.milestones:
        in_range("optim.milestones", share, 0.0, 1.0)
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError('tensorboard: tensorboardX is not installed, expected pip install "kdmlc-jax[tensorboard]"')
    if config.parallel.model > 1 and config.parallel.sharding != "fsdp":
        raise UserError(f"parallel.model: {config.parallel.model} has nothing to do without parallel.sharding=fsdp")
    if config.parallel.mode == "pmap" and (config.parallel.sharding != "replicated" or config.parallel.split_banks):
        raise UserError("parallel.mode: pmap keeps the whole state on every device; sharding needs mode jit")
    folds, fold = config.data.cross_fit, config.data.fold
    if folds == 1:
        raise UserError("data.cross_fit: 1 part would leave nothing to learn from, expected 0 or 2 to 10")
    if folds and config.data.labels:
        raise UserError("data.cross_fit: the labels of data.labels come from one run, expected 0 beside it")
    if not -1 <= fold < max(folds, 0):
        parts = f"-1 to {folds - 1}" if folds > 0 else "-1"
        raise UserError(f"data.fold: {fold} is out of range, expected {parts} with data.cross_fit={folds}")
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in config.baselines):
        raise UserError(f"baselines: {config.baselines!r} is not a tuple of pairs (label, method)")
