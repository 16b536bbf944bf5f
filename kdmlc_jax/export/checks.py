"""Exported files read back in a fresh process without our package, and held to our own answers."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import numpy as np

from kdmlc_jax import published
from kdmlc_jax.errors import StorageError
from kdmlc_jax.export import reader
from kdmlc_jax.export.deployed import Deployed

CLOSE = 1e-5  # at most so far from ours
IMAGES = 8
SECONDS = 600  # for a reader


class Check(NamedTuple):
    """What a reader found."""

    reader: str  # "onnxruntime 1.20"
    difference: float
    milliseconds: float | None  # of a single input; of weights alone there is none


def is_installed(module: str) -> bool:
    """Whether the interpreter finds `module`."""
    return importlib.util.find_spec(module) is not None


def expected(network: Deployed, path: pathlib.Path) -> None:
    """Writes inputs and what we answer to them, on the CPU, whose arithmetic is that of the readers."""
    inputs = network.examples(IMAGES)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        ours = np.asarray(jax.jit(network.probabilities)(inputs))
    np.savez(path, inputs=inputs, probabilities=ours)


def expected_arrays(network: Deployed, path: pathlib.Path) -> None:
    """Writes the arrays of a network by their published names."""
    np.savez(path, **published.arrays(network.about["net"], network.variables))


def read_back(kind: str, path: pathlib.Path, answers: pathlib.Path) -> Check:
    """What `reader.py` says of the file at `path`, in a process of its own that imports nothing of ours.

    Raises:
      StorageError: where it cannot read the file, or its answers are more than CLOSE from ours.
    """
    command = [sys.executable, "-I", str(reader.__file__), kind, str(path), str(answers)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise StorageError(f"{path.name}: {kind} has not answered in {SECONDS} s; nothing is exported") from None
    if done.returncode:
        reason = next(iter(reversed(done.stderr.strip().splitlines())), f"status {done.returncode}")
        raise StorageError(f"{path.name}: {kind} cannot read it ({reason}); nothing is exported")
    said = json.loads(done.stdout.splitlines()[-1])
    if said["difference"] is None or not said["difference"] <= CLOSE:  # NaN is not close
        far = "other arrays" if said["difference"] is None else f"{said['difference']:.2g} from ours"
        raise StorageError(f"{path.name}: {kind} reads {far}, expected at most {CLOSE:g}; nothing is exported")
    return Check(f"{kind} {said['version']}", said["difference"], said["milliseconds"])
