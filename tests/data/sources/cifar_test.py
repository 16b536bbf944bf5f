"""CIFAR in all its packages: equal arrays, and one clear line for bad files."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax.data import sources
from kdmlc_jax.data.formats import files
from kdmlc_jax.data.sources import _cifar as cifar
from kdmlc_jax.errors import UserError

VERSIONS = ("binary", "python")
FOLDERS = {
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar100", "binary"): "cifar-100-binary",
    ("cifar100", "python"): "cifar-100-python",
}


def config_of(name, path=""):
    data = config_lib.base().data
    data.source, data.dir = name, str(path)
    return data


def load(name, path=""):
    """The data set as a config that names it and a folder or archive reads it."""
    return sources.load(config_of(name, path))


def error_of(name, path):
    """The one line that loading `name` fails with; the folder is as it was before."""
    folder = path if path.is_dir() else path.parent
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        load(name, path)
    assert sorted(folder.rglob("*")) == before
    assert str(caught.value).isprintable()
    return str(caught.value)


def miniature(name):
    """u8[12, 3073] or u8[300, 3074]: records of label or labels and pixels, every class among the last 100."""
    rng = np.random.default_rng(0)
    count = 12 if name == "cifar10" else 300
    records = rng.integers(0, 256, (count, 3073)).astype(np.uint8)
    records[:, 0] = np.arange(count) % cifar.CLASSES[name]
    superclass = records[:, :1] // 5
    return records if name == "cifar10" else np.concatenate([superclass, records], axis=1)


def parts(name, suffix):
    """The records by file name."""
    records = miniature(name)
    if name == "cifar10":
        names = [f"data_batch_{number}{suffix}" for number in range(1, 6)] + [f"test_batch{suffix}"]
        return dict(zip(names, np.split(records, 6), strict=True))
    return {f"train{suffix}": records[:200], f"test{suffix}": records[200:]}


def write(folder, name, version):
    """A miniature set; returns the records by file name."""
    folder.mkdir(exist_ok=True)
    records = parts(name, ".bin" if version == "binary" else "")
    names = [f"class{number}" for number in range(cifar.CLASSES[name])]
    for file, part in records.items():
        raw = part.tobytes() if version == "binary" else pickled(part, name)
        (folder / file).write_bytes(raw)
    if version == "binary":
        meta = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
        (folder / meta).write_text("\n".join(names) + "\n\n")
    else:
        meta, key = ("batches.meta", "label_names") if name == "cifar10" else ("meta", "fine_label_names")
        (folder / meta).write_bytes(pickle.dumps({key: names, "num_vis": 3072}, 2))
    return records


def pickled(records, name):
    """A file of the Python version; CIFAR-100's records start with the superclass."""
    heads = records.shape[1] - 3072
    keys = ("labels",) if name == "cifar10" else ("coarse_labels", "fine_labels")
    content = {key: records[:, head].tolist() for head, key in enumerate(keys)}
    return pickle.dumps({"data": records[:, heads:], "batch_label": "part", **content}, 2)


