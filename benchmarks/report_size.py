"""Time, memory and size of a run's page: `python benchmarks/report_size.py --counts 1000 10000 100000 --out FILE.json`.

For each count a folder of so many JPEG files of 64 pixels in ten classes is made, a real run of one epoch of a small
network on it (its labels are not assessed), and then the report command is measured from outside, in a process of its
own: wall seconds from its start to its end, in which the images that it shows are read and checked again, peak resident
memory, bytes of report.html; `draw_seconds` is `report.page` alone, which is what the page costs at the end of a run.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

CLASSES, SIDE = 10, 64
CONFIG = "configs/folder.py:dir={dir},method=ce,train_on=noisy,network=student,student=mlp8"
CONFIG += ",epochs=1,trusted=500,held_out=0"
TIMED = """
import sys, time
from kdmlc_jax import report
from kdmlc_jax.report.__main__ import main
draw = report.page
def page(*given, **named):
    start = time.perf_counter()
    text = draw(*given, **named)
    print("drawn in", time.perf_counter() - start)
    return text
report.page = page
main(sys.argv[1:])
"""
FLAGS = ("noise.kind=uniform", "noise.rate=0.3", "train.batch_size=256", "baselines=()", "data.image_size=64")


def photographs(folder: pathlib.Path, count: int) -> None:
    """JPEG files folder/train/<class>/<number>.jpg of smooth noise, no two alike, the classes of different tints."""
    rng = np.random.default_rng(0)
    for number in range(count):
        label = number % CLASSES
        small = rng.integers(0, 128, (6, 6, 3)) + 12 * label
        path = folder / "train" / f"class {label}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path, quality=85)


def measured(words: list[str]) -> dict:
    """Wall seconds and peak MiB of a command, with what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with {status}:\n{said}")
    seconds, busy = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    figures = {"seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), "peak_mib": round(usage.ru_maxrss / 1024)}
    return figures | {"said": said}


def row(count: int, place: pathlib.Path) -> dict:
    """The figures of one count."""
    folder, workdir = place / f"photos{count}", place / f"run{count}"
    photographs(folder, count)
    run = [sys.executable, "-m", "kdmlc_jax.main", "--config", CONFIG.format(dir=folder), "--workdir", str(workdir)]
    trained = measured([*run, *(f"--config.{flag}" for flag in FLAGS)])
    page = measured([sys.executable, "-c", TIMED, "--workdir", str(workdir)])
    drawn = float(page["said"].partition("drawn in")[2].split()[0])
    figures = {name: page[name] for name in ("seconds", "cpu_seconds", "peak_mib")} | {"draw_seconds": round(drawn, 1)}
    size = (workdir / "report.html").stat().st_size
    return {"images": count, **figures, "page_mb": round(size / 1e6, 2), "run_seconds": trained["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/report_size.json"))
    flags = parser.parse_args()
    rows = []
    for count in flags.counts:
        with tempfile.TemporaryDirectory() as place:
            rows.append(row(count, pathlib.Path(place)))
        print(rows[-1], flush=True)
        result = {"cpus": os.cpu_count(), "side": SIDE, "classes": CLASSES, "rows": rows}
        flags.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
