"""A disk that is nearly full: every command at every fill level of a small tmpfs.

    python benchmarks/reliability/fill.py --out benchmarks/results/reliability_fill.json

Needs `unshare` of util-linux: the script starts itself again in a mount namespace of its own, where it may mount. Each
command writes to a tmpfs on which a filler leaves so many bytes, from none to more than the command needs, --step at a
time. It must end in one line and exit status 4, or have done all, and nothing half-written may lie under a final name:
whole checkpoints by their sums, no summary.json, no file that the command names. Then the filler is removed and the
same command is given again: it must leave what it leaves on an empty disk, and no temporary file.

    enough     done in the room that there was, and exact
    told       one line and exit status 4
    failed     anything else
    half       something half-written under a final name
    inexact    the second command left other files than on an empty disk, or did not end well
    left over  temporary files after the second command
"""

import collections
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import common
import small

from kdmlc_jax.storage import checksums

SIZE = 16 << 20  # of the disk
PAGE = 4096
GROWING = ("metrics.jsonl", "config.json", "features.json")  # they say how far a command has come
BAD = ("failed", "half", "inexact", "left over")


def namespace() -> None:
    """Starts this script again where it may mount, once."""
    if os.environ.get("IN_NAMESPACE"):
        return
    os.execvpe("unshare", ["unshare", "-rm", sys.executable, *sys.argv], {**os.environ, "IN_NAMESPACE": "1"})


def commands(ended: pathlib.Path, disk: pathlib.Path) -> dict[str, tuple[Callable, list[str]]]:
    """Program and words of each command that writes; all but the run read what one has left in `ended`."""
    from kdmlc_jax import apply, embed, main, predict
    from kdmlc_jax.compare import __main__ as comparing
    from kdmlc_jax.export import __main__ as exporting
    from kdmlc_jax.report import __main__ as reporting

    out, model = str(disk / "out"), str(ended / "student")
    spec = small.DATA.format(small.MLP, 2)
    cells = ["--config", spec, *small.flags(), "--methods", "ce:train_on=noisy", "--seeds", "0"]
    return {
        "run": (main.main, small.words("ce", disk / "run", 2)),
        "compare": (comparing.main, [*cells, "--workdir", str(disk / "cells")]),
        "report": (reporting.main, ["--workdir", str(ended), "--out", f"{out}.html"]),
        "apply": (apply.main, ["--workdir", str(ended), "--take", "suggested", "--out", f"{out}.csv"]),
        "predict": (predict.main, ["--model", model, str(ended.parent / "pixels.npy"), "--out", f"{out}.csv"]),
        "export": (exporting.main, ["--workdir", str(ended), "--to", "onnx,safetensors", "--out", out]),
        "embed": (embed.main, ["--config", spec, "--encoder", model, "--out", out]),
    }


def free(disk: pathlib.Path) -> int:
    """Bytes that are left."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def emptied(disk: pathlib.Path) -> None:
    """Removes all that lies there."""
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def half_written(disk: pathlib.Path, expected: dict[str, str]) -> list[str]:
    """What lies under a final name and is not whole: checkpoints by their sums, all other files by their digests."""
    found = [str(path.parent) for path in disk.glob("**/checkpoints/[0-9]*/arrays") if checksums.damage(path.parent)]
    there = small.outcome(disk)
    names = [name for name in there if "/." not in f"/{name}" and not name.endswith(GROWING)]
    return found + [name for name in names if name in expected and there[name] != expected[name]]


def temporary(disk: pathlib.Path) -> list[str]:
    """What is left of half-written files."""
    return [path.name for path in disk.rglob("*") if path.name.startswith((".", "writing-", "deleting-"))]


def level(command: tuple, disk: pathlib.Path, room: int, expected: dict[str, str]) -> dict:
    """One command with so many bytes left, and again with all of them; what came of it."""
    emptied(disk)
    filler = disk / "filler"
    with open(filler, "wb") as file:
        for _ in range((free(disk) - room) // PAGE):
            file.write(bytes(PAGE))
    answer = small.call(*command)
    filler.unlink()
    about = {"room": room, "code": answer.code, "said": common.scrub(answer.err[-300:], disk)}
    same = not common.differences(small.outcome(disk), expected)
    about["result"] = "told" if answer.clean and answer.code == 4 else "failed"
    if answer.code == 0:
        about["result"] = "enough" if same else "failed"
    about["half"] = half_written(disk, expected) if answer.code else []
    if answer.code:
        again = small.call(*command)
        differs = common.differences(small.outcome(disk), expected) if again.code == 0 else [again.err[-300:]]
        about["inexact"] = differs[:5]
    about["left over"] = temporary(disk)
    return about


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All commands, all levels; the counts, and each level that ended badly."""
    import numpy as np

    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], check=True)
    np.save(folder / "pixels.npy", np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1)).astype(np.uint8))
    counts, bad = collections.Counter({"levels": 0, "enough": 0, "told": 0, **dict.fromkeys(BAD, 0)}), []
    with small.remembering():
        ended = folder / "ended"
        shutil.rmtree(ended, ignore_errors=True)
        from kdmlc_jax import main

        if (answer := small.call(main.main, small.words("ce", ended, 2))).code:
            raise SystemExit(answer.err)
        for name, command in commands(ended, disk).items():
            if flags.only and name not in flags.only.split(","):
                continue
            emptied(disk)
            if (answer := small.call(*command)).code:
                raise SystemExit(f"{name} on an empty disk: {answer.err}")
            expected, needed, room, enough = small.outcome(disk), SIZE - free(disk), 0, 0
            step = max(PAGE, min(flags.step << 10, needed // 10 // PAGE * PAGE))
            while enough < 2 and room < SIZE:
                about = level(command, disk, room, expected)
                counts["levels"] += 1
                counts[about["result"]] += 1
                counts[f"{name}: {about['result']}"] += 1
                for kind in ("half", "inexact", "left over"):
                    counts[kind] += bool(about.get(kind))
                if about["result"] == "failed" or any(about.get(kind) for kind in ("half", "inexact", "left over")):
                    bad.append({"command": name, **about})
                    print(bad[-1], file=sys.stderr, flush=True)
                enough = enough + 1 if about["result"] == "enough" else 0
                room += step
            print(name, needed, step, dict(counts), file=sys.stderr, flush=True)
    return dict(counts), bad


if __name__ == "__main__":
    namespace()
    report = common.Report(__doc__, step=(32, "KiB between two levels, or a tenth of what the command needs"))
    report.parser.add_argument("--only", default="", help="commands, with commas (default: all)")
    report.run(run, "bad")