def pack(folder, path):
    """The folder as a .tar.gz, as it is published."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_cifar10_planes_become_channels(tmp_path, version):
    """Protects the layout, pixel by pixel: a record is a label, then the red, green and blue planes, row by row."""
    records = write(tmp_path, "cifar10", version)
    source = load("cifar10", tmp_path)
    third, test = [part for file, part in records.items() if "3" in file or "test" in file]
    assert source.train.images.shape == (10, 32, 32, 3) and source.test.images.shape == (2, 32, 32, 3)
    for row, column, channel in ((0, 0, 0), (3, 7, 1), (31, 30, 2)):
        at = 1 + channel * 1024 + row * 32 + column
        assert source.train.images[5, row, column, channel] == third[1, at]
    assert list(source.test.labels) == list(test[:, 0])
    assert (source.train.images.dtype, source.train.labels.dtype) == (np.uint8, np.int32)
    assert source.train.images.flags.c_contiguous and source.test.images.flags.c_contiguous
    assert source.class_names == tuple(f"class{i}" for i in range(10))


@pytest.mark.parametrize("version", VERSIONS)
def test_cifar100_has_fine_labels(tmp_path, version):
    """Protects against superclasses taken for classes: the binary record starts with the superclass."""
    records = write(tmp_path, "cifar100", version)
    source = load("cifar100", tmp_path)
    train = next(iter(records.values()))
    np.testing.assert_array_equal(source.train.labels, train[:, 1])
    np.testing.assert_array_equal(source.train.images[7, 0, :2, 2], train[7, 2 + 2048 : 2 + 2050])
    assert len(source.class_names) == 100 and source.test.labels.max() == 99


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_package_gives_the_same(tmp_path, monkeypatch, name):
    """Protects the choice of download: binary or Python, folder or archive, given or found below KDMLC_DATA."""
    write(tmp_path / "expected", name, "binary")
    expected = load(name, tmp_path / "expected")
    for version in VERSIONS:
        place = tmp_path / version
        place.mkdir()
        folder = place / FOLDERS[name, version]
        write(folder, name, version)
        archive = pack(folder, place / f"cifar-{name[5:]}-{version}.tar.gz")
        monkeypatch.setenv("KDMLC_DATA", str(place))
        got = [load(name, folder), load(name, archive), load(name)]
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        got.append(load(name))
        for source in got:
            np.testing.assert_array_equal(source.train.images, expected.train.images)
            np.testing.assert_array_equal(source.train.labels, expected.train.labels)
            np.testing.assert_array_equal(source.test.images, expected.test.images)
            assert source.class_names == expected.class_names


def test_another_size_is_noted(tmp_path):
    """Protects the reader of a result: a part of the set, or one cut at a record's end, is said to be one."""
    write(tmp_path, "cifar10", "binary")
    note = f"{tmp_path}: 10 training and 2 test images, the published set has 50000 and 10000"
    assert load("cifar10", tmp_path).notes == (note,)


@pytest.mark.parametrize("version", VERSIONS)
def test_training_files_of_unequal_length(tmp_path, version):
    """Protects against a file cut at a record's end, which nothing else would show."""
    records = write(tmp_path, "cifar10", version)
    name = next(name for name in records if "4" in name)
    part = records[name][:1]
    (tmp_path / name).write_bytes(part.tobytes() if version == "binary" else pickled(part, "cifar10"))
    assert f"{tmp_path}/{name}: 1 images, expected 2 as in the other" in error_of("cifar10", tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "label"), [("cifar10", 77), ("cifar100", 100)])
def test_label_out_of_range(tmp_path, version, name, label):
    """Protects training from labels beyond the classes, which JAX would clamp or turn into NaN in silence."""
    file, records = list(write(tmp_path, name, version).items())[-1]
    changed = records.copy()
    changed[1, -3073] = label
    (tmp_path / file).write_bytes(changed.tobytes() if version == "binary" else pickled(changed, name))
    expected = f"{tmp_path}/{file} row 1: {label} is out of range, expected 0 to {cifar.CLASSES[name] - 1}"
    assert expected in error_of(name, tmp_path)


@pytest.mark.parametrize("size", [0, 3072, 6145])
def test_binary_file_of_wrong_size(tmp_path, size):
    """Protects against a truncated file, which has no header to tell."""
    write(tmp_path, "cifar10", "binary")
    path = tmp_path / "test_batch.bin"
    path.write_bytes(bytes(size))
    assert f"{path}: {size} bytes, expected a multiple of 3073 (1 label + 3072" in error_of("cifar10", tmp_path)
    write(tmp_path, "cifar100", "binary")
    (tmp_path / "test.bin").write_bytes(bytes(3073))
    assert "3073 bytes, expected a multiple of 3074 (2 labels + 3072" in error_of("cifar100", tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
def test_class_names_are_counted(tmp_path, version):
    """Protects reports from the class names of another set."""
    write(tmp_path, "cifar10", version)
    path = tmp_path / ("batches.meta.txt" if version == "binary" else "batches.meta")
    path.write_bytes(b"cat\ndog\n" if version == "binary" else pickle.dumps({"label_names": ["cat", "dog"]}))
    assert f"{path}: 2 class names, expected 10" in error_of("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [0]}, "no entry \"data\", found 'labels'"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "no entry \"labels\", found 'data'"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [0]}, '"data" is uint8[1, 3071], expected uint8[N, 3072]'),
        ({"data": np.zeros((1, 3072)), "labels": [0]}, '"data" is float64[1, 3072], expected uint8[N, 3072]'),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, '"data" is uint8[0, 3072], expected uint8[N, 3072]'),
        ({"data": "pixels", "labels": [0]}, '"data" is a str, expected uint8[N, 3072]'),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "1 labels, expected 2, the number of images"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["x"]}, '"labels" is a list, expected a list of whole'),
    ],
)
def test_pickle_of_other_content(tmp_path, content, message):
    """Protects the message for a pickle that is honest but no CIFAR file."""
    write(tmp_path, "cifar10", "python")
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps(content, 2))
    assert f"{tmp_path}/data_batch_2: {message}" in error_of("cifar10", tmp_path)


