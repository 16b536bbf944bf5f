"""Plots as SVG text: curves, a histogram, a matrix of colours. Names of classes are escaped by whom they come from."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

WIDTH, HEIGHT, LEFT, BOTTOM = 320, 200, 38, 24


def _frame(body: str, title: str, height: int = HEIGHT) -> Markup:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return Markup(f"{head}{body}</svg>")


def _axes(low: float, high: float, first: str, last: str) -> str:
    bottom = HEIGHT - BOTTOM
    return (
        f'<path class="axis" fill="none" d="M{LEFT} 8V{bottom}H{WIDTH - 8}"/>'
        f'<text x="{LEFT - 4}" y="14" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{escape(first)}</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">{escape(last)}</text>'
    )


def curves(lines: Mapping[str, Sequence[float | None]], title: str) -> Markup:
    """Up to two lines over epochs 1 to n, with a name at the end of each; None leaves a gap out."""
    known = [value for line in lines.values() for value in line if value is not None]
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    span, count = (high - low) or 1.0, max(len(line) for line in lines.values())
    body = _axes(low, high, "epoch 1", str(count))
    for style, (name, line) in zip("ab", lines.items(), strict=False):
        points = [
            (LEFT + (WIDTH - LEFT - 8) * i / max(1, count - 1), 8 + (HEIGHT - BOTTOM - 8) * (1 - (v - low) / span))
            for i, v in enumerate(line)
            if v is not None
        ]
        if not points:
            continue
        body += f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
        # Names stand one below the other at the bottom, each with its line's stroke: lines may end in one point.
        level = HEIGHT - BOTTOM - 8 - 14 * "ab".index(style)
        body += f'<path class="{style}" d="M{WIDTH - 90} {level - 4}h24"/>'
        body += f'<text x="{WIDTH - 62}" y="{level}">{escape(name)}</text>'
    return _frame(body, title)


def histogram(values: Float[np.ndarray, " n"], title: str, bins: int = 20) -> Markup:
    """Of values in [0, 1]."""
    count, _ = np.histogram(values, bins, (0.0, 1.0))
    top, width, body = max(1, int(count.max())), (WIDTH - LEFT - 8) / bins, _axes(0, max(1, int(count.max())), "0", "1")
    for number, n in enumerate(count):
        tall = (HEIGHT - BOTTOM - 8) * n / top
        x, y = LEFT + number * width, HEIGHT - BOTTOM - tall
        body += f'<rect class="fill" x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{tall:.1f}"/>'
    return _frame(body, title)


def heat_map(matrix: Float[np.ndarray, "C C"], names: Sequence[str], title: str) -> Markup:
    """Rows true, columns given; the darker, the more. Numbers and names where there is room for them."""
    classes = len(matrix)
    cell = (WIDTH - 70) / classes
    height, body = int(cell * classes + 24), ""
    for row in range(classes):
        for column in range(classes):
            value = float(matrix[row, column])
            x, y = 66 + column * cell, 4 + row * cell
            tip = f"{escape(names[row])} → {escape(names[column])}: {value:.2f}"
            body += f'<rect class="fill" x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" '
            body += f'opacity="{max(0.04, min(1.0, value)):.2f}"><title>{tip}</title></rect>'
            if classes <= 12:
                body += f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle">'
                body += f"{value:.2f}</text>" if classes <= 6 else f"{100 * value:.0f}</text>"
        if classes <= 20:
            body += (
                f'<text x="62" y="{4 + (row + 0.5) * cell + 4:.1f}" text-anchor="end">{escape(names[row][:11])}</text>'
            )
    return _frame(body, title, height)
