"""Every block in the how-to and reference pages that is marked for running runs, and prints what the page shows."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import told_store
from documents import PAGES, ROOT, Shell, blocks, prose, steps
from genealog.cli import app

RUN = [page for page in PAGES if page.parent.name in ("how-to", "reference") and any(b.runs for b in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    run = [block for block in blocks(page) if block.runs]
    told = any("told" in block.words for block in run)
    if told:
        told_store.tell(tmp_path)
        shutil.copy(ROOT / "tools" / "verify_standalone.py", tmp_path)
    shell = Shell(tmp_path)
    for block in run:
        shell.check(block, ids=not told)


def commands() -> Iterator[tuple[Path, str]]:
    """Yield every `genealog …` command line in any page: in sessions, and in inline code."""
    for page in PAGES:
        for block in blocks(page):
            lines = [command for command, _ in steps(block.text)] if block.text.startswith("$ ") else []
            for line in lines or (block.text.splitlines() if block.language == "bash" else []):
                for part in re.split(r"\||&&|;|\$\(", line.partition("  #")[0]):
                    if part.strip().startswith("genealog "):
                        whole = part if part.count('"') % 2 == 0 else part.replace('"', "")  # a cut "$(…)"
                        yield page, whole.strip().removesuffix(")")
        for found in re.findall(r"`(genealog [^`]+)`", prose(page)):
            yield page, found


def test_every_command_in_the_documents_exists_with_its_options() -> None:
    program: Any = typer.main.get_command(app)
    checked = 0
    for page, line in commands():
        words = [word for word in shlex.split(line.replace("…", ""), comments=True) if word]
        command, words = program, words[1:]
        while words and hasattr(command, "commands"):
            if words[0] not in command.commands and hasattr(command, "default"):
                words.insert(0, command.default)
            assert words[0] in command.commands or words[0].startswith("-"), f"{page.name}: {line}"
            if words[0].startswith("-"):
                break
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        own = words[: words.index("--")] if "--" in words else words  # behind it stands somebody else's command
        for word in own:
            if word.startswith("-") and word != "-" and not word[1:].isdigit():
                assert word in known | {"--help", "-h"}, f"{page.relative_to(ROOT)}: {line}: {word}"
        checked += 1
    assert checked > 50
