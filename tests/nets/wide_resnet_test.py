"""Wide residual networks: sizes counted by hand and as published, shapes, where the image shrinks, names."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets.nets_test import layer_shapes, outputs, shapes

from kdmlc_jax import nets
from kdmlc_jax.errors import UserError

KEY = jax.random.key(0)


def count(blocks, width, classes):
    """Stem; per block BatchNorm and 3x3 convolution twice, a 1x1 where channels change; a last BatchNorm, a dense."""
    total, inputs = 9 * 3 * 16, 16
    for channels in (16 * width, 32 * width, 64 * width):
        for _ in range(blocks):
            total += 2 * inputs + 9 * inputs * channels + 2 * channels + 9 * channels * channels
            total += inputs * channels if inputs != channels else 0
            inputs = channels
    return total + 2 * inputs + (inputs + 1) * classes


@pytest.mark.parametrize(
    ("name", "blocks", "width", "classes", "exact", "published"),
    [
        ("wrn16_2", 2, 2, 100, 703_284, 0.7),
        ("wrn40_2", 6, 2, 100, 2_255_156, 2.2),
        ("wrn40_1", 6, 1, 10, 563_930, 0.6),
        ("wrn40_4", 6, 4, 10, 8_949_210, 8.9),
        ("wrn16_8", 2, 8, 10, 10_961_370, 11.0),
        ("wrn28_10", 4, 10, 10, 36_479_194, 36.5),
    ],
)
def test_parameter_counts(name, blocks, width, classes, exact, published):
    """Protects the architecture: parameters layer by layer, and the millions that papers give."""
    got = sum(leaf.size for leaf in jax.tree.leaves(shapes(name, classes)["params"]))
    assert got == count(blocks, width, classes) == exact
    assert abs(got / 1e6 - published) < 0.06


@pytest.mark.parametrize("image", [(32, 32, 3), (28, 28, 1), (9, 7, 2), (1, 1, 40)])
def test_output_shapes(image):
    """Protects logits [B, C] and features [B, 64w] in float32, for odd sizes, any number of channels, and features."""
    output = outputs("wrn16_2", image)
    assert output.logits.shape == (5, 7) and output.features.shape == (5, 128)
    assert output.logits.dtype == output.features.dtype == jnp.float32


def test_strides():
    """Protects where the image shrinks: 32, 32, 16, 8 pixels, in the first block of the last two stages."""
    # The stem, and per stage: the shortcut and two 3x3, then two 3x3.
    assert layer_shapes("wrn16_2", (32, 32, 3)) == [
        (32, 32, 16),
        *[(32, 32, 32)] * 5,
        *[(16, 16, 64)] * 5,
        *[(8, 8, 128)] * 5,
    ]


def test_evaluation():
    """Protects the linear probe (the layer `head_of` names is the classifier) and images from one another."""
    rng, images = np.random.default_rng(0), jax.random.normal(KEY, (3, 8, 8, 2))
    drawn = lambda leaf: jnp.asarray(0.1 + 0.2 * rng.random(leaf.shape), leaf.dtype)  # noqa: E731
    variables = jax.tree.map(drawn, shapes("wrn10_1", 3, (8, 8, 2)))
    evaluate = jax.jit(partial(nets.build("wrn10_1", 3).apply, variables, train=False))
    output = evaluate(images)
    layer = variables["params"][nets.head_of(variables["params"])]
    np.testing.assert_allclose(output.features @ layer["kernel"] + layer["bias"][None], output.logits, rtol=1e-4)
    beside_others = evaluate(images[::-1] + jnp.array([1.0, 0.0, 1.0])[:, None, None, None])
    np.testing.assert_allclose(beside_others.logits[1], output.logits[1], rtol=1e-4)
    assert np.abs(beside_others.logits[0] / output.logits[2] - 1).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "nearest"), [("wrn41_2", "wrn40_2"), ("wrn16-2", "wrn16_2"), ("wrn4_2", None), ("wrn16_0", "wrn16_2")]
)
def test_unknown_network(name, nearest):
    """Protects the user from depths that are not 6n + 4 and widths of 0: the value and, where one is near, a name."""
    with pytest.raises(UserError, match=f'network: "{name}" is not one of .*wrn40_2, wrn16_2') as error:
        nets.build(name, 10)
    if nearest:
        assert f'did you mean "{nearest}"' in str(error.value)
