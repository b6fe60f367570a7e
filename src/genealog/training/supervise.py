"""`genealog run -- COMMAND`: a program that knows nothing of us, on record from before its start to after its end.

The start is in the log before the program starts. The program is told by its environment where to put its reports
(`capture.watch.bootstrap`); they are read while it runs. However it ends (an exit status, a signal, `kill -9`), the end
says so. If this process is killed, the run stays open, with the checkpoints that were logged; if the end cannot be
written, the run stays open and the error says so. The program's own exit status is never changed by our hooks.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from genealog.capture import watch
from genealog.capture.command import is_python, script_of
from genealog.capture.reports import ReportFolder
from genealog.capture.watch import randomness
from genealog.errors import GenealogError, StoreError, UsageError
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.training.begin import Value, begin, software_of
from genealog.training.collect import Collector
from genealog.training.execution import Run, say_given

POLL_S = 0.25
BOOTSTRAP = Path(watch.__file__).parent / "bootstrap"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: `status` as a shell gives it (128 + signal), its run, and what the end warns of."""

    status: int
    run: str
    warnings: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]  # role and artifact ID


def run_command(
    home: Home,
    words: Sequence[str],
    *,
    kind: str = "finetune",
    name: str | None = None,
    inputs: Sequence[tuple[str, str]] = (),
    outputs: Mapping[Path, tuple[str, str] | None] | None = None,
    parameters: Mapping[str, Value] | None = None,
    code: Path | None = None,
    roots: Sequence[Path] = (),
) -> Ended:
    """Run a command in the working folder, on record.

    `inputs` are (role, ref); `outputs` maps paths to (kind, name), or None to find both by content; `roots` are folders
    besides the working folder whose files count as data.
    Raises: UsageError `no-such-command`; as `begin`; StoreError `run-left-open` if the end could not be written.
    """
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            "no-such-command", "there is no such program", got=words[0] if words else "nothing",
            hint="write the command behind two dashes: genealog run -- python train.py",
        )  # fmt: skip
    registry = Registry(home)
    given = [(role, registry.resolve(ref)) for role, ref in inputs]
    folder = Path.cwd()
    # Python draws the seed of its hashes where nobody sees it: drawn here, the order of sets can be had again.
    hashes = os.environ.get("PYTHONHASHSEED") or str(1 + secrets.randbelow(2**32 - 1))
    software, prefix = software_of(words[0])
    begun = begin(
        registry, kind=kind, name=name, command=_as_typed(words), script=script_of(words, folder), code=code,
        folder=folder, parameters=parameters or {}, seeds={}, states={}, software=software,
        switches=randomness.switches() | {"PYTHONHASHSEED": hashes},
    )  # fmt: skip
    this = Run(registry, begun)
    say_given(this, given, begun)
    declared = {os.path.abspath(path): said for path, said in (outputs or {}).items()}  # noqa: PTH100
    collector = Collector(this, folder, declared)
    reports = ReportFolder(Path(tempfile.mkdtemp(prefix="genealog-run-")))
    try:
        environment = child_environment(reports.path, [folder, *roots]) | {"PYTHONHASHSEED": hashes}
        status = _run(words, reports, collector, environment)
        _told(collector, reports, python=is_python(words[0]), status=status, prefix=prefix)
        collector.finish()
        try:
            this.end(error=None if status == 0 else f"signal-{-status}" if status < 0 else f"exit-{status}")
        except (GenealogError, OSError) as error:
            raise StoreError(
                "run-left-open", f"the program ended with status {_shell(status)}, and the log could not take that",
                got=str(error)[:300], hint="make room, then run it again: this run stays open, and visible",
            ) from error  # fmt: skip
    finally:
        shutil.rmtree(reports.path, ignore_errors=True)
    made = tuple((event.role, event.artifact) for event in this.events if event.direction == "out")
    return Ended(_shell(status), this.id, this.seen.lines(), made)


def _run(words: Sequence[str], reports: ReportFolder, collector: Collector, environment: dict[str, str]) -> int:
    """Start the program, read its reports while it runs, and return how it ended, as `subprocess` says it."""
    with _forwarding() as forward:
        try:
            child = subprocess.Popen(list(words), env=environment)
        except OSError as error:
            collector.run.seen.warn("not-started", type(error).__name__)
            return 126
        forward(child)
        while True:
            try:
                child.wait(POLL_S)
            except subprocess.TimeoutExpired:
                _take(collector, reports)
                continue
            break
    _take(collector, reports, whole=True)
    return child.returncode


def _take(collector: Collector, reports: ReportFolder, *, whole: bool = False) -> None:
    try:
        for report in reports.read(whole=whole):
            collector.take(report)
        collector.step()
    except Exception as error:  # noqa: BLE001 - the program trains on, whatever we make of its reports
        collector.run.seen.warn("capture-incomplete", f"reports: {getattr(error, 'code', type(error).__name__)}")


def child_environment(folder: Path, roots: Sequence[Path]) -> dict[str, str]:
    """Return the environment for a program that shall report to `folder`."""
    path = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(BOOTSTRAP), *([path] if path else [])]),
        "GENEALOG_CAPTURE": str(folder),
        "GENEALOG_ROOTS": os.pathsep.join(str(Path(os.path.abspath(root))) for root in roots),  # noqa: PTH100
    }


def _told(collector: Collector, reports: ReportFolder, *, python: bool, status: int, prefix: str) -> None:
    """Warn of what the processes did not say."""
    seen = collector.run.seen
    if reports.unreadable:
        seen.warn("capture-incomplete", f"{reports.unreadable} lines that are no reports")
    if not collector.processes:
        what = "Python with -I, -S or -E?" if python else "no Python?"
        seen.warn("capture-incomplete", f"the program told nothing ({what})")
    elif not collector.ended and status == 0:
        seen.warn("capture-incomplete", "no process told its end")
    if {os.path.realpath(one) for one in collector.prefixes} - {os.path.realpath(prefix)}:
        seen.warn("environment-other", "a process ran in another Python environment than the recorded one")


@contextmanager
def _forwarding() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Hand signals that ask us to end on to the program, and wait for it: what it does with them is its own business.

    Ctrl-C reaches it from the terminal already.
    """
    held: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            return
        if held:
            held[0].send_signal(number)
        else:
            early.append(number)

    def forward(child: subprocess.Popen[bytes]) -> None:
        held.append(child)
        for number in early:
            child.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield forward
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        yield forward
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_typed(words: Sequence[str]) -> list[str]:
    """Return the command without the place of its interpreter, which says nothing elsewhere."""
    return [Path(words[0]).name if is_python(words[0]) else words[0], *words[1:]]


def _shell(status: int) -> int:
    return 128 - status if status < 0 else status
