"""A data set that TensorFlow Datasets has prepared, read without TensorFlow."""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.formats.files import locate
from kdmlc_jax.data.images.decode import decode
from kdmlc_jax.data.sources.base import Part, Source
from kdmlc_jax.errors import UserError, is_failure, unreadable
from kdmlc_jax.storage import door, files

# Fields of features.json by whose value tfds imports a module, in its new form and in its old one.
IMPORTED = ("pythonClassName", "python_class_name", "type", "proto_cls")
PROTOS = tuple(
    f"tensorflow_datasets.{name}Feature"
    for name in ("Tensor", "Text", "Image", "ClassLabel", "Sequence", "FeaturesDict")
)
READABLE = ("array_record", "parquet")  # the formats that have rows; TFRecord is a stream and needs TensorFlow


VALIDATION = "validation"


class Layout(NamedTuple):
    """Which features are read, and as what."""

    image: str
    label: str
    names: tuple[str, ...]  # every feature that is read
    channels: int  # K
    size: int  # side in pixels, 0 = the images' own
    max_megapixels: float


def load(data: ConfigDict) -> Source:
    """The splits `train`, `validation` and `test` of one prepared version, e.g. the folder
    tensorflow_datasets/cifar10/3.0.2; validation images come after the training ones.

    Images are u8[N, H, W, K], all in memory: N·H·W·K bytes. They are as they are stored, or, with data.image_size S,
    S×S: the largest centred square, scaled. Rows are in the order of the files, which preparing has shuffled once;
    their ids are the feature `id`, where there is one. Of several images or labels (CIFAR-100 has coarse and fine
    ones) those that the set itself names for supervised learning are read.

    Raises:
      UserError: for another folder, a format that needs TensorFlow, no or several features of one kind, damaged
        files, images of different shapes, and labels out of range.
    """
    path = locate(data, "tfds")
    builder = _builder(path)
    layout = _layout(path, builder.info, data)
    class_names = tuple(builder.info.features[layout.label].names)
    train = _part(path, builder, "train", layout, len(class_names))
    if train is None:
        splits = ", ".join(sorted(builder.info.splits)) or "none"
        raise UserError(f'{path}: there is no split "train" with images; the splits are {splits}')
    test = _part(path, builder, "test", layout, len(class_names))
    train, validation, notes = _with_validation(path, builder, train, layout, len(class_names))
    if test is not None and (test.labels < 0).any():
        test, notes = None, [*notes, f'{path}: split "test" has no labels and is left out']
    if left := sorted({*builder.info.splits} - {"train", "test", VALIDATION}):
        notes.append(f"{path}: splits not read: {', '.join(left)}")
    return Source(data.source, class_names, train, test, validation=validation, notes=tuple(notes))


def _with_validation(
    path: Path, builder: Any, train: Part, layout: Layout, num_classes: int
) -> tuple[Part, np.ndarray | None, list[str]]:
    """`train` and the validation images after it, their rows, and a note."""
    part = _part(path, builder, VALIDATION, layout, num_classes)
    if part is None:
        return train, None, []
    if part.images.shape[1:] != train.images.shape[1:]:
        shapes = f"{part.images.shape[1:]}, those of training {train.images.shape[1:]}"
        raise UserError(f'{path} split "{VALIDATION}": images of shape {shapes}: set data.image_size')
    count = len(train.labels)
    ids = None if train.ids is None or part.ids is None else np.concatenate([train.ids, part.ids])
    both = Part(
        np.concatenate([np.asarray(train.images), np.asarray(part.images)]),
        np.concatenate([train.labels, part.labels]),
        ids=ids,
    )
    note = f'{path}: the {len(part.labels)} images of split "{VALIDATION}" are for validation'
    return both, np.arange(count, count + len(part.labels)), [note]


@contextlib.contextmanager
def _one_line(place: str) -> Iterator[None]:
    """What tfds, array_record, pyarrow, protobuf and Pillow raise has no common base and often many lines."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_failure(error):
            raise unreadable(error, place) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{place}: cannot be read ({reason})") from error


def _builder(path: Path) -> Any:
    """The set's builder, in a format with rows."""
    import tensorflow_datasets as tfds  # slow to import; TensorFlow itself is never

    for name in ("dataset_info.json", "features.json"):
        if not files.is_file(path / name):
            versions = sorted(path.glob("*/dataset_info.json")) + sorted(path.glob("*/*/dataset_info.json"))
            hint = f", e.g. {versions[-1].parent}" if versions else ""
            raise UserError(f"{path}: holds no {name}, expected the folder of one prepared version{hint}")
    check_files(path)
    with _one_line(str(path)):
        builder = tfds.builder_from_directory(str(path))
        formats = sorted(found.value for found in builder.info.available_file_formats())
    if not set(formats) & set(READABLE):
        found = f"format {', '.join(formats) or 'unknown'}"
        how = "prepare the set again with scripts/prepare_data.py --format array_record"
        raise UserError(f"{path}: {found} cannot be read without TensorFlow, expected {' or '.join(READABLE)}: {how}")
    return builder


