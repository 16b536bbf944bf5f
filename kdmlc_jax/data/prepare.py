"""From a config to the data of one run: source → noise → splits."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from kdmlc_jax import finished
from kdmlc_jax.data import augment, noise, provenance, sources, splits
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.images import copies
from kdmlc_jax.data.sources.base import Images, Part, Source
from kdmlc_jax.data.sources.features import read_features
from kdmlc_jax.errors import UserError
from kdmlc_jax.shapes import ON_FEATURES
from kdmlc_jax.storage import files
from kdmlc_jax.storage import labels as label_table

LOGGER = logging.getLogger(__name__)
NETWORKS = ("teacher", "student")


def prepare(config: Any) -> Dataset:
    """Loads, corrupts and splits; a pure function of the config and the files it names.

    Raises:
      UserError: for bad files, counts, rates or names, and for a batch larger than its split.
    """
    return complete(config, sources.load(config.data))


def complete(config: Any, source: Source) -> Dataset:
    """`prepare` on a source that is already loaded."""
    dataset = from_source(config, source)
    if config.data.features:
        dataset = featured(config, dataset, source)
    return relabelled(dataset, config.data.labels, config.data.labels_column) if config.data.labels else dataset


def featured(config: Any, dataset: Dataset, source: Source) -> Dataset:
    """`dataset` with the features of `data.features`; those of the test images, too, where a network sees them."""
    path, test = Path(config.data.features).expanduser(), source.test
    features = read_features(path, len(dataset.images), source.train.ids)
    dataset = dataset._replace(features=features)
    if dataset.images.dtype != np.uint8 or not any(config[name].net.startswith(ON_FEATURES) for name in NETWORKS):
        return dataset
    if test is None:
        return dataset._replace(shows_features=True)
    there = path.with_name(f"test_{path.name}")
    found = read_features(there, len(test.labels), test.ids, "test_ids.txt")
    if found.shape[1] != features.shape[1]:
        raise UserError(f"{there}: {found.shape[1]} columns, expected {features.shape[1]} as in {path}")
    return dataset._replace(shows_features=True, test_features=found)


def relabelled(dataset: Dataset, folder: str, column: str) -> Dataset:
    """`dataset` with the noisy images' labels as the run in `folder` has corrected them; see `storage.labels.read`.

    Raises:
      StorageError: where the table or the beliefs beside it are not what that run has left.
    """
    place = Path(folder) if files.is_dir(folder) else Path(folder).parent
    ended = finished.read(place)
    gone = finished.check_files(place, ended, (label_table.TABLE, label_table.SOFT)) if ended else []
    rows = dataset.splits.noisy
    known, classes = dataset.given_label[rows], len(dataset.class_names)
    corrected, soft = label_table.read(folder, dataset.ids[rows], known, classes, column)
    given = dataset.given_label.copy()
    given[rows] = corrected
    # What trusted images carried says how the first labels went wrong, and nothing of these.
    unknown = np.full_like(dataset.trusted_given, -1)
    notes = (*dataset.notes, *gone)
    made = dataset._replace(given_label=given, first_label=dataset.given_label, soft_label=soft, notes=notes)
    return made._replace(trusted_given=unknown)


def held_to_sums(config: Any) -> list[str]:
    """Looks whether `noise.file` and `data.splits`, where a finished run has left them, are as it did; a warning for
    each that is gone.

    Raises:
      StorageError: naming the first that is not.
    """
    told = []
    for named in (config.noise.file, config.data.splits):
        path = Path(named).expanduser()
        if named and (ended := finished.read(path.parent)):
            told += finished.check_files(path.parent, ended, (path.name,))
    return told


def from_source(config: Any, source: Source) -> Dataset:
    """Noise and splits, and nothing yet of other files that the config names."""
    classes = len(source.class_names)
    if classes < 2:
        raise UserError(f"{source.name}: {classes} class, expected 2 or more")
    train = source.train._replace(images=in_memory(source.train.images, config.data))
    test = source.test and source.test._replace(images=in_memory(source.test.images, config.data))
    told: list[str] = held_to_sums(config)
    labels, truth = noise.given_labels(config.noise, train, source.class_names, config.seed, told.append)
    known = np.where(truth >= 0, truth, labels)
    group = leaked = None
    # Of the source's own images: what fits into memory is no reason for another split, nor to miss a copy in test.
    content = [
        (copies.digests if config.data.verify else copies.stamps)(part.images)
        for part in (source.train, source.test)
        if part
    ]
    if config.data.verify:
        group, test_group = copies.groups(content)
        leaked = leave_out(config.data.test_copies, group, test_group)
    parts = make_splits(config, source, known, group, leaked)
    check_batches(config, parts, train.images)
    # A trusted image carries the label that is trusted, whatever it carried before.
    checked = parts.checked
    given, trusted_given = np.where(labels >= 0, labels, known), own_labels(config, labels, truth, checked)
    unchecked = int((truth[checked] < 0).sum()) if source.trusted is None else 0
    given[checked] = truth[checked] = known[checked]
    copied = None if group is None else copies.count(group, test_group, given, parts)
    noisy = parts.noisy[truth[parts.noisy] >= 0]
    rate, matrix = noise.realised(truth[noisy], given[noisy], classes) if len(noisy) else (None, None)
    return Dataset(
        name=source.name,
        class_names=source.class_names,
        images=train.images,
        given_label=given,
        carried_label=labels,
        trusted_given=trusted_given,
        truth=truth,
        splits=parts,
        test_images=test and test.images,
        test_label=test.labels if test else np.zeros(0, np.int32),
        rate=rate,
        matrix=matrix,
        ids=ids_of(train),
        skipped=source.skipped,
        notes=(
            *source.notes,
            *told,
            *trust_notes(config, unchecked, trusted_given, truth),
            *(copied.notes() if copied else ()),
        ),
        duplicates=copied,
        copies=None if group is None else (group, test_group),
        scale=scale_of(config.data, train.images.shape[-1]),
        side=scaled_to(source.train.images, config.data),
        pixels=copies.digest(content),
        contents=np.concatenate(content) if is_kept(config.data, source) else None,
    )


def scale_of(data: Any, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """`data.mean` and `data.std` f32[K], None where they are not given; UserError for other than K numbers of them."""
    if not data.mean and not data.std:
        return None
    for name in ("mean", "std"):
        if len(data[name]) != channels or not all(isinstance(each, float | int) for each in data[name]):
            grey = "; data.channels=3 for grey images and weights of coloured ones" if channels == 1 else ""
            raise UserError(f"data.{name}: {data[name]}, expected {channels} numbers, one a channel{grey}")
    if min(data.std) <= 0:
        raise UserError(f"data.std: {data.std}, expected numbers above 0")
    return np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)


def ids_of(part: Part) -> np.ndarray:
    """The name of each image: str[N], or its row i64[N]."""
    return np.arange(len(part.labels)) if part.ids is None else part.ids


def is_kept(data: Any, source: Source) -> bool:
    """Whether a run keeps the digest of each image: of files that were all read, and can be read again one by one."""
    return bool(data.verify) and not isinstance(source.train.images, np.ndarray) and not source.skipped


def in_memory(images: Images, data: Any) -> Images:
    """`images` as an array where they fit `data.resident_mb` or `data.pipeline` is resident, else as they are.

    A stream of small images is fed from memory too: decoding a 32x32 PNG costs more than a step on it.
    """
    if isinstance(images, np.ndarray):
        return images
    if data.pipeline != "resident" and mebibytes(images) > data.resident_mb:
        return images
    LOGGER.info("decoding %d images of %d x %d pixels into memory", len(images), *images.shape[2:0:-1])
    return images[:]


def scaled_to(images: Images, data: Any) -> int:
    """The side that images were scaled to, or 0: `data.image_size`, or the source's own where that says nothing."""
    side = data.image_size or (0 if isinstance(images, np.ndarray) else getattr(images, "size", 0))
    return int(side) if images.shape[1:3] == (side, side) else 0


