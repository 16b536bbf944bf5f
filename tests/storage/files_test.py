"""Files: whole or not there, and one line where the disk refuses."""

import errno
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.storage import files


def test_a_reader_never_sees_half_a_file(tmp_path):
    """Protects who reads while it is written: until the end there is the old file, then the new one, and no remains."""
    path = tmp_path / "summary.json"
    path.write_text("old")
    with files.atomic_write(path) as file:
        file.write(b"ne")
        file.flush()
        assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
        file.write(b"w")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_old_file(tmp_path):
    """Protects a finished file from an error in the middle of its successor."""
    path = tmp_path / "summary.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_write(path) as file:
        file.write(b"half")
        file.write(b"%d" % (1 // 0))
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"loss": float("nan")})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_write_is_durable_before_it_is_visible(tmp_path, monkeypatch):
    """Protects against power cuts: the bytes are on the disk before the name is theirs."""
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths))[1])
    files.write_text(tmp_path / "a", "text")
    assert order == ["fsync", "replace"] and (tmp_path / "a").read_text() == "text"


def test_a_disk_that_refuses_is_one_line(tmp_path, monkeypatch):
    """Protects a person from a stack of errors: the file and the system's word, and no remains."""

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a: cannot be written \(No space left on device\)"):
        files.write_text(tmp_path / "a", "text")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/folder: cannot be created \(Not a directory\)"):
        files.make_directory(tmp_path / "file" / "folder")


def test_tables_and_json_are_what_other_programs_read(tmp_path):
    """Protects readers: text with commas comes back from CSV, JSON is indented, and an empty table is no file."""
    files.write_csv(tmp_path / "bad.csv", ("image", "reason"), [("a,b.png", 'says "no"')])
    assert (tmp_path / "bad.csv").read_text() == 'image,reason\n"a,b.png","says ""no"""\n'
    files.write_csv(tmp_path / "none.csv", ("image", "reason"), [])
    assert not (tmp_path / "none.csv").exists()
    files.write_json(tmp_path / "a.json", {"rate": 0.5})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"rate": 0.5} and text.endswith("}\n") and "\n  " in text


def test_a_folder_has_one_writer(tmp_path):
    """Protects a folder from two runs: the second is told who holds it, a dead one's lock is open, and it waits for
    nobody."""
    workdir = tmp_path / "work"
    script = (
        "import sys, pathlib, kdmlc_jax.storage.files as f\n"
        "with f.locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(workdir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"work is in use by process {other.pid} on "), files.locked(workdir):
            pass
        other.kill()
    with files.locked(workdir):
        pass


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    """Protects the file that a link called lock points to: it was emptied."""
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "lock").symlink_to(tmp_path / "notes")
    with (
        pytest.raises(StorageError, match=r"cannot be locked .*lock is a symbolic link"),
        files.locked(tmp_path / "work"),
    ):
        pass
    assert (tmp_path / "notes").read_text() == "mine"


def test_what_a_kill_has_left_is_removed(tmp_path):
    """Protects a folder from filling up: half files of a dead process go at the next start, a person's own stay."""
    script = (
        "import os, sys, pathlib, kdmlc_jax.storage.files as f\n"
        "with f.atomic_write(pathlib.Path(sys.argv[1])) as file:\n"
        "  file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    (tmp_path / "student").mkdir()
    (tmp_path / ".notes").write_text("mine")
    for name in ("labels.csv", "student/network.json"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=False)
    assert len([*tmp_path.rglob(".*.writing")]) == 2
    with files.locked(tmp_path):
        assert {path.name for path in tmp_path.rglob("*")} == {".notes", "student", "lock"}


def test_json_that_is_not_what_was_written(tmp_path):
    """Protects figures and configs: any other value is noticed, other spaces are not; a file without a sum is read."""
    path = tmp_path / "a.json"
    written = files.write_sealed(path, {"rate": 0.5, "names": ("a", "b"), "1": None})
    assert files.read_sealed(path, "x") == {"rate": 0.5, "names": ["a", "b"], "1": None}
    assert json.loads(path.read_text()) == written
    path.write_text(json.dumps(written))
    files.read_sealed(path, "x")
    for change in ({"rate": 0.25}, {"more": 1}, {"sha256": "0"}):
        path.write_text(json.dumps(written | change))
        with pytest.raises(StorageError, match=r"a\.json: cannot be read as x \(not what was written"):
            files.read_sealed(path, "x")
    for text in ("", "{", "[]", "null", "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(StorageError, match=r"a\.json: cannot be read as x \("):
            files.read_sealed(path, "x")
    path.write_text('{"rate": 1}')
    with pytest.raises(StorageError, match=r"not what was written: it has no sha256"):
        files.read_sealed(path, "x")
    with pytest.raises(UserError, match="no such file, expected x"):
        files.read_sealed(tmp_path / "none", "x")


def test_what_cannot_be_looked_at_is_not_absent(tmp_path, monkeypatch):
    """Protects what is there: a disk that fails is an error wherever the program asks whether there is something."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("")
    asked = (files.exists, files.is_dir, files.is_file)
    assert [ask(tmp_path / "a") for ask in asked] == [True, True, False]
    assert [ask(tmp_path / "a" / "b") for ask in asked] == [True, False, True]
    for absent in (tmp_path / "c", tmp_path / "a" / "b" / "c", "x" * 5000, "a\0b"):
        assert not any(ask(absent) for ask in asked)
    assert files.below(tmp_path) == [tmp_path / "a" / "b"] and files.below(tmp_path / "c") == []
    assert files.listed(tmp_path, "a") == [tmp_path / "a"] and files.listed(tmp_path / "c") == []

    def refuse(*_, **__):
        raise OSError(errno.EACCES, "Permission denied")

    for name in ("stat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    for ask in (*asked, files.below, files.listed):
        with pytest.raises(StorageError, match=r"cannot be read \(Permission denied\); nothing was changed"):
            ask(tmp_path)


ASKS = re.compile(r"(?<!entry)\.(exists|is_dir|is_file)\(\)|os\.path\.(l?exists|isdir|isfile)\(|\.rglob\(")
OWN = re.compile(r"for folder in methods.__path__")  # the program's own files


def test_one_place_asks_what_is_there():
    """Protects every module from questions whose answer is "no" where the disk failed: `files` alone asks."""
    package = pathlib.Path(files.__file__).parents[1]
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if path != pathlib.Path(files.__file__) and ASKS.search(line) and not OWN.search(line)
    ]
    assert not found
