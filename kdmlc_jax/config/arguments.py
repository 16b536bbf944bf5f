"""Text to config: short names of fields, `file.py:a=1,b`, and overrides. Imports no JAX before a method is known."""

import ast
import os
import pathlib
import runpy
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax.config.fields import flatten
from kdmlc_jax.errors import UserError, suggest
from kdmlc_jax.storage import files

SHORT = {
    "noise": "noise.kind",
    "rate": "noise.rate",
    "trusted": "data.trusted",
    "held_out": "data.held_out",
    "cross_fit": "data.cross_fit",
    "noisy": "data.noisy",
    "validation": "data.validation",
    "source": "data.source",
    "dir": "data.dir",
    "manifest": "data.manifest",
    "human": "noise.human",
    "file": "noise.file",
    "column": "noise.column",
    "splits": "data.splits",
    "labels": "data.labels",
    "labels_column": "data.labels_column",
    "precision": "labels.precision",
    "features": "data.features",
    "init_from": "init_from",
    "seed": "seed",
    "epochs": "train.epochs",
    "lr": "optim.lr",
    "cutout": "augment.cutout",
    "teacher": "teacher.net",
    "teacher_run": "teacher.run",
    "student": "student.net",
    "parallel": "parallel.mode",
    "sharding": "parallel.sharding",
}


# Fields that hold a path.
PATHS = (
    *("data.dir", "data.manifest", "data.trusted_file", "data.splits", "data.labels", "data.features"),
    *("noise.file", "init_from", "teacher.run"),
)


def parse_arguments(text: str) -> dict[str, str]:
    """'a=1,b' -> {'a': '1', 'b': 'true'}; a comma within a path that exists is part of it."""
    found: dict[str, str] = {}
    parts, at = text.split(","), 0
    while at < len(parts):
        name, equals, value = parts[at].partition("=")
        if SHORT.get(name.strip()) in PATHS:
            longer = [",".join([value, *parts[at + 1 : end]]) for end in range(at + 2, len(parts) + 1)]
            whole = [path for path in longer if files.exists(os.path.expanduser(path.strip()))]
            if whole and not files.exists(os.path.expanduser(value.strip())):
                at += whole[0].count(",") - value.count(",")
                value = whole[0]
        if parts[at] or name:
            found[name.strip()] = value.strip() if equals else "true"
        at += 1
    return found


def resolve(config: ConfigDict, arguments: Mapping[str, str], recipe: str | None = None) -> ConfigDict:
    """Completes `config` with the options of its method and the method's own recipe, and applies `arguments` to it.

    A method's module may say in RECIPES what it needs on some data set, whatever the config file holds for the others:
    {"cifar10": {"optim.lr": 0.02, "method.ssl_epochs": 200}, "cifar10,quick": …}; "" holds what it needs on all.

    Args:
      config: a `base()` that a config file has filled in.
      arguments: short names or method options to values, as text; `method` (`methods.DEFAULT` where none is given) and
        `preset` are read first.
      recipe: the name in RECIPES, by default `config.name`.

    Raises:
      UserError: for an unknown name, with a suggestion, or a value of the wrong type.
    """
    from kdmlc_jax import methods

    arguments = dict(arguments)
    module = methods.get(arguments.pop("method", methods.DEFAULT))
    recipes = getattr(module, "RECIPES", {})
    own = recipes.get("", {}) | recipes.get(config.name if recipe is None else recipe, {})
    preset = arguments.pop("preset", own.pop("method.preset", None))
    with config.unlocked():
        config.method = module.default_config(*([] if preset is None else [preset]))
    config.update_from_flattened_dict(own)
    options = [option for option in config.method if option != "name"]
    for name, value in arguments.items():
        if name not in SHORT and name not in options:
            raise unknown(name, arguments, options)
        assign(config, SHORT.get(name, f"method.{name}"), value)
    return config


def unknown(name: str, arguments: Mapping[str, str], more: Iterable[str]) -> UserError:
    """What to raise where `name` among `arguments` is neither a short name nor one of `more`."""
    field = next((SHORT[one] for one in arguments if SHORT.get(one) in PATHS), "")
    comma = f"; a path with a comma goes in --config.{field}=…" if field and arguments[name] == "true" else ""
    near = suggest(name, (*SHORT, "method", "preset", "quick", *more))
    return UserError(f'config argument "{name}" is unknown{near}{comma}')


def assign(config: ConfigDict, path: str, text: str) -> None:
    """Sets the field at `path` ("optim.lr") to `text`, read as the type it has; where there is none, UserError."""
    fields = flatten(config)
    if path not in fields:
        raise UserError(f'config has no field "{path}"{suggest(path, sorted(fields))}')
    config.update_from_flattened_dict({path: convert(path, text, fields[path])})


def convert(path: str, text: str, old: Any) -> Any:
    """`text` as a value of `old`'s type; raises UserError naming the field."""
    if isinstance(old, str):
        return os.path.expanduser(text) if path in PATHS else text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(old, bool) and value in (0, 1):
        value = bool(value)
    if isinstance(old, tuple) and isinstance(value, list | tuple):
        value = tuple(value)
    if type(value) is not type(old):
        raise UserError(f'config field "{path}": "{text}" is not a {type(old).__name__}')
    return value


def find(path: str | pathlib.PurePath) -> pathlib.Path:
    """The config file at `path`; names under `configs/` are also found in the installed package."""
    here = pathlib.Path(__file__).parents[1]
    for candidate in (pathlib.Path(path), here / path, here.parent / path):
        if files.is_file(candidate):
            return candidate
    shipped = sorted(p.name for root in (here, here.parent) for p in (root / "configs").glob("*.py"))
    raise UserError(f"config file {path} does not exist; shipped with the package: {', '.join(dict.fromkeys(shipped))}")


def call(path: str, arguments: dict[str, str]) -> ConfigDict:
    """What the config file at `path` makes of its arguments."""
    module = runpy.run_path(str(find(path)))
    if "get_config" not in module:
        raise UserError(f"config file {path} defines no get_config(arguments)")
    made: ConfigDict = module["get_config"](arguments)
    return made
