"""The comparison: cells, folders and aggregation by hand, and one tiny table over two methods and two seeds."""

import json

import pytest
import tiny

from kdmlc_jax import compare, train
from kdmlc_jax.errors import UserError


@pytest.mark.parametrize(
    "method, expected",
    [
        ("ce:train_on=noisy", ["method=ce,train_on=noisy,network=student", "method=ce,train_on=noisy,network=teacher"]),
        ("mlc:network=student,ema=0.9", ["method=mlc,network=student,ema=0.9"]),
        ("mlc", ["method=mlc,network=student", "method=mlc,network=teacher"]),
        ("kdmlc:preset=strong", ["method=kdmlc,preset=strong"]),
        ("kdmlc", ["method=kdmlc"]),
    ],
)
def test_expand(method, expected):
    """Protects fairness: a method of one network runs on both, unless it is told which."""
    assert compare.expand(method) == expected


def test_expand_refuses_an_unknown_method():
    """Protects a long comparison from a typing error in its list: it ends before the first run."""
    with pytest.raises(UserError, match=r'method\.name: "kdmcl" is not one of .*did you mean "kdmlc"'):
        compare.expand("kdmcl:preset=strong")


def test_join():
    """Protects the name of a cell's config, with and without arguments of its own."""
    assert compare.join("a.py", "method=ce,seed=1") == "a.py:method=ce,seed=1"
    assert compare.join("a.py:rate=0.8", "method=ce") == "a.py:rate=0.8,method=ce"


@pytest.mark.parametrize(
    "text, expected", [("ce,train_on=both", "ce,train_on=both"), ("a b/../c", "a-b-..-c"), ("x=(1, 2)", "x=-1,-2")]
)
def test_slug(text, expected):
    """Protects the file system: no separator, space or bracket in a folder's name."""
    assert compare.slug(text) == expected


def test_cells_have_folders_of_their_own():
    """Protects cells from each other: config arguments, method options and seed all move the folder."""
    spec = "configs/digits.py:rate=0.8"
    folder = compare.cell_folder(spec, "method=ce,train_on=noisy,network=student", 2)
    assert folder.as_posix() == "digits,rate=0.8/ce,train_on=noisy,network=student/seed2"
    others = {
        compare.cell_folder(*cell)
        for cell in [
            ("configs/digits.py", "method=ce", 0),
            ("configs/digits.py", "method=ce", 1),
            ("configs/digits.py", "method=mlc", 0),
            ("configs/digits.py:rate=0.2", "method=ce", 0),
            ("configs/fashion_mnist.py", "method=ce", 0),
        ]
    }
    assert len(others) == 5


def summary(last, best_val=None, auroc=None, label="", **changes):
    net = {"name": "cnn2", "parameters": 9, "last": last, "last5": last, "best_val": best_val, "best_test": last}
    made = {
        "method": "ce",
        "label": label,
        "config": "digits",
        "dataset": "digits",
        "noise": {"kind": "uniform", "nominal": 0.6, "realised": 0.5, "estimated": None},
        "networks": {"student": net},
        "labels": {"accuracy_before": 0.4, "accuracy_after": last, "f1": 0.5, "auroc": auroc},
        "seconds": 10.0,
    }
    return made | changes


def test_aggregate_by_hand():
    """Protects the numbers of the table: mean and sample standard deviation, None where a seed has no value."""
    (row,) = compare.aggregate([summary(0.5, 0.1, 0.9), summary(0.7, 0.3), summary(0.9, 0.2, 0.7)])
    assert row["n_seeds"] == 3
    assert row["last"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.2)}
    assert row["best_val"] == {"mean": pytest.approx(0.2), "std": pytest.approx(0.1)}
    assert row["labels_after"]["mean"] == pytest.approx(0.7) and row["labels_before"]["std"] == pytest.approx(0)
    assert row["auroc"] is None and row["rate_estimated"] is None
    assert row["rate_realised"]["mean"] == 0.5 and row["seconds"]["mean"] == 10.0


def test_aggregate_of_one_seed_has_no_spread():
    """Protects honesty: one seed gives no standard deviation, not one of 0."""
    (row,) = compare.aggregate([summary(0.5)])
    assert row["last"] == {"mean": 0.5, "std": None} and row["best_val"] is None


def test_aggregate_keeps_unlike_cells_apart():
    """Protects rows from mixing: config, options, method, data, noise and network each make a row."""
    cells = [
        summary(0.1),
        summary(0.1, label="train_on=both"),
        summary(0.1, method="mlc"),
        summary(0.1, dataset="mnist"),
        summary(0.1, config="digits,trusted=50"),
        summary(0.1, noise={"kind": "flip", "nominal": 0.6, "realised": 0.5, "estimated": None}),
        summary(0.1, noise={"kind": "uniform", "nominal": 0.2, "realised": 0.1, "estimated": None}),
        summary(0.1, networks={"teacher": summary(0.1)["networks"]["student"]}),
    ]
    rows = compare.aggregate(cells)
    assert len(rows) == len(cells) and all(row["n_seeds"] == 1 for row in rows)


