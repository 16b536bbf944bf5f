"""Encoders that are here already: images -> features, by an ONNX file, published weights, or a network of a run."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kdmlc_jax import export, nets, published
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import door, files


class Encoder(NamedTuple):
    """A function of images u8[B, H, W, K] -> features f32[B, D], and what it is in words."""

    encode: Callable[[np.ndarray], Float[np.ndarray, "B D"]]
    about: str
    side: int = 0  # of the images that it scales others to; 0 = it takes images as they are


def load(path: pathlib.Path, size: int, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """The encoder at `path`: an .onnx file, weights of a network that we know, or a folder `student/` of a run.

    Args:
      path: of the encoder.
      size: side that images are scaled to for a file, bicubic, antialiased; 0 = as the file says, else 224. A network
        of a run takes images as it was trained on.
      mean, std: of the pixels in [0, 1], by channel, that an ONNX file expects to be taken out; those of weights are
        known with the network (`nets.published`).

    Raises:
      UserError: naming `path`, for a file that is no encoder of images.
    """
    if path.suffix.lower() == ".onnx":
        return _onnx(path, size, mean, std)
    if published.is_weights(path):
        return _published(path, size)
    if not files.is_dir(path):
        raise UserError(f"{path}: expected an .onnx file, weights, or the folder of a network that a run has left")
    return _network(path)


def _network(path: pathlib.Path) -> Encoder:
    """The features under the last layer of a run's network."""
    about, output = export.open_network(path)
    shape = tuple(about["image_shape"])

    def encode(images: np.ndarray) -> np.ndarray:
        if images.shape[1:] != shape:
            raise UserError(f"{path}: images of shape {list(images.shape[1:])}, expected {list(shape)}")
        return np.asarray(output(images).features)

    return Encoder(encode, f"{about['net']}, images of {shape[0]}x{shape[1]}")


def _published(path: pathlib.Path, size: int) -> Encoder:
    """The features under the last layer of a network with published weights."""
    weights = published.read(path)
    side, known = size or weights.about.side, weights.about
    module = nets.build(weights.net, max(weights.classes, 1))
    output = export.applied(module, weights.variables, lambda images: scaled(images, side, known.mean, known.std))
    note = f", {weights.note}" if weights.note else ""
    about = f"{weights.net}{note}, images scaled to {side}x{side}"
    return Encoder(lambda images: np.asarray(output(images).features), about, side)


def scaled(images: jax.Array | np.ndarray, side: int, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """f32[B, side, side, 3]: pixels u8 in [0, 1] scaled, then normalised by channel."""
    centre, spread = (jnp.asarray(each, jnp.float32).reshape(1, 1, 1, 3) for each in (mean, std))
    x = jnp.asarray(images, jnp.float32) / 255.0
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    if x.shape[1:3] != (side, side):
        x = jnp.clip(jax.image.resize(x, (len(x), side, side, 3), "bicubic"), 0.0, 1.0)
    return (x - centre) / spread


def _onnx(path: pathlib.Path, size: int, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """An ONNX graph with one input of images and the output that `_pooled` makes features of."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UserError(f'{path}: onnxruntime is not installed; pip install "kdmlc-jax[onnx]"') from None
    try:
        door.refuse_odd(path, door.MAX_FILE)
        session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except UserError:
        raise
    except Exception as error:  # onnxruntime's errors have no common base
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as an ONNX graph ({reason})") from None
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in ("tensor(float)", "tensor(float16)"):
        found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise UserError(f"{path}: inputs {found}, expected one of float images [B, 3, H, W] or [B, H, W, 3]")
    shape = inputs[0].shape
    first = shape[1] == 3 or shape[3] != 3  # channels first
    wants = shape[2] if isinstance(shape[2], int) else 0
    if size and wants and size != wants:
        raise UserError(f"--size: {size}, expected {wants}: {path} takes no other images")
    side, dtype = wants or size or 224, np.float16 if "float16" in inputs[0].type else np.float32

    def encode(images: np.ndarray) -> np.ndarray:
        x = np.asarray(scaled(images, side, mean, std), dtype)
        try:
            outputs = session.run(None, {inputs[0].name: x.transpose(0, 3, 1, 2) if first else x})
        except Exception as error:
            hint = f", it takes {shape[0]} at once: --batch {shape[0]}" if isinstance(shape[0], int) else ""
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: fails on {len(x)} images of {side}x{side}{hint} ({reason})") from None
        return _pooled(path, outputs, len(images))

    return Encoder(encode, f"{path.name}, images scaled to {side}x{side}", side)


def _pooled(path: pathlib.Path, outputs: Sequence[np.ndarray], count: int) -> Float[np.ndarray, "B D"]:
    """f32[B, D]: an output [B, D]; else the first of tokens [B, T, D] (the class token), or the mean over [B, D, h, w].

    Of several outputs the first of the earliest of these forms.
    """
    forms: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
        lambda x: x,
        lambda x: x[:, 0],
        lambda x: x.mean(axis=(2, 3)),
    )
    for rank, pooled in zip((2, 3, 4), forms, strict=True):
        for output in outputs:
            if output.ndim == rank and len(output) == count:
                return np.asarray(pooled(output), np.float32)
    shapes = ", ".join(str(list(output.shape)) for output in outputs)
    raise UserError(f"{path}: outputs {shapes} for {count} images, expected [B, D], [B, T, D] or [B, D, h, w]")
