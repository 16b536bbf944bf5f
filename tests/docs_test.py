"""What README and CONTRIBUTING name is there: files, functions, commands, rooms."""

import importlib
import re
from pathlib import Path

import pytest

import kdmlc_jax

PACKAGE = Path(kdmlc_jax.__file__).parent
ROOT = PACKAGE.parent
TEXTS = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
TEXTS += tuple(f"docs/{name}.md" for name in ("data", "imports", "methods", "performance", "scaling", "weights"))


def marked(name):
    """What a text has in code marks, and the lines of its blocks of code."""
    text = (ROOT / name).read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)), "\n".join(
        blocks
    )


def exists(path):
    """Whether a file or folder lies where a text says, below the repository or the package."""
    roots = (ROOT, PACKAGE, ROOT / "tests", ROOT / "benchmarks")
    if "/" not in path:  # the last name of a path
        return any(next(root.rglob(path), None) for root in roots[1:]) or (ROOT / path).exists()
    return any((root / path).exists() for root in roots)


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_a_text_names_exist(name):
    """Protects readers from paths to what has moved; `<name>.py` and a user's own folders are theirs."""
    spans, blocks = marked(name)
    words = {word.rstrip(".,;:)") for span in (*spans, blocks) for word in span.split()}
    words |= set(re.findall(r"\]\((?!http)([^)#]+)", (ROOT / name).read_text()))
    paths = {word.partition(":")[0] for word in words if re.fullmatch(r"[\w./-]+\.py(:\S*)?", word)}
    assert not sorted(path for path in paths if not exists(path))


def test_functions_that_contributing_points_to_exist():
    """Protects "Where is …?" from functions that have moved: `file.py:name`, then `:name` for others in that file."""
    spans, place, found = marked("CONTRIBUTING.md")[0], None, 0
    for span in spans:
        if match := re.fullmatch(r"([\w/]*\.py)?:(\w+)", span):
            place, found = match[1] or place, found + 1
            assert re.search(rf"^ *def {match[2]}\(", (PACKAGE / place).read_text(), re.MULTILINE), span
    assert found > 9


@pytest.mark.parametrize("name", TEXTS)
def test_names_of_the_package_exist(name):
    """Protects readers from functions and modules that have moved, commands included."""
    spans, blocks = marked(name)
    for dotted in sorted(set(re.findall(r"\bkdmlc_jax(?:\.\w+)+", "\n".join([*spans, blocks])))):
        parts = dotted.removesuffix(".py").split(".")
        for end in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:end]))
                break
            except ModuleNotFoundError as error:
                assert error.name.startswith("kdmlc_jax")
        for part in parts[end:]:
            assert hasattr(found, part), f"{name}: {dotted}"
            found = getattr(found, part)


def test_the_map_has_every_room():
    """Protects the map: each file and folder of the package and of its rooms that others add to is in it."""
    _, blocks = marked("CONTRIBUTING.md")
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    rooms |= {path.stem for path in (PACKAGE / "data").iterdir()} | {
        path.stem for path in (PACKAGE / "methods").iterdir()
    }
    assert sorted(room for room in rooms if room[0] != "_" and not re.search(rf"\b{room}\b", blocks)) == []
