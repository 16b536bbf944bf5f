"""Compares methods honestly: methods × networks × seeds × configs, one folder a cell, one table.

    python -m kdmlc_jax.compare --config configs/fashion_mnist.py:noise=uniform,rate=0.8 \\
        --methods "ce:train_on=noisy mlc:network=student kdmlc:preset=strong" --seeds 0,1,2 --workdir runs/compare

A method whose `network` is not said runs on the student's and on the teacher's network; `{seed}` in a method's
arguments is the cell's seed (`dmlp:init_from=runs/simclr/seed{seed}`). Finished cells are read, cut ones go on.
`table.json` and `table.md` give mean ± sample standard deviation over the seeds.
"""

import argparse
import pathlib
import re
import statistics
import sys

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib
from kdmlc_jax.cli import add_launch, guarded, parse, start
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.storage import files

METRICS = ("last", "last5", "best_val", "best_test")
SEED = "{seed}"
MAY_DIFFER = ("data.labels", "data.features")  # what else a method may know of the same images
DETAILS = ("labels_before", "labels_after", "f1", "auroc", "rate_realised", "rate_estimated", "seconds")


def expand(method: str) -> list[str]:
    """'ce:train_on=noisy' -> arguments 'method=ce,train_on=noisy,network=student' and the same for the teacher's."""
    from kdmlc_jax import methods

    name, _, options = method.partition(":")
    arguments = f"method={name}" + (f",{options}" if options else "")
    given = config_lib.parse_arguments(options)
    if "network" in given or "network" not in methods.get(name).default_config():
        return [arguments]
    return [f"{arguments},network={network}" for network in ("student", "teacher")]


def join(spec: str, arguments: str) -> str:
    """A config's name with more arguments, which win over those it has."""
    return f"{spec}{',' if ':' in spec else ':'}{arguments}"


def slug(text: str) -> str:
    """`text` as a folder name that a person can read."""
    return re.sub(r"[^\w.=,+-]+", "-", text).strip("-")


def short(arguments: str) -> str:
    """'method=ce,train_on=noisy' -> 'ce,train_on=noisy', as `expand` writes them."""
    return arguments.removeprefix("method=")


def cell_folder(spec: str, arguments: str, seed: int) -> pathlib.Path:
    """Where a cell's run lies below the comparison's folder."""
    path, _, given = spec.partition(":")
    data = slug(f"{pathlib.Path(path).stem},{given}".strip(","))
    return pathlib.Path(data) / slug(short(arguments)) / f"seed{seed}"


def aggregate(summaries: list[dict]) -> list[dict]:
    """One row per config, method, options, noise and network: {"mean", "std"} of each metric over the seeds.

    `options` are those the method was named with. std is the sample standard deviation, None for a
    single seed; a metric that some seed lacks is None.
    """
    groups: dict[tuple, list[tuple[dict, dict]]] = {}
    for summary in summaries:
        for network, result in summary["networks"].items():
            noise = summary["noise"]
            noise_of = noise["kind"], noise["nominal"]
            key = (summary["config"], summary["dataset"], summary["method"], summary["label"], *noise_of, network)
            groups.setdefault(key, []).append((summary, result))
    rows = []
    for (config, dataset, method, options, kind, rate, network), cells in groups.items():
        row = {"config": config, "dataset": dataset, "method": method, "options": options, "noise": kind, "rate": rate}
        row |= {"network": network, "architecture": cells[0][1]["name"], "n_seeds": len(cells)}
        for name in METRICS:
            row[name] = spread([result[name] for _, result in cells])
        for name in DETAILS:
            row[name] = spread([detail(summary, name) for summary, _ in cells])
        rows.append(row)
    return rows


def detail(summary: dict, name: str) -> float | None:
    """A figure of the whole run, by its column name."""
    if name.startswith("rate_"):
        return summary["noise"][name.removeprefix("rate_")]
    if name == "seconds":
        return summary["seconds"]
    return summary["labels"][{"labels_before": "accuracy_before", "labels_after": "accuracy_after"}.get(name, name)]


