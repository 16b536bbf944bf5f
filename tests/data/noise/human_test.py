"""The human labels of CIFAR-10N and CIFAR-100N: which are read, and one clear line for what does not fit."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from loading import load

from kdmlc_jax.data.noise import Request, human
from kdmlc_jax.errors import UserError

KEYS = ("clean_label", "aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")
RATES = {"aggre": 0.0901, "random1": 0.1723, "random2": 0.1812, "random3": 0.1764, "worst": 0.4021}


def read_human(path, labels, truth, num_classes):
    request = Request(0.0, num_classes, 0, truth=np.asarray(truth, np.int32), file=path, column=labels)
    return human.labels(request)


def write_human(path, **columns):
    """A file as torch.save writes it."""
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(columns, 2))
    return str(path)


def human_error(path, labels, truth, num_classes=10):
    with pytest.raises(UserError) as caught:
        read_human(path, labels, truth, num_classes)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_human_labels_by_name(tmp_path, monkeypatch):
    """Protects which column a name of the config reads, for both sets, given or found below KDMLC_DATA."""
    truth = np.arange(10, dtype=np.int32)
    columns = {key: (truth + shift) % 10 for shift, key in enumerate(KEYS)}
    write_human(
        tmp_path / "cifar-10n" / "CIFAR-10_human.pt", **{key: value.astype(int) for key, value in columns.items()}
    )
    monkeypatch.setenv("KDMLC_DATA", str(tmp_path))
    for shift, labels in enumerate(("aggre", "worst", "random1", "random2", "random3"), start=1):
        got = read_human("", labels, truth, 10)
        np.testing.assert_array_equal(got, (truth + shift) % 10)
        assert got.dtype == np.int32
    coarse = {"clean_coarse_label": truth, "noisy_coarse_label": truth}
    path = write_human(
        tmp_path / "cifar-100n" / "CIFAR-100_human.pt", clean_label=truth, noisy_label=truth + 90, **coarse
    )
    for place in ("", path):
        np.testing.assert_array_equal(read_human(place, "noisy", truth, 100), truth + 90)


def test_human_labels_of_another_name(tmp_path):
    """Protects the answer to a typing error, and to the names of the other set."""
    truth = np.zeros(3, np.int32)
    path = write_human(tmp_path / "a.pt", clean_label=truth)
    message = human_error(path, "wrost", truth)
    assert message == (
        'noise.human: "wrost" is not one of aggre, random1, random2, random3, worst (did you mean "worst"?)'
    )
    assert 'noise.human: "worst" is not one of noisy' in human_error(path, "worst", truth, 100)
    assert 'noise.kind: "human" is for CIFAR-10 and CIFAR-100, this set has 7' in human_error(path, "worst", truth, 7)


def test_human_labels_in_another_order(tmp_path):
    """Protects the noise itself: labels of other images look like noise and are nothing of the kind."""
    truth = np.array([0, 1, 2, 3, 4], np.int32)
    path = write_human(tmp_path / "a.pt", clean_label=truth[[1, 0, 2, 3, 4]], worse_label=truth)
    message = human_error(path, "worst", truth)
    assert f"{path}: clean_label differs from the training labels at 2 of 5 rows, expected 0" in message
    assert "another order" in message and "tfds" in message


def test_human_labels_that_do_not_fit(tmp_path, monkeypatch):
    """Protects the messages for another length, a missing column, a label beyond the classes, and no file."""
    truth = np.arange(3, dtype=np.int32)
    path = write_human(tmp_path / "a.pt", clean_label=truth, worse_label=truth + 8, aggre_label=truth[:2])
    assert f"{path}: 3 labels in clean_label, expected 4, one per" in human_error(path, "worst", np.arange(4))
    assert f"{path}: 2 labels in aggre_label, expected 3" in human_error(path, "aggre", truth)
    assert f"{path} worse_label row 2: 10 is out of range" in human_error(path, "worst", truth)
    assert f"{path}: no entry \"random_label1\", found 'clean_label'" in human_error(path, "random1", truth)
    assert f"{tmp_path}/absent.pt: no such file" in human_error(f"{tmp_path}/absent.pt", "worst", truth)
    monkeypatch.delenv("KDMLC_DATA", raising=False)
    assert "noise.file is empty: give CIFAR-10_human.pt" in human_error("", "worst", truth)


def test_real_human_labels(data_dir):
    """Protects the published noise rates, and with them the order of the training images."""
    if not (data_dir / "cifar-10n").is_dir() or not (data_dir / "cifar-10-batches-bin").is_dir():
        pytest.skip("KDMLC_DATA holds no cifar-10n and cifar-10-batches-bin")
    truth = load("cifar10").train.labels
    for labels, rate in RATES.items():
        assert np.mean(read_human("", labels, truth, 10) != truth) == pytest.approx(rate, abs=5e-5)
    order = np.random.default_rng(0).permutation(len(truth))
    assert "at 4" in human_error("", "worst", truth[order])  # nine in ten of 50 000


@pytest.mark.parametrize("values", [np.asarray, list])
def test_a_dictionary_in_npy(tmp_path, monkeypatch, values):
    """Protects CIFAR-10_human.npy, a pickle within .npy: read by the restricted reader, found below KDMLC_DATA too."""
    truth = np.arange(10)
    columns = {key: values((truth + shift) % 10) for shift, key in enumerate(KEYS)}
    path = tmp_path / "cifar-10n" / "CIFAR-10_human.npy"
    path.parent.mkdir()
    np.save(path, columns, allow_pickle=True)
    monkeypatch.setenv("KDMLC_DATA", str(tmp_path))
    for place in ("", str(path)):
        np.testing.assert_array_equal(read_human(place, "worst", truth, 10), (truth + 2) % 10)
    assert "clean_label differs from the training labels" in human_error(str(path), "worst", truth[::-1])


class Call:
    """Pickled, a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch called",)


@pytest.mark.parametrize("inside", [Call(), {"clean_label": Call()}, [1, None], np.zeros(3), {"a": {"b": 1}}])
def test_npy_that_is_no_dictionary(tmp_path, monkeypatch, inside):
    """Protects from code in a .npy file, and from a traceback where it is cut or holds something else."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    box = np.empty((), object)
    box[()] = inside
    np.save(path, inside if isinstance(inside, np.ndarray) else box, allow_pickle=True)
    whole = path.read_bytes()
    for raw in (whole, whole[:-3], whole[:100], whole[:9], b"", b"\x93NUMPY"):
        path.write_bytes(raw)
        assert human_error(str(path), "worst", np.arange(10)).startswith(str(path))
    assert not (tmp_path / "called").exists()
