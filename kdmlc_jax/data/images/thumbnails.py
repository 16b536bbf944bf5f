"""Small pictures inside a page: data URIs."""

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SIDE = 96  # pixels at most
EXACT = 40  # pixels up to which a picture is kept as it is


def data_uri(image: UInt8[np.ndarray, "H W K"], side: int = SIDE) -> str:
    """`image`, no larger than `side`, as a data URI: PNG where it is small already (EXACT), else JPEG.

    One channel is grey; of more than three the first three are shown.
    """
    pixels = image[..., 0] if image.shape[-1] < 3 else image[..., :3]
    picture, small = Image.fromarray(np.ascontiguousarray(pixels)), max(image.shape[:2]) <= EXACT
    if max(image.shape[:2]) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "PNG" if small else "JPEG"
    file = io.BytesIO()
    picture.save(file, kind, **({"optimize": True} if small else {"quality": 82}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
