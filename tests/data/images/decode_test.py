"""Decoding image files: the pixels against NumPy arithmetic, and one reason for each kind of bad file."""

import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from kdmlc_jax.data.images import decode as images
from kdmlc_jax.data.images import recognise
from kdmlc_jax.data.images.decode import BadImage
from kdmlc_jax.data.images.files import survey
from kdmlc_jax.errors import StorageError

LIMIT = 64.0
WHITE = 255.0


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def saved(path, array, mode=None, **options):
    """`path`, with the array written to it."""
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def luma(rgb):
    """f64[H, W, 1], ITU-R 601."""
    return (rgb.astype(float) @ np.array([0.299, 0.587, 0.114]))[..., None]


def near(got, expected, tolerance=1.0):
    """Compares u8 pixels with unrounded ones."""
    assert got.dtype == np.uint8 and got.shape == expected.shape
    assert np.abs(got.astype(float) - expected).max() <= tolerance


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def constant_png(width, height, depth=8, colour=0):
    """A valid grey PNG of zeros, built from compressed rows without the image in memory."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width * depth // 8)
    pieces = [packer.compress(row) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(pieces) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def reason(path, limit=LIMIT):
    """The one line that decoding fails with."""
    with pytest.raises(BadImage) as caught:
        images.decode(path, 8, 3, limit)
    assert "\n" not in str(caught.value) and str(path) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "tif", "ppm"])
def test_lossless_formats_come_back_as_written(tmp_path, rng, suffix):
    """Protects pixel order and channel order in every format that keeps pixels; GIF has 256 colours at most."""
    array = rng.integers(0, 256, (5, 7, 3), np.uint8)
    path = saved(tmp_path / f"x.{suffix}", array, **({"lossless": True} if suffix == "webp" else {}))
    near(images.decode(path, 0, 3, LIMIT), array, 0)
    near(images.decode(path, 0, 1, LIMIT), luma(array))
    assert images.inspect(path, LIMIT)[:3] == (7, 5, False)


def test_jpeg(tmp_path):
    """Protects the lossy format within what its best quality loses, whole and reduced while decoding."""
    y, x = np.mgrid[:200, :300]
    array = np.stack([x * 255 / 299, y * 255 / 199, 255 - x * 255 / 299], -1).astype(np.uint8)
    path = saved(tmp_path / "x.jpg", array, quality=98, subsampling=0)
    near(images.decode(path, 0, 3, LIMIT), array, 4)
    expected = scaled(array[:, 50:250].astype(float), 16)
    near(images.decode(path, 16, 3, LIMIT), expected, 4)


def test_grey_is_repeated_or_kept(tmp_path, rng):
    """Protects grey files: their value in one channel, the same three times in RGB; the header says grey."""
    array = rng.integers(0, 256, (4, 6), np.uint8)
    path = saved(tmp_path / "x.png", array)
    near(images.decode(path, 0, 1, LIMIT), array[..., None], 0)
    near(images.decode(path, 0, 3, LIMIT), np.repeat(array[..., None], 3, -1), 0)
    assert images.inspect(path, LIMIT)[:3] == (6, 4, True)


@pytest.mark.parametrize(("suffix", "order"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("pgm", "<u2")])
def test_sixteen_bits_are_scaled(tmp_path, rng, suffix, order):
    """Protects medical and depth images from being clipped to white: v becomes round(v/257), whatever byte order."""
    array = rng.integers(0, 65536, (9, 4)).astype(np.uint16)
    array.flat[:4] = 0, 128, 129, 65535
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 4 9 65535\n" + array.astype(">u2").tobytes())
    elif order == ">u2":
        Image.frombytes("I;16B", (4, 9), array.astype(order).tobytes()).save(path)
    else:
        Image.fromarray(array).save(path)
    near(images.decode(path, 0, 1, LIMIT), np.round(array / 257)[..., None], 0)
    assert images.inspect(path, LIMIT).grey


def test_one_bit(tmp_path):
    """Protects bitmaps: 0 and 255, not 0 and 1."""
    array = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    near(images.decode(saved(tmp_path / "x.png", array, "1"), 0, 1, LIMIT), array[..., None], 0)


@pytest.mark.parametrize("channels", [3, 1])
def test_alpha_is_composited_over_white(tmp_path, rng, channels):
    """Protects cut-out objects from a background of whatever colour lies under full transparency."""
    array = rng.integers(0, 256, (6, 5, 4), np.uint8)
    array[0, 0] = 0, 0, 0, 0
    alpha = array[..., 3:] / 255
    expected = array[..., :3] * alpha + WHITE * (1 - alpha)
    got = images.decode(saved(tmp_path / "x.png", array), 0, channels, LIMIT)
    near(got, expected if channels == 3 else luma(expected), 1.5)
    assert (got[0, 0] == 255).all()


def test_grey_with_alpha(tmp_path, rng):
    """Protects LA files: composited like RGBA, and still grey."""
    array = rng.integers(0, 256, (6, 5, 2), np.uint8)
    path = saved(tmp_path / "x.png", array)
    alpha = array[..., 1:] / 255
    near(images.decode(path, 0, 1, LIMIT), array[..., :1] * alpha + WHITE * (1 - alpha))
    assert images.inspect(path, LIMIT).grey


@pytest.mark.parametrize("transparency", [None, 2, bytes([255, 128, 0, 255])])
def test_palette(tmp_path, rng, transparency):
    """Protects palette files, whose raw bytes are indices, with and without transparent entries."""
    palette = rng.integers(0, 256, (4, 3)).astype(np.uint8)
    index = rng.integers(0, 4, (6, 8)).astype(np.uint8)
    image = Image.fromarray(index).convert("P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "x.png", **({} if transparency is None else {"transparency": transparency}))
    alpha = np.full(4, 255.0)
    if transparency is not None:
        alpha = np.array([255, 255, 0, 255.0]) if transparency == 2 else np.array(list(transparency), float)
    alpha = alpha[:, None] / 255
    near(images.decode(tmp_path / "x.png", 0, 3, LIMIT), (palette * alpha + WHITE * (1 - alpha))[index])


def test_key_colour_is_transparent(tmp_path):
    """Protects RGB and grey PNGs that name one colour as transparent."""
    array = np.array([[[9, 8, 7], [50, 60, 70]]], np.uint8)
    path = saved(tmp_path / "x.png", array, transparency=(9, 8, 7))
    near(images.decode(path, 0, 3, LIMIT), np.array([[[255, 255, 255], [50, 60, 70]]]), 0)
    path = saved(tmp_path / "y.png", array[..., 0], transparency=9)
    near(images.decode(path, 0, 1, LIMIT), np.array([[[255], [50]]]), 0)


def test_cmyk(tmp_path, rng):
    """Protects print files: ink to light, (255 - C)(255 - K)/255."""
    array = rng.integers(0, 256, (6, 5, 4), np.uint8)
    path = tmp_path / "x.tif"
    Image.frombytes("CMYK", (5, 6), array.tobytes()).save(path)
    ink = array.astype(float)
    near(images.decode(path, 0, 3, LIMIT), (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255)


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, rng, orientation, suffix):
    """Protects phone pictures from lying on their side, and the header from disagreeing with the pixels."""
    array = np.kron(rng.integers(0, 2, (2, 3, 1)) * 255, np.ones((8, 8, 3))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 98}}.get(suffix, {})
    path = saved(tmp_path / f"x.{suffix}", array, exif=exif, **options)
    expected = TURNED[orientation](array)
    near(images.decode(path, 0, 3, LIMIT), expected, 8 if suffix == "jpg" else 0)
    assert images.inspect(path, LIMIT)[:2] == expected.shape[1::-1]


def test_broken_metadata_is_no_bad_image(tmp_path, rng):
    """Protects sound pixels beside an EXIF block that ends early, of which Pillow would warn once per file."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x03\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x0f\x01\x02\0\xff\0\0\0\xff\xff\0\0"
    array = np.full((8, 16, 3), 77, np.uint8)
    path = saved(tmp_path / "x.jpg", array, exif=exif)
    assert (images.decode(path, 0, 3, LIMIT) == 77).all()


