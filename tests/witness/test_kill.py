"""The witness is killed again and again while two histories are offered to it: it never cosigns both."""

from __future__ import annotations

import contextlib
import http.client
import signal
import threading
from pathlib import Path

from genealog.core.note import open_note
from genealog.core.witness import cosignatures
from genealog.store.witness_state import WitnessState
from witness_samples import Tree, make_witness, post, process

ROUNDS = 6
HONEST = Tree(400)
FORKED = Tree(400, branch="other", part=0)


def test_killed_at_any_moment_it_never_cosigns_two_histories(tmp_path: Path) -> None:
    state = make_witness(tmp_path / "w", HONEST)
    key = state.cosigners[0].verifier
    state.close()
    given: dict[int, set[bytes]] = {}
    times: list[int] = []
    size = 0
    for _ in range(ROUNDS):
        with process(tmp_path / "w") as (running, port):
            killer = threading.Timer(0.15, running.kill)
            killer.start()
            with contextlib.suppress(OSError, http.client.HTTPException):
                while True:
                    for tree in (HONEST, FORKED):
                        status, reply, _ = post(port, tree.body(size, size + 1))
                        if status == 409:
                            size = int(reply)
                        elif status == 200:
                            text = tree.checkpoint(size + 1).encode()
                            (line,) = cosignatures(reply, text, [key])
                            signed_at = open_note(text + b"\n" + line, [key]).signatures[0].signed_at
                            times.append(signed_at or 0)
                            given.setdefault(size + 1, set()).add(tree.checkpoint(size + 1).root)
                            size += 1
            killer.join()
    assert len(given) >= ROUNDS
    assert all(len(roots) == 1 for roots in given.values())
    assert times == sorted(times)
    kept = WitnessState.open(tmp_path / "w")
    head = kept.head(HONEST.origin)
    assert head is not None
    assert head.size >= max(given)
    kept.close()


def test_asked_to_end_it_ends_well(tmp_path: Path) -> None:
    make_witness(tmp_path / "w", HONEST).close()
    with process(tmp_path / "w") as (running, port):
        assert post(port, HONEST.body(0, 3))[0] == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    assert not (tmp_path / "w" / "witness.sqlite-wal").exists(), "the state was closed"
