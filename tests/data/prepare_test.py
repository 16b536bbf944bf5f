"""From a source to the data of a run: what is given, what is true, what is trusted, and what is kept apart."""

import numpy as np
import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax.data import pipeline, prepare, provenance
from kdmlc_jax.data.images.copies import Duplicates
from kdmlc_jax.data.sources.base import Part, Source
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.labels.table import table
from kdmlc_jax.storage import checksums, files, labels

SIZE, NAMES = 30, ("cat", "dog", "owl")
IMAGES = np.random.default_rng(0).integers(0, 256, (SIZE, 4, 4, 1), np.uint8)
TRUTH = np.arange(SIZE, dtype=np.int32) % 3
GIVEN = np.where(np.arange(SIZE) % 5 == 0, (TRUTH + 1) % 3, TRUTH).astype(np.int32)
UNCHECKED = "trusted images whose labels nobody has checked"


class Lazy:
    """Images that are read when asked for, and count how often; their digests do without."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.reads = pixels, pixels.shape, pixels.dtype, 0

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, rows):
        self.reads += 1
        return self.pixels[rows]

    def digests(self):
        return np.array([np.void(image.tobytes()) for image in self.pixels], "V16")


def source(images=IMAGES, labels=GIVEN, truth=None, test=None, **fields):
    """A hand-made data set; `test` are the test images, labelled 0."""
    held_out = None if test is None else Part(test, np.zeros(len(test), np.int32))
    return Source("hand", NAMES, Part(images, labels, truth), held_out, **fields)


def config_of(given, fields):
    """A config for a source; `fields` are those of config.data, and whole paths with __ for the dot."""
    config = config_lib.base()
    config.noise.kind, config.data.trusted = "none", 0.0 if given.trusted is not None else 6.0
    config.data.held_out = 0.0
    config.train.batch_size, config.train.trusted_batch_size = 4, 2
    paths = {name.replace("__", ".") if "__" in name else f"data.{name}": value for name, value in fields.items()}
    config.update_from_flattened_dict(paths)
    return config


def made(given, **fields):
    """What a run makes of a source; see `config_of`."""
    return prepare.from_source(config_of(given, fields), given)


def error_of(given, **fields):
    """The one line that preparing fails with."""
    with pytest.raises(UserError) as caught:
        made(given, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_truth_stays_unknown():
    """Protects real data: no figure pretends to know what is wrong, and drawing trusted images from it is said."""
    dataset = made(source())
    trusted = np.isin(np.arange(SIZE), dataset.splits.trusted)
    assert trusted.sum() == 6 and (dataset.truth[~trusted] == -1).all()
    np.testing.assert_array_equal(dataset.truth[trusted], GIVEN[trusted])
    np.testing.assert_array_equal(dataset.given_label, GIVEN)
    assert dataset.rate is None and dataset.matrix is None
    (note,) = dataset.notes
    assert note.startswith("warning: data.trusted=6 drew 6") and UNCHECKED in note
    assert dataset.ids.tolist() == list(range(SIZE)) and dataset.test_images is None and not len(dataset.test_label)


@pytest.mark.parametrize(
    "given, fields",
    [
        (source(truth=TRUTH), {}),
        (source(trusted=np.arange(3)), {}),
        (source(), {"noise__kind": "uniform"}),
    ],
    ids=["truth known", "trusted named", "noise drawn from the labels"],
)
def test_no_warning_where_the_trusted_labels_are_known(given, fields):
    """Protects from a warning that cries wolf, which soon nobody reads."""
    assert not any(UNCHECKED in note for note in made(given, **fields).notes)


def test_known_truth_gives_the_realised_rates():
    """Protects the noise that is reported: counted over the noisy images alone, from labels as they came."""
    dataset = made(source(truth=TRUTH), validation=5.0)
    noisy = dataset.splits.noisy
    assert dataset.rate == np.mean(GIVEN[noisy] != TRUTH[noisy]) and 0 < dataset.rate < 0.5
    counted = [[np.mean(GIVEN[noisy][TRUTH[noisy] == y] == z) for z in range(3)] for y in range(3)]
    np.testing.assert_allclose(dataset.matrix, counted)
    np.testing.assert_array_equal(dataset.given_label[noisy], GIVEN[noisy])


def test_partly_known_truth_counts_where_it_is_known():
    """Protects the rate of a set like Clothing1M: images without a true label neither raise nor lower it."""
    truth = np.where(np.arange(SIZE) < 12, TRUTH, -1).astype(np.int32)
    dataset = made(source(truth=truth))
    noisy = dataset.splits.noisy
    known = noisy[truth[noisy] >= 0]
    assert 0 < len(known) < len(noisy) and dataset.rate == np.mean(GIVEN[known] != TRUTH[known])
    assert (dataset.truth[noisy] == truth[noisy]).all()


def test_drawn_noise_needs_every_true_label():
    """Protects from noise upon noise where only some labels are true; where all are, or none is told, it is drawn."""
    truth = np.where(np.arange(SIZE) < 12, TRUTH, -1).astype(np.int32)
    message = error_of(source(truth=truth), noise__kind="uniform")
    assert message == 'noise.kind: "uniform" needs the true label of every image, 18 have none; take "none"'
    for given, expected in ((source(truth=TRUTH), TRUTH), (source(), GIVEN)):
        dataset = made(given, noise__kind="uniform_excluded", noise__rate=1.0)
        np.testing.assert_array_equal(dataset.truth, expected)
        assert (
            dataset.rate == 1.0
            and (dataset.given_label[dataset.splits.trusted] == expected[dataset.splits.trusted]).all()
        )


@pytest.mark.parametrize(
    ("kind", "shown", "carried"),
    [("none", False, True), ("none", True, True), ("file", False, False), ("file", True, True)],
)
def test_trusted_images_carry_the_checked_label(kind, shown, carried, tmp_path):
    """Protects the meaning of trusted: learnt with the true label. Methods know the one before it where people gave it,
    of a file only where asked for."""
    rows = np.array([0, 4, 5, 10])  # 0, 5 and 10 came with a wrong label
    np.save(tmp_path / "given.npy", GIVEN)
    fields = {"noise__kind": kind, "noise__file": str(tmp_path / "given.npy"), "trusted_given": shown}
    dataset = made(source(truth=TRUTH, trusted=rows), **fields)
    assert any("4 trusted images carry" in note and "3 are wrong" in note for note in dataset.notes) == carried
    assert sorted(dataset.splits.trusted.tolist()) == rows.tolist()
    np.testing.assert_array_equal(dataset.given_label[rows], TRUTH[rows])
    np.testing.assert_array_equal(dataset.trusted_given[rows], GIVEN[rows] if carried else -1)
    others = np.setdiff1d(np.arange(SIZE), rows)
    assert (dataset.trusted_given[others] == -1).all()
    np.testing.assert_array_equal(dataset.given_label[others], GIVEN[others])
    batch = pipeline.select(dataset, "trusted", np.arange(4))
    np.testing.assert_array_equal(batch["trusted_given"], dataset.trusted_given[dataset.splits.trusted])


def test_images_with_only_a_true_label():
    """Protects from class -1: trusted and validation images that came with no label take their true one."""
    trusted, validation, labels = np.array([0, 1, 2]), np.array([5, 6]), GIVEN.copy()
    labels[[0, 5]] = -1
    dataset = made(source(labels=labels, truth=TRUTH, trusted=trusted, validation=validation), trusted_given=True)
    np.testing.assert_array_equal(dataset.given_label[[0, 5]], TRUTH[[0, 5]])
    assert dataset.trusted_given[0] == -1 and dataset.trusted_given[1] == GIVEN[1]
    assert (dataset.given_label >= 0).all() and labels[0] == -1, "the source's own labels are left alone"
    assert sorted(dataset.splits.validation.tolist()) == [5, 6]


@pytest.mark.parametrize("kind", ["none", "uniform"])
def test_own_labels_that_are_no_pairs(kind):
    """Protects from taking checked labels for labels without an error: own labels stay unknown where none is wrong,
    where nobody has checked them, and where noise is drawn."""
    rows = np.array([1, 2, 3])
    same = np.where(np.isin(np.arange(SIZE), rows), TRUTH, GIVEN).astype(np.int32)
    dataset = made(source(labels=same, truth=TRUTH, trusted=rows), noise__kind=kind, noise__rate=1.0)
    assert (dataset.trusted_given == -1).all() and (dataset.carried_label[rows] >= 0).all()
    unchecked = made(source(), trusted_given=True)
    assert (unchecked.trusted_given == -1).all()


def saved(folder, dataset):
    """The noise.npz of a run on `dataset`."""
    path = folder / "noise.npz"
    provenance.save(path, dataset.provenance())
    return str(path)


def test_splits_of_another_run(tmp_path):
    """Protects comparisons: the same images in the same roles, whatever seed and sizes the new config has."""
    first = made(source(truth=TRUTH), validation=5.0)
    again = made(source(truth=TRUTH), splits=saved(tmp_path, first), trusted=3.0)
    for one, two in zip(first.splits, again.splits, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(first.given_label, again.given_label)
    assert any(UNCHECKED in note for note in made(source(), splits=saved(tmp_path, first)).notes)


def test_held_out_images_of_another_run(tmp_path):
    """Protects comparisons: what one run holds out another does too, unless it was asked to hold out none, or the
    first did not."""
    first, none = made(source(truth=TRUTH), held_out=0.5), made(source(truth=TRUTH), held_out=0.0)
    held = first.splits.held_out
    assert len(held) and not len(none.splits.held_out) and (first.given_label[held] == TRUTH[held]).all()
    path = saved(tmp_path, first)
    assert made(source(truth=TRUTH), splits=path, held_out=0.2).splits.held_out.tolist() == held.tolist()
    assert set(made(source(truth=TRUTH), splits=path, held_out=0.0).splits.trusted) == set(none.splits.trusted)
    path = saved(tmp_path, none)
    assert set(made(source(truth=TRUTH), splits=path, held_out=0.5).splits.held_out) == set(held)


@pytest.mark.parametrize("rows", [slice(0, 24), np.arange(SIZE).repeat(2)], ids=["smaller", "larger"])
def test_splits_of_another_data_set_are_refused(tmp_path, rows):
    """Protects from roles that belong to other images, also where all rows happen to exist."""
    path = saved(tmp_path, made(source(truth=TRUTH), noisy=8.0))
    other = source(IMAGES[rows], GIVEN[rows], TRUTH[rows])
    size = len(TRUTH[rows])
    expected = f"data.splits: {path} is of 30 other images or classes, expected these {size} training images"
    assert error_of(other, splits=path, verify=False) == expected


def test_copies_of_held_images_are_left_out_and_counted():
    """Protects the held images: no copy of a trusted or validation one is trained on, and what is in test is told."""
    images, test = IMAGES.copy(), IMAGES[[20, 21]]
    images[10], images[11], images[12], images[14] = images[0], images[0], images[5], images[13]
    labels = GIVEN.copy()
    labels[[0, 10, 11]], labels[[13, 14]] = 1, (0, 2)
    given = source(images, labels, test=test, trusted=np.array([0, 1, 2]), validation=np.array([5, 6]))
    dataset = made(given, test_copies="keep")
    assert not {10, 11, 12} & set(np.concatenate(dataset.splits).tolist())
    assert {13, 14} <= set(dataset.splits.noisy.tolist()) and len(dataset.splits.noisy) == SIZE - 8
    assert dataset.duplicates == Duplicates(
        extra=4, conflicting=1 + (labels[5] != labels[12]), left_out=3, leaked=2, leaked_used=2
    )
    unseen = made(given, verify=False)
    assert unseen.duplicates is None and {10, 11, 12} <= set(unseen.splits.noisy.tolist())


def test_copies_of_test_images_are_left_out():
    """Protects the test figures: what is tested is not trained on, named parts and splits of another run included."""
    images, test = IMAGES.copy(), IMAGES[[20, 21, 0, 5, 29]]
    images[22] = images[21]
    named = {"trusted": np.array([0, 1, 2]), "validation": np.array([5, 6])}
    dataset = made(source(images, test=test, **named))
    rows = np.concatenate(dataset.splits)
    assert not {0, 5, 20, 21, 22, 29} & set(rows.tolist()) and len(rows) == SIZE - 6
    assert dataset.duplicates == Duplicates(extra=1, conflicting=1, left_out=0, leaked=6, leaked_used=0)
    note = "6 training images are also in the test part and left out (data.test_copies=keep would use them)"
    assert any(note in line for line in dataset.notes)
    kept = made(source(images, test=test, **named), test_copies="keep")
    assert {0, 5, 20, 21, 22, 29} <= set(np.concatenate(kept.splits).tolist())
    assert any("in the test part, 6 of them used (data.test_copies=leave_out leaves" in line for line in kept.notes)
    assert "all 30 training images are also in the test part" in error_of(source(test=IMAGES))


def test_splits_of_another_run_lose_test_images(tmp_path):
    """Protects the same where splits were drawn before the test part was there."""
    path = saved(tmp_path, made(source()))
    parts = made(source(test=IMAGES[:4]), splits=path).splits
    assert not {0, 1, 2, 3} & set(np.concatenate(parts).tolist())


SMALL, LARGE = 1.0, 0.9 * IMAGES.nbytes / 2**20  # data.resident_mb that holds all images, and only those of test


@pytest.mark.parametrize(
    "how, limit, held",
    [
        ("auto", SMALL, True),
        ("stream", SMALL, True),
        ("resident", SMALL, True),
        ("auto", LARGE, False),
        ("stream", LARGE, False),
        ("resident", LARGE, True),
    ],
)
def test_lazy_images_are_held_where_they_fit(how, limit, held):
    """Protects memory and speed: read once where they fit or must, left where they are if not; each part by itself."""
    images, test = Lazy(IMAGES), Lazy(IMAGES[:6])
    dataset = made(source(images, test=test), pipeline=how, resident_mb=limit)
    assert isinstance(dataset.images, np.ndarray) == held and images.reads == held
    assert isinstance(dataset.test_images, np.ndarray) and test.reads == 1
    np.testing.assert_array_equal(dataset.images[np.arange(SIZE)], IMAGES)
    for one, two in zip(dataset.splits, made(source(test=IMAGES[:6])).splits, strict=True):
        np.testing.assert_array_equal(one, two)


class Encoded(Lazy):
    """As files are: the digest of their bytes is not that of their pixels."""

    def digests(self):
        return np.array([np.void(image.tobytes()[::-1]) for image in self.pixels], "V16")


@pytest.mark.parametrize("limit", [SMALL, LARGE])
def test_a_copy_in_test_is_found_wherever_the_images_lie(limit):
    """Protects the count of leaks where one part fits into memory and the other does not."""
    dataset = made(source(Encoded(IMAGES), test=Encoded(IMAGES[:6])), resident_mb=limit)
    assert dataset.duplicates.leaked == 6


def test_one_class_is_refused():
    """Protects from a training that cannot fail to be right."""
    alone = Source("hand", ("cat",), Part(IMAGES, np.zeros(SIZE, np.int32)))
    assert error_of(alone) == "hand: 1 class, expected 2 or more"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"train__batch_size": 25}, "train.batch_size: 25 is outside [1, 24], the number of noisy images"),
        ({"train__batch_size": 0}, "train.batch_size: 0 is outside [1, 24], the number of noisy images"),
        ({"augment__pad": 4}, "augment.pad: 4 is outside [0, 3]"),
        ({"augment__cutout": 5}, "augment.cutout: 5 is outside [0, 4]"),
    ],
)
def test_sizes_that_do_not_fit(fields, message):
    """Protects from batches with one image twice and crops of nothing: refused before training, with the range."""
    assert error_of(source(), **fields) == message


@pytest.mark.parametrize("fields", [{"augment__flip": True}, {"augment__cutout": 1}, {"augment__pad": 1}])
def test_features_are_not_augmented(fields):
    """Protects features from image operations that would silently mix up their columns."""
    features = source(IMAGES.reshape(SIZE, 1, 1, 16).astype(np.float32))
    assert made(features).images.dtype == np.float32
    message = error_of(features, **fields)
    assert message.startswith("augment") and ("features cannot be" in message or "[0, 0]" in message)


@pytest.fixture
def prepared(monkeypatch):
    """`made` with what `prepare` adds to the source: other labels, features."""

    def make(given, **fields):
        monkeypatch.setattr(prepare.sources, "load", lambda data: given)
        return prepare.prepare(config_of(given, fields))

    return make


def corrected(folder, dataset):
    """The folder of a run on `dataset` that believes each image to be of the class after its given one, at .6."""
    rows = np.concatenate(dataset.splits)
    names = np.repeat(dataset.splits._fields, [len(part) for part in dataset.splits])
    beliefs = np.full((len(rows), 3), 0.2, np.float32)
    beliefs[np.arange(len(rows)), (dataset.given_label[rows] + 1) % 3] = 0.6
    labels.write(table(dataset.ids[rows], names, dataset.given_label[rows], beliefs), folder, beliefs)
    return str(folder)


@pytest.mark.parametrize("names", [None, np.array([f"{row:02}.png" for row in range(SIZE)])], ids=["rows", "names"])
def test_labels_of_another_run_replace_the_noisy_ones(prepared, tmp_path, names):
    """Protects `data.labels`: only the noisy images learn the other run's labels; what is known to be right stays."""
    given = Source("hand", NAMES, Part(IMAGES, GIVEN, TRUTH, names))
    first = prepared(given, validation=5.0)
    dataset = prepared(given, validation=5.0, labels=corrected(tmp_path, first), labels_column="suggested")
    standing = prepared(given, validation=5.0, labels=corrected(tmp_path, first))
    noisy = dataset.splits.noisy
    np.testing.assert_array_equal(dataset.given_label[noisy], (GIVEN[noisy] + 1) % 3)
    np.testing.assert_array_equal(dataset.soft_label.argmax(axis=1), dataset.given_label[noisy])
    np.testing.assert_allclose(np.sort(dataset.soft_label), np.tile([0.2, 0.2, 0.6], (len(noisy), 1)), rtol=1e-6)
    np.testing.assert_array_equal(dataset.given_label[dataset.splits.trusted], TRUTH[dataset.splits.trusted])
    np.testing.assert_array_equal(dataset.given_label[dataset.splits.validation], GIVEN[dataset.splits.validation])
    np.testing.assert_array_equal(first.given_label[noisy], GIVEN[noisy])
    np.testing.assert_array_equal(standing.given_label, first.given_label)  # nothing vouches for what is suggested


