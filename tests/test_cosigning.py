"""Collecting cosignatures: from real witnesses over HTTP, and from those that are dead, slow, false or cheated."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from genealog.core.canonical import decode
from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.fork import parse_fork, verify_fork
from genealog.core.merkle import leaf_hash
from genealog.core.note import format_vkey, parse_note
from genealog.core.witness import AddCheckpoint
from genealog.cosigning import Asked, Collector
from genealog.errors import GenealogError
from genealog.remote import Remote
from genealog.store.heads import KEEP, Exchange, Heads, satisfies
from genealog.store.home import REGISTRY, Home
from genealog.store.trust_file import add_witness
from genealog.store.witness_state import WitnessState
from test_remote import answer, server
from witness_samples import post, running, serve_logs


class World:
    """A store with a registry log, and witnesses that know its logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = Home.create(path / "store", origin="store.example")
        self.log = self.home.registry_log()
        self.states: dict[str, WitnessState] = {}
        self.ports: dict[str, int] = {}
        self.now = [1_800_000_000.0]
        self.stack = ExitStack()

    @property
    def trust_file(self) -> Path:
        return self.home.path / "trust.policy"

    def witness(self, name: str, *, ml_dsa: bool = False) -> WitnessState:
        state = WitnessState.create(self.path / name, name=f"{name}.example", ml_dsa=ml_dsa)
        keys = [key for log in (REGISTRY, "calls") for key in self.home.log_keys(log).verifiers]
        serve_logs(self.path / name, *(format_vkey(key) for key in keys))
        self.states[name] = state
        self.ports[name] = self.stack.enter_context(running(state))
        for line in state.trust_lines:
            _, label, vkey = line.split()
            add_witness(self.home.path, label.replace(".example", ""), vkey, f"http://127.0.0.1:{self.ports[name]}")
        return state

    def quorum(self, *lines: str) -> None:
        text = self.trust_file.read_text().replace("quorum none\n", "")
        self.trust_file.write_text(text + "".join(f"{line}\n" for line in lines))
        self.home.forget_trust()

    def collector(self, **options: object) -> Collector:
        options = {"clock": lambda: self.now[0], "dice": lambda: 0.5, **options}
        return Collector(self.home, **options)  # type: ignore[arg-type]

    def collect(self, *, again: bool = True) -> dict[tuple[str, str], Asked]:
        return {(each.witness, each.log): each for each in self.collector().collect(again=again)}

    def append(self, *entries: bytes) -> int:
        self.log.append(entries)
        return self.log.size


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.stack:
        yield world
    world.home.close()


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_cosignatures_of_several_witnesses_meet_on_one_note(world: World) -> None:
    for name in ("a", "b"):
        world.witness(name, ml_dsa=name == "b")
    world.quorum("group both all a b b-pq", "quorum both")
    size = world.append(b"one", b"two")
    assert {each.said for each in world.collect().values()} == {"cosigned"}
    heads = Heads(world.home.path / "heads")
    note = heads.note(REGISTRY, size)
    assert note is not None
    assert satisfies(world.home.trust, note)
    assert set(world.home.trust.open_checkpoint(note).cosigned_at) == {"a", "b", "b-pq"}
    assert {each.said for each in world.collect().values()} == {"current"}
    bigger = world.append(b"three")
    assert {each.said for each in world.collect().values()} == {"cosigned"}
    assert heads.sizes(REGISTRY) == [bigger, size]
    assert all(satisfies(world.home.trust, note) for note in heads.notes(REGISTRY))


def test_logs_without_entries_are_not_shown_and_without_witnesses_there_is_nothing_to_do(world: World) -> None:
    with pytest.raises(GenealogError) as error:
        world.collector().collect()
    assert error.value.code == "no-witnesses"
    world.witness("a")
    assert world.collect() == {}


def test_a_witness_that_lost_track_or_saw_more_is_asked_again_from_there(world: World) -> None:
    world.witness("a")
    world.append(b"one", b"two", b"three")
    world.collect()
    world.append(b"four")
    Heads(world.home.path / "heads").hear("a", {"sizes": {REGISTRY: 1}})
    assert world.collect()["a", REGISTRY].said == "cosigned"
    world.append(b"five")
    (world.home.path / "heads" / "witnesses.json").write_text("[{")
    assert world.collect()["a", REGISTRY].said == "cosigned"


