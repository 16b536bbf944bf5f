"""What every page is made by: one template environment, one policy, one style, and a size that is watched.

A page is self-contained: no network, no other file; it opens from disk. Names of files and classes are untrusted: the
templates escape all text, JSON inside a page holds no markup, and a Content-Security-Policy allows the page's own style
and script alone.
"""

import base64
import hashlib
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

HERE = pathlib.Path(__file__).parent
LARGE = 10_000_000  # bytes above which a person is warned


def rendered(template: str, scripts: Sequence[str], **values: Any) -> str:
    """A template of this folder with `page.css`, the scripts named, one after the other, and `values`."""
    import jinja2  # slow to import

    style = Markup((HERE / "page.css").read_text())
    script = Markup("".join((HERE / name).read_text() for name in scripts))
    hashes = {"style": style, "script": script, "style_hash": digest(style), "script_hash": digest(script)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**hashes, **values)


def digest(text: str) -> str:
    """Base64 of SHA-256, as a Content-Security-Policy names a style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(value: Any) -> Markup:
    """JSON that may stand in a script element: no character of it can end that."""
    text = json.dumps(value, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def watched(text: str, name: object) -> str:
    """`text`, with a warning where a page of that name is large."""
    size = len(text.encode())
    if size > LARGE:
        print(
            f"warning: {name}: {size / 1e6:.0f} MB, a browser may be slow with it; show fewer images", file=sys.stderr
        )
    return text
