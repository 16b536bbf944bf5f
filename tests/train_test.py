"""The host loop on tiny runs: resume, seeds, non-finite training, what a run leaves behind, bad input."""

import json
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy
from flax import serialization
from pyarrow import parquet

from kdmlc_jax import config as config_lib
from kdmlc_jax import export, optim, parallel, train
from kdmlc_jax.data import provenance
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.data.provenance import Provenance
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.errors import NonFiniteError, UserError
from kdmlc_jax.experiment import Experiment
from kdmlc_jax.labels import table as labels
from kdmlc_jax.storage.checkpoint import Checkpoints

# The keys that other programs may count on.
SUMMARY = {"method", "dataset", "seed", "versions", "device", "noise", "networks", "labels", "seconds"}
SUMMARY |= {"images_per_second"}
NETWORK = {"name", "parameters", "last", "last5", "best_val", "best_test"}
NETS = "teacher=mlp8,student=mlp6"
CE = f"method=ce,{NETS}"
LABELS = {"accuracy_before", "accuracy_after", "flagged", "precision", "recall", "f1", "auroc"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny KDMLC run, without what takes long to compile: its config, its workdir and its summary."""
    config, workdir = tiny.config(f"{NETS},bilevel=off,teacher_mixup=0"), tmp_path_factory.mktemp("run") / "work"
    return config, workdir, train.run(config, workdir, quiet=True)


def cut(monkeypatch, epoch):
    """Makes the evaluation of `epoch` (from 1) end the program as Ctrl-C does."""
    evaluate, calls = train.Experiment.evaluate, []

    def evaluate_or_end(job, current):
        calls.append(1)
        if len(calls) == epoch:
            raise KeyboardInterrupt
        return evaluate(job, current)

    monkeypatch.setattr(train.Experiment, "evaluate", evaluate_or_end)


def test_cut_and_resumed_equals_uninterrupted(finished, tmp_path):
    """Protects resume of a real method in the first epoch of a stage: all results agree to the bit; `resume_test` has
    every cut."""
    config, straight, _ = finished
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train.run(config, tmp_path, quiet=True)
    assert not (tmp_path / "summary.json").exists()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    train.run(config, tmp_path, quiet=True)
    for name in ("metrics.jsonl", "labels.csv", "student/weights.msgpack", "student/network.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (straight / name).read_bytes(), name
    assert parquet.read_table(tmp_path / "labels.parquet") == parquet.read_table(straight / "labels.parquet")
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (straight, tmp_path))
    for key in ("networks", "labels", "noise", "options"):
        assert one[key] == other[key], key


def test_same_seed_same_bits_other_seed_other_bits(tmp_path):
    """Protects reproducibility: a second run has the same weights to the bit, another seed has not."""
    runs = {"one": "seed=0", "again": "seed=0", "other": "seed=1"}
    for name, seed in runs.items():
        train.run(tiny.config(f"{CE},epochs=1,{seed}"), tmp_path / name, quiet=True)
    one, again, other = ((tmp_path / name / "student" / "weights.msgpack").read_bytes() for name in runs)
    assert one == again != other


def test_finished_run_is_read_not_trained(finished, monkeypatch):
    """Protects a finished run: a second call returns its summary and trains nothing."""
    config, workdir, summary = finished
    monkeypatch.setattr(train, "Experiment", None)
    assert train.run(config, workdir) == summary


def test_other_config_in_the_same_workdir_is_refused(finished):
    """Protects a finished run from another config: the error names the field and both values."""
    _, workdir, _ = finished
    with pytest.raises(UserError, match=r"holds a run with seed=0, not 1"):
        train.run(tiny.config(f"{NETS},bilevel=off,teacher_mixup=0,seed=1"), workdir)


def test_huge_learning_rate_is_reported(tmp_path):
    """Protects a person from a diverged run: the error names step and epoch, and no result is written."""
    config = tiny.config(f"{CE},epochs=1,lr=1e30")
    with pytest.raises(NonFiniteError, match=r"step \d: .* in epoch 1 \(stage train\)"):
        train.run(config, tmp_path, quiet=True)
    assert not any((tmp_path / name).exists() for name in ("summary.json", "labels.csv", "labels.parquet", "student"))


@pytest.mark.parametrize("bad_step", [tiny.STEPS + 1, 2 * tiny.STEPS - 1])
def test_last_good_checkpoint_survives(tmp_path, monkeypatch, bad_step):
    """Protects the state before a blow-up, also where the last update of an epoch does it: no bad state is saved."""
    config = tiny.config(CE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim, "schedule", lambda *_: lambda step: jnp.where(step == bad_step, jnp.inf, 0.1))
        with pytest.raises(NonFiniteError, match=rf"step {bad_step}: .* in epoch 2"):
            train.run(config, tmp_path, quiet=True)
    job = Experiment(config, prepare(config))
    checkpoints = Checkpoints(tmp_path / "checkpoints", config.checkpoint.keep)
    carry, progress = checkpoints.restore(job.init())
    checkpoints.close()
    assert len(progress["history"]) == 1 and int(carry["step"]) == tiny.STEPS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(carry["method"]))
    assert not (tmp_path / "summary.json").exists() and not (tmp_path / "labels.csv").exists()
    train.run(config, tmp_path, quiet=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_non_finite_state_with_finite_losses_is_reported(tmp_path, monkeypatch):
    """Protects the exported network: the very last update, after which no loss is looked at, is checked too."""
    monkeypatch.setattr(optim, "schedule", lambda *_: lambda step: jnp.where(step == tiny.STEPS - 1, jnp.inf, 0.1))
    with pytest.raises(NonFiniteError, match=r"step 4: .* in epoch 1"):
        train.run(tiny.config(f"{CE},epochs=1"), tmp_path, quiet=True)
    assert not (tmp_path / "student").exists()


def test_summary_has_the_written_schema(finished):
    """Protects programs that read summary.json: keys as designed, accuracies as fractions, no NaN."""
    config, workdir, returned = finished
    summary = json.loads((workdir / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary == returned
    assert summary.keys() >= SUMMARY
    assert (summary["method"], summary["dataset"], summary["seed"]) == ("kdmlc", "digits", 0)
    assert summary["options"] == config.method.to_dict()
    assert summary["noise"].keys() >= {"kind", "nominal", "realised", "estimated"}
    assert summary["noise"]["kind"] == "uniform" and summary["noise"]["nominal"] == 0.6
    assert summary["networks"].keys() == {"student", "teacher"}
    for name, net in summary["networks"].items():
        assert net.keys() >= NETWORK and net["name"] == config[name].net and net["parameters"] > 0
        fractions = [net[key] for key in ("last", "last5", "best_val", "best_test")]
        assert all(0 <= value <= 1 for value in fractions) and max(fractions) == net["best_test"]
    assert summary["labels"].keys() >= LABELS
    assert all(0 <= summary["labels"][key] <= 1 for key in LABELS - {"flagged"} if summary["labels"][key] is not None)
    assert summary["seconds"] > 0 and summary["images_per_second"] > 0
    assert summary["versions"]["jax"] == jax.__version__


def test_method_without_a_teacher_has_no_teacher_entry(tmp_path):
    """Protects the schema of plain methods: no teacher, no best_val without a validation split, and for an estimated
    rate the share of labels that are flagged."""
    summary = train.run(tiny.config(f"{CE},validation=0"), tmp_path, quiet=True)
    assert summary["networks"].keys() == {"student"}
    assert summary["noise"]["estimated"] == summary["labels"]["flagged"] / summary["data"]["noisy"]
    assert summary["networks"]["student"]["best_val"] is None


def test_metrics_have_one_line_an_epoch(finished):
    """Protects metrics.jsonl: one strict JSON object an epoch with stage, step and the accuracies of the summary."""
    _, workdir, summary = finished
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["stage"] for row in rows] == ["warm_up", "correct", "correct"]
    assert [row["step"] for row in rows] == [tiny.STEPS * epoch for epoch in (1, 2, 3)]
    for name, net in summary["networks"].items():
        tests = [row[f"{name}_test"] for row in rows]
        assert net["last"] == tests[-1] and net["best_test"] == max(tests)
        assert net["last5"] == pytest.approx(np.mean(tests))
        chosen = int(np.argmax([row[f"{name}_validation_given"] for row in rows]))
        assert net["best_val"] == tests[chosen]


def test_label_table_covers_every_training_image(finished):
    """Protects the label table: one row an image of the three splits, trusted labels kept with full confidence."""
    config, workdir, summary = finished
    table = parquet.read_table(workdir / "labels.parquet")
    assert tuple(table.column_names) == (*labels.COLUMNS, "given_class", "corrected_class", "suggested_class")
    column = {name: np.array(values) for name, values in table.to_pydict().items()}
    assert {name: int((column["split"] == name).sum()) for name in ("noisy", "trusted", "validation")} == {
        "noisy": 200,
        "trusted": 100,
        "validation": 20,
    }
    assert len(column["id"]) == len(set(column["id"])) == 320
    dataset = prepare(config)
    np.testing.assert_array_equal(column["given_label"], dataset.given_label[column["id"]])
    trusted = column["split"] == "trusted"
    np.testing.assert_array_equal(column["corrected_label"][trusted], dataset.truth[column["id"][trusted]])
    assert (column["confidence"][trusted] == 1).all() and not column["is_label_issue"][trusted].any()
    noisy = column["split"] == "noisy"
    right = column["corrected_label"][noisy] == dataset.truth[column["id"][noisy]]
    assert summary["labels"]["accuracy_after"] == pytest.approx(right.mean())
    assert summary["labels"]["flagged"] == column["is_label_issue"][noisy].sum()


def test_noise_file_holds_what_was_trained_on(finished):
    """Protects noise.npz: splits, labels, rate and matrix of the data set that the config gives again."""
    config, workdir, summary = finished
    kept, dataset = provenance.load(workdir / "noise.npz"), prepare(config)
    for mine, theirs in zip(kept.splits, dataset.splits, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(kept.given_labels, dataset.given_label)
    np.testing.assert_array_equal(kept.realised_matrix, dataset.matrix)
    assert kept.realised_rate == dataset.rate == summary["noise"]["realised"]


def test_workdir_holds_no_leftovers(finished):
    """Protects the layout of a run's folder: the designed files, and no temporary ones."""
    _, workdir, _ = finished
    names = {path.name for path in workdir.iterdir()}
    assert names >= {"config.json", "noise.npz", "metrics.jsonl", "checkpoints", "labels.csv", "student"}
    assert not [name for name in names if name.startswith(".") or name.endswith(".part")]
    assert config_lib.read(workdir / "config.json") == finished[0]


def test_exported_network_has_the_reported_accuracy(finished):
    """Protects the deployed weights: loaded from the folder alone they give the accuracy of the summary."""
    config, workdir, summary = finished
    dataset = prepare(config)
    probability = export.load(workdir / "student")(dataset.test_images)
    assert probability.shape == (len(dataset.test_label), 10) and probability.dtype == np.float32
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5)
    accuracy = np.mean(probability.argmax(axis=1) == dataset.test_label)
    assert accuracy == pytest.approx(summary["networks"]["student"]["last"], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"images": "x"}, "images or classes"),
        ({"given_labels": np.zeros(3, np.int32)}, "given labels"),
        ({"splits": Splits(np.array([0, 1]), np.array([2]), np.array([], int))}, "splits"),
        ({"learned": "0a"}, "data.labels or data.features"),
    ],
)
def test_a_cut_run_refuses_other_data(tmp_path, change, what):
    """Protects a run from files that changed since it began: it would train on its own validation images."""
    parts = Splits(np.array([0]), np.array([1]), np.array([2]))
    begun = Provenance(parts, np.arange(3, dtype=np.int32), None, None, np.arange(3, dtype=np.int32), "a", "")
    assert provenance.begun(tmp_path) == {}
    provenance.save(tmp_path / "noise.npz", begun)
    kept = provenance.begun(tmp_path)
    assert kept == provenance.digests(begun)
    provenance.check_same(kept, {}, tmp_path)
    with pytest.raises(UserError, match=f"holds a run that began with other {what}: choose another --workdir"):
        provenance.check_same(provenance.digests(begun._replace(**change)), kept, tmp_path)


