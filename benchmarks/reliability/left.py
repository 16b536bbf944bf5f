"""What runs leave of every kind, and everything that reads it, called in this process; see flips.py."""

import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import small

from kdmlc_jax import apply, embed, export, main, predict, train, warm_start
from kdmlc_jax.compare import __main__ as comparing
from kdmlc_jax.data import prepare as prepare_lib
from kdmlc_jax.data import provenance
from kdmlc_jax.data.noise import file as label_file
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import StorageError
from kdmlc_jax.export import __main__ as exporting
from kdmlc_jax.report import __main__ as reporting
from kdmlc_jax.storage import checksums
from kdmlc_jax.storage.checkpoint import Checkpoints
from kdmlc_jax.train_state import named_leaves

COMPARED = ["kd", "ce:train_on=both"]
FORMATS = "onnx,safetensors,stablehlo"


class Home:
    """The runs, a copy of one of them, and its readers."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.trial, self.out = folder / "left", folder / "trial", folder / "out"
        self.exports = self.trial / "exports"
        self.pixels = folder / "pixels.npy"
        np.save(self.pixels, np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8))
        self.cells: dict[str, pathlib.Path] = {}
        if not (self.folder / "done").exists():
            self.make()
        for path in sorted(self.folder.rglob("summary.json")):
            self.cells[str(path.parent.relative_to(self.folder))] = path.parent
        self.compare = json.loads((self.folder / "done").read_text())
        self.first = self.trial / "based"
        self.fresh()

    def fresh(self) -> None:
        """All files as they were left, in the folder where they are read."""
        shutil.rmtree(self.trial, ignore_errors=True)
        shutil.copytree(self.folder, self.trial, symlinks=True)
        self.stamps = self.stamped()

    def stamped(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file, locks apart."""
        found = (path for path in self.trial.rglob("*") if path.name != "lock")
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found if path.is_file()}

    def flipped(self, name: str, raw: bytes, reader: Callable[[], Any]) -> Any:
        """What `reader` makes of the files while `raw` stands in one of them; all are then as they were."""
        path = self.trial / name
        good = path.read_bytes()
        path.write_bytes(raw)
        self.stamps[str(path)] = self.stamped()[str(path)]
        try:
            return reader()
        finally:
            if self.stamped() == self.stamps:
                path.write_bytes(good)
                self.stamps = self.stamped()
            else:
                self.fresh()

    def make(self) -> None:
        """Runs them all, in the folder where they are read; those that have ended there are done."""
        shutil.rmtree(self.exports, ignore_errors=True)
        spec = small.DATA.format(small.MLP, 2)
        methods = ["--methods", " ".join(COMPARED), "--seeds", "0", "--workdir", str(self.trial / "cells")]
        compare = ["--config", spec, *small.flags(data__held_out=0), *methods]
        base = '(("linear","linear"),)'
        crossed = {"data__cross_fit": 2, "data__held_out": 0}
        for program, words in (
            (comparing.main, compare),
            (main.main, small.words("kd", self.trial / "based", 2, baselines=base, data__held_out=0)),
            (main.main, small.words("ce", self.trial / "folds", 2, **crossed)),
        ):
            self.good(program, words)
        first = self.trial / "based"
        words = ["--workdir", str(first), "--to", FORMATS, "--out", str(self.exports / "export")]
        self.good(exporting.main, words)
        self.good(embed.main, self.embedding(first))
        (self.trial / "done").write_text(json.dumps(compare))
        self.trial.rename(self.folder)

    @staticmethod
    def good(program, words: list[str]) -> None:
        """Calls a program that has nothing to complain of."""
        if (answer := small.call(program, words)).code:
            raise SystemExit(answer.err)

    def embedding(self, run: pathlib.Path) -> list[str]:
        """The words that write the features of the images, as the network of a run has them."""
        spec = small.DATA.format(small.MLP, 2)
        return ["--config", spec, "--encoder", str(run / "student"), "--out", str(self.exports / "features")]

    def config(self, run: pathlib.Path):
        """That of a run, as it was left."""
        return train.config_lib.read(self.folder / run.relative_to(self.trial) / "config.json")

    @functools.cache  # noqa: B019 (one home a process)
    def begun(self, run: pathlib.Path):
        """The experiment of a run, and its state before the first step."""
        experiment = train.Experiment(self.config(run), prepare(self.config(run)))
        return experiment, experiment.init()

    def words(self, run: pathlib.Path) -> list[str]:
        """The command line of a run, whatever its config.json says."""
        fields = train.config_lib.flatten(self.config(run))
        plain = {name: value for name, value in fields.items() if not name.startswith("method.")}
        method = [f"{name[7:]}={fields[name]}" for name in fields if name.startswith("method.") and fields[name] != ""]
        method = [f"method={fields['method.name']}", *(each for each in method if not each.startswith("name="))]
        said = [f"--config.{name}={plain[name]}" for name in plain if name not in ("name", "devices")]
        return ["--config", f"configs/digits.py:{','.join(method)}", *said, "--config.devices=1", "--workdir", str(run)]


