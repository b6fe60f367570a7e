"""The command line: parse, call one service, print. It decides nothing.

One file for each group of commands. Every error of ours ends here, in one place: its message, its hint, its exit status
(0 proven or allowed, 1 contradicted or denied, 2 usage, 3 cannot tell).
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from genealog import __version__
from genealog.cli.output import print_error
from genealog.errors import GenealogError, MalformedError, StoreError

COMMANDS = {  # panel → command → where it is; a group is a `typer.Typer`
    "Start here": {"demo": "demo:demo"},
    "Keep": {
        "init": "keep:init", "add": "keep:add", "add-external": "external:add_external", "run": "run:run",
        "sign": "signatures:sign", "show": "keep:show",
        "assess": "assess:assess", "ls": "listing:ls", "revoke": "keep:revoke", "signer": "signers:app",
        "config": "settings:app",
    },
    "Serve": {
        "gateway": "gateway:app", "engine": "engine:engine", "deploy": "serve:deploy", "promote": "serve:promote",
        "approve": "serve:approve", "approvals": "serve:approvals", "rollback": "serve:rollback",
        "incident": "incident:app", "break-glass": "break_glass:app", "review": "review:app",
        "principal": "principal:app", "replica": "replica:app",
        "policy": "policy:app",
    },
    "Ask": {
        "why": "ask:why", "lineage": "lineage:lineage", "diff": "diff:diff", "contains": "contains:contains",
        "reproduce": "reproduce:reproduce", "what-was-live": "past:what_was_live", "blast": "blast:blast",
        "cost": "cost:app",
    },
    "Forget": {
        "erase": "erase:erase", "hold": "erase:hold_app", "retention": "erase:retention_app",
        "vault": "erase:vault_app",
    },
    "Prove": {
        "evidence": "prove:evidence", "disclose": "erase:disclose", "verify": "prove:verify", "check": "check:check",
        "fsck": "prove:fsck", "mirror": "mirror:mirror", "receipt": "receipts:app", "index": "prove:index_app",
        "log": "log:app", "witness": "witness:app",
    },
}  # fmt: skip


class _Group(TyperGroup):
    """Says of a misspelt word what it may have been meant to be."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is typed."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _choices(error.message)
            raise


def _choices(message: str) -> str:
    """Return a message about a value without the words of the library that looked at it, and with a guess."""
    message = message.removeprefix("Value error, ")
    word, _, known = message.partition(" is not one of ")
    near = get_close_matches(word.strip("'"), re.findall(r"'([^']*)'", known), n=1)
    return f"{message} Did you mean '{near[0]}'?" if near else message


def application(only: str | None = None) -> typer.Typer:
    """Return the whole command line, or that of one command: a command then loads what it uses and nothing else."""
    made = typer.Typer(
        name="genealog",
        cls=_Group,
        help="Which model produced this output, where did that model come from, and can you prove it?",
        epilog="Start with [bold]genealog demo[/bold], or [bold]genealog init[/bold] in your project.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_options)
    for panel, commands in COMMANDS.items():
        for name, place in commands.items():
            if only in (None, name):
                module, _, attribute = place.partition(":")
                found = getattr(import_module(f"genealog.cli.{module}"), attribute)
                if isinstance(found, typer.Typer):
                    made.add_typer(found, name=name, rich_help_panel=panel)
                else:
                    made.command(name, rich_help_panel=panel)(found)
    _flow(made)
    return made


@cache
def _whole() -> typer.Typer:
    return application()


def __getattr__(name: str) -> Any:
    if name == "app":
        return _whole()
    raise AttributeError(name)


def _flow(group: typer.Typer) -> None:
    """Let every paragraph of help fill the terminal's width: typer keeps the line ends of the source.

    An example is a paragraph of its own.
    """
    for command in group.registered_commands:
        text = inspect.cleandoc(command.help or inspect.getdoc(command.callback) or "")
        command.help = _flowing(text)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            callback = inner.typer_instance.registered_callback
            if callback is not None and callback.callback is not None and callback.callback.__doc__:
                callback.help = _flowing(inspect.getdoc(callback.callback) or "")
            _flow(inner.typer_instance)


def _flowing(text: str) -> str:
    paragraphs = re.split(r"\n\n|\n(?=Example: )", text)
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"genealog {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with the status of docs/reference/exit-codes.md."""
    try:
        application(_asked(sys.argv[1:]))()
    except Exception as error:  # noqa: BLE001 - nobody shall read a traceback
        ours = error if isinstance(error, GenealogError) else _foreign(error)
        print_error(ours, as_json="--json" in sys.argv)
        sys.exit(ours.exit_status)


def _asked(words: list[str]) -> str | None:
    """Return the command that is typed: none, "", for the version; None where all are needed: help, a misspelling."""
    word = words[0] if words else None
    if word == "--version":
        return ""
    completing = any(name.endswith("_COMPLETE") and name.startswith("_") for name in os.environ)
    return word if not completing and any(word in commands for commands in COMMANDS.values()) else None


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
