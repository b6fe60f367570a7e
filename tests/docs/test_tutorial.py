"""The tutorial, step by step, with a tiny model in the place of the demo's: real training, engine, gateway, client."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from documents import ROOT, Block, Shell, blocks
from tiny_model import copy

pytestmark = pytest.mark.real
PAGE = ROOT / "docs" / "tutorial" / "first-answer.md"


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@contextlib.contextmanager
def serving(shell: Shell, block: Block) -> Iterator[None]:
    """Run the one command of a block until the end; it is up once it says its address."""
    (line,) = block.text.splitlines()
    process = subprocess.Popen(
        shlex.split(line.removeprefix("$ ")), cwd=shell.folder, env=shell.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert any("http://" in said for said in process.stdout), f"line {block.line}: it ended with {process.wait()}"
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_the_tutorial_does_what_it_says(tmp_path: Path, tiny_base: Path) -> None:
    shell = Shell(tmp_path / "first")
    shell.folder.mkdir()
    copy(tiny_base, shell.folder / "base")
    ports = {port: free_port() for port in ("8001", "8080")}
    with contextlib.ExitStack() as servers:
        for block in blocks(PAGE):
            text = block.text.replace("273 tensors", "21 tensors")  # the model here is a tiny one
            for port, free in ports.items():
                text = text.replace(port, free)
            moved = replace(block, text=text)
            if "serve" in block.words:
                servers.enter_context(serving(shell, moved))
            elif block.runs:
                shell.check(moved, ids=False)
    assert (shell.folder / "answer.txt").exists()
