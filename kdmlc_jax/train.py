"""The one host loop: build → restore → for stage: for step → evaluate → save → correct labels → summary."""

import contextlib
import json
import pathlib
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib
from kdmlc_jax import files, methods, metrics, parallel, state, summarise, writers
from kdmlc_jax.checkpoint import Checkpoints
from kdmlc_jax.data import artefact, augment, pipeline
from kdmlc_jax.data.artefact import Artefact
from kdmlc_jax.data.prepare import Dataset, prepare
from kdmlc_jax.data.sources import Images
from kdmlc_jax.errors import NonFiniteError, UserError
from kdmlc_jax.methods.base import DatasetView, Info, Method, Stage


def stream(seed: int, name: str) -> jax.Array:
    """The root key of a named random stream."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def map_rows(fn: Callable, images: Images, rows: np.ndarray, batch: int, *columns: np.ndarray) -> Any:
    """fn(batch of images, batches of columns…) over the images at `rows`, in batches of one size; host arrays.

    `columns` run over all images, as `images` does.
    """
    results = []
    for start in range(0, len(rows), batch):
        at = rows[np.minimum(np.arange(start, start + batch), len(rows) - 1)]
        kept = min(batch, len(rows) - start)
        out = jax.device_get(fn(images[at], *(column[at] for column in columns)))
        results.append(jax.tree.map(lambda a, kept=kept: a[:kept], out))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def all_finite(tree: Any) -> jax.Array:
    """bool[]: no NaN and no infinity in any floating-point leaf."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))


def check_divisible(method: Method, devices: int, sizes: Any) -> None:
    """Raises UserError where a batch of some stage cannot be cut into equal parts, one a device."""
    for stage in method.stages:
        fields = {
            "batch_size": (stage.streams.noisy,),
            "trusted_batch_size": (stage.streams.trusted, stage.streams.meta),
        }
        for field, widths in fields.items():
            if any(width % devices for width in widths):
                each = f"each half of it, {widths[0]} and {widths[1]}, " if len(widths) > 1 and all(widths) else ""
                raise UserError(f"train.{field}: {sizes[field]}: {each}expected a multiple of {devices}, the devices")


