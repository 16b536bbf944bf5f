"""ONNX files, written by ourselves: a jaxpr (`jaxpr`) becomes a graph (`graph`, `elementwise`, `axes`), scales and
shifts are folded into its layers (`fold`), and the file is encoded (`protobuf`)."""
