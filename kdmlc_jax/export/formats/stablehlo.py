"""StableHLO by `jax.export`: the network for any program that has JAX, without ours, on a CPU, GPU or TPU."""

import jax
from jax import export as jax_export

from kdmlc_jax.export.deployed import Deployed

FILE, READER, EXTRA = "model.stablehlo", "jax", ""
NOTE = "StableHLO of jax.export is no archive: JAX promises to read it for six months; keep the run, or ONNX"
PLATFORMS = ("cpu", "cuda", "tpu")


def encode(network: Deployed) -> dict[str, bytes]:
    """The serialised `jax.export.Exported`, any number of images."""
    (batch,) = jax_export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *network.shape), network.dtype)
    exported = jax_export.export(jax.jit(network.probabilities), platforms=PLATFORMS)(inputs)
    return {FILE: bytes(exported.serialize())}