class Run:
    """One run of one method: everything that is fixed before the first step."""

    def __init__(self, config: ConfigDict, dataset: Dataset):
        self.config, self.dataset = config, dataset
        self.info = Info(
            len(dataset.class_names),
            dataset.images.shape[1:],
            len(dataset.splits.noisy) // config.train.batch_size,
        )
        self.method: Method = methods.get(config.method.name).make(config, self.info)
        self.mesh = parallel.make_mesh(config.devices)
        check_divisible(self.method, self.mesh.size, config.train)
        self.pipeline = pipeline.choose(dataset, config.data.pipeline, config.seed, self.info.steps_per_epoch)
        self.fixed = parallel.replicate(self.pipeline.fixed, self.mesh)
        self.key = parallel.replicate(stream(config.seed, "train"), self.mesh)
        self._infer = parallel.compile_step(self._predictions)
        self._correct = parallel.compile_step(self._beliefs)
        self._all_finite = parallel.compile_step(all_finite)

    def init(self) -> dict[str, Any]:
        """The state before the first step: the method's, and the step count."""
        example = jnp.zeros((2, *self.info.image_shape), jnp.float32)
        made = jax.jit(self.method.init)(stream(self.config.seed, "init"), example)
        return parallel.replicate({"method": made, "step": np.zeros((), np.int32)}, self.mesh)

    def compile(self, stage: Stage) -> Callable:
        """(carry, fixed, feed, key) -> (carry, metrics) of `stage`; the carry is donated."""
        how = self.config.augment

        def step(carry: dict[str, Any], fixed: Any, feed: Any, key: jax.Array) -> Any:
            count = carry["step"]
            key = jax.random.fold_in(key, count)
            rows = self.pipeline.rows(fixed, feed, count % self.info.steps_per_epoch)
            batch = pipeline.make_batch(rows, fixed, jax.random.fold_in(key, 0), how)
            batch = parallel.split_batch(batch, self.mesh)
            new, out = stage.step(carry["method"], batch, jax.random.fold_in(key, 1))
            return {"method": new, "step": count + 1}, out

        return parallel.compile_step(step, donate=(0,), mesh=self.mesh)

    def feeds(self, stage: Stage, epoch: int, epochs: int) -> Generator[Any]:
        """What each step of `epochs` epochs from `epoch` on is given, on the device."""
        put, steps = parallel.put_batch if self.pipeline.per_step else parallel.replicate, self.info.steps_per_epoch
        return self.pipeline.feeds(
            stage.streams, epoch * steps, (epoch + epochs) * steps, lambda feed: put(feed, self.mesh)
        )

    def _normalise(self, fixed: Any, images: jax.Array) -> jax.Array:
        return augment.normalise(images, fixed["mean"], fixed["std"])

    def _predictions(self, fixed: Any, current: Any, images: jax.Array) -> dict[str, jax.Array]:
        x = self._normalise(fixed, images)
        nets = self.method.networks.items()
        return {name: jnp.argmax(state.evaluate(net(current), x).logits, -1) for name, net in nets}

    def _beliefs(self, fixed: Any, current: Any, images: jax.Array, given: jax.Array) -> jax.Array:
        return self.method.correct(current, self._normalise(fixed, images), given)

    def evaluate(self, current: Any) -> dict[str, float | None]:
        """Accuracy of each network on the test set, and on the validation split by given and by true labels."""
        data, batch, row = self.dataset, self.config.train.eval_batch_size, {}
        infer = lambda images: self._infer(self.fixed, current, images)  # noqa: E731
        if data.test_images is not None:
            rows = np.arange(len(data.test_label))
            for name, predicted in map_rows(infer, data.test_images, rows, batch).items():
                row[f"{name}_test"] = metrics.accuracy(predicted, data.test_label)
        rows = data.splits.validation
        if len(rows):
            known = data.truth[rows] >= 0
            for name, predicted in map_rows(infer, data.images, rows, batch).items():
                row[f"{name}_validation_given"] = metrics.accuracy(predicted, data.given_label[rows])
                row[f"{name}_validation_true"] = metrics.accuracy(predicted[known], data.truth[rows][known])
        return row

    def beliefs(self, current: Any, rows: np.ndarray) -> np.ndarray:
        """The method's beliefs f32[n, C] on training images `rows`, un-augmented."""
        data = self.dataset
        correct = lambda images, given: self._correct(self.fixed, current, images, given)  # noqa: E731
        return map_rows(correct, data.images, rows, self.config.train.eval_batch_size, data.given_label)

    def check_finite(self, current: Any, step: int) -> None:
        """Raises NonFiniteError if any number of the state is not finite, though the losses were."""
        if not self._all_finite(current):
            raise NonFiniteError(f"step {step}: the updated parameters are not finite")

    def view(self) -> DatasetView:
        """What a stage's `begin` may see."""
        data = self.dataset
        parts = {"noisy": data.splits.noisy, "trusted": data.splits.trusted}

        def over(split: str, fn: Callable) -> Any:
            compiled = parallel.compile_step(lambda fixed, images: fn(self._normalise(fixed, images)))
            size = self.config.train.eval_batch_size
            return map_rows(lambda x: compiled(self.fixed, x), data.images, parts[split], size)

        return DatasetView(data.given_label[parts["noisy"]], data.given_label[parts["trusted"]], over)


def run(config: ConfigDict, workdir: str | pathlib.Path, quiet: bool = False, title: str = "") -> dict:
    """Trains one method, or goes on where `workdir` stopped; returns its summary.

    Raises:
      UserError: for bad input, before anything is written.
      NonFiniteError: naming the step; the last good checkpoint stays.
    """
    workdir = pathlib.Path(workdir)
    config_lib.check(config)
    config_lib.check_same(config, workdir / "config.json")
    summary_path = workdir / "summary.json"
    if summary_path.exists():
        if not quiet:
            print(f"{title or config.name}  finished before, read from {summary_path}", file=sys.stderr)
        return json.loads(summary_path.read_text())
    began = time.monotonic()
    dataset = prepare(config)
    kept = dataset.artefact()
    check_same_data(kept, workdir / "noise.npz")
    job = Run(config, dataset)
    carry = job.init()
    make_workdir(workdir)
    files.write_json(workdir / "config.json", config.to_dict())
    files.write_csv(workdir / "bad_images.csv", ("image", "reason"), dataset.skipped)
    artefact.save_artefact(workdir / "noise.npz", kept)
    for note in dataset.notes:
        if note.startswith("warning") and not quiet:
            print(note, file=sys.stderr)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", config.checkpoint.keep)) as checkpoints:
        carry, progress = train(job, carry, checkpoints, workdir, quiet, title or config.name, began)
    trained = time.monotonic()
    summary = summarise.finish(job, carry["method"], progress, workdir)
    summary["seconds"] = progress["seconds"] + time.monotonic() - trained
    files.write_json(summary_path, summary)
    return summary


