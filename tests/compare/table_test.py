"""The table of a comparison, by hand."""

import pytest

from kdmlc_jax.compare import table


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
        "seed": 0,
        "folder": "digits/ce/seed0",
    }
    return made | changes


def test_aggregate_by_hand():
    """Protects the numbers of the table: mean and sample standard deviation, None where a seed has no value."""
    (row,) = table.aggregate([summary(0.5, 0.1, 0.9), summary(0.7, 0.3), summary(0.9, 0.2, 0.7)])
    assert row["n_seeds"] == 3
    assert row["last"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.2)}
    assert row["best_val"] == {"mean": pytest.approx(0.2), "std": pytest.approx(0.1)}
    assert row["labels_after"]["mean"] == pytest.approx(0.7) and row["labels_before"]["std"] == pytest.approx(0)
    assert row["auroc"] is None and row["rate_estimated"] is None
    assert row["rate_realised"]["mean"] == 0.5 and row["seconds"]["mean"] == 10.0


def test_aggregate_of_one_seed_has_no_spread():
    """Protects honesty: one seed gives no standard deviation, not one of 0."""
    (row,) = table.aggregate([summary(0.5)])
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
    rows = table.aggregate(cells)
    assert len(rows) == len(cells) and all(row["n_seeds"] == 1 for row in rows)


def test_markdown_shows_spread_and_gaps():
    """Protects the table people paste: as many cells as the head, ± where there are seeds, – where there is nothing."""
    lines = table.markdown(table.aggregate([summary(0.5), summary(0.7), summary(0.25, label="x")])).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "0.600 ± 0.141" in lines[2] and "–" in lines[2] and "10 ± 0" in lines[2]
    assert "0.250" in lines[3] and "±" not in lines[3]
    assert "oracle" in lines[0] and "student (cnn2)" in lines[2] and "uniform 0.6" in lines[2]
