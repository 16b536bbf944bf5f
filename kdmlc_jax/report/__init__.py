"""One page that shows what is wrong with the labels, and takes a person's decisions: report.html; see `pages`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from markupsafe import Markup

from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.report import copies, evidence, figures, gallery, plots, provenance
from kdmlc_jax.report.pages import embedded, rendered

IMAGES = 200  # in the gallery
FIRST = 8  # of these at the top of the page
SLOT = "<!--baselines-->", "<!--/baselines-->"  # no text of a page holds these: what is untrusted is escaped


def page(
    dataset: Dataset,
    rows: Int[np.ndarray, " N"],
    table: pa.Table,
    beliefs: Float[np.ndarray, "N C"],
    summary: dict,
    history: list[dict],
    workdir: pathlib.Path,
    images: int = IMAGES,
    config: Mapping | None = None,
    baselines: Sequence[dict] = (),
    near_copies: bool = False,
) -> str:
    """The page as text.

    Args:
      dataset: of the run.
      rows: of `dataset`, a row each of the table.
      table: `labels.table`.
      beliefs: of the same rows.
      summary: as in summary.json.
      history: a row for each epoch.
      workdir: where the networks lie; features of the teacher, where there is one, say which trusted images are alike.
      images: so many suspected labels are shown.
      config: of the run, as in config.json.
      baselines: summaries of the runs that it is compared with, each with its `label`.
      near_copies: images that are nearly others are looked for, see `copies.section`.
    """
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    asked = np.isin(columns["split"], ("noisy", "validation"))
    network = evidence.network_of(summary, workdir)
    listed = figures.in_doubt(columns, asked)
    shown, names = listed[:images], dataset.class_names
    items, trusted = gallery.gallery(dataset, rows, columns, beliefs, shown, network, folder_of(config))
    known, run = figures.depths(columns, listed, summary["verdict"]), gallery.run_of(summary, columns, shown)
    depths = [{name: each[name] for name in ("count", "prior", "prior_worth")} for each in known]
    return rendered(
        "page.html.j2",
        ("page.js", "tables.js"),
        title=f"Labels of {summary['dataset']}",
        name=summary["dataset"],
        counts=figures.counts(summary),
        depths=known,
        suspected=len(listed),
        shown=len(shown),
        first=[item for item in items[:FIRST] if item["image"]],
        compared=figures.compared(summary, baselines) if baselines else [],
        slot=[Markup(each) for each in SLOT],
        copies=copies.section(dataset, near_copies),
        learning=plots.learning(summary, history),
        calibration=plots.calibration(summary, columns, asked),
        transitions=plots.transitions(summary, dataset),
        panels=plots.panels(summary, history, columns, names),
        provenance=provenance.rows(summary),
        config=provenance.config_text(dict(config) if config else None),
        data=embedded({"run": run, "classes": list(names), "items": items, "trusted": trusted, "depths": depths}),
        **tables(dataset, columns, asked, listed, summary),
    )


def tables(
    dataset: Dataset,
    columns: figures.Columns,
    asked: Bool[np.ndarray, " N"],
    listed: Int[np.ndarray, " n"],
    summary: dict,
) -> dict[str, Any]:
    """What the template says of the labels `asked` for, of which `listed` are in doubt, and of each class."""
    verdict, count = summary["verdict"], figures.mistaken(columns, asked, len(dataset.class_names))
    deployed = summary["networks"].get(summary.get("deployed"), {})
    rows = figures.class_rows(columns, asked, listed, dataset, deployed)
    return {
        "verdict": verdict["text"],
        "assessed": verdict["assessed"],
        "cards": figures.cards(summary, columns, asked),
        "classes": dataset.class_names,
        "matrix": figures.matrix(count),
        "pairs": figures.pairs(count),
        "class_head": figures.CLASS_HEAD,
        "class_rows": figures.shown(rows),
        "deployed": summary.get("deployed", ""),
        "tested": "test part" if dataset.test_images is not None else "validation images, by their given labels",
        "balanced": figures.number(deployed.get("balanced_accuracy")),
    }


def folder_of(config: Mapping | None) -> pathlib.Path | None:
    """Where the images of a run lie, if they are files in a folder."""
    data = dict(config or {}).get("data", {})
    return pathlib.Path(data["dir"]).expanduser().absolute() if data.get("dir") else None


def with_baselines(text: str, summary: dict, baselines: Sequence[dict]) -> str:
    """The page of a run with what its baselines came to, which end after it."""
    head, start, rest = text.partition(SLOT[0])
    _, end, tail = rest.partition(SLOT[1])
    if not end:
        return text
    rows = figures.compared(summary, baselines)
    return head + start + rendered("compared.html.j2", (), compared=rows) + end + tail
