"""Does anything get lost? Five ways to end a process that records, random kills, and a real gateway under faults.

    python tests/loss_harness.py            all of it, some minutes
    python tests/loss_harness.py --short    what the test suite runs

Every call whose `close` returned, and every answer that a client got to its end, must be on record once, with its own
bytes. What is missing in between must be told by the numbering of the emitters or by a gap; a loss that nothing tells
of counts as silent, and there must be none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from call_node import Node
from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, events, whole
from gateway.processes import NAME, Process, make_store, on_record
from genealog.completeness import find_holes
from genealog.core.emitters import check_emitter_chain
from genealog.ledger import Ledger
from genealog.sequencer import check_sealed
from genealog.store.home import Home

WRITER = """
import os, sys
from pathlib import Path
from call_node import Writer

how, calls = sys.argv[2], int(sys.argv[3])
writer = Writer(Path(sys.argv[1]) / "spool", segment_bytes=50_000)
for _ in range(calls):
    call = writer.call()
    os.write(1, call.id.encode() + b"\\n")
if how == "sigkill":
    os.kill(os.getpid(), 9)
if how == "os._exit":
    os._exit(0)
"""


def writer(folder: Path, how: str, calls: int) -> subprocess.Popen[str]:
    """Start a process that records `calls` calls, says each when its outcome is on record, and ends as `how` says."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), how, str(calls)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip


def judged(node: Node, said: list[str]) -> int:
    """Return how many of the calls that were `said` are on record; fail if one is there twice or anything is amiss."""
    endings = node.endings()
    assert check_emitter_chain(node.leaves()).whole
    assert list(check_sealed(node.log.entries(), node.vault)) == []
    return sum(endings.get(call) == "complete" for call in said)


def in_process(folder: Path, how: str, calls: int) -> tuple[int, int]:
    """Record calls and end as `how` says; return how many were said to be on record, and how many are.

    `normal`, `sigkill`, `os._exit`: how the process ends. `down`: nobody sequences until all is over, and then begins
    with a log that was away. `slow`: the vault takes its time, while calls come.
    """
    node = Node(folder)
    if how == "slow":
        put = node.vault.put_calls

        def slowly(batch: object) -> None:
            time.sleep(0.05)
            put(batch)  # type: ignore[arg-type]

        node.vault.put_calls = slowly  # type: ignore[method-assign, assignment]
    process = writer(folder, how, calls)
    stop = threading.Event()

    def sequence() -> None:
        while not stop.is_set():
            node.sequencer.run_once()

    thread = threading.Thread(target=sequence)
    if how != "down":
        thread.start()
    said, _ = process.communicate(timeout=300)
    stop.set()
    if how != "down":
        thread.join()
    node.sequencer.run_once()
    lines = said.split()
    found = judged(node, lines)
    node.close()
    return len(lines), found


def killed_at_random(folder: Path, points: int, seed: int = 1) -> tuple[int, int]:
    """Kill a recording process at so many random points; return how many calls were said, and how many are there."""
    choice, node, said = random.Random(seed), Node(folder), []
    for _ in range(points):
        process = writer(folder, "normal", 1_000_000)
        assert process.stdout is not None
        said.append(process.stdout.readline().strip())
        time.sleep(choice.random() * 0.05)
        process.kill()
        rest, _ = process.communicate(timeout=60)
        said += rest.split("\n")[:-1]  # a line that is cut was not said
        node.sequencer.run_once()
    assert node.sequencer.gaps() == () or all(gap.reason == "torn" for gap in node.sequencer.gaps())
    found = judged(node, said)
    node.close()
    return len(said), found


@dataclass
class Campaign:
    """What clients saw: every call that was sent ends in one of these."""

    answered: dict[str, bytes] = field(default_factory=dict)  # call → the answer, to its end
    begun: set[str] = field(default_factory=set)  # calls of which a client saw at least the head
    failed: Counter[str] = field(default_factory=Counter)
    sent: int = 0


async def upstream(wire: Wire, asked: Asked) -> None:
    """Answer as the question says: whole, streamed slowly, cut, or not at all."""
    text = json.loads(asked.body)["messages"][-1]["content"]
    kind = text.split()[0]
    if kind == "reset":
        wire.writer.transport.abort()
    elif kind == "whole":
        await whole(completion(text, model="tiny-2026"))(wire, asked)
    else:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        for number, event in enumerate(events([f"{text} {at} " for at in range(6)])):
            if kind == "cut" and number == 3:
                wire.writer.transport.abort()
                return
            await wire.chunk(event)
            await asyncio.sleep(0.004 if kind == "slow" else 0)
        await wire.end()


