"""What a run says while it trains: one strict line an epoch in a file, one for the person, and an honest rate."""

import json
import struct

import pytest

from kdmlc_jax import writers

ROW = {"epoch": 2, "stage": "correct", "step": 10, "loss": 0.5, "student_test": 0.75, "teacher_test": 0.5}


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    now = [100.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
    return now


def reporter(path, history=(), quiet=False):
    return writers.Reporter(path / "metrics.jsonl", list(history), 20, 50, "title", quiet)


def test_rows_are_lines_and_history_is_kept(tmp_path):
    """Protects metrics.jsonl across a resume: it begins with the epochs that the checkpoint knows, and no other."""
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2, "from": "a run that was cut"}\n')
    made = reporter(tmp_path, [{"epoch": 1}], quiet=True)
    made.epoch(ROW)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [{"epoch": 1}, ROW]
    made.close()


def test_the_rate_counts_steps_only(tmp_path, clock):
    """Protects images a second: the first step of a stage, which compiles, and evaluations are left out."""
    made = reporter(tmp_path, quiet=True)
    assert made.rate() == 0.0
    for seconds, step, count in ((30.0, 1, 1), (2.0, 2, 1), (3.0, 4, 2)):
        clock[0] += seconds
        made.step(step, count)
    made.pause()
    clock[0] += 60.0
    made.step(5)
    assert made.rate() == pytest.approx(3 * 50 / 5.0)
    made.close()


def test_a_line_for_the_person(tmp_path, clock, capsys):
    """Protects who waits: stage, loss, accuracies, rate and the time that is left; nothing where quiet was asked."""
    for quiet in (False, True):
        made = reporter(tmp_path, quiet=quiet)
        made.step(9)
        clock[0] += 2.0
        made.step(10)
        made.epoch(ROW)
        made.close()
    line = "title  epoch   2  correct  loss 0.500  test: student 0.750  teacher 0.500  25 images/s  0:20 left"
    assert capsys.readouterr().err == line + "\n"


def test_what_is_left_covers_the_runs_that_follow(tmp_path, clock, capsys):
    """Protects who waits from a time that is only the first run's: 40 more steps are said to be at most 80 s more."""
    made = writers.Reporter(tmp_path / "metrics.jsonl", [], 20, 50, "title", False, 40)
    made.step(9)
    clock[0] += 2.0
    made.step(10)
    made.epoch(ROW)
    made.close()
    assert capsys.readouterr().err.endswith("25 images/s  1:40 left, at most, with the runs that follow\n")


def test_compiling_is_said(tmp_path, clock, capsys):
    """Protects who waits for the first step: that it compiles, and how long it took where it took long."""
    made = reporter(tmp_path)
    for seconds in (40.0, 1.0):
        made.compiling()
        clock[0] += seconds
        made.step(1)
    made.close()
    said = capsys.readouterr().err.splitlines()
    assert ["compiling;" in line for line in said] == [True, False, True] and said[1] == "title  compiled in 40 s"
    assert made.rate() == 0.0


@pytest.mark.parametrize(
    "row, text",
    [
        ({"student_test": 0.5, "student_validation_given": 0.1}, "  test: student 0.500"),
        ({"student_validation_given": 0.1, "loss": 3.0}, "  validation, given labels: student 0.100"),
        ({"loss": 3.0}, ""),
    ],
)
def test_scores(row, text):
    """Protects sets without a test split: agreement with the validation labels stands in, and is called that."""
    assert writers.scores(row) == text and writers.minutes(63.2) == "1:03"


def scalars(folder):
    """(step, {name: value}) of all events in the files of a folder, in the order of writing; where a file says so, what
    is of later steps in those before it does not count."""
    event = pytest.importorskip("tensorboardX.proto.event_pb2").Event
    found = []
    for path in sorted(folder.iterdir()):
        raw, at = path.read_bytes(), 0
        while at < len(raw):
            (size,) = struct.unpack_from("<Q", raw, at)
            one, at = event.FromString(raw[at + 12 : at + 12 + size]), at + 16 + size
            if one.session_log.status == 1:
                found = [row for row in found if row[0] < one.step]
            elif one.summary.value:
                found += [(one.step, {value.tag: value.simple_value for value in one.summary.value})]
    return found


def test_tensorboard_sees_the_same_figures(tmp_path):
    """Protects who watches by TensorBoard: each epoch's figures at its step, once, of a run that was cut too; and no
    folder for who has not asked."""
    pytest.importorskip("tensorboardX")
    reporter(tmp_path, quiet=True).close()
    assert not (tmp_path / writers.EVENTS).exists()
    first = ROW | {"epoch": 1, "step": 5, "student_validation_given": None}
    for history, rows in (([], [first, ROW | {"loss": 9.0}]), ([first], [ROW])):
        made = writers.Reporter(tmp_path / "metrics.jsonl", history, 20, 50, "title", True, tensorboard=True)
        for row in rows:
            made.epoch(row)
        made.close()
    figures = ("loss", "student_test", "teacher_test")
    assert scalars(tmp_path / writers.EVENTS) == [
        (row["step"], {name: row[name]}) for row in (first, ROW) for name in figures
    ]
