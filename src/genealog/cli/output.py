"""What people and machines see: states with a word, a sign and a colour; tables; one JSON shape; one error shape.

Much of what is printed was written by others: names in evidence, words of servers. It reaches a terminal as text only:
characters that move the cursor, or turn the direction of writing, are spelled out.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TransferSpeedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from genealog.core.chain import Hop, Report
from genealog.core.states import State
from genealog.errors import GenealogError

PIPE_WIDTH = 160  # a file or a pipe has no width of its own, and an ID cut in two cannot be searched for
# C0 but for the line feed, DEL, C1, marks and overrides of direction, odd line ends, and what is no character at all.
_MOVES = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def tame(text: str) -> str:
    """Return a text whose control characters are spelled out; line feeds stay."""
    return _MOVES.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(value: object) -> str:
    """Return a value as text that cannot pretend to be a line of ours."""
    return tame(str(value)).replace("\n", "\\n")


class _Console(Console):
    """Prints nothing that moves a terminal, whoever wrote it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Spell control characters out, but for those that rich itself makes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(tame(segment.text), segment.style)


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


out = _console(stderr=False)
err = _console(stderr=True)

# Columns that are never cut or folded: on a terminal that is too narrow the line runs over its edge, as text does.
WHOLE = frozenset(
    {"at", "called_at", "started_at", "id", "weights", "entry", "artifact", "execution", "call", "state", "spec"}
    | {"log", "hold", "emitter", "boot", "key", "url", "asked", "role", "recorded", "made", "from", "until"}
    | {"kind", "code", "method", "verdict", "note", "move", "exit", "finish", "point", "outcome", "severity"}
)
NARROW = 12  # the least that is left of a column that can be folded: names
PROSE = 24  # and at most so much, for its longest word, of one that holds several words
# Columns that stand under the table, on lines of their own, where it is wider than the terminal.
REMARKS = ("reason", "message", "note")
KEYS = ("name", "hold", "incident", "entry")  # which column such a line begins with; else the first

SIGNS = {
    State.PROVEN: ("✔", "green"),
    State.STATED: ("✎", "cyan"),
    State.INFERRED: ("~", "blue"),
    State.CLAIMED: ("“", "yellow"),
    State.UNCHECKED: ("?", "yellow"),
    State.MISSING: ("∅", "magenta"),
    State.CONTRADICTED: ("✘", "bold red"),
}


def say(state: State) -> Text:
    """Return a state as a sign, a word and a colour."""
    sign, style = SIGNS[state]
    return Text(f"{sign} {state}", style=style)


def short(identifier: str | None) -> str:
    """Return an ID cut for people: its algorithm and 12 digits, enough for `resolve`."""
    if not identifier:
        return ""
    algorithm, colon, digits = identifier.rpartition(":")
    return f"{algorithm}{colon}{digits[:12]}" if len(digits) == 64 else identifier