def cubic(length, side):
    """f64[side, length], the weights of antialiased cubic interpolation (Keys 1981, a = -1/2)."""
    step = length / side
    centre = (np.arange(side)[:, None] + 0.5) * step
    x = np.abs(np.arange(length) + 0.5 - centre) / max(step, 1)
    near_by, further = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near_by, np.where(x < 2, further, 0))
    return weights / weights.sum(1, keepdims=True)


def scaled(array, side):
    """f64[side, side, K] of f64[H, W, K] with H = W."""
    weights = cubic(len(array), side)
    wide = np.clip(np.einsum("jw,hwk->hjk", weights, array), 0, 255)  # cubic weights overshoot, along rows first
    return np.clip(np.einsum("ih,hjk->ijk", weights, wide), 0, 255)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (48, 48), (9, 11), (16, 16)])
def test_resize_is_the_centre_square_antialiased(tmp_path, rng, shape):
    """Protects the resize rule against its formula, for larger, smaller and equal images, either way up."""
    array = rng.integers(0, 256, (*shape, 3), np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = array[top : top + side, left : left + side].astype(float)
    got = images.decode(saved(tmp_path / "x.png", array), 16, 3, LIMIT)
    # Neighbours outside the square count for its border.
    near(got[3:-3, 3:-3], scaled(square, 16)[3:-3, 3:-3], 1.5)
    assert got.shape == (16, 16, 3)


def test_large_images_are_reduced_within_tolerance(tmp_path):
    """Protects quality where a reduced version is decoded first: a smooth picture, and a fine one by its mean."""
    y, x = np.mgrid[:900, :900] / 900
    array = (127 + 60 * np.sin(9 * x) + 60 * np.cos(7 * y)).round().astype(np.uint8)
    for name, tolerance in (("x.png", 1.5), ("x.jpg", 4)):
        got = images.decode(saved(tmp_path / name, array), 30, 1, LIMIT)
        near(got, scaled(array[..., None].astype(float), 30), tolerance)
    stripes = np.broadcast_to(np.arange(900) % 2 * 255, (900, 900)).astype(np.uint8)
    near(images.decode(saved(tmp_path / "y.png", stripes), 30, 1, LIMIT), np.full((30, 30, 1), 127.5), 3)


def test_a_strip_is_not_blown_up(tmp_path):
    """Protects memory: scaling the shorter side of 1 x 60000 pixels to 512 would make 16 gigapixels."""
    path = saved(tmp_path / "x.png", np.full((1, 60000), 9, np.uint8))
    assert (images.decode(path, 512, 1, LIMIT) == 9).all()


@pytest.mark.parametrize("bits", [1, 4, 8, 10, 12, 16])
@pytest.mark.parametrize("colour", [False, True])
def test_scale_of_16_bits(tmp_path, bits, colour):
    """Protects images that use few of their bits: 2^b - 1 becomes 255, by the peak that is given or the image's own."""
    top = 2**bits - 1
    values = np.linspace(0, top, 16).round().astype(np.uint16)
    array = values.reshape(4, 4) if not colour else np.repeat(values.reshape(4, 4, 1), 3, axis=2)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2 if colour else 0, 0, 0, 0))
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))
    assert images.inspect(path, LIMIT).deep
    if colour and bits <= 8:
        with pytest.raises(BadImage, match="of which the set uses the lower 8 alone"):
            images.decode(path, 0, 3, LIMIT, top)
        return
    got = images.decode(path, 0, 1, LIMIT, top)[..., 0].ravel()
    near(got, values * (255 / top), 256 * 255 / top if colour else 1)
    assert got[0] == 0 and got[-1] == 255
    if not colour:
        assert (images.decode(path, 0, 1, LIMIT)[..., 0].ravel() == got).all()
        assert images.read_pixels(path, LIMIT).peak == top
        near(images.decode(path, 0, 1, LIMIT, 65535)[..., 0].ravel(), values / 257, 1)


