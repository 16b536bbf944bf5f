"""Which labels the trusted images vouch for, at the end of a run: `labels.vouch` on what the run knows."""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from kdmlc_jax import export, finished, parallel
from kdmlc_jax.data import provenance
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.linear import NEVER, log_softmax
from kdmlc_jax.labels.pooling import Folds, Network, log
from kdmlc_jax.labels.suspects import Held, in_doubt, told
from kdmlc_jax.labels.table import believed_columns
from kdmlc_jax.labels.vouch import Vouched, vouch

if TYPE_CHECKING:
    from kdmlc_jax.experiment import Experiment

AXES = 256  # principal ones of the pixels
SAMPLE = 2_000  # images that these come from
DEPTHS = (50, 100, 500)  # of the list of suspected labels


class Assessment(NamedTuple):
    """What is vouched for of the noisy and then the validation images, or why nothing is."""

    vouched: Vouched | None
    why_not: str = ""
    held: Held = Held()  # what held-out trusted images say of the list of suspected labels


def fold_dir(workdir: pathlib.Path, fold: int) -> pathlib.Path:
    """Where the run that holds out one part of `data.cross_fit` lies."""
    return workdir / f"fold-{fold}"


def assess(experiment: "Experiment", state: Any, believed: Int[np.ndarray, " N"], workdir: pathlib.Path) -> Assessment:
    """Asks the trusted images, above all those held out of the run, which labels to change.

    Rows are known by `data.features`, else by their pixels, and by the mean log-belief of the run's networks, which
    counts for as much as it is worth on images that the run has not learned from. With `data.cross_fit` all trusted
    images are asked, each by the networks of the run that held it out.

    Args:
      experiment: that was run.
      state: the method's, at its end.
      believed: the labels that the method itself believes, of the noisy and then the validation images.
      workdir: of the run, with those of `data.cross_fit` below it.
    """
    data, splits = experiment.dataset, experiment.dataset.splits
    unsure, known = np.concatenate([splits.noisy, splits.validation]), splits.checked
    if not len(known):
        return Assessment(None, "there are no trusted labels")
    network: Network | Folds | None = None
    proposals: dict[str, np.ndarray] = {}
    config, fresh = experiment.config, np.isin(unsure, splits.validation)
    if config.data.fold >= 0:
        return Assessment(None, "it is one of several runs of data.cross_fit, and the run above asks them all")
    crossed = config.data.cross_fit > 0
    if not (crossed or len(splits.held_out)):
        return Assessment(None, "data.held_out is 0: no trusted image was held out")
    # With `soft_label` the run has learned from labels that the held-out images have helped to correct.
    if not crossed and data.soft_label is None:
        logits = experiment.evaluator.logits(state, data.inputs, np.concatenate([unsure, known]))
        beliefs = np.mean([log_softmax(each.astype(np.float64)) for each in logits.values()], axis=0)
        held = np.isin(known, never_learned(experiment))
        network = Network(beliefs[: len(unsure)], beliefs[len(unsure) :], fresh, held)
        proposals = {config.method.name: believed}

    def judged() -> Assessment:
        asked = fold_networks(experiment, state, workdir, unsure, known, fresh) if crossed else network
        own, classes = data.trusted_given[known], len(data.class_names)
        if data.features is not None:
            noisy, trusted = data.features[unsure], data.features[known]
        else:
            noisy, trusted = vectors(data.images, unsure, known)
        try:
            found = vouch(
                *(noisy, data.reported_label[unsure], trusted, data.given_label[known], classes),
                own_given=own if (own >= 0).any() else None,
                network=asked,
                proposals=proposals,
                precision=config.labels.precision,
                seed=config.seed,
            )
        except UserError as error:
            return Assessment(None, str(error))
        # Answers are as many as trusted rows times classes: they stay where they were made.
        return Assessment(found._replace(drawn=None, held=None), held=of_suspected(found, data.reported_label[unsure]))

    return parallel.decide(judged)


def of_suspected(found: Vouched, given: Int[np.ndarray, " N"]) -> Held:
    """What held-out trusted images say of the labels that `found` suspects."""
    score = believed_columns(given, found.posterior, found.score)["label_score"]
    doubtful = in_doubt(found.suggested, given, found.decision)
    return told(found.drawn, found.held, score[doubtful], found.score, sorted({*DEPTHS, int(doubtful.sum())}))


def check_folds(config: ConfigDict, workdir: pathlib.Path) -> list[str]:
    """`finished.check` of the runs of `data.cross_fit`; a warning for each that is gone or has not ended."""
    told = []
    for fold in range(config.data.cross_fit if config.data.fold < 0 else 0):
        one, there = config.copy_and_resolve_references(), fold_dir(workdir, fold)
        one.data.fold = fold
        ended = finished.read(there)
        if ended is None:
            told.append(
                f"warning: {there} is gone or has not ended; delete {workdir / finished.SUMMARY} to have it anew"
            )
        else:
            told += finished.check(prepare(one), there, ended)
    return told


def fold_networks(
    experiment: "Experiment",
    state: Any,
    workdir: pathlib.Path,
    unsure: Int[np.ndarray, " N"],
    known: Int[np.ndarray, " M"],
    fresh: Bool[np.ndarray, " N"],
) -> Folds:
    """The mean log-belief of each fold's networks, as its run has left them.

    Args:
      experiment, state: of the run on all trusted images.
      workdir: of that run.
      unsure, known: the noisy and validation images, and the trusted ones.
      fresh: the validation images among `unsure`.
    """
    fold, found, rows = np.full(len(known), NEVER), [], np.concatenate([unsure, known])
    for k in range(experiment.config.data.cross_fit):
        there = fold_dir(workdir, k)
        held = np.isin(known, provenance.load(there / "noise.npz").splits.held_out)
        fold[held] = k
        predict = [export.load(there / name) for name in experiment.method.networks(state)]
        beliefs = np.mean([log(export.over(each, experiment.dataset.inputs, rows)) for each in predict], axis=0)
        found.append(Network(beliefs[: len(unsure)], beliefs[len(unsure) :], fresh, held))
    return Folds(fold, found)


def never_learned(experiment: "Experiment") -> Int[np.ndarray, " m"]:
    """The trusted images that no network here has learned from."""
    splits, method, config = experiment.dataset.splits, experiment.method, experiment.config
    learned = any(stage.streams.trusted or stage.streams.meta for stage in method.stages)
    learned = learned or method.traits.needs_trusted or method.traits.takes_trusted
    if learned or config.init_from or config.teacher.run:
        return splits.held_out
    return splits.checked


def vectors(images: Images, *parts: np.ndarray) -> list[np.ndarray]:
    """The images at each part's rows i[n] as f32[n, d]: as they are, or, where they have more than AXES pixels, on so
    many principal axes of a SAMPLE."""

    def flat(rows: np.ndarray) -> np.ndarray:
        return images[rows].reshape(len(rows), -1).astype(np.float32)

    project: Callable = lambda pixels: pixels  # noqa: E731
    if images.dtype == np.uint8 and np.prod(images.shape[1:]) > AXES:
        from sklearn.decomposition import PCA  # slow to import

        rows = np.concatenate(parts)
        sample = flat(rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(int)])
        fitted = PCA(min(AXES, len(sample)), svd_solver="randomized", random_state=0).fit(sample)
        project = fitted.transform
    starts = [range(0, len(part), SAMPLE) for part in parts]
    return [
        np.concatenate([project(flat(part[at : at + SAMPLE])) for at in each])
        for part, each in zip(parts, starts, strict=True)
    ]
