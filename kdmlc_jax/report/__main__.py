"""Writes the page of a finished run anew: `python -m kdmlc_jax.report --workdir runs/photos --images 500`."""

import json
import pathlib
import sys

import numpy as np

from kdmlc_jax import config as config_lib
from kdmlc_jax.cli import Parser, guarded
from kdmlc_jax.errors import in_range, reading


def main(argv: list[str]) -> None:
    """Reads what the run has left, and the images that it shows; writes report.html."""
    parser = Parser("kdmlc_jax.report", "Write the page of a finished run anew.")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a finished run")
    parser.add_argument("--images", type=int, default=200, help="so many suspected labels (default: 200)")
    parser.add_argument(
        "--near-copies", action="store_true", help="look for re-encoded and resized images; reads all (extra copies)"
    )
    parser.add_argument("--out", type=pathlib.Path, help="default: report.html in the workdir")
    flags = parser.parse_args(argv)
    in_range("--images", flags.images, 0, 100_000)
    workdir = flags.workdir

    import pyarrow as pa

    from kdmlc_jax import baselines, finished, report
    from kdmlc_jax.data.reopen import reopened
    from kdmlc_jax.outputs.report import NAME
    from kdmlc_jax.report.pages import watched
    from kdmlc_jax.storage import door, files
    from kdmlc_jax.storage import labels as label_table

    summary = finished.ended(workdir)
    used = [name for name in summary.get("files", {}) if name != NAME]
    for line in finished.check_files(workdir, summary, used):
        print(line, file=sys.stderr)
    with reading(workdir / "metrics.jsonl", "the figures of a run's epochs"):
        history = [json.loads(line) for line in door.read_text(workdir / "metrics.jsonl").splitlines()]
    columns, beliefs = label_table.whole(workdir)
    config = config_lib.read(workdir / "config.json")
    dataset = reopened(config, workdir)
    finished.check_data(dataset, workdir, summary)
    rows, table = np.concatenate(dataset.splits), pa.table(columns)
    text = report.page(
        *(dataset, rows, table, beliefs, summary, history, workdir, flags.images),
        config=config.to_dict(),
        baselines=baselines.ended(config, workdir),
        near_copies=flags.near_copies,
    )
    out = flags.out or workdir / NAME
    if out.resolve() == (workdir / NAME).resolve():
        finished.renew(workdir, NAME, text)
    else:
        files.write_text(out, text)
    watched(text, out)
    print(f"{out}: {len(text) / 1e6:.1f} MB")


if __name__ == "__main__":
    guarded(main)
