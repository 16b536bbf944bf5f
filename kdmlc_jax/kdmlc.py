"""The console command: `kdmlc train --config …`, which is `python -m kdmlc_jax train --config …`."""

import importlib
import os
import sys

from kdmlc_jax import cli
from kdmlc_jax.errors import suggest

COMMANDS = {  # word: (module, what it does)
    "check": ("kdmlc_jax.data.check", "look at a data set before training"),
    "train": ("kdmlc_jax.main", "train a network and correct the labels; a run that was cut goes on"),
    "report": ("kdmlc_jax.report.__main__", "write the page of a run anew, with more images"),
    "explain": ("kdmlc_jax.explain", "why the label of one image is suspected"),
    "apply": ("kdmlc_jax.apply", "write the corrected labels, for training or for another tool"),
    "predict": ("kdmlc_jax.predict", "classify images with the network of a run"),
    "export": ("kdmlc_jax.export.__main__", "write the network for programs without JAX"),
    "compare": ("kdmlc_jax.compare.__main__", "methods, networks and seeds in one table"),
    "embed": ("kdmlc_jax.embed", "features of a data set by an encoder"),
}


def usage() -> str:
    """What there is, a line each."""
    lines = [f"  {word:8s} {about}" for word, (_, about) in COMMANDS.items()]
    first = "kdmlc train --config configs/digits.py --workdir runs/digits"
    return "\n".join(["usage: kdmlc COMMAND …, kdmlc COMMAND --help", "", *lines, "", f"begin with: {first}"])


def main(argv: list[str]) -> None:
    """Hands the words after the first to the command that it names; ends the program where it names none."""
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(usage())
        return
    if argv[0] == "--version":
        print(importlib.import_module("kdmlc_jax").__version__)
        return
    if argv[0] not in COMMANDS:
        print(f"error: kdmlc {argv[0]}: no such command{suggest(argv[0], COMMANDS)}\n{usage()}", file=sys.stderr)
        sys.exit(2)
    cli.called = f"kdmlc {argv[0]}"
    importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:])


def complete(argv: list[str]) -> None:
    """Answers a shell that has `eval "$(register-python-argcomplete kdmlc)"`: commands, their flags, and values.

    argcomplete reads the line from the environment, from its word number `_ARGCOMPLETE` on.
    """
    _, *words = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")
    if len(words) > 1 and words[0] in COMMANDS:
        os.environ["_ARGCOMPLETE"] = "2"
        importlib.import_module(COMMANDS[words[0]][0]).main(["--"])
    parser = cli.Parser("kdmlc_jax", "")
    parser.add_argument("command", choices=[*COMMANDS])
    parser.parse_args([])


def command() -> None:
    """The console command."""
    cli.guarded(complete if "_ARGCOMPLETE" in os.environ else main)
