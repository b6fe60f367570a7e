"""The witness over real HTTP: the protocol's replies, limits, rates, and what anybody may read."""

from __future__ import annotations

import hashlib
import socket
import threading
from pathlib import Path

import pytest

from genealog.core.fork import parse_fork, verify_fork
from genealog.core.note import open_note
from genealog.core.trust import parse_trust
from genealog.core.witness import MAX_REQUEST, cosignatures
from genealog.errors import GenealogError
from genealog.store.witness_state import WitnessState
from genealog.witness.app import Allowance
from witness_samples import ORIGIN, Tree, get, make_witness, post, running, serve_logs

TREE = Tree(64)
FORKED = Tree(64, branch="other", part=5)
LIAR = Tree(64, branch="other", part=0)
HASH = hashlib.sha256(ORIGIN.encode()).hexdigest()


def test_a_log_gets_its_heads_cosigned_by_both_keys(tmp_path: Path) -> None:
    state = make_witness(tmp_path / "w", TREE, ml_dsa=True)
    keys = [each.verifier for each in state.cosigners]
    with running(state) as port:
        assert get(port, f"/{HASH}/checkpoint")[0] == 404
        for old, size in ((0, 8), (8, 8), (8, 21)):
            status, reply, _ = post(port, TREE.body(old, size))
            assert status == 200
            assert len(cosignatures(reply, TREE.checkpoint(size).encode(), keys)) == 2
        status, note = get(port, f"/{HASH}/checkpoint")
        assert status == 200
        assert len(open_note(note, [TREE.signer.verifier, *keys]).signatures) == 3


def test_refusals(tmp_path: Path) -> None:
    state = make_witness(tmp_path / "w", TREE)
    with running(state) as port:
        assert post(port, TREE.body(3, 9)) == (409, b"0\n", "text/x.tlog.size")
        assert post(port, TREE.body(0, 8))[0] == 200
        assert post(port, TREE.body(3, 9)) == (409, b"8\n", "text/x.tlog.size")
        assert post(port, b"old 0\n\nx\n")[0] == 400
        assert post(port, Tree(3, key=7).body(0, 3))[0] == 403
        assert post(port, Tree(3, origin="else.example").body(0, 3))[0] == 404
        assert post(port, b"x" * (MAX_REQUEST + 1))[0] == 413
        assert post(port, b"", "/elsewhere")[0] == 404
        assert get(port, "/add-checkpoint")[0] == 405
        assert get(port, f"/{HASH.upper()}/checkpoint")[0] == 404
        assert get(port, "/healthz") == (200, b"ok\n")
        assert post(port, FORKED.body(8, 8))[0] == 422
        assert post(port, TREE.body(8, 9))[0] == 200, "refusing a fork must not stop the log"
    kept = WitnessState.open(tmp_path / "w")
    (evidence,) = kept.forks()
    trust = parse_trust(f"log {TREE.vkey}\nquorum none\n".encode())
    assert verify_fork(parse_fork(evidence.read_bytes()), trust).origin == ORIGIN
    assert [(status, body) for _, status, body in kept.refused(ORIGIN)] == [(422, FORKED.body(8, 8))]
    kept.close()


