"""Sets prepared by TensorFlow Datasets, read and, for these tests, written without TensorFlow."""

import importlib.util
import io
import json
import os
import pathlib
import runpy
import subprocess
import sys
from functools import partial

import loading
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from kdmlc_jax.data.images import decode as decoding

NAMES = ["cat", "dog", "eel"]
FORMATS = ["array_record", "parquet"]
SCRIPT = pathlib.Path(__file__).parents[3] / "scripts" / "prepare_data.py"
RNG = np.random.default_rng(0)


load, error_of = partial(loading.load, "tfds"), partial(loading.error_of, "tfds")


def png(pixels):
    """A file, because tfds encodes arrays with TensorFlow only."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def examples(count, split, shape=(4, 5, 3)):
    """`count` random images with their labels and ids."""
    return [
        {"id": f"{split}_{row}", "image": RNG.integers(0, 256, shape, np.uint8), "label": int(RNG.integers(3))}
        for row in range(count)
    ]


def features(**changes):
    """CIFAR-10's features on other images; a feature given as None is left out."""
    image, label = tfds.features.Image(shape=(4, 5, 3)), tfds.features.ClassLabel(names=NAMES)
    kinds = {"id": tfds.features.Text(), "image": image, "label": label} | changes
    return {name: kind for name, kind in kinds.items() if kind is not None}


class Mini(tfds.core.GeneratorBasedBuilder):
    """A registered set, which `scripts/prepare_data.py` finds by its name "mini"."""

    VERSION = tfds.core.Version("1.0.0")
    kinds, supervised, splits = features(), None, {"train": examples(7, "train"), "test": examples(3, "test")}

    def _info(self):
        kinds = tfds.features.FeaturesDict(self.kinds)
        return tfds.core.DatasetInfo(builder=self, features=kinds, supervised_keys=self.supervised)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(rows) for split, rows in self.splits.items()}

    def _generate_examples(self, rows):
        for number, row in enumerate(rows):
            yield number, {name: png(value) if isinstance(value, np.ndarray) else value for name, value in row.items()}


def write(folder, file_format, splits, kinds=None, supervised=None):
    """Prepares a set of its own; returns the folder of its version."""
    fields = {"VERSION": Mini.VERSION, "splits": splits, "kinds": kinds or features(), "supervised": supervised}
    builder = type("Own", (Mini,), fields, skip_registration=True)(data_dir=str(folder), file_format=file_format)
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


@pytest.fixture(params=FORMATS)
def mini(tmp_path, request):
    """The version's folder of a set of 7 training and 3 test images."""
    return write(tmp_path, request.param, Mini.splits)


def assert_same(part, written):
    """Preparing shuffles, so rows are found by their ids."""
    assert sorted(part.ids) == sorted(row["id"] for row in written)
    at = {name: row for row, name in enumerate(part.ids)}
    for row in written:
        np.testing.assert_array_equal(part.images[at[row["id"]]], row["image"])
        assert part.labels[at[row["id"]]] == row["label"]


def test_round_trip(mini):
    """Protects pixels, labels, names and ids in both formats, and that TensorFlow takes no part."""
    source = load(mini)
    assert_same(source.train, Mini.splits["train"])
    assert_same(source.test, Mini.splits["test"])
    assert source.class_names == tuple(NAMES) and source.name == "tfds" and source.notes == ()
    assert (source.train.images.dtype, source.train.labels.dtype) == (np.uint8, np.int32)
    assert "tensorflow" not in sys.modules


def test_rows_keep_the_order_of_the_files(mini):
    """Protects the stable index: the row of an image is its row in the set, in every run."""
    stored = [row["id"].decode() for row in tfds.builder_from_directory(str(mini)).as_data_source("train")]
    assert list(load(mini).train.ids) == stored == list(load(mini).train.ids)


def test_what_a_set_may_lack(tmp_path):
    """Protects sets without a test split, ids or names of classes."""
    kinds = features(id=None, label=tfds.features.ClassLabel(num_classes=3))
    rows = [{name: row[name] for name in ("image", "label")} for row in Mini.splits["train"]]
    source = load(write(tmp_path, "array_record", {"train": rows}, kinds))
    assert source.test is None and source.train.ids is None and source.class_names == ("0", "1", "2")