def check_files(path: Path) -> None:
    """Looks at the folder before tfds does, which imports whatever features.json names and opens whatever is there.

    Raises:
      UserError: for a name that is none of tfds' own features, and for what is no regular file.
    """
    import tensorflow_datasets as tfds

    for each in path.iterdir():
        if not files.is_dir(each):
            door.refuse_odd(each, door.MAX_JSON if each.suffix == ".json" else door.MAX_ARRAY)
    base, found = tfds.features.FeatureConnector, vars(tfds.features).values()
    classes = [kind for kind in found if isinstance(kind, type) and issubclass(kind, base)]
    known = {f"{kind.__module__}.{kind.__qualname__}" for kind in classes}
    with _one_line(str(path)):
        told = json.loads(door.read_text(path / "features.json"))
    waiting = [told]
    while waiting:
        each = waiting.pop()
        for name, value in each.items() if isinstance(each, dict) else ():
            own = name not in IMPORTED or value in (known if name != "proto_cls" else PROTOS)
            if isinstance(value, str) and not own:
                raise UserError(
                    f"{path / 'features.json'}: {name} is {value[:80]!r}, expected a feature of tfds itself"
                )
        if isinstance(each, dict | list):
            waiting.extend(each.values() if isinstance(each, dict) else each)


def _layout(path: Path, info: Any, data: ConfigDict) -> Layout:
    import tensorflow_datasets as tfds

    image = _only(path, info, tfds.features.Image)
    label = _only(path, info, tfds.features.ClassLabel)
    feature = info.features[image]
    if feature.np_dtype != np.uint8:
        raise UserError(f'{path}: image feature "{image}" is {feature.np_dtype}, expected uint8')
    channels = data.channels or feature.shape[-1]
    if len(feature.shape) != 3 or channels not in (1, 3):
        shape = f"{feature.shape} with data.channels={data.channels}"
        raise UserError(f'{path}: image feature "{image}" has shape {shape}, expected [H, W, K] with K of 1 or 3')
    names = (image, label, *(["id"] if "id" in info.features else []))
    return Layout(image, label, names, channels, data.image_size, data.max_megapixels)


def _only(path: Path, info: Any, kind: type) -> str:
    """The name of the one feature of exactly this kind: a LabeledImage is a mask."""
    found = [name for name, feature in info.features.items() if type(feature) is kind]
    named = [name for name in found if name in (info.supervised_keys or ())]
    chosen = found if len(found) == 1 else named
    if len(chosen) != 1:
        features = ", ".join(f"{name} ({type(info.features[name]).__name__})" for name in sorted(info.features))
        raise UserError(f"{path}: {len(found)} features of kind {kind.__name__}, expected one; there are {features}")
    return chosen[0]


def _part(path: Path, builder: Any, split: str, layout: Layout, num_classes: int) -> Part | None:
    """The rows of `split`, or None where it is absent or empty. Only in "test" may all labels be -1."""
    import tensorflow_datasets as tfds

    info = builder.info
    if split not in info.splits or not info.splits[split].num_examples:
        return None
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    place = f'{path} split "{split}"'
    with _one_line(place):
        records = builder.as_data_source(split, deserialize_method=raw)
        if len(records) != info.splits[split].num_examples:
            found = f"{len(records)} rows"
            raise UserError(f"{place}: {found}, expected {info.splits[split].num_examples} as in dataset_info.json")
    images, labels, ids = _rows(place, records, info.features, layout)
    if split != "test" or (labels != -1).any():
        labels = check_labels(labels, num_classes, place)
    return Part(images, labels, ids=ids)


def _rows(place: str, records: Sequence[Any], features: Any, layout: Layout) -> tuple[np.ndarray, np.ndarray, Any]:
    """u8[N, H, W, K], i32[N], and str[N] or None."""
    images, labels, ids = np.empty(0, np.uint8), np.empty(len(records), np.int32), []
    for row, (image, label, name) in enumerate(_examples(place, records, features, layout)):
        if row == 0:
            images = np.empty((len(records), *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            shapes = f"image of shape {image.shape}, the first is {images.shape[1:]}"
            raise UserError(f"{place} row {row}: {shapes}: set data.image_size")
        images[row], labels[row] = image, label
        ids.append(name)
    return images, labels, np.array(ids) if "id" in layout.names else None


def _examples(
    place: str, records: Sequence[Any], features: Any, layout: Layout
) -> Iterator[tuple[np.ndarray, int, str]]:
    """Image, label and id (or ''), row by row."""
    import tensorflow_datasets as tfds

    # The other features stay encoded: some need TensorFlow. So does the image, for Pillow: tfds would return a grey
    # file of a colour set without its channels.
    wanted = tfds.features.FeaturesDict({name: features[name] for name in layout.names})
    decoders = {layout.image: tfds.decode.SkipDecoding()}
    for row in range(len(records)):
        with _one_line(f"{place} row {row}"):
            example = wanted.deserialize_example_np(records[row], decoders=decoders)
            encoded, name = io.BytesIO(example[layout.image]), example.get("id", "")
            image = decode(encoded, layout.size, layout.channels, layout.max_megapixels)
        yield image, example[layout.label], name.decode() if isinstance(name, bytes) else str(name)
