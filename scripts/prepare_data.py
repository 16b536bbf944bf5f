"""Prepares a stock set of TensorFlow Datasets in a format that training reads without TensorFlow.

    python scripts/prepare_data.py --name cifar10 --out ~/tensorflow_datasets

Downloads the set, so it needs the network, and TensorFlow: `pip install "kdmlc-jax[prepare]"`. The last line it
prints is the value of data.dir for data.source=tfds.
"""

import argparse
import importlib.util
import pathlib
import sys
from typing import NoReturn

FORMATS = ("array_record", "parquet")


def parse(argv: list[str]) -> argparse.Namespace:
    """The flags; ends the program on a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="name in the catalogue, e.g. cifar10 or imagenet_resized/64x64")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder that receives NAME/VERSION")
    parser.add_argument("--format", default=FORMATS[0], choices=FORMATS, help="default: %(default)s")
    return parser.parse_args(argv)


def prepare(name: str, out: pathlib.Path, file_format: str) -> pathlib.Path:
    """Downloads and writes the set; returns the folder of the version."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(out.expanduser()), file_format=file_format)
    except ValueError as error:  # no such set, or the folder holds this version in another format
        fail(f"{name}: {next(iter(str(error).splitlines()), 'no such set')}")
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


def fail(message: str) -> NoReturn:
    """Ends the program as the package's own commands do."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main(argv: list[str]) -> None:
    """Runs the program on the words of its command line."""
    flags = parse(argv)
    if importlib.util.find_spec("tensorflow") is None:
        fail('TensorFlow is not installed, and preparing needs it: pip install "kdmlc-jax[prepare]"')
    print(prepare(flags.name, flags.out, flags.format))


if __name__ == "__main__":
    main(sys.argv[1:])
