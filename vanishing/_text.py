"""Text for people: numbers, tables, and source lines with the sizes of their rows."""

import html
import itertools
import os
import re
import sys
from collections.abc import Collection, Sequence

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


def english(words: Sequence[str], last: str = "and") -> str:
    """Words as an enumeration.

    >>> english(["a"]), english(["a", "b", "c"]), english(["a", "b"], "or")
    ('a', 'a, b and c', 'a or b')
    """
    *most, end = words
    return f"{', '.join(most)} {last} {end}" if most else end


def count(number: int, noun: str) -> str:
    """A number of things, in the plural unless it is one.

    >>> count(1, "row"), count(3, "row")
    ('1 row', '3 rows')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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

    Each column is as wide as its longest cell. One without a heading holds remarks, to the left. A
    row of one cell, where others have more, is a line by itself.

    >>> print(table(("layer", "rms"), [("h[0]", "1.5"), ("h[10]", "0.25")], texts=1))
    layer   rms
    h[0]    1.5
    h[10]  0.25
    """
    full = [row for row in rows if len(row) == len(header)]
    widths = [max(map(len, column)) for column in zip(header, *full, strict=True)]

    def line(cells: Sequence[str]) -> str:
        if len(cells) < len(header):
            return cells[0]
        return "  ".join(
            cell.ljust(width) if i < texts or not header[i] else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(header), *map(line, rows)])


_LONG, _ENDS = 12, 3  # a repeat of more rows is elided, but for so many at each end


def elided(rows: Sequence[Sequence[str]], keep: Collection[int] = ()) -> list[Sequence[str]]:
    """The rows of a table without the middle of long repeats, but for a line that counts them.

    Rows repeat one another if their names, the first cells, differ in numbers alone.

    Args:
      rows: of the table.
      keep: numbers of rows that are not elided.

    >>> for (name,) in elided([(f"h[{i}]",) for i in range(20)], keep=[8]):
    ...     print(name)
    h[0]
    h[1]
    h[2]
    … 5 rows, h[3] to h[7] …
    h[8]
    … 8 rows, h[9] to h[16] …
    h[17]
    h[18]
    h[19]
    """
    repeats: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        repeats.setdefault(re.sub(r"\d+", "#", row[0]), []).append(number)
    middles = (alike[_ENDS:-_ENDS] for alike in repeats.values() if len(alike) > _LONG)
    hidden = {number for middle in middles for number in middle}.difference(keep)
    result: list[Sequence[str]] = []
    for is_hidden, group in itertools.groupby(enumerate(rows), lambda pair: pair[0] in hidden):
        part = [row for _, row in group]
        if is_hidden and len(part) > 1:
            part = [(f"… {len(part)} rows, {part[0][0]} to {part[-1][0]} …",)]
        result += part
    return result


def html_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], texts: int, caption: str = ""
) -> str:
    """The same as HTML, for a notebook."""

    def line(tag: str, cells: Sequence[str]) -> str:
        if len(cells) < len(header):
            return f'<td colspan="{len(header)}">{html.escape(cells[0])}</td>'
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
