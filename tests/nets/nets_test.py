"""Networks: sizes counted by hand, shapes, batch statistics, and the forms of the label corrector."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import flatten_util

from kdmlc_jax import nets
from kdmlc_jax.errors import UserError
from kdmlc_jax.nets import imagenet, resnet
from kdmlc_jax.nets.corrector import Corrector

KEY = jax.random.key(0)
TINY = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
FEATURES = jax.random.normal(jax.random.key(2), (6, 5))
GIVEN = jnp.array([0, 1, 2, 3, 0, 1])
PRIOR = 2 * jax.random.normal(jax.random.key(3), (6, 4))
NAMES = ["cnn3", "mlp12", "resnet8", "resnet20", "resnet32", "preact_resnet18"]
IMAGENET = {"imagenet_resnet18": 512, "imagenet_resnet34": 512, "imagenet_resnet50": 2048}


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


def count_preact(classes=10):
    """Stem, four stages with BatchNorm before each convolution and three 1x1 shortcuts, a last BatchNorm, a dense."""
    total, inputs = 9 * 3 * 64, 64
    for channels in (64, 128, 256, 512):
        total += 2 * inputs + 9 * inputs * channels + 2 * channels + 9 * channels * channels
        total += 2 * (2 * channels + 9 * channels * channels)
        total += inputs * channels if channels != inputs else 0
        inputs = channels
    return total + 2 * 512 + 513 * classes


@pytest.mark.parametrize(
    ("name", "count", "published"),
    [
        ("cnn16", count_cnn(16), None),
        ("cnn1", count_cnn(1), None),
        ("mlp7", (3072 + 2) * 7 + (7 + 2) * 7 + 8 * 10, None),
        ("resnet20", count_resnet(3), 0.27e6),
        ("resnet32", count_resnet(5), 0.46e6),
        ("preact_resnet18", count_preact(), 11.17e6),
    ],
)
def test_parameter_counts(name, count, published):
    """Protects the architectures: parameters layer by layer, and the figure that papers give for CIFAR-10."""
    assert size(shapes(name)["params"]) == count
    if published:
        assert round(count / 1e4) == round(published / 1e4)


@pytest.mark.parametrize(
    ("name", "published"),
    [("imagenet_resnet18", 11689512), ("imagenet_resnet34", 21797672), ("imagenet_resnet50", 25557032)],
)
def test_imagenet_parameter_counts(name, published):
    """Protects the loading of published weights: torchvision's count for 1000 classes, to the parameter."""
    assert size(shapes(name, 1000, (224, 224, 3))["params"]) == published


def outputs(name, image):
    """Shapes and dtypes of what network `name` for 7 classes gives for 5 images in training."""
    module = nets.build(name, 7)
    variables = shapes(name, 7, image)
    images = jax.ShapeDtypeStruct((5, *image), jnp.float32)
    output, _ = jax.eval_shape(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]), variables, images)
    assert output.logits.dtype == output.features.dtype == jnp.float32
    return output


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image", [(32, 32, 3), (28, 28, 1), (9, 7, 2), (1, 1, 40)])
def test_output_shapes(name, image):
    """Protects logits [B, C] and features [B, D] in float32, for odd sizes, any number of channels, and features."""
    output = outputs(name, image)
    width = {"cnn3": 12, "mlp12": 12, "preact_resnet18": 512}.get(name, 64)
    assert output.logits.shape == (5, 7) and output.features.shape == (5, width)


@pytest.mark.parametrize("name", IMAGENET)
@pytest.mark.parametrize("image", [(224, 224, 3), (161, 97, 1)])
def test_imagenet_output_shapes(name, image):
    """Protects the networks for photographs at their usual size and at an odd one."""
    output = outputs(name, image)
    assert output.logits.shape == (5, 7) and output.features.shape == (5, IMAGENET[name])


def layer_shapes(name, image):
    """[H, W, K] after every convolution, in the order of the forward pass."""
    module, seen = nets.build(name, 7), []

    def record(next_method, args, kwargs, context):
        output = next_method(*args, **kwargs)
        if isinstance(context.module, nn.Conv):
            seen.append(output.shape[1:])
        return output

    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: module.init(KEY, x, train=False), jnp.zeros((1, *image)))
    return seen


