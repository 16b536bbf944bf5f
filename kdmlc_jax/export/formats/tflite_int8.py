"""TFLite with weights of 8 bits: a quarter of the size; what layers are given is rounded to 8 bits as it comes.

"Dynamic range" quantisation by ai-edge-quantizer (recipe dynamic_wi8_afp32), which needs no images. What the layers are
given could be scaled beforehand, too (static_wi8_ai8, for chips without floats), from images that an export has not.
"""

import contextlib
import io

from kdmlc_jax.errors import UserError
from kdmlc_jax.export.deployed import Deployed
from kdmlc_jax.export.formats import tflite

FILE, READER, EXTRA = "model_int8.tflite", "ai_edge_litert", "tflite"
NOTE = "weights of 8 bits: measure its accuracy on images of yours before it replaces model.tflite"
CLOSE = 0.25  # probabilities may be so far from ours; above, the conversion is at fault


def encode(network: Deployed) -> dict[str, bytes]:
    """The file, any number of images; raises as `tflite.converted`."""
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ModuleNotFoundError:
        raise UserError(tflite.MISSING) from None
    whole, unsaid = tflite.converted(network), io.StringIO()  # it prints what it does
    try:
        with contextlib.redirect_stdout(unsaid), contextlib.redirect_stderr(unsaid):
            made = quantizer.Quantizer(whole, recipe.dynamic_wi8_afp32()).quantize()
        return {FILE: bytes(made.quantized_model)}
    except Exception as error:  # the quantizer's own have no common base
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{network.about['net']}: ai-edge-quantizer cannot round it to 8 bits ({reason})") from None