@pytest.mark.parametrize(("width", "height"), [(12000, 12000), (20000, 20000)])
def test_bombs_are_refused_by_their_header(tmp_path, width, height):
    """Protects memory and time from files of a few hundred kB that claim 144 and 400 megapixels; no warning either."""
    path = tmp_path / "x.png"
    path.write_bytes(constant_png(width, height, depth=1))
    assert path.stat().st_size < 500_000
    start = time.perf_counter()
    assert reason(path) == (
        f"{width} x {height} pixels are {width * height / 1e6:g} megapixels, expected at most data.max_megapixels=64"
    )
    with pytest.raises(BadImage):
        images.inspect(path, LIMIT)
    assert survey([path] * 4, LIMIT, True)[0] == [None] * 4
    assert time.perf_counter() - start < 0.5  # decoding takes longer
    assert images.inspect(path, 400.0)[:3] == (width, height, True)  # the limit is the user's alone


def test_bombs_take_no_memory(tmp_path):
    """Protects memory outside Python's, which Pillow fills: a fresh process hardly grows."""
    path = tmp_path / "x.png"
    path.write_bytes(constant_png(20000, 20000, depth=1))
    code = (
        "import resource, sys\n"
        "from kdmlc_jax.data.images import files as images\n"
        "size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = size()\n"
        "assert images.survey([sys.argv[1]] * 8, 64, True)[1]\n"
        "assert size() - before < 40_000, size() - before\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_webp_that_claims_too_much(tmp_path):
    """Protects from a canvas of 256 megapixels in a header of thirty bytes."""
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (15999).to_bytes(3, "little") * 2
    (tmp_path / "x.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)
    assert reason(tmp_path / "x.webp").startswith(("too many pixels", "damaged file"))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\0\0\0\x18ftypheic", "a HEIC image: install pillow-heif, or convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1", "a HEIC image: install pillow-heif, or convert it to JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n", "a JPEG XL file"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 file"),
        (b"\0\0\0\x18ftypmp42", "a video file"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"<!DOCTYPE html>", "a HTML file"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, monkeypatch, raw, said):
    """Protects photos of phones from being "no image": what they are, and what to do."""
    monkeypatch.setattr(recognise, "_reads_heic", lambda: False)
    (tmp_path / "x.jpg").write_bytes(raw + bytes(200))
    assert reason(tmp_path / "x.jpg").startswith(said)


def test_avif(tmp_path, rng):
    """Protects the format of newer phones: read where Pillow reads it, named where it does not."""
    array = np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), np.uint8), 8, axis=0), 8, axis=1)
    path = saved(tmp_path / "x.avif", array, quality=100)
    near(images.decode(path, 0, 3, LIMIT)[4::8, 4::8], array[4::8, 4::8], 6)
    path.write_bytes(path.read_bytes()[:200])
    assert reason(path).startswith("damaged file")


