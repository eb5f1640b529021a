"""Text for people: numbers, tables, and source lines with the sizes of their rows."""

import html
import os
import sys
from collections.abc import Sequence

import numpy as np


def number(x: float, digits: int = 2) -> str:
    """A magnitude in few characters.

    >>> number(1.5e-12), number(0.25), number(0.0), number(float("nan"))
    ('1.5e-12', '0.25', '0', '')
    """
    if np.isnan(x):
        return ""
    if x == 0:
        return "0"
    if not np.isfinite(x):
        return "inf" if x > 0 else "-inf"
    return f"{x:.{digits}g}" if 1e-3 <= abs(x) < 1e4 else f"{x:.{digits - 1}e}"


def one_line(error: BaseException) -> str:
    """An error's message on one line; its type where it has none.

    >>> one_line(ValueError(" of   two lines ")), one_line(KeyboardInterrupt())
    ('of two lines', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split()) or type(error).__name__


def say(text: str) -> None:
    """Print a text; that its reader has gone, as `head` goes, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # what is left must not fail when Python writes it as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def percent(x: float) -> str:
    """A fraction as a percentage; nothing for nan.

    >>> percent(0.5), percent(0.0), percent(float("nan"))
    ('50%', '0%', '')
    """
    return "" if np.isnan(x) else f"{x:.0%}" if x in (0, 1) or 0.01 <= x <= 0.99 else f"{x:.1%}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """An aligned table, its first `texts` columns to the left and the others to the right.

    Each column is as wide as its longest cell. One without a heading holds remarks, to the left.

    >>> print(table(("layer", "rms"), [("h[0]", "1.5"), ("h[10]", "0.25")], texts=1))
    layer   rms
    h[0]    1.5
    h[10]  0.25
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if i < texts or not header[i] else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(header), *map(line, rows)])


def html_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], texts: int, caption: str = ""
) -> str:
    """The same as HTML, for a notebook."""

    def line(tag: str, cells: Sequence[str]) -> str:
        sides = ("left" if i < texts else "right" for i in range(len(cells)))
        return "".join(
            f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )

    head, body = line("th", header), "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def span(values: np.ndarray) -> str:
    """One number, or the range of several."""
    values = values[~np.isnan(values)]
    if not len(values):
        return ""
    low, high = number(values.min()), number(values.max())
    return low if low == high else f"{low} … {high}"


def annotate(
    sources: Sequence[str], forward: np.ndarray, backward: np.ndarray, around: int = 2
) -> str:
    """Source lines with the forward and the backward RMS of their rows.

    Args:
      sources: "file:line" of each row, or "".
      forward: RMS of each row's signal.
      backward: RMS of each row's cotangent.
      around: lines of context before the first and after the last line of a file.
    """
    places: dict[str, dict[int, list[int]]] = {}
    for row, source in enumerate(sources):
        if source:
            file, _, line = source.rpartition(":")
            places.setdefault(file, {}).setdefault(int(line), []).append(row)
    return "\n\n".join(
        _annotated_file(file, lines, forward, backward, around) for file, lines in places.items()
    )


def _annotated_file(file: str, lines: dict[int, list[int]], forward, backward, around: int) -> str:
    text: dict[int, str] = {}
    if os.path.exists(file):
        with open(file, encoding="utf-8", errors="replace") as stream:
            text = dict(enumerate(stream.read().splitlines(), start=1))
    window = range(max(1, min(lines) - around), min(max(lines) + around, max(text, default=0)) + 1)
    numbers = sorted({*window, *lines}) if text else sorted(lines)
    cells = []
    for line in numbers:
        rows = lines.get(line, [])
        down, up = span(forward[rows]), span(backward[rows])
        cells.append((down, up, str(line), text.get(line, "")))
    title = ("forward RMS ↓", "backward RMS ↑", "line", file)
    widths = [max(len(row[i]) for row in [title, *cells]) for i in range(3)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=False))
        + f" │ {row[3]}".rstrip()
        for row in [title, *cells]
    )