def test_a_dead_and_a_slow_witness_delay_nobody_and_stop_nothing(world: World) -> None:
    key = world.witness("a").cosigners[0].verifier
    world.append(b"one")
    with silent() as slow, socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        for name, url in (("slow", slow), ("dead", dead)):
            other = WitnessState.create(world.path / name, name=f"{name}.example")
            add_witness(world.home.path, name, other.trust_lines[0].split()[2], url)
            other.close()
        heard: list[Asked] = []
        stop, first = threading.Event(), threading.Event()

        def told(asked: Asked) -> None:
            heard.append(asked)
            if asked.witness == "a":
                first.set()

        collector = world.collector(connect=lambda url: Remote(url, wait=3.0), at_least=10.0)
        thread = threading.Thread(target=collector.run, args=(stop, told), kwargs={"every": 0.05})
        thread.start()
        assert first.wait(30)
        assert all(each.witness != "slow" for each in heard), "the slow one has not even failed yet"
        stop.set()
        thread.join()
        assert {each.said for each in heard if each.witness == "dead"} <= {"failed", "waiting"}
        assert {each.said for each in heard if each.witness == "a"} <= {"cosigned", "current"}
        failed = next(each for each in heard if each.witness == "slow")
        assert (failed.said, failed.code) == ("failed", "remote-failed")
    note = Heads(world.home.path / "heads").note(REGISTRY, world.log.size) or b""
    assert any(each.key_id == key.key_id for each in parse_note(note).signatures)


def test_a_witness_that_failed_is_left_alone_for_longer_and_longer(world: World) -> None:
    other = WitnessState.create(world.path / "dead", name="dead.example")
    add_witness(world.home.path, "dead", other.trust_lines[0].split()[2], "http://127.0.0.1:1")
    other.close()
    world.append(b"one")
    waits = []
    for _ in range(4):
        assert world.collect(again=False)["dead", REGISTRY].said == "failed"
        assert world.collect(again=False)["dead", REGISTRY].said == "waiting"
        due = Heads(world.home.path / "heads").heard()["dead"]["due"]
        waits.append(due - world.now[0])
        world.now[0] = due
    assert waits == [20, 40, 80, 160]
    assert world.collect(again=True)["dead", REGISTRY].said == "failed"


def test_a_rate_is_respected(world: World) -> None:
    state = world.witness("a")
    serve_logs(state.path, *(format_vkey(key) for key in world.home.log_keys(REGISTRY).verifiers))
    (state.path / "logs").write_text((state.path / "logs").read_text().replace("qpd 1000000", "qpd 1"))
    for number in range(8):
        world.append(b"%d" % number)
        assert world.collect()["a", REGISTRY].said == "cosigned"
    world.append(b"one more")
    busy = world.collect()["a", REGISTRY]
    assert (busy.said, busy.code) == ("failed", "witness-busy")
    due = Heads(world.home.path / "heads").heard()["a"]["due"]
    assert due - world.now[0] == 86_400


@pytest.mark.parametrize("garbage", [b"", b"ok\n", "— w.example AAAAAAAA\n".encode()])
def test_a_witness_that_signs_garbage_is_reported_and_nothing_is_kept(world: World, garbage: bytes) -> None:
    other = WitnessState.create(world.path / "w", name="w.example")
    world.append(b"one")
    with server(
        lambda handler: (handler.rfile.read(int(handler.headers["content-length"])), answer(handler, garbage))
    ) as url:
        add_witness(world.home.path, "w", other.trust_lines[0].split()[2], url)
        asked = world.collect()["w", REGISTRY]
    other.close()
    assert (asked.said, asked.code) == ("wrong", "witness-cosignature-invalid")
    heads = Heads(world.home.path / "heads")
    assert heads.sizes(REGISTRY) == []
    (kept,) = (heads.folder / "exchanges").iterdir()
    exchange = decode(kept.read_bytes(), Exchange)
    assert (exchange.witness, exchange.status) == ("w", 200)
    assert exchange.request.startswith("old 0\n\nstore.example/registry\n1\n")


def test_a_cosignature_of_another_checkpoint_is_not_one(world: World) -> None:
    other = WitnessState.create(world.path / "w", name="w.example")
    world.append(b"one")
    text = Checkpoint(world.log.origin, 1, leaf_hash(b"another")).encode()
    line = other.cosigners[0].cosign(text, 5)
    with server(
        lambda handler: (handler.rfile.read(int(handler.headers["content-length"])), answer(handler, line))
    ) as url:
        add_witness(world.home.path, "w", other.trust_lines[0].split()[2], url)
        assert world.collect()["w", REGISTRY].said == "wrong"
    other.close()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_log_that_showed_a_witness_another_history_is_proven_to_have_forked(world: World, size: int) -> None:
    world.witness("a")
    signer = world.home.log_keys(REGISTRY).signers[0]
    other = Checkpoint(world.log.origin, size, leaf_hash(b"another history"))
    body = AddCheckpoint(0, (), sign_checkpoint(other, signer)).encode()
    assert post(world.ports["a"], body)[0] == 200
    world.append(*(b"%d" % number for number in range(5)))
    asked = world.collect()["a", REGISTRY]
    assert (asked.said, asked.code) == ("forked", "log-forked")
    (evidence,) = Heads(world.home.path / "heads").forks()
    proven = verify_fork(parse_fork(evidence.read_bytes()), world.home.trust)
    assert proven.first.checkpoint == other
    assert proven.first.cosigned_at.keys() == {"a"}
    assert proven.second.checkpoint.size == 5


