"""Configurations: one ConfigDict per run, from a file, arguments in its name, and overrides. Imports no JAX.

`configs/fashion_mnist.py:method=kdmlc,preset=strong,rate=0.8,quick` names a file and its arguments; each argument is
a short name of a field (`SHORT`), a flag of the file (`quick`), or an option of the method.
"""

import ast
import json
import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax.errors import UserError, choose, in_range, suggest

SHORT = {
    "noise": "noise.kind",
    "rate": "noise.rate",
    "trusted": "data.trusted",
    "noisy": "data.noisy",
    "validation": "data.validation",
    "source": "data.source",
    "dir": "data.dir",
    "manifest": "data.manifest",
    "human": "noise.human",
    "file": "noise.file",
    "splits": "data.splits",
    "labels": "data.labels",
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

# A run may go on with another value of these: where and how it runs, how long, and what is kept of it. Any other field
# would make the second half another experiment, or not fit the saved state.
FREE = (
    *("devices", "parallel.", "checkpoint.", "baselines", "name", "data.dir", "data.pipeline", "data.resident_mb"),
    *("train.epochs", "train.eval_batch_size", "train.steps_per_call", "train.on_nonfinite"),
)


def base() -> ConfigDict:
    """Every field but the method's options, with defaults that fit a small data set; see README for each."""
    return ConfigDict(
        {
            "name": "run",
            "seed": 0,
            "init_from": "",  # the folder of another run, whose networks are the start of those here
            "data": {
                "source": "digits",
                "dir": "",  # '' looks below KDMLC_DATA
                "manifest": "",  # folder: CSV or Parquet that lists images and labels
                "image_size": 0,  # folder, tfds: side in pixels; 0 = see sources.folder and decoding.decode
                "channels": 0,  # folder, tfds: 1, 3, or 0 = 1 if all images are grey
                "max_megapixels": 64.0,
                "on_bad_image": "fail",  # or skip
                "verify": True,  # folder: decode every file before training
                "trusted": 100.0,  # number, or share below 1; 0 = those the source names
                "trusted_file": "",  # ids of the trusted images, one a line
                "noisy": 0.0,  # number, or share below 1; 0 = all the rest
                "validation": 0.0,  # number, or share below 1
                "splits": "",  # the noise.npz of another run, to use its splits
                "labels": "",  # the folder of another run, whose corrected labels replace those of the noisy images
                "features": "",  # .npy f[N, D], a row for each training image, for methods that work on features
                "select_on": "given",
                "trusted_given": False,
                "pipeline": "auto",  # or resident, stream
                "resident_mb": 4096.0,  # decoded images above this stay in their files
            },
            "noise": {
                "kind": "uniform",
                "rate": 0.6,
                "exact": False,  # the exact number of wrong labels instead of independent draws
                "file": "",  # matrix, human, file: where it lies
                "human": "worst",  # human: aggre, random1, random2, random3, worst (CIFAR-100N: noisy)
            },
            # meta: none | weak (no Cutout) | all; view_*: SimCLR's views, a crop's least share of the area, and blur
            "augment": {"pad": 0, "flip": False, "cutout": 0, "meta": "weak", "view_area": 0.2, "view_blur": False},
            "teacher": {"net": "cnn16", "run": ""},  # run: the folder of another run, whose network is the teacher
            "student": {"net": "cnn6"},
            "optim": {
                "name": "sgd",
                "lr": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "clip": 0.0,
                "schedule": "cosine",
                "milestones": (0.6667, 0.8333),
                "warm_up": 0.0,
            },
            "train": {
                "epochs": 15,
                "batch_size": 100,
                "trusted_batch_size": 100,
                "eval_batch_size": 500,
                "steps_per_call": 1,  # steps in one dispatch; above 1 pays on accelerators only
                "on_nonfinite": "stop",  # or skip: a step that gives NaN or infinity is undone and counted
            },
            # every: epochs; every_steps: also in the middle of epochs, 0 = not; the newest `keep` and the best stay
            "checkpoint": {"every": 1, "every_steps": 0, "keep": 2},
            "devices": 0,  # 0 = all
            "parallel": {
                "mode": "jit",  # or pmap
                "sharding": "replicated",  # or fsdp: large arrays of the state are split over the devices
                "model": 1,  # devices that share one slice of the batch (fsdp)
                "shard_above": 65536,  # fsdp: elements
                "split_banks": False,  # what a method remembers of every image is split over the devices
            },
            "baselines": (),
        }
    )


def parse_arguments(text: str) -> dict[str, str]:
    """'a=1,b' -> {'a': '1', 'b': 'true'}."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {name.strip(): value.strip() if equals else "true" for name, equals, value in pairs}


def resolve(config: ConfigDict, arguments: Mapping[str, str]) -> ConfigDict:
    """Completes `config` with the options of its method and applies `arguments` to it.

    Args:
      config: a `base()` that a config file has filled in; `config.default_method` is its default, e.g. "kdmlc".
      arguments: short names or method options to values, as text; `method` and `preset` are read first.

    Raises:
      UserError: for an unknown name, with a suggestion, or a value of the wrong type.
    """
    arguments = dict(arguments)
    set_method(config, arguments.pop("method", "kdmlc"), arguments.pop("preset", None))
    options = [option for option in config.method if option != "name"]
    for name, value in arguments.items():
        if name not in SHORT and name not in options:
            known = (*SHORT, "method", "preset", "quick", *options)
            raise UserError(f'config argument "{name}" is unknown{suggest(name, known)}')
        assign(config, SHORT.get(name, f"method.{name}"), value)
    return config


def set_method(config: ConfigDict, name: str, preset: str | None) -> None:
    """Puts the default options of method `name` under `config.method`."""
    from kdmlc_jax import methods

    with config.unlocked():
        config.method = methods.get(name).default_config(*([] if preset is None else [preset]))


def assign(config: ConfigDict, path: str, text: str) -> None:
    """Sets the field at `path` ("optim.lr") to `text`, read as the type the field has.

    Raises:
      UserError: naming the field and, where it does not exist, the nearest one that does.
    """
    node, *rest = config, *path.split(".")
    for name in rest[:-1]:
        node = node[name] if isinstance(node, ConfigDict) and name in node else None
    leaf = rest[-1]
    if not isinstance(node, ConfigDict) or leaf not in node or isinstance(node[leaf], ConfigDict):
        fields = sorted(flatten(config))
        raise UserError(f'config has no field "{path}"{suggest(path, fields)}')
    node[leaf] = convert(path, text, node[leaf])


def convert(path: str, text: str, old: Any) -> Any:
    """`text` as a value of `old`'s type; raises UserError naming the field."""
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, TypeError, SyntaxError):
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


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"optim.lr": .1, …} for every leaf."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat


def find(path: str) -> pathlib.Path:
    """The config file at `path`; names under `configs/` are also found in the installed package."""
    here = pathlib.Path(__file__).parent
    for candidate in (pathlib.Path(path), here / path, here.parent / path):
        if candidate.is_file():
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


def load(spec: str, overrides: Mapping[str, str] = {}) -> ConfigDict:
    """The resolved config of `path.py:arguments`, with overrides {"optim.lr": "0.1"} applied last.

    Raises:
      UserError: for a missing file, an unknown name or a value of the wrong type.
    """
    path, _, arguments = spec.partition(":")
    given = parse_arguments(arguments)
    for name in ("name", "preset"):
        if f"method.{name}" in overrides:
            given["method" if name == "name" else name] = overrides[f"method.{name}"]
    config = call(path, given)
    for field, text in overrides.items():
        assign(config, field, text)
    return config


def read(path: pathlib.Path) -> ConfigDict:
    """The resolved config that a run has written to `path`; raises UserError where that is not one."""
    try:
        return from_json(json.loads(path.read_text()))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as the config of a run ({error})") from None


def from_json(value: dict) -> ConfigDict:
    """A config from what JSON has made of its `to_dict()`."""
    return ConfigDict(_tuples(value))


def _tuples(value: Any) -> Any:
    """JSON has lists only; every sequence in a config is a tuple."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def check(config: ConfigDict) -> None:
    """Raises UserError for a number outside its range that no other part of the program looks at before training."""
    choose("data.select_on", config.data.select_on, ("given", "true"))
    choose("data.pipeline", config.data.pipeline, ("auto", "resident", "stream"))
    choose("data.on_bad_image", config.data.on_bad_image, ("fail", "skip"))
    choose("augment.meta", config.augment.meta, ("none", "weak", "all"))
    in_range("augment.view_area", config.augment.view_area, 1e-3, 1.0)
    choose("train.on_nonfinite", config.train.on_nonfinite, ("stop", "skip"))
    choose("parallel.mode", config.parallel.mode, ("jit", "pmap"))
    choose("parallel.sharding", config.parallel.sharding, ("replicated", "fsdp"))
    at_least_one = ("train.epochs", "train.eval_batch_size", "train.steps_per_call", "checkpoint.every")
    for field in (*at_least_one, "checkpoint.keep", "parallel.model", "parallel.shard_above"):
        in_range(field, flatten(config)[field], 1)
    in_range("checkpoint.every_steps", config.checkpoint.every_steps, 0)
    if config.parallel.model > 1 and config.parallel.sharding != "fsdp":
        raise UserError(f"parallel.model: {config.parallel.model} has nothing to do without parallel.sharding=fsdp")
    if config.parallel.mode == "pmap" and (config.parallel.sharding != "replicated" or config.parallel.split_banks):
        raise UserError("parallel.mode: pmap keeps the whole state on every device; sharding needs mode jit")
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in config.baselines):
        raise UserError(f"baselines: {config.baselines!r} is not a tuple of pairs (label, method)")
    for field in ("lr", "weight_decay", "clip"):
        in_range(f"optim.{field}", config.optim[field], 0.0)
    for field in ("momentum", "warm_up"):
        in_range(f"optim.{field}", config.optim[field], 0.0, 1.0)
    for share in config.optim.milestones:
        in_range("optim.milestones", share, 0.0, 1.0)


def differences(old: ConfigDict, new: ConfigDict) -> list[tuple[str, str]]:
    """(field, "field=value (was value)") for each field in which two configs differ."""
    before, after = flatten(base()) | flatten(old), flatten(new)  # fields newer than the old one: their defaults
    changed = [field for field in sorted(before.keys() | after.keys()) if before.get(field) != after.get(field)]
    return [(field, f"{field}={after.get(field)!r} (was {before.get(field)!r})") for field in changed]


def changes(config: ConfigDict, path: pathlib.Path) -> list[str]:
    """How `config` differs from the one written to `path`, as `differences` says it, in fields that are all `FREE`.

    Raises:
      UserError: naming the first field that a run cannot change on its way.
    """
    if not path.exists():
        return []
    old = read(path)
    changed = differences(old, config)
    for field, _ in changed:
        if not field.startswith(FREE):
            was, now = (flatten(either).get(field) for either in (old, config))
            raise UserError(
                f"{path.parent} holds a run with {field}={was!r}, not {now!r}: "
                "choose another --workdir, or leave out --config to go on with that run"
            )
    return [change for _, change in changed]