def test_labels_that_were_changed_since_are_refused(prepared, tmp_path):
    """Protects `data.labels` from a table or beliefs that are not what that run has left; one's own is taken."""
    given = Source("hand", NAMES, Part(IMAGES, GIVEN, TRUTH, None))
    folder = corrected(tmp_path, prepared(given, validation=5.0))
    names = ("labels.csv", "labels.parquet", "soft_labels.npy")
    told = {"networks": {}, "noise": {}, "labels": {"accuracy_before": None}}
    told["files"] = {name: checksums.file_sum(tmp_path / name) for name in names}
    files.write_sealed(tmp_path / "summary.json", told)
    prepared(given, validation=5.0, labels=folder)
    for name in names:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        for where in (folder, f"{folder}/labels.parquet"):
            if name == "labels.csv":  # not read
                prepared(given, validation=5.0, labels=where)
                continue
            with pytest.raises(StorageError, match=f"{name}: not what this run has left"):
                prepared(given, validation=5.0, labels=where)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "soft_labels.npy").unlink()
    dataset = prepared(given, validation=5.0, labels=folder)
    assert any("soft_labels.npy is gone" in note for note in dataset.said)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(StorageError, match=r"summary\.json: cannot be read as the summary of a run"):
        prepared(given, validation=5.0, labels=folder)
    (tmp_path / "summary.json").unlink()
    prepared(given, validation=5.0, labels=folder)