def check_same_data(new: Artefact, path: pathlib.Path) -> None:
    """Raises UserError where the data are not those that the run in `path`'s folder began with."""
    if not path.exists():
        return
    old = artefact.load_artefact(path)
    same = {
        "images or classes": old.images == new.images,
        "given labels": np.array_equal(old.given_labels, new.given_labels),
        "splits": all(map(np.array_equal, old.splits, new.splits)),
    }
    for what, equal in same.items():
        if not equal:
            raise UserError(f"{path.parent} holds a run that began with other {what}: choose another --workdir")


def make_workdir(workdir: pathlib.Path) -> None:
    """Creates the run's folder; raises UserError where that is not possible."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"workdir {workdir}: {error.strerror}") from error


def train(
    job: Run, carry: Any, checkpoints: Checkpoints, workdir: pathlib.Path, quiet: bool, title: str, began: float
) -> tuple[Any, dict]:
    """All stages, from the newest checkpoint if there is one; returns the final carry and progress.

    `progress["seconds"]` counts from `began` (a monotonic time) and adds what earlier, cut runs took.
    """
    config, stages, steps = job.config, job.method.stages, job.info.steps_per_epoch
    progress: dict[str, Any] = {"stage": 0, "stage_epoch": 0, "history": [], "seconds": 0.0, "images_per_second": 0.0}
    if (restored := checkpoints.restore(carry)) is not None:
        carry, progress = parallel.replicate(restored[0], job.mesh), restored[1]
    history, spent = progress["history"], progress["seconds"]
    total = sum(stage.epochs for stage in stages) * steps
    reporter = writers.Reporter(workdir / "metrics.jsonl", history, total, config.train.batch_size, title, quiet)
    with contextlib.closing(reporter):
        while progress["stage"] < len(stages):
            stage, ended = stages[progress["stage"]], False
            if progress["stage_epoch"] == 0 and stage.begin is not None:
                carry = {**carry, "method": stage.begin(carry["method"], job.view())}
            compiled, left = job.compile(stage), stage.epochs - progress["stage_epoch"]
            with contextlib.closing(job.feeds(stage, len(history), left)) as feeds:
                while not ended:
                    carry, row = train_epoch(job, carry, compiled, feeds, stage, len(history), reporter)
                    history.append(row)
                    reporter.epoch(row)
                    last = progress["stage_epoch"] + 1 == stage.epochs
                    ended = last or (stage.done is not None and stage.done(visible(history)))
                    progress |= (
                        {"stage": progress["stage"] + 1, "stage_epoch": 0}
                        if ended
                        else {"stage_epoch": progress["stage_epoch"] + 1}
                    )
                    progress["seconds"] = spent + time.monotonic() - began
                    progress["images_per_second"] = reporter.rate() or progress["images_per_second"]
                    if len(history) % config.checkpoint.every == 0 or progress["stage"] == len(stages):
                        checkpoints.save(row["step"], carry, progress)
    return carry, progress


def visible(history: list[dict]) -> list[dict]:
    """The epochs' rows without what is measured on the test set or by true labels."""
    return [{name: row[name] for name in row if not name.endswith(("_test", "_true"))} for row in history]


def train_epoch(
    job: Run, carry: Any, compiled: Callable, feeds: Iterator, stage: Stage, epoch: int, reporter: writers.Reporter
) -> tuple[Any, dict]:
    """One epoch of one stage and its evaluation; returns the carry and the epoch's row."""
    steps, meter = job.info.steps_per_epoch, metrics.Meter()
    try:
        for step in range(epoch * steps, (epoch + 1) * steps):
            carry, out = compiled(carry, job.fixed, next(feeds), job.key)
            meter.add(step, out)
            reporter.step(step + 1)
        means = meter.means()
        job.check_finite(carry["method"], (epoch + 1) * steps - 1)
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{error} in epoch {epoch + 1} (stage {stage.name}); training stopped, what was saved before it is kept"
        ) from None
    for line in metrics.warnings(means):
        reporter.say(f"warning: {line}")
    row = {"epoch": epoch + 1, "stage": stage.name, "step": (epoch + 1) * steps, **means}
    reporter.pause()
    row |= job.evaluate(carry["method"])
    return carry, row
