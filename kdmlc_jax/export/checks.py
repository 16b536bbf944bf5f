"""Exported files read back in a fresh process without our package, and held to our own answers."""

import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from kdmlc_jax import nets, published
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.export import reader
from kdmlc_jax.export.deployed import Deployed
from kdmlc_jax.export.formats import onnx

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
    arrays: dict[str, Any] = {**published.arrays(network.about["net"], network.variables)}
    np.savez(path, **arrays)


def read_back(kind: str, path: pathlib.Path, answers: pathlib.Path, close: float = CLOSE) -> Check:
    """What `reader.py` says of the file at `path`, in a process of its own that imports nothing of ours.

    Raises:
      StorageError: where it cannot read the file, or its answers are more than `close` from ours.
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
    if said["difference"] is None or not said["difference"] <= close:  # NaN is not close
        far = "other arrays" if said["difference"] is None else f"{said['difference']:.2g} from ours"
        raise StorageError(f"{path.name}: {kind} reads {far}, expected at most {close:g}; nothing is exported")
    return Check(f"{kind} {said['version']}", said["difference"], said["milliseconds"])


def checked(form: ModuleType, network: Deployed, folder: pathlib.Path, answers: pathlib.Path) -> str:
    """Reads what `form` has written in `folder` back, by all readers that are installed; in words.

    Raises:
      StorageError: as `read_back`.
    """
    if not is_installed(form.READER):
        return f'not checked: {form.READER} is not installed (pip install "kdmlc-jax[{form.EXTRA}]")'
    if form.READER != "numpy":
        found = read_back(form.READER, folder / form.FILE, answers, getattr(form, "CLOSE", CLOSE))
        return f"{in_words(found)}, {found.milliseconds:.2f} ms an image"
    arrays = answers.with_name("arrays.npz")
    expected_arrays(network, arrays)
    line = in_words(read_back("numpy", folder / form.FILE, arrays))
    if nets.timm(network.about["net"]) is None:
        return f"{line}, arrays by our own names (timm has no {network.about['net']})"
    if not is_installed("timm"):
        return f"{line}, arrays by timm's names; not checked in timm, which is not installed"
    return f"{line}; {in_words(read_back('timm', folder, answers))}"


def in_words(found: Check) -> str:
    """'read back by onnxruntime 1.20, 1.2e-07 from ours'."""
    return f"read back by {found.reader}, {found.difference:.1e} from ours"


def compared(networks: dict[str, Deployed], folder: pathlib.Path) -> str:
    """Weights and the time of a single image of each network, one line each, all by the same program."""
    times = _times(networks, folder)
    program = times.pop("program")
    lines = [f"{'network':10}{'weights':>12}{'ms an image':>14}   ({program}, one image at once)"]
    lines += [f"{name:10}{each.parameters:12,}{times[name]:14.3f}" for name, each in networks.items()]
    return "\n".join(lines)


def _times(networks: dict[str, Deployed], folder: pathlib.Path) -> dict[str, Any]:
    """Milliseconds by network, and the `program`: onnxruntime where it takes them all, else ours."""
    if is_installed(onnx.READER):
        try:
            found = {name: _by_onnx(each, folder) for name, each in networks.items()}
            return {name: each.milliseconds for name, each in found.items()} | {
                "program": next(iter(found.values())).reader
            }
        except UserError:  # a network that ONNX lacks words for
            pass
    return {name: _by_jax(each) for name, each in networks.items()} | {"program": f"jax {jax.__version__}"}


def _by_onnx(network: Deployed, folder: pathlib.Path) -> Check:
    path, answers = folder / onnx.FILE, folder / "timed.npz"
    path.write_bytes(onnx.encode(network)[onnx.FILE])
    expected(network, answers)
    return read_back(onnx.READER, path, answers)


def _by_jax(network: Deployed) -> float:
    call, image, times = jax.jit(network.probabilities), network.examples(1), []
    for _ in range(31):
        began = time.perf_counter()
        call(image).block_until_ready()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])