def test_other_features_are_not_decoded(tmp_path):
    """Protects sets with features that only TensorFlow decodes, and masks from being taken for the image."""
    mask = tfds.features.LabeledImage(labels=NAMES, shape=(4, 5, 1))
    kinds = features(mask=mask, boxes=tfds.features.Sequence({"box": tfds.features.BBoxFeature()}))
    more = {"mask": np.zeros((4, 5), np.uint8), "boxes": [{"box": tfds.features.BBox(0.0, 0.0, 1.0, 1.0)}]}
    rows = [row | more for row in Mini.splits["train"]]
    assert_same(load(write(tmp_path, "parquet", {"train": rows}, kinds)).train, rows)


def test_supervised_keys_choose_among_labels(tmp_path):
    """Protects CIFAR-100, which has two labels: the set's own choice counts, and without one nothing is guessed."""
    kinds = features(coarse=tfds.features.ClassLabel(num_classes=2))
    rows = [row | {"coarse": 0} for row in Mini.splits["train"]]
    chosen = load(write(tmp_path / "a", "array_record", {"train": rows}, kinds, ("image", "label")))
    assert_same(chosen.train, rows)
    folder = write(tmp_path / "b", "array_record", {"train": rows}, kinds)
    listed = "coarse (ClassLabel), id (Text), image (Image), label (ClassLabel)"
    assert error_of(folder) == f"{folder}: 2 features of kind ClassLabel, expected one; there are {listed}"


def test_set_without_images(tmp_path):
    """Protects against a set of another kind: what it holds is listed."""
    rows = [{name: row[name] for name in ("id", "label")} for row in Mini.splits["train"]]
    folder = write(tmp_path, "array_record", {"train": rows}, features(image=None))
    expected = "0 features of kind Image, expected one; there are id (Text), label (ClassLabel)"
    assert error_of(folder) == f"{folder}: {expected}"


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_without_labels(tmp_path, split):
    """Protects from test sets whose labels are kept secret (left out, and said), and from such training images."""
    splits = Mini.splits | {split: [row | {"label": -1} for row in Mini.splits[split]]}
    folder = write(tmp_path, "array_record", splits)
    if split == "train":
        expected = 'split "train" row 0: -1 is out of range, expected 0 to 2'
        assert error_of(folder) == f"{folder} {expected}"
    else:
        source = load(folder)
        assert source.test is None and source.notes == (f'{folder}: split "test" has no labels and is left out',)


def test_validation_split(tmp_path):
    """Protects the split `validation` from being passed over: its images come last, and are for validation."""
    splits = {"train": examples(4, "train"), "validation": examples(2, "v"), "extra": examples(1, "x")}
    folder = write(tmp_path, "array_record", splits)
    source = load(folder)
    assert_same(source.train, splits["train"] + splits["validation"])
    assert source.validation.tolist() == [4, 5] and {*source.train.ids[4:]} == {"v_0", "v_1"} and source.test is None
    assert source.notes == (
        f'{folder}: the 2 images of split "validation" are for validation',
        f"{folder}: splits not read: extra",
    )


def test_train_split_is_needed(tmp_path):
    """Protects the one with a set for evaluation only: the splits found are listed."""
    folder = write(tmp_path, "array_record", {"validation": examples(2, "v"), "test": examples(2, "t")})
    expected = 'there is no split "train" with images; the splits are test, validation'
    assert error_of(folder) == f"{folder}: {expected}"


def test_grey_files_among_colour_images(tmp_path):
    """Protects ImageNet, which holds grey files: all come out with the channels of the set, or data.channels."""
    grey = [row | {"image": row["image"][..., 0]} for row in Mini.splits["train"][:3]]
    folder = write(tmp_path, "array_record", {"train": grey + Mini.splits["train"][3:]})
    part = load(folder).train
    assert_same(
        part,
        [row | {"image": np.repeat(row["image"][..., None], 3, 2)} for row in grey] + list(Mini.splits["train"][3:]),
    )
    single = load(folder, channels=1).train
    assert single.images.shape == (7, 4, 5, 1)
    at = list(single.ids).index(grey[1]["id"])
    np.testing.assert_array_equal(single.images[at, ..., 0], grey[1]["image"])


