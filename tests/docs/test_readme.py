"""The README does what it shows: its very commands run, and print what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

import told_store
from documents import ROOT, Block, Shell, blocks

README = ROOT / "README.md"
SESSIONS = [block for block in blocks(README) if block.runs]


@pytest.mark.parametrize("block", SESSIONS, ids=lambda block: f"line-{block.line}")
def test_a_session_prints_what_it_shows(block: Block, tmp_path: Path) -> None:
    told = "told" in block.words
    if told:
        told_store.tell(tmp_path)
    Shell(tmp_path, outside=True).check(block, ids=not told)


def test_the_readme_is_one_that_people_read_to_its_end() -> None:
    assert len(SESSIONS) >= 2
    assert README.read_text().count("\n") <= 150