def read(home: Home, reader: str, run: pathlib.Path) -> tuple[small.Answer, dict]:
    """What a reader ends with on a run in the trial's folder: its answer, and digests of what it makes of it."""
    made: dict = {}
    out = home.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()

    def command(program, *words: str) -> None:
        program([*map(str, words)])
        made.update(small.tree(out))

    def digest(**arrays) -> None:
        made.update({name: common.sha(np.ascontiguousarray(value).tobytes()) for name, value in arrays.items()})

    def changed(**fields):
        config = home.config(run).copy_and_resolve_references()
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config

    def noise(_) -> None:
        table = (home.folder / run.relative_to(home.trial) / "labels.csv").read_text()
        ids = np.array([line.split(",")[0] for line in table.splitlines()[1:]])
        for name in ("labels.csv", "labels.parquet"):
            if (run / name).exists():
                config = changed(noise__kind="file", noise__file=str(run / name))
                prepare_lib.held_to_sums(config)
                digest(**{name: label_file.read_labels(run / name, len(ids), 10, ids, [*map(str, range(10))])})
        config = changed(noise__kind="file", noise__file=str(run / "noise.npz"))
        made.update(provenance.digests(prepare(config).provenance()))

    def labels(_) -> None:
        data = prepare(changed(data__labels=str(run)))
        made.update(provenance.digests(data.provenance()))
        digest(soft=data.soft_label)
        print(data.notes, file=sys.stderr)

    def splits(_) -> None:
        made.update(provenance.digests(prepare(changed(data__splits=str(run / "noise.npz"))).provenance()))

    def init(_) -> None:
        experiment, carry = home.begun(run)
        begun, _ = warm_start.start_from(experiment, carry, run)
        made.update(common.digests(named_leaves(begun["method"]), {}))

    def restore(_) -> None:
        # In place of the loop: the newest state that is whole, from which the rest of a run follows (see cuts.py).
        checkpoints = Checkpoints(run / "checkpoints", 2)
        state, progress = checkpoints.restore(home.begun(run)[1])
        checkpoints.close()
        left = home.folder / run.relative_to(home.trial) / "checkpoints"
        was = common.saved(left / str(common.steps(run)[-1]))
        made["other than saved"] = str(common.differences(common.digests(named_leaves(state), progress), was))

    def resume(words) -> None:
        (run / "summary.json").unlink(missing_ok=True)
        main.main(words)
        made.update(small.outcome(run))

    def again(words) -> None:
        main.main(words)
        made.update(small.outcome(run))

    def compare(_) -> None:
        comparing.main(home.compare)

    def sums() -> None:
        if wrong := checksums.damage(home.exports / "export"):
            raise StorageError(wrong)

    def learned_from(config) -> None:
        data = prepare(config)
        made.update(provenance.digests(data.provenance()))
        digest(inputs=data.inputs[np.arange(len(data.given_label))])
        if data.features is not None:
            digest(features=data.features)

    def shown() -> None:
        folder = home.exports / "features"
        learned_from(train.config_lib.load(f"configs/features.py:dir={folder},method=ce,trusted=50", {}))

    readers = {
        "again": lambda: again(home.words(run)),
        "alone": lambda: again(["--workdir", str(run)]),
        "resume": lambda: resume(home.words(run)),
        "compare": lambda: compare(None),
        "load": lambda: digest(**{n: export.load(run / n)(np.load(home.pixels)) for n in nets(run)}),
        "predict": lambda: command(predict.main, "--model", run / nets(run)[0], home.pixels, "--out", out / "p.csv"),
        "apply": lambda: command(apply.main, "--workdir", run, "--take", "suggested", "--out", out / "a.csv"),
        "report": lambda: command(reporting.main, "--workdir", run, "--out", out / "r.html"),
        "embed": lambda: command(embed.main, "--encoder", run / nets(run)[0], "--out", out / "e"),
        "labels": lambda: labels(None),
        "noise": lambda: noise(None),
        "splits": lambda: splits(None),
        "init": lambda: init(None),
        "restore": lambda: restore(None),
        "sums": sums,
        "features": lambda: learned_from(changed(data__features=str(home.exports / "features" / "features.npy"))),
        "shown": shown,
        "embed again": lambda: (embed.main(home.embedding(home.first)), made.update(small.tree(home.exports))),
    }
    answer = small.call(lambda _: readers[reader](), [])
    if reader in ("again", "alone", "compare"):
        made["said"] = common.sha(answer.out.encode())
    if answer.code:
        made = {}
    return answer, made


def nets(run: pathlib.Path) -> list[str]:
    """The networks that a run has left."""
    return [name for name in ("student", "teacher") if (run / name).is_dir()]
