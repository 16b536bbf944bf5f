"""The networks against the papers' definitions, written a second time in NumPy, on the same weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax import nets
from kdmlc_jax.nets.imagenet import ImageNetResNet

RNG = np.random.default_rng(0)


def windows(x, size, stride, fill):
    """[B, h, w, K, size, size]: what a kernel of odd `size` sees, centred on every stride-th pixel from (0, 0) on."""
    half = size // 2
    x = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]


class Layers:
    """The layers of one module, by kind, each taken in the order of the forward pass."""

    def __init__(self, params, statistics):
        self.params, self.statistics, self.taken = params, statistics, {}

    def take(self, kind):
        number = self.taken[kind] = self.taken.get(kind, -1) + 1
        name = f"{kind}_{number}"
        return self.params[name], self.statistics.get(name, {})

    def block(self, kind):
        return Layers(*self.take(kind))

    def conv(self, x, stride=1):
        kernel = self.take("Conv")[0]["kernel"]
        return np.einsum("bhwkij,ijko->bhwo", windows(x, len(kernel), stride, 0.0), kernel)

    def norm(self, x):
        learned, moved = self.take("BatchNorm")
        return (x - moved["mean"]) / np.sqrt(moved["var"] + 1e-5) * learned["scale"] + learned["bias"]

    def dense(self, x):
        layer = self.take("Dense")[0]
        return x @ layer["kernel"] + layer["bias"]


def relu(x):
    return np.maximum(x, 0)


def resnet(net, x, stages, blocks):
    """He et al. 2016, section 4.2, with the shortcut of option A."""
    x = relu(net.norm(net.conv(x)))
    for stage in range(stages):
        for index in range(blocks):
            block, stride = net.block("BasicBlock"), 2 if stage and not index else 1
            y = block.norm(block.conv(relu(block.norm(block.conv(x, stride)))))
            shortcut = np.zeros_like(y)
            before = (y.shape[-1] - x.shape[-1]) // 2
            shortcut[..., before : before + x.shape[-1]] = x[:, ::stride, ::stride]
            x = relu(y + shortcut)
    return x.mean((1, 2))


def preact(net, x, stages, blocks):
    """He et al. 2016 (identity mappings), also the form of Zagoruyko & Komodakis 2016."""
    x = net.conv(x)
    for stage in range(stages):
        for index in range(blocks):
            block, stride = net.block("PreActBlock"), 2 if stage and not index else 1
            active = relu(block.norm(x))
            has_projection = "Conv_2" in block.params
            x = block.conv(active, stride) if has_projection else x
            x = x + block.conv(relu(block.norm(block.conv(active, stride))))
    return relu(net.norm(x)).mean((1, 2))


def imagenet(net, x, stages, blocks):
    """He et al. 2016, table 1, with bottlenecks whose stride is on the 3x3."""
    x = relu(net.norm(net.conv(x, 2)))
    x = windows(x, 3, 2, -np.inf).max((-1, -2))
    for stage in range(stages):
        for index in range(blocks):
            block, stride = net.block("Block"), 2 if stage and not index else 1
            y = relu(block.norm(block.conv(x)))
            y = relu(block.norm(block.conv(y, stride)))
            y = block.norm(block.conv(y))
            x = relu(y + (block.norm(block.conv(x, stride)) if not index else x))
    return x.mean((1, 2))


def cnn(net, x, stages, blocks):
    """Three convolutions, the last two with stride 2."""
    for stride in (1, 2, 2):
        x = relu(net.norm(net.conv(x, stride)))
    return x.mean((1, 2))


def drawn(leaf):
    """Weights of about the size that keeps activations alive; variances and scales are positive."""
    fan_in = max(int(np.prod(leaf.shape[:-1])), 1)
    return jnp.asarray(
        (0.5 + RNG.random(leaf.shape)) * RNG.choice([-1, 1] if fan_in > 1 else [1], leaf.shape) / fan_in**0.5
    )


@pytest.mark.parametrize(
    ("module", "reference", "stages", "blocks"),
    [
        ("resnet20", resnet, 3, 3),
        ("preact_resnet18", preact, 4, 2),
        ("wrn16_2", preact, 3, 2),
        ("cnn3", cnn, 3, 1),
        (ImageNetResNet(5, (2, 2), True), imagenet, 2, 2),
    ],
)
def test_network_is_the_papers(module, reference, stages, blocks):
    """Protects the networks: strides, where kernels and shortcuts stand, order of layers, running statistics, and that
    the layer that `head_of` names maps features to logits."""
    module = nets.build(module, 5) if isinstance(module, str) else module
    images = jnp.asarray(RNG.normal(size=(2, 16, 12, 3)), jnp.float32)
    shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), images)
    variables = jax.tree.map(drawn, shapes)
    got = jax.jit(partial(module.apply, train=False))(variables, images)
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    net = Layers(double["params"], double["batch_stats"])
    want = reference(net, np.asarray(images, np.float64), stages, blocks)
    assert want.std() > 1e-2
    np.testing.assert_allclose(got.features, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    head = double["params"][nets.head_of(variables["params"])]
    logits = want @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(got.logits, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
