"""The file of splits and labels a run trained on."""

import contextlib
import errno
import io
import os
import sys

import numpy as np
import pytest

from kdmlc_jax.data import noise, provenance, splits
from kdmlc_jax.data.provenance import Provenance, fingerprint, load, save
from kdmlc_jax.errors import StorageError, UserError

C = 5
LABELS = np.tile(np.arange(C, dtype=np.int32), 4000)


def artefact():
    parts = splits.split(LABELS, 10, 20, 0, 0, C)
    carried = noise.draw(LABELS, noise.transition_matrix("uniform", 0.5, C, 0), 0)
    given = carried.copy()
    given[parts.trusted] = LABELS[parts.trusted]
    rate, matrix = noise.realised(LABELS, given, C)
    return Provenance(parts, given, rate, matrix, carried, fingerprint(np.arange(len(LABELS)), "abcde"), "0a")


def test_artefact_round_trip(tmp_path):
    """Protects noise.npz: every array and dtype comes back, under the promised keys, and overwriting works."""
    path, saved = tmp_path / "noise.npz", artefact()
    path.write_text("old")
    save(path, saved)
    loaded = load(str(path))
    for name in splits.Splits._fields:
        np.testing.assert_array_equal(getattr(loaded.splits, name), getattr(saved.splits, name))
        assert getattr(loaded.splits, name).dtype == np.int64
    np.testing.assert_array_equal(loaded.given_labels, saved.given_labels)
    np.testing.assert_array_equal(loaded.carried_labels, saved.carried_labels)
    assert loaded.given_labels.dtype == loaded.carried_labels.dtype == np.int32 and loaded.images == saved.images
    assert loaded.realised_rate == saved.realised_rate
    np.testing.assert_array_equal(loaded.realised_matrix, saved.realised_matrix)
    with np.load(path, allow_pickle=False) as file:
        keys = {"noisy", "trusted", "validation", "held_out", "given_labels", "realised_rate", "realised_matrix"}
        assert set(file) == keys | {"carried_labels", "images", "learned"}
    assert list(tmp_path.iterdir()) == [path]


def test_splits_from_before_any_were_held_out(tmp_path):
    """Protects runs begun with an older version: their file has no such part."""
    path = tmp_path / "noise.npz"
    save(path, artefact())
    with np.load(path) as file:
        old = {name: file[name] for name in file if name != "held_out"}
    np.savez(path, **old)
    assert load(path).splits.held_out.tolist() == []


def test_unknown_noise_round_trip(tmp_path):
    """Protects runs whose true labels nobody knows: no rate and no matrix come back as none."""
    saved = artefact()._replace(realised_rate=None, realised_matrix=None)
    save(tmp_path / "noise.npz", saved)
    loaded = load(tmp_path / "noise.npz")
    assert loaded.realised_rate is None and loaded.realised_matrix is None
    np.testing.assert_array_equal(loaded.given_labels, saved.given_labels)


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    """Protects against half-written artefacts: a full disk leaves the old file and no temporary one."""
    path = tmp_path / "noise.npz"
    path.write_text("old")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"noise\.npz: cannot be written \(No space left on device\)"):
        save(path, artefact())
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_save_into_no_directory(tmp_path):
    """Protects the message where the workdir is gone."""
    path = tmp_path / "absent" / "noise.npz"
    with pytest.raises(UserError) as caught:
        save(path, artefact())
    assert f"{path}: cannot be written (No such file or directory)" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_load_refuses_what_is_not_an_artefact(tmp_path):
    """Protects resume: missing, foreign, pickled and damaged files give one line with the path."""
    path = tmp_path / "noise.npz"
    with pytest.raises(UserError, match=r"noise\.npz: no such file"):
        load(path)
    save(path, artefact())
    good = path.read_bytes()
    np.savez(tmp_path / "other.npz", noisy=np.arange(3))
    np.savez(tmp_path / "pickled.npz", **{k: np.array([None]) for k in ("noisy", "trusted", "validation")})
    foreign = [(tmp_path / name).read_bytes() for name in ("other.npz", "pickled.npz")]
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    for raw in (b"", b"text", good[:middle], flipped, *foreign):
        path.write_bytes(raw)
        with pytest.raises(UserError, match=r"noise\.npz: cannot be read as the noise\.npz of a run") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_a_changed_name_is_no_absence(tmp_path):
    """Protects from a bit in the archive's own list of names: without a sum, held-out images would be none."""
    path = tmp_path / "noise.npz"
    save(path, artefact())
    good = path.read_bytes()
    for name in (b"held_out", b"learned"):
        at = good.rfind(name + b".npy")
        assert at > 0
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(UserError, match=r"noise\.npz: cannot be read as the noise\.npz of a run"):
            load(path)


def test_a_failing_disk_is_no_bad_archive(tmp_path, monkeypatch):
    """Protects a run from a server that stumbles: `zipfile` makes a bad file of it, and it is no wrong input."""

    class Failing(io.BufferedReader):
        def seek(self, offset, whence=0):
            if whence == os.SEEK_END and sys._getframe(1).f_code.co_name == "_EndRecData":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().seek(offset, whence)

    monkeypatch.setattr(provenance.door, "opened", lambda path: contextlib.nullcontext(Failing(io.BytesIO(b"x"))))
    with pytest.raises(StorageError, match=r"noise.npz: cannot be read \(Input/output error\); nothing was changed"):
        load(tmp_path / "noise.npz")


def test_fingerprint_tells_listings_apart():
    """Protects rows and labels from another listing: any other name, order, number of images or class changes it."""
    names = np.array(["a.png", "b.png"])
    listings = [
        (names, ("cat", "dog")),
        (names[::-1], ("cat", "dog")),
        (names, ("dog", "cat")),
        (names[:1], ("cat", "dog")),
    ]
    listings += [
        (np.arange(2), ("cat", "dog")),
        (names, ("cat", "dog", "a.png")),
        (np.array(["a.png", "c"]), ("cat", "dog")),
    ]
    assert len({fingerprint(*listing) for listing in listings}) == len(listings)
    assert fingerprint(names, ["cat", "dog"]) == fingerprint(names.copy(), ("cat", "dog"))
