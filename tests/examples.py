"""Running the example in a docstring as it is printed."""

import inspect
import re
import textwrap


def run(function, end):
    """The names that the example leaves behind, what it prints, and the numbers that its comments say it does.

    It runs from "import numpy" to the line that begins with `end`.
    """
    text = inspect.cleandoc(function.__doc__)
    example = text[text.index("    import numpy") : text.index(f"\n{end}")]
    printed = []
    scope = {"print": printed.append}
    exec(textwrap.dedent(example), scope)
    return scope, printed, [float(number) for number in re.findall(r"# (0\.\d+)", example)]
