"""TFLite for phones: StableHLO of `jax.export` through LiteRT's own converter, without TensorFlow or torch.

The converter's entry point is private to it, so the extra `tflite` pins its version and a test holds it to that.
"""

import jax
from jax import export as jax_export

from kdmlc_jax.errors import UserError
from kdmlc_jax.export.deployed import Deployed

FILE, READER, EXTRA = "model.tflite", "ai_edge_litert", "tflite"
MISSING = '--to: tflite needs litert-converter and ai-edge-quantizer; pip install "kdmlc-jax[tflite]"'
NOTE = "model.tflite is made for one image at once (resize_tensor_input for more)"


def encode(network: Deployed) -> dict[str, bytes]:
    """The file, in float32, any number of images; raises as `converted`."""
    return {FILE: converted(network)}


def converted(network: Deployed) -> bytes:
    """The network in float32.

    Raises:
      UserError: where the converter is not installed, or does not know what the network does.
    """
    try:
        from litert_converter import converter_api_ext as converter
        from litert_converter.mlir import ir, passmanager
    except ModuleNotFoundError:
        raise UserError(MISSING) from None
    (batch,) = jax_export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((batch, *network.shape), network.dtype)
    text = jax_export.export(jax.jit(network.probabilities), platforms=("cpu",))(inputs).mlir_module()
    context = ir.Context()
    converter.prepare_mlir_context(context)
    name = "features" if network.takes_features else "images"
    try:
        with context:
            module = ir.Module.parse(text)
            converter.set_signature(module.operation, "serving_default", [name], ["probabilities"])
            passes = passmanager.PassManager()
            converter.run_convert_to_tfl_passes(module, passes, converter.ConvertToTFLConfig())
            return bytes(converter.export_flatbuffer_to_bytes(module.operation))
    except Exception as error:  # the converter's own have no common base
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{network.about['net']}: LiteRT's converter cannot make a .tflite of it ({reason})") from None
