"""Features of a data set's images by any encoder: a folder that a run can learn from, or judge its labels by.

    python -m kdmlc_jax.embed --config configs/folder.py:dir=photos --encoder dinov2.onnx --out features/photos

Takes the same --config and overrides as a run. What it leaves is read by `data.source=features`
(`configs/features.py:dir=features/photos`), and by a run on the images themselves
(`--config.data.features=features/photos/features.npy`), where rows are found by their images' names.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kdmlc_jax import config as config_lib
from kdmlc_jax.cli import Parser, guarded, parse
from kdmlc_jax.errors import UserError, in_range, unreadable
from kdmlc_jax.storage import checksums, door, files

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that most published encoders expect


def main(argv: list[str]) -> None:
    """Encodes the training and test images; goes on where it was cut."""
    parser = Parser("kdmlc_jax.embed", "Write the features that an encoder has of a data set's images.")
    parser.add_argument("--config", default="configs/digits.py", metavar="FILE.py[:a=1]", help="as for a run")
    parser.add_argument("--encoder", required=True, type=pathlib.Path, help=".onnx file, weights, or student/ of a run")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for the features")
    parser.add_argument("--size", type=int, default=0, help="of a file: side of the images (default: its own, or 224)")
    parser.add_argument("--mean", type=_numbers, default=IMAGENET[0], help="ONNX: by channel (default: ImageNet's)")
    parser.add_argument("--std", type=_numbers, default=IMAGENET[1], help="ONNX: by channel (default: ImageNet's)")
    parser.add_argument("--batch", type=int, default=64, help="images at once")
    flags, overrides = parse(parser, argv)
    in_range("--batch", flags.batch, 1)
    in_range("--size", flags.size, 0, 1024)
    config = config_lib.load(flags.config, overrides)
    config_lib.check(config)

    from kdmlc_jax import encoders
    from kdmlc_jax.data import sources

    encoder = encoders.load(flags.encoder, flags.size, flags.mean, flags.std)
    if encoder.side and not config.data.image_size:  # scaled once, from the whole image
        config.data.image_size = encoder.side
    source = sources.load(config.data)
    if source.train.images.dtype != np.uint8:
        raise UserError(f"{source.name}: has features already, expected images")
    print(f"{flags.encoder}: {encoder.about}", file=sys.stderr)
    parts = {"features": source.train.images} | ({"test_features": source.test.images} if source.test else {})
    key = _key(config, flags, source)
    with files.locked(flags.out):
        (flags.out / checksums.SUMS).unlink(missing_ok=True)  # of what was there
        for name, images in parts.items():
            embed(encoder.encode, images, flags.out / f"{name}.npy", flags.batch, key)
        write_rest(source, flags.out)
        kept = [path for path in files.listed(flags.out) if path.suffix in (".npy", ".txt")]
        sums = "".join(f"{checksums.file_sum(path)}  {path.name}\n" for path in kept)
        files.write_text(flags.out / checksums.SUMS, sums)
    print(f"features of {len(source.train.images)} images in {flags.out}/")


def _numbers(text: str) -> tuple[float, ...]:
    """Three numbers, separated by commas."""
    values = tuple(float(word) for word in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"{text}: {len(values)} numbers, expected 3, such as 0.5,0.5,0.5")
    return values


def _key(config: Any, flags: argparse.Namespace, source: Any) -> str:
    """A digest of what features depend on: encoder, scaling, and the images' names."""
    digest = hashlib.sha256()
    for file in [flags.encoder] if files.is_file(flags.encoder) else sorted(flags.encoder.iterdir()):
        with door.opened(file) as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    told: list = [flags.size, list(flags.mean), list(flags.std), config.data.source, config.data.dir]
    for part in filter(None, (source.train, source.test)):
        told += [list(part.images.shape), None if part.ids is None else [str(name) for name in part.ids]]
    digest.update(json.dumps(told).encode())
    return digest.hexdigest()


def embed(encode: Callable, images: Any, path: pathlib.Path, batch: int, key: str) -> None:
    """Writes the features of all images as f32[N, D] to `path`, of which no more than a batch is in memory.

    They grow in `<name>.part.npy`, which is renamed to `path` at the end; `<name>.json` says how many there are and of
    what (`key`): the same call goes on there, another one starts afresh.

    Raises:
      UserError: naming the first image whose features are not finite.
    """
    count, part, state = len(images), path.with_suffix(".part.npy"), path.with_suffix(".json")
    files.make_directory(path.parent)
    done = begun(state, key)
    if done == count and files.exists(path) and not files.exists(part):
        print(f"{path.stem}  finished before", file=sys.stderr)
        return
    began = time.monotonic()
    # Not a memory map: where a disk is full, that ends the process by a signal.
    with files.writing(part), part.open("r+b" if done and files.exists(part) else "w+b") as file:
        done = before = goes_on(file, done)
        while done < count:
            rows = np.minimum(np.arange(done, done + batch), count - 1)  # calls of one size compile once
            kept = min(batch, count - done)
            features = encode(images[rows])[:kept].astype("<f4")
            bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
            if bad.size:
                raise UserError(f"{path.name} row {done + bad[0]}: the encoder gives NaN or infinity for this image")
            if done == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, features.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(features.tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += kept
            files.write_json(state, {"key": key, "done": done})
            if done == count or (done // batch) % 10 == 0:
                left = (time.monotonic() - began) / (done - before) * (count - done)
                print(f"{path.stem}  {done} of {count}  {left:.0f} s left", file=sys.stderr, flush=True)
    part.replace(path)


def goes_on(file: Any, done: int) -> int:
    """Goes behind the first `done` rows of a growing .npy and returns `done`; 0 where they are not all there."""
    try:
        np.lib.format.read_magic(file)
        (_, width), _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        done, at = 0, 0
    else:
        at = file.tell() + done * width * dtype.itemsize
        if file.seek(0, os.SEEK_END) < at:
            done, at = 0, 0
    file.truncate(at)
    file.seek(at)
    return done


def begun(state: pathlib.Path, key: str) -> int:
    """How many features of `key` are there already; raises StorageError where that cannot be read."""
    if not files.exists(state):
        return 0
    try:
        said = json.loads(door.read_text(state))
        return int(said["done"]) if said["key"] == key else 0
    except (ValueError, TypeError, KeyError):
        return 0
    except OSError as error:
        raise unreadable(error, state) from error


def write_rest(source: Any, out: pathlib.Path) -> None:
    """What a run on these features needs beside them: labels, hidden truth, trusted rows, classes and names.

    What the source does not have is removed, so that none of another data set's is left beside these features.
    """
    train = source.train
    labels = train.labels if train.truth is None else np.where(train.labels >= 0, train.labels, train.truth)
    arrays = {"labels": labels, "true_labels": train.truth, "trusted": source.trusted}
    arrays["test_labels"] = source.test and source.test.labels
    for name, array in arrays.items():
        if array is None:
            (out / f"{name}.npy").unlink(missing_ok=True)
            continue
        with files.atomic_write(out / f"{name}.npy") as file:
            np.save(file, np.asarray(array))
    names = {"classes": source.class_names, "ids": train.ids, "test_ids": source.test and source.test.ids}
    for name, lines in names.items():
        if lines is None:
            (out / f"{name}.txt").unlink(missing_ok=True)
            continue
        files.write_text(out / f"{name}.txt", "".join(f"{line}\n" for line in lines))
    if source.test is None:
        (out / "test_features.npy").unlink(missing_ok=True)


if __name__ == "__main__":
    guarded(main)