def ago(seconds: int | None) -> str:
    """Return how long something was ago, for people: "51s ago", "2h ago"; nothing for None."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit} ago"
    return f"{max(seconds, 0)}s ago"


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str, spare: Sequence[str] = ()
) -> None:
    """Print rows under a header, or what to do when there are none.

    Where the terminal is too narrow, long remarks go under the table; then the columns in `spare` are left out, and
    that is said; then names are folded. What is left runs over the edge.
    """
    if not rows:
        out.print(f"[dim]{empty}[/dim]")
        return
    cells = {
        column: [cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in column_cells]
        for column, column_cells in zip(columns, zip(*rows, strict=True), strict=True)
    }
    shown = list(columns)
    needed = {column: _least(column, cells[column]) + 2 for column in columns}
    natural = sum(max(len(column), *(cell.cell_len for cell in cells[column])) + 2 for column in columns) - 2
    below: list[str] = []
    left_out: list[str] = []
    if natural > out.width:
        below = [column for column in REMARKS if column in cells and max(map(len, cells[column])) > PROSE]
        shown = [column for column in columns if column not in below]
    for column, moved in (*((column, left_out) for column in spare), ("by", below)):
        if column in shown and sum(needed[each] for each in shown) - 2 > out.width:
            shown.remove(column)
            moved.append(column)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        whole = column in WHOLE
        table.add_column(column, overflow="fold", no_wrap=whole, min_width=needed[column] - 2)
    for row in zip(*(cells[column] for column in shown), strict=True):
        table.add_row(*row)
    if (width := sum(needed[each] for each in shown) - 2) > out.width:  # left alone, columns would vanish
        table.width = width
    out.print(table)
    _print_below(cells, below, next((key for key in KEYS if key in shown), shown[0]))
    if left_out:
        out.print(f"left out at this width, --json has it: {', '.join(left_out)}", style="dim")


def _least(column: str, cells: Sequence[Text]) -> int:
    """Return how narrow a column can be made: whole ones not at all, prose to its longest word, names to `NARROW`."""
    widest = max(cell.cell_len for cell in cells)
    if column in WHOLE and not (column in REMARKS and widest > PROSE):
        return max(len(column), widest)
    words = [len(word) for cell in cells if " " in cell.plain.strip() for word in cell.plain.split()]
    return max(len(column), min(widest, max(NARROW, min(PROSE, max(words, default=0)))))


def _print_below(cells: Mapping[str, Sequence[Text]], columns: Sequence[str], key: str) -> None:
    """Print what no column had room for: a line for each row that has any of it."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for index, first in enumerate(cells[key]):
        told = [(column, cells[column][index].plain) for column in sorted(columns, key=("by", *REMARKS).index)]
        text = "; ".join(f"by {text}" if column == "by" else text for column, text in told if text)
        if text:
            grid.add_row(Text(f"  {first.plain}"), Text(text))
    if grid.row_count:
        out.print(grid)


def print_report(report: Report) -> None:
    """Print every hop as a tree that grows back in time, then the weakest."""
    hops = list(report.hops)
    if not hops:
        return
    root = Tree(_label(hops[0]), guide_style="dim")
    open_nodes: list[tuple[int, Tree]] = [(hops[0].depth, root)]
    for hop in hops[1:]:
        while len(open_nodes) > 1 and open_nodes[-1][0] >= hop.depth:
            open_nodes.pop()
        open_nodes.append((hop.depth, open_nodes[-1][1].add(_label(hop))))
    out.print(root, soft_wrap=False)
    worst = report.weakest
    line = Text("weakest: ").append_text(say(report.state)).append(f" ({worst.role}: {one_line(worst.title)})")
    if worst.code:
        line.append(f" [{one_line(worst.code)}]", style="dim")
    out.print(line)


def _label(hop: Hop) -> Text:
    title = one_line(hop.title)
    text = Text(f"{hop.role}  ", style="bold").append(f"{title}  ", style="not bold").append_text(say(hop.state))
    grade = hop.grade if hop.depth == 0 or hop.grade != "logged" else None  # in a chain, only what is more than usual
    by = (
        hop.signer and f"by {hop.signer}",
        hop.position,
        grade,
        short(hop.id),
        hop.detail,
        hop.code and f"[{hop.code}]",
    )
    if second := one_line(" · ".join(filter(None, by))):
        text.append(f"\n{second}", style="dim not bold")
    return text


def report_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values."""
    fields = ("depth", "role", "title", "state", "id", "signer", "position", "grade", "code", "detail")
    hops = [{name: getattr(hop, name) for name in fields if getattr(hop, name) is not None} for hop in report.hops]
    return {"state": report.state, "weakest": hops[report.hops.index(report.weakest)], "hops": hops}


def print_error(error: GenealogError, *, as_json: bool = False) -> None:
    """Print an error: what happened, got, expected, what to do next."""
    if as_json:
        print_json({"error": error.problem()})
        return
    err.print(f"[bold red]error[/bold red] {escape(one_line(error.message))} [dim]\\[{error.code}][/dim]")
    for name in ("got", "expected", "hint"):
        if (value := getattr(error, name)) is not None:
            err.print(f"  [dim]{name:>8}[/dim] {escape(one_line(value))}")


@contextmanager
def hashing(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on standard error while bytes are hashed."""
    if quiet or not err.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(f"hashing {what}", total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield update


@contextmanager
def counting(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on standard error while entries are gone through."""
    if quiet or not err.is_terminal:
        yield None
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=err, transient=True
    ) as progress:
        task = progress.add_task(what, total=None)

        def told(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield told
