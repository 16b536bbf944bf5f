"""Networks by name: sizes counted by hand and as published, shapes, batch statistics, wrong names."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kdmlc_jax import nets
from kdmlc_jax.errors import UserError
from kdmlc_jax.nets import efficientnet, imagenet, resnet

KEY = jax.random.key(0)
TINY = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))


def shapes(name, classes=10, image=(32, 32, 3)):
    module = nets.build(name, classes)
    return jax.eval_shape(lambda x: module.init(KEY, x, train=False), jnp.zeros((2, *image)))


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def conv_bn(kernel, inputs, outputs):
    return kernel * kernel * inputs * outputs + 2 * outputs


def count_cnn(width, channels=3, classes=10):
    """Three convolutions without bias, each with BatchNorm, and a dense layer."""
    convolutions = conv_bn(3, channels, width) + conv_bn(3, width, 2 * width) + conv_bn(3, 2 * width, 4 * width)
    return convolutions + (4 * width + 1) * classes


def count_resnet(blocks, classes=10):
    """Stem, three stages of 3x3 convolutions with BatchNorm, no parameters in shortcuts, a dense layer."""
    total = conv_bn(3, 3, 16)
    for inputs, channels in ((16, 16), (16, 32), (32, 64)):
        total += conv_bn(3, inputs, channels) + (2 * blocks - 1) * conv_bn(3, channels, channels)
    return total + 65 * classes


def count_preact(stem, stages, blocks, classes):
    """Stem; per block BatchNorm and 3x3 convolution twice, a 1x1 where channels change; a last BatchNorm, a dense."""
    total, inputs = 9 * 3 * stem, stem
    for channels in stages:
        for _ in range(blocks):
            total += 2 * inputs + 9 * inputs * channels + 2 * channels + 9 * channels * channels
            total += inputs * channels if inputs != channels else 0
            inputs = channels
    return total + 2 * inputs + (inputs + 1) * classes


def count_wide(depth, width, classes):
    return count_preact(16, (16 * width, 32 * width, 64 * width), (depth - 4) // 6, classes)


@pytest.mark.parametrize(
    ("name", "classes", "count", "published"),
    [
        ("cnn16", 10, count_cnn(16), None),
        ("cnn1", 10, count_cnn(1), None),
        ("mlp7", 10, (3072 + 2) * 7 + (7 + 2) * 7 + 8 * 10, None),
        ("resnet20", 10, count_resnet(3), 0.27),
        ("resnet32", 10, count_resnet(5), 0.46),
        ("preact_resnet18", 10, count_preact(64, (64, 128, 256, 512), 2, 10), 11.17),
        ("wrn16_2", 100, count_wide(16, 2, 100), 0.7),
        ("wrn40_2", 100, count_wide(40, 2, 100), 2.25),
        ("wrn28_10", 10, count_wide(28, 10, 10), 36.5),
    ],
)
def test_parameter_counts(name, classes, count, published):
    """Protects the architectures: parameters layer by layer, and the millions that papers give for CIFAR."""
    assert size(shapes(name, classes)["params"]) == count
    if published:
        assert count / 1e6 == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("name", "published"),
    [("imagenet_resnet18", 11689512), ("imagenet_resnet34", 21797672), ("imagenet_resnet50", 25557032)],
)
def test_imagenet_parameter_counts(name, published):
    """Protects the loading of published weights: torchvision's count for 1000 classes, to the parameter."""
    assert size(shapes(name, 1000, (224, 224, 3))["params"]) == published


WIDTHS = {"cnn3": 12, "mlp12": 12, "resnet8": 64, "preact_resnet18": 512, "wrn16_2": 128}
LARGE = {"efficientnet_lite0": 1280, "imagenet_resnet18": 512, "imagenet_resnet50": 2048}


