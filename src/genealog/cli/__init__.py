"""The command line: parse, call one service, print. It decides nothing.

One file for each group of commands. Every error of ours ends here, in one place: its message, its hint, its exit status
(0 proven or allowed, 1 contradicted or denied, 2 usage, 3 cannot tell).
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from genealog import __version__
from genealog.cli import ask, keep, prove, serve, signers
from genealog.cli.demo import demo
from genealog.cli.engine import engine
from genealog.cli.gateway import gateway
from genealog.cli.output import print_error
from genealog.errors import GenealogError

app = typer.Typer(
    name="genealog",
    help="Which model produced this output, where did that model come from, and can you prove it?",
    epilog="Start with [bold]genealog demo[/bold], or [bold]genealog init[/bold] in your project.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

KEEP, SERVE, ASK, PROVE = "Keep", "Serve", "Ask", "Prove"

for panel, commands in (
    ("Start here", (demo,)),
    (KEEP, (keep.init, keep.add, keep.sign, keep.show, keep.ls, keep.revoke)),
    (SERVE, (gateway, engine, serve.deploy, serve.rollback)),
    (ASK, (ask.why, ask.lineage)),
    (PROVE, (prove.receipt, prove.evidence, prove.verify, prove.fsck)),
):
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(signers.app, name="signer", rich_help_panel=KEEP)
app.add_typer(prove.index_app, name="index", rich_help_panel=PROVE)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"genealog {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with the status of docs/reference/exit-codes.md."""
    try:
        app()
    except GenealogError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_status)
