"""safetensors and config.json as timm has them on the Hub: arrays by torch's names, kernels OIHW.

Where timm has the network (ResNet-18/34/50, EfficientNet-Lite0), `timm.create_model` takes both; of the others the
arrays have our own names, and `architecture_of` in config.json says so.
"""

import json
import struct

import numpy as np

from kdmlc_jax import nets, published
from kdmlc_jax.export.deployed import Deployed

FILE, READER, EXTRA = "model.safetensors", "numpy", ""
NOTE = "model.safetensors holds weights alone: mean and deviation stand in config.json, softmax is the reader's"
CONFIG = "config.json"


def encode(network: Deployed) -> dict[str, bytes]:
    """Both files."""
    arrays = published.arrays(network.about["net"], network.variables)
    return {FILE: packed(arrays), CONFIG: json.dumps(config(network), indent=2).encode()}


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    """The file: a header's length, the header, the arrays end to end; see `data.formats.safetensors`."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    at, parts = 0, []
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + len(raw)]}
        at += len(raw)
        parts.append(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # arrays begin at a multiple of eight
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def config(network: Deployed) -> dict:
    """config.json, with timm's fields."""
    about, known = network.about, nets.timm(network.about["net"])
    height, width, channels = about["image_shape"]
    head = nets.head_of(network.variables["params"])
    cfg = {
        "input_size": [channels, height, width],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": about["mean"],
        "std": about["std"],
        "num_classes": len(about["class_names"]),
    }
    made = {
        "architecture": known.architecture if known else about["net"],
        "architecture_of": "timm" if known else "kdmlc_jax",
        "num_classes": len(about["class_names"]),
        "num_features": len(network.variables["params"][head]["kernel"]),
        "label_names": about["class_names"],
        "pretrained_cfg": cfg,
    }
    if known:
        made["model_args"] = dict(known.arguments) | ({"in_chans": channels} if channels != 3 else {})
        first = next(path for path in ("Conv_0", "Patch_0") if path in known.layers)
        made["pretrained_cfg"] |= {"first_conv": known.layers[first], "classifier": known.layers[head]}
    return made
