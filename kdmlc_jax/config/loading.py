"""A config by its name; names and values that need no method are refused first, before JAX is imported, which takes
seconds."""

import re
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from kdmlc_jax import methods
from kdmlc_jax.config import fields, ranges
from kdmlc_jax.config.arguments import SHORT, assign, call, convert, find, parse_arguments, unknown
from kdmlc_jax.errors import UserError, choose, suggest

LATER = ("method.", "augment.")  # whose fields the modules of methods and augmentations say


def load(spec: str, overrides: Mapping[str, str] = {}) -> ConfigDict:
    """The resolved config of `path.py:arguments`, with overrides {"optim.lr": "0.1"} applied last; UserError names what
    is missing, unknown or of the wrong type."""
    path, _, arguments = spec.partition(":")
    given = parse_arguments(arguments)
    for name in ("name", "preset"):
        if f"method.{name}" in overrides:
            given["method" if name == "name" else name] = overrides[f"method.{name}"]
    check(path, given, overrides)
    config = call(path, given)
    for field, text in overrides.items():
        assign(config, field, text)
    return config


def check(path: str, given: Mapping[str, str], overrides: Mapping[str, str]) -> None:
    """Raises UserError as what follows would, for all but what only a method's or an augmentation's module says.

    Args:
      path: the config file.
      given: arguments of its name.
      overrides: {"optim.lr": "0.1"}.
    """
    file = find(path)
    choose("method.name", given.get("method", methods.DEFAULT), methods.names())
    known = fields.flatten(ConfigDict(fields.static()))
    said = {SHORT[name]: value for name, value in given.items() if name in SHORT}
    odd = [name for name in given if name not in SHORT and name not in ("method", "preset", "quick")]
    for name in odd:
        if name not in (words := _words(file)):
            raise unknown(name, given, words)
    for name, text in {**said, **overrides}.items():
        if name in known:
            ranges.check_field(name, convert(name, text, known[name]))
        elif not name.startswith(LATER) and not re.search(rf"\b{name.rpartition('.')[2]}\b", file.read_text()):
            raise UserError(f'config has no field "{name}"{suggest(name, sorted(known))}')


def _words(file: Path) -> set[str]:
    """Every quoted word in the config file and in the modules of all methods: no option is named otherwise."""
    sources = [file, *(source for folder in methods.__path__ for source in Path(folder).rglob("*.py"))]
    return {word for source in sources for word in re.findall(r"[\"'](\w+)[\"']", source.read_text())}
