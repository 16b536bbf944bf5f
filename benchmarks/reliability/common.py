"""What the reliability scripts share: the tiny run, digests of what a run leaves behind, the file of results."""

import argparse
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from kdmlc_jax import config as config_lib
from kdmlc_jax import parallel
from kdmlc_jax.storage import checkpoint, checksums

# Two networks, two stages (an epoch of warm-up comes first), a validation split, five steps an epoch.
SPEC = "configs/digits.py:teacher=cnn3,student=cnn2,noisy=200,validation=20"
FIELDS = {
    "devices": "1",
    "baselines": "()",
    "checkpoint.every": "1",
    "train.batch_size": "40",
    "train.trusted_batch_size": "40",
}
STEPS = 5
FILES = ("student/weights.msgpack", "labels.csv", "metrics.jsonl")
CLOCK = ("seconds", "images_per_second")  # what a run says of itself that no other repeats


def tiny(arguments: str, fields: Mapping[str, Any]) -> Any:
    """The config of the tiny run, with more arguments in its name and more fields."""
    return config_lib.load(f"{SPEC},{arguments}", {**FIELDS, **{name: str(value) for name, value in fields.items()}})


def sha(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digests(leaves: Mapping[str, Any], progress: dict) -> dict[str, str]:
    """A digest of each of the named arrays and of the host's progress without its clock; all processes call this."""
    found = {
        name: sha(f"{leaf.dtype}{leaf.shape}".encode() + np.ascontiguousarray(parallel.fetch(leaf)).tobytes())
        for name, leaf in leaves.items()
    }
    kept = {name: value for name, value in progress.items() if name not in CLOCK}
    return found | {checkpoint.PROGRESS: sha(json.dumps(kept, sort_keys=True).encode())}


def saved(folder: pathlib.Path) -> dict[str, str]:
    """`digests` of the checkpoint in `folder`, read by Orbax into the shapes that are written beside it."""
    if wrong := checksums.damage(folder):
        raise ValueError(f"{folder}: {wrong}")
    about = json.loads((folder / checkpoint.PROGRESS).read_text())
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {name: jax.ShapeDtypeStruct(size, kind, sharding=where) for name, (kind, *size) in about["leaves"].items()}
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(folder.absolute() / checkpoint.ARRAYS, like)
    return digests(arrays, about["progress"])


def steps(workdir: pathlib.Path) -> list[int]:
    """The steps that lie whole below `workdir`, oldest first."""
    return checkpoint.saved_steps(workdir / "checkpoints")


def outcome(workdir: pathlib.Path) -> dict[str, str]:
    """A digest of everything that a finished run must repeat: its tables, its network, its last checkpoint."""
    last = steps(workdir)[-1]
    found = {name: sha((workdir / name).read_bytes()) for name in FILES}
    return found | {"last step": str(last)} | saved(workdir / "checkpoints" / str(last))


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names whose digests differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def scrub(text: str, *folders: pathlib.Path) -> str:
    """`text` without the places of this machine: the folders given, the program's, Python's."""
    for folder in (*folders, pathlib.Path(__file__).parents[2], sys.prefix, sys.base_prefix):
        text = text.replace(f"{folder}/", "")
    return text


def lines(value: Any) -> str:
    """JSON with a line for each element of a list."""
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n]"
    return json.dumps(value)


class Report:
    """The flags that all scripts share, and the file of results."""

    def __init__(self, text: str, **counts: tuple[int, str]):
        parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        for name, (number, about) in counts.items():
            parser.add_argument(f"--{name}", type=int, default=number, help=f"{about} (default: {number})")
        parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")
        parser.add_argument("--out", type=pathlib.Path, help="JSON file of the results")
        parser.add_argument("--folder", type=pathlib.Path, help="where runs go; kept (default: a temporary folder)")
        self.parser, self.began = parser, time.monotonic()

    def run(self, what: Callable[[Any, pathlib.Path], tuple[dict, list[dict]]], name: str, **details: Any) -> None:
        """Calls `what` with the flags and a folder for its runs, and writes its counts and, as `name`, its list."""
        flags = self.parser.parse_args()
        with tempfile.TemporaryDirectory() as temporary:
            folder = (flags.folder or pathlib.Path(temporary)).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            counts, found = what(flags, folder)
        self.write(flags, counts, **details, **{name: found})

    def write(self, flags: argparse.Namespace, counts: dict, **details: Any) -> None:
        """Prints the counts and writes them with all that is needed to repeat them."""
        packages = ("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy")
        result = {
            **counts,
            "seconds": round(time.monotonic() - self.began, 1),
            "flags": {name: value for name, value in vars(flags).items() if name not in ("out", "folder")},
            "config": SPEC,
            "fields": FIELDS,
            "versions": {name: importlib.metadata.version(name) for name in packages}
            | {"python": platform.python_version()},
            **details,
        }
        print(json.dumps(counts, indent=2))
        if flags.out:
            flags.out.write_text("{\n" + ",\n".join(f'"{name}": {lines(result[name])}' for name in result) + "\n}\n")
