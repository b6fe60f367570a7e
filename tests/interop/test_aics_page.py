"""docs/how-to/check-with-other-tools.md does what it shows, with the real packages."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from documents import ROOT, Shell, blocks
from peers import BIN, running

PAGE = ROOT / "docs/how-to/check-with-other-tools.md"
ADDRESS = "127.0.0.1:7380"


def test_the_page_does_what_it_shows(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.environment["PATH"] += f"{os.pathsep}{BIN}"  # last: the peers have a python of their own
    shell.outside = True
    page = blocks(PAGE)
    for block in page:
        if "peers" in block.words:
            shell.check(block, ids=False)
    serve = [BIN / "aics-witness", "serve", "--config", tmp_path / "witness/witness.json", "--listen", "127.0.0.1:0"]
    with running(serve, until=r"listening on http://(\S+)") as said:
        for block in page:
            if "witness" in block.words:
                shell.check(replace(block, text=block.text.replace(ADDRESS, said[1])), ids=False)
    assert sum(block.language == "console" for block in page) == 6
