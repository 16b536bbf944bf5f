"""Reads an exported file back as a stranger would: a program by itself, which imports nothing of ours.

    python -I reader.py onnxruntime model.onnx expected.npz

expected.npz has the inputs and the probabilities that they have (of weights alone: the arrays by name). Prints, as
JSON, how far the file's answers are from those, for all inputs together and for the first alone; the reader's version;
and the median time of a single input in milliseconds.
"""

import json
import statistics
import struct
import sys
import time

import numpy as np


def onnxruntime(path):
    """ONNX by onnxruntime: its version, and the network as a function."""
    import onnxruntime as reader

    session = reader.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return reader.__version__, lambda inputs: session.run(None, {name: inputs})[0]


def jax(path):
    """StableHLO by JAX: its version, and the network as a function."""
    import jax as reader
    from jax import export

    with open(path, "rb") as file:
        call = export.deserialize(bytearray(file.read())).call
    return reader.__version__, lambda inputs: np.asarray(call(inputs))


def ai_edge_litert(path):
    """TFLite by LiteRT: its version, and the network as a function."""
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path)
    given, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call(inputs):
        interpreter.resize_tensor_input(given, inputs.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, inputs)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return version("ai-edge-litert"), call


def arrays(path):
    """A .safetensors file of float32, by the description of its format."""
    with open(path, "rb") as file:
        raw = file.read()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    data = raw[8 + length :]
    return {
        name: np.frombuffer(data[slice(*about["data_offsets"])], "<f4").reshape(about["shape"])
        for name, about in header.items()
    }


def timm(path):
    """config.json and model.safetensors in the folder `path`, as timm takes them."""
    import timm as reader
    import torch

    with open(f"{path}/config.json") as file:
        config = json.load(file)
    model = reader.create_model(
        config["architecture"], num_classes=config["num_classes"], **config.get("model_args", {})
    )
    weights = {name: torch.from_numpy(array.copy()) for name, array in arrays(f"{path}/model.safetensors").items()}
    model.load_state_dict(weights)
    model.eval()
    mean, std = (torch.tensor(config["pretrained_cfg"][name])[:, None, None] for name in ("mean", "std"))

    def call(inputs):
        images = torch.from_numpy(inputs).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            return model((images - mean) / std).softmax(1).numpy()

    return reader.__version__, call


def main(kind, path, expected):
    """Compares, times, and prints."""
    with np.load(expected) as file:
        wanted = {name: file[name] for name in file.files}
    if kind == "numpy":
        found = arrays(path)
        same = found.keys() == wanted.keys() and all(found[name].shape == wanted[name].shape for name in found)
        far = max(float(np.abs(found[name] - wanted[name]).max(initial=0)) for name in found) if same else None
        said = {"version": np.__version__, "difference": far, "milliseconds": None}
    else:
        version, call = {"onnxruntime": onnxruntime, "jax": jax, "ai_edge_litert": ai_edge_litert, "timm": timm}[kind](
            path
        )
        inputs, want = wanted["inputs"], wanted["probabilities"]
        both = np.concatenate([call(inputs), call(inputs[:1])])
        far = float(np.abs(both - np.concatenate([want, want[:1]])).max())
        times = []
        for _ in range(30):
            began = time.perf_counter()
            call(inputs[:1])
            times.append(1000 * (time.perf_counter() - began))
        said = {"version": version, "difference": far, "milliseconds": statistics.median(times)}
    assert not any(name.split(".")[0] == "kdmlc_jax" for name in sys.modules)
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