def test_heic(tmp_path, rng):
    """Protects the photos of iPhones: read where pillow-heif is installed."""
    pillow_heif = pytest.importorskip("pillow_heif")
    array = np.repeat(np.repeat(rng.integers(0, 256, (8, 8, 3), np.uint8), 8, axis=0), 8, axis=1)
    pillow_heif.from_pillow(Image.fromarray(array)).save(tmp_path / "x.heic", quality=100)
    near(images.decode(tmp_path / "x.heic", 0, 3, LIMIT)[4::8, 4::8], array[4::8, 4::8], 12)
    assert "megapixels" in reason(tmp_path / "x.heic", 1e-5)


def test_files_that_are_no_images(tmp_path):
    """Protects the reason for each way not to be an image."""
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello " * 9)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "x.svg").write_text("<svg/>")
    assert reason(tmp_path / "empty.png") == "empty file"
    assert reason(tmp_path / "text.png") == "not an image of PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM or AVIF"
    assert reason(tmp_path / "x.svg").startswith("a SVG file, expected an image of PNG, JPEG")
    assert reason(tmp_path / "folder.png") == "is a directory"
    assert reason(tmp_path / "pipe.png") == "is a pipe"
    assert reason(tmp_path / "absent.png") == "no such file"
    assert reason(tmp_path / ("x" * 300)) == "cannot be read (File name too long)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_permission(tmp_path):
    """Protects the reason for a file that may not be read."""
    path = saved(tmp_path / "x.png", np.zeros((2, 2), np.uint8))
    path.chmod(0)
    with pytest.raises(StorageError, match=r"cannot be read \(Permission denied\)"):
        reason(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "webp", "tif", "ppm"])
def test_truncated_files(tmp_path, rng, suffix):
    """Protects training from half-grey images: a cut-off file is refused wherever it is cut, in every format."""
    array = rng.integers(0, 256, (40, 40, 3), np.uint8)
    path = saved(tmp_path / f"x.{suffix}", array)
    raw = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(raw[: int(len(raw) * share)])
        assert reason(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif"])
def test_damaged_files_end_in_one_error(tmp_path, rng, suffix):
    """Protects against every other exception that Pillow raises on damage: BadImage or an array, nothing else."""
    path = saved(tmp_path / f"x.{suffix}", rng.integers(0, 256, (12, 12, 3), np.uint8))
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(60):
        broken = raw.copy()
        broken[rng.integers(0, len(raw), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(broken.tobytes())
        try:
            assert images.decode(path, 8, 3, LIMIT).shape == (8, 8, 3)
        except BadImage as error:
            assert "\n" not in str(error)


def test_floats_and_wide_integers_are_refused(tmp_path):
    """Protects against a guess at the range of values: floats, and integers beyond 16 bits."""
    path = saved(tmp_path / "x.tif", np.zeros((3, 3), np.float32))
    assert reason(path) == 'pixel mode "F" is not supported, expected integers of at most 16 bits'
    path = saved(tmp_path / "y.tif", np.full((3, 3), 70000, np.int32))
    assert reason(path) == "values 70000 to 70000 are outside 0 to 65535, expected at most 16 bits"
