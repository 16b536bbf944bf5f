"""Features of a whole data set, in a folder that runs read."""

import errno
import resource
import shutil

import numpy as np
import onnx_bytes
import pytest
from PIL import Image

from kdmlc_jax import config as config_lib
from kdmlc_jax import embed
from kdmlc_jax.data import sources
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.data.sources.features import read_features
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.storage import door


@pytest.fixture
def photos(tmp_path):
    """Twelve images of two classes, two of them trusted, and an encoder of their mean colour."""
    for first, (part, count) in enumerate((("train", 5), ("trusted", 1), ("test", 2))):  # no image is another's copy
        for name, level in (("cat", 40), ("dog", 200)):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(count):
                shade = np.full((8, 8, 3), level + i + 5 * first, np.uint8)
                Image.fromarray(shade).save(tmp_path / "photos" / part / name / f"{10 - i}{part}.png")
    (tmp_path / "e.onnx").write_bytes(onnx_bytes.mean_of_channels(8))
    return tmp_path


def command(folder, *more):
    plain = ["--mean", "0,0,0", "--std", "1,1,1", "--batch", "3"]
    return ["--config", f"configs/folder.py:dir={folder / 'photos'}", "--encoder", str(folder / "e.onnx"),
            "--out", str(folder / "out"), *plain, *more]  # fmt: skip


def test_what_is_left_serves_both_kinds_of_run(photos, capsys):
    """Protects the way from images to a run: on the features alone, and on the images with rows found by name."""
    embed.main(command(photos))
    assert "features of 12 images" in capsys.readouterr().out
    alone = prepare(config_lib.load(f"configs/features.py:dir={photos / 'out'}", {"train.batch_size": "2"}))
    fields = {"data.features": str(photos / "out" / "features.npy"), "train.batch_size": "2"}
    beside = prepare(config_lib.load(f"configs/folder.py:dir={photos / 'photos'}", fields))
    for data in (alone, beside):
        assert data.class_names == ("cat", "dog")
        assert len(data.splits.trusted) + len(data.splits.held_out) == 2
    np.testing.assert_allclose(alone.images[:, 0, 0], beside.features)
    order = {name: row for row, name in enumerate(alone.ids)}
    for row, name in enumerate(beside.ids):
        shade = np.asarray(Image.open(photos / "photos" / name))[0, 0] / 255
        np.testing.assert_allclose(beside.features[row], shade, atol=2e-3)
        assert alone.given_label[order[name]] == beside.given_label[row]


def test_a_cut_command_goes_on(photos, monkeypatch, capsys):
    """Protects hours of encoding: what is there is not made again, for the same encoder and images only."""
    real, seen = embed.embed, []

    def cut(encode, images, path, batch, key):
        def counted(rows):
            seen.append(len(rows))
            if len(seen) == 3:
                raise KeyboardInterrupt
            return encode(rows)

        real(counted, images, path, batch, key)

    monkeypatch.setattr(embed, "embed", cut)
    with pytest.raises(KeyboardInterrupt):
        embed.main(command(photos))
    assert not (photos / "out" / "features.npy").exists()
    embed.main(command(photos))
    assert len(seen) == 3 + 2 + 2  # two batches were there; then the other two, and two of test images
    embed.main(command(photos))
    assert len(seen) == 7 and "finished before" in capsys.readouterr().err
    first = np.load(photos / "out" / "features.npy")
    embed.main([*command(photos), "--mean", "0.1,0,0"])
    assert len(seen) == 7 + 6
    np.testing.assert_allclose(np.load(photos / "out" / "features.npy")[:, 0], first[:, 0] - 0.1, atol=1e-6)


def test_killed_before_the_last_move(photos, capsys):
    """Protects from features of another encoder taken for these: all are there, but not yet in their place."""
    embed.main(command(photos))
    out, old = photos / "out", (photos / "out" / "features.npy").read_bytes()
    other = [*command(photos), "--mean", "0.1,0,0"]
    embed.main(other)
    (out / "features.npy").rename(out / "features.part.npy")
    (out / "features.npy").write_bytes(old)
    embed.main(other)
    assert (out / "features.npy").read_bytes() != old and not (out / "features.part.npy").exists()