def test_imagenet_strides():
    """Protects where the image shrinks: stem and pool by 2 each, then first blocks, a bottleneck in its 3x3."""
    basic = layer_shapes("imagenet_resnet18", (224, 224, 3))
    assert basic[:2] == [(112, 112, 64), (56, 56, 64)] and basic[-1] == (7, 7, 512)
    assert basic[5:8] == [(28, 28, 128)] * 3  # two 3x3 and the shortcut
    deep = layer_shapes("imagenet_resnet50", (224, 224, 3))
    assert deep[1:5] == [(56, 56, 64), (56, 56, 64), (56, 56, 256), (56, 56, 256)]
    assert deep[11:15] == [(56, 56, 128), (28, 28, 128), (28, 28, 512), (28, 28, 512)]


@pytest.mark.parametrize("name", ["cnn2", "mlp4", "resnet8", "preact_resnet18", "imagenet_resnet18"])
def test_the_last_layer_maps_features_to_logits(name):
    """Protects the linear probe and a start with other classes: the layer that `head_of` names is the classifier."""
    module, images = nets.build(name, 3), jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.jit(partial(module.init, train=False))(jax.random.key(1), images)
    output = jax.jit(partial(module.apply, train=False))(variables, images)
    layer = variables["params"][nets.head_of(variables["params"])]
    np.testing.assert_allclose(
        output.features @ layer["kernel"] + layer["bias"][None], output.logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["cnn2", "mlp5", "resnet8"])
def test_only_training_moves_the_statistics(name):
    """Protects evaluation: it leaves the running statistics alone and treats each image by itself."""
    module = nets.build(name, 4)
    variables = jax.jit(lambda: module.init(KEY, TINY, train=False))()
    evaluate = jax.jit(lambda x: module.apply(variables, x, train=False, mutable=["batch_stats"]))
    output, kept = evaluate(TINY)
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    alone, _ = evaluate(TINY[1:2])
    np.testing.assert_allclose(alone.logits[0], output.logits[1], rtol=1e-4, atol=1e-5)
    _, moved = jax.jit(lambda: module.apply(variables, TINY, train=True, mutable=["batch_stats"]))()
    for new, old in zip(jax.tree.leaves(moved["batch_stats"]), jax.tree.leaves(variables["batch_stats"]), strict=True):
        assert np.abs(new - old).max() > 0


def test_option_a_shortcut():
    """Protects option A: with its convolutions at zero a block is relu(every second pixel, zeros around channels)."""
    block = resnet.BasicBlock(8, 2)
    x = jax.random.normal(KEY, (2, 5, 6, 4))
    variables = block.init(KEY, x, train=False)
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim > 1]
    assert sorted(kernel.shape for kernel in kernels) == [(3, 3, 4, 8), (3, 3, 8, 8)]
    still = {**variables, "params": jax.tree.map(jnp.zeros_like, variables["params"])}
    want = np.zeros((2, 3, 3, 8), np.float32)
    want[..., 2:6] = np.maximum(x[:, ::2, ::2], 0)
    np.testing.assert_array_equal(block.apply(still, x, train=False), want)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_new_block_is_its_shortcut(bottleneck):
    """Protects the start of training (Goyal et al. 2017): the residual branch adds 0, and its gradient is not 0."""
    block = imagenet.Block(4, 1, bottleneck)
    x = jax.random.normal(KEY, (2, 5, 6, 16 if bottleneck else 4))
    variables = block.init(KEY, x, train=False)
    np.testing.assert_array_equal(block.apply(variables, x, train=False), np.maximum(x, 0))
    loss = lambda params: block.apply({**variables, "params": params}, x, train=False).sum()  # noqa: E731
    last = sorted(name for name in variables["params"] if "Norm" in name)[-1]
    assert np.abs(jax.grad(loss)(variables["params"])[last]["scale"]).min() > 0


def test_look_ahead_through_the_stem():
    """Protects the bilevel step from the max-pool: its gradient has a finite gradient too."""
    module = imagenet.ImageNetResNet(3, (1,))
    x = jax.random.normal(KEY, (4, 8, 8, 1))
    variables = module.init(KEY, x, train=False)

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
    ],
)
def test_unknown_network(name, nearest):
    """Protects the user from a typing error: the message names the value and, where one is near, the right name."""
    with pytest.raises(UserError, match=f'network: "{name}"') as error:
        nets.build(name, 10)
    if nearest:
        assert f'did you mean "{nearest}"' in str(error.value)


