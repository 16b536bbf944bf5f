"""Plain KD by hand, and a teacher that another run has trained, for it and for AML-KD."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
from flax import serialization

from kdmlc_jax import methods, train
from kdmlc_jax import train_state as state_lib
from kdmlc_jax.errors import UserError
from kdmlc_jax.methods.base import Info
from kdmlc_jax.storage import files

NETS = "teacher=mlp3,student=mlp2"
CLASSES, SHAPE = 3, (4, 4, 1)
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=60, num_trusted=0)
RNG = np.random.default_rng(0)
GIVEN = (np.arange(60) % CLASSES).astype(np.int32)


def test_kd_by_hand():
    """Protects plain KD: CE on the given label and .9 τ² KL at τ = 4, and stage 1 is CE on the teacher alone."""
    method = methods.get("kd").make(tiny.config(f"method=kd,{NETS}"), INFO)
    state = method.init(jax.random.key(0), jnp.zeros((2, *SHAPE)))
    stages = {stage.name: stage.step for stage in method.stages}
    images = jnp.asarray(RNG.normal(size=(8, *SHAPE)), jnp.float32)
    batch = {"image": images, "label": jnp.asarray(GIVEN[:8]), "index": jnp.arange(8), "epoch": jnp.int32(0)}
    batch["soft_label"] = jnp.full((8, CLASSES), 1 / CLASSES)  # of another run's beliefs only ce makes use
    logits = {
        name: state_lib.train_forward(net, net.params, images)[0].logits
        for name, net in (("teacher", state.teacher), ("student", state.student))
    }
    each = {name: -np.asarray(jax.nn.log_softmax(z))[np.arange(8), GIVEN[:8]] for name, z in logits.items()}
    new, metrics = stages["teacher"](state, batch, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(each["teacher"].mean(), rel=1e-5)
    assert new.student is state.student
    followed, warm = (
        jax.nn.log_softmax(z / 4) for z in (state_lib.evaluate(state.teacher, images).logits, logits["student"])
    )
    want = each["student"].mean() + 0.9 * 16 * np.mean(np.sum(np.exp(followed) * (followed - warm), axis=1))
    _, metrics = stages["student"](state, batch, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(float(want), rel=1e-4)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a finished run that has trained the teacher's network."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train.run(tiny.config(f"{NETS},method=ce,network=teacher,epochs=1"), folder, quiet=True)
    return folder


@pytest.mark.parametrize("method", ["kd", "aml_kd"])
def test_teacher_from_another_run(teacher, tmp_path, method):
    """Protects `teacher.run`: the teacher at the end is that run's to the bit, no stage has trained it, and the summary
    names it; the table has what the method holds of each image."""
    more = ",neighbours=5,epochs=2" if method == "aml_kd" else ",epochs=1"
    summary = train.run(
        tiny.config(f"{NETS},method={method},teacher_run={teacher}{more}"), tmp_path / "run", quiet=True
    )
    one, two = (
        serialization.msgpack_restore((folder / "teacher" / "weights.msgpack").read_bytes())
        for folder in (teacher, tmp_path / "run")
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
    assert summary["notes"][0] == f"teacher (mlp3) is that of {teacher / 'teacher'}"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == ({"propagate", "mutual"} if method == "aml_kd" else {"student"})
    columns = set(pq.read_table(tmp_path / "run" / "labels.parquet").column_names)
    assert (method == "aml_kd") == ({"refined_label", "ambiguity", "seed"} <= columns)


def test_teachers_that_do_not_fit(teacher, tmp_path):
    """Protects against a random network in the teacher's place: all but the right one is refused, before training."""
    absent = tmp_path / "absent"

    def refused(arguments):
        with pytest.raises(UserError) as caught:
            train.run(tiny.config(f"{NETS},{arguments}"), tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    assert refused(f"method=kd,teacher_run={absent}") == (
        f"teacher.run: {absent} is no folder, expected that of a finished run"
    )
    got = refused(f"method=kd,teacher_run={teacher},teacher=mlp4")
    assert got == f"teacher.run: {teacher} has teacher (mlp3), expected teacher (mlp4) among them"
    assert refused(f"method=ce,teacher_run={teacher}") == ("teacher.run: ce takes no trained teacher, expected none")
    sized = tmp_path / "sized"
    shutil.copytree(teacher, sized)
    path = sized / "teacher" / "network.json"
    about = files.read_sealed(path, "")
    files.write_sealed(path, about | {"image_shape": [4, 16, 1]})
    assert refused(f"method=kd,teacher_run={sized}") == (
        f"teacher.run: {sized / 'teacher'} sees images [4, 16, 1], not [8, 8, 1]"
    )
    files.write_sealed(path, about | {"image_shape": [9, 9, 1]})
    assert "is (64, 3), expected (81, 3) in mlp3" in refused(f"method=kd,teacher_run={sized}")
    assert refused(f"method=kd,teacher_run={teacher},rate=0.1") == (
        f"teacher.run: {teacher} has learned from other given labels, expected those of this run's images"
    )
    assert "were trained on there and for validation" in refused(f"method=kd,teacher_run={teacher},validation=60")
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    about = files.read_sealed(other / "teacher" / "network.json", "")
    about["class_names"][0] = "zero"
    files.write_sealed(other / "teacher" / "network.json", about)
    assert refused(f"method=kd,teacher_run={other}").startswith(
        f"teacher.run: {other / 'teacher'} knows other classes, expected 0, 1, 2"
    )


def test_teacher_beside_a_start(teacher, tmp_path):
    """Protects both fields together: the student starts from one run, the teacher is that of the other."""
    train.run(tiny.config(f"{NETS},method=ce,epochs=1"), tmp_path / "student", quiet=True)
    fields = {"init_from": str(tmp_path / "student"), "teacher.run": str(teacher), "train.epochs": 1}
    notes = train.run(tiny.config(f"{NETS},method=kd", fields), tmp_path / "run", quiet=True)["notes"]
    assert notes == [
        f"student (mlp2) starts from {tmp_path / 'student' / 'student'}",
        f"teacher (mlp3) is that of {teacher / 'teacher'}",
    ]


def test_more_epochs_are_the_student_s(teacher, tmp_path):
    """Protects a run that goes on with more epochs: its teacher has had its own, the student gets those asked for."""
    train.run(tiny.config(f"{NETS},method=kd,epochs=1"), tmp_path, quiet=True)
    train.run(tiny.config(f"{NETS},method=kd,epochs=2"), tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["teacher", "student", "student"]