def test_racing_heads_of_one_size_get_at_most_one_root_cosigned(tmp_path: Path) -> None:
    rivals = [Tree(8, branch=f"rival {number}", part=number % 8) for number in range(32)]
    state = make_witness(tmp_path / "w", TREE)
    again = WitnessState.open(tmp_path / "w")  # a second process on the same folder: another connection
    with running(state) as port, running(again) as other:
        replies: dict[int, int] = {}
        start = threading.Barrier(32)

        def race(number: int) -> None:
            start.wait()
            replies[number], _, _ = post((port, other)[number % 2], rivals[number].body(0, 8))

        threads = [threading.Thread(target=race, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(replies.values()) == [200] + [409] * 31
        (winner,) = [number for number, status in replies.items() if status == 200]
        assert rivals[winner].checkpoint(8).encode() in get(port, f"/{HASH}/checkpoint")[1]


def test_a_rate_is_for_updates_and_strangers_cannot_use_it_up(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    state = make_witness(tmp_path / "w", TREE)
    (tmp_path / "w" / "logs").write_text(f"logs/v0\nvkey {TREE.vkey}\nqpd 24\n")
    with running(state, clock=lambda: now[0]) as port:
        for size in range(8):
            assert post(port, TREE.body(size, size + 1))[0] == 200
            assert post(port, LIAR.body(size + 1, size + 20))[0] == (422 if size < 7 else 429)
        assert post(port, TREE.body(8, 9))[0] == 429
        assert post(port, TREE.body(8, 8))[0] == 200
        now[0] += 3_599
        assert post(port, TREE.body(8, 9))[0] == 429
        now[0] += 2
        assert post(port, TREE.body(8, 9))[0] == 200


def test_an_allowance_fills_evenly() -> None:
    bucket = Allowance(86_400, 0.0)
    for _ in range(300):
        assert bucket.wait(0.0) == 0
        bucket.take()
    assert bucket.wait(0.0) == pytest.approx(1.0)
    assert bucket.wait(1.0) == 0
    assert bucket.wait(0.5) == 0, "the clock going back takes nothing away"


def test_the_clock_may_go_back_and_cosigned_times_do_not(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    state = make_witness(tmp_path / "w", TREE)
    key = state.cosigners[0].verifier
    times = []
    with running(state, clock=lambda: now[0]) as port:
        for size, clock in ((1, 1_800_000_000), (2, 1_700_000_000), (3, 1_800_000_005)):
            now[0] = clock
            _, reply, _ = post(port, TREE.body(size - 1, size))
            note = open_note(TREE.checkpoint(size).encode() + b"\n" + reply, [key])
            times.append(note.signatures[0].signed_at)
    assert times == [1_800_000_000, 1_800_000_000, 1_800_000_005]


def test_the_list_of_logs_may_change_and_a_bad_one_does_not_count(tmp_path: Path) -> None:
    other = Tree(4, origin="second.example/log", key=2)
    state = make_witness(tmp_path / "w", TREE)
    with running(state) as port:
        assert post(port, other.body(0, 4))[0] == 404
        serve_logs(tmp_path / "w", TREE.vkey, other.vkey)
        assert post(port, other.body(0, 4))[0] == 200
        (tmp_path / "w" / "logs").write_text("logs/v0\nvkey nonsense\n")
        assert post(port, TREE.body(0, 4))[0] == 200


def test_a_client_that_goes_away_or_never_ends_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genealog.witness.app.READ_WITHIN", 0.2)
    state = make_witness(tmp_path / "w", TREE)
    with running(state) as port:
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.sendall(b"POST /add-checkpoint HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nold")
            assert idle.recv(100).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(b"POST /add-checkpoint HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nold")
        assert post(port, TREE.body(0, 4))[0] == 200


def test_a_state_that_cannot_be_written_cosigns_nothing(tmp_path: Path) -> None:
    state = make_witness(tmp_path / "w", TREE)
    with running(state) as port:
        assert post(port, TREE.body(0, 4))[0] == 200
        state._db.execute("PRAGMA query_only = ON")
        status, reply, _ = post(port, TREE.body(4, 5))
        assert status == 503
        assert b"cosigned nothing" in reply
        state._db.execute("PRAGMA query_only = OFF")
        assert post(port, TREE.body(4, 5))[0] == 200


def test_a_witness_without_its_state_does_not_start(tmp_path: Path) -> None:
    make_witness(tmp_path / "w", TREE, ml_dsa=True).close()
    for folder, code in ((tmp_path / "nothing", "no-witness"), (tmp_path / "w", "")):
        if code:
            with pytest.raises(GenealogError) as error:
                WitnessState.open(folder)
            assert error.value.code == code
    (tmp_path / "w" / "ed25519.pem").chmod(0o644)
    with pytest.raises(GenealogError) as error:
        WitnessState.open(tmp_path / "w")
    assert error.value.code == "key-readable"
    (tmp_path / "w" / "ed25519.pem").chmod(0o600)
    (tmp_path / "w" / "witness.sqlite").unlink()
    with pytest.raises(GenealogError) as error:
        WitnessState.open(tmp_path / "w")
    assert error.value.code == "witness-state-lost"
    with pytest.raises(GenealogError) as error:
        WitnessState.create(tmp_path / "w", name="w")
    assert error.value.code == "witness-exists"
