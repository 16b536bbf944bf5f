"""Writes the page of a finished run anew: `python -m kdmlc_jax.report --workdir runs/photos --images 500`."""

import argparse
import json
import pathlib

import numpy as np

from kdmlc_jax import config as config_lib
from kdmlc_jax.cli import EXITS, guarded
from kdmlc_jax.errors import UserError, in_range


def main(argv: list[str]) -> None:
    """Reads what the run has left, and its images; writes report.html."""
    parser = argparse.ArgumentParser(
        "python -m kdmlc_jax.report", description=__doc__, epilog=EXITS, allow_abbrev=False
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument("--images", type=int, default=200, help="so many suspected labels (default: 200)")
    parser.add_argument("--out", type=pathlib.Path, help="default: report.html in the workdir")
    flags = parser.parse_args(argv)
    in_range("--images", flags.images, 0, 100_000)
    workdir = flags.workdir
    config = config_lib.read(workdir / "config.json")

    import pyarrow as pa

    from kdmlc_jax import report
    from kdmlc_jax.data import provenance
    from kdmlc_jax.data.prepare import prepare
    from kdmlc_jax.storage import files
    from kdmlc_jax.storage import labels as label_table

    try:
        summary = json.loads((workdir / "summary.json").read_text())
        history = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir}: is not the folder of a finished run ({error})") from None
    columns, beliefs = label_table.whole(workdir)
    dataset = prepare(config)
    provenance.check_same(provenance.digests(dataset.provenance()), provenance.begun(workdir), workdir)
    network = workdir / ("teacher" if "teacher" in summary["networks"] else next(iter(summary["networks"])))
    rows = np.concatenate(dataset.splits)
    text = report.page(dataset, rows, pa.table(columns), beliefs, summary, history, network, flags.images)
    out = flags.out or workdir / "report.html"
    files.write_text(out, text)
    print(f"{out}: {len(text) / 1e6:.1f} MB")


if __name__ == "__main__":
    guarded(main)