@pytest.mark.parametrize(
    ("name", "width", "image"),
    [
        *((name, width, image) for name, width in WIDTHS.items() for image in ((28, 28, 1), (9, 7, 2), (1, 1, 40))),
        *((name, width, image) for name, width in LARGE.items() for image in ((224, 224, 3), (161, 97, 1))),
    ],
)
def test_output_shapes(name, width, image):
    """Protects logits [B, C] and features [B, D] in float32, for odd sizes, any number of channels, and features."""
    module, images = nets.build(name, 7), jax.ShapeDtypeStruct((5, *image), jnp.float32)
    forward = partial(module.apply, train=True, mutable=["batch_stats"])
    output, _ = jax.eval_shape(forward, shapes(name, 7, image), images)
    assert output.logits.shape == (5, 7) and output.features.shape == (5, width)
    assert output.logits.dtype == output.features.dtype == jnp.float32


def layer_shapes(name, image):
    """[H, W, K] after every convolution, in the order of the forward pass."""
    module, found = nets.build(name, 7), []

    def record(next_method, args, kwargs, context):
        output = next_method(*args, **kwargs)
        if isinstance(context.module, nn.Conv):
            found.append(output.shape[1:])
        return output

    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: module.init(KEY, x, train=False), jnp.zeros((1, *image)))
    return found


def test_strides():
    """Protects where images shrink: first blocks of all stages but the first, for photographs the stem and the pool,
    too; a bottleneck in its 3x3."""
    # The stem, and per stage: the shortcut and two 3x3, then two 3x3.
    wide = [(32, 32, 16), *[(32, 32, 32)] * 5, *[(16, 16, 64)] * 5, *[(8, 8, 128)] * 5]
    assert layer_shapes("wrn16_2", (32, 32, 3)) == wide
    basic = layer_shapes("imagenet_resnet18", (224, 224, 3))
    assert basic[:2] == [(112, 112, 64), (56, 56, 64)] and basic[-1] == (7, 7, 512)
    assert basic[5:8] == [(28, 28, 128)] * 3  # two 3x3 and the shortcut
    deep = layer_shapes("imagenet_resnet50", (224, 224, 3))
    assert deep[1:5] == [(56, 56, 64), (56, 56, 64), (56, 56, 256), (56, 56, 256)]
    assert deep[11:15] == [(56, 56, 128), (28, 28, 128), (28, 28, 512), (28, 28, 512)]
    assert [shape[0] for shape in layer_shapes("cnn3", (28, 28, 1))] == [14, 7, 4]
    assert [shape[0] for shape in layer_shapes("cnn3", (16, 16, 1))] == [16, 8, 4]


@pytest.mark.parametrize("name", ["cnn2", "mlp5", "resnet8", "wrn10_1", imagenet.ImageNetResNet(4, (1,))])
def test_only_training_moves_the_statistics(name):
    """Protects evaluation: it leaves the running statistics alone and treats each image by itself."""
    module = nets.build(name, 4) if isinstance(name, str) else name
    variables = jax.jit(lambda: module.init(KEY, TINY, train=False))()
    both = lambda x: [module.apply(variables, x, train=train, mutable=["batch_stats"]) for train in (False, True)]  # noqa: E731
    (output, kept), (_, moved) = jax.jit(both)(TINY)
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    for new, old in zip(jax.tree.leaves(moved["batch_stats"]), jax.tree.leaves(variables["batch_stats"]), strict=True):
        assert np.abs(new - old).max() > 0
    beside_others = jax.jit(both)(TINY[::-1] + jnp.array([1.0, 0.0, 1.0])[:, None, None, None])[0][0]
    np.testing.assert_allclose(beside_others.logits[1], output.logits[1], rtol=1e-4, atol=1e-5)
    assert np.abs(beside_others.logits[0] - output.logits[2]).max() > 1e-3


