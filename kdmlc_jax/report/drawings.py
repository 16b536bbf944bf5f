"""Plots as SVG text: curves, a histogram, reliability, a matrix of colours. Names are escaped here."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from markupsafe import Markup, escape

WIDTH, HEIGHT, LEFT, BOTTOM = 320, 200, 44, 24
MOST_LINES = 8  # the style has so many strokes
MOST_POINTS = 250  # of a line; of more, evenly spaced ones are drawn
Line = Sequence[float | None]


def _frame(body: str, title: str, height: int = HEIGHT) -> Markup:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return Markup(f"{head}{body}</svg>")


def _short(value: float) -> str:
    """A number that the room left of an axis holds."""
    size = abs(value)
    if size < 1000:
        return f"{value:.3g}"
    if size < 10_000:
        return f"{value:.0f}"
    return f"{value / 1000:.0f}k" if size < 1e6 else f"{value:.0e}"


def _axes(low: float, high: float, first: str, last: str, bottom: int = HEIGHT - BOTTOM) -> str:
    return (
        f'<path class="axis" fill="none" d="M{LEFT} 8V{bottom}H{WIDTH - 8}"/>'
        f'<text x="{LEFT - 4}" y="16" text-anchor="end">{_short(high)}</text>'
        f'<text x="{LEFT - 4}" y="{bottom}" text-anchor="end">{_short(low)}</text>'
        f'<text x="{LEFT}" y="{bottom + 16}">{escape(first)}</text>'
        f'<text x="{WIDTH - 8}" y="{bottom + 16}" text-anchor="end">{escape(last)}</text>'
    )


def curves(
    lines: Mapping[str, Line],
    title: str,
    over: Sequence[float] = (),
    marks: Mapping[str, float] = {},
    borders: Mapping[str, float] = {},
    span: tuple[float, float] | None = None,
    unit: str = "epoch",
) -> Markup:
    """Lines of numbers, None leaves a gap out; "" where there are none.

    Args:
      lines: by name, which stands below the plot with the line's stroke; the first MOST_LINES are drawn.
      title: for who cannot see it.
      over: f[n], where the points stand; default 1 … n.
      marks, borders: vertical lines, by what they are: with that beside them, and thin ones.
      span: lowest and highest value; default those of the lines.
      unit: of `over`.
    """
    drawn = {name: line for name, line in list(lines.items())[:MOST_LINES] if any(v is not None for v in line)}
    known = [value for line in drawn.values() for value in line if value is not None]
    if not known:
        return Markup("")
    low, high = span or (min(known), max(known))
    count = max(len(line) for line in drawn.values())
    at = list(over) or list(range(1, count + 1))
    first, last = min(at), max(at)
    bottom = HEIGHT - BOTTOM
    x = lambda value: LEFT + (WIDTH - LEFT - 8) * (value - first) / ((last - first) or 1.0)  # noqa: E731
    y = lambda value: 8 + (bottom - 8) * (1 - (value - low) / ((high - low) or 1.0))  # noqa: E731
    body = _axes(low, high, f"{unit} {first:g}", f"{last:g}")
    for name, value in {**borders, **marks}.items():
        if first <= value <= last:
            kind = "mark" if name in marks else "border"
            body += f'<path class="{kind}" d="M{x(value):.1f} 8V{bottom}"><title>{escape(name)}</title></path>'
            body += f'<text x="{x(value) + 3:.1f}" y="18">{escape(name)}</text>' * (name in marks)
    across = 1 if any(len(name) > 20 for name in drawn) else 2  # names beside each other
    for number, (name, line) in enumerate(drawn.items()):
        points = [(at[i], v) for i, v in enumerate(line) if v is not None]
        points = points[:: -(-len(points) // MOST_POINTS)]
        path = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in points)
        body += f'<polyline class="c{number}" points="{path}"/>' if len(points) > 1 else ""
        body += f'<circle class="c{number}" cx="{path.split(",")[0]}" cy="{y(points[0][1]):.1f}" r="2"/>' * (
            len(points) == 1
        )
        row, column = divmod(number, across)
        level, start = HEIGHT + 12 + 15 * row, 8 + column * WIDTH // 2
        body += f'<path class="c{number}" d="M{start} {level - 4}h22"/>'
        body += f'<text x="{start + 27}" y="{level}">{escape(name[:44])}</text>'
    return _frame(body, title, HEIGHT + 15 * -(-len(drawn) // across) + 4)


def sparkline(values: Sequence[float], title: str) -> Markup:
    """One small line from 0 to 1; "" for fewer than two values."""
    if len(values) < 2:
        return Markup("")
    step = -(-len(values) // MOST_POINTS)
    points = " ".join(
        f"{176 * i / (len(values) - 1):.1f},{30 - 28 * values[i]:.1f}" for i in range(0, len(values), step)
    )
    head = f'<svg class="spark" viewBox="0 0 176 32" role="img" aria-label="{escape(title)}">'
    return Markup(f'{head}<path class="axis" d="M0 31H176"/><polyline class="c0" points="{points}"/></svg>')


def spread(rows: Sequence[tuple[str, Sequence[float]]], title: str) -> Markup:
    """A line for each name: its values as dots, their mean as a stroke; "" where there are none."""
    known = [value for _, values in rows for value in values]
    if not known:
        return Markup("")
    low, high = min(known), max(known)
    left, step = 190, 18
    x = lambda value: left + (2 * WIDTH - left - 12) * (value - low) / ((high - low) or 1.0)  # noqa: E731
    bottom = step * len(rows) + 8
    body = f'<path class="axis" fill="none" d="M{left} {bottom}H{2 * WIDTH - 12}"/>'
    body += f'<text x="{left}" y="{bottom + 14}">{low:.3f}</text>'
    body += f'<text x="{2 * WIDTH - 12}" y="{bottom + 14}" text-anchor="end">{high:.3f}</text>'
    for number, (name, values) in enumerate(rows):
        y = step * number + 14
        body += f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(name[:32])}</text>'
        body += f'<path class="axis" fill="none" d="M{left} {y}H{2 * WIDTH - 12}"/>'
        for value in values:
            body += f'<circle class="fill" opacity=".6" cx="{x(value):.1f}" cy="{y}" r="4"><title>{value:.4f}</title>'
            body += "</circle>"
        if values:
            body += f'<path class="c1 solid" d="M{x(sum(values) / len(values)):.1f} {y - 7}v14"/>'
    head = f'<svg class="spread" viewBox="0 0 {2 * WIDTH} {bottom + 20}" role="img" aria-label="{escape(title)}">'
    return Markup(f"{head}{body}</svg>")


def histogram(values: Float[np.ndarray, " n"], title: str, bins: int = 20, marks: Mapping[str, float] = {}) -> Markup:
    """Of values in [0, 1], with vertical lines at `marks`."""
    count, _ = np.histogram(values, bins, (0.0, 1.0))
    top, width = max(1, int(count.max())), (WIDTH - LEFT - 8) / bins
    body, bottom = _axes(0, top, "0", "1"), HEIGHT - BOTTOM
    for number, n in enumerate(count):
        tall = (bottom - 8) * n / top
        x, y = LEFT + number * width, bottom - tall
        body += f'<rect class="fill" x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{tall:.1f}"/>'
    for name, value in marks.items():
        x = LEFT + (WIDTH - LEFT - 8) * min(1.0, max(0.0, value))
        body += f'<path class="mark" d="M{x:.1f} 8V{bottom}"/><text x="{x:.1f}" y="{HEIGHT - 8}" '
        body += f'text-anchor="middle">{escape(name)}</text>'
    return _frame(body, title)


def reliability(bins: Sequence[Mapping[str, float]], title: str) -> Markup:
    """How often right (upwards) against how sure (to the right), a dot a bin, the larger the more rows; on the diagonal
    both agree."""
    bottom, body = HEIGHT - BOTTOM, _axes(0, 1, "sure 0", "1")
    body += f'<path class="axis" fill="none" stroke-dasharray="3 3" d="M{LEFT} {bottom}L{WIDTH - 8} 8"/>'
    most = max((each["count"] for each in bins), default=1.0)
    for each in bins:
        x, y = LEFT + (WIDTH - LEFT - 8) * each["confidence"], 8 + (bottom - 8) * (1 - each["right"])
        tip = f"sure {each['confidence']:.2f}, right {each['right']:.2f}, {each['count']:.0f} rows"
        body += f'<circle class="fill" opacity=".8" cx="{x:.1f}" cy="{y:.1f}" '
        body += f'r="{2 + 6 * (each["count"] / most) ** 0.5:.1f}"><title>{tip}</title></circle>'
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
                light = ' class="on"' if value > 0.65 else ""
                body += f'<text{light} x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle">'
                body += f"{value:.2f}</text>" if classes <= 6 else f"{100 * value:.0f}</text>"
        if classes <= 20:
            body += (
                f'<text x="62" y="{4 + (row + 0.5) * cell + 4:.1f}" text-anchor="end">{escape(names[row][:11])}</text>'
            )
    return _frame(body, title, height)