@pytest.mark.parametrize("field", ["data.splits", "noise.file"])
def test_splits_and_labels_that_were_changed_since_are_refused(prepared, tmp_path, field):
    """Protects `data.splits` and `noise.file` as `data.labels` is, where a finished run has left their file."""
    given = Source("hand", NAMES, Part(IMAGES, GIVEN, TRUTH, None))
    path = tmp_path / "noise.npz"
    provenance.save(path, prepared(given, validation=5.0).provenance())
    told = {"networks": {}, "noise": {}, "labels": {"accuracy_before": None}}
    files.write_sealed(tmp_path / "summary.json", told | {"files": {path.name: checksums.file_sum(path)}})
    config = config_of(given, {})
    config.update_from_flattened_dict({"noise.kind": "file" if field == "noise.file" else "none", field: str(path)})
    prepare.held_to_sums(config)
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(StorageError, match=r"noise\.npz: not what this run has left"):
        prepare.prepare(config)


def test_replaced_labels_are_not_reported_as_given(prepared, tmp_path):
    """Protects the noise that is reported, and noise.npz: labels as people gave them, not as a run has guessed them."""
    given = source(truth=TRUTH)
    first = prepared(given)
    dataset = prepared(given, labels=corrected(tmp_path, first), labels_column="suggested")
    assert (dataset.given_label != first.given_label).any()
    np.testing.assert_array_equal(first.reported_label, first.given_label)
    np.testing.assert_array_equal(dataset.reported_label, first.given_label)
    np.testing.assert_array_equal(dataset.provenance().given_labels, first.provenance().given_labels)
    noisy = dataset.splits.noisy
    assert dataset.rate == dataset.provenance().realised_rate == np.mean(GIVEN[noisy] != TRUTH[noisy])
    np.testing.assert_array_equal(dataset.matrix, first.matrix)
    np.testing.assert_array_equal(dataset.carried_label, GIVEN)


