"""Reading and running the documents: fenced blocks, shell sessions with their output, what may differ between runs.

A fence with the word `run` is run by a test: ```console run``` is a session whose output is compared, ```python run```
a program, and `file=NAME` writes a block to a file first. Blocks of one page share one folder and run in order.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from genealog.cli import main, output

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PLACE = "/home/jane/models"  # where the folder of a session is, for those who read it
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(\S*)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"[|<>&;$*`]")
_INNER = re.compile(r"\$\((genealog [^()]*)\)")
_SAME = (  # what differs between two runs, and what stands for it
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"[│├└─\s]+"), " "),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "TIME"),
    (re.compile(r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b"), "CALL"),
    (re.compile(r"\bgl_[0-9a-z]{12}_[A-Za-z0-9_-]{43}"), "KEY"),
    (re.compile(r"\b[0-9a-f]{12,64}\b(…?)"), r"HASH"),
    (re.compile(r"\b\d{8}-[0-9a-f]{8}\b"), "BOOT"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"\benvironment:[0-9.]+"), "environment:PYTHON"),
    (re.compile(r"\bcode:\w+"), "code:FOLDER"),
    (re.compile(r"\b\d+ (files|bytes|ms)\b"), r"N \1"),
)
_KNOWN = re.compile(r"\b(gl[fw]1:[0-9a-f]{12,64})\b")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, the words behind that, its text, and where it begins."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)

    @property
    def runs(self) -> bool:
        return "run" in self.words or self.file is not None


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = page.read_text()
    return [
        Block(match[1], tuple(match[2].split()), match[3], text.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def steps(session: str) -> Iterator[tuple[str, str]]:
    """Yield (command, expected output) of a session: commands start with `$ `, and go on after a backslash."""
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        count = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\"))
        yield "\n".join(lines[:count]), "\n".join(lines[count:])


def normal(text: str, *, ids: bool = True) -> str:
    """Return `text` with what may differ between two runs made equal. `ids` keeps artifact and weights IDs."""
    known = _KNOWN.findall(text) if ids else []
    for pattern, plain in _SAME:
        text = pattern.sub(plain, text)
    return text.strip() + "".join(f"\n{identifier}" for identifier in known)


def matches(expected: str, got: str, *, ids: bool = True) -> bool:
    """Compare a session's output with what came. A line `…` stands for any number of lines."""
    parts = [normal(part, ids=False) for part in re.split(r"^[│ ]*…$", expected, flags=re.MULTILINE)]
    if len(parts) == 1:
        return normal(expected, ids=ids) == normal(got, ids=ids)
    pattern = r".*?".join(re.escape(part) for part in parts)
    return re.fullmatch(pattern, normal(got, ids=False), re.DOTALL) is not None


@dataclass
class Shell:
    """Runs the steps of sessions in one folder. Plain `genealog` commands run in this process unless `outside`."""

    folder: Path
    outside: bool = False
    status: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if name != "GENEALOG_STORE"}
        path = f"{BIN}{os.pathsep}{kept['PATH']}"
        self.environment = {**kept, "PATH": path, "COLUMNS": "110", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}

    def run(self, command: str) -> str:
        """Run one command; return what it printed, standard error included."""
        if self.outside:
            return self._outside(command)
        command = _INNER.sub(lambda inner: self.run(inner[1]).strip(), command)
        first, then, rest = command.partition(" && ")
        if then and "cd " not in first:
            printed = self.run(first)
            return printed if self.status else printed + self.run(rest)
        first, pipe, rest = command.partition(" | ")
        if not first.startswith("genealog ") or _SHELL.search(first):
            return self._outside(command)
        printed = self._inside(shlex.split(first))
        return self._outside(rest, printed) if pipe else printed

    def _outside(self, command: str, given: str = "") -> str:
        script = f"(exit {self.status})\n{command}\n"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, text=True, check=False, timeout=120,
            input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.status = done.returncode
        return done.stdout

    def check(self, block: Block, *, ids: bool = True) -> None:
        """Run a block, and compare what a session prints."""
        if block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            (self.folder / "snippet.py").write_text(block.text)
            printed = self.run(f"{shlex.quote(sys.executable)} snippet.py")
            assert self.status == 0, f"line {block.line}: {printed}"
        else:
            for command, expected in steps(block.text):
                printed = self.run(command).replace(str(self.folder), PLACE)
                where = f"line {block.line}: $ {command}\nexpected:\n{expected}\ngot:\n{printed}"
                assert matches(expected, printed, ids=ids), where

    def _inside(self, argv: list[str]) -> str:
        before, width, arguments, place = output.out.width, output.err.width, sys.argv, Path.cwd()
        printed = io.StringIO()
        try:
            os.chdir(self.folder)
            sys.argv = argv
            output.out.width = output.err.width = 110
            with redirect_stdout(printed), redirect_stderr(printed):
                try:
                    main()
                    self.status = 0
                except SystemExit as ended:
                    self.status = ended.code if isinstance(ended.code, int) else 0
        finally:
            sys.argv, output.out.width, output.err.width = arguments, before, width
            os.chdir(place)
        return printed.getvalue()
