"""Images a second of the resident and the streaming pipeline, and of a training step on each, in turns in one process.

    python benchmarks/input_rate.py --out benchmarks/results/input_rate.json

"input" reads, normalises and augments (crop by 4 pixels, flip, Cutout 8) batches of 100 images of 32x32x3 and does
nothing with them; "step" is a plain CE step on the same batches. "files" streams PNG files that the script writes to a
temporary folder. Rounds alternate between the pipelines, so that a busy machine slows them alike.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from kdmlc_jax import config, parallel, train
from kdmlc_jax.data import pipeline
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.images.files import ImageFiles
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.methods.base import Streams

SETTINGS = {
    "augment.pad": "4", "augment.flip": "true", "augment.cutout": "8", "teacher.net": "cnn16", "student.net": "cnn8",
    "devices": "1",
}  # fmt: skip


def dataset(images: Any, count: int) -> Dataset:
    """`count` noisy and 100 trusted images with random labels."""
    labels = np.random.default_rng(0).integers(0, 10, count + 100).astype(np.int32)
    parts = Splits(np.arange(count), np.arange(count, count + 100), np.zeros(0, np.int64))
    names, none = tuple("0123456789"), np.full_like(labels, -1)
    return Dataset(
        "random", names, images, labels, none, none, none, parts, None, labels[:0], None, None, np.arange(len(labels))
    )


def pictures(count: int) -> np.ndarray:
    """Smooth random images, which compress like photographs and unlike noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (count + 100, 8, 8, 3), np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def input_only(made: Any, how: Any) -> Callable[[int], None]:
    """A function that runs so many batches through one pipeline and the augmentation."""
    mesh = parallel.make_mesh(1)
    fixed = parallel.replicate(made.fixed, mesh)
    put = parallel.put_batch if made.per_step else parallel.replicate
    streams = Streams(noisy=100)
    compiled = parallel.compile_step(
        lambda fixed, feed, step: pipeline.make_batch(
            made.rows(fixed, feed, step % made.steps), fixed, jax.random.fold_in(jax.random.key(0), step), how
        )["image"].mean()
    )
    feeds = made.feeds(streams, 0, 1 << 20, lambda feed: put(feed, mesh))

    def run(steps: int) -> None:
        for step in range(steps):
            out = compiled(fixed, next(feeds), step)
        jax.block_until_ready(out)

    return run


def training(job: train.Experiment) -> Callable[[int], None]:
    """A function that trains so many steps of plain CE."""
    stage = job.method.stages[0]
    compiled, feeds = job.compile(stage), job.feeds(stage, 0, 1 << 20)
    held = [job.init()]

    def run(steps: int) -> None:
        for _ in range(steps):
            held[0], _ = compiled(held[0], job.fixed, next(feeds), job.key)
        jax.block_until_ready(held[0])

    return run


def main() -> None:
    """Times all in alternation and prints and writes the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100, help="of a round")
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    settings = config.load(
        "configs/digits.py:method=ce,train_on=noisy,network=student", {**SETTINGS, "train.batch_size": "100"}
    )
    array = pictures(flags.count)
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{row}.png" for row in range(len(array))]
        for path, image in zip(paths, array, strict=True):
            Image.fromarray(image).save(path)
        files = ImageFiles(paths, 0, 3, 1.0)
        cases = {}
        for name, images, how in (
            ("resident", array, "resident"),
            ("stream", array, "stream"),
            ("files", files, "stream"),
        ):
            data = dataset(images, flags.count)
            cases[f"input {name}"] = input_only(pipeline.choose(data, how, 0, flags.count // 100), settings.augment)
            settings.data.pipeline = how
            cases[f"step {name}"] = training(train.Experiment(settings, data))
        rates = timed(cases, flags.rounds, flags.steps)
    result = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "images_per_second": rates}
    ratio = result["step_stream_over_resident_seconds"] = rates["step resident"] / rates["step stream"]
    for name, rate in rates.items():
        print(f"{name:16s} {rate:10,.0f} images/s")
    print(f"a step takes {ratio:.3f} times as long on the stream as on the resident pipeline")
    if flags.out:
        flags.out.write_text(json.dumps(result, indent=2) + "\n")


def timed(cases: dict[str, Callable[[int], None]], rounds: int, steps: int) -> dict[str, float]:
    """Median images a second of each case; the first round compiles and is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, run in cases.items():
            start = time.perf_counter()
            run(steps)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: 100 * steps / statistics.median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