# What the data say of a config.
BAD_DATA = [
    ({"train.batch_size": 201}, ["train.batch_size", "201", "[1, 200]"]),
    ({"train.batch_size": 0}, ["train.batch_size", "0", "[1, 200]"]),
    ({"augment.pad": 8}, ["augment.pad", "8", "[0, 7]"]),
    ({"augment.cutout": 9}, ["augment.cutout", "9", "[0, 8]"]),
    ({"data.source": "fashion_mnist", "data.dir": "no/such/folder"}, ["data.dir", "no/such/folder", "directory"]),
    ({"data.source": "digit"}, ["data.source", '"digit"', '"digits"']),
    ({"data.trusted": 5000}, ["data.trusted", "5000", "10 to 1436"]),
    ({"data.noisy": 5000}, ["data.noisy", "5000", "0 to 1317"]),
    ({"data.validation": -1}, ["data.validation", "-1", "0 to"]),
    ({"noise.rate": 1.5}, ["noise.rate", "1.5", "[0, 1]"]),
    ({"noise.rate": -0.1}, ["noise.rate", "-0.1", "[0, 1]"]),
    ({"noise.rate": math.nan}, ["noise.rate", "nan", "[0, 1]"]),
    ({"noise.kind": "unifrom"}, ["noise.kind", '"unifrom"', '"uniform"']),
    ({"seed": -1}, ["seed", "-1", "0 or more"]),
]
# What method, devices and networks say.
BAD_EXPERIMENT = [
    ({"parallel.model": 3, "parallel.sharding": "fsdp"}, ["parallel.model", "3", "1 devices"]),
    ({"data.trusted": 0}, ["data.trusted", "no trusted images", "kdmlc"]),
    ({"devices": 3}, ["train.batch_size", "40", "multiple of 3"]),
    ({"train.trusted_batch_size": 101}, ["train.trusted_batch_size", "101", "[1, 100]"]),
    ({"train.trusted_batch_size": 1}, ["train.trusted_batch_size", "1", "[2, "]),
    ({"teacher.net": "cnn0"}, ["teacher.net", '"cnn0"', "resnet20"]),
    ({"student.net": "resnet21"}, ["student.net", '"resnet21"', "resnet20"]),
    ({"optim.name": "sdg"}, ["optim.name", '"sdg"', '"sgd"']),
    ({"optim.schedule": "cos"}, ["optim.schedule", '"cos"', "cosine"]),
    ({"method.form": "resdual"}, ["method.form", '"resdual"', '"residual"']),
    ({"method.bilevel": "on"}, ["method.bilevel", '"on"', "off, joint, normalised, separate"]),
    ({"method.pairs": "fake"}, ["method.pairs", '"fake"', "estimated, real"]),
    ({"method.kd_weight": 1.5}, ["method.kd_weight", "1.5", "[0, 1]"]),
    ({"method.temperature": 0.0}, ["method.temperature", "0.0", "[0.001, "]),
    ({"method.ema": math.nan}, ["method.ema", "nan", "[0, 1]"]),
    ({"method.warm_up": 3}, ["method.warm_up", "3", "[0, 2]"]),
    ({"method.corrector_lr": -1.0}, ["method.corrector_lr", "-1.0", "[0, "]),
    ({"devices": 99}, ["devices", "99", "[0, 4]"]),
    ({"deploy": "best_val", "data.validation": 0}, ["deploy", "best_val", "data.validation", "expected last"]),
]


