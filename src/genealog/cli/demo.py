"""`genealog demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genealog.cli.extras import require
from genealog.cli.output import out


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to work; used again by the next run.")] = Path("genealog-demo"),
) -> None:
    """Watch a real model being fine-tuned, served, questioned, traced, proven, attacked and rolled back. Offline.

    Takes some minutes the first time; a second run uses the trained adapter again.
    """
    require("demo")
    from genealog.demo.story import tell

    raise typer.Exit(tell(folder, out))