KINDS = ("whole", "whole", "whole", "stream", "slow", "reset", "cut", "hangup")


async def client(campaign: Campaign, session: aiohttp.ClientSession, url: str, number: int, kind: str) -> None:
    """Make one call."""
    text = f"{'slow' if kind == 'hangup' else kind} {number}"
    body = {"model": NAME, "messages": [{"role": "user", "content": text}], "stream": kind != "whole"}
    campaign.sent += 1
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            call = answer.headers.get("Genealog-Call", "")
            if answer.status != 200:
                await answer.read()
                campaign.failed[f"status {answer.status}"] += 1
                return
            campaign.begun.add(call)
            if kind == "hangup":
                await answer.content.readany()
                answer.close()
                campaign.failed["hung up"] += 1
                return
            data = await answer.read()
            campaign.answered[call] = data
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        campaign.failed[type(error).__name__] += 1


async def campaign(folder: Path, calls: int, *, concurrency: int = 64, kills: int = 3, full: int = 3) -> dict[str, int]:
    """Make `calls` calls through a real gateway, kill its worker and fill its disk meanwhile; say what came of it."""
    seen, choice = Campaign(), random.Random(calls)
    async with FakeUpstream(upstream) as fake:
        store = make_store(folder, fake.url)
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with Process(store) as gateway, aiohttp.ClientSession(connector=connector) as session:
            numbers = iter(range(calls))

            async def worker() -> None:
                for number in numbers:
                    await client(seen, session, gateway.url, number, choice.choice(KINDS))

            async def trouble() -> None:
                moments = sorted([(choice.random(), "kill") for _ in range(kills)] + [(choice.random(), "full")] * full)
                for share, what in moments:
                    while seen.sent < share * calls:  # noqa: ASYNC110 - nobody tells how many were sent
                        await asyncio.sleep(0.01)
                    await _trouble(gateway, what)

            await asyncio.gather(trouble(), *(worker() for _ in range(concurrency)))
            assert await gateway.stop() == 0
        return _result(store, seen)


async def _trouble(gateway: Process, what: str) -> None:
    while (pid := gateway.worker()) is None:  # noqa: ASYNC110 - the parent starts another one soon
        await asyncio.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        if what == "kill":
            gateway.kill_worker()
            return
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, before[1]))
        await asyncio.sleep(0.2)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def _result(store: Path, seen: Campaign) -> dict[str, int]:
    assert seen.sent == len(seen.answered) + sum(seen.failed.values())
    assert len(seen.answered) > seen.sent / 10, f"there is nothing to judge: {seen.failed}"
    calls = on_record(store)
    lost = [call for call, data in seen.answered.items() if call not in calls or calls[call][0].response != data]
    unknown = [call for call in seen.begun if call not in calls]
    twice = [call for call, found in calls.items() if len(found) > 1]
    home = Home.open(store)
    ledger = Ledger(home)
    found = find_holes(home, ledger.index(), now=datetime.now(UTC))
    holes = [hole for hole in found.holes if hole.state == "gap" and hole.stated is None]
    home.close()
    finishes = Counter(found[0].leaf.finish for found in calls.values())
    return {
        "sent": seen.sent, "answered": len(seen.answered), "failed": sum(seen.failed.values()),
        "on_record": len(calls), "unknown": finishes["unknown"], "answered_lost": len(lost), "begun_lost": len(unknown),
        "twice": len(twice), "silent_gaps": len(holes),
    }  # fmt: skip


def run(*, short: bool) -> dict[str, dict[str, int]]:
    """Run everything; return figures by scenario."""
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number, (how, calls) in enumerate(
            (("normal", 500), ("sigkill", 500), ("os._exit", 500), ("down", 500), ("slow", 500 if short else 5_000))
        ):
            said, there = in_process(Path(name) / str(number), how, calls)
            found[how] = {"said": said, "on_record": there}
        said, there = killed_at_random(Path(name) / "kills", 10 if short else 200)
        found["kill_points"] = {"said": said, "on_record": there}
        (Path(name) / "gateway").mkdir()
        asking = campaign(Path(name) / "gateway", 600 if short else 10_000, kills=2 if short else 5)
        found["gateway"] = asyncio.run(asking)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    for scenario, figures in run(short=parser.parse_args().short).items():
        print(f"{scenario:12}", ", ".join(f"{name} {value}" for name, value in figures.items()))
