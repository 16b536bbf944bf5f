"""What the command lines share: overrides among the flags, and known errors in one line."""

import argparse
import sys
from collections.abc import Callable

from kdmlc_jax.errors import NonFiniteError, UserError, suggest


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Flags, and the overrides `--config.a.b=value` as {"a.b": "value"}; ends the program on a wrong flag."""
    flags, unknown = parser.parse_known_args(argv)
    overrides, rest = {}, iter(unknown)
    for word in rest:
        name, equals, value = word.partition("=")
        if not name.startswith("--config."):
            known = [option for action in parser._actions for option in action.option_strings]
            parser.error(f"unknown flag {name}{suggest(name, known)}")
        overrides[name.removeprefix("--config.")] = value if equals else next(rest, "")
    return flags, overrides


def guarded(program: Callable[[list[str]], None]) -> None:
    """Runs `program` on the command line's words; a known error is one line and an exit code."""
    try:
        program(sys.argv[1:])
    except (UserError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 3)
    except KeyboardInterrupt:
        print("stopped; the same --workdir goes on from the last saved epoch", file=sys.stderr)
        sys.exit(130)