def test_pickle_that_calls(tmp_path, monkeypatch):
    """Protects the machine: a CIFAR folder or archive from a stranger runs nothing."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    write(folder, "cifar10", "python")
    (folder / "test_batch").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    for path in (folder, pack(folder, tmp_path / "a.tar.gz")):
        assert f"{path}/test_batch: refused, the pickle asks for 'os.system'" in error_of("cifar10", path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_missing_file_is_named(tmp_path, version):
    """Protects the message for an incomplete unpacking, of folder and archive."""
    folder = tmp_path / FOLDERS["cifar10", version]
    name = next(name for name in write(folder, "cifar10", version) if "4" in name)
    (folder / name).unlink()
    assert f"{folder}/{name}: no such file" in error_of("cifar10", folder)
    archive = pack(folder, tmp_path / "a.tar.gz")
    assert f"{archive}/{name}: no such file in the archive" in error_of("cifar10", archive)


def test_unreadable_file_is_named(tmp_path):
    """Protects against a traceback for a file that cannot be opened: here, a folder of that name."""
    write(tmp_path, "cifar10", "binary")
    (tmp_path / "test_batch.bin").unlink()
    (tmp_path / "test_batch.bin").mkdir()
    assert f"{tmp_path}/test_batch.bin: cannot be read (Is a directory)" in error_of("cifar10", tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission(tmp_path):
    """Protects against a traceback for a folder or archive of another user's."""
    write(tmp_path / "folder", "cifar10", "binary")
    archive = pack(tmp_path / "folder", tmp_path / "a.tar.gz")
    for path in (tmp_path / "folder", archive):
        path.chmod(0)
        try:
            with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
                load("cifar10", path)
        finally:
            path.chmod(0o700)


def test_folder_of_something_else(tmp_path, monkeypatch):
    """Protects the message for the wrong folder, the other CIFAR, and a path that is not there."""
    assert f"{tmp_path}: holds neither data_batch_1 nor data_batch_1.bin" in error_of("cifar10", tmp_path)
    write(tmp_path, "cifar100", "binary")
    assert f'{tmp_path}: holds neither data_batch_1 nor data_batch_1.bin, expected the files of "cifar10"' in error_of(
        "cifar10", tmp_path
    )
    message = 'does not exist, expected the folder or the .tar.gz of "cifar10"'
    with pytest.raises(UserError) as caught:
        load("cifar10", tmp_path / "absent")
    assert str(caught.value) == f"data.dir: {tmp_path}/absent {message}"
    monkeypatch.setenv("KDMLC_DATA", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load("cifar10")
    assert str(caught.value) == f"KDMLC_DATA: {tmp_path}/cifar-10-batches-py {message}"


def member(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 5 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (member("../canary"), "member '../canary' lies outside the archive"),
        (member("a/../../canary"), "member 'a/../../canary' lies outside the archive"),
        (member("/tmp/canary"), "member '/tmp/canary' lies outside the archive"),
        (member("a\n\x1b[H/../b"), r"member 'a\n\x1b[H/../b' lies outside the archive"),
        (member("a/test_batch.bin", tarfile.SYMTYPE, "/etc/passwd"), "'a/test_batch.bin' is a link or device"),
        (member("a/test_batch.bin", tarfile.LNKTYPE, "a/b"), "'a/test_batch.bin' is a link or device"),
        (member("a/null", tarfile.CHRTYPE), "'a/null' is a link or device"),
        (member("a/pipe", tarfile.FIFOTYPE), "'a/pipe' is a link or device"),
        (member("b/test_batch.bin"), "two members named 'test_batch.bin', expected one"),
    ],
)
def test_suspicious_members(tmp_path, info, message):
    """Protects other files: an archive with a way out of itself is refused, and nothing is unpacked to disk anyway."""
    write(tmp_path / "a", "cifar10", "binary")
    path = pack(tmp_path / "a", tmp_path / "a.tar.gz")
    raw = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=raw, mode="w:gz") as new:
        for old_member in old:
            new.addfile(old_member, old.extractfile(old_member) if old_member.isreg() else None)
        new.addfile(info, io.BytesIO(b"bytes"))
    path.write_bytes(raw.getvalue())
    error = error_of("cifar10", path)
    assert error.startswith(f"{path}: ") and message in error
    assert not (tmp_path / "canary").exists() and not (tmp_path.parent / "canary").exists()


