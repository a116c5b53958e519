"""Tables wider than the terminal, as several tables one below the other: a column that is cut off is lost."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def tables(
    names: Sequence[str], rows: Sequence[Sequence[str]], room: int, gap: int = 1, left: Collection[str] = ()
) -> "list[Table]":
    """Tables of at most `room` characters a line that together have all columns, each with the first one, which names the row.

    Cells may hold several lines and rich's markup. Columns are `gap` characters apart; those in `left` and the first begin at
    the left. The first column folds where it alone is too wide.
    """
    from rich.table import Table
    from rich.text import Text

    def wide(column: int) -> int:
        cells = (names[column], *(row[column] for row in rows))
        return max((len(line) for cell in cells for line in Text.from_markup(cell).plain.splitlines()), default=0)

    found = []
    for block in in_blocks([gap + wide(column) for column in range(1, len(names))], wide(0), room):
        table = Table(box=None, pad_edge=False, padding=(0, 0, 0, gap))
        table.add_column(names[0], no_wrap=wide(0) <= room, overflow="fold")
        shown = [1 + column for column in block]
        for column in shown:
            table.add_column(names[column], justify="left" if names[column] in left else "right", no_wrap=True)
        for row in rows:
            table.add_row(row[0], *(row[column] for column in shown))
        found.append(table)
    return found


def in_blocks(widths: Sequence[int], first: int, room: int) -> list[range]:
    """Columns in consecutive blocks, each of which fits into `room` characters beside a first column that every block has.

    `widths` has a column's characters with the space before it, `first` those of the first column. A column that is wider
    than the room has a block of its own. At least one block, which is empty where there are no columns.
    """
    blocks, start, used = [], 0, first
    for column, width in enumerate(widths):
        if used + width > room and column > start:
            blocks.append(range(start, column))
            start, used = column, first
        used += width
    return [*blocks, range(start, len(widths))]
