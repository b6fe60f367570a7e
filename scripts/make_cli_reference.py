"""Write docs/reference/cli.md from the help texts of the command line itself.

python scripts/make_cli_reference.py            write the page
python scripts/make_cli_reference.py --check    say whether it is up to date (a test does the same)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from genealog.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
HEAD = """# Commands

Made from the command line's own help by `scripts/make_cli_reference.py`; change the help texts, not this page.

What every exit status means stands in [exit-codes.md](exit-codes.md), every error code in [errors.md](errors.md).
"""
WIDTH = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}


def commands() -> Iterator[tuple[str, ...]]:
    """Yield every command as its words, `()` for `genealog` itself."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for name, inner in sorted(getattr(command, "commands", {}).items()):
            yield from walk(inner, (*words, name))

    yield from walk(typer.main.get_command(app), ())


def help_of(words: tuple[str, ...]) -> str:
    """Return what `genealog WORDS --help` prints at a width of 100, without trailing spaces."""
    result = CliRunner().invoke(app, [*words, "--help"], env=WIDTH, prog_name="genealog")
    if result.exit_code:
        raise SystemExit(f"genealog {' '.join(words)} --help ended with {result.exit_code}: {result.output}")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.output)  # where colours are forced
    return "\n".join(line.rstrip() for line in plain.splitlines()).strip("\n")


def page() -> str:
    """Return the whole page."""
    parts = (f"## {' '.join(('genealog', *words))}\n\n```text\n{help_of(words)}\n```\n" for words in commands())
    return "\n".join((HEAD, *parts))


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit status."""
    text = page()
    if arguments == ["--check"]:
        if PAGE.read_text() == text:
            return 0
        print("docs/reference/cli.md is not what the command line says; run scripts/make_cli_reference.py")
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
