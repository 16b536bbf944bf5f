"""How a method and its options are said in a word, `ce:train_on=noisy`, and what follows from it: runs and folders."""

import re

from kdmlc_jax.config.arguments import parse_arguments


def expand(method: str) -> list[str]:
    """'ce:train_on=noisy' -> arguments 'method=ce,train_on=noisy,network=student' and the same for the teacher's."""
    from kdmlc_jax import methods

    name, _, options = method.partition(":")
    arguments = f"method={name}" + (f",{options}" if options else "")
    if "network" in parse_arguments(options) or "network" not in methods.get(name).default_config():
        return [arguments]
    return [f"{arguments},network={network}" for network in ("student", "teacher")]


def join(spec: str, arguments: str) -> str:
    """A config's name with more arguments, which win over those it has."""
    return f"{spec}{',' if ':' in spec else ':'}{arguments}"


def short(arguments: str) -> str:
    """'method=ce,train_on=noisy' -> 'ce,train_on=noisy', as `expand` writes them."""
    return arguments.removeprefix("method=")


def slug(text: str) -> str:
    """`text` as a folder name that a person can read."""
    return re.sub(r"[^\w.=,+-]+", "-", text).strip("-")
