"""Wide residual networks: few blocks of many channels (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

import re

from kdmlc_jax.nets.preact import PreActResNet

FORM = "wrn<6n+4>_<width>"
EXAMPLES = ("wrn40_2", "wrn16_2")


def build(name: str, num_classes: int) -> PreActResNet | None:
    """WRN-d-w, d = 6n + 4: three stages of n pre-activation blocks with 16w/32w/64w channels, no dropout.

    n = 2 and w = 2 is WRN-16-2, n = 6 and w = 2 WRN-40-2. The stem has 16 channels whatever w is; a shortcut is a 1x1
    convolution of the activated input where the shape changes, as in the authors' release. None for another name.
    """
    match = re.fullmatch(r"wrn([1-9]\d{1,2})_([1-9]\d{0,2})", name)
    blocks, rest = divmod(int(match[1]) - 4, 6) if match else (0, 0)
    if match is None or blocks < 1 or rest:
        return None
    width = int(match[2])
    return PreActResNet(num_classes, 16, (16 * width, 32 * width, 64 * width), blocks)
