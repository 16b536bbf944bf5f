"""ONNX files: every network answers in onnxruntime as it does here, and the file says what it takes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import untrained

from kdmlc_jax import nets, registry
from kdmlc_jax.errors import UserError
from kdmlc_jax.export.formats import onnx
from kdmlc_jax.export.onnx import fold, jaxpr, protobuf
from kdmlc_jax.nets import vit

FAMILIES = [registry.get(nets, "network", family) for family in registry.names(nets)]
EXAMPLES = [name for family in FAMILIES for name in family.EXAMPLES]
ON_FEATURES = [name for name in EXAMPLES if name.startswith(("features_", "nearest"))]
CASES = [(name, (16, 16, 3)) for name in EXAMPLES if name not in ON_FEATURES]
CASES += [(name, (1, 1, 7)) for name in [*ON_FEATURES, "mlp256", "linear"]]
CASES += [("cnn16", (21, 18, 1)), ("resnet20", (9, 12, 1))]


def session(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name, shape", CASES, ids=[f"{name}-{'x'.join(map(str, shape))}" for name, shape in CASES])
def test_every_network_answers_as_here(name, shape, monkeypatch):
    """Protects what is deployed: probabilities within 1e-5 of the network as it was trained, for any number of inputs,
    each input by itself. Transformers have two blocks here, for time's sake."""
    monkeypatch.setattr(vit, "DEPTH", 2)
    network = untrained.deployed(name, shape)
    inputs = network.examples(5)
    want = untrained.answers(network, inputs)
    assert want.std(axis=0).max() > 1e-3 and want.max() < 0.9999  # else nearly anything would be near
    found = session(onnx.encode(network)[onnx.FILE])
    (port,) = found.get_inputs()
    for count in (5, 1):
        (got,) = found.run(None, {port.name: inputs[:count]})
        np.testing.assert_allclose(got, want[:count], atol=1e-5, rtol=0)


def test_the_file_says_what_it_takes():
    """Protects who has the file alone: names and shapes of input and output, classes in any script, opset, scaling."""
    names = ["Katze", '"; drop', "猫", "a\nb", "<b>"]
    network = untrained.deployed("cnn16", (8, 8, 3), names)
    network.about["resize"] = "centre_square"
    found = session(onnx.encode(network)[onnx.FILE])
    (given,), (result,) = found.get_inputs(), found.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 8, 8, 3])
    assert (result.name, result.type, result.shape) == ("probabilities", "tensor(float)", ["batch", 5])
    about = found.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == names and about["opset"] == "17" and about["network"] == "cnn16"
    assert "RGB pixels 0 to 255, 8 x 8, channels last, of the largest centred square" in about["input"]
    features = session(onnx.encode(untrained.deployed("mlp256", (1, 1, 7)))[onnx.FILE]).get_inputs()[0]
    assert (features.name, features.type, features.shape) == ("features", "tensor(float)", ["batch", 7])


def test_batch_norm_costs_nothing():
    """Protects latency: scales and shifts are in the layers, one node a layer, and no axis is turned but the first."""
    graph, output = read("resnet20")
    before = len(graph.nodes)
    fold.into_layers(graph, output.name)
    ops = [node.op for node in graph.nodes]
    assert ops.count("Conv") == 19 and ops.count("Transpose") == 1 and len(ops) < before - 50
    assert not {"Mul", "Sqrt", "Reciprocal", "Identity"} & set(ops)
    depthwise = [node for node in read("efficientnet_lite0")[0].nodes if node.attributes.get("group", 1) > 1]
    assert len(depthwise) == 16


def read(name):
    network = untrained.deployed(name)
    return jaxpr.read(network.probabilities, "images", network.shape, network.dtype, name)


def ran(function, x):
    """function(x) by onnxruntime."""
    graph, output = jaxpr.read(function, "x", x.shape[1:], x.dtype, "test")
    fold.into_layers(graph, output.name)
    ports = [protobuf.port(*each) for each in (("x", x.dtype, ("b", *x.shape[1:])), (output.name, np.float32, ()))]
    graph_bytes = protobuf.model(graph, ports[0], protobuf.port(output.name, np.float32, output.shape), ("t", "0"), {})
    return session(graph_bytes).run(None, {"x": x})[0]


SCALE = np.linspace(0.5, 2, 4).astype(np.float32)[None]
WIDE = SCALE * np.arange(1, 5, dtype=np.float32)[:, None]
FUNCTIONS = {
    "a layer used twice is not changed": lambda x: (y := x @ jnp.eye(4, 4) * 2) * SCALE + y,
    "the constant first": lambda x: SCALE - x @ jnp.eye(4, 4),
    "division": lambda x: (x @ jnp.eye(4, 4) - SCALE) / SCALE,
    "a constant by row": lambda x: x @ jnp.eye(4, 4) + SCALE[:, :1],
    "a constant of the batch": lambda x: jnp.concatenate([x, jnp.full((x.shape[0], 2), 3.0)], axis=1),
    "turned": lambda x: jnp.transpose(x[:, None, :] * SCALE[None], (0, 2, 1)).reshape(x.shape[0], -1),
    "least and greatest": lambda x: (
        jnp.minimum(jnp.maximum(x, -0.5), SCALE) + jnp.minimum(x, 0.25) + jnp.maximum(0.1, x)
    ),
    "powers": lambda x: x**3 + jnp.square(x) + jax.lax.rsqrt(jnp.abs(x) + 1),
    "conditions": lambda x: jnp.where((x > 0) & (x != SCALE), x, -x),
    "activations": lambda x: jnp.tanh(x) + jax.nn.sigmoid(x) + jax.lax.erf(x) + jax.nn.gelu(x, approximate=False),
    "products by letters": lambda x: jnp.einsum("bi,bj,jk->bki", jnp.tanh(x), x, WIDE),
    "products of turned factors": lambda x: jnp.einsum(
        "bij,bkj->bik", x[:, :, None] * SCALE[None], x[:, None] * SCALE[None]
    ),
    "pads and parts": lambda x: jnp.pad(jax.lax.slice(x, (0, 1), (x.shape[0], 4), (1, 2)), ((0, 0), (1, 2))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_networks_might_do(name):
    """Protects networks to come: what is read of a jaxpr is what JAX computes."""
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(ran(FUNCTIONS[name], x), FUNCTIONS[name](jnp.asarray(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda x: jnp.sort(x, axis=1), 'the primitive "sort", which is not among abs, '),
        (lambda x: x.astype(jnp.bfloat16), "the type bfloat16"),
        (lambda x: jax.lax.scan(lambda c, row: (c + 1, c * row), 0.0, x.T)[1].T, 'the primitive "scan"'),
    ],
)
def test_what_is_not_known_is_named(function, words):
    """Protects from a file that computes something else: one line that says what it was."""
    with pytest.raises(UserError, match=words) as error:
        jaxpr.read(function, "x", (4,), np.float32, "net7")
    assert str(error.value).startswith("net7: ") and "\n" not in str(error.value)


def test_varints():
    """Protects the encoding: the examples of protobuf's own description, and negative pads."""
    assert protobuf.varint(150) == b"\x96\x01" and protobuf.field(2, "testing") == b"\x12\x07testing"
    assert protobuf.varint(-2) == b"\xfe" + b"\xff" * 8 + b"\x01"
