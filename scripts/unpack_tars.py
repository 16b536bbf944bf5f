"""Unpacks WebDataset archives into a folder of images with a manifest that training reads.

    python scripts/unpack_tars.py --out photos shards/train-000000.tar shards/test-000000.tar

An image and its label (`key.jpg`, `key.cls`) become `photos/<archive>/key.jpg` and a line of `photos/labels.csv`, whose
column split is what the archive's name says before its number. Only regular files are read, and nothing is overwritten.
"""

import argparse
import csv
import pathlib
import re
import sys
import tarfile
from typing import NoReturn

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
LABELS = ("cls", "cls.txt", "label", "label.txt")
MOST = 1 << 28  # bytes of a member


def fail(message: str) -> NoReturn:
    """Ends the program as the package's own commands do."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def unpack(archive: pathlib.Path, out: pathlib.Path) -> list[tuple[str, str, str]]:
    """Writes the images of an archive; (path below `out`, label, split) of each."""
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    with tarfile.open(archive) as members:
        for member in members:
            key, _, kind = member.name.rpartition("/")[2].partition(".")
            key = f"{member.name.rpartition('/')[0]}/{key}".strip("/").replace("/", "_")
            if not member.isreg() or kind.lower() not in (*IMAGES, *LABELS) or not key.strip("."):
                continue
            content = members.extractfile(member)
            if content is None or member.size > MOST:
                fail(f"{archive}: member {member.name[:80]!r} is no file of at most {MOST} bytes")
            if kind.lower() in LABELS:
                labels[key] = content.read(256).decode().strip()
                continue
            path = out / archive.stem / f"{key}.{kind.lower()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content.read())
            images[key] = path.relative_to(out).as_posix()
    if missing := sorted(images.keys() - labels.keys()):
        fail(f"{archive}: {len(missing)} images have no label ({' or '.join(LABELS)}), first {missing[0]}")
    split = re.sub(r"[-_.]?\d+$", "", archive.stem)
    return [(path, labels[key], split) for key, path in images.items()]


def main(argv: list[str]) -> None:
    """Runs the program on the words of its command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder that receives images and labels.csv")
    parser.add_argument("archives", nargs="+", type=pathlib.Path)
    flags = parser.parse_args(argv)
    try:
        rows = [row for archive in flags.archives for row in unpack(archive, flags.out)]
        with (flags.out / "labels.csv").open("x", newline="") as file:
            csv.writer(file).writerows([("path", "label", "split"), *rows])
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        fail(" ".join(str(error).split()))
    print(f"{len(rows)} images; train with configs/folder.py:dir={flags.out},manifest=labels.csv")


if __name__ == "__main__":
    main(sys.argv[1:])
