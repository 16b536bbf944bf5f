"""Why one label is suspected, in words."""

import corrected
import numpy as np
import pytest

from kdmlc_jax import explain
from kdmlc_jax.errors import UserError
from kdmlc_jax.report import evidence


@pytest.fixture
def run(tmp_path, monkeypatch):
    """See `corrected.make`; without networks, an image's features are its pixels."""
    workdir, ids, given = corrected.make(tmp_path)

    def features(dataset, rows, network):
        found = dataset.images[rows].reshape(len(rows), -1).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    monkeypatch.setattr(evidence, "features", features)
    monkeypatch.setattr(evidence, "network_of", lambda summary, workdir: workdir)
    return workdir, ids, given


def test_a_label_to_correct(run, capsys):
    """Protects a reviewer: what is believed and how much, its place, what becomes of it, and trusted images alike."""
    workdir, ids, given = run
    names = ("cat", "dog", "owl")
    explain.main([ids[0], "--workdir", str(workdir), "--near", "2"])
    said = capsys.readouterr().out.splitlines()
    old, new = names[given[0]], names[(given[0] + 1) % 3]
    assert said[0] == f"{ids[0]} (noisy)"
    assert said[1].split() == ["given", f"{old}:", "right", "with", "probability", "0.015"]
    assert said[2].split() == ["suggested", f"{new}:", "0.970"]
    assert said[3].split()[:3] == ["beliefs", new, "0.970,"]
    assert "place 1 of 30 (label_score 0.015" in said[4]
    assert f"decision   correct: correct to {new}, which held-out trusted images vouch for" in said[5]
    assert f"the label becomes {new} (confidence 0.970)" in said[6]
    assert f"1 of these for {new}" in said[8] or f"of these for {new}" in said[8]
    near = [line for line in said if line.startswith("  near")]
    assert len(near) == 2 and all("trusted/" in line and ", trusted: " in line for line in near)


def test_a_name_s_end_will_do(run, capsys):
    """Protects from typing whole paths: the file's own name, where one image has it."""
    workdir, ids, _ = run
    only = next(name for name in ids if name.startswith("train/") and int(name[-6:-4]) >= 6)
    explain.main([only.removeprefix("train/"), "--workdir", str(workdir), "--near", "0"])
    assert capsys.readouterr().out.startswith(only)
    explain.main([ids[1], "--workdir", str(workdir), "--near", "0"])
    out = capsys.readouterr().out
    assert "review: for a person to look at" in out and "near" not in out


def test_a_trusted_label_is_not_in_doubt(run, capsys):
    """Protects from a reason to doubt what was never asked."""
    workdir, ids, _ = run
    name = next(each for each in ids if each.startswith("trusted/"))
    explain.main([name, "--workdir", str(workdir), "--near", "0"])
    out = capsys.readouterr().out
    assert "its label is trusted" in out and "decision" not in out


@pytest.mark.parametrize(
    ("name", "message"),
    [("train/cat/0.png", "is no image of this run .did you mean"), ("absent", "labels.csv has their ids")],
)
def test_unknown_images(run, name, message):
    """Protects who mistypes: the nearest id."""
    with pytest.raises(UserError, match=message):
        explain.main([name, "--workdir", str(run[0])])


def test_a_name_of_several():
    """Protects from the reasons of another image."""
    with pytest.raises(UserError, match=r'"1.png" names 2 images \(a/1.png, b/1.png …\), expected the whole id'):
        explain.find("1.png", ["a/1.png", "b/1.png", "c/11.png"])
    assert explain.find("c/11.png", ["a/1.png", "c/11.png"]) == 1
