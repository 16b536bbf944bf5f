"""ONNX graphs of one or two nodes, written by hand: tests need no library that builds them."""


def _varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    value = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _value(name, dims):
    """ValueInfoProto of float32; a dimension is a number or a name."""
    shape = b"".join(_field(1, _field(1, d) if isinstance(d, int) else _field(2, d)) for d in dims)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))


def model(nodes, given, wanted):
    """ModelProto of nodes (op, inputs, outputs), with named inputs and outputs {name: dims}."""
    graph = b""
    for op, inputs, outputs in nodes:
        node = b"".join(_field(1, name) for name in inputs) + b"".join(_field(2, name) for name in outputs)
        graph += _field(1, node + _field(4, op))
    graph += _field(2, "g")
    graph += b"".join(_field(11, _value(*each)) for each in given.items())
    graph += b"".join(_field(12, _value(*each)) for each in wanted.items())
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


def mean_of_channels(side="s"):
    """[B, 3, side, side] -> the channels' means, [B, 3]."""
    nodes = [("GlobalAveragePool", ["x"], ["y"]), ("Flatten", ["y"], ["z"])]
    return model(nodes, {"x": ["b", 3, side, side]}, {"z": ["b", 3]})
