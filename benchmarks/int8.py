"""What weights of 8 bits cost: `python benchmarks/int8.py runs/digits runs/photos --out FILE.json`.

Of each finished run the network that it is for is written as TFLite of float32 and of 8 bits (the extra `tflite`), and
both answer the test images by LiteRT, one at once, on one core: accuracy, share of images that get the same class, the
largest difference of a probability, bytes and median milliseconds.
"""

import argparse
import json
import pathlib
import statistics
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from kdmlc_jax import config as config_lib
from kdmlc_jax import finished
from kdmlc_jax.data.reopen import reopened
from kdmlc_jax.export import deployed
from kdmlc_jax.export.formats import tflite, tflite_int8


def answers(content: bytes, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities f32[N, C], and the median milliseconds of an image."""
    call, found, times = Interpreter(model_content=content, num_threads=1).get_signature_runner(), [], []
    name = next(iter(call.get_input_details()))
    for image in images:
        began = time.perf_counter()
        found.append(call(**{name: image[None]})["probabilities"][0])
        times.append(1000 * (time.perf_counter() - began))
    return np.array(found), statistics.median(times)


def row(workdir: pathlib.Path) -> dict:
    """The figures of one run."""
    summary = finished.ended(workdir)
    dataset = reopened(config_lib.read(workdir / "config.json"), workdir)
    network, images, label = deployed.read(workdir / summary["deployed"]), dataset.test_images[:], dataset.test_label
    files = {"float32": tflite.encode(network)[tflite.FILE], "int8": tflite_int8.encode(network)[tflite_int8.FILE]}
    figures, given = {}, {}
    for name, content in files.items():
        given[name], milliseconds = answers(content, images)
        accuracy = float((given[name].argmax(axis=1) == label).mean())
        figures[name] = {"bytes": len(content), "accuracy": accuracy, "milliseconds": round(milliseconds, 4)}
    same = given["float32"].argmax(axis=1) == given["int8"].argmax(axis=1)
    about = {"dataset": summary["dataset"], "network": network.about["net"], "weights": network.parameters}
    far = float(np.abs(given["float32"] - given["int8"]).max())
    return about | figures | {"images": len(label), "same_class": float(same.mean()), "largest_difference": far}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", type=pathlib.Path, nargs="+")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/int8.json"))
    flags = parser.parse_args()
    rows = [row(workdir) for workdir in flags.workdirs]
    print(*rows, sep="\n")
    flags.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
