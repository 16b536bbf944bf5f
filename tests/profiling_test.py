"""`main --profile`: where a step's time goes, with nothing trained."""

import pytest
import tiny

from kdmlc_jax import main
from kdmlc_jax.errors import UserError


def test_dearest_operations_of_a_step(tmp_path, capsys):
    """Protects the table of what a step costs: ten operations of the correction stage, the dearest first, named by the
    layer that they come from; a trace, and no other file."""
    main.main(["--config", tiny.SPEC, *tiny.FLAGS, "--workdir", str(tmp_path / "run"), "--profile"])
    head, _, *rows, trace = capsys.readouterr().out.strip().split("\n")
    assert "stage correct: " in head and len(rows) == 10
    spent = [float(row.split()[0]) for row in rows]
    assert spent == sorted(spent, reverse=True) and spent[-1] > 0
    assert any("jit(step)/" in row for row in rows)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["profile"]
    assert trace.partition(": ")[2].startswith(str(tmp_path / "run" / "profile"))


def test_of_one_process(tmp_path, monkeypatch):
    """Protects from a trace that shows a part: several processes are refused in one line, and nothing is made."""
    monkeypatch.setattr("kdmlc_jax.parallel.alone", lambda: False)
    with pytest.raises(UserError, match="--profile: several processes, expected one"):
        main.main(["--config", tiny.SPEC, *tiny.FLAGS, "--workdir", str(tmp_path / "run"), "--profile"])
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_trained_on_leave_nothing(tmp_path):
    """Protects from a folder of a run that never was: input is looked at first."""
    with pytest.raises(UserError, match="no/such"):
        main.main(["--config", "configs/folder.py:dir=no/such", "--workdir", str(tmp_path / "run"), "--profile"])
    assert not (tmp_path / "run").exists()
