"""`genealog config`: change the settings and the trust policy of a store, for every machine that shares it.

In a store that is a folder, `genealog.toml` and `trust.policy` may as well be edited in place. In a store at a URL the
files in the node folder are copies: what is written there is lost, so a change goes this way.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.options import Store
from genealog.cli.output import out, print_json
from genealog.errors import MissingError
from genealog.store.home import Home
from genealog.store.settings_schema import settings_schema


class File(StrEnum):
    """A file that the machines of a store share."""

    settings = "genealog.toml"
    policy = "trust.policy"


FileName = Annotated[File, typer.Argument(help="genealog.toml or trust.policy.", metavar="[FILE]")]
app = typer.Typer(no_args_is_help=True, help="Settings and trust policy of a store, also of one that is shared.")


@app.command()
def show(file: FileName = File.settings, store: Store = None) -> None:
    """Print the settings, or the trust policy, as they stand now.

    Example: [bold]genealog config show trust.policy > trust.policy[/bold]
    """
    home = Home.find(store)
    out.print((home.path / file).read_text(encoding="utf-8"), end="", markup=False)


@app.command()
def edit(file: FileName = File.settings, store: Store = None) -> None:
    """Open the settings, or the trust policy, in $EDITOR; what you save is checked, and then holds for every machine.

    Gateways that run read it when they are started again.

    Example: [bold]genealog config edit[/bold]
    """
    home = Home.find(store)
    before = (home.path / file).read_bytes()
    with tempfile.TemporaryDirectory(prefix="genealog-") as folder:
        draft = Path(folder) / file
        draft.write_bytes(before)
        _open_editor(draft)
        after = draft.read_bytes()
    if after == before:
        out.print(f"{file} stays as it is")
        return
    home.change(file.value, before, after)
    out.print(f"{file} is changed")


@app.command()
def schema() -> None:
    """Print the JSON Schema of genealog.toml: editors complete and check by it, and so may whatever writes the file.

    Example: [bold]genealog config schema > genealog.schema.json[/bold]
    """
    print_json(settings_schema())


def _open_editor(draft: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        status = subprocess.run([*shlex.split(editor), draft], check=False).returncode
    except (OSError, ValueError) as error:
        raise MissingError("no-editor", "the editor cannot be started", got=repr(error), hint="set EDITOR") from None
    if status:
        raise MissingError("no-editor", "the editor failed, so nothing is changed", got=f"status {status}")
