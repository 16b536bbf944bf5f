"""A run that has ended: what it was of, and whether what it left is still that."""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib
from kdmlc_jax import optim
from kdmlc_jax.data import provenance
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.errors import StorageError, UserError, reading
from kdmlc_jax.storage import checksums, files

SUMMARY, KEPT = "summary.json", ("config.json", "noise.npz", "metrics.jsonl")
ENDS = ("train.epochs", "deploy", "labels.")  # other values of these make another end of the same run


def read(workdir: pathlib.Path) -> dict | None:
    """The summary of the run in `workdir`; None where it has not ended.

    Raises:
      StorageError: where it cannot be read, or is not what was written.
    """
    path = workdir / SUMMARY
    if not files.exists(path):
        return None
    summary = files.read_sealed(path, "the summary of a run; delete it and give the same command to have it anew")
    if missing := _missing(summary):
        raise StorageError(f"{path}: no {missing} in it, expected the summary of a run; delete it to have it anew")
    return files.sealed(summary)


def _missing(summary: dict) -> str:
    """What a summary must have, as others read it, and this one has not; '' where all is there."""
    networks, labels, sums = summary.get("networks"), summary.get("labels"), summary.get("files", {})
    if not isinstance(networks, dict) or not all(isinstance(net, dict) for net in networks.values()):
        return "networks"
    if not all({"name", "parameters", "last"} <= net.keys() for net in networks.values()):
        return "networks"
    if not isinstance(summary.get("noise"), dict):
        return "noise"
    if not isinstance(labels, dict) or "accuracy_before" not in labels:
        return "labels"
    return "" if isinstance(sums, dict) and all(isinstance(one, str) for one in sums.values()) else "files"


def write(config: ConfigDict, workdir: pathlib.Path, summary: dict) -> dict:
    """Writes `summary` of the run of `config`, and sums of its files; returns what is then in the file."""
    kept = {name: checksums.sum_of(workdir / name) for name in KEPT}
    whole = {**summary, "config": config.to_dict(), "files": kept | summary["files"]}
    return files.write_sealed(workdir / SUMMARY, whole)


def changes(config: ConfigDict, workdir: pathlib.Path, summary: dict | None) -> list[str]:
    """How `config` differs from that of the run in `workdir`, by its config.json and by its summary.

    Raises:
      UserError: naming the first field that a run cannot change on its way.
    """
    ended: list[str] = []
    if summary is not None and "config" in summary:
        with reading(workdir / SUMMARY, "the summary of a run", StorageError):
            ended = config_lib.changes_of(config, config_lib.from_json(summary["config"]), workdir)
    return config_lib.changes(config, workdir / "config.json") or ended


def stretched(config: ConfigDict, workdir: pathlib.Path) -> list[str]:
    """A warning where other epochs than the run in `workdir` had move its learning rate, and what to do instead."""
    if config.optim.schedule == "constant" or not files.exists(workdir / "config.json"):
        return []
    before, now = config_lib.read(workdir / "config.json").train.epochs, config.train.epochs
    if before == now:
        return []
    # A schedule is a function of the share of the run that is done.
    old, new = (float(optim.schedule(config.optim, 1000 * epochs)(1000 * before)) for epochs in (before, now))
    return [
        f"warning: optim.schedule={config.optim.schedule} is over all epochs: after epoch {before} the learning rate "
        f"is {new:.2g} with {now} of them, it was {old:.2g}; to train on without that jump, take another --workdir, "
        f"init_from={workdir} and --config.optim.schedule=constant with a small --config.optim.lr"
    ]


def ended(workdir: pathlib.Path) -> dict:
    """What `read` reads of a run that has to have ended.

    Raises:
      UserError: where it has not.
      StorageError: as `read`.
    """
    summary = read(workdir)
    if summary is None:
        raise UserError(f"{workdir}: no {SUMMARY} in it, expected the folder of a finished run")
    return summary


def renew(workdir: pathlib.Path, name: str, text: str) -> None:
    """Writes a file of a run that has ended anew, and its sum."""
    with files.locked(workdir):
        summary = ended(workdir)
        files.write_text(workdir / name, text)
        summary.setdefault("files", {})[name] = checksums.sum_of(workdir / name)
        files.write_sealed(workdir / SUMMARY, {key: value for key, value in summary.items() if key != files.SEAL})


def check(dataset: Dataset, workdir: pathlib.Path, summary: dict) -> list[str]:
    """Looks whether the figures of a run that has ended are still those of its data and of all its files; see
    `check_data` and `check_files`."""
    check_data(dataset, workdir, summary)
    return check_files(workdir, summary)


def check_data(dataset: Dataset, workdir: pathlib.Path, summary: dict) -> None:
    """Raises UserError where `dataset` is not what the run in `workdir` has learned from."""
    begun = summary.get("data_digests") or provenance.begun(workdir)  # where an older version has not said it
    provenance.check_same(provenance.digests(dataset.provenance()), begun, workdir)


def check_files(workdir: pathlib.Path, summary: dict, names: Sequence[str] = ()) -> list[str]:
    """Looks whether files of a run that has ended, all or those named, are what it has left; a warning for each that is
    gone.

    Raises:
      StorageError: naming the first that is not.
    """
    gone = []
    for name, written in summary.get("files", {}).items():
        if names and name not in names:
            continue
        path = workdir / name
        if not files.exists(path):
            gone.append(f"warning: {path} is gone; delete {workdir / SUMMARY}, and the same command writes it anew")
            continue
        if checksums.sum_of(path) != written:
            raise StorageError(
                f"{path}: not what this run has left (its SHA-256 in {SUMMARY} is another): keep a copy if the change "
                f"is yours, delete {workdir / SUMMARY}, and the same command writes it anew"
            )
    return gone
