"""Looks at a data set before anybody trains on it.

    python -m kdmlc_jax.data.check --config configs/folder.py:dir=photos

Takes the same --config and overrides as a run, reads every file, lists what it found and ends with what would happen.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from kdmlc_jax import config as config_lib
from kdmlc_jax.cli import Parser, guarded, parse, tell
from kdmlc_jax.errors import UserError

LISTED = 20


def main(argv: list[str]) -> None:
    """Prints the findings; exit code 2 where a run would not start."""
    parser = Parser("kdmlc_jax.data.check", "List what a data set holds and what is wrong with it; nothing is written.")
    parser.add_argument("--config", default="configs/digits.py", metavar="FILE.py[:a=1]", help="as for a run")
    flags, overrides = parse(parser, argv)
    config = config_lib.load(flags.config, overrides)
    config_lib.check(config)
    wanted = config.data.on_bad_image
    config.data.on_bad_image, config.data.verify = "skip", True

    from kdmlc_jax import warm_start
    from kdmlc_jax.data import sources
    from kdmlc_jax.data.prepare import complete
    from kdmlc_jax.experiment import Experiment

    tell()
    config = warm_start.seen(config)
    source = sources.load(config.data)
    for line in describe_source(source):
        print(line)
    dataset = complete(config, source)
    for line in describe_run(config, dataset, source.notes):
        print(line)
    for line in near_copies(source, dataset):
        print(line)
    experiment = Experiment(config, dataset)
    if config.init_from or config.teacher.run:
        warm_start.begin(experiment, experiment.init())
    if source.skipped and wanted == "fail":
        raise UserError(
            f"{len(source.skipped)} unreadable images: mend them, or leave them out by data.on_bad_image=skip"
        )
    print("a run with this config would start")


def describe_source(source: Any) -> Iterator[str]:
    """What the files hold, a line each."""
    yield f"{source.name}: {len(source.class_names)} classes, {len(source.train.labels)} training images"
    yield f"  images {list(source.train.images.shape[1:])} {source.train.images.dtype}"
    yield f"  {0 if source.test is None else len(source.test.labels)} test images"
    for title, part in (("training", source.train), ("test", source.test)):
        if part is not None:
            labels = part.labels if part.truth is None else np.where(part.labels >= 0, part.labels, part.truth)
            labels = labels[labels >= 0]
            counts = np.bincount(labels, minlength=len(source.class_names))
            shown = [f"{name} {count}" for name, count in zip(source.class_names, counts, strict=True)]
            more = f", … {len(shown) - LISTED} more" if len(shown) > LISTED else ""
            found = f"labels {labels.min()} to {labels.max()}" if len(labels) else "no labels"
            yield f"  {title} images by label ({found}): {', '.join(shown[:LISTED])}{more}"
    yield f"  unreadable images: {len(source.skipped)}"
    yield from (f"    {name}: {reason}" for name, reason in source.skipped[:LISTED])
    if len(source.skipped) > LISTED:
        yield f"    … {len(source.skipped) - LISTED} more, all in bad_images.csv of a run"
    yield from (f"  {note}" for note in source.notes)


def describe_run(config: Any, dataset: Any, told: tuple[str, ...]) -> Iterator[str]:
    """What a run would make of them, a line each; notes already `told` are left out."""
    from kdmlc_jax.data.pipeline import is_resident
    from kdmlc_jax.data.prepare import mebibytes

    yield "a run: " + ", ".join(f"{len(rows)} {name}" for name, rows in dataset.splits._asdict().items())
    rate = "unknown" if dataset.rate is None else f"{dataset.rate:.4f}"
    yield f"  noise {config.noise.kind}: share of wrong labels in the noisy part {rate}"
    kind = "resident" if is_resident(dataset, config.data.pipeline) else "streaming"
    mib = mebibytes(dataset.images)
    yield f"  {mib:,.1f} MiB of training images (data.resident_mb={config.data.resident_mb:g}): {kind} pipeline"
    yield from (f"  {note}" for note in dataset.notes if note not in told)
    checked = dataset.splits.checked
    if len(checked) and (absent := dataset.classes_without(checked)):
        some = ", ".join(absent[:LISTED]) + (" …" if len(absent) > LISTED else "")
        yield f"  warning: no trusted image of {some}: labels given so stand, for nothing vouches for a correction"
    if not any(dataset.duplicates):
        yield "  no training image is an exact copy of another or of a test image"


def near_copies(source: Any, dataset: Any) -> Iterator[str]:
    """Images that are nearly others, re-encoded or resized, where that would mislead; nothing is done about them."""
    from kdmlc_jax.data.images import near

    if source.train.images.dtype != np.uint8:
        return
    if not near.is_known():
        yield '  near-copies (re-encoded, resized) were not looked for: pip install "kdmlc-jax[copies]"'
        return
    kinds = near.misleading(dataset)
    names = np.concatenate([np.asarray(dataset.ids, object), np.asarray(_test_names(source), object)])
    if not any(len(pairs) for pairs in kinds.values()):
        yield "  no near-copies (re-encoded, resized) of test, trusted or otherwise labelled images"
    for kind, pairs in kinds.items():
        some = [f"{names[i]} and {names[j]}" for i, j in pairs[:3]]
        if len(pairs):
            yield f"  warning: near-copies: {len(pairs)} pairs of {kind}, e.g. {'; '.join(some)}; look at them"


def _test_names(source: Any) -> list[str]:
    if source.test is None:
        return []
    count = len(source.test.labels)
    return [f"test image {row}" for row in range(count)] if source.test.ids is None else list(source.test.ids)


if __name__ == "__main__":
    guarded(main)
