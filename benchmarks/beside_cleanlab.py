"""A folder's wrong labels found by a run here and by cleanlab, on the same features:
`python benchmarks/beside_cleanlab.py truth.csv features/photos RUN… --out FILE.json`.

truth.csv has the columns path and true of every image, by which alone labels are counted as right or wrong; the
features are those that `python -m kdmlc_jax.embed` wrote, beside the ids. cleanlab (`find_label_issues`, its defaults)
is given probabilities of a logistic regression (scikit-learn, standardised features, five folds) by the given labels,
once of the noisy images alone, once with the trusted ones, whose labels are right, added to what each fold learns from.
Its strength is the one of STRENGTHS by whose probabilities the given labels are least surprising. A label that is found
is replaced by the most likely class. Of each run the table that it has left is counted.
"""

import argparse
import csv
import json
import pathlib
import time

import numpy as np
from cleanlab.filter import find_label_issues
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdmlc_jax.storage import labels as label_table

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C


def counted(true: np.ndarray, given: np.ndarray, flagged: np.ndarray, after: np.ndarray, score: np.ndarray) -> dict:
    """Of labels found to be wrong, and of the labels after: fractions. `score` is low where a label is suspicious."""
    wrong = given != true
    hits = (flagged & wrong).sum()
    return {
        "flagged": int(flagged.sum()),
        "precision": float(hits / max(1, flagged.sum())),
        "recall": float(hits / wrong.sum()),
        "auroc": float(roc_auc_score(wrong, -score)),
        "right_before": float((~wrong).mean()),
        "right_after": float((after == true).mean()),
    }


def cross_validated(
    features: np.ndarray, given: np.ndarray, more: tuple[np.ndarray, np.ndarray], strength: float
) -> np.ndarray:
    """f[N, C] of images that the regression has not learned from; `more` features and labels all folds learn."""
    probabilities = np.zeros((len(given), given.max() + 1))
    for learn, ask in StratifiedKFold(5, shuffle=True, random_state=0).split(features, given):
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        fitted.fit(np.concatenate([features[learn], more[0]]), np.concatenate([given[learn], more[1]]))
        probabilities[ask] = fitted.predict_proba(features[ask])
    return probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=pathlib.Path)
    parser.add_argument("features", type=pathlib.Path)
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/beside_cleanlab.json"))
    flags = parser.parse_args()
    with open(flags.truth, newline="") as file:
        truth = {row["path"]: row["true"] for row in csv.DictReader(file)}
    rows = {}
    for run in flags.runs:
        table, _ = label_table.whole(run)
        names = sorted({*table["given_class"]})
        asked = np.isin(table["split"], ("noisy", "validation"))
        true = np.array([names.index(truth[name]) for name in table["id"][asked]])
        given = table["given_label"][asked]
        columns = (table[name][asked] for name in ("is_label_issue", "corrected_label", "label_score"))
        flagged, after, score = columns
        rows[run.name] = counted(true, given, flagged.astype(bool), after, score)
        suggested = table["suggested_label"][asked]
        rows[run.name]["right_if_all_suggestions_are_taken"] = float((suggested == true).mean())
    ids = [line.rstrip("\n") for line in (flags.features / "ids.txt").open()]
    place = {name: number for number, name in enumerate(ids)}
    features = np.load(flags.features / "features.npy").astype(np.float64)
    of = lambda chosen: features[[place[name] for name in table["id"][chosen]]]  # noqa: E731
    trusted = ~asked
    for title, more in (("cleanlab", trusted & False), ("cleanlab, trusted images learned", trusted)):
        began, learned = time.perf_counter(), (of(more), table["given_label"][more])
        tried = [cross_validated(of(asked), given, learned, strength) for strength in STRENGTHS]
        best = int(np.argmin([log_loss(given, found) for found in tried]))
        probabilities, flagged = tried[best], find_label_issues(given, tried[best])
        about = {"strength": STRENGTHS[best], "seconds": round(time.perf_counter() - began, 1)}
        after = np.where(flagged, probabilities.argmax(axis=1), given)
        own = probabilities[np.arange(len(given)), given]
        rows[title] = counted(true, given, flagged, after, own) | about
    for name, row in rows.items():
        print(name, row)
    flags.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
