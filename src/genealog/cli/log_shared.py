"""Logs of a shared store: sign what many machines append, and move a store from a folder to a URL or back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from genealog.cli.extras import require
from genealog.cli.options import Json, Store, seconds
from genealog.cli.output import err, out, print_json
from genealog.errors import StoreError
from genealog.ledger import Ledger
from genealog.store.home import Home, as_place
from genealog.store.moving import move_store
from genealog.store.scale.daemon import integrate as run


def integrate(
    names: Annotated[
        list[str] | None, typer.Argument(help="The logs. Default: all whose key is on this machine.", metavar="[NAME]…")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Sign what is there now, and leave.")] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="End the session of whoever integrates now: it hangs, or its machine does."),
    ] = False,
    every: Annotated[str, typer.Option(help="How often to sign what has come.", metavar="TIME")] = "1s",
    store: Store = None,
) -> None:
    """Sign what is appended to a shared store: put it into tiles, sign the head, publish it. Runs until it is stopped.

    Run it on one machine that has the logs' keys, and on another one to stand by: it takes over when the first dies.

    Example: [bold]genealog log integrate --store 'postgresql://db.example/genealog?objects=s3://bucket/logs'[/bold]
    """
    require("scale")
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.append(received))

    def told(log: str, what: str, size: int) -> None:
        err.print(f"{log}: {what}{f' {size} entries' if size else ''}", highlight=False)

    run(
        Home.find(store), tuple(names or ()), once=once, force=take_over, interval=seconds(every),
        stopped=lambda: bool(asked), told=told,
    )  # fmt: skip


def copy(
    to: Annotated[
        str, typer.Option(help="Where it goes: an empty folder, or postgresql://…?objects=s3://…", metavar="DIR|URL")
    ],
    store: Store = None,
    json: Json = False,
) -> None:
    """Move a whole store to another place, every log with its root. From then on only the new place takes entries.

    The logs here are closed before the new ones open, so that they can never fork. Interrupted, the same command goes
    on. Stop gateways first, and point them and everything else at the new place afterwards.

    Example: [bold]genealog log copy --to 'postgresql://db.example/genealog?objects=s3://bucket/logs'[/bold]
    """
    place = as_place(to)
    home = Home.find(store)
    if not isinstance(place, type(home.path)) or home.shared is not None:
        require("scale")
    try:
        Ledger(home).drain()
    except StoreError as error:
        if error.code != "log-moved":
            raise  # that is an earlier run of this command, which drained
    with _progress(quiet=json) as told:
        moved = move_store(home, place, told)
    home.close()
    if json:
        logs = {name: {"size": each.size, "root": each.root.hex()} for name, each in moved.logs.items()}
        print_json({"store": moved.place, "logs": logs})
        return
    for name, each in moved.logs.items():
        out.print(f"{name}: {each.size} entries, root {each.root.hex()[:16]}… is the same in both places")
    out.print(f"the store is now {escape(moved.place)}; this one takes no entries any more")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar for each log on a terminal; None where nobody looks."""
    if quiet or not err.is_terminal:
        yield None
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=err) as bar:
        tasks: dict[str, TaskID] = {}

        def told(log: str, done: int, total: int) -> None:
            if log not in tasks:
                tasks[log] = bar.add_task(log)
            bar.update(tasks[log], completed=done, total=total)

        yield told


def register(app: typer.Typer) -> None:
    """Put these commands into the group `genealog log`."""
    app.command("integrate")(integrate)
    app.command("copy")(copy)
