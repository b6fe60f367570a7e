"""Receipts: write one, and upgrade one when witnesses have cosigned the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from genealog.cli import prove
from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json
from genealog.core.fork import Fork
from genealog.core.receipt import encode_receipt, parse_receipt
from genealog.core.trust import parse_trust
from genealog.store.forks import keep_fork
from genealog.store.home import Home
from genealog.upgrading import upgrade_from_store, upgrade_from_tree


class DefaultGroup(TyperGroup):
    """A group whose `default` command runs where no other is named: `receipt calls:0` is `receipt write calls:0`."""

    default = "write"

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the default command in front of arguments that name none."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=DefaultGroup, no_args_is_help=True,
    help="Receipts: the proof that one entry is in a log. `receipt ENTRY -o FILE` writes one.",
)  # fmt: skip
app.command("write")(prove.receipt)


@app.command()
def upgrade(
    file: Annotated[Path, typer.Argument(help="A receipt.")],
    o: Annotated[Path | None, typer.Option("-o", "--output", help="The file to write. Default: the receipt.")] = None,
    place: Annotated[
        str | None,
        typer.Option(
            "--from", help="A published tree of the log: a URL or a folder. Default: the store.", metavar="URL|DIR"
        ),
    ] = None,
    trust: Annotated[
        Path | None, typer.Option(help="The trust policy: the log and its witnesses. Default: the store's.")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Put a receipt under a checkpoint that witnesses have cosigned: from *logged* to *witnessed*.

    The log has to show that it still has the history of the receipt. Exit: 1 it has not, and the evidence is written
    beside the receipt; 3 no witness has cosigned a head that covers the entry yet.

    Example: [bold]genealog receipt upgrade answer.receipt.json --from https://log.example.org/calls[/bold]
    """
    receipt = parse_receipt(prove.read(file))
    policy = parse_trust(prove.read(trust)) if trust is not None else Home.find(store).trust

    def keep(fork: Fork) -> Path:
        path = keep_fork(file.parent, fork)
        out.print(f"[bold red]this log forked[/bold red]: the evidence is in {path}")
        return path

    if place is None:
        done = upgrade_from_store(receipt, Home.find(store), policy)
    else:
        done = upgrade_from_tree(receipt, place, policy, keep)
    if done.better or o is not None:
        prove.write(o or file, encode_receipt(done.receipt))
    if json:
        print_json({"file": str(o or file), "grade": done.grade, "upgraded": done.better, "quorum_met": done.quorum})
        return
    said = f"wrote {o or file}" if done.better else f"{file} is as good as it gets"
    out.print(f"{said}: {done.grade}" + ("" if done.quorum else " (too few for the policy's quorum)"))