def test_images_of_different_sizes(tmp_path):
    """Protects the array: sizes that differ are refused unless data.image_size makes them one, as for image files."""
    rows = [*examples(3, "a", (9, 6, 3)), *examples(3, "b", (7, 8, 3))]
    folder = write(tmp_path, "array_record", {"train": rows}, features(image=tfds.features.Image()))
    message = error_of(folder)
    assert message.startswith(f'{folder} split "train" row ') and message.endswith(": set data.image_size")
    assert "image of shape (9, 6, 3), the first is (7, 8, 3)" in message or "(7, 8, 3), the first is (9, 6" in message
    wanted = []
    for row in rows:
        (tmp_path / "file.png").write_bytes(png(row["image"]).getvalue())
        wanted.append(row | {"image": decoding.decode(tmp_path / "file.png", 5, 3, 1.0)})
    assert_same(load(folder, image_size=5).train, wanted)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (tfds.features.Image(shape=(4, 5, 4)), "has shape (4, 5, 4) with data.channels=0, expected [H, W, K]"),
        (tfds.features.Image(dtype=np.uint16, shape=(4, 5, 3), encoding_format="png"), "is uint16, expected uint8"),
    ],
)
def test_other_kinds_of_images(tmp_path, image, message):
    """Protects from transparency and 16-bit images, which nothing after this could take."""
    folder = write(tmp_path, "array_record", Mini.splits, features(image=image))
    assert error_of(folder).startswith(f'{folder}: image feature "image" {message}')


def test_record_format_of_tensorflow(mini):
    """Protects the one whose set is in tfds's default format: the message gives the way out."""
    path = mini / "dataset_info.json"
    text = path.read_text()
    path.write_text(text.replace('"array_record"', '"tfrecord"').replace('"parquet"', '"tfrecord"'))
    message = error_of(mini)
    assert message.startswith(f"{mini}: format tfrecord cannot be read without TensorFlow, expected array_record or")
    assert "scripts/prepare_data.py --format array_record" in message


def test_folder_above_the_version(mini):
    """Protects the likeliest mistake: the set's folder or the one above instead of the version's, which is named."""
    for folder in (mini.parent, mini.parent.parent):
        expected = f"holds no dataset_info.json, expected the folder of one prepared version, e.g. {mini}"
        assert error_of(folder) == f"{folder}: {expected}"


def test_foreign_folders(tmp_path):
    """Protects against a traceback for a folder of anything else."""
    message = "holds no dataset_info.json, expected the folder of one prepared version"
    assert error_of(tmp_path) == f"{tmp_path}: {message}"
    assert error_of(tmp_path / "absent").startswith(f"data.dir: {tmp_path}/absent is not a directory")
    for text in ("", "{}", "[1]", '{"name": "x", "version": "1.0.0"}'):
        (tmp_path / "dataset_info.json").write_text(text)
        (tmp_path / "features.json").write_text(text)
        assert error_of(tmp_path).startswith(f"{tmp_path}: ")


def test_version_without_features(mini):
    """Protects against half a copy: the second file of a set's description is named too."""
    (mini / "features.json").unlink()
    assert error_of(mini).startswith(f"{mini}: holds no features.json")


@pytest.mark.parametrize("damage", ["missing", "cut", "overwritten"])
def test_damaged_records(mini, damage):
    """Protects against an incomplete copy: the split is named, and the row where one is at fault."""
    (path,) = mini.glob("*-train*")
    raw = path.read_bytes()
    path.unlink()
    if damage != "missing":
        middle = len(raw) // 2
        path.write_bytes(raw[:middle] if damage == "cut" else raw[: middle - 200] + bytes(400) + raw[middle + 200 :])
    assert error_of(mini).startswith(f'{mini} split "train"')


def test_damaged_image(tmp_path):
    """Protects against an image that was broken before the set was prepared."""
    rows = [row | {"image": io.BytesIO(png(row["image"]).getvalue()[:60])} for row in examples(2, "train")]
    folder = write(tmp_path, "array_record", {"train": rows})
    assert error_of(folder).startswith(f'{folder} split "train" row 0: cannot be read (')


