"""What an exported network is given: as it was trained, converted by its own rule, or refused in one line."""

import numpy as np
import pytest
from PIL import Image

from kdmlc_jax import export
from kdmlc_jax.data.images import decode
from kdmlc_jax.errors import UserError

COLOUR = {"net": "cnn4", "image_shape": [16, 16, 3], "values": "uint8", "resize": "none"}
GREY, SCALED = COLOUR | {"image_shape": [16, 16, 1]}, COLOUR | {"resize": "centre_square"}
FEATURES = {"net": "mlp4", "image_shape": [1, 1, 5], "values": "features", "resize": "none"}
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
LUMA = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in PIXELS])


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        PIXELS.astype(int),
        PIXELS.astype(np.int16),
        PIXELS.astype(np.float32),
        PIXELS / 255.0,
        (PIXELS / 255.0).astype(np.float16),
        PIXELS.tolist(),
        [Image.fromarray(image) for image in PIXELS],
    ],
    ids=["u8", "int", "int16", "f32", "fractions", "half fractions", "lists", "Pillow"],
)
def test_the_same_pixels_are_the_same(images):
    """Protects from certain nonsense: 0 to 255 in any type, and fractions of 1, are the pixels that they mean."""
    np.testing.assert_array_equal(export.as_trained(images, COLOUR), PIXELS)


def test_channels_are_converted_as_in_training():
    """Protects from broadcasting: grey is repeated, colours become luma, by the rule that files are decoded by."""
    for grey in (LUMA, LUMA[..., None]):
        np.testing.assert_array_equal(export.as_trained(grey, COLOUR), np.repeat(LUMA[..., None], 3, axis=3))
        np.testing.assert_array_equal(export.as_trained(grey, GREY), LUMA[..., None])
    np.testing.assert_array_equal(export.as_trained(PIXELS, GREY), LUMA[..., None])


@pytest.mark.parametrize("about", [SCALED, SCALED | {"image_shape": [16, 16, 1]}], ids=["colour", "grey"])
def test_sizes_are_scaled_as_in_training(tmp_path, about):
    """Protects from another crop or filter: equal to what a run makes of the same pixels in a file."""
    photo = np.random.default_rng(1).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    want = decode.decode(tmp_path / "photo.png", 16, about["image_shape"][2], 1.0)
    np.testing.assert_array_equal(export.as_trained(photo[None], about)[0], want)


@pytest.mark.parametrize(
    "images, about, words",
    [
        (PIXELS.astype(np.uint16), COLOUR, r"uint16, .*round\(v / 257\)"),
        (PIXELS.astype(int) * 16, COLOUR, r"values from 0 to 4080"),
        (PIXELS.astype(int) - 1, COLOUR, "values from -1"),
        (PIXELS.astype(np.float32) + 0.25, COLOUR, "float32 values from 0.25"),
        ((PIXELS / 255.0 - 0.5) / 0.25, COLOUR, "values from -2"),
        (PIXELS / 254.0, COLOUR, "expected uint8"),
        (np.where(PIXELS == 0, np.nan, 0.5), COLOUR, "values from nan"),
        (PIXELS > 0, COLOUR, "bool, expected uint8"),
        (PIXELS[:, :7, :3], COLOUR, "7 x 3 pixels, expected 16 x 16"),
        (PIXELS[0], COLOUR, r"shape \(16, 16, 3\), expected \[B, 16, 16, 3\]"),
        (PIXELS[0], SCALED, r"shape \(16, 16, 3\), expected"),
        (PIXELS.transpose(0, 3, 1, 2), COLOUR, r"shape \(4, 3, 16, 16\), expected"),
        (PIXELS[..., :2], COLOUR, "expected"),
        (PIXELS[:0], COLOUR, "expected"),
        ([PIXELS[0], PIXELS[1, :5]], COLOUR, "unequal shapes"),
        (["a.png"], COLOUR, "shape"),
        (np.ones((3, 4)), FEATURES, r"shape \(3, 4\), expected \[B, 5\] features"),
        (np.full((3, 5), np.nan), FEATURES, "no finite float32"),
    ],
)
def test_the_rest_is_refused(images, about, words):
    """Protects from an answer to something else: what nobody can tell is one line that says what is expected."""
    with pytest.raises(UserError, match=words) as error:
        export.as_trained(images, about)
    assert "\n" not in str(error.value)


def test_features_are_taken_in_both_shapes():
    """Protects heads on features: they are numbers, not grey levels, and whole ones stay what they are."""
    rows = np.arange(15).reshape(3, 5)
    for given in (rows, rows[:, None, None, :].astype(np.float32)):
        got = export.as_trained(given, FEATURES)
        assert got.shape == (3, 1, 1, 5) and got.dtype == np.float32
        np.testing.assert_array_equal(got[:, 0, 0], rows)
