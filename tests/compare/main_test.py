"""The comparison as a command: one tiny table over two seeds, and what ends before the first run."""

import json
import re
import urllib.parse

import numpy as np
import pytest
import tiny

from kdmlc_jax import train
from kdmlc_jax.compare import __main__ as command
from kdmlc_jax.compare.grid import cells_of
from kdmlc_jax.compare.table import markdown
from kdmlc_jax.errors import NoTrustedError, UserError

SPEC = "configs/digits.py:student=mlp2,noisy=200,validation=20,epochs=1"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A tiny comparison's words, and its folder."""
    workdir = tmp_path_factory.mktemp("compare")
    words = ["--config", SPEC, *tiny.FLAGS, "--methods", "ce:train_on=trusted,network=student", "--seeds", "0,1"]
    words += ["--workdir", str(workdir)]
    command.main(words)
    return words, workdir


def test_comparison_writes_the_table(compared):
    """Protects table.json: a row over both seeds with the designed keys, of what each run has written; table.md shows
    the same."""
    _, workdir = compared
    rows = json.loads((workdir / "table.json").read_text(), parse_constant=pytest.fail)
    (row,) = rows
    assert row.keys() >= {"method", "options", "noise", "rate", "network", "n_seeds"}
    assert (row["method"], row["options"], row["network"]) == ("ce", "train_on=trusted", "student")
    assert (row["noise"], row["rate"], row["n_seeds"]) == ("uniform", 0.6, 2)
    for name in ("last", "last5", "best_val", "best_test", "labels_after", "seconds"):
        assert row[name].keys() == {"mean", "std"} and row[name]["std"] >= 0
    results = [json.loads(path.read_text()) for path in workdir.glob("*/ce,*/seed?/summary.json")]
    last = [result["networks"]["student"]["last"] for result in results]
    assert sorted(result["seed"] for result in results) == [0, 1] and last[0] != last[1]
    assert row["last"]["mean"] == pytest.approx(sum(last) / 2)
    assert row["last"]["std"] == pytest.approx(abs(last[0] - last[1]) / 2**0.5)
    assert (workdir / "table.md").read_text() == markdown(rows)
    page = (workdir / "comparison.html").read_text()
    links = re.findall(r'href="\./([^"]+)"', page)
    assert len(links) == 2 and all((workdir / urllib.parse.unquote(link)).exists() for link in links)


def test_second_comparison_trains_nothing(compared, monkeypatch, capsys):
    """Protects hours of work: finished cells are read, and the table comes out the same."""
    words, workdir = compared
    before = (workdir / "table.json").read_bytes()
    monkeypatch.setattr(train, "Experiment", None)
    command.main(words)
    assert (workdir / "table.json").read_bytes() == before
    assert capsys.readouterr().out.strip() == (workdir / "table.md").read_text().strip()


def test_what_names_a_row(tmp_path, monkeypatch):
    """Protects rows from mixing: the run's options, but for its network, and its config go into the summary."""
    ran = []
    monkeypatch.setattr(train, "run", lambda *words, title: ran.append((*words, title)) or {"method": "mlc"})
    arguments = ["method=mlc,network=student,ema=0.5,bilevel=off"]
    (cell,) = cells_of(["configs/digits.py:rate=0.2"], arguments, [3], {})
    made = command.run_cell(cell, tmp_path)
    place = "digits,rate=0.2/mlc,network=student,ema=0.5,bilevel=off/seed3"
    assert made == {"method": "mlc", "label": "ema=0.5 bilevel=off", "config": "digits,rate=0.2", "folder": place}
    folder = tmp_path / place
    assert ran == [(cell.config, folder, "mlc network=student ema=0.5 bilevel=off seed 3")]


@pytest.mark.parametrize(
    ("seeds", "methods", "flag"),
    [(seeds, "ce", "--seeds") for seeds in ("0,x", "", "1.5", "0,,1", "0-2", "0,1,0")]
    + [("0", "ce ce", "--methods"), ("0", "ce ce:network=student", "--methods"), ("0", "kdmcl", "kdmcl")],
)
def test_what_cannot_be_compared_ends_before_the_first_run(tmp_path, monkeypatch, seeds, methods, flag):
    """Protects a long comparison: seeds are whole numbers, each method is there, and each run counts once."""
    monkeypatch.setattr(command, "run_cell", lambda *_: pytest.fail("a run was started"))
    words = ["--config", SPEC, "--methods", methods, "--seeds", seeds, "--workdir", str(tmp_path / "out")]
    with pytest.raises(UserError, match=flag):
        command.main(words)
    assert not (tmp_path / "out").exists()


def test_missing_flags_end_with_status_2(capsys):
    """Protects a person who leaves out a flag: exit 2 naming it."""
    with pytest.raises(SystemExit) as ended:
        command.main(["--config", SPEC])
    assert ended.value.code == 2 and "--methods" in capsys.readouterr().err


def features(folder):
    """A folder of features, as `data.source=features` reads them."""
    rng, label = np.random.default_rng(0), np.arange(120) % 3
    folder.mkdir()
    np.save(folder / "features.npy", (rng.normal(size=(120, 4)) + 2 * np.eye(4)[label]).astype(np.float32))
    np.save(folder / "labels.npy", label)
    np.save(folder / "trusted.npy", np.arange(30))
    return folder


def test_a_comparison_on_features_begins_with_what_needs_no_training(tmp_path, monkeypatch, capsys):
    """Protects a person from training what a plain vote or regression does as well: they come first, once, are left out
    where they cannot be, and are not added on images."""
    spec = f"configs/features.py:dir={features(tmp_path / 'features')},student=mlp2,epochs=1"
    got = command.unnamed([spec], ["method=ce", "method=knn"], {})
    assert got == ["method=linear", "method=linear,train_on=noisy", "method=wann"]
    assert command.unnamed([SPEC], [], {}) == command.unnamed([spec, SPEC], [], {}) == []
    ran = []

    def run(config, workdir, title):
        if config.method.name == "linear":
            raise NoTrustedError("data.trusted: no trusted images")
        ran.append(config.method.name)
        return {"networks": {}}

    monkeypatch.setattr(train, "run", run)
    command.compare([spec], ["ce:network=student"], [0], {}, tmp_path)
    assert ran == ["knn", "wann", "ce"]
    assert "left out: linear,train_on=noisy (data.trusted: no trusted images)" in capsys.readouterr().err
    with pytest.raises(NoTrustedError):
        command.compare([spec], ["linear"], [0], {}, tmp_path)