def refused(error, words):
    """One line with all the words."""
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def ids(value):
    return str(value) if isinstance(value, dict) else ""


@pytest.mark.parametrize("fields, words", BAD_DATA, ids=ids)
def test_bad_data_are_refused(fields, words):
    """Protects the user: one line naming field, value and range."""
    with pytest.raises(UserError) as error:
        prepare(tiny.config(fields=fields))
    refused(error, words)


@cache
def dataset(validation=20):
    return prepare(tiny.config(f"validation={validation}"))


@pytest.mark.parametrize("fields, words", BAD_EXPERIMENT, ids=ids)
def test_bad_experiments_are_refused(fields, words):
    """Protects the user: one line naming field, value and range, before anything is compiled."""
    data = dataset(fields.get("data.validation", 20))
    if fields.get("data.trusted") == 0:
        data = data._replace(splits=data.splits._replace(trusted=np.zeros(0, int)))
    with pytest.raises(UserError) as error:
        Experiment(tiny.config(fields=fields), data)
    refused(error, words)


@pytest.mark.parametrize("fields", [{"train.epochs": 0}, {"data.trusted": 5000}, {"method.form": "resdual"}])
def test_bad_input_is_refused_before_anything_is_written(tmp_path, fields):
    """Protects from a folder that looks like a run, whether fields, data or method refuse."""
    with pytest.raises(UserError, match=next(iter(fields))):
        train.run(tiny.config(fields=fields), tmp_path / "work", quiet=True)
    assert not (tmp_path / "work").exists()


