"""Labels corrected for the next run: by the run's own changes, and by a person's."""

import csv
import json
import re
from pathlib import Path

import corrected
import photos
import pytest
import tiny

from kdmlc_jax import apply, train
from kdmlc_jax import config as config_lib
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.report import __main__ as report_main
from kdmlc_jax.storage import files

CLASSES = photos.CLASSES


@pytest.fixture
def run(tmp_path):
    """See `corrected.make`."""
    return corrected.make(tmp_path)


def written(path):
    with open(path) as file:
        return {row["path"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ([], [0]),
        (["--take", "corrected"], [0, 1]),
        (["--take", "suggested"], [0, 1, 2]),
        (["--min-confidence", "0.965"], [0]),
        (["--take", "none"], []),
    ],
)
def test_what_is_taken(run, tmp_path, flags, changed):
    """Protects each choice: those labels change and no other, trusted and test images are in the manifest as such."""
    workdir, ids, given = run
    apply.main(["--workdir", str(workdir), "--out", str(tmp_path / "clean.csv"), *flags])
    rows = written(tmp_path / "clean.csv")
    assert len(rows) == 42
    for row, name in enumerate(ids):
        want = CLASSES[(given[row] + 1) % 3] if row in changed else CLASSES[given[row]]
        assert rows[name]["label"] == want and rows[name]["given_label"] == CLASSES[given[row]]
    assert sum(row["trusted"] == "yes" for row in rows.values()) == 6
    assert sum(row["split"] == "test" for row in rows.values()) == 6
    assert {row["split"] for row in rows.values()} == {"train", "test"}
    again = prepare(
        config_lib.load(
            f"configs/folder.py:dir={tmp_path / 'photos'},manifest={tmp_path}/clean.csv,{corrected.SIZES}",
            corrected.SMALL,
        )
    )
    assert len(again.splits.trusted) == 6 and len(again.test_label) == 6
    label_of = dict(zip(map(str, again.ids), again.given_label, strict=True))
    assert all(CLASSES[label_of[name]] == rows[name]["label"] for name in label_of)


def corrections(path, *rows):
    with open(path, "w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("id", "decision", "label", "given_label", "note"), *rows])
    return str(path)


def test_a_person_has_the_last_word(run, tmp_path, capsys):
    """Protects decisions: they win over the run's, unsure changes nothing, reviewed images become trusted if asked."""
    workdir, ids, given = run
    was = [CLASSES[label] for label in given]
    decided = corrections(
        tmp_path / "c.csv",
        (ids[0], "keep", was[0], was[0], ""),
        (ids[1], "unsure", was[1], was[1], ""),
        (ids[3], "other", CLASSES[(given[3] + 2) % 3], was[3], "x"),
    )
    flags = ["--workdir", str(workdir), "--take", "correct", "--corrections", decided, "--trust-reviewed"]
    apply.main([*flags, "--dry-run"])
    said = capsys.readouterr().out
    assert "0 corrected by the run, 2 decided by a person (1 changed), 6 trusted" in said
    apply.main([*flags, "--out", str(tmp_path / "clean.csv")])
    rows = written(tmp_path / "clean.csv")
    tests = sum(row["split"] == "test" for row in rows.values())
    assert tests and f", {tests} of the test part among them\n" in capsys.readouterr().out
    assert [rows[ids[row]]["label"] for row in range(3)] == was[:3]
    assert rows[ids[3]]["label"] == CLASSES[(given[3] + 2) % 3]
    assert [rows[ids[row]]["trusted"] for row in range(4)] == ["yes", "no", "no", "yes"]


def test_a_folder_of_links(run, tmp_path):
    """Protects the tree: a folder a split and class, each image once, links to the images, which stay as they were."""
    workdir, ids, given = run
    before = photos.listing(tmp_path / "photos")
    for flags, is_link in (([], True), (["--copy"], False)):
        out = tmp_path / f"tree{is_link}"
        apply.main(["--workdir", str(workdir), "--out", str(out), *flags])
        found = [path for path in out.rglob("*.png")]
        assert len(found) == 42 and all(path.is_symlink() == is_link for path in found)
        moved = out / "train" / CLASSES[(given[0] + 1) % 3] / ids[0].replace("/", "__")
        assert moved.read_bytes() == (tmp_path / "photos" / ids[0]).read_bytes()
    assert photos.listing(tmp_path / "photos") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "run", "treeFalse", "treeTrue"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("no.png", "keep", "cat", "cat", ""), 'row 1: "no.png" is not a training image of this run'),
        (("{id}", "yes", "{was}", "{was}", ""), 'decision "yes" is not one of accept, keep, other, unsure'),
        (("{id}", "keep", "cow", "{was}", ""), '"cow" is not a class'),
        (("{id}", "keep", "{other}", "{other}", ""), "was given {other} when it was looked at and is given {was} now"),
    ],
)
def test_decisions_that_do_not_fit(run, tmp_path, row, says):
    """Protects from decisions on something else: file and row are named, nothing is written."""
    workdir, ids, given = run
    words = {"id": ids[0], "was": CLASSES[given[0]], "other": CLASSES[(given[0] + 1) % 3]}
    decided = corrections(tmp_path / "c.csv", [cell.format(**words) for cell in row])
    with pytest.raises(UserError, match=re.escape(says.format(**words))):
        apply.main(["--workdir", str(workdir), "--corrections", decided, "--out", str(tmp_path / "clean.csv")])
    assert not (tmp_path / "clean.csv").exists()