def test_damaged_archive(tmp_path):
    """Protects the message for a truncated download and for another file: also the last byte counts."""
    write(tmp_path / "a", "cifar10", "python")
    path = pack(tmp_path / "a", tmp_path / "a.tar.gz")
    raw = path.read_bytes()
    flipped = raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:]
    for damaged in (raw[: len(raw) // 2], raw[:-1], flipped, b"", b"text\n", raw[10:], raw[:600] + raw[700:]):
        path.write_bytes(damaged)
        error = error_of("cifar10", path)
        assert error.startswith(f"{path}: corrupt archive (") and error.endswith("expected a complete .tar.gz")


def test_archive_that_unpacks_to_too_much(tmp_path, monkeypatch):
    """Protects memory and time from an archive of zeros, in members that are kept and in those that are not."""
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 1 << 20)
    for name in ("a/data_batch_1.bin", "a/other"):
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
            info = tarfile.TarInfo(name)
            info.size = 1 << 22
            archive.addfile(info, io.BytesIO(bytes(1 << 22)))
        message = f"{tmp_path}/a.tar.gz: unpacks to more than 1048576 bytes"
        assert message in error_of("cifar10", tmp_path / "a.tar.gz")


def test_md5_of_an_archive(tmp_path, monkeypatch):
    """Protects against a damaged download: name and size of the published file, but other bytes."""
    write(tmp_path / "a", "cifar10", "binary")
    path = pack(tmp_path / "a", tmp_path / "cifar-10-binary.tar.gz")
    published = {path.name: (path.stat().st_size, "0" * 32)}
    monkeypatch.setitem(cifar.PUBLISHED, "cifar10", published)
    assert f"{path}: md5 is " in error_of("cifar10", path)
    published[path.name] = (path.stat().st_size + 1, "0" * 32)
    assert len(load("cifar10", path).train.labels) == 10


def test_real_versions_are_equal(data_dir):
    """Protects both readers against the files as published: sizes, balance, the known channel means, equal arrays."""
    folders = [data_dir / FOLDERS["cifar10", version] for version in VERSIONS]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("KDMLC_DATA holds no cifar-10-batches-bin and cifar-10-batches-py")
    binary, python = (load("cifar10", folder) for folder in folders)
    assert binary.notes == () and binary.class_names == python.class_names
    for one, other, size in ((binary.train, python.train, 50000), (binary.test, python.test, 10000)):
        assert one.images.shape == (size, 32, 32, 3)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(np.bincount(one.labels), np.full(10, size // 10))
    assert binary.class_names[0] == "airplane" and binary.class_names[9] == "truck"
    means = [binary.train.images[..., k].mean() / 255 for k in range(3)]
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=2e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_real_file_with_one_bit_wrong(data_dir, tmp_path, version):
    """Protects training from a damaged pixel, which only the md5 shows."""
    folder = data_dir / FOLDERS["cifar10", version]
    if not folder.is_dir():
        pytest.skip(f"KDMLC_DATA holds no {folder.name}")
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    name = "data_batch_1.bin" if version == "binary" else "data_batch_1"
    raw = bytearray((folder / name).read_bytes())
    raw[1_000_000] ^= 1
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(raw)
    assert f"{tmp_path}/{name}: md5 is " in error_of("cifar10", tmp_path)
    assert error_of("cifar10", tmp_path).endswith(f"{cifar.PUBLISHED['cifar10'][name][1]}: a damaged download")