def test_nothing_of_another_set_is_left(photos):
    """Protects a folder that is used again: trusted rows and test labels of other images are gone."""
    embed.main(command(photos))
    shutil.rmtree(photos / "photos" / "trusted")
    shutil.rmtree(photos / "photos" / "test")
    embed.main(command(photos))
    left = {path.name for path in (photos / "out").iterdir()}
    assert {"features.npy", "labels.npy", "ids.txt"} <= left
    assert not {"trusted.npy", "test_features.npy", "test_labels.npy"} & left


def test_refused(photos, monkeypatch):
    """Protects from features that say nothing, and from features of features."""
    with pytest.raises(UserError, match=r"--batch: 0 is outside"):
        embed.main([*command(photos), "--batch", "0"])
    with pytest.raises(UserError, match=r"f\.npy row 1: the encoder gives NaN"):
        embed.embed(lambda images: np.array([[1.0], [np.nan]]), np.zeros((2, 1)), photos / "f.npy", 2, "")
    assert not (photos / "f.npy").exists()
    embed.main(command(photos))
    again = command(photos)
    again[1] = f"configs/features.py:dir={photos / 'out'}"
    with pytest.raises(UserError, match=r"has features already, expected images"):
        embed.main(again)


def test_what_is_left_is_held_to_its_sums(photos, monkeypatch):
    """Protects features and labels on a disk that flips bits: the file is named; who changes one on purpose says so."""
    out = photos / "out"
    embed.main(command(photos))
    data = config_lib.load(f"configs/features.py:dir={out}").data
    assert len(sources.load(data).train.labels)
    for name in ("features.npy", "labels.npy", "ids.txt"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        with pytest.raises(StorageError, match=rf"{name}: not what was written beside SHA256SUMS"):
            sources.load(data)
        if name != "labels.npy":
            with pytest.raises(StorageError, match=rf"{name}: not what was written beside"):
                read_features(out / "features.npy", 1, np.array(["x"]))
        (out / name).write_bytes(whole)
    (out / "SHA256SUMS").unlink()  # one's own folders have none
    assert len(sources.load(data).train.labels)


def test_a_state_that_cannot_be_read_is_not_absent(photos, monkeypatch):
    """Protects what hours of encoding have left: a disk that fails is an error, and nothing begins anew."""
    embed.main(command(photos))
    before = (photos / "out" / "features.npy").stat().st_mtime_ns

    def fails(path, *rest):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(door, "read_text", fails)
    with pytest.raises(StorageError, match=r"features\.json: cannot be read \(Input/output error\)"):
        embed.main(command(photos))
    assert (photos / "out" / "features.npy").stat().st_mtime_ns == before


def test_a_full_disk_is_one_line(tmp_path):
    """Protects from an end by a signal where no room is left: one line, and the same call goes on when there is."""
    images, path, calls = np.arange(4000.0).reshape(1000, 4), tmp_path / "features.npy", []

    def encode(rows):
        calls.append(len(rows))
        return rows.astype(np.float32)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))  # of 16 000 bytes
    try:
        with pytest.raises(StorageError, match=r"features\.part\.npy: cannot be written \(File too large\)"):
            embed.embed(encode, images, path, 100, "key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not path.exists() and len(calls) == 5
    embed.embed(encode, images, path, 100, "key")
    assert len(calls) == 5 + 6  # four batches were there, and none is made again
    np.testing.assert_array_equal(np.load(path), images)


@pytest.mark.parametrize("left", [b"", b"\x93NUMPY", b"nothing of the kind" * 20])
def test_what_is_not_there_is_made_again(tmp_path, left):
    """Protects from rows that are only said to be there: a short or foreign file is begun anew."""
    path, images = tmp_path / "features.npy", np.arange(40.0).reshape(10, 4)
    (tmp_path / "features.json").write_text('{"key": "key", "done": 6}')
    (tmp_path / "features.part.npy").write_bytes(left)
    embed.embed(lambda rows: rows, images, path, 3, "key")
    np.testing.assert_array_equal(np.load(path), images)
