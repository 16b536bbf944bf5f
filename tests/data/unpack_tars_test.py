"""WebDataset archives become a folder with a manifest; nothing is written outside of it."""

import io
import pathlib
import runpy
import tarfile

import loading
import pytest
from PIL import Image

SCRIPT = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "scripts" / "unpack_tars.py"))


def archive(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return str(path)


def png(level):
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "PNG")
    return file.getvalue()


def test_archives_become_a_folder(tmp_path, capsys):
    """Protects images, labels and splits on their way; links of names out of the folder; an image without a label."""
    one = {f"{row}.png": png(row) for row in range(4)} | {f"{row}.cls": b"%d" % (row % 2) for row in range(4)}
    two = {"../../x.png": png(7), "../../x.cls": b"1", "y.json": b"{}"}
    paths = [archive(tmp_path / "train-000000.tar", one), archive(tmp_path / "test-000000.tar", two)]
    SCRIPT["main"](["--out", str(tmp_path / "out"), *paths])
    source = loading.load("folder", tmp_path / "out", manifest="labels.csv")
    assert source.train.labels.tolist() == [0, 1, 0, 1] and source.test.labels.tolist() == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "test-000000.tar", "train-000000.tar"]
    with pytest.raises(SystemExit):
        SCRIPT["main"](["--out", str(tmp_path / "out"), *paths])
    with pytest.raises(SystemExit):
        SCRIPT["main"](["--out", str(tmp_path / "o2"), archive(tmp_path / "a.tar", {"a.png": png(1)})])
    assert "1 images have no label" in capsys.readouterr().err