def test_markdown_shows_spread_and_gaps():
    """Protects the table people paste: as many cells as the head, ± where there are seeds, – where there is nothing."""
    lines = compare.markdown(compare.aggregate([summary(0.5), summary(0.7), summary(0.25, label="x")])).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "0.600 ± 0.141" in lines[2] and "–" in lines[2] and "10 ± 0" in lines[2]
    assert "0.250" in lines[3] and "±" not in lines[3]
    assert "oracle" in lines[0] and "student (cnn2)" in lines[2] and "uniform 0.6" in lines[2]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A tiny comparison's words, its folder and what it printed."""
    workdir = tmp_path_factory.mktemp("compare")
    methods = "ce:train_on=trusted,network=student mlc:network=student,bilevel=off"
    words = ["--config", f"{tiny.SPEC},epochs=1", *tiny.FLAGS, "--methods", methods, "--seeds", "0,1"]
    words += ["--workdir", str(workdir)]
    compare.main(words)
    return words, workdir


def test_comparison_writes_the_table(compared):
    """Protects table.json: one row per method with the designed keys and both seeds; table.md shows the same."""
    _, workdir = compared
    rows = json.loads((workdir / "table.json").read_text(), parse_constant=pytest.fail)
    assert [row["method"] for row in rows] == ["ce", "mlc"]
    assert [row["options"] for row in rows] == ["train_on=trusted", "bilevel=off"]
    for row in rows:
        assert row.keys() >= {"method", "options", "noise", "rate", "network", "n_seeds"}
        assert (row["noise"], row["rate"], row["network"], row["n_seeds"]) == ("uniform", 0.6, "student", 2)
        for name in ("last", "last5", "best_val", "best_test", "labels_after", "seconds"):
            assert row[name].keys() == {"mean", "std"} and row[name]["std"] >= 0
        results = [json.loads(path.read_text()) for path in workdir.glob(f"*/{row['method']},*/seed?/summary.json")]
        last = [result["networks"]["student"]["last"] for result in results]
        assert sorted(result["seed"] for result in results) == [0, 1]
        assert row["last"]["mean"] == pytest.approx(sum(last) / 2)
        assert row["last"]["std"] == pytest.approx(abs(last[0] - last[1]) / 2**0.5)
    assert (workdir / "table.md").read_text() == compare.markdown(rows)


def test_second_comparison_trains_nothing(compared, monkeypatch, capsys):
    """Protects hours of work: finished cells are read, and the table comes out the same."""
    words, workdir = compared
    before = (workdir / "table.json").read_bytes()

    def train_again(*args):
        raise AssertionError("a finished cell was trained again")

    monkeypatch.setattr(train, "Experiment", train_again)
    compare.main(words)
    assert (workdir / "table.json").read_bytes() == before
    assert capsys.readouterr().out.strip() == (workdir / "table.md").read_text().strip()


@pytest.mark.parametrize("seeds", ["0,x", "", "1.5", "0,,1", "0-2", "0,1,0"])
def test_bad_seeds_are_refused(tmp_path, seeds):
    """Protects the spread: seeds are whole numbers, each given once."""
    words = ["--config", tiny.SPEC, "--methods", "ce", "--seeds", seeds, "--workdir", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "run_cell", lambda *_: pytest.fail("a run was started"))
        with pytest.raises(UserError, match="--seeds"):
            compare.main(words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("methods", "flag", "message"),
    [
        ("ce", "--config.seed=3", r"--config\.seed: would make every cell alike"),
        ("ce", "--config.method.network=teacher", r"--config\.method\.network: would make every cell alike"),
        ("ce ce:network=student", "--config.devices=1", r"ce,network=student/seed0 is named twice"),
    ],
)
def test_one_run_is_not_counted_twice(tmp_path, methods, flag, message):
    """Protects the spread from runs that are the same run, by an override or by two names."""
    words = ["--config", tiny.SPEC, "--methods", methods, "--seeds", "0", flag, "--workdir", str(tmp_path / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "run_cell", lambda *_: pytest.fail("a run was started"))
        with pytest.raises(UserError, match=message):
            compare.main(words)
    assert not (tmp_path / "out").exists()


def test_cells_on_other_images_are_refused(tmp_path):
    """Protects a fair table: two methods whose configs ask for other splits end before the first run."""
    cells = [(tiny.config("trusted=100"), "digits: kdmlc"), (tiny.config("trusted=50"), "digits: mlc")]
    with pytest.raises(
        UserError, match=r"digits: mlc: data.trusted=50.0, but 100.0 in digits: kdmlc; give it in --config"
    ):
        compare.check_same_data(cells)
    compare.check_same_data([cells[0], (tiny.config("trusted=100,lr=0.01"), "digits: mlc")])
    compare.check_same_data([cells[0], (cells[1][0], "other: mlc")])
    with pytest.raises(UserError, match=r"blind_kd: data.trusted=0"):
        compare.compare(["configs/cifar10.py:quick"], ["kdmlc", "blind_kd"], [0], {}, tmp_path)
    assert not any(tmp_path.iterdir())


def test_missing_flags_end_with_status_2(capsys):
    """Protects a person who leaves out a flag: exit 2 naming it."""
    with pytest.raises(SystemExit) as ended:
        compare.main(["--config", tiny.SPEC])
    assert ended.value.code == 2 and "--methods" in capsys.readouterr().err
