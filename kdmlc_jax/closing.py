"""What a run says at its end."""

import pathlib
import textwrap
from collections.abc import Sequence


def report(summaries: Sequence[dict], workdir: pathlib.Path) -> str:
    """The closing lines of a run, in plain words."""
    run = summaries[0]
    columns = list(dict.fromkeys(name for summary in summaries for name in summary["networks"]))
    results: dict[str, dict[str, dict]] = {}
    for summary in summaries:
        results.setdefault(summary["label"], {}).update(summary["networks"])
    names = {result["name"]: result["parameters"] for nets in results.values() for result in nets.values()}
    sizes = "  ".join(f"{name}: {count:,} weights" for name, count in names.items())
    figure, title = "last", "Test accuracy"
    if all(result["last"] is None for nets in results.values() for result in nets.values()):
        figure, title = "validation_given", "No test images; agreement with the given labels of validation images"
    lines = [f"\n{title} after the last epoch ({sizes})", f"  {'':24s}" + "".join(f"{c:>10s}" for c in columns)]
    for label, nets in results.items():
        cells = "".join(f"{show_number(nets[c][figure] if c in nets else None):>10s}" for c in columns)
        lines.append(f"  {label:24s}{cells}")
    balanced = any(net.get("balanced_accuracy") is not None for nets in results.values() for net in nets.values())
    if balanced and figure == "last":
        lines.append("Balanced accuracy (mean over the classes; each class stands in summary.json)")
        for label, nets in results.items():
            cells = "".join(f"{show_number(nets.get(c, {}).get('balanced_accuracy')):>10s}" for c in columns)
            lines.append(f"  {label:24s}{cells}")
    noise, labels = run["noise"], run["labels"]
    if labels["accuracy_before"] is not None:
        lines.append(
            f"Labels right: {labels['accuracy_before']:.1%} before, {labels['accuracy_after']:.1%} after correction "
            f"({show_number(labels.get('accuracy_method'))} by what the method itself believes); "
            f"wrong labels found: precision {show_number(labels['precision'])}, recall {show_number(labels['recall'])}"
        )
    lines.append(
        f"Noise rate: {show_number(noise['realised'])} realised, {show_number(noise['estimated'])} estimated; "
        f"{labels['flagged']} labels are flagged (is_label_issue: another class is more likely than the given one)"
    )
    if "verdict" in run:  # none in a run of an older version
        lines += textwrap.wrap(run["verdict"]["text"], 118, initial_indent="Verdict: ", subsequent_indent="  ")
    lines.append(
        f"Look: {workdir}/report.html (decide there; python -m kdmlc_jax.apply puts decisions into the labels)"
    )
    lines.append(f"Files in {workdir}/: labels.csv and labels.parquet (every label, corrected, with confidence),")
    deployed = run.get("deployed", next(iter(run["networks"])))
    epoch = f" of epoch {run['networks'][deployed]['epoch']}" if run.get("deploy") == "best_val" else ""
    lines.append(
        f"  {deployed}/ (the network to deploy{epoch}), summary.json (all figures), metrics.jsonl (every epoch)"
    )
    return "\n".join(lines)


def show_number(value: float | None) -> str:
    """'0.912', or a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"
