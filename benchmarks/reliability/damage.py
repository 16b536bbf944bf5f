"""Damages checkpoints at random and restores them: is it noticed, and what would plain Orbax have restored?

    python benchmarks/reliability/damage.py --trials 400 --out benchmarks/results/reliability_damage.json

A tiny run leaves its newest checkpoints. Each trial copies them and harms one file of the newest, chosen uniformly
over all of its files (arrays, Orbax' metadata, progress.json, SHA256SUMS), in every fourth trial by size, as a disk
would: one random bit is flipped (six trials in ten), the file is cut to a random shorter length (three in ten),
deleted, or an extra file is laid beside it. Then `storage.checkpoint.Checkpoints` restores. Counted:

    detected         reported, and the step before was restored, equal to the bit to what was saved
    harmless         not reported, and the newest was restored, equal to the bit to what was saved
    silently wrong   anything else was restored
    crashed          nothing was restored

The same damage is given to Orbax alone, where the file is one of Orbax' own: raised, restored as it was saved, or
silently wrong; there the host's progress and the sums do not take part.
"""

import collections
import pathlib
import shutil
import traceback
from typing import Any

import common
import numpy as np
import orbax.checkpoint as ocp

from kdmlc_jax import train
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.storage import checkpoint
from kdmlc_jax.storage.checkpoint import Checkpoints
from kdmlc_jax.train_state import named_leaves

HARMS = {"flip": 0.6, "truncate": 0.3, "delete": 0.05, "add": 0.05}


def harm(folder: pathlib.Path, by_size: bool, rng: np.random.Generator) -> dict[str, Any]:
    """Damages one file in `folder`; how."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = np.array([path.stat().st_size for path in paths])
    path = paths[rng.choice(len(paths), p=sizes / sizes.sum() if by_size else None)]
    kind = str(rng.choice(list(HARMS), p=list(HARMS.values())))
    data = bytearray(path.read_bytes())
    about = {"harm": kind, "file": str(path.relative_to(folder)), "bytes": len(data)}
    if kind == "delete" or (kind != "add" and not data):
        path.unlink()
        return about | {"harm": "delete"}
    if kind == "add":
        path.with_name("extra").write_bytes(data)
        return about
    at = int(rng.integers(len(data)))
    if kind == "truncate":
        path.write_bytes(data[:at])
        return about | {"length": at}
    bit = int(rng.integers(8))
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return about | {"byte": at, "bit": bit}


def ours(folder: pathlib.Path, like: Any, newest: dict, before: dict) -> tuple[str, str]:
    """What `Checkpoints` makes of `folder`, and what it or the error said."""
    said: list[str] = []
    try:
        checkpoints = Checkpoints(folder, 2, said.append)
        state, progress = checkpoints.restore(like)
        checkpoints.close()
        found = common.digests(named_leaves(state), progress)
    except Exception:
        return "crashed", common.scrub(traceback.format_exc(), folder)
    if said:
        return "detected" if found == before else "silently wrong", common.scrub(said[0], folder)
    return "harmless" if found == newest else "silently wrong", ""


def orbax_alone(folder: pathlib.Path, like: Any, newest: dict) -> tuple[str, str]:
    """What Orbax makes of the arrays in `folder`, and what the error said."""
    leaves = named_leaves(like)
    abstract = {name: ocp.utils.to_shape_dtype_struct(leaf) for name, leaf in leaves.items()}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(folder / checkpoint.ARRAYS, abstract)
        found = common.digests(arrays, {})
    except Exception as error:
        return "raised", common.scrub(f"{type(error).__name__}: {error}", folder)[:200]
    wrong = [name for name in leaves if found[name] != newest[name]]
    return ("silently wrong", ", ".join(wrong)) if wrong else ("as saved", "")


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All trials; the counts, and what happened in each."""
    config = common.tiny("epochs=3", {"checkpoint.keep": 2})
    train.run(config, folder / "run", quiet=True)
    saved, trial = folder / "run" / "checkpoints", folder / "trial"
    before, newest = common.steps(folder / "run")[-2:]
    like = train.Experiment(config, prepare(config)).init()
    expected = [common.saved(saved / str(step)) for step in (newest, before)]
    counts: collections.Counter = collections.Counter()
    for name in ("detected", "harmless", "silently wrong", "crashed"):
        counts[name] = 0
    rng, trials = np.random.default_rng(flags.seed), []
    for number in range(flags.trials):
        for step in (before, newest):
            shutil.copytree(saved / str(step), trial / str(step))
        by_size = number % 4 == 3
        chosen = "by size" if by_size else "uniformly"
        about = {"chosen": chosen, **harm(trial / str(newest), by_size, rng)}
        if about["file"].startswith(checkpoint.ARRAYS):
            about["orbax"], about["orbax said"] = orbax_alone(trial / str(newest), like, expected[0])
            counts[f"orbax alone, file chosen {chosen}: {about['orbax']}"] += 1
        about["result"], said = ours(trial, like, *expected)
        if about["result"] != "detected":
            about["said"] = said
        counts[about["result"]] += 1
        counts[f"trials: {about['harm']}"] += 1
        trials.append({"trial": number, **about})
        shutil.rmtree(trial)
    return dict(counts), trials


if __name__ == "__main__":
    report = common.Report(__doc__, trials=(400, "how many"))
    report.run(run, "trials")
