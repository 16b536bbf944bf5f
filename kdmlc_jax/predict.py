"""Classifies images with a network that a run has left: one row an image, as CSV.

    python -m kdmlc_jax.predict --model runs/photos/student new/ *.jpg --out predictions.csv --top 3
    python -m kdmlc_jax.predict --model runs/heads/student features.npy

Takes image files, folders (all images below), manifests (.csv or .parquet with a column path) and arrays (.npy:
images or features), in their order; a few images are in memory at a time. Images are prepared as those the network was
trained on, which its folder says. A file that is no image has a row with the reason; it ends nothing.
"""

import csv
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from kdmlc_jax.cli import Parser, guarded
from kdmlc_jax.errors import UserError, in_range
from kdmlc_jax.storage import files

MEGAPIXELS = 100.0  # of one image, at most


def main(argv: list[str]) -> None:
    """Classifies what the command line names, and writes a row each."""
    parser = Parser("kdmlc_jax.predict", "Classify images with a network that a run has left.")
    parser.add_argument("--model", required=True, type=pathlib.Path, help="student/ or teacher/ of a finished run")
    parser.add_argument(
        "inputs", nargs="+", type=pathlib.Path, metavar="IMAGES", help="files, folders, manifests, .npy"
    )
    parser.add_argument("--out", type=pathlib.Path, help="CSV file (default: to the terminal)")
    parser.add_argument("--top", type=int, default=1, help="so many classes an image, most likely first (default: 1)")
    parser.add_argument("--threshold", type=float, default=0.0, help="no label where the most likely class is below it")
    parser.add_argument("--batch", type=int, default=64, help="images at once (default: 64)")
    flags = parser.parse_args(argv)
    in_range("--threshold", flags.threshold, 0.0, 1.0)
    in_range("--batch", flags.batch, 1, 65_536)

    import jax

    from kdmlc_jax import export

    about, output = export.open_network(flags.model)
    names = about["class_names"]
    in_range("--top", flags.top, 1, len(names))
    named = listed(flags.inputs)

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(jax.nn.softmax(output(images).logits))

    header = ["path", "label", "confidence"]
    header += [f"{word}_{place}" for place in range(2, flags.top + 1) for word in ("label", "confidence")]
    rows = Counted(predictions(named, about, predict, flags.batch), names, flags.top, flags.threshold)
    if flags.out:
        files.write_csv(flags.out, [*header, "error"], rows)
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*header, "error"])
        writer.writerows(rows)
    bad = f", {rows.bad} could not be read (column error)" if rows.bad else ""
    print(f"{rows.done} images{bad}{f', in {flags.out}' if flags.out else ''}", file=sys.stderr)


class Counted:
    """Rows of the table from (name, probabilities or reason), counted as they are made, with a line now and then."""

    def __init__(self, found: Iterator[tuple[str, Any]], names: Sequence[str], top: int, threshold: float):
        """Makes nothing yet."""
        self.found, self.names, self.top, self.threshold = found, names, top, threshold
        self.done = self.bad = 0

    def __iter__(self) -> Iterator[list[str]]:
        said = time.monotonic()
        for name, answer in self.found:
            if isinstance(answer, str):
                self.bad += 1
                yield [name, *[""] * (2 * self.top), answer]
                continue
            self.done += 1
            row = [name]
            for place, number in enumerate(np.argsort(-answer, kind="stable")[: self.top]):
                sure = answer[number] >= self.threshold or place > 0
                row += [self.names[number] if sure else "", f"{answer[number]:.6g}"]
            yield [*row, ""]
            if time.monotonic() - said > 5:
                said = time.monotonic()
                print(f"{self.done} images", file=sys.stderr, flush=True)


def listed(inputs: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The files that `inputs` name, in order: of a folder all images below it, of a manifest those of its rows.

    Raises:
      UserError: for what is not there, and a folder without images.
    """
    from kdmlc_jax.data.formats.extensions import is_image
    from kdmlc_jax.data.formats.manifest import COLUMNS
    from kdmlc_jax.data.formats.tables import read_table

    found: list[pathlib.Path] = []
    for path in inputs:
        if files.is_dir(path):
            inside = [file for file in files.below(path) if is_image(file.name)]
            if not inside:
                raise UserError(f"{path}: no images in this folder")
            found += inside
        elif not files.exists(path):
            raise UserError(f"{path}: no such file or folder")
        elif path.suffix.lower() in (".csv", ".parquet", ".tsv"):
            table = read_table(path, {"path": COLUMNS["path"]}, required=("path",)).columns
            found += [path.parent / text for text in table["path"]]
        else:
            found.append(path)
    return found


def predictions(
    paths: Sequence[pathlib.Path], about: dict, predict: Callable[[np.ndarray], np.ndarray], batch: int
) -> Iterator[tuple[str, Any]]:
    """(name, probabilities f32[C]), or (name, why there are none), in the order of `paths`."""
    waiting: list[tuple[str, Any]] = []

    def flush() -> Iterator[tuple[str, Any]]:
        images = [image for _, image in waiting if not isinstance(image, str)]
        answers = iter(())
        if images:  # calls of one size compile once
            rows = np.minimum(np.arange(batch), len(images) - 1)
            answers = iter(predict(np.stack([images[row] for row in rows]))[: len(images)])
        for name, image in waiting:
            yield name, image if isinstance(image, str) else next(answers)
        waiting.clear()

    for name, image in pictures(paths, about):
        waiting.append((name, image))
        if len(waiting) == batch:
            yield from flush()
    yield from flush()


def pictures(paths: Sequence[pathlib.Path], about: dict) -> Iterator[tuple[str, Any]]:
    """(name, pixels or features), or (name, why there are none)."""
    from kdmlc_jax import export
    from kdmlc_jax.arrays import load_array
    from kdmlc_jax.data.images.decode import BadImage, decode

    height, width, channels = about["image_shape"]
    scaled = about.get("resize") == "centre_square"
    for path in paths:
        if path.suffix.lower() == ".npy":
            for row, image in enumerate(export.as_trained(load_array(path), about)):
                yield f"{path}[{row}]", image
            continue
        if about.get("values") == "features":
            raise UserError(f"{path}: {about['net']} was trained on features, expected .npy of [rows, {channels}]")
        try:
            image = decode(path, height if scaled else 0, channels, MEGAPIXELS)
            if image.shape != (height, width, channels):
                raise BadImage(f"{image.shape[1]} x {image.shape[0]} pixels, expected {width} x {height}")
            yield str(path), image
        except BadImage as error:
            yield str(path), str(error)


if __name__ == "__main__":
    guarded(main)
