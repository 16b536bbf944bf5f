"""Where a page comes from: method, data, versions, device, digests, time, and the whole config."""

import json
from typing import Any


def rows(summary: dict) -> list[dict[str, Any]]:
    """What can be said in a line each."""
    options = ", ".join(f"{name}={value}" for name, value in summary["options"].items() if name != "name")
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    noise = summary["noise"]
    words = {"method": f"{summary['method']} ({options})", "seed": summary["seed"], "data set": summary["dataset"]}
    if "kind" in noise:
        rate = "" if noise.get("nominal") is None else f", rate {noise['nominal']:g}"
        words["noise"] = f"{noise['kind']}{rate}"
    words |= {"versions": versions, "device": summary["device"], "training": time(summary)}
    if "deploy" in summary:
        words["networks left"] = f"those of the {summary['deploy'].replace('_', ' ')} epoch"
    words |= {f"SHA-256 of {name}": value for name, value in summary.get("data_digests", {}).items() if value}
    words |= {"noted": "; ".join(summary["notes"])} if summary["notes"] else {}
    words |= {"changed on the way": "; ".join(map(str, summary["changes"]))} if summary.get("changes") else {}
    return [{"name": name, "value": value} for name, value in words.items()]


def time(summary: dict) -> str:
    """'183 s, 1,778 images a second'."""
    rate = summary.get("images_per_second")
    return f"{summary['seconds']:.0f} s" + (f", {rate:,.0f} images a second" if rate else "")


def config_text(config: dict | None) -> str:
    """The config as a run keeps it, '' where it is not known."""
    return "" if not config else json.dumps(config, indent=1, ensure_ascii=False, default=str)
