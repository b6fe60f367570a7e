"""A process that writes calls and another that sequences them, both killed with SIGKILL again and again.

Whatever was acknowledged is in the log exactly once afterwards: a call whose close returned has its outcome, a call
whose open returned is there at all.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from call_node import SIGNER, Node
from genealog.core.emitters import check_emitter_chain
from genealog.sequencer import check_sealed
from genealog.store import log_fsck
from genealog.store.spool_reader import SpoolReader

WRITER = """
import os, random, sys
from pathlib import Path
from call_node import Writer
from call_samples import request

choice = random.Random(int(sys.argv[2]))
writer = Writer(Path(sys.argv[1]) / "spool", segment_bytes=20_000)
running = []
while True:
    if len(running) < 3 and choice.random() < 0.6:
        call = writer.call(request("x" * choice.randrange(3000)), close=False)
        os.write(1, b"opened %s\\n" % call.id.encode())
        running.append(call)
    elif running:
        call = running.pop(choice.randrange(len(running)))
        call.chunk(b"y" * choice.randrange(3000))
        call.close(finish="complete")
        os.write(1, b"closed %s\\n" % call.id.encode())
"""

SEQUENCER = """
import sys
from pathlib import Path
from call_node import Node
from genealog import sequencer

sequencer._BATCH_CALLS = 3
node = Node(Path(sys.argv[1]))
while True:
    node.sequencer.run_once()
"""


def child(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
    )


def killed(process: subprocess.Popen[str]) -> list[str]:
    """Kill a child and return the lines that it still got out."""
    process.kill()
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == -9, "it had ended by itself"
    return rest.splitlines()


def lines(writer: subprocess.Popen[str], count: int) -> Iterator[str]:
    assert writer.stdout is not None
    for _ in range(count):
        yield writer.stdout.readline().strip()


@pytest.mark.parametrize("seed", [1, 2])
def test_no_acknowledged_call_is_lost_or_doubled_under_kill_9(tmp_path: Path, seed: int) -> None:
    choice = random.Random(seed)
    node = Node(tmp_path)
    said: list[str] = []
    sequencer = child(SEQUENCER, str(tmp_path))
    for round_ in range(4):
        writer = child(WRITER, str(tmp_path), str(seed * 100 + round_))
        said += lines(writer, choice.randrange(20, 150))
        if choice.random() < 0.6:
            killed(sequencer)
            sequencer = child(SEQUENCER, str(tmp_path))
            said += lines(writer, choice.randrange(20, 150))
        said += killed(writer)
    killed(sequencer)

    node.sequencer.run_once()
    endings = node.endings()
    opened = {line.split()[1] for line in said if line.startswith("opened ")}
    closed = {line.split()[1] for line in said if line.startswith("closed ")}
    assert len(closed) > 60
    assert {call: endings.get(call) for call in closed} == dict.fromkeys(closed, "complete")
    assert opened <= endings.keys()
    assert set(endings.values()) <= {"complete", "unknown"}
    assert check_emitter_chain(node.leaves()).whole
    assert list(check_sealed(node.log.entries(), node.vault)) == []
    assert SpoolReader(node.spool).boots("gateway-0") == []
    node.log.checkpoint()
    errors = [item for item in log_fsck.fsck(tmp_path / "log", verifiers=[SIGNER.verifier]) if item.severity == "error"]
    assert errors == []
    node.close()
