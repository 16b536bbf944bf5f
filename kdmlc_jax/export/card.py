"""MODEL_CARD.md: what an exported network was made of, how good it is and what it is not for, as the Hub reads it.

Names of data sets and classes come from outside: in the front matter every value is a JSON text, which YAML reads as it
is; in the text they are escaped.
"""

import html
import json
import re
from collections.abc import Sequence
from typing import Any

import kdmlc_jax
from kdmlc_jax.errors import one_line
from kdmlc_jax.export.deployed import Deployed

SHOWN = 100  # names of classes, at most


def text(value: Any) -> str:
    """A value in a line of Markdown that says nothing to Markdown or HTML, and nothing unseen to a reader."""
    marked = re.sub(r"([\\`*_{}\[\]#|~$@]|:(?=//))", r"\\\1", one_line(value))
    return html.escape(marked, quote=False)


def number(value: float | None, digits: int = 3) -> str:
    """A fraction, or a dash where it is not known."""
    return "–" if value is None else f"{value:.{digits}f}"


def card(network: Deployed, name: str, summary: dict, files: Sequence[tuple[str, str]]) -> str:
    """The card as text.

    Args:
      network: exported.
      name: its role in the run, "student".
      summary: of the run.
      files: each file's name and what is to be said of it.
    """
    parts = [front(network, name, summary), head(network, name, summary), scores(name, summary), learned(summary)]
    return "\n".join([*parts, limits(network, summary), listing(files)]) + "\n"


def front(network: Deployed, name: str, summary: dict) -> str:
    """The YAML between two lines of dashes, each value as JSON."""
    found = summary["networks"].get(name, {})
    metrics = {"accuracy": found.get("last"), "balanced_accuracy": found.get("balanced_accuracy")}
    known = [{"type": metric, "value": value} for metric, value in metrics.items() if value is not None]
    dataset = one_line(summary.get("dataset", "unknown"))
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": "custom"},
        "metrics": known,
    }
    fields = {
        "license": "other",
        "license_name": "unknown",
        "library_name": "timm" if _is_timms(network) else "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "noisy-labels", "knowledge-distillation", "jax", network.about["net"]],
        "metrics": ["accuracy"],
        "model-index": [{"name": f"{one_line(network.about['net'])} ({name})", "results": [result] if known else []}],
    }
    lines = [f"{field}: {json.dumps(value, ensure_ascii=False)}" for field, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def _is_timms(network: Deployed) -> bool:
    from kdmlc_jax import nets

    return nets.timm(network.about["net"]) is not None


def head(network: Deployed, name: str, summary: dict) -> str:
    """What it is, and what goes in and comes out."""
    names = [text(each) for each in network.about["class_names"]]
    more = f", … ({len(names)} in all, in network.json)" if len(names) > SHOWN else ""
    shape = " x ".join(map(str, network.shape))
    made_with = f"{text(kdmlc_jax.__name__)} {text(kdmlc_jax.__version__)}"
    is_scaled = network.about.get("resize") == "centre_square"
    sizes = "the largest centred square, scaled with antialiasing" if is_scaled else "not seen in training"
    what = "features" if network.takes_features else "pixels 0 to 255, channels last"
    return f"""# {text(network.about["net"])}, {text(name)} of a run on {text(summary.get("dataset"))}

{network.parameters:,} weights, trained on labels that are partly wrong, with {made_with}
(method {text(summary.get("method"))}, seed {text(summary.get("seed"))}).

* Input: {what}, {shape}, {network.dtype}, any number at once; normalisation is inside. Images of another size:
  {sizes}.
* Output: probabilities of {len(names)} classes, in this order: {", ".join(names[:SHOWN])}{more}.
"""


def scores(name: str, summary: dict) -> str:
    """The run's figures of its networks."""
    rows = ["| network | | weights | last epoch | best by validation | balanced | of validation labels |"]
    rows.append("|---|---|---|---|---|---|---|")
    for role, found in summary["networks"].items():
        figures = [found.get(key) for key in ("last", "best_val", "balanced_accuracy", "validation_given")]
        this = "this one" if role == name else ""
        cells = [text(role), this, f"{found.get('parameters', 0):,}", *map(number, figures)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            "## Scores",
            "",
            "Accuracies on the test part, as fractions; a dash is what could not be known.",
            "",
            *rows,
            "",
        ]
    )


def learned(summary: dict) -> str:
    """The data, their noise, and what became of the labels."""
    data, noise, labels = (summary.get(part) or {} for part in ("data", "noise", "labels"))
    counts = ", ".join(
        f"{data[part]} {part}" for part in ("noisy", "trusted", "held_out", "validation") if part in data
    )
    low, high = noise.get("interval") or (None, None)
    between = f" (90 % interval {number(low)} to {number(high)})" if low is not None else ""
    verdict = (summary.get("verdict") or {}).get("text", "")
    return f"""## Data and noise

{text(summary.get("dataset"))}: {text(counts)} images. Noise: {text(noise.get("kind"))}; estimated share of wrong labels
{number(noise.get("estimated"))}{between}, realised {number(noise.get("realised"))}. Labels right before
{number(labels.get("accuracy_before"))} and after {number(labels.get("accuracy_after"))} correction. {text(verdict)}
"""


def limits(network: Deployed, summary: dict) -> str:
    """What it is not for."""
    doubts = (summary.get("verdict") or {}).get("doubts") or []
    lines = [
        "It knows its classes only: an image of anything else gets one of them, too.",
        "Its scores are of images like those it was trained on; elsewhere they do not hold.",
        "Its probabilities were not calibrated on your images.",
        "The licence depends on the data and on any published weights it started from; it is yours to find out.",
        *(f"The run warns: {text(doubt)}" for doubt in doubts),
    ]
    return "\n".join(["## Limits", "", *(f"* {line}" for line in lines), ""])


def listing(files: Sequence[tuple[str, str]]) -> str:
    """The files beside the card."""
    lines = [f"* `{name}`: {text(said)}" for name, said in files]
    return "\n".join(["## Files", "", *lines, "* `SHA256SUMS`: sums of all, for `sha256sum -c`"])
