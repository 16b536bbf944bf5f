"""What fields may hold: values outside are refused before anything else happens, the ends are allowed."""

import math

import pytest
import tiny

from kdmlc_jax import config as config_lib
from kdmlc_jax.errors import UserError

WORDS = {
    "data.select_on": ("best", "given, true"),
    "data.pipeline": ("streamed", "auto, resident, stream"),
    "data.on_bad_image": ("ignore", "fail, skip"),
    "augment.meta": ("strong", "none, weak, all"),
    "train.on_nonfinite": ("ignore", "stop, skip"),
    "deploy": ("best", "last, best_val"),
    "parallel.mode": ("pmaps", "jit, pmap"),
    "parallel.sharding": ("zero", "replicated, fsdp"),
}

# field: lowest and highest value allowed, just outside them
NUMBERS = {
    "augment.view_area": (0.001, 1.0, 0.0, 1.01),
    "train.epochs": (1, 1000, 0, None),
    "train.eval_batch_size": (1, 1000, 0, None),
    "train.steps_per_call": (1, 1000, 0, None),
    "checkpoint.every": (1, 1000, 0, None),
    "checkpoint.every_steps": (0, 1000, -1, None),
    "checkpoint.keep": (1, 1000, 0, None),
    "parallel.shard_above": (1, 1000, 0, None),
    "optim.lr": (0.0, 1e6, -0.1, math.inf),
    "optim.weight_decay": (0.0, 1e6, -0.1, math.nan),
    "optim.clip": (0.0, 1e6, -0.1, math.inf),
    "optim.momentum": (0.0, 1.0, -0.1, 1.1),
    "optim.warm_up": (0.0, 1.0, -0.1, 1.1),
    "student.lr_below": (1e-6, 1.0, 0.0, 1.1),
    "teacher.lr_below": (1e-6, 1.0, 0.0, 1.1),
}


def refused(**fields):
    """The one line that a value is refused with."""
    with pytest.raises(UserError) as error:
        config_lib.check(tiny.config(fields={name.replace("__", "."): value for name, value in fields.items()}))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("field", WORDS)
def test_word_that_is_not_one_of_a_few(field):
    """Protects from a mistyped choice, which would else mean another one: the error lists what there is."""
    wrong, allowed = WORDS[field]
    assert refused(**{field: wrong}).startswith(f'{field}: "{wrong}" is not one of {allowed}')


@pytest.mark.parametrize("field", NUMBERS)
def test_number_outside_its_range(field):
    """Protects training from numbers that mean nothing; both ends are allowed."""
    low, high, below, above = NUMBERS[field]
    for allowed in (low, high):
        config_lib.check(tiny.config(fields={field: allowed}))
    for outside in (below, above):
        if outside is not None:
            assert refused(**{field: outside}).startswith(f"{field}: {outside} is outside [{low:g}, ")


def test_milestones_are_shares():
    """Protects a schedule from epochs where shares of the run are meant."""
    assert refused(optim__milestones=(0.5, 80.0)) == "optim.milestones: 80.0 is outside [0, 1]"


def test_fields_that_do_not_go_together():
    """Protects from a setting without effect, and from one that the other way of spreading has not."""
    assert refused(parallel__model=2).startswith("parallel.model: 2 has nothing to do without parallel.sharding=fsdp")
    config_lib.check(tiny.config(fields={"parallel.model": 2, "parallel.sharding": "fsdp"}))
    for field, value in {"parallel.sharding": "fsdp", "parallel.split_banks": True}.items():
        assert refused(**{"parallel.mode": "pmap", field: value}).startswith(
            "parallel.mode: pmap keeps the whole state"
        )


@pytest.mark.parametrize("baselines", [("ce",), (("a", "ce", "b"),), ("ab",)])
def test_baselines_are_pairs(baselines):
    """Protects from a list of methods without labels, which would fail after hours of training."""
    assert refused(baselines=baselines).startswith("baselines: (") and "pairs" in refused(baselines=baselines)


def test_tensorboard_needs_its_extra(monkeypatch):
    """Protects who asks for it where it is not installed: one line before training."""
    config = config_lib.load("configs/digits.py", {"tensorboard": "True"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'tensorboard: .* expected pip install "kdmlc-jax\[tensorboard\]"'):
        config_lib.check(config)
