"""What leaves the house: a network that a run has left, as a function for another program."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, Num, UInt8
from numpy.typing import ArrayLike

from kdmlc_jax import nets
from kdmlc_jax.arrays import check_features
from kdmlc_jax.data import augment
from kdmlc_jax.data.images import decode
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.errors import UserError
from kdmlc_jax.shapes import Seen, part_of
from kdmlc_jax.storage.networks import read

BATCH = 256  # images a call, of a whole data set


def load(directory: str | pathlib.Path) -> Callable[[ArrayLike], Float[np.ndarray, "B C"]]:
    """The network saved in `directory`, as a function: images -> probabilities.

    The function takes what `as_trained` takes, and raises as it does.

    Raises:
      UserError: where there is no network.
      StorageError: where it is not as it was written.
    """
    _, output = open_network(pathlib.Path(directory))
    return lambda images: np.asarray(jax.nn.softmax(output(images).logits))


def open_network(directory: pathlib.Path) -> tuple[dict, Callable[[ArrayLike], nets.Output]]:
    """What is said of the network in `directory`, and it as a function: images -> logits and features; see `load`."""
    about, variables = read(directory)
    module = nets.build(about["net"], len(about["class_names"]))
    mean, std = (jnp.asarray(about[name], jnp.float32) for name in ("mean", "std"))
    output = applied(module, variables, lambda images: augment.normalise(images, mean, std))
    part = "features" if about.get("values") == "features" else "pixels"
    return about, lambda images: output(as_trained(part_of(images, part), about))


def over(function: Callable, images: Images | Seen, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n D"]:
    """function(images at rows), in calls of one size, for each size is compiled once."""
    size = min(BATCH, len(rows))
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    return np.concatenate([function(images[np.resize(part, size)])[: len(part)] for part in parts])


Applied = Callable[[UInt8[np.ndarray, "B H W K"]], nets.Output]


def applied(module: nn.Module, variables: Any, scaled: Callable) -> Applied:
    """images -> logits and features of a network, for images that `scaled` has made inputs of; compiled."""

    @jax.jit
    def output(images: jax.Array) -> Any:
        return module.apply(variables, scaled(images), train=False)

    return output


def as_trained(images: ArrayLike, about: dict) -> Num[np.ndarray, "B H W K"]:
    """Images as the network that `about` describes was trained on: u8[B, H, W, K], or features f32[B, 1, 1, D].

    Values: uint8; other integers in 0 to 255; floats that are fractions of 1 (rounded to 1/255) or whole numbers in
    0 to 255. Not uint16, whose range nobody can tell. Channels: grey [B, H, W] or [B, H, W, 1] is repeated for a
    network of colours; colours become grey by their luma. Size: another one is scaled by the rule of
    `images.decode.decode`, where the network's own images were. Features: real numbers [B, D] or [B, 1, 1, D].

    Raises:
      UserError: for anything else, saying what was expected.
    """
    height, width, channels = about["image_shape"]
    place = f"images for {about['net']}"
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise UserError(f"{place}: of unequal shapes, expected [B, {height}, {width}, {channels}]") from error
    if about.get("values", "features" if height == width == 1 else "uint8") == "features":
        rows = array.reshape(len(array), -1) if array.shape[1:] in ((channels,), (1, 1, channels)) else None
        if rows is None:
            raise UserError(f"{place}: shape {array.shape}, expected [B, {channels}] features")
        return check_features(place, rows)[:, None, None, :]
    scaled = about.get("resize") == "centre_square"
    if array.ndim == 3 and (array.shape[1:] == (height, width) or (scaled and array.shape[2] > 4)):
        array = array[..., None]
    size = array.shape[1:3]
    if array.ndim != 4 or array.shape[3] not in (1, 3, channels) or not array.size:
        raise UserError(
            f"{place}: shape {array.shape}, expected [B, {height}, {width}, {channels}], or 1 or 3 channels"
        )
    if size != (height, width) and not scaled:
        raise UserError(
            f"{place}: {size[0]} x {size[1]} pixels, expected {height} x {width}: it was not told how to scale"
        )
    levels = as_levels(array, place)
    if levels.shape[1:] == (height, width, channels):
        return levels
    side = height if size != (height, width) else 0
    return np.stack([decode.fitted(image, side, channels) for image in levels])


def as_levels(array: np.ndarray, place: str) -> UInt8[np.ndarray, "*S"]:
    """Grey levels 0 to 255 of what `as_trained` takes; raises as it does."""
    if array.dtype == np.uint8:
        return array
    hint = "expected uint8, other whole numbers in 0 to 255, or fractions of 1"
    if array.dtype.kind not in "iuf" or array.dtype == np.uint16:
        more = "; 16 bits v are round(v / 257) in 8" if array.dtype == np.uint16 else ""
        raise UserError(f"{place}: {array.dtype}, {hint}{more}")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0):
        raise UserError(f"{place}: values from {low} to {high}, {hint}")
    if array.dtype.kind == "f" and high <= 1:
        return np.asarray(np.rint(array * 255), np.uint8)
    if high > 255 or (array.dtype.kind == "f" and (array != np.rint(array)).any()):
        raise UserError(f"{place}: {array.dtype} values from {low} to {high}, {hint}")
    return array.astype(np.uint8)