def test_a_log_that_was_put_back_is_behind_its_witness(world: World) -> None:
    world.witness("a")
    world.append(b"one")
    world.home.close()
    shutil.copytree(world.home.path / "logs", world.path / "backup")
    world.log = world.home.registry_log()
    world.append(b"two")
    world.collect()
    world.home.close()
    shutil.rmtree(world.home.path / "logs")
    shutil.copytree(world.path / "backup", world.home.path / "logs")
    world.log = world.home.registry_log()
    asked = world.collect()["a", REGISTRY]
    assert (asked.said, asked.code) == ("forked", "log-behind-witness")
    kept = [decode(path.read_bytes(), Exchange) for path in (world.home.path / "heads" / "exchanges").iterdir()]
    assert {each.status for each in kept} == {200, 409}


def test_a_witness_that_refuses_a_head_that_chains_is_wrong_and_the_exchange_is_kept(world: World) -> None:
    other = WitnessState.create(world.path / "w", name="w.example")
    world.append(b"one")

    def handle(handler: http.server.BaseHTTPRequestHandler) -> None:  # type: ignore[name-defined]
        handler.rfile.read(int(handler.headers["content-length"] or 0))
        answer(handler, b"no", 404 if handler.command == "GET" else 422)

    with server(handle) as url:
        add_witness(world.home.path, "w", other.trust_lines[0].split()[2], url)
        asked = world.collect()["w", REGISTRY]
    other.close()
    assert (asked.said, asked.code) == ("wrong", "witness-refused")
    assert len(list((world.home.path / "heads" / "exchanges").iterdir())) == 1


def test_a_witness_that_does_not_know_the_log_says_so(world: World) -> None:
    state = world.witness("a")
    (state.path / "logs").write_text("logs/v0\n")
    world.append(b"one")
    asked = world.collect()["a", REGISTRY]
    assert (asked.said, asked.code) == ("failed", "witness-failed")
    assert "404" in (asked.message or "")


def test_old_notes_go_and_the_newest_that_satisfies_stays(world: World) -> None:
    world.witness("a")
    world.quorum("quorum a")
    size = world.append(b"first")
    world.collect()
    heads = Heads(world.home.path / "heads")
    for number in range(KEEP + 4):
        world.append(b"%d" % number)
        heads.add(REGISTRY, world.log.checkpoint())
        if number == 0:
            heads.keep_token(REGISTRY, world.log.checkpoint(), b"a token")
    heads.prune(REGISTRY, lambda note: satisfies(world.home.trust, note))
    kept = heads.sizes(REGISTRY)
    assert len(kept) == KEEP + 2
    assert kept[-2:] == [size + 1, size]


def test_two_roots_for_one_size_are_never_merged(world: World) -> None:
    world.append(b"one")
    heads = Heads(world.home.path / "heads")
    heads.add(REGISTRY, world.log.checkpoint())
    other = sign_checkpoint(
        Checkpoint(world.log.origin, 1, leaf_hash(b"two")), world.home.log_keys(REGISTRY).signers[0]
    )
    with pytest.raises(GenealogError) as error:
        heads.add(REGISTRY, other, where="a friend")
    assert error.value.code == "log-forked"
    assert verify_fork(parse_fork(heads.forks()[0].read_bytes()), world.home.trust)
    assert heads.note(REGISTRY, 1) == world.log.checkpoint()


def test_the_trust_file_keeps_its_order_and_never_breaks(world: World) -> None:
    state = WitnessState.create(world.path / "w", name="w.example")
    vkey = state.trust_lines[0].split()[2]
    state.close()
    add_witness(world.home.path, "w", vkey, "https://w.example/")
    world.quorum("group g any w", "quorum g")
    add_witness(world.home.path, "w", vkey, "https://other.example/")
    world.home.forget_trust()
    assert world.home.trust.urls["w"] == "https://other.example/"
    before = world.trust_file.read_bytes()
    assert [line.split()[0] for line in before.decode().splitlines()] == ["log", "log", "witness", "group", "quorum"]
    another = format_vkey(world.home.log_keys(REGISTRY).verifiers[0])
    for name, key, url in (
        ("w", another, "https://x/"),
        ("g", vkey, "https://x/"),
        ("v", "nonsense", "https://x/"),
        ("v w", vkey, "https://x/"),
    ):
        with pytest.raises(GenealogError):
            add_witness(world.home.path, name, key, url)
    assert world.trust_file.read_bytes() == before


def test_hints_are_only_hints(world: World) -> None:
    world.witness("a")
    world.append(b"one")
    heads = Heads(world.home.path / "heads")
    heads.hear("a", {"sizes": {REGISTRY: 10**30}, "due": "soon", "failures": None})
    assert world.collect(again=False)["a", REGISTRY].said == "cosigned"
    assert json.loads((heads.folder / "witnesses.json").read_text())["a"]["sizes"] == {REGISTRY: 1}
