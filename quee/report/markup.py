"""Pieces of HTML: figures, tables, numbers."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from quee.policies.names import OURS
from quee.report import Row
from quee.work.counts import counted
from quee.work.percentages import DASH, DIFFERENCE, figure

UNFOLDED = 12
"""Most rows of a long table that are shown unfolded."""


def inlined(text: str) -> str:
    """The text of an SVG file as part of a page, which needs no namespaces."""
    return re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)


def drawing(text: str, title: str, caption: str) -> str:
    """A figure with its caption."""
    inline = inlined(text)
    label = f'<svg role="img" aria-label="{escape(title)}" '
    head = re.sub(r'\s(width|height)="[^"]*"', "", inline[: inline.index(">")])
    inline = head.replace("<svg", label, 1) + inline[inline.index(">") :]
    return (
        f'<figure class="drawn">\n<figcaption><p>{escape(caption)}</p></figcaption>\n'
        f'<div class="scroll">\n{inline}</div>\n</figure>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], look: str = "") -> str:
    """A table whose cells are HTML; a cell that starts with NUL is the best of its column. `look` is a class of the style."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for row in rows:
        cells = "".join(f'<td class="best">{c[1:]}</td>' if c.startswith("\0") else f"<td>{c}</td>" for c in row)
        mark = ' class="ours"' if row[0] in OURS else ""
        lines.append(f"<tr{mark}>{cells}</tr>")
    own = f' class="{look}"' if look else ""
    return f'<div class="scroll"><table{own}><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def folded(title: str, html: str, name: str = "") -> str:
    """A part of the page that opens at a click; in print it is open. Empty where there is nothing in it."""
    if not html:
        return ""
    own = f' id="{name}"' if name else ""
    return f"<details{own}><summary>{escape(title)}</summary>\n{html}\n</details>"


def long_table(head: Sequence[str], rows: Sequence[Sequence[str]], noun: str, look: str = "", plural: str = "") -> str:
    """A table of which the first rows are shown, and the others folded under "3 more" of `noun`."""
    shown, rest = rows[:UNFOLDED], rows[UNFOLDED:]
    return table(head, shown, look) + folded(
        f"{counted(len(rest), f'more {noun}', plural)}", table(head, rest, look)
    ) * bool(rest)


def signed(gain: Any) -> str:
    """A difference of shares in points, with its sign."""
    return figure(gain, 2, *DIFFERENCE, sign=True).replace("-", "−")


def measured(value: Any) -> str:
    """A measure of predictors with four digits; a dash where there is none."""
    return DASH if value is None else f"{value:.4f}"


def star(row: Row) -> str:
    return "" if row["budget_met"] else "*"


def bits(precision: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", precision)]
