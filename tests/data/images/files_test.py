"""Many image files as one array, their digests, and the list of bad ones."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from kdmlc_jax.data.images.files import ImageFiles, survey
from kdmlc_jax.errors import UserError

LIMIT = 64.0


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def saved(path, array):
    Image.fromarray(array).save(path)
    return path


def write_many(folder, rng, count=70):
    array = rng.integers(0, 256, (count, 6, 4, 3), np.uint8)
    return array, [saved(folder / f"{row}.png", image) for row, image in enumerate(array)]


def test_image_files_are_an_array_of_rows(tmp_path, rng):
    """Protects the order of rows over the threads, each kind of index, and the shape known without decoding."""
    array, paths = write_many(tmp_path, rng)
    files = ImageFiles(paths, 0, 3, LIMIT)
    assert files.shape == array.shape and files.dtype == np.uint8 and len(files) == 70
    rows = rng.integers(0, 70, 100)
    np.testing.assert_array_equal(files[rows], array[rows])
    np.testing.assert_array_equal(files[5:60:3], array[5:60:3])
    np.testing.assert_array_equal(files[np.arange(70) % 7 == 0], array[::7])
    np.testing.assert_array_equal(files[-1:], array[-1:])
    assert files[np.zeros(0, int)].shape == (0, 6, 4, 3)
    assert ImageFiles(paths, 3, 1, LIMIT).shape == (70, 3, 3, 1) == ImageFiles(paths, 3, 1, LIMIT)[:].shape
    with pytest.raises(IndexError):
        files[np.array([70])]


def test_image_files_name_the_bad_one(tmp_path, rng):
    """Protects the message in the middle of training: the first bad file, and what to do about all of them."""
    _, paths = write_many(tmp_path, rng)
    paths[40].write_text("no image")
    paths[66].write_text("no image")
    with pytest.raises(UserError) as caught:
        ImageFiles(paths, 8, 3, LIMIT)[:]
    line = str(caught.value)
    assert line.startswith(f"{paths[40]}: not an image") and "\n" not in line
    assert "python -m kdmlc_jax.data.check" in line and "data.on_bad_image=skip" in line
    saved(paths[40], np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match=r"40\.png: 5 x 5 pixels, expected 4 x 6 as the first image"):
        ImageFiles(paths, 0, 3, LIMIT)[:]
    with pytest.raises(UserError, match=r"66\.png: not an image"):
        ImageFiles([paths[66]], 0, 3, LIMIT)


def test_digests_are_those_of_the_pixels(tmp_path, rng):
    """Protects the search for copies: equal pixels are equal, in another format, mode or with other metadata."""
    images, paths = write_many(tmp_path, rng, 4)
    grey = Image.fromarray(images[1]).convert("L")
    grey.save(paths[0])
    grey.convert("RGB").save(tmp_path / "tagged.tif", compression="tiff_lzw", description="taken on a Monday")
    about = PngImagePlugin.PngInfo()
    about.add_text("Comment", "again")
    grey.save(tmp_path / "text.png", pnginfo=about, compress_level=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    grey.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png")
    others = [tmp_path / name for name in ("tagged.tif", "text.png", "turned.png", "lying.png")]
    found = ImageFiles([*paths, *others], 8, 3, LIMIT).digests()
    assert found.dtype == "V16" and len(np.unique(found)) == 5
    assert (found[[4, 5, 6]] == found[0]).all() and found[7] != found[0]
    assert (survey([*paths, *others], LIMIT, True).digests == found).all()
    deep = [tmp_path / f"{k}.png" for k in "xyz"]
    for path, factor in zip(deep, (1, 2, 1), strict=True):
        Image.fromarray((np.arange(24).reshape(4, 6) * factor).astype(np.uint16)).save(path)
    found = ImageFiles(deep, 0, 1, LIMIT).digests()
    assert found[0] == found[2] != found[1]
    paths[2].unlink()
    with pytest.raises(UserError, match=r"2\.png: no such file"):
        ImageFiles(paths, 8, 3, LIMIT).digests([0, 2])


def test_survey_lists_every_bad_file(tmp_path, rng):
    """Protects the list that data.check prints; damage behind the header is found only by decoding."""
    _, paths = write_many(tmp_path, rng)
    paths[10].write_bytes(b"")
    paths[50].write_bytes(paths[50].read_bytes()[:90])
    headers, bad = survey(paths, LIMIT, False)[:2]
    assert bad == [(10, "empty file")] and headers[10] is None and headers[50] == (4, 6, False, False)
    headers, bad = survey(paths, LIMIT, True)[:2]
    assert [row for row, _ in bad] == [10, 50] and "truncated" in bad[1][1]
    assert [row for row, header in enumerate(headers) if header is None] == [10, 50]


def test_threads_are_made_anew_after_a_fork(tmp_path, rng):
    """Protects loader processes made by fork from waiting for threads that only their parent has."""
    _, paths = write_many(tmp_path, rng)
    code = (
        "import os, sys, numpy as np\n"
        "from kdmlc_jax.data.images.files import ImageFiles\n"
        "files = ImageFiles(sys.argv[1:], 0, 3, 64)\n"
        "expected = files[:]\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(0 if (files[:] == expected).all() else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *map(str, paths)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