FORMS = {"plain": {}, "residual": {"residual": True}, "skip": {"skip": True}, "both": {"residual": True, "skip": True}}


def make(form, prior=None):
    module = Corrector(4, **FORMS[form])
    return module, module.init(KEY, FEATURES, GIVEN, prior)["params"]


def test_corrector_size():
    """Protects MLC's corrector: 43 786 parameters for 64 features and 10 classes."""
    inputs = (jnp.zeros((2, 64)), jnp.zeros(2, jnp.int32))
    variables = jax.eval_shape(lambda: Corrector(10).init(KEY, *inputs))
    assert size(variables["params"]) == 10 * 128 + (64 + 128 + 1) * 128 + 129 * 128 + 129 * 10 == 43786


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prior", [None, PRIOR])
def test_corrector_rows_sum_to_one(form, prior):
    """Protects the simplex in every form, for large parameters too."""
    module, params = make(form, prior)
    for factor in (1.0, 30.0):
        flat, unravel = flatten_util.ravel_pytree(params)
        big = unravel(factor * flat + (factor > 1) * jax.random.normal(KEY, flat.shape))
        log_p = module.apply({"params": big}, FEATURES, GIVEN, prior)
        assert log_p.shape == (6, 4)
        np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1.0, rtol=1e-5)


def test_residual_corrector_starts_at_the_prior():
    """Protects the residual form: at the start it gives the prior's own belief, to the bit, whatever the label."""
    module, params = make("residual", PRIOR)
    got = module.apply({"params": params}, FEATURES, GIVEN, PRIOR)
    np.testing.assert_array_equal(got, jax.nn.log_softmax(PRIOR))
    np.testing.assert_array_equal(jnp.exp(got).argmax(-1), PRIOR.argmax(-1))


def test_corrector_reads_features_and_label():
    """Protects both inputs: another label or another feature gives another correction."""
    module, params = make("plain")
    apply = lambda features, given: module.apply({"params": params}, features, given)  # noqa: E731
    first = apply(FEATURES, GIVEN)
    assert (np.abs(apply(FEATURES, (GIVEN + 1) % 4) - first).max(-1) > 1e-4).all()
    assert (np.abs(apply(FEATURES + 1, GIVEN) - first).max(-1) > 1e-4).all()


def open_gate(params, bias):
    """The same parameters with the gate (the dense layer of one output) at `bias`."""
    return {
        name: {**layer, "bias": jnp.full(1, bias)} if layer.get("bias", jnp.zeros(0)).shape == (1,) else layer
        for name, layer in params.items()
    }


def test_skip_gate():
    """Protects p = (1-a)·softmax + a·onehot(ỹ): the given label where the gate is open, the correction where shut."""
    module, params = make("skip")
    rows = lambda bias: jnp.exp(module.apply({"params": open_gate(params, bias)}, FEATURES, GIVEN))  # noqa: E731
    given = np.eye(4)[GIVEN]
    np.testing.assert_allclose(rows(100.0), given, atol=1e-6)
    shut = rows(-100.0)
    assert np.abs(shut - given).max() > 0.1
    plain = {name: layer for name, layer in params.items() if layer.get("bias", jnp.zeros(0)).shape != (1,)}
    np.testing.assert_allclose(shut, jnp.exp(Corrector(4).apply({"params": plain}, FEATURES, GIVEN)), rtol=1e-5)
    between = rows(0.0)
    share = (between - shut) / np.where(np.abs(given - shut) > 1e-3, given - shut, np.nan)
    assert np.nanmin(share) > 0 and np.nanmax(share) < 1
    assert np.nanmax(np.nanmax(share, -1) - np.nanmin(share, -1)) < 1e-3


def test_skip_gate_gradient_is_finite():
    """Protects training with an open gate: log-space keeps the gradient finite where probabilities vanish."""
    module, params = make("skip")
    loss = lambda p: -jnp.mean(module.apply({"params": p}, FEATURES, GIVEN)[:, 0])  # noqa: E731
    for bias in (-100.0, 100.0):
        gradient = jax.grad(loss)(open_gate(params, bias))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
