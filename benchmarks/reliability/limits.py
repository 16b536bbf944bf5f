"""Small files that claim much, and files that never end: what each reader answers, in which time and memory.

    python benchmarks/reliability/limits.py --out benchmarks/results/reliability_limits.json

Each input is made, and read in a process of its own, a fork of this one in which the readers are imported. Written down
are the bytes of the file, the one line that is the answer, the seconds of processor time until then (which other work
does not stretch), and how far the memory of that process rose (its peak less what it began with). A process that has
not answered after --limit seconds is ended: `unanswered`; `traceback` is any other end.
"""

import io
import multiprocessing
import os
import pathlib
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable

import common
import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from kdmlc_jax import config as config_lib
from kdmlc_jax import finished
from kdmlc_jax.arrays import load_array
from kdmlc_jax.config import fields
from kdmlc_jax.data import provenance
from kdmlc_jax.data.formats import manifest, pickles
from kdmlc_jax.data.formats.safetensors import read_safetensors
from kdmlc_jax.data.formats.torch_weights import read_weights
from kdmlc_jax.data.images.decode import BadImage, decode
from kdmlc_jax.data.images.files import ImageFiles, survey
from kdmlc_jax.data.noise.matrix import read_matrix
from kdmlc_jax.data.sources import _idx
from kdmlc_jax.errors import UserError

