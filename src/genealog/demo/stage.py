"""How the demo speaks: numbered steps, real commands with their real output, servers that are ended with it."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from genealog.errors import UpstreamError

PATIENCE_S = 180.0


class Stage:
    """The demo's terminal and its child processes. `home` is the demo's folder, where every command runs."""

    def __init__(self, console: Console, home: Path) -> None:
        self.console = console
        self.home = home
        self._servers: list[subprocess.Popen[str]] = []
        self._step = 0
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "GENEALOG_STORE": str(home / ".genealog"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            "TERM": os.environ.get("TERM", "dumb"),
        }
        if console.is_terminal:
            self._environment |= {"FORCE_COLOR": "1", "COLUMNS": str(console.width)}

    def step(self, title: str) -> None:
        """Begin a numbered step."""
        self._step += 1
        self.console.print(f"\n[bold cyan]{self._step}. {escape(title)}[/bold cyan]")

    def say(self, text: str) -> None:
        """Print a sentence (rich markup)."""
        self.console.print(text)

    def command(self, *arguments: str, shows: bool = True) -> tuple[int, str]:
        """Run `genealog ARGUMENTS`, print it and what it prints, and return exit status and output."""
        return self.run([sys.executable, "-m", "genealog", *arguments], shown=["genealog", *arguments], shows=shows)

    def run(self, argv: list[str], *, shown: list[str], shows: bool = True) -> tuple[int, str]:
        """Run a program in the demo's folder, printing it as `shown`."""
        self.console.print(f"[dim]$ {escape(' '.join(shown))}[/dim]")
        done = subprocess.run(
            argv, cwd=self.home, env=self._environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if shows:
            sys.stdout.flush()
            self.console.file.write(done.stdout)
            self.console.file.flush()
        return done.returncode, done.stdout

    def serve(self, *arguments: str) -> str:
        """Start `genealog ARGUMENTS` as a server and return its base URL, taken from what it announces.

        Raises: UpstreamError `demo-server-failed` with its output if it ends or says nothing.
        """
        self.console.print(f"[dim]$ genealog {escape(' '.join(arguments))} &[/dim]")
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "genealog", *arguments], cwd=self.home, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._servers.append(process)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
        said, deadline = [], time.monotonic() + PATIENCE_S
        with self.console.status("loading…"):
            while (left := deadline - time.monotonic()) > 0:
                try:
                    line = lines.get(timeout=left)
                except queue.Empty:
                    break
                if line is None:
                    break
                said.append(line)
                if "http://" in line:
                    self.console.print(escape(line.rstrip()), style="dim")
                    return "http://" + line.partition("http://")[2].split()[0].rstrip(",;)")
        raise UpstreamError("demo-server-failed", f"genealog {arguments[0]} did not start", got="".join(said)[-2000:])

    def stop(self, *, newest: bool = False) -> None:
        """End every server, or the newest one."""
        for process in reversed(self._servers[-1:] if newest else self._servers[:]):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
            self._servers.remove(process)

    @contextlib.contextmanager
    def open(self) -> Iterator[Stage]:
        """Whatever happens, leave no server behind."""
        try:
            yield self
        finally:
            self.stop()


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Hand on the lines of a server until it ends, so that it never waits for a reader."""
    assert process.stdout is not None  # noqa: S101
    for line in process.stdout:
        lines.put(line)
    lines.put(None)