def spread(values: list[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation; None if a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"mean": statistics.fmean(known), "std": statistics.stdev(known) if len(known) > 1 else None}


def show(value: dict | None, digits: int = 3) -> str:
    """'0.812 ± 0.004'."""
    if value is None:
        return "–"
    std = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{std}"


def markdown(rows: list[dict]) -> str:
    """The table as Markdown; accuracies are fractions of the test set, `best test` is an oracle."""
    head = ["config", "method", "options", "noise", "network", "seeds"]
    head += ["last", "best val", "last 5", "best test (oracle)"]
    head += ["labels right before", "after", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        rate = "" if row["rate"] is None else f" {row['rate']:g}"
        cells = [row["config"], row["method"], row["options"], f"{row['noise']}{rate}"]
        cells += [f"{row['network']} ({row['architecture']})", str(row["n_seeds"])]
        cells += [show(row[name]) for name in ("last", "best_val", "last5", "best_test")]
        cells += [show(row["labels_before"]), show(row["labels_after"]), show(row["seconds"], 0)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run_cell(config: ConfigDict, folder: pathlib.Path, label: str, title: str = "") -> dict:
    """One run's summary, with the label that names its row."""
    from kdmlc_jax import train

    return train.run(config, folder, title=title or label) | {"label": label}


def compare(specs: list[str], method_list: list[str], seeds: list[int], overrides: dict, workdir: pathlib.Path) -> str:
    """Runs all cells, writes table.json and table.md at the end, and returns the table."""
    from kdmlc_jax import parallel

    arguments = [expanded for method in method_list for expanded in expand(method)]
    for field in overrides:
        if field == "seed" or field.startswith("method."):
            raise UserError(f"--config.{field}: would make every cell alike, give it by --seeds or --methods")
    cells = cells_of(specs, arguments, seeds, overrides)
    folders = [folder for _, folder, _ in cells]
    if doubles := {str(folder) for folder in folders if folders.count(folder) > 1}:
        raise UserError(f"--methods, --config: {', '.join(sorted(doubles))} is named twice; a cell counts once")
    summaries = []
    for config, folder, words in cells:
        options = [part for part in words.split(",")[1:] if not part.startswith("network=")]
        title = f"{short(words).replace(',', ' ')} seed {config.seed}"
        summaries.append(run_cell(config, workdir / folder, " ".join(options), title) | {"config": folder.parts[0]})
    rows = aggregate(summaries)
    table = markdown(rows)
    if parallel.is_main():
        files.write_json(workdir / "table.json", rows)
        files.write_text(workdir / "table.md", table)
    return table


def cells_of(
    specs: list[str], arguments: list[str], seeds: list[int], overrides: dict
) -> list[tuple[ConfigDict, pathlib.Path, str]]:
    """(config, folder, arguments) of every run of a comparison; raises UserError as `check_same_data`.

    In arguments SEED stands for the seed, so that each run may start from another one's folder.
    """
    cells = [
        (
            config_lib.load(join(spec, f"{words.replace(SEED, str(seed))},seed={seed}"), overrides),
            cell_folder(spec, words, seed),
            words,
        )
        for spec in specs
        for words in arguments
        for seed in seeds
    ]
    check_same_data([(config, f"{folder.parts[0]}: {words}") for config, folder, words in cells])
    return cells


def check_same_data(cells: list[tuple[ConfigDict, str]]) -> None:
    """Raises UserError where two cells (config, "data: method") of the same data and seed would see other images."""
    first: dict[tuple, tuple[ConfigDict, str]] = {}
    for config, name in cells:
        data, _, _ = name.partition(":")
        other, other_name = first.setdefault((data, config.seed), (config, name))
        was = config_lib.flatten(other)
        for field, value in config_lib.flatten(config).items():
            if field.startswith(("data.", "noise.")) and field not in MAY_DIFFER and value != was[field]:
                raise UserError(
                    f"{name}: {field}={value!r}, but {was[field]!r} in {other_name}; give it in --config, so that all "
                    "rows are of the same images"
                )


def run_with_baselines(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains `config` in `workdir` and its baselines below it, and prints what a newcomer wants to know.

    A baseline starts from random weights and learns from the labels first given, whatever `config` does.
    """
    from kdmlc_jax import parallel

    cells = [(config, workdir, config.method.name)]
    for label, method in config.baselines:
        for words in expand(method):
            baseline = config.copy_and_resolve_references()
            config_lib.resolve(baseline, config_lib.parse_arguments(words))
            baseline.baselines = ()
            # Plain: from random weights, on the labels first given.
            baseline.init_from = baseline.teacher.run = baseline.data.labels = baseline.data.features = ""
            cells.append((baseline, workdir / "baselines" / slug(short(words)), label))
    summaries: list[dict] = []
    left_out: dict[str, NoTrustedError] = {}
    for cell in cells:
        try:
            summaries.append(run_cell(*cell))
        except NoTrustedError as error:
            if not summaries:
                raise
            left_out[cell[2]] = error
    if parallel.is_main():
        for label, reason in left_out.items():
            print(f"baseline left out: {label} ({reason})", file=sys.stderr)
    text = report(summaries, workdir)
    if parallel.is_main():
        print(text)


def report(summaries: list[dict], workdir: pathlib.Path) -> str:
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
    noise, labels = run["noise"], run["labels"]
    lines.append(f"Labels of the noisy part held to be wrong: {labels['flagged']} (is_label_issue in the label table)")
    if labels["accuracy_before"] is not None:
        lines.append(
            f"Labels right: {labels['accuracy_before']:.1%} before, {labels['accuracy_after']:.1%} after correction; "
            f"wrong labels found: precision {show_number(labels['precision'])}, recall {show_number(labels['recall'])}"
        )
    lines.append(f"Noise rate: {show_number(noise['realised'])} realised, {show_number(noise['estimated'])} estimated")
    lines.append(f"Files in {workdir}/: labels.csv and labels.parquet (every label, corrected, with confidence),")
    deployed = next(iter(run["networks"]))
    lines.append(f"  {deployed}/ (the network to deploy), summary.json (all figures), metrics.jsonl (every epoch)")
    return "\n".join(lines)


def show_number(value: float | None, form: str = ".3f") -> str:
    """'0.912', or a dash where there is none."""
    return "–" if value is None else format(value, form)


def main(argv: list[str]) -> None:
    """Flags of the comparison."""
    parser = argparse.ArgumentParser(
        "python -m kdmlc_jax.compare",
        description="Run methods x networks x seeds x configs and print one table; finished cells are kept.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="append", required=True, metavar="FILE.py[:a=1]", help="may be repeated")
    parser.add_argument("--methods", required=True, metavar="'ce:train_on=noisy kdmlc:preset=strong'")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated whole numbers (default: 0,1,2)")
    parser.add_argument("--workdir", required=True, metavar="DIR")
    add_launch(parser)
    flags, overrides = parse(parser, argv)
    try:
        seeds = [int(seed) for seed in flags.seeds.split(",")]
    except ValueError:
        raise UserError(f'--seeds: "{flags.seeds}" is not a comma-separated list of whole numbers') from None
    for flag, values in (("--seeds", seeds), ("--methods", flags.methods.split()), ("--config", flags.config)):
        if len(set(values)) < len(values):
            raise UserError(f"{flag}: {values} names one twice; a cell counts once")
    from kdmlc_jax import parallel

    start(flags)
    table = compare(flags.config, flags.methods.split(), seeds, overrides, pathlib.Path(flags.workdir))
    if parallel.is_main():
        print(table)


if __name__ == "__main__":
    guarded(main)
