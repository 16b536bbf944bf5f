"""ONNX, for nearly every runtime: opset 17, normalisation and softmax inside, any number of images."""

import json

import numpy as np

import kdmlc_jax
from kdmlc_jax.export.deployed import Deployed
from kdmlc_jax.export.onnx import fold, jaxpr, protobuf

FILE, READER, EXTRA, NOTE = "model.onnx", "onnxruntime", "onnx", ""
RESULT = "probabilities"


def encode(network: Deployed) -> dict[str, bytes]:
    """The file; its properties say what goes in and what comes out.

    Raises:
      UserError: naming a primitive that the network uses and that is not known here.
    """
    name = "features" if network.takes_features else "images"
    graph, output = jaxpr.read(network.probabilities, name, network.shape, network.dtype, network.about["net"])
    fold.into_layers(graph, output.name)
    for node in graph.nodes:
        node.outputs = [RESULT if each == output.name else each for each in node.outputs]
        node.inputs = [RESULT if each == output.name else each for each in node.inputs]
    given = protobuf.port(name, network.dtype, ("batch", *network.shape))
    result = protobuf.port(RESULT, np.float32, ("batch", len(network.about["class_names"])))
    producer = ("kdmlc_jax", kdmlc_jax.__version__)
    return {FILE: protobuf.model(graph, given, result, producer, properties(network, name))}


def properties(network: Deployed, name: str) -> dict[str, str]:
    """metadata_props: texts by name, lists as JSON."""
    about = network.about
    return {
        "class_names": json.dumps(about["class_names"]),
        "input": f"{name} {network.dtype}[batch, {', '.join(map(str, network.shape))}]: {meaning(network)}",
        "output": f"{RESULT} float32[batch, {len(about['class_names'])}], in the order of class_names",
        "opset": str(protobuf.OPSET),
        "network": about["net"],
        "resize": str(about.get("resize", "none")),
        "mean": json.dumps(about["mean"]),
        "std": json.dumps(about["std"]),
    }


def meaning(network: Deployed) -> str:
    """What inputs are, in words."""
    if network.takes_features:
        return "features as the training ones, not normalised; that is done inside"
    height, width, channels = network.shape
    colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    scaled = (
        ", of the largest centred square, scaled with antialiasing" if network.about.get("resize") != "none" else ""
    )
    return f"{colours} pixels 0 to 255, {height} x {width}, channels last{scaled}; normalised inside"
