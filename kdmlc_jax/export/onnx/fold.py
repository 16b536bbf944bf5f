"""Scales and shifts by channel taken into the layer before them: BatchNorm costs nothing any more."""

from collections import Counter

import numpy as np

from kdmlc_jax.export.onnx.graph import Graph, Node

LAYERS = {"Conv": 0, "Gemm": 1}  # the axis of the output channels in their weights


def into_layers(graph: Graph, output: str) -> None:
    """Conv or Gemm, then + − × ÷ a constant by channel, as one layer; in double precision, rounded once."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses[output] += 1
    layers: dict[str, tuple[Node, np.ndarray, np.ndarray]] = {}  # by output: the node, its weights, its bias
    kept = []
    for node in graph.nodes:
        if node.op in LAYERS and node.inputs[1] in graph.constants:
            weights = graph.constants[node.inputs[1]].astype(np.float64)
            layers[node.outputs[0]] = node, weights, np.zeros(weights.shape[LAYERS[node.op]])
        elif (name := _layer_before(graph, node, layers)) and uses[name] == 1:
            layer, weights, bias = layers.pop(name)
            number = next(each for each in node.inputs if each != name)
            scale = graph.constants[number].astype(np.float64).reshape(-1)
            layers[node.outputs[0]] = layer, *_changed(node.op, layer.op, weights, bias, scale)
            layer.outputs = node.outputs
            continue
        kept.append(node)
    for layer, weights, bias in layers.values():
        layer.inputs[1] = graph.constant(weights.astype(np.float32))
        if bias.any():
            layer.inputs[2:] = [graph.constant(bias.astype(np.float32))]
    graph.nodes = kept


def _layer_before(graph: Graph, node: Node, layers: dict) -> str:
    """The layer's output that `node` scales or shifts by channel; '' where it does something else."""
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return ""
    for name, other in (node.inputs, node.inputs[::-1]):
        if name in layers and other in graph.constants and (name == node.inputs[0] or node.op in ("Add", "Mul")):
            layer, _, bias = layers[name]
            shape = graph.constants[other].shape
            by_channel = (1, len(bias), 1, 1)[: len(shape)] if layer.op == "Conv" else (1, len(bias))
            if graph.constants[other].size == 1 or shape == by_channel:
                return str(name)
    return ""


def _changed(
    op: str, layer: str, weights: np.ndarray, bias: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias after `op` with a number by channel, or one for all."""
    if op in ("Add", "Sub"):
        return weights, bias + number if op == "Add" else bias - number
    scale = number if op == "Mul" else 1.0 / number
    shape = (-1, *(1,) * (weights.ndim - 1)) if LAYERS[layer] == 0 else (1, -1)
    return weights * scale.reshape(shape), bias * scale