def test_missing_data_folder_is_named(tmp_path, monkeypatch):
    """Protects a newcomer without data: the error says which setting would name the folder."""
    monkeypatch.delenv("KDMLC_DATA", raising=False)
    with pytest.raises(UserError, match=r"data\.dir is empty.*KDMLC_DATA"):
        train.run(tiny.config(fields={"data.source": "fashion_mnist"}), tmp_path / "work", quiet=True)
    assert not (tmp_path / "work").exists()


def test_workdir_under_a_file_is_refused(tmp_path):
    """Protects a mistyped --workdir: a known error naming the folder, before training."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"work: cannot be created \(Not a directory\)"):
        train.run(tiny.config(f"{CE},epochs=1"), tmp_path / "file" / "work", quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


VALIDATION = [0.2, 0.9, 0.9]


def test_deploy_the_best_epoch(tmp_path, monkeypatch):
    """Protects `deploy=best_val`: networks and labels are those of the epoch that was best on validation (the first of
    equals), which is kept however seldom the run saves; summary.json says so; told otherwise, the same run is finished
    again with its last epoch."""
    weights, evaluate = [], Experiment.evaluate

    def look(experiment, state):
        weights.append(jax.tree.map(np.array, state.params))
        return evaluate(experiment, state) | {"student_validation_given": VALIDATION[len(weights) - 1]}

    monkeypatch.setattr(Experiment, "evaluate", look)
    fields = {"deploy": "best_val", "checkpoint.every": 100, "checkpoint.keep": 1}

    def left():
        saved = serialization.msgpack_restore((tmp_path / "student" / "weights.msgpack").read_bytes())
        return saved["params"], np.load(tmp_path / "soft_labels.npy")

    summary = train.run(tiny.config(CE, fields), tmp_path, quiet=True)
    assert summary["deploy"] == "best_val" and summary["networks"]["student"]["epoch"] == 2
    best, best_labels = left()
    jax.tree.map(np.testing.assert_array_equal, best, weights[1])
    summary = train.run(tiny.config(CE, {**fields, "deploy": "last"}), tmp_path, quiet=True)
    assert summary["deploy"] == "last" and summary["networks"]["student"]["epoch"] == 3 and len(weights) == 3
    last, last_labels = left()
    jax.tree.map(np.testing.assert_array_equal, last, weights[2])
    assert (best_labels != last_labels).any()


def test_processes_compare_what_a_stage_has_decided(tmp_path, monkeypatch):
    """Protects several processes from training on different labels: all that `begin` has changed is compared, and
    nothing else; what differs ends the run."""
    seen = []

    def compare(tree, what):
        seen.append((sorted(tree), what))
        raise UserError(f"{what}: .labels.rows is not the same in all 2 processes")

    toy.install(monkeypatch)
    monkeypatch.setattr(parallel, "assert_same", compare)
    with pytest.raises(UserError, match="the beginning of stage second"):
        train.run(toy.config(), tmp_path, quiet=True)
    assert seen == [([".begun", ".labels.rows"], "the beginning of stage second")]