def test_labels_of_other_splits_are_refused(prepared, tmp_path):
    """Protects trusted labels: where they would come back as those of noisy images; that run's splits help."""
    given = source(truth=TRUTH)
    first, other = prepared(given), prepared(given, trusted=3.0)
    folder, count = corrected(tmp_path, first), len(np.intersect1d(other.splits.noisy, first.splits.trusted))
    with pytest.raises(UserError) as caught:
        prepared(given, trusted=3.0, labels=folder)
    assert f"{folder}/labels.parquet: {count} of 27 noisy images are not among the noisy ones" in str(caught.value)
    taken = {"labels": folder, "labels_column": "suggested"}
    again = prepared(given, trusted=3.0, splits=saved(tmp_path, first), **taken)
    np.testing.assert_array_equal(again.given_label[again.splits.noisy], (GIVEN[again.splits.noisy] + 1) % 3)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_features_beside_the_images(prepared, tmp_path, kind):
    """Protects `data.features`: a row for each training image, in their order; the images stay what they were."""
    features = np.random.default_rng(1).normal(size=(SIZE, 5)).astype(kind)
    np.save(tmp_path / "features.npy", features)
    dataset = prepared(source(truth=TRUTH), features=str(tmp_path / "features.npy"))
    assert dataset.features.dtype == np.float32
    np.testing.assert_array_equal(dataset.features, features.astype(np.float32))
    np.testing.assert_array_equal(dataset.images, IMAGES)
    assert prepared(source(truth=TRUTH)).features is None


