"""The page of modules names every module of the package once, and nothing that is not there."""

from __future__ import annotations

import re

from documents import ROOT

PAGE = ROOT / "docs" / "explanation" / "modules.md"


def test_every_module_is_named() -> None:
    named: list[str] = []
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        package = re.findall(r"`([^`]+)`", section)[0]
        rows = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
        named += [f"{package}/{name}.py" for row in rows for name in re.findall(r"`([^`]+)`", row)]
    there = [
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src").rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    assert sorted(named) == sorted(there)
