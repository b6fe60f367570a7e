"""Break every single system call that touches a store, one run each, and see what is left.

A scenario is traced with strace once; then it is run again once for each call that named a file of the store and for
each fault: the call fails with EIO, fails with ENOSPC where a full disk would do that, or the process is killed with
SIGKILL as it enters the call. Two kills between which nothing on the disk changed leave the same behind; of such a row
only the first is run, unless `--every-kill` is given. A run is a fork of a warm process that strace is attached to
before it begins: some 30 milliseconds. What it acknowledges and signs goes through a socket, by sendto(2), which
nothing here breaks.

    python tests/faults.py [SCENARIO…]        runs the matrix and prints the count

What a scenario does and what must hold afterwards is in `fault_scenarios`. A fault that strace did not inject is an
error here, and never a case that passed.
"""

from __future__ import annotations

import argparse
import ctypes
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

_CALL = re.compile(r"^(\d+) +([a-z_0-9]+)\((.*)")
_CREATES = {"mkdir", "rename", "renameat", "renameat2", "link", "linkat", "write", "pwrite64", "writev", "ftruncate",
            "fallocate", "fsync", "fdatasync"}  # fmt: skip
_CHANGES = _CREATES | {"unlink", "unlinkat", "rmdir", "fchmod", "chmod"}
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # what is broken is the call, not the disk
_PR_SET_PTRACER = 0x59616D61
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
    signed: list[tuple[str, str]] = field(default_factory=list)
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
    """Every text that a log key has signed, in any process of a case: never two for one key, origin and size."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str, str], str] = {}
        self.count = 0

    def add(self, key: str, text: str) -> None:
        origin, size, *_ = text.split("\n")
        self.count += 1
        known = self._texts.setdefault((key, origin, size), text)
        assert known == text, f"two roots were signed for one size: {known!r} and {text!r}"


def matrix(scenario: Scenario, folder: Path, *, only: str = "", every_kill: bool = False) -> Outcome:
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
    faults = list(plan(trace, path, every_kill=every_kill))
    if not {"write", "fsync"} <= {fault.call for fault in faults} or len(faults) < 50:
        raise RuntimeError(f"strace does not see what {scenario.name} does: {trace[:3]}")
    outcome = Outcome(scenario.name)
    for fault in faults:
        if only in str(fault):
            case(run, fault, outcome)
    return outcome


def case(run: Run, fault: Fault, outcome: Outcome) -> None:
    """Run one case; what is wrong goes to the failures of `outcome`."""
    try:
        told, trace = run.once(fault)
        if not any("(INJECTED)" in line for line in trace) and not (fault.error == "SIGKILL" and not told.done):
            raise RuntimeError("strace did not inject it")
        signatures = Signatures()
        for key, text in told.signed:
            signatures.add(key, text)
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


def plan(trace: list[str], path: Path, *, every_kill: bool) -> Iterator[Fault]:
    """Yield the faults for every traced call that names something below `path`."""
    seen: Counter[tuple[str, str]] = Counter()
    planned: set[tuple[str, int]] = set()
    changed = True
    for line in trace:
        found = _CALL.match(line)
        if found is None:
            continue
        thread, call, rest = found.groups()
        seen[thread, call] += 1
        number = seen[thread, call]
        if str(path) not in rest or (call, number) in planned:  # strace counts by thread: the first to come is hit
            continue
        planned.add((call, number))
        changes = call in _CHANGES or "O_CREAT" in rest or "O_TRUNC" in rest
        errors = ["ENOMEM" if call == "mmap" else "EIO"]
        if call in _CREATES or "O_CREAT" in rest:
            errors.append("ENOSPC")
        if changes or changed or every_kill:
            errors.append("SIGKILL")
        changed = changes
        for error in errors:
            yield Fault(call, number, error, rest.replace(str(path), "…")[:110])


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
        here.recv(1)
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
    """While entered, `observe` is called with key and text of all that a log signs, before the signature is used."""

    def __init__(self, observe: Callable[[str, str], None]) -> None:
        self._observe = observe
        self._real = NoteSigner.sign

    def __enter__(self) -> None:
        real, observe = self._real, self._observe

        def sign(signer: NoteSigner, text: bytes) -> bytes:
            observe(signer.verifier.key_id.hex(), text.decode())
            return real(signer, text)

        NoteSigner.sign = sign  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        NoteSigner.sign = self._real  # type: ignore[method-assign]


def _child(scenario: Scenario, path: Path, there: socket.socket) -> None:
    """Wait for strace, do it, tell, and end without any tidying up."""

    def tell(what: str, value: Any) -> None:
        there.sendall(json.dumps([what, value]).encode() + b"\n")

    try:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)  # strace is not our ancestor
        there.sendall(b".")
        there.recv(3)
        with signing(lambda key, text: tell("signed", [key, text])):
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
            told.signed.append((value[0], value[1]))
        else:
            setattr(told, what, value)
    return told


def main(arguments: list[str] | None = None) -> int:
    """Run the matrix of the named scenarios, or of all; print what was counted. Return 1 if a case failed."""
    from fault_scenarios import SCENARIOS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", help=", ".join(SCENARIOS))
    parser.add_argument("--json", action="store_true", help="one JSON object a scenario")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the faults whose line has this in it")
    parser.add_argument("--every-kill", action="store_true", help="kill at calls between which nothing changes, too")
    options = parser.parse_args(arguments)
    failed = total = 0
    for name in options.scenario or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="genealog-faults-", dir=MEMORY) as folder:
            outcome = matrix(SCENARIOS[name], Path(folder), only=options.only, every_kill=options.every_kill)
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
