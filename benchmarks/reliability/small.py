"""What the scripts on whole runs share: the smallest run of each method, commands called in this process, digests."""

import contextlib
import io
import json
import os
import pathlib
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import common

from kdmlc_jax import assess, cli, train
from kdmlc_jax.data import provenance
from kdmlc_jax.storage import checksums, files

# Networks of one hidden layer: what is tried here is files, and those of a larger network are of the same kinds.
DATA = "configs/digits.py:{},noisy=150,validation=20,epochs={}"
MLP = "teacher=mlp8,student=mlp8"
FLAGS = ("devices=1", "checkpoint.every=1", "train.batch_size=40", "train.trusted_batch_size=20")
METHODS = {
    "ce": f"method=ce,train_on=both,{MLP}",
    "kd": f"method=kd,{MLP}",
    "mlc": f"method=mlc,{MLP}",
    "kdmlc": f"method=kdmlc,{MLP}",
    "blind_kd": f"method=blind_kd,rewind=true,{MLP}",
    "dmlp": f"method=dmlp,ssl_epochs=1,purify_epochs=2,{MLP}",
    "dmlp then blind_kd": f"method=dmlp,ssl_epochs=1,purify_epochs=2,then=blind_kd,{MLP}",
    "aml_kd": f"method=aml_kd,neighbours=5,{MLP}",
    "simclr": f"method=simclr,{MLP}",
    "linear": "method=linear,student=linear",
    "knn": "method=knn,student=nearest7",
    "wann": "method=wann,student=nearest7",
}


def flags(**more: Any) -> list[str]:
    """The overrides of all runs, and `more`, data__fold=1 for --config.data.fold=1."""
    named = {"baselines": "()", **{name.replace("__", "."): value for name, value in more.items()}}
    return [*(f"--config.{one}" for one in FLAGS), *(f"--config.{name}={value}" for name, value in named.items())]


def words(method: str, workdir: pathlib.Path, epochs: int = 4, **more: Any) -> list[str]:
    """The command line of the smallest run of a method."""
    return ["--config", DATA.format(METHODS[method], epochs), *flags(**more), "--workdir", str(workdir)]


class Answer(NamedTuple):
    """What a command ended with: its exit status (-1: a traceback), and what it said."""

    code: int
    out: str
    err: str

    @property
    def clean(self) -> bool:
        """One line where it failed: what a person is told, no traceback."""
        failed = [line for line in self.err.splitlines() if line.startswith("error:")]
        return self.code == 0 or (self.code in (2, 4) and len(failed) == 1 and self.err.endswith(failed[0] + "\n"))


@contextlib.contextmanager
def argv(given: Sequence[str]) -> Iterator[None]:
    """sys.argv, the streams and SIGTERM as they were, afterwards."""
    before, streams, handler = sys.argv[:], (sys.stdout, sys.stderr), signal.getsignal(signal.SIGTERM)
    sys.argv[1:] = given
    try:
        yield
    finally:
        sys.argv[:], (sys.stdout, sys.stderr) = before, streams
        signal.signal(signal.SIGTERM, handler)


def call(program: Callable[[list[str]], None], given: Sequence[str]) -> Answer:
    """A command as the shell would run it, but in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), argv(given):
        try:
            cli.guarded(program)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        except BaseException:
            code = -1
            err.write(traceback.format_exc())
    return Answer(code, out.getvalue(), err.getvalue())


def vouched_in(folder: pathlib.Path) -> None:
    """From now on what is vouched for of the same arrays is made once and kept in `folder`: it is most of a run."""
    vouch = assess.vouch

    def vouched(*arguments: Any, **named: Any) -> Any:
        path = folder / f"vouched-{common.sha(pickle.dumps((arguments, named)))}"
        if not path.exists():
            with files.atomic_write(path) as file:
                file.write(pickle.dumps(vouch(*arguments, **named)))
        return pickle.loads(path.read_bytes())

    assess.vouch = vouched


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within, what does not depend on files is made once: the programs of an experiment on the same data, and which
    labels are vouched for of the same arrays. A run of a second or two is left."""
    programs: dict[Any, Any] = {}

    class Remembered(train.Experiment):
        def compile(self, stage: Any, steps: int = 1) -> Callable:
            return once((id(self), stage.name, steps), lambda: super(Remembered, self).compile(stage, steps))

    def once(key: Any, make: Callable[[], Any]) -> Any:
        if key not in programs:
            programs[key] = make()
        return programs[key]

    def experiment(config: Any, dataset: Any) -> train.Experiment:
        key = config.to_json(), str(provenance.digests(dataset.provenance()))
        return once(key, lambda: Remembered(config, dataset))

    vouch = assess.vouch

    def vouched(*arguments: Any, **named: Any) -> Any:
        return once(pickle.dumps((arguments, named)), lambda: vouch(*arguments, **named))

    with mock.patch.object(train, "Experiment", experiment), mock.patch.object(assess, "vouch", vouched):
        yield


def without_clock(value: Any) -> Any:
    """JSON without what no other run repeats: times, and sums of what holds times."""
    if isinstance(value, dict):
        gone = (*common.CLOCK, "sha256", "files")
        return {name: without_clock(each) for name, each in value.items() if name not in gone}
    return [without_clock(each) for each in value] if isinstance(value, list) else value


def tree(folder: pathlib.Path) -> dict[str, str]:
    """The SHA-256 of each file below `folder`, links and empty folders by their names."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in names:
            path = pathlib.Path(parent, name)
            found[str(path.relative_to(folder))] = common.sha(path.read_bytes())
        if not folders and not names:
            found[f"{pathlib.Path(parent).relative_to(folder)}/"] = ""
    return found


# A page holds the time the run took, and the card of an exported network how long one image took.
CARD = "MODEL_CARD.md"
OWN_CLOCK = ("report.html", "comparison.html", "table.md", "lock", CARD)


def outcome(folder: pathlib.Path) -> dict[str, str]:
    """A digest of each file that a run, its baselines or a comparison leaves, without times and checkpoints."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or "checkpoints" in name.parts or path.name in OWN_CLOCK:
            continue
        if path.name == checksums.SUMS and (path.parent / CARD).exists():  # the card's among them
            continue
        raw = path.read_bytes()
        if path.name in ("summary.json", "table.json"):
            raw = json.dumps(without_clock(json.loads(raw)), sort_keys=True).encode()
        found[str(name)] = common.sha(raw)
    return found
