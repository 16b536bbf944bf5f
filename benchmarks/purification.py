"""How many labels are right after purifying them, on which features: beside the linear probe that users would ask for.

    python benchmarks/purification.py --config configs/fashion_mnist.py:noise=uniform,rate=0.8 … \\
        --ssl 'runs/simclr/fashion/seed{seed}' --seeds 0,1,2 --workdir runs/purification

The features are pixels (`pixels`, up to 1 024), their first principal components (`pca`: 95 % of the variance, 100
at most), and those of the networks that a run of `method=simclr` on the same data and seed has left in `--ssl`, side
by side or as two views. Labels: as given; by a linear probe, scikit-learn's cross-validated logistic regression on
the trusted images; purified without the given labels as evidence, with them, and by the release's form. The figures
are the share of the noisy images' labels that are right, and for the probe the test accuracy, too. Writes
purification.json and purification.md.
"""

import argparse
import pathlib
import time

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdmlc_jax import config as config_lib
from kdmlc_jax import train_state, warm_start
from kdmlc_jax.compare import grid, table
from kdmlc_jax.config.words import join
from kdmlc_jax.data.augment import normalise
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.evaluate import map_rows
from kdmlc_jax.experiment import Experiment
from kdmlc_jax.labels.purify import purify
from kdmlc_jax.labels.purify.release import purify_release
from kdmlc_jax.methods.parts.contrastive import side_by_side
from kdmlc_jax.storage import files

MOST = 1024  # pixels; more take minutes to purify on
Rows = dict[str, np.ndarray]  # by part: noisy, trusted, test


def parts(dataset: Dataset) -> dict[str, tuple]:
    """(images, rows) of each part."""
    test = dataset.test_images, np.arange(len(dataset.test_label))
    splits = {name: (dataset.images, getattr(dataset.splits, name)) for name in ("noisy", "trusted")}
    return {**splits, "test": test}


def pixels(dataset: Dataset) -> list[Rows]:
    """Flattened images in 0..1."""
    return [
        {name: images[rows].reshape(len(rows), -1) / np.float32(255) for name, (images, rows) in parts(dataset).items()}
    ]


def components(dataset: Dataset) -> list[Rows]:
    """Principal components of the noisy images."""
    (raw,) = pixels(dataset)
    fitted = PCA(min(100, raw["noisy"].shape[1]), random_state=0).fit(raw["noisy"])
    count = int(np.searchsorted(np.cumsum(fitted.explained_variance_ratio_), 0.95)) + 1
    return [{name: fitted.transform(rows)[:, :count].astype(np.float32) for name, rows in raw.items()}]


def learned(config, dataset: Dataset, folder: pathlib.Path) -> dict[str, list[Rows]]:
    """Both networks' features of a run of SimCLR: side by side, and as two views."""
    run = Experiment(config, dataset)
    carry, _ = warm_start.start_from(run, run.init(), folder)
    networks, scale = run.method.networks(carry["method"]), (run.fixed["mean"], run.fixed["std"])
    found: dict[str, Rows] = {}
    for name in ("teacher", "student"):
        features = lambda images, net=networks[name]: train_state.evaluate(net, normalise(images, *scale)).features  # noqa: E731
        found[name] = {part: map_rows(features, images, rows, 500) for part, (images, rows) in parts(dataset).items()}
    both = {
        part: np.asarray(side_by_side({name: rows[part] for name, rows in found.items()})) for part in parts(dataset)
    }
    return {"simclr": [both], "simclr, two views": list(found.values())}


def measure(dataset: Dataset, views: list[Rows], seed: int) -> dict[str, float]:
    """The figures of one kind of features."""
    given, truth, known = (
        labels[rows]
        for labels, rows in (
            (dataset.given_label, dataset.splits.noisy),
            (dataset.truth, dataset.splits.noisy),
            (dataset.given_label, dataset.splits.trusted),
        )
    )
    joined = {name: np.concatenate([rows[name] for rows in views], axis=1) for name in views[0]}
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe = GridSearchCV(plain, {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]}, cv=3).fit(joined["trusted"], known)
    second = (
        {} if len(views) < 2 else {"second_features": views[1]["noisy"], "second_trusted_features": views[1]["trusted"]}
    )
    arrays, classes = (views[0]["noisy"], given, views[0]["trusted"], known), len(dataset.class_names)
    row = {
        "given": np.mean(given == truth),
        "probe": np.mean(probe.predict(joined["noisy"]) == truth),
        "probe_test": np.mean(probe.predict(joined["test"]) == dataset.test_label),
    }
    began = time.monotonic()
    forms = {"purified": {}, "no_evidence": {"evidence": False}}
    for name, options in forms.items():
        soft = purify(*arrays, num_classes=classes, seed=seed, **second, **options)
        row[name] = np.mean(soft.argmax(axis=1) == truth)
        row.setdefault("seconds", time.monotonic() - began)
    # Its λ is 0, with which XᵀX of pixels that are always black cannot be inverted.
    soft = purify_release(*arrays, num_classes=classes, seed=seed, ridge=1e-6)
    row["release"] = np.mean(soft.argmax(axis=1) == truth)
    return {name: float(value) for name, value in row.items()}


FIGURES = ("given", "probe", "purified", "no_evidence", "release", "probe_test", "seconds")


def markdown(rows: list[dict]) -> str:
    """The table; shares of right labels, and the probe's test accuracy."""
    head = ["config", "features", "columns", "given", "linear probe", "purified", "without evidence", "release"]
    lines = ["| " + " | ".join([*head, "probe, test", "seconds"]) + " |", "|" + "---|" * (len(head) + 2)]
    for row in rows:
        cells = [row["config"], row["features"], row["columns"]]
        cells += [table.show(row[name], 1 if name == "seconds" else 3) for name in FIGURES]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reads the flags, measures, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, metavar="PATH:ARGUMENTS")
    parser.add_argument("--ssl", action="append", required=True, metavar="DIR", help="one, or one for each config")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    flags, rows = parser.parse_args(), []
    folders = flags.ssl * len(flags.config) if len(flags.ssl) == 1 else flags.ssl
    for spec, folder in zip(flags.config, folders, strict=True):
        found: dict[str, list[dict]] = {}
        columns: dict[str, str] = {}
        for seed in map(int, flags.seeds.split(",")):
            config = config_lib.load(join(spec, f"method=simclr,seed={seed}"))
            dataset = prepare(config)
            ssl = pathlib.Path(folder.replace(grid.SEED, str(seed)))
            kinds = {"pixels": pixels(dataset), "pca": components(dataset), **learned(config, dataset, ssl)}
            if kinds["pixels"][0]["noisy"].shape[1] > MOST:
                del kinds["pixels"]
            for kind, views in kinds.items():
                found.setdefault(kind, []).append(measure(dataset, views, seed))
                columns[kind] = " + ".join(str(view["noisy"].shape[1]) for view in views)
        for kind, cells in found.items():
            figures = {name: table.mean_std([cell[name] for cell in cells]) for name in FIGURES}
            rows.append({"config": spec, "features": kind, "columns": columns[kind], **figures})
        files.make_directory(flags.workdir)
        files.write_json(flags.workdir / "purification.json", rows)
        files.write_text(flags.workdir / "purification.md", markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
