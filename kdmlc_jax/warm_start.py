"""Networks of another run, or published weights, as the start of this one, or as its teacher; what would leak labels is
refused."""

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax import finished, published, train_state
from kdmlc_jax.data import provenance
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.errors import UserError
from kdmlc_jax.shapes import ON_FEATURES, part_of
from kdmlc_jax.storage import files, networks

if TYPE_CHECKING:
    from kdmlc_jax.experiment import Experiment

INIT_FROM, TEACHER_RUN = "init_from", "teacher.run"  # the config's fields


def seen(config: ConfigDict) -> ConfigDict:
    """`config` with the size, mean and deviation of the images that published weights are made for (`init_from`), where
    it does not say so itself.

    Raises:
      UserError: for a file that cannot be read as such weights.
    """
    said = config.data.image_size and config.data.mean  # of a run that goes on, too, which needs its start no more
    if said or not published.is_weights(pathlib.Path(config.init_from)):
        return config
    about = published.read(pathlib.Path(config.init_from)).about
    made = config.copy_and_resolve_references()
    made.data.image_size = made.data.image_size or about.side
    if not made.data.mean and not made.data.std:
        made.data.mean, made.data.std = about.mean, about.std
    return made


def begin(experiment: "Experiment", carry: Any) -> tuple[Any, list[str]]:
    """`carry` with the networks of the runs that `init_from` and `teacher.run` name, and a line for each; see
    `start_from`."""
    config = experiment.config
    lines: list[str] = []
    if config.init_from:
        carry, lines = start_from(experiment, carry, pathlib.Path(config.init_from))
    if config.teacher.run:
        carry, more = start_from(experiment, carry, pathlib.Path(config.teacher.run), TEACHER_RUN)
        lines = [line for line in lines if not line.startswith("teacher ")] + more
    return carry, lines


def start_from(
    experiment: "Experiment", carry: Any, folder: pathlib.Path, field: str = INIT_FROM
) -> tuple[Any, list[str]]:
    """`carry` with the networks that a run has left in `folder`, or of a file of published weights, and a line for each
    network here.

    A network starts from the one of its name there, or else from another one of its architecture. `teacher.run`
    gives the teacher alone, as it is.

    Raises:
      UserError: where no network there has an architecture of those here, or arrays differ; where images were
        trained on there that validate here, or trusted there and are noisy here.
    """
    is_file = published.is_weights(folder) and field == INIT_FROM
    if not files.is_dir(folder) and not is_file:
        raise UserError(f"{field}: {folder} is no folder, expected that of a finished run")
    check_splits(experiment.dataset, folder, field)
    saved = published_network(experiment.dataset, folder) if is_file else saved_networks(folder)
    there = ", ".join(f"{name} ({about['net']})" for name, (_, about, _) in saved.items()) or "no network"
    method, config = experiment.method, experiment.config
    as_it_is, lines, state = field == TEACHER_RUN, [], carry["method"]
    for name in method.networks(state):
        net = method.networks(state)[name]  # of the state as it is now: a network is told by identity
        if as_it_is and name != "teacher":
            continue
        wanted = config[name].net
        fits = [other for other, (_, about, _) in saved.items() if about["net"] == wanted]
        if not fits and (as_it_is or method.traits.pretrained):
            raise UserError(f"{field}: {folder} has {there}, expected {name} ({wanted}) among them")
        if not fits and config[name].freeze:
            raise UserError(f"{name}.freeze: {folder} has {there}, expected {wanted}: random weights would stand still")
        if not fits:
            lines.append(f"{name} ({wanted}) starts from random weights: there is none in {folder}")
            continue
        path, about, weights = saved[name if name in fits else fits[0]]
        new, whole = networks.start(net, about, weights, experiment.dataset.class_names, f"{field}: {path}")
        if as_it_is:
            check_teacher(experiment, about, whole, path)
        state = train_state.replace_net(state, net, new)
        note = about.get("note", "") + ("" if whole else ", but for its last layer: the classes differ")
        lines.append(f"{name} ({wanted}) {'is that of' if as_it_is else 'starts from'} {path}{note}")
    if state is carry["method"]:
        here = ", ".join(f"{name} ({config[name].net})" for name in method.networks(state))
        raise UserError(f"{field}: {folder} has {there}, expected one like {here}")
    return experiment.place({**carry, "method": state}), lines


def published_network(dataset: Dataset, path: pathlib.Path) -> dict[str, tuple[pathlib.Path, dict, Any]]:
    """The one of a file, as `saved_networks`; its last layer is for the classes here if it is for as many."""
    weights = published.read(path)
    classes = list(dataset.class_names) if weights.classes == len(dataset.class_names) else []
    note = f" ({weights.note})" if weights.note else ""
    return {path.name: (path, {"net": weights.net, "class_names": classes, "note": note}, weights.variables)}


def saved_networks(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, dict, Any]]:
    """(folder, description, weights) of each network in the folder of a run, or in that of one network, by name."""
    found = [path for path in (folder, *files.listed(folder)) if files.exists(path / "network.json")]
    return {path.absolute().name: (path, *networks.read(path)) for path in found}


def check_teacher(experiment: "Experiment", about: dict, whole: bool, path: pathlib.Path) -> None:
    """Raises UserError where a network cannot teach as it is: it knows other classes, or sees other images."""
    if not whole:
        names = ", ".join(experiment.dataset.class_names)
        raise UserError(f"{TEACHER_RUN}: {path} knows other classes, expected {names}")
    shown = experiment.dataset.inputs
    shape = list(part_of(shown, "features" if about["net"].startswith(ON_FEATURES) else "pixels").shape[1:])
    if about["image_shape"] != shape:
        raise UserError(f"{TEACHER_RUN}: {path} sees images {about['image_shape']}, not {shape}")


def check_splits(dataset: Dataset, folder: pathlib.Path, field: str) -> None:
    """Refuses weights that have seen labels which must be unknown here; see `start_from`."""
    path = next((path for path in (folder / "noise.npz", folder.parent / "noise.npz") if files.exists(path)), None)
    if path is None:
        return
    if ended := finished.read(path.parent):
        finished.check_files(path.parent, ended, (path.name,))
    there, here = provenance.load(path), dataset.splits
    if there.images != provenance.fingerprint(dataset.ids, dataset.class_names):
        return
    both = np.intersect1d(here.noisy, there.splits.noisy)
    if field == TEACHER_RUN and (there.given_labels[both] != dataset.reported_label[both]).any():
        raise UserError(f"{field}: {folder} has learned from other given labels, expected those of this run's images")
    trusted, learned = there.splits.trusted, np.concatenate([there.splits.noisy, there.splits.trusted])
    for what, count in {
        "trusted there and noisy": np.isin(here.noisy, trusted).sum(),
        "trained on there and for validation": np.isin(here.validation, learned).sum(),
        "trained on there and held out": np.isin(here.held_out, learned).sum(),
    }.items():
        if count:
            raise UserError(
                f"{field}: {count} images were {what} here; take that run's splits (data.splits={path}) or seed"
            )
