"""The data of a run that has ended, for who needs few of its images."""

import corrected
import numpy as np
import photos
import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax import finished
from kdmlc_jax.data import provenance
from kdmlc_jax.data.images import decode, files
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.data.reopen import reopened
from kdmlc_jax.errors import UserError


@pytest.fixture
def run(tmp_path):
    """The config of a run of 36 photographs and 6 to test, two of them alike, and its folder."""
    photos.make(tmp_path / "photos", train=30, trusted=6, test=6)
    twin = tmp_path / "photos/train/cat"
    (twin / "00.png").write_bytes((twin / "03.png").read_bytes())
    argument = f"configs/folder.py:dir={tmp_path / 'photos'},{corrected.SIZES}"
    config = config_lib.load(argument, corrected.SMALL)
    provenance.save(tmp_path / "noise.npz", prepare(config).provenance())
    return config, tmp_path


def test_only_what_is_asked_for_is_read(run, monkeypatch):
    """Protects the time of a page: 36 images known as the run left them, 2 of them read; all else as it was."""
    config, workdir = run
    read = []
    monkeypatch.setattr(files, "read_pixels", lambda path, *rest: read.append(path) or decode.read_pixels(path, *rest))
    again, whole = reopened(config, workdir), prepare(config)
    read.clear()
    np.testing.assert_array_equal(again.images[np.array([3, 0])], whole.images[np.array([3, 0])])
    assert len(read) == 2
    assert again.duplicates == whole.duplicates and again.duplicates.extra == 1
    assert provenance.digests(again.provenance()) == provenance.digests(whole.provenance())
    np.testing.assert_array_equal(again.test_images[:], whole.test_images)


@pytest.mark.parametrize("part", ["images", "test_images"])
def test_an_image_that_changed_is_refused_when_it_is_shown(run, part):
    """Protects decisions from pictures that the run has not seen, in training and test part."""
    config, workdir = run
    path = workdir / "photos" / ("train/cat/06.png" if part == "images" else "test/cat/03.png")
    path.write_bytes((workdir / "photos/train/owl/02.png").read_bytes())
    images = getattr(reopened(config, workdir), part)
    with pytest.raises(UserError, match=rf"{path.name}: the image is another one than the run began with"):
        images[:]


@pytest.mark.parametrize("change", ["removed", "renamed", "moved"])
def test_other_names_or_labels_are_refused(run, change):
    """Protects from rows of another listing: what is not read is known by its name, class and place."""
    config, workdir = run
    path = workdir / "photos/train/cat/06.png"
    if change == "removed":
        path.unlink()
        with pytest.raises(UserError, match=r"41 images, but the run in .* began with 42"):
            reopened(config, workdir)
        return
    path.rename(path.with_name("6.png") if change == "renamed" else path.parents[1] / "dog" / path.name)
    with pytest.raises(UserError, match="images or classes"):
        finished.check_data(reopened(config, workdir), workdir, {})


@pytest.mark.parametrize("why", ["older", "unverified", "skipped"])
def test_all_are_read_where_none_is_known(run, why, monkeypatch):
    """Protects runs of older versions, those that never read their images, and those that left some out."""
    config, workdir = run
    if why == "skipped":
        photos.truncate(workdir / "photos/train/cat/06.png")
        config.data.on_bad_image = "skip"
    config.data.verify = why != "unverified"
    kept = prepare(config).provenance()
    assert (kept.contents is None) == (why != "older")
    provenance.save(workdir / "noise.npz", kept._replace(contents=None))
    finished.check_data(again := reopened(config, workdir), workdir, {})
    np.testing.assert_array_equal(again.images[:], prepare(config).images)
