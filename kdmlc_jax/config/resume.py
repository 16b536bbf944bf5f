"""The config that a run has written, and what may change when the run goes on."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax.config.fields import base, flatten
from kdmlc_jax.errors import UserError, reading
from kdmlc_jax.storage.files import exists, read_sealed

# A run may go on with another value of these: where and how it runs, how long, and what is kept of it. Any other field
# would make the second half another experiment, or not fit the saved state.
FREE = (
    *("devices", "parallel.", "checkpoint.", "baselines", "name", "data.dir", "data.pipeline", "data.resident_mb"),
    *("train.epochs", "train.eval_batch_size", "train.steps_per_call", "train.on_nonfinite"),
    *("deploy", "labels.", "tensorboard"),
)


# What a config says that was written before the field was there, where that is not the field's default.
BEFORE = {"data.held_out": 0.0, "data.test_copies": "keep"}


def read(path: pathlib.Path) -> ConfigDict:
    """The resolved config that a run has written to `path`; raises UserError where that is not one."""
    what = "the config of a run (a change of one's own belongs on the command line)"
    with reading(path, what):
        return from_json(read_sealed(path, what))


def from_json(value: Any) -> ConfigDict:
    """A config from what JSON has made of its `to_dict()`; fields that are newer have their defaults, or BEFORE."""
    config = base()
    _check(value, config)
    config.update_from_flattened_dict(BEFORE)
    with config.unlocked():
        config.update(_tuples(value))
    return config


def _check(value: Any, config: ConfigDict) -> None:
    """Raises ValueError for what is no config: without a method, or with a section where a value belongs."""
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__}, expected an object")
    method = value.get("method")
    if not isinstance(method, dict) or not isinstance(method.get("name"), str):
        raise ValueError("no method with a name in it")
    for name, item in value.items():
        if name in config and isinstance(config[name], ConfigDict) != isinstance(item, dict):
            raise ValueError(f"{name} is a {type(item).__name__}")


def _tuples(value: Any) -> Any:
    """JSON has lists only; every sequence in a config is a tuple."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def differences(old: ConfigDict, new: ConfigDict) -> list[tuple[str, str]]:
    """(field, "field=value (was value)") for each field in which two configs differ."""
    before, after = flatten(old), flatten(new)
    changed = [field for field in sorted(before.keys() | after.keys()) if before.get(field) != after.get(field)]
    return [(field, f"{field}={after.get(field)!r} (was {before.get(field)!r})") for field in changed]


def changes(config: ConfigDict, path: pathlib.Path) -> list[str]:
    """How `config` differs from the one that a run has written to `path`, see `changes_of`; [] where there is none."""
    return changes_of(config, read(path), path.parent) if exists(path) else []


def changes_of(config: ConfigDict, old: ConfigDict, workdir: pathlib.Path) -> list[str]:
    """How `config` differs from `old`, that of the run in `workdir`, as `differences` says it, in fields all `FREE`.

    Raises:
      UserError: naming the first field that a run cannot change on its way.
    """
    changed = differences(old, config)
    for field, _ in changed:
        if not field.startswith(FREE):
            was, now = (flatten(either).get(field) for either in (old, config))
            raise UserError(
                f"{workdir} holds a run with {field}={was!r}, not {now!r}: "
                "choose another --workdir, or leave out --config to go on with that run"
            )
    return [change for _, change in changed]