def mebibytes(images: Images) -> float:
    """Size of the decoded images in MiB."""
    return float(np.prod(images.shape, dtype=np.int64) * images.dtype.itemsize / 2**20)


def leave_out(policy: str, group: np.ndarray, test_group: np.ndarray) -> np.ndarray | None:
    """bool[N], the training images that are copies of test images; None where `data.test_copies` keeps them."""
    leaked = np.isin(group, test_group)
    if policy == "keep" or not leaked.any():
        return None
    if leaked.all():
        raise UserError(
            f"all {len(leaked)} training images are also in the test part, expected other ones there; "
            "data.test_copies=keep trains on them"
        )
    return leaked


def make_splits(
    config: Any, source: Source, known: np.ndarray, group: np.ndarray | None, unused: np.ndarray | None = None
) -> splits.Splits:
    """The splits of `data.splits`, or drawn anew; trusted images are held out anew where those hold out none."""
    data = config.data
    if data.splits:
        kept = provenance.load(data.splits)
        if kept.images != provenance.fingerprint(ids_of(source.train), source.class_names):
            other = f"is of {len(kept.given_labels)} other images or classes"
            raise UserError(f"data.splits: {data.splits} {other}, expected these {len(known)} training images")
        parts = kept.splits if group is None else splits.without_copies(kept.splits, group, unused)
        if not data.cross_fit and bool(len(parts.held_out)) == bool(data.held_out):
            return parts
    else:
        named = splits.Named(source.trusted, source.validation)
        sizes = (data.trusted, data.validation, data.noisy)
        parts = splits.split(known, *sizes, config.seed, len(source.class_names), group, named, unused)
    if data.fold >= 0:
        return splits.hold_out_fold(parts, known, data.cross_fit, data.fold, config.seed, group)
    return splits.hold_out(parts, known, 0.0 if data.cross_fit else data.held_out, config.seed, group)


