"""What the command lines share: overrides among the flags, and known errors in one line."""

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from kdmlc_jax.errors import (
    LimitError,
    NonFiniteError,
    StoppedError,
    StorageError,
    UserError,
    one_line,
    suggest,
    visible,
)

called = ""  # "kdmlc train", where the words came by that command


class Parser(argparse.ArgumentParser):
    """The parser of one command, `python -m <module>` or `kdmlc <word>`, whichever was given."""

    def __init__(self, module: str, description: str, epilog: str = ""):
        super().__init__(
            called or f"python -m {module}",
            description=description,
            epilog=f"{epilog}{EXITS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._asked = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As its parent; where a shell asks what may follow (`kdmlc.complete`), the answer, and the program ends."""
        if "_ARGCOMPLETE" in os.environ and not self._asked:
            import argcomplete

            self._asked = True  # argcomplete parses what there is of the line
            argcomplete.autocomplete(self)
        return super().parse_known_args(args, namespace)


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Flags, and the overrides `--config.a.b=value` as {"a.b": "value"}; ends the program on a wrong flag.

    Raises:
      UserError: for a flag without a value.
    """
    flags, unknown = parser.parse_known_args(argv)
    known = [option for action in parser._actions for option in action.option_strings]
    for word, following in zip(argv, [*argv[1:], "."], strict=False):
        name, equals, value = word.partition("=")
        if name in known and not (value if equals else following).strip():
            raise UserError(f"{name} is empty, expected a value; leave the flag out for its default")
    overrides, rest = {}, iter(unknown)
    for word in rest:
        name, equals, value = word.partition("=")
        if not name.startswith("--config."):
            parser.error(f"unknown flag {name}{suggest(name, known)}")
        overrides[name.removeprefix("--config.")] = value if equals else next(rest, "")
    return flags, overrides


def add_launch(parser: argparse.ArgumentParser) -> None:
    """The flags by which several processes find each other where no launcher tells them."""
    group = parser.add_argument_group(
        "several processes (SLURM, Open MPI, Kubernetes jobs are recognised without these)"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")


def tell(quiet: bool = False) -> None:
    """What the package says of itself while it works, a line each on standard error; `quiet`: warnings alone."""
    logger = logging.getLogger("kdmlc_jax")
    logger.handlers = [_Said()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


class _Said(logging.Handler):
    """Prints on whatever standard error is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        print(self.format(record), file=sys.stderr, flush=True)


def start(flags: argparse.Namespace) -> None:
    """What every training program does before it touches a device."""
    from kdmlc_jax import parallel

    tell(getattr(flags, "quiet", False))
    parallel.join_processes(parallel.Launch(flags.coordinator, flags.processes, flags.process))
    parallel.keep_compiled()


EXITS = """exit codes: 0 done, 2 bad input, 3 training met a NaN or infinity, 4 a file cannot be written or is damaged,
5 a figure is above what --fail-on allows, 75 stopped by SIGTERM or Ctrl-C with its state saved,
130 stopped by a second Ctrl-C or before training began"""

CODES: dict[type[BaseException], int] = {
    StorageError: 4,
    UserError: 2,
    NonFiniteError: 3,
    LimitError: 5,
    StoppedError: 75,
}


def guarded(program: Callable[[list[str]], None]) -> None:
    """Runs `program` on the command line's words; a known error is one line and an exit code."""

    def terminated(number: int, frame: object) -> None:
        raise StoppedError("SIGTERM before training began or after it; nothing is lost, the same command goes on")

    # XLA's alarms (slow compilation, slow folding of constants) are no errors of the user's; real ones reach Python.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quiet_streams()
    signal.signal(signal.SIGTERM, terminated)  # `stopping.requests` takes over while there is something to save
    try:
        program(sys.argv[1:])
    except tuple(CODES) as error:
        print(one_line(error) if isinstance(error, StoppedError) else f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(next(code for kind, code in CODES.items() if isinstance(error, kind)))
    except OSError as error:
        if error.errno is None or error.filename is None:
            raise
        print(f"error: {one_line(error.filename)}: {error.strerror}", file=sys.stderr)
        sys.exit(4)
    except KeyboardInterrupt:
        print("stopped; the same --workdir goes on from what was last saved", file=sys.stderr)
        sys.exit(130)


def quiet_streams() -> None:
    """What is said is no result: characters that a console lacks are escaped, one that goes away is done without."""
    sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)


class Lasting(io.TextIOBase):
    """A text stream over `stream` that neither a closed pipe nor a full disk nor a narrow alphabet makes fail.

    It is where all that is printed goes out: names out of the data cannot command a terminal (`errors.visible`).
    """

    def __init__(self, stream: Any):
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def unescaped(self) -> "Lasting":
        """The same for a progress bar, whose escapes are its own."""
        return _Unescaped(self._stream)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream below."""
        return str(getattr(self._stream, "encoding", None) or "utf-8")

    def isatty(self) -> bool:
        """Whether the stream below is a terminal."""
        return bool(self._stream is not None and self._stream.isatty())

    def fileno(self) -> int:
        """Of the stream below."""
        number: int = self._stream.fileno()
        return number

    def write(self, text: str) -> int:
        """Writes `text` where there is still somebody."""
        self._try(lambda: self._stream.write(visible(text)))
        return len(text)

    def flush(self) -> None:
        """Passes on what was written, where there is still somebody."""
        self._try(lambda: self._stream.flush())

    def _try(self, action: Callable[[], Any]) -> None:
        if self._stream is None:
            return
        try:
            action()
        except (OSError, ValueError):  # a closed pipe; a closed stream
            self._stream = open(os.devnull, "w")  # noqa: SIM115 (for as long as the program runs)


class _Unescaped(Lasting):
    """Writes what it is given."""

    def write(self, text: str) -> int:
        """Writes `text` where there is still somebody."""
        self._try(lambda: self._stream.write(text))
        return len(text)