MEGAPIXELS = 100.0  # data.max_megapixels as it comes


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, kind: int = 0) -> bytes:
    """A PNG file of zeros, packed a piece at a time."""
    packer, row = zlib.compressobj(9), bytes(1 + width * bits // 8)
    body = b"".join(packer.compress(row * 50) for _ in range(height // 50)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg(scans: int) -> bytes:
    """A progressive JPEG of 2000 x 2000 pixels, its last scan repeated."""
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(file, "JPEG", progressive=True)
    raw = file.getvalue()
    return raw[:-2] + raw[raw.rindex(b"\xff\xda") : -2] * scans + raw[-2:]


def tiff(tile: int) -> bytes:
    """A grey TIFF of 16 x 16 pixels in one tile of `tile` x `tile`."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 150, 325: 10}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(160, b"\0")


def gif(frames: int) -> bytes:
    """An animation."""
    file = io.BytesIO()
    images = [Image.new("L", (500, 500), k % 251) for k in range(frames)]
    images[0].save(file, "GIF", save_all=True, append_images=images[1:])
    return file.getvalue()


def keyed(key: bytes) -> bytes:
    """A pickled dict of one key."""
    return b"\x80\x02}" + key + b"K\x00s."


def colliding(count: int) -> bytes:
    """A pickled dict of whole numbers that have one hash."""
    keys = b"".join(b"\x8a\x0b" + (n * (2**61 - 1)).to_bytes(11, "little") + b"N" for n in range(1, count))
    return b"\x80\x02}(" + keys + b"u."


def npz(count: int) -> bytes:
    """A packed archive of zeros."""
    file = io.BytesIO()
    np.savez_compressed(file, given_labels=np.zeros(count, np.int32))
    return file.getvalue()


def table(columns: dict, **options) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def torch(size: int) -> bytes:
    """A PyTorch archive whose pickle is zeros, packed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(size))
        archive.writestr("a/data/0", b"")
    return file.getvalue()


def array(head: str) -> bytes:
    """A .npy file of that header and nothing else."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()


def idx(path: pathlib.Path) -> None:
    """Makes a packed IDX file of two images, and a gibibyte of zeros after them."""
    packer, head = zlib.compressobj(9, zlib.DEFLATED, 31), struct.pack(">4I", 0x803, 2, 2, 2)
    pieces = [packer.compress(head), *(packer.compress(bytes(1 << 20)) for _ in range(1 << 10)), packer.flush()]
    path.write_bytes(b"".join(pieces))


def sized(length: int) -> Callable[[pathlib.Path], None]:
    """Makes a file of so many bytes that take no room."""

    def make(path: pathlib.Path) -> None:
        path.touch()
        os.truncate(path, length)

    return make


def device(path: pathlib.Path) -> None:
    """A link to a file that never ends."""
    path.symlink_to("/dev/zero")


def listed(path: pathlib.Path) -> object:
    """A manifest."""
    config = fields.base().data
    config.manifest = path.name
    return manifest.read(path.parent, config)


def image(path: pathlib.Path) -> object:
    """One image."""
    return decode(path, 32, 3, MEGAPIXELS)


def many(path: pathlib.Path) -> object:
    """The same image 4 times, by all threads: looked at, then decoded."""
    paths = [path] * 4
    if bad := survey(paths, MEGAPIXELS, verify=True).bad:
        raise BadImage(bad[0][1])
    return ImageFiles(paths, 32, 3, MEGAPIXELS)[:]


def unpickled(path: pathlib.Path) -> object:
    """As the sources read pickles."""
    return pickles.load_pickle(path.read_bytes(), path)


LINES = "path,label\n" + "a.png,cat\n" * 10
SHAPE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1024)}\n"
ROWS = 9 << 20
INPUTS: dict[str, tuple[str, Callable, Callable]] = {  # name: file, reader, what makes its bytes, or it at a path
    "pickle: key of tuples of themselves, 2^150 to hash": (
        "x",
        unpickled,
        lambda _: keyed(b")" + b"q\x00h\x00\x86" * 150),
    ),
    "pickle: a key of a million nested tuples": ("x", unpickled, lambda _: keyed(b")" + b"\x85" * 1_000_000)),
    "pickle: 30 000 keys of one hash": ("x", unpickled, lambda _: colliding(30_000)),
    "TIFF of 16 x 16 pixels, a tile of 46 000 x 46 000": ("x.tif", image, lambda _: tiff(46_000)),
    "PNG of 16 bits, 9 000 x 9 000, one": ("x.png", image, lambda _: png(9_000, 9_000, 16)),
    "PNG of 16 bits, 9 000 x 9 000, 4 at once": ("x.png", many, lambda _: png(9_000, 9_000, 16)),
    "PNG of 40 000 x 40 000": ("x.png", image, lambda _: png(40_000, 40_000, 8)),
    "progressive JPEG of 3 000 scans": ("x.jpg", image, lambda _: jpeg(3_000)),
    "GIF of 2 000 frames": ("x.gif", image, lambda _: gif(2_000)),
    "npz that unpacks to 381 MiB": ("noise.npz", provenance.load, lambda _: npz(100_000_000)),
    "npy of 2^50 numbers": ("x.npy", load_array, lambda _: array(SHAPE)),
    "npy whose header nests 10 000 brackets": ("x.npy", load_array, lambda _: array("(" * 10_000)),
    "Parquet: one cell of 100 MiB": (
        *("x.parquet", listed),
        lambda _: table({"path": ["x" * (100 << 20)], "label": ["a"]}, compression="zstd", use_dictionary=False),
    ),
    "Parquet: 9 million rows of nothing": (
        *("x.parquet", listed),
        lambda _: table({"path": pa.nulls(ROWS, pa.string()), "label": pa.nulls(ROWS)}, compression="zstd"),
    ),
    "safetensors: a header of 2^62 bytes": (
        "x.safetensors",
        read_safetensors,
        lambda _: struct.pack("<Q", 1 << 62) + b"{}",
    ),
    "safetensors: a header nested 40 000 times": (
        *("x.safetensors", read_safetensors),
        lambda _: struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
    ),
    "PyTorch: a pickle that unpacks to 256 MiB": ("x.pth", read_weights, lambda _: torch(1 << 28)),
    "IDX: 1 GiB of zeros after 2 images of 2 x 2, packed": ("idx.gz", lambda path: _idx._idx(path, 0x803), idx),
    "config.json nested 100 000 times": ("config.json", config_lib.read, lambda _: b'{"a":' * 100_000),
    "summary.json of 8 GiB": ("summary.json", lambda path: finished.read(path.parent), sized(8 << 30)),
    "CSV of 8 GiB": ("x.csv", listed, sized(8 << 30)),
    "CSV: one line of 100 MB": ("x.csv", listed, lambda _: (LINES + "x" * 100_000_000).encode()),
    "matrix of noise: 100 MB of one number": (
        *("x.csv", lambda path: read_matrix(path, 10)),
        lambda _: b"1" * 100_000_000,
    ),
    "pipe as manifest": ("x.csv", listed, os.mkfifo),
    "pipe as features": ("x.npy", load_array, os.mkfifo),
    "pipe as image": ("x.png", image, os.mkfifo),
    "pipe as noise.npz": ("noise.npz", provenance.load, os.mkfifo),
    "/dev/zero as manifest": ("x.csv", listed, device),
    "/dev/zero as features": ("x.npy", load_array, device),
    "/dev/zero as image": ("x.png", image, device),
    "/dev/zero as summary.json": ("summary.json", lambda path: finished.read(path.parent), device),
}


def make(content: Callable, path: pathlib.Path) -> None:
    """Writes what `content` gives, if it has not made the file itself."""
    made = content(path)
    if made is not None:
        path.write_bytes(made)


def answer(reader: Callable, path: pathlib.Path, sent) -> None:
    """Sends what the reader answers, the seconds, and the MiB above the start."""
    with open("/proc/self/statm") as file:
        start = int(file.read().split()[1]) * resource.getpagesize()
    began, kind = time.process_time(), "read"
    try:
        reader(path)
        said = ""
    except (UserError, BadImage) as error:
        kind, said = "one line" if "\n" not in str(error) else "several lines", str(error)
    except BaseException as error:
        kind, said = "traceback", f"{type(error).__name__}: {error}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    sent.send((kind, said[:300], round(time.process_time() - began, 2), max(0, peak - start) >> 20))


def run(flags, folder: pathlib.Path) -> tuple[dict, list[dict]]:
    """All inputs; the counts, and what each reader answered."""
    context, found = multiprocessing.get_context("fork"), []
    for name, (file, reader, content) in INPUTS.items():
        place = folder / "limits"
        place.mkdir(exist_ok=True)
        path = place / file
        path.unlink(missing_ok=True)
        maker = context.Process(target=make, args=(content, path))  # this one stays small, and so those it forks
        maker.start()
        maker.join()
        size = path.stat().st_size if path.is_file() else None
        theirs, ours = context.Pipe()
        process = context.Process(target=answer, args=(reader, path, ours))
        process.start()
        ours.close()
        kind, said, seconds, mebibytes = "unanswered", "", flags.limit, None
        try:
            if theirs.poll(flags.limit):
                kind, said, seconds, mebibytes = theirs.recv()
        except EOFError:
            kind = "traceback"
        process.kill()
        process.join()
        said = common.scrub(said, place)
        found.append({"input": name, "bytes": size, "kind": kind, "answer": said, "seconds": seconds, "MiB": mebibytes})
        print(found[-1], flush=True)
        path.unlink()
    kinds = [each["kind"] for each in found]
    counts = {kind: kinds.count(kind) for kind in ("one line", "read", "several lines", "traceback", "unanswered")}
    return {"inputs": len(found), **counts}, found


if __name__ == "__main__":
    report = common.Report(__doc__, limit=(120, "seconds a reader has"))
    report.run(run, "inputs")
