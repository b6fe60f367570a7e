"""The command line: parse, call one service, print. It decides nothing.

One file for each group of commands. Every error of ours ends here, in one place: its message, its hint, its exit status
(0 proven or allowed, 1 contradicted or denied, 2 usage, 3 cannot tell).
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from genealog import __version__
from genealog.cli import (
    ask,
    blast,
    erase,
    incident,
    keep,
    lineage,
    log,
    past,
    prove,
    receipts,
    serve,
    settings,
    signatures,
    signers,
    witness,
)
from genealog.cli.check import check
from genealog.cli.contains import contains
from genealog.cli.demo import demo
from genealog.cli.diff import diff
from genealog.cli.engine import engine
from genealog.cli.gateway import gateway
from genealog.cli.mirror import mirror
from genealog.cli.output import print_error
from genealog.cli.reproduce import reproduce
from genealog.cli.run import run
from genealog.errors import GenealogError, MalformedError, StoreError

app = typer.Typer(
    name="genealog",
    help="Which model produced this output, where did that model come from, and can you prove it?",
    epilog="Start with [bold]genealog demo[/bold], or [bold]genealog init[/bold] in your project.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

KEEP, SERVE, ASK, FORGET, PROVE = "Keep", "Serve", "Ask", "Forget", "Prove"

for panel, commands in (
    ("Start here", (demo,)),
    (KEEP, (keep.init, keep.add, run, signatures.sign, keep.show, keep.ls, keep.revoke)),
    (SERVE, (gateway, engine, serve.deploy, serve.promote, serve.approve, serve.approvals, serve.rollback)),
    (ASK, (ask.why, lineage.lineage, diff, contains, reproduce, past.what_was_live, blast.blast)),
    (FORGET, (erase.erase,)),
    (PROVE, (prove.evidence, erase.disclose, prove.verify, check, prove.fsck, mirror)),
):
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(signers.app, name="signer", rich_help_panel=KEEP)
app.add_typer(settings.app, name="config", rich_help_panel=KEEP)
app.add_typer(incident.app, name="incident", rich_help_panel=SERVE)
app.add_typer(erase.hold_app, name="hold", rich_help_panel=FORGET)
app.add_typer(erase.retention_app, name="retention", rich_help_panel=FORGET)
app.add_typer(erase.vault_app, name="vault", rich_help_panel=FORGET)
app.add_typer(receipts.app, name="receipt", rich_help_panel=PROVE)
app.add_typer(prove.index_app, name="index", rich_help_panel=PROVE)
app.add_typer(log.app, name="log", rich_help_panel=PROVE)
app.add_typer(witness.app, name="witness", rich_help_panel=PROVE)


def _flow(group: typer.Typer) -> None:
    """Let every paragraph of help fill the terminal's width: typer keeps the line ends of the source.

    An example is a paragraph of its own.
    """
    for command in group.registered_commands:
        text = inspect.cleandoc(command.help or inspect.getdoc(command.callback) or "")
        paragraphs = re.split(r"\n\n|\n(?=Example: )", text)
        command.help = "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _flow(inner.typer_instance)


_flow(app)


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
    except Exception as error:  # noqa: BLE001 - nobody shall read a traceback
        ours = error if isinstance(error, GenealogError) else _foreign(error)
        print_error(ours, as_json="--json" in sys.argv)
        sys.exit(ours.exit_status)


def _foreign(error: Exception) -> GenealogError:
    """Return an error of ours for one that no service expected. Its message may quote what is secret, so it goes."""
    if isinstance(error, UnicodeEncodeError):
        return MalformedError("text-not-unicode", "a text or a path is not UTF-8", got=error.reason)
    if isinstance(error, OSError):
        file = None if error.filename is None else ascii(str(error.filename))[1:-1][:200]
        return StoreError(
            "system-refused", "the operating system refused", got=": ".join(filter(None, (file, error.strerror))),
            hint="look at free space, permissions and the path itself, then try again",
        )  # fmt: skip
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
    return StoreError("unexpected", "this is a fault of Genealog", got=where, hint="report it with this line")