def test_option_a_shortcut():
    """Protects option A: with its convolutions at zero a block is relu(every second pixel, zeros around channels)."""
    block = resnet.BasicBlock(8, 2)
    x = jax.random.normal(KEY, (2, 5, 6, 4))
    variables = jax.eval_shape(partial(block.init, train=False), KEY, x)
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1]
    assert sorted(kernel.shape for kernel in kernels) == [(3, 3, 4, 8), (3, 3, 8, 8)]
    still = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    want = np.zeros((2, 3, 3, 8), np.float32)
    want[..., 2:6] = np.maximum(x[:, ::2, ::2], 0)
    np.testing.assert_array_equal(block.apply(still, x, train=False), want)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_new_block_is_its_shortcut(bottleneck):
    """Protects the start of training (Goyal et al. 2017): the residual branch adds 0, and its gradient is not 0."""
    block = imagenet.Block(4, 1, bottleneck)
    x = jax.random.normal(KEY, (2, 5, 6, 16 if bottleneck else 4))
    variables = jax.jit(partial(block.init, train=False))(KEY, x)
    loss = lambda params: block.apply({**variables, "params": params}, x, train=False).sum()  # noqa: E731
    output, gradient = jax.jit(lambda: (block.apply(variables, x, train=False), jax.grad(loss)(variables["params"])))()
    np.testing.assert_array_equal(output, np.maximum(x, 0))
    last = sorted(name for name in variables["params"] if "Norm" in name)[-1]
    assert np.abs(gradient[last]["scale"]).min() > 0


def test_look_ahead_through_the_stem():
    """Protects the bilevel step from the max-pool: its gradient has a finite gradient too."""
    module = imagenet.ImageNetResNet(3, (1,))
    x = jax.random.normal(KEY, (4, 8, 8, 1))
    variables = jax.jit(partial(module.init, train=False))(KEY, x)

    def loss(params):
        output, _ = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(output.logits[:, 0] ** 2)

    params = variables["params"]
    twice = jax.jit(jax.grad(lambda w: sum(jnp.vdot(g, g) for g in jax.tree.leaves(jax.grad(loss)(w)))))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(twice))
    assert np.abs(twice["Conv_0"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet33", "resnet32"),
        ("resnet2", None),
        ("preact_resnet19", "preact_resnet18"),
        ("imagenet_resnet101", "imagenet_resnet50"),
        ("cnn0", None),
        ("mlp", "mlp256"),
        ("vgg", None),
        ("base", None),
        ("wrn41_2", "wrn40_2"),
        ("wrn16-2", "wrn16_2"),
        ("wrn4_2", None),
        ("wrn16_0", "wrn16_2"),
    ],
)
def test_unknown_network(name, nearest):
    """Protects the user from a typing error and from depths there are not: the value, all forms, a near name."""
    with pytest.raises(UserError, match=rf'^student.net: "{name}" is not one of cnn<width> .*wrn<6n\+4>') as error:
        nets.build(name, 10, "student.net")
    assert nearest is None or f'did you mean "{nearest}"' in str(error.value)


@pytest.mark.parametrize("kernel, stride, sides", [(3, 1, (8, 5)), (3, 2, (8, 7)), (5, 2, (8, 7)), (5, 1, (3, 4))])
def test_depthwise_is_the_convolution_of_each_channel(kernel, stride, sides):
    """Protects the sum of shifted images: XLA's grouped convolution with SAME padding, and its gradients."""
    x = jax.random.normal(KEY, (2, *sides, 6))
    module = efficientnet.Depthwise(kernel, stride)
    variables = module.init(KEY, x)

    def grouped(variables, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        w = variables["params"]["kernel"]
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=6
        )

    for fn in (lambda f: f, lambda f: jax.grad(lambda v, x: jnp.sum(jnp.sin(f(v, x))), (0, 1))):
        got, want = (jax.tree.leaves(fn(each)(variables, x)) for each in (module.apply, grouped))
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_lite0_parameter_count():
    """Protects the loading of published weights: 4.65 million for 1000 classes, to the parameter of the file."""
    assert size(shapes("efficientnet_lite0", 1000, (64, 64, 3))["params"]) == 4_652_008
