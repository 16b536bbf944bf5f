"""Weights that others have published, as those of our networks; from a file that is here already.

A `.safetensors` file, or a `.pth`, `.pt` or `.bin` file of torch, read with care (`data.formats`). Which network it is
of is told by the names of its arrays; the tables of names stand with the networks (`nets.published`).
"""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdmlc_jax import nets
from kdmlc_jax.data.formats.files import read_bytes
from kdmlc_jax.data.formats.safetensors import read_safetensors
from kdmlc_jax.data.formats.torch_weights import read_weights
from kdmlc_jax.errors import UserError, reading
from kdmlc_jax.storage import files

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
ARRAYS = {  # layer of Flax -> {theirs: (collection, ours)}
    "Conv": {"weight": ("params", "kernel")},
    "Depthwise": {"weight": ("params", "kernel")},
    "Patch": {"weight": ("params", "kernel"), "bias": ("params", "bias")},
    "Token": {"": ("params", "value")},
    "Scale": {"gamma": ("params", "gamma")},
    "LayerNorm": {"weight": ("params", "scale"), "bias": ("params", "bias")},
    "Dense": {"weight": ("params", "kernel"), "bias": ("params", "bias")},
    "BatchNorm": {
        **{"weight": ("params", "scale"), "bias": ("params", "bias")},
        **{"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")},
    },
}
MAX_CONFIG = 1 << 20  # bytes
COUNTER = "num_batches_tracked"  # of BatchNorm in torch, which ours does without


class Weights(NamedTuple):
    """What a file holds."""

    net: str
    about: nets.Published
    classes: int  # 0 = no last layer; of `variables` it has one class, of zeros
    variables: dict[str, Any]  # Flax's, in float32
    note: str  # what has been done to them, or nothing


def is_weights(path: pathlib.Path) -> bool:
    """Whether `path` names such a file, be it there or not."""
    return path.suffix.lower() in SUFFIXES and not files.is_dir(path)


def read(path: pathlib.Path) -> Weights:
    """The weights in a file.

    Raises:
      UserError: naming the file, and the first array that does not fit: that is absent, that no such network has, of
        another shape, or not finite.
    """
    found = read_safetensors(path) if path.suffix.lower() == ".safetensors" else read_weights(path)
    found = {name.removeprefix("module."): array for name, array in found.items() if not name.endswith(COUNTER)}
    net, about = _recognised(path, found)
    table = _table(about)
    found = {name: array for name, array in found.items() if name not in about.unseen}
    head = f"{about.layers['Dense_0']}.weight"
    classes = len(found[head]) if head in found and found[head].ndim == 2 else 0
    shapes = _shapes(net, max(classes, 1))
    if head not in found:  # features alone
        last = {name: place for name, place in table.items() if "Dense_0" in place}
        found |= {name: np.zeros(shapes[place], np.float32) for name, place in last.items()}
    for name, place in table.items():
        if name not in found:
            raise UserError(f"{path}: no array {name!r}, which {net} has")
        if found[name].shape != shapes[place]:
            raise UserError(f"{path}: {name!r} is {list(found[name].shape)}, expected {list(shapes[place])} for {net}")
    extra = [name for name in found if name not in table]
    if extra:
        raise UserError(f"{path}: array {extra[0][:80]!r}, which {net} has not")
    variables: dict[str, Any] = {}
    for name, place in table.items():
        level = variables
        for part in place[:-1]:
            level = level.setdefault(part, {})
        level[place[-1]] = _float32(path, name, found[name])
    kinds = sorted({str(found[name].dtype) for name in table} - {"float32"})
    return Weights(net, about, classes, variables, f"{', '.join(kinds)} taken as float32" if kinds else "")


def arrays(net: str, variables: Any) -> dict[str, np.ndarray]:
    """The inverse of `read`: all arrays of a network by timm's names, their axes in torch's order.

    Those of a network that timm has not are called by our layers and torch's words: "Conv_0.weight".
    """
    theirs = nets.timm(net)
    names = {place: name for name, place in _table(theirs).items()} if theirs else {}
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        place = tuple(key.key for key in path)
        array = np.asarray(leaf, np.float32)
        found[names.get(place) or _own_name(place)] = np.ascontiguousarray(array.transpose(_axes(array.ndim)))
    return found


def _own_name(place: tuple[str, ...]) -> str:
    collection, *above, last = place
    kind = above[-1].partition("_")[0] if above else ""
    words = {ours: word for word, ours in ARRAYS.get(kind, {}).items()}
    return ".".join([*above, words.get((collection, last), last)])


def _recognised(path: pathlib.Path, found: dict[str, np.ndarray]) -> tuple[str, nets.Published]:
    """The network whose table has the most of these names, and the fewest others."""
    known = [(net, about) for net, ways in nets.published().items() for about in ways]
    tables = [_table(about).keys() for _, about in known]
    at = min(range(len(known)), key=lambda at: len(found.keys() ^ tables[at]))
    if not found.keys() & tables[at]:
        names = ", ".join(repr(name[:80]) for name in [*found][:3])
        raise UserError(f"{path}: arrays {names} …, of none of the networks {', '.join(nets.published())}")
    _check_said(path, known[at][1])
    return known[at]


def _check_said(path: pathlib.Path, about: nets.Published) -> None:
    """Raises UserError where arrays alike are of two networks, and neither the file's name, nor its folder's, nor the
    `architecture` in the config.json beside it says that it is ours."""
    if about.said is None:
        return
    ours, other = about.said
    names = f"{path.absolute().parent.name}/{path.stem}"
    beside = path.with_name("config.json")
    if files.exists(beside):
        with reading(beside, "the description of weights"):
            names += f" {json.loads(read_bytes(beside, MAX_CONFIG)).get('architecture')}"
    if ours not in names:
        known = f'"{other}", which pads its images otherwise' if other in names else "not said which of the two"
        raise UserError(
            f"{path}: arrays of {ours} or of {other}, {known}; expected {ours} in the name of the file or of its "
            'folder, or as the "architecture" of a config.json beside it'
        )


def _table(about: nets.Published | nets.Timm) -> dict[str, tuple[str, ...]]:
    """Their arrays' names -> the path of ours."""
    table = {}
    for layer, theirs in about.layers.items():
        *above, last = layer.split("/")
        for suffix, (collection, ours) in ARRAYS[last.partition("_")[0]].items():
            table[f"{theirs}.{suffix}" if suffix else theirs] = (collection, *above, last, ours)
    return table


def _shapes(net: str, classes: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shapes of our arrays, for images of three channels, their axes in torch's order."""
    module = nets.build(net, classes)
    made = jax.eval_shape(lambda images: module.init(jax.random.key(0), images, train=False), jnp.zeros((1, 64, 64, 3)))
    return {
        tuple(key.key for key in path): tuple(leaf.shape[axis] for axis in _axes(leaf.ndim))
        for path, leaf in jax.tree_util.tree_leaves_with_path(made)
    }


def _axes(rank: int) -> tuple[int, ...]:
    """Our axes in torch's order: kernels are HWIO here and OIHW there, matrices transposed."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(rank, tuple(range(rank)))


def _float32(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array.transpose(np.argsort(_axes(array.ndim)))).astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: {name!r} holds NaN or infinity, expected finite weights")
    if name.endswith("running_var") and (values < 0).any():
        raise UserError(f"{path}: {name!r} is negative, expected variances")
    return values
