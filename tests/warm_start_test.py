"""A run that starts from the networks of another: which takes which, to the bit, and what does not fit is refused."""

import hashlib
import json
import re
import shutil
from functools import cache

import jax
import numpy as np
import pytest
import tiny
from flax import serialization

from kdmlc_jax import train, warm_start
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.experiment import Experiment
from kdmlc_jax.storage import files

NETS = "noisy=40,epochs=1,teacher=mlp6,student=mlp4"  # an epoch is one step
CE = f"method=ce,{NETS}"
KD = f"method=kd,{NETS}"


@pytest.fixture(scope="module")
def ce(tmp_path_factory):
    """The folder of a finished CE run."""
    folder = tmp_path_factory.mktemp("ce") / "run"
    train.run(tiny.config(CE), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def kd(tmp_path_factory):
    """The folder of a finished run of two networks: a student (mlp4) and a teacher (mlp6)."""
    folder = tmp_path_factory.mktemp("kd") / "run"
    train.run(tiny.config(KD), folder, quiet=True)
    return folder


@cache
def made(arguments):
    """A run before its first step."""
    config = tiny.config(arguments)
    return Experiment(config, prepare(config))


def started(experiment, folder):
    """The networks of a run that starts from `folder`, by name, and what it says of them."""
    carry, lines = warm_start.start_from(experiment, experiment.init(), folder)
    return experiment.method.networks(carry["method"]), lines


def exported(folder):
    """The variables in weights.msgpack, by their paths."""
    return leaves(serialization.msgpack_restore((folder / "weights.msgpack").read_bytes()))


def leaves(tree):
    return {jax.tree_util.keystr(path): np.asarray(a) for path, a in jax.tree_util.tree_leaves_with_path(tree)}


def variables(net):
    return leaves({"params": net.params, "batch_stats": net.batch_stats})


def assert_same(got, want):
    """Equal to the bit, path by path."""
    assert got.keys() == want.keys()
    for path in got:
        np.testing.assert_array_equal(got[path], want[path], path)


def changed(folder, change):
    """Changes what is in weights.msgpack, and the sums with it."""
    path = folder / "weights.msgpack"
    saved = serialization.msgpack_restore(path.read_bytes())
    change(saved)
    path.write_bytes(serialization.msgpack_serialize(saved))
    about = files.read_sealed(folder / "network.json", "")
    about["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    files.write_sealed(folder / "network.json", about)


def refused(experiment, folder):
    """The one line that starting from `folder` fails with."""
    with pytest.raises(UserError) as caught:
        warm_start.start_from(experiment, experiment.init(), folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", ["", "student"])
def test_exactly_the_exported_weights(ce, place):
    """Protects the start: every weight and statistic is the saved one, the optimiser and all counts are fresh; the
    run's folder and that of the network in it both name it."""
    experiment = made(f"{CE},seed=1,splits={ce}/noise.npz")
    (fresh,) = experiment.method.networks(experiment.init()["method"]).values()
    nets, lines = started(experiment, ce / place)
    assert_same(variables(nets["student"]), exported(ce / "student"))
    assert any(
        (a != b).any() for a, b in zip(variables(fresh).values(), variables(nets["student"]).values(), strict=True)
    )
    assert_same(leaves(nets["student"].opt_state), leaves(fresh.opt_state))
    assert int(nets["student"].step) == 0
    assert lines == [f"student (mlp4) starts from {ce}/student"]


def test_training_goes_on_from_there(ce, tmp_path, monkeypatch):
    """Protects `init_from` in a config: without a step of size the second run ends with the first one's weights."""
    said = []
    monkeypatch.setattr("builtins.print", lambda *parts, **where: said.append(str(parts[0])))
    still = {"init_from": str(ce), "optim.lr": 0.0, "optim.weight_decay": 0.0}
    train.run(tiny.config(CE, still), tmp_path / "run")
    params = lambda folder: {path: a for path, a in exported(folder / "student").items() if "'params'" in path}  # noqa: E731
    assert_same(params(tmp_path / "run"), params(ce))
    assert f"student (mlp4) starts from {ce}/student" in said


def test_each_network_from_its_own(kd):
    """Protects teacher and student from each other's weights; nothing else of the state changes."""
    experiment = made(f"{KD},seed=1,splits={kd}/noise.npz")
    nets, lines = started(experiment, kd)
    for name in ("teacher", "student"):
        assert_same(variables(nets[name]), exported(kd / name))
    assert sorted(lines) == [
        f"student (mlp4) starts from {kd}/student",
        f"teacher (mlp6) starts from {kd}/teacher",
    ]
    before, after = (
        leaves(experiment.init()["method"]),
        leaves(warm_start.start_from(experiment, experiment.init(), kd)[0]["method"]),
    )
    moved = {path for path in before if (before[path] != after[path]).any()}
    weights = {path for path in before if re.search(r"(student|teacher)\.(params|batch_stats|ema)", path)}
    assert moved and moved <= weights


def test_name_goes_before_architecture(ce, tmp_path):
    """Protects the choice where both networks there would do: a teacher starts from the teacher."""
    for name in ("student", "teacher"):
        shutil.copytree(ce / "student", tmp_path / name)
    changed(tmp_path / "teacher", lambda saved: saved["params"]["Dense_2"].update(bias=np.ones(10, np.float32)))
    for name in ("student", "teacher"):
        nets, lines = started(made(f"{CE},network={name},teacher=mlp4"), tmp_path)
        assert_same(variables(nets[name]), exported(tmp_path / name))
        assert lines == [f"{name} (mlp4) starts from {tmp_path}/{name}"]


def test_found_by_architecture_under_another_name(kd, ce):
    """Protects a deployed student with the teacher's architecture, and the other way round; others start afresh."""
    nets, lines = started(made(f"{CE},student=mlp6"), kd)
    assert_same(variables(nets["student"]), exported(kd / "teacher"))
    assert lines == [f"student (mlp6) starts from {kd}/teacher"]
    experiment = made(f"{KD},teacher=mlp4,student=mlp6,splits={ce}/noise.npz")
    nets, lines = started(experiment, ce)
    assert_same(variables(nets["teacher"]), exported(ce / "student"))
    assert_same(
        variables(nets["student"]), variables(experiment.method.networks(experiment.init()["method"])["student"])
    )
    assert sorted(lines) == [
        f"student (mlp6) starts from random weights: there is none in {ce}",
        f"teacher (mlp4) starts from {ce}/student",
    ]
    experiment.config.student.freeze = True
    with pytest.raises(UserError, match=r"student\.freeze: .* has student \(mlp4\), expected mlp6: random weights"):
        started(experiment, ce)


def test_one_network_there_for_two_here(ce, tmp_path):
    """Protects training from a buffer that two networks share: both begin alike, and each goes its own way."""
    chosen = f"{KD},teacher=mlp4,splits={ce}/noise.npz"
    nets, _ = started(made(chosen), ce)
    for net in nets.values():
        assert_same(variables(net), exported(ce / "student"))
    train.run(tiny.config(f"{chosen},init_from={ce}"), tmp_path / "run", quiet=True)
    pair = [exported(tmp_path / "run" / name) for name in ("teacher", "student")]
    assert all((pair[0][path] != pair[1][path]).any() for path in pair[0] if "kernel" in path)


@pytest.mark.parametrize(
    "names",
    [[f"class {number}" for number in range(10)], [str(number) for number in range(7)], list("9876543210")],
    ids=["other names", "fewer", "another order"],
)
def test_other_classes_keep_their_own_last_layer(ce, tmp_path, names):
    """Protects from logits of other classes: the last layer stays as drawn here, all below it is taken, and that is
    said."""
    folder = tmp_path / "student"
    shutil.copytree(ce / "student", folder)
    about = files.read_sealed(folder / "network.json", "")
    assert about["class_names"] == list("0123456789")
    files.write_sealed(folder / "network.json", about | {"class_names": names})
    fewer = lambda layer: {name: array[..., : len(names)] for name, array in layer.items()}  # noqa: E731
    changed(folder, lambda saved: saved["params"].update(Dense_2=fewer(saved["params"]["Dense_2"])))
    experiment = made(f"{CE},seed=1,splits={ce}/noise.npz")
    own = variables(experiment.method.networks(experiment.init()["method"])["student"])
    nets, lines = started(experiment, tmp_path)
    below = {path: array for path, array in exported(ce / "student").items() if "Dense_2" not in path}
    assert_same(variables(nets["student"]), {path: below.get(path, array) for path, array in own.items()})
    assert lines == [f"student (mlp4) starts from {folder}, but for its last layer: the classes differ"]


def test_no_such_architecture(kd, ce, tmp_path):
    """Protects from a run that silently starts from random weights: what there is, and what was looked for."""
    message = refused(made(f"{CE},student=mlp5"), kd)
    assert message == f"init_from: {kd} has student (mlp4), teacher (mlp6), expected one like student (mlp5)"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(made(CE), empty) == f"init_from: {empty} has no network, expected one like student (mlp4)"
    for folder in (tmp_path / "absent", ce / "summary.json"):
        assert refused(made(CE), folder) == f"init_from: {folder} is no folder, expected that of a finished run"
    with pytest.raises(UserError, match=r"init_from: .* is no folder"):
        train.run(tiny.config(CE, {"init_from": str(tmp_path / "absent")}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_arrays_of_another_shape(ce, tmp_path):
    """Protects from weights for other images: the array that differs is named, with both shapes."""
    place, experiment = f"{tmp_path}/student: cannot be read as a network (['params']['Dense_0']['kernel']", made(CE)
    shutil.copytree(ce / "student", tmp_path / "student")
    changed(tmp_path / "student", lambda saved: saved["params"]["Dense_0"].update(kernel=np.zeros((192, 4))))
    assert refused(experiment, tmp_path) == f"{place} is (192, 4), expected (64, 4) in mlp4)"
    changed(tmp_path / "student", lambda saved: saved["params"].pop("Dense_0"))
    assert refused(experiment, tmp_path) == f"{place} is absent, expected (64, 4) in mlp4)"


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"net": "mlp4"}', '{"net": "mlp4", "class_names": null}'])
def test_description_of_another_form(ce, tmp_path, text):
    """Protects from JSON that is none of ours."""
    shutil.copytree(ce / "student", tmp_path / "student")
    value = json.loads(text)
    text = json.dumps(files.sealed(value)) if isinstance(value, dict) else text
    (tmp_path / "student" / "network.json").write_text(text)
    assert refused(made(CE), tmp_path).startswith(
        (f"{tmp_path}/student: cannot be", f"{tmp_path}/student/network.json: cannot be")
    )


@pytest.mark.parametrize("name", ["weights.msgpack", "network.json"])
def test_half_a_network_is_refused(ce, tmp_path, name):
    """Protects from files that were cut off, emptied or not copied: one line that names the place."""
    experiment, folder = made(CE), tmp_path / "student"
    shutil.copytree(ce / "student", folder)
    whole = (folder / name).read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 2):
        (folder / name).write_bytes(whole[:size])
        assert refused(experiment, tmp_path).startswith(
            (f"{folder}: cannot be read as", f"{folder}/{name}: cannot be read as")
        )
    (folder / name).unlink()
    message = refused(experiment, tmp_path)
    if name == "weights.msgpack":
        assert message == f"{folder}/{name}: no such file, expected the network that a run has left"
    else:
        assert message == f"init_from: {tmp_path} has no network, expected one like student (mlp4)"


def test_changed_bytes(ce, tmp_path):
    """Protects from weights that nobody trained: whatever byte is another, it is noticed, in one line."""
    experiment, path = made(CE), tmp_path / "student" / "weights.msgpack"
    shutil.copytree(ce / "student", tmp_path / "student")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(50):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged.tobytes())
        assert str(tmp_path / "student") in (message := refused(experiment, tmp_path)) and "\n" not in message


def test_a_run_that_goes_on_needs_its_start_no_more(ce, tmp_path):
    """Protects resume: the folder it started from may be gone, and the result is that of a run never cut."""
    shutil.copytree(ce, tmp_path / "start")
    fields = {"init_from": str(tmp_path / "start"), "optim.schedule": "constant"}
    train.run(tiny.config(CE, fields | {"train.epochs": 2}), tmp_path / "whole", quiet=True)
    train.run(tiny.config(CE, fields), tmp_path / "cut", quiet=True)
    shutil.rmtree(tmp_path / "start")
    train.run(tiny.config(CE, fields | {"train.epochs": 2}), tmp_path / "cut", quiet=True)
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 2
    assert_same(exported(tmp_path / "cut" / "student"), exported(tmp_path / "whole" / "student"))


def test_an_average_starts_from_the_same_weights(ce, tmp_path):
    """Protects the averaged weights, which are the ones evaluated: they begin at the start too; and what an averaged
    run exports, its average, is what the next one takes."""
    nets, _ = started(made(f"{CE},ema=0.9,seed=1,splits={ce}/noise.npz"), ce)
    assert_same(leaves(nets["student"].ema), exported(ce / "student"))
    assert_same(variables(nets["student"]), exported(ce / "student"))
    train.run(tiny.config(f"{CE},ema=0.9,init_from={ce}"), tmp_path / "averaged", quiet=True)
    nets, _ = started(made(CE), tmp_path / "averaged")
    assert nets["student"].ema is None
    assert_same(variables(nets["student"]), exported(tmp_path / "averaged" / "student"))


def test_weights_that_have_seen_other_splits(ce, tmp_path):
    """Protects validation figures and labels from leaking in through weights: images that were trusted there and are
    noisy here, or that were trained on there and validate here, are refused before anything is written."""
    config = tiny.config(f"{CE},seed=1", {"init_from": str(ce)})
    with pytest.raises(UserError, match=rf"init_from: \d+ images were trusted there and noisy here; .*{ce}/noise.npz"):
        train.run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_network_that_purifying_needs(ce):
    """Protects DMLP from features of a random network: it needs a start for each of its networks."""
    message = refused(made(f"method=dmlp,{NETS},init_from=x"), ce)
    assert message == f"init_from: {ce} has student (mlp4), expected teacher (mlp6) among them"


def test_the_start_is_noted(ce, tmp_path):
    """Protects the record: a run's summary says what its networks started from."""
    summary = train.run(tiny.config(CE, {"init_from": str(ce)}), tmp_path / "run", quiet=True)
    assert summary["notes"] == [f"student (mlp4) starts from {ce}/student"]