def own_labels(config: Any, labels: np.ndarray, truth: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """i32[N], the label that each trusted image carried before it was checked, where methods may know it; else -1.

    They may where people gave it (`noise.is_carried`): who checks a label knows what it was. They may not where noise
    is drawn, as in the papers that one compares with, nor of a file, whose labels may be drawn or checked ones;
    `data.trusted_given` shows these, too. Where no such label is wrong they are held to be the checked ones, which a
    table may repeat, and stay unknown.

    Args:
      config: `config.noise.kind` and `config.data.trusted_given` are read.
      labels: i32[N], as carried, -1 where there is none.
      truth: i32[N], -1 where unknown: what nobody has checked is no pair.
      trusted: rows.
    """
    own, unknown = np.full_like(labels, -1), np.full_like(labels, -1)
    own[trusted] = np.where(truth[trusted] >= 0, labels[trusted], -1)
    carried = noise.is_carried(config.noise.kind) and bool(((own >= 0) & (own != truth)).any())
    return own if config.data.trusted_given or carried else unknown


def trust_notes(config: Any, unchecked: int, own: np.ndarray, truth: np.ndarray) -> list[str]:
    """A warning where trusted images were drawn from labels that nobody has checked; how many of their labels before
    they were checked, `own`, are known, and wrong."""
    notes, known = [], own >= 0
    if unchecked:
        notes.append(
            f"warning: data.trusted={config.data.trusted:g} drew {unchecked} trusted images whose labels nobody has "
            "checked; name those you trust (a folder trusted/, a column trusted, or data.trusted_file)"
        )
    if known.any():
        wrong = np.count_nonzero(own[known] != truth[known])
        notes.append(
            f"{known.sum()} trusted images carry the label that they had before it was checked, {wrong} are wrong"
        )
    return notes


def check_batches(config: Any, parts: splits.Splits, images: Images) -> None:
    """Raises UserError where a batch is larger than the noisy split, or an augmentation does not fit the images."""
    batch, have = config.train.batch_size, len(parts.noisy)
    if not 1 <= batch <= have:
        raise UserError(f"train.batch_size: {batch} is outside [1, {have}], the number of noisy images")
    augment.check(config.augment, images.shape[1:3], images.dtype)