def test_what_has_changed_since_the_run_is_refused(run, tmp_path):
    """Protects from changes that were judged on other labels: the first image that moved to another class is named."""
    workdir, ids, _ = run
    flags = ["--workdir", str(workdir), "--out", str(tmp_path / "clean.csv")]
    (tmp_path / "clean.csv").touch()
    with pytest.raises(UserError, match=r"clean\.csv: is there already"):
        apply.main(flags)
    (tmp_path / "clean.csv").unlink()
    manifest = tmp_path / "photos" / "m.csv"
    config = files.read_sealed(workdir / "config.json", "")
    with open(manifest, "w") as file:
        file.write("path,label,trusted,split\n")
        for path in sorted((tmp_path / "photos").rglob("*.png")):
            role, label, _ = path.relative_to(tmp_path / "photos").parts
            label = "cat" if role == "train" and label == "dog" else label
            file.write(
                f"{path.relative_to(tmp_path / 'photos')},{label},{role == 'trusted'},{'test' * (role == 'test')}\n"
            )
    config["data"]["manifest"] = str(manifest)
    files.write_sealed(workdir / "config.json", config)
    corrected.seal(workdir)
    with pytest.raises(
        UserError, match=r"10 labels have changed since the run, the first is train/dog/.* dog then and cat now"
    ):
        apply.main(flags)
    (Path(tmp_path / "photos") / ids[0]).rename(tmp_path / "photos" / "train" / "cat" / "new.png")
    config["data"]["manifest"] = ""
    files.write_sealed(workdir / "config.json", config)
    corrected.seal(workdir)
    with pytest.raises(UserError, match="images or classes have changed since the run"):
        apply.main(flags)


@pytest.mark.parametrize("name", ["../../out", "a/b", "..", ".hidden", "x" * 256, "__MACOSX"])
def test_no_folder_outside(run, tmp_path, name):
    """Protects all else on the disk: a class that is no folder's name is refused, and nothing is written."""
    workdir, *_ = run
    rows = [("train/cat/0.png", name, "train", "no", "cat", "given")]
    config = config_lib.read(workdir / "config.json")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="no folder can be named as the class"):
        apply.tree(tmp_path / "tree", config, rows, copy=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_names_that_would_meet_in_a_folder():
    """Protects every image: none replaces another, none is hidden, whatever the names; the same names each time."""
    names = ["a/b.png", "a__b.png", "A/c.png", "a/C.png", "../up.png", "d.png", f"{'x' * 200}/{'y' * 200}.jpeg"]
    found = apply.flat(names)
    assert len({name.casefold() for name in found}) == len(names) and found == apply.flat(names)
    assert found[5] == "d.png" and all(apply.is_folder_name(name) for name in found)
    assert found[-1].endswith(".jpeg")


@pytest.mark.parametrize("name", apply.READ)
def test_a_file_that_is_not_the_runs_is_refused(run, tmp_path, name):
    """Protects from a table that was edited or damaged: it is named, nothing is written."""
    workdir, *_ = run
    with open(workdir / name, "r+b") as file:
        file.seek(-9, 2)
        byte = file.read(1)
        file.seek(-9, 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(StorageError, match=rf"{name}: not what this run has left"):
        apply.main(["--workdir", str(workdir), "--out", str(tmp_path / "clean.csv")])
    assert not (tmp_path / "clean.csv").exists()


def test_a_run_with_drawn_noise(tmp_path):
    """Protects sets that noise was drawn on: labels compared are those drawn; the manifest serves another run."""
    chosen = tiny.config("method=linear,student=linear,train_on=trusted,rate=0.4")
    train.run(chosen, tmp_path / "run", quiet=True)
    clean = tmp_path / "clean.csv"
    apply.main(["--workdir", str(tmp_path / "run"), "--take", "suggested", "--out", str(clean)])
    again = tiny.config(f"method=linear,student=linear,noise=file,file={clean}")
    rates = [json.loads((tmp_path / "run" / "summary.json").read_text())["noise"]["realised"], prepare(again).rate]
    assert rates[0] > 0.3 and rates[1] < rates[0] - 0.1


def test_look_decide_apply_and_train_again(tmp_path):
    """Protects the whole way: a run on a folder with wrong labels, its page, a reviewer who knows, and a better run."""
    photos.make(tmp_path / "photos", train=60, trusted=12, test=30)
    for path in sorted((tmp_path / "photos" / "train" / "cat").iterdir())[:14]:
        path.rename(tmp_path / "photos" / "train" / "owl" / f"wrong-{path.name}")

    def trained(name, arguments):
        spec = f"configs/folder.py:dir={tmp_path / 'photos'},method=linear,{corrected.SIZES},{arguments}"
        return train.run(config_lib.load(spec, corrected.SMALL), tmp_path / name, quiet=True)["networks"]["student"][
            "last"
        ]

    before = trained("before", "train_on=noisy")
    trained("run", "train_on=trusted")
    report_main.main(["--workdir", str(tmp_path / "run"), "--images", "30"])
    trained("run", "train_on=trusted")  # the page made anew is that of this run
    page = (tmp_path / "run" / "report.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    rows = []
    for item in data["items"]:
        given = data["classes"][item["given"]]
        right = "cat" if "wrong" in item["id"] else given
        rows.append((item["id"], "keep" if given == right else "other", right, given, ""))
    assert sum("wrong" in row[0] for row in rows) >= 10
    decided = corrections(tmp_path / "c.csv", *rows)
    clean = tmp_path / "photos" / "clean.csv"
    apply.main(["--workdir", str(tmp_path / "run"), "--corrections", decided, "--trust-reviewed", "--out", str(clean)])
    assert trained("again", "train_on=noisy,manifest=clean.csv") > before + 0.1