def with_nan(row, column):
    features = np.ones((SIZE, 5), np.float32)
    features[row, column] = np.nan
    return features


@pytest.mark.parametrize(
    "features, fault",
    [
        (np.ones((24, 5)), ": 24 rows, expected 30, one for each image in their order"),
        (np.ones((31, 5)), ": 31 rows, expected 30, one for each image in their order"),
        (with_nan(7, 3), " row 7, column 3: nan is no finite float32 (1 such rows)"),
        (np.full((SIZE, 5), 1e300), " row 0, column 0: inf is no finite float32 (30 such rows)"),
        (np.ones((SIZE, 5)), ": all rows are equal, expected features that tell images apart"),
        (np.ones((SIZE, 5), bool), ": bool of shape (30, 5), expected real numbers"),
        (np.ones((SIZE, 2, 2)), ": shape (30, 2, 2), expected [rows, columns], one or more of each"),
        (None, ": no such file"),
    ],
    ids=[
        "noisy rows only",
        "a row too many",
        "nan",
        "beyond float32",
        "equal",
        "truth values",
        "three dimensions",
        "missing",
    ],
)
def test_features_that_do_not_fit_are_refused(prepared, tmp_path, features, fault):
    """Protects from features of other images and from numbers that would spoil every purified label."""
    path = tmp_path / "features.npy"
    if features is not None:
        np.save(path, features)
    with pytest.raises(UserError) as caught:
        prepared(source(truth=TRUTH), features=str(path))
    assert str(caught.value) == f"{path}{fault}"


def test_cut_off_features_are_refused(prepared, tmp_path):
    """Protects from a copy that was interrupted."""
    path = tmp_path / "features.npy"
    np.save(path, np.ones((SIZE, 5), np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        prepared(source(truth=TRUTH), features=str(path))
    assert str(caught.value).startswith(f"{path}: not an array of numbers in .npy format (")
