"""Compares methods honestly: methods × networks × seeds × configs, one folder a cell, one table.

    python -m kdmlc_jax.compare --config configs/fashion_mnist.py:noise=uniform,rate=0.8 \\
        --methods "ce:train_on=noisy mlc:network=student kdmlc:preset=strong" --seeds 0,1,2 --workdir runs/compare

A method whose `network` is not said runs on the student's and on the teacher's network; `{seed}` in a method's
arguments is the cell's seed (`dmlp:init_from=runs/simclr/seed{seed}`). Finished cells are read, cut ones go on.
A comparison on features (`data.source=features`) begins with the methods that need no training there, named or not:
whether anything more pays is seen at once.
`table.json`, `table.md` and a page, `comparison.html`, give mean ± sample standard deviation over the seeds.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence

from kdmlc_jax import config as config_lib
from kdmlc_jax.cli import Parser, add_launch, guarded, parse, start
from kdmlc_jax.compare.grid import Cell, cells_of
from kdmlc_jax.compare.page import PAGE, comparison
from kdmlc_jax.compare.table import aggregate, markdown
from kdmlc_jax.config.words import expand, short
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.report.pages import watched
from kdmlc_jax.storage import files


def compare(
    specs: Sequence[str],
    method_list: Sequence[str],
    seeds: Sequence[int],
    overrides: Mapping[str, str],
    workdir: pathlib.Path,
) -> str:
    """Runs all cells, writes table.json, table.md and comparison.html at the end, and returns the table."""
    from kdmlc_jax import parallel

    if files.is_dir(workdir):
        parallel.on_main(lambda: files.tidy(workdir))  # what a kill has left
    named = [expanded for method in method_list for expanded in expand(method)]
    added = unnamed(specs, named, overrides)
    left_out: dict[str, NoTrustedError] = {}
    summaries = []
    for cell in cells_of(specs, [*added, *named], seeds, overrides):
        try:
            summaries.append(run_cell(cell, workdir))
        except NoTrustedError as error:
            if cell.arguments not in added:
                raise
            left_out[short(cell.arguments)] = error
    rows = aggregate(summaries)
    table = markdown(rows)
    if parallel.is_main():
        with files.locked(workdir):
            files.write_json(workdir / "table.json", rows)
            files.write_text(workdir / "table.md", table)
            told = {label: str(reason) for label, reason in left_out.items()}
            files.write_text(workdir / PAGE, watched(comparison(rows, workdir, told), workdir / PAGE))
        for label, reason in left_out.items():
            print(f"left out: {label} ({reason})", file=sys.stderr)
    return table


def unnamed(specs: Sequence[str], named: Sequence[str], overrides: Mapping[str, str]) -> list[str]:
    """Arguments of what a comparison on features begins with, but for what is named; none on images."""
    from kdmlc_jax import methods

    if any(config_lib.load(spec, overrides).data.source != "features" for spec in specs):
        return []
    first = [arguments for words in methods.on_features() for arguments in expand(words)]
    return [arguments for arguments in first if arguments not in named]


def run_cell(cell: Cell, workdir: pathlib.Path) -> dict:
    """One run's summary, with what names its row: `label`, the method's options but its network, and `config`."""
    from kdmlc_jax import train

    options = [part for part in cell.arguments.split(",")[1:] if not part.startswith("network=")]
    title = f"{short(cell.arguments).replace(',', ' ')} seed {cell.config.seed}"
    summary = train.run(cell.config, workdir / cell.folder, title=title)
    return summary | {"label": " ".join(options), "config": cell.data, "folder": cell.folder.as_posix()}


def main(argv: list[str]) -> None:
    """Flags of the comparison."""
    parser = Parser(
        "kdmlc_jax.compare", "Run methods x networks x seeds x configs and print one table; finished cells are kept."
    )
    parser.add_argument("--config", action="append", required=True, metavar="FILE.py[:a=1]", help="may be repeated")
    parser.add_argument("--methods", required=True, metavar="'NAME NAME:a=1,b=2'", help="and their options")
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
        print(f"look: {flags.workdir}/{PAGE}", file=sys.stderr)


if __name__ == "__main__":
    guarded(main)
