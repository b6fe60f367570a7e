"""Break every single system call that touches a store, one run each, and see what is left.

A scenario is traced with strace once; then it is run again once for each call that named a file of the store and for
each fault: the call fails with EIO, fails with ENOSPC where a full disk would do that, or the process is killed with
SIGKILL as it enters the call. A run is a fork of a warm process that strace is attached to before it begins: some 30
milliseconds. What it acknowledges and signs goes through a socket, by sendto(2), which nothing here breaks.

    python tests/faults.py [SCENARIO…]        runs the matrix and prints the count

What a scenario does and what must hold afterwards is in `fault_scenarios`. A fault that strace did not inject is an
error here, and never a case that passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from genealog.core.note import NoteSigner
from genealog.errors import GenealogError

_CALL = re.compile(r"^\d+ +([a-z_0-9]+)\((.*)")
_CREATES = {"mkdir", "rename", "renameat", "renameat2", "link", "linkat", "write", "pwrite64", "writev", "ftruncate",
            "fallocate", "fsync", "fdatasync"}  # fmt: skip
_TRACED = "trace=%file,%desc"


class Scenario(Protocol):
    """Something that is done to a store, and what must hold after any fault in it."""

    name: str

    def prepare(self, path: Path) -> None:
        """Make what stands before the fault."""

    def act(self, path: Path, tell: Callable[[str, Any], None]) -> None:
        """Do it; `tell("acked", …)` what has returned. Runs in a child, under the fault."""

    def check(self, path: Path, told: Told) -> None:
        """Raise AssertionError unless what is left is sound, complete and can go on."""


@dataclass(slots=True)
class Told:
    """What a run said before its end. `acked` is what it was told is durable, `refused` the code of its error."""

    acked: list[Any] = field(default_factory=list)
    signed: list[bytes] = field(default_factory=list)
    refused: str | None = None
    leaked: str | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """The `number`-th call of `call` fails with `error`, or kills if that is SIGKILL. `line` is what it does."""

    call: str
    number: int
    error: str
    line: str

    def __str__(self) -> str:
        return f"{self.error} at {self.call} {self.number}: {self.line}"

    @property
    def option(self) -> str:
        what = "signal=SIGKILL" if self.error == "SIGKILL" else f"error={self.error}"
        return f"inject={self.call}:{what}:when={self.number}"


@dataclass(slots=True)
class Outcome:
    """The matrix of one scenario. `failures` says what went wrong in which case; none is the aim."""

    scenario: str
    cases: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    signed: int = 0
    failures: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return {"scenario": self.scenario, "cases": self.cases.total(), "by_fault": dict(self.cases),
                "by_call": dict(self.calls), "acknowledged": self.acknowledged, "signed": self.signed,
                "failures": self.failures}  # fmt: skip


class Signatures:
    """Every text that a log key has signed, in any process of a case: never two for one origin and size."""

    def __init__(self) -> None:
        self._texts: dict[tuple[bytes, bytes], bytes] = {}
        self.count = 0

    def add(self, text: bytes) -> None:
        origin, size, *_ = text.split(b"\n")
        self.count += 1
        known = self._texts.setdefault((origin, size), text)
        assert known == text, f"two roots were signed for one size: {known!r} and {text!r}"


def matrix(scenario: Scenario, folder: Path, *, only: str | None = None) -> Outcome:
    """Run every case of `scenario` in `folder`. Raises: RuntimeError if strace is missing or does not see."""
    if shutil.which("strace") is None:
        raise RuntimeError("strace is not installed: without it no fault was injected and nothing was shown")
    template, path = folder / "template", folder / "case" / "store"
    template.mkdir()
    scenario.prepare(template / "store")
    run = Run(scenario, template, path)
    run.rehearse()
    told, trace = run.once(None)
    if told.leaked or told.refused or not told.done or not told.acked:
        raise RuntimeError(f"{scenario.name} fails without any fault: {told}")
    faults = list(plan(trace, path))
    if not {"write", "fsync"} <= {fault.call for fault in faults} or len(faults) < 50:
        raise RuntimeError(f"strace does not see what {scenario.name} does: {trace[:3]}")
    outcome = Outcome(scenario.name)
    for fault in faults:
        if only is None or only in str(fault):
            case(run, fault, outcome)
    return outcome


def case(run: Run, fault: Fault, outcome: Outcome) -> None:
    """Run one case; what is wrong goes to the failures of `outcome`."""
    try:
        told, trace = run.once(fault)
        if not any("(INJECTED)" in line for line in trace) and not (fault.error == "SIGKILL" and not told.done):
            raise RuntimeError("strace did not inject it")
        signatures = Signatures()
        for text in told.signed:
            signatures.add(text)
        assert told.leaked is None, f"an error of no known kind came out: {told.leaked}"
        with signing(signatures.add):
            run.scenario.check(run.path, told)
    except (AssertionError, GenealogError, OSError, RuntimeError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome.failures.append(
            f"{fault}\n    {type(error).__name__} {error} ({Path(where.filename).name}:{where.lineno})"
        )
        return
    outcome.cases[fault.error] += 1
    outcome.calls[fault.call] += 1
    outcome.acknowledged += len(told.acked)
    outcome.signed += signatures.count


def plan(trace: list[str], path: Path) -> Iterator[Fault]:
    """Yield the faults for every traced call that names something below `path`."""
    seen: Counter[str] = Counter()
    for line in trace:
        found = _CALL.match(line)
        if found is None:
            continue
        call, rest = found[1], found[2]
        seen[call] += 1
        if str(path) not in rest:
            continue
        shown = rest.replace(str(path), "…")[:110]
        if call == "mmap":
            yield Fault(call, seen[call], "ENOMEM", shown)
        else:
            yield Fault(call, seen[call], "EIO", shown)
        if call in _CREATES or "O_CREAT" in rest:
            yield Fault(call, seen[call], "ENOSPC", shown)
        yield Fault(call, seen[call], "SIGKILL", shown)


class Run:
    """Runs one scenario in forked children, each on a fresh copy of what it begins with."""

    def __init__(self, scenario: Scenario, template: Path, path: Path) -> None:
        self.scenario = scenario
        self.path = path
        self._template = template
        self._trace = path.parent.parent / "trace"

    def rehearse(self) -> None:
        """Do it here once, so that what is imported late is imported before the first fork."""
        shutil.copytree(self._template, self.path.parent)
        self.scenario.act(self.path, lambda _what, _value: None)

    def once(self, fault: Fault | None) -> tuple[Told, list[str]]:
        """Run it, broken by `fault`; return what it told and what strace wrote."""
        shutil.rmtree(self.path.parent, ignore_errors=True)
        shutil.copytree(self._template, self.path.parent)
        here, there = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            here.close()
            _child(self.scenario, self.path, there)
        there.close()
        command = ["strace", "-f", "-y", "-s", "0", "-e", _TRACED, "-e", "signal=none", "-o", str(self._trace)]
        command += ["-e", fault.option] if fault else []
        with here, subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE) as strace:
            try:
                assert strace.stderr is not None
                said = strace.stderr.readline()
                if b"attached" not in said:
                    raise RuntimeError(f"strace cannot attach: {said.decode().strip()}")
                here.sendall(b"go\n")
                with here.makefile("rb") as stream:
                    lines = stream.readlines()
                _, status = os.waitpid(pid, 0)
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        code = os.waitstatus_to_exitcode(status)
        if code not in ((0, -signal.SIGKILL) if fault else (0,)):
            raise RuntimeError(f"the child ended with {code}: {lines[-1:]}")
        return _told(lines), self._trace.read_text(errors="replace").splitlines()


class signing:  # noqa: N801 - used as a `with` word
    """While entered, `observe` is called with every text that a log key signs, before the signature is used."""

    def __init__(self, observe: Callable[[bytes], None]) -> None:
        self._observe = observe
        self._real = NoteSigner.sign

    def __enter__(self) -> None:
        real, observe = self._real, self._observe

        def sign(signer: NoteSigner, text: bytes) -> bytes:
            observe(text)
            return real(signer, text)

        NoteSigner.sign = sign  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        NoteSigner.sign = self._real  # type: ignore[method-assign]


def _child(scenario: Scenario, path: Path, there: socket.socket) -> None:
    """Wait for strace, do it, tell, and end without any tidying up."""

    def tell(what: str, value: Any) -> None:
        there.sendall(json.dumps([what, value]).encode() + b"\n")

    try:
        there.recv(3)
        with signing(lambda text: tell("signed", text.decode())):
            scenario.act(path, tell)
        tell("done", True)
    except GenealogError as error:
        tell("refused", error.code)
    except BaseException as error:  # noqa: BLE001 - that it is of no known kind is what is to be told
        frames = traceback.extract_tb(error.__traceback__)
        tell("leaked", f"{error!r} from {[f'{Path(f.filename).name}:{f.lineno}' for f in frames]}")
    os._exit(0)


def _told(lines: list[bytes]) -> Told:
    told = Told()
    for line in lines:
        what, value = json.loads(line)
        if what == "acked":
            told.acked.append(value)
        elif what == "signed":
            told.signed.append(value.encode())
        else:
            setattr(told, what, value)
    return told


def main(arguments: list[str] | None = None) -> int:
    """Run the matrix of the named scenarios, or of all; print what was counted. Return 1 if a case failed."""
    from fault_scenarios import SCENARIOS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", help=", ".join(SCENARIOS))
    parser.add_argument("--json", action="store_true", help="one JSON object a scenario")
    parser.add_argument("--only", metavar="TEXT", help="only the faults whose line has this in it")
    options = parser.parse_args(arguments)
    failed = total = 0
    for name in options.scenario or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="genealog-faults-") as folder:
            outcome = matrix(SCENARIOS[name], Path(folder), only=options.only)
        document = outcome.document()
        failed += len(outcome.failures)
        total += document["cases"]
        if options.json:
            print(json.dumps(document))
            continue
        print(f"{name:12} {document['cases']:5} cases  {document['by_fault']}")
        for failure in outcome.failures:
            print(f"  FAILED {failure}")
    if not options.json:
        print(f"{total} cases passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