def test_number_of_rows_must_agree(mini):
    """Protects against shards of another version beside the description of this one."""
    path = mini / "dataset_info.json"
    path.write_text(path.read_text().replace('"7"', '"8"'))
    assert error_of(mini).startswith(f'{mini} split "train"')


def test_tfds_is_imported_when_used():
    """Protects start-up time."""
    code = "import sys, kdmlc_jax.data.sources.tfds; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def script():
    """What `scripts/prepare_data.py` defines."""
    return runpy.run_path(str(SCRIPT))


def test_script_helps_at_once(script, capsys, monkeypatch):
    """Protects --help, which must not wait for TensorFlow or tfds."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(SystemExit) as caught:
        script["main"](["--help"])
    assert caught.value.code == 0 and "--format {array_record,parquet}" in capsys.readouterr().out


def test_script_without_tensorflow(script, capsys, monkeypatch, tmp_path):
    """Protects the first run: one line says what to install, and nothing is written."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        script["main"](["--name", "mini", "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert "TensorFlow is not installed" in error and 'pip install "kdmlc-jax[prepare]"' in error
    assert not list(tmp_path.iterdir())


def test_script_refuses_other_formats(script, capsys, tmp_path):
    """Protects from a long preparation in a format that cannot be read afterwards."""
    with pytest.raises(SystemExit) as caught:
        script["main"](["--name", "mini", "--out", str(tmp_path), "--format", "tfrecord"])
    assert caught.value.code == 2 and "array_record" in capsys.readouterr().err


@pytest.mark.parametrize("file_format", FORMATS)
def test_script_prepares_what_the_source_reads(script, capsys, monkeypatch, tmp_path, file_format):
    """Protects the way from a name to a source: the last line printed is the folder to read."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # these images are encoded already
    script["main"](["--name", "mini", "--out", str(tmp_path), "--format", file_format])
    folder = capsys.readouterr().out.splitlines()[-1]
    assert folder == str(tmp_path / "mini" / "1.0.0")
    assert_same(load(folder).train, Mini.splits["train"])


def test_script_names_what_cannot_be_prepared(script, capsys, tmp_path):
    """Protects against tracebacks for a set that does not exist, and for one that lies there in the other format."""
    script["prepare"]("mini", tmp_path, "array_record")
    capsys.readouterr()
    for name, file_format in (("no_such_set", "parquet"), ("mini", "parquet")):
        with pytest.raises(SystemExit) as caught:
            script["prepare"](name, tmp_path, file_format)
        error = capsys.readouterr().err
        assert caught.value.code == 2 and f"error: {name}: " in error and "Traceback" not in error


FORMS = {
    "proto": {"pythonClassName": "evil_features.Boom", "featuresDict": {"features": {}}},
    "snake case": {"python_class_name": "evil_features.Boom", "featuresDict": {"features": {}}},
    "before 4.5": {"type": "evil_features.Boom", "content": {}},
    "message": {
        "type": "tensorflow_datasets.core.features.text_feature.Text",
        "content": "{}",
        "proto_cls": "evil_features.Boom",
    },
}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_no_module_of_the_folders_choosing(mini, monkeypatch, form, deep):
    """Protects the machine: features.json names what tfds imports, and only its own features are."""
    (mini / "evil_features.py").write_text(f"open({str(mini / 'canary')!r}, 'w')")
    monkeypatch.syspath_prepend(str(mini))
    told = FORMS[form]
    if deep:
        told = json.loads((mini / "features.json").read_text())
        told["featuresDict"]["features"]["id"] = FORMS[form]
    (mini / "features.json").write_text(json.dumps(told))
    assert "is 'evil_features.Boom', expected a feature of tfds itself" in error_of(mini)
    assert not (mini / "canary").exists() and "evil_features" not in sys.modules


def test_a_pipe_in_the_folder(mini):
    """Protects from waiting for ever: tfds opens whatever is there."""
    file = next(mini.glob("mini-train*"), None) or next(mini.glob("*train*"))
    file.unlink()
    os.mkfifo(file)
    assert error_of(mini) == f"{file}: is a pipe, expected a regular file"
