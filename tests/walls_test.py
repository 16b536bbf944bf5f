"""The walls between the rooms of the package (CONTRIBUTING.md), read from its source: who may import and say what."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import kdmlc_jax
from kdmlc_jax import methods

PACKAGE = Path(kdmlc_jax.__file__).parent
ROOT = PACKAGE.parent


class Module(NamedTuple):
    """One file, parsed."""

    name: str  # kdmlc_jax.labels.table
    text: str
    tree: ast.Module
    is_package: bool = False


def read(folder: Path) -> dict[str, Module]:
    """All modules under `folder`, by their dotted names."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        is_package = path.stem == "__init__"
        name = ".".join((path.parent if is_package else path.with_suffix("")).relative_to(ROOT).parts)
        found[name] = Module(name, text := path.read_text(), ast.parse(text), is_package)
    return found


SHIPPED = read(PACKAGE) | read(ROOT / "configs")


def is_in(name: str, rooms: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of `rooms`, or of a room within one of them."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def inside(*rooms: str) -> tuple[str, ...]:
    return tuple(f"kdmlc_jax.{room}" for room in rooms)


def imports(module: Module) -> Iterator[str]:
    """Everything a module imports, wherever it does so: `a.b` for `import a.b` and for `from a import b`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.name.split(".")[: None if module.is_package and node.level == 1 else -node.level or None]
            base = ".".join([*(parents if node.level else ()), *([node.module] if node.module else ())])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def identifiers(module: Module, but: tuple[str, ...] = ()) -> Iterator[str]:
    """Every name that a module binds, reads or imports, part by part; what it imports of the rooms `but` left out."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(asname=str(name)):
                yield name
    yield from (part for name in imports(module) if not is_in(name, but) for part in name.split("."))


def dotted(module: Module) -> Iterator[str]:
    """Every `a.b.c` that a module reads, its own short names for what it imports written out."""
    full = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            full |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            full |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            yield ".".join([full.get(first, first), *rest])


def strings(module: Module) -> Iterator[str]:
    """All texts but docstrings and those in annotations."""
    apart = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            apart.add(id(getattr(node.body[0], "value", None)))
        annotations = (getattr(node, "annotation", None), getattr(node, "returns", None))
        apart |= {id(part) for annotation in annotations if annotation for part in ast.walk(annotation)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            yield node.value


Rule = Callable[[dict[str, Module]], Iterator[str]]
PURE = inside("methods", "losses", "bilevel", "labels")


def pure_rooms(modules: dict[str, Module]) -> Iterator[str]:
    """Methods, losses, the look-ahead and labels touch no file, flag, clock or device placement."""
    doors = (
        "os",
        "io",
        "pathlib",
        "shutil",
        "tempfile",
        "json",
        "csv",
        "pyarrow.csv",
        "pyarrow.parquet",
        "absl",
        "argparse",
        "sys.argv",
    )
    doors += ("time", "datetime", "subprocess", "socket", "jax.sharding", "jax.experimental")
    doors += inside("storage", "parallel", "outputs", "train", "experiment", "main", "cli", "compare")
    said = ("open", "print", "input", "jax.device_put", "jax.devices", "jax.process_index", "numpy.load", "numpy.save")
    for module in modules.values():
        if is_in(module.name, PURE):
            yield from (f"{module.name} imports {name}" for name in imports(module) if is_in(name, doors))
            yield from (f"{module.name} says {name}" for name in dotted(module) if name in said)


def labels_are_arrays(modules: dict[str, Module]) -> Iterator[str]:
    """labels/ knows neither networks nor methods nor data sets."""
    beyond = (*inside("nets", "methods", "data", "train_state", "optim"), "flax")
    for module in modules.values():
        if is_in(module.name, inside("labels")):
            yield from (f"{module.name} imports {name}" for name in imports(module) if is_in(name, beyond))


DOORS = {  # what is imported -> the rooms that may
    ("orbax",): inside("storage.checkpoint"),
    ("PIL",): inside("data.formats", "data.images", "data.sources"),
    ("tensorflow_datasets", "tensorflow", "tarfile"): inside("data.formats", "data.sources"),
    ("gzip",): inside("data.formats", "data.sources", "profiling"),  # the last reads a trace that it has just made
    ("pickle",): inside("data.formats", "parallel.processes"),  # processes of one run trust each other
    ("zipfile",): inside("data.formats", "data.sources", "data.provenance"),  # .npz
    (
        "tests",
        "benchmarks",
        "scripts",
        "pytest",
        "beartype",
        *(path.stem for path in (ROOT / "tests").glob("*.py")),
    ): (),
    ("random",): (),
}


def one_door(modules: dict[str, Module]) -> Iterator[str]:
    """What is foreign comes in through one room, and nothing that is not shipped comes in at all."""
    for module in modules.values():
        for name in imports(module):
            for foreign, rooms in DOORS.items():
                if is_in(name, foreign) and not is_in(module.name, rooms):
                    yield f"{module.name} imports {name}"


def one_room_places(modules: dict[str, Module]) -> Iterator[str]:
    """parallel/ alone speaks of meshes and shardings and compiles what runs on several devices."""
    words = {"pmap", "Mesh", "NamedSharding", "PartitionSpec", "with_sharding_constraint", "shard_map"}
    words |= {"in_shardings", "out_shardings", "in_axes_resources"}
    for module in modules.values():
        if not is_in(module.name, inside("parallel")):
            yield from (f"{module.name} says {name}" for name in {*identifiers(module)} & words)
            if not is_in(module.name, (*PURE, *inside("experiment", "export"))):  # pure functions on one device
                yield from (f"{module.name} says jit" for name in dotted(module) if name == "jax.jit")


def nameless(modules: dict[str, Module]) -> Iterator[str]:
    """Nothing outside methods/ and the recipes of configs/ names a method, be it in a text or in code; but a module may
    say its own name, and import the command and a module of labels/ that have a method's."""
    for module in modules.values():
        if is_in(module.name, inside("methods")) or is_in(module.name, ("configs",)):
            continue
        names = set(methods.names()) - {module.name.rpartition(".")[2]}
        word = re.compile(rf"(?<![\w-])({'|'.join(sorted(names))})(?![\w-])")
        yield from (f"{module.name} says {name}" for name in {*identifiers(module, inside("labels", "kdmlc"))} & names)
        yield from (f"{module.name} says {text!r}" for text in strings(module) if word.search(text))


def no_global_randomness(modules: dict[str, Module]) -> Iterator[str]:
    """Every draw comes from a key or from a generator of its own."""
    for module in modules.values():
        for name in dotted(module):
            drawn = re.fullmatch(r"numpy\.random\.(\w+)", name)
            if drawn and ((drawn[1][0].islower() and drawn[1] != "default_rng") or drawn[1] == "RandomState"):
                yield f"{module.name} says {name}"


def blind_methods(modules: dict[str, Module]) -> Iterator[str]:
    """No method speaks of true labels or of the test set."""
    for module in modules.values():
        if is_in(module.name, PURE) and not is_in(module.name, inside("labels")):
            words = {*identifiers(module)} & {"true_label", "true_labels", "test_label", "test_image"}
            yield from (f"{module.name} says {name}" for name in words)


HOST_LOOP = "kdmlc_jax.train.run"  # may be long


def short(modules: dict[str, Module]) -> Iterator[str]:
    """No file has more than 300 lines, no function but the host loop more than 60."""
    for module in modules.values():
        if len(module.text.splitlines()) > 300:
            yield f"{module.name} has more than 300 lines"
        functions = [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)]
        long = [f"{module.name}.{node.name}" for node in functions if node.end_lineno - node.lineno >= 60]
        yield from (f"{name} has more than 60 lines" for name in long if name != HOST_LOOP)


def no_circles(modules: dict[str, Module]) -> Iterator[str]:
    """No module imports, by whatever way, itself; but a method may pick its own release form, which is made from it."""
    edges = {}
    for module in modules.values():
        named = {name if name in modules else name.rpartition(".")[0] for name in imports(module)}
        own_release = module.name.replace(".methods.", ".methods.release.")
        edges[module.name] = (named & set(modules)) - {module.name, own_release}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield " imports ".join([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(edges[name]):
                yield from visit(other, (*path, name))
            done.add(name)

    for name in sorted(edges):
        yield from visit(name, ())


RULES: dict[Rule, dict[str, str]] = {  # rule -> faults that it must find: module -> its text
    pure_rooms: {
        "kdmlc_jax.methods.planted": "from pathlib import Path",
        "kdmlc_jax.methods.parts.planted": "def f():\n    import time",
        "kdmlc_jax.losses": "import os.path as somewhere",
        "kdmlc_jax.bilevel": "def f(name):\n    return open(name)",
        "kdmlc_jax.labels.planted": "from kdmlc_jax import parallel",
        "kdmlc_jax.labels.other": "from jax import device_put as put\nput(1)",
    },
    labels_are_arrays: {
        "kdmlc_jax.labels.planted": "from kdmlc_jax import nets",
        "kdmlc_jax.labels.other": "from ..methods import base",
    },
    one_door: {
        "kdmlc_jax.storage.planted": "import orbax.checkpoint as ocp",
        "kdmlc_jax.train": "def f():\n    from PIL import Image",
        "kdmlc_jax.data.planted": "import pickle",
        "kdmlc_jax.planted": "from tests import tiny",
        "kdmlc_jax.other": "import tiny",
        "configs.planted": "from benchmarks import accuracy",
        "kdmlc_jax.data.noise.planted": "import random",
    },
    one_room_places: {
        "kdmlc_jax.planted": "from jax.sharding import Mesh",
        "kdmlc_jax.methods.planted": "import jax\njax.pmap(f)",
        "kdmlc_jax.train": "import jax\njax.lax.with_sharding_constraint(x, y)",
        "kdmlc_jax.other": "jit(f, out_shardings=s)",
        "kdmlc_jax.summary": "from jax import jit\njit(f)",
    },
    nameless: {
        "kdmlc_jax.train": "def f(config):\n    return config.method.name == 'kdmlc'",
        "kdmlc_jax.planted": "from kdmlc_jax.methods import mlc",
        "kdmlc_jax.data.planted": "def f(x):\n    return f'method=ce, rate={x}'",
        "kdmlc_jax.labels.planted": "from kdmlc_jax.methods.linear import fit",
        "kdmlc_jax.nets.linear": "def f(config):\n    return config.method.name == 'ce'",
    },
    no_global_randomness: {
        "kdmlc_jax.data.planted": "import numpy as np\nnp.random.seed(0)",
        "kdmlc_jax.planted": "from numpy.random import rand\nrand(3)",
        "kdmlc_jax.other": "import numpy\nnumpy.random.RandomState(1)",
    },
    blind_methods: {"kdmlc_jax.methods.planted": "def f(batch, true_label):\n    return true_label"},
    short: {
        "kdmlc_jax.planted": "x = 1\n" * 301,
        "kdmlc_jax.other": "class A:\n    def f(self):\n" + "        x = 1\n" * 60,
    },
    no_circles: {
        "kdmlc_jax.losses": "from kdmlc_jax import planted",
        "kdmlc_jax.planted": "def f():\n    from kdmlc_jax.planted_too import x",
        "kdmlc_jax.planted_too": "from . import losses",
    },
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_wall_stands(rule):
    """Protects the rooms: what each may import and say, so that every change has one place."""
    assert not sorted(set(rule(SHIPPED)))


@pytest.mark.parametrize(
    ("rule", "name"),
    [(rule, name) for rule, planted in RULES.items() for name in planted],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_wall_has_teeth(rule, name):
    """Protects the walls from rules that find nothing: every planted fault is found, in the module it is in."""
    together = RULES[rule] if rule is no_circles else {name: RULES[rule][name]}
    planted = {other: Module(other, text, ast.parse(text)) for other, text in together.items()}
    assert any(name in fault for fault in rule(planted))


EVERYWHERE = ("errors", "shapes", "arrays", "registry")  # not drawn: any room may use them


def drawn(modules: dict[str, Module]) -> str:
    """Which room imports which, as Mermaid; a room is a file or folder of the package, or configs/."""
    rooms: dict[str, set[str]] = {}
    for module in modules.values():
        room = module.name.removeprefix("kdmlc_jax.").split(".")[0]
        for name in imports(module):
            other = name.removeprefix("kdmlc_jax.").split(".")[0]
            if is_in(name, ("kdmlc_jax",)) and f"kdmlc_jax.{other}" in modules and other not in (room, *EVERYWHERE):
                rooms.setdefault(room, set()).add(other)
    lines = [f"    {room} --> {' & '.join(sorted(others))}" for room, others in sorted(rooms.items())]
    return "\n".join(["flowchart TD", *lines])


def test_the_imports_are_as_drawn():
    """Protects readers of docs/imports.md from a graph of what the code once was."""
    text = (ROOT / "docs" / "imports.md").read_text()
    found = re.findall(r"```mermaid\n(.*?)\n```", text, re.DOTALL)
    assert found == [drawn(SHIPPED)], f"the graph in docs/imports.md is to be\n{drawn(SHIPPED)}"
    planted = Module("kdmlc_jax.labels.planted", text := "from kdmlc_jax import train", ast.parse(text))
    assert drawn(SHIPPED | {planted.name: planted}) != found[0]
