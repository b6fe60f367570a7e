"""The table of attacks is what is tried: neither can drift from the other."""

from __future__ import annotations

import re

from documents import ROOT

TRIED = re.compile(r'^@attack\("([^"]+)", "([^"]+)", "([^"]+)"\)\n(?:async )?def (\w+)', re.MULTILINE)
ROW = re.compile(r"^\| ([^|]+) \| (\w+) \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)


def test_the_table_is_what_is_tried() -> None:
    tried = TRIED.findall((ROOT / "tests/policy/test_attacks.py").read_text())
    assert len(tried) == 16
    assert ROW.findall((ROOT / "docs/explanation/attacks.md").read_text()) == tried
