"""Both ways with `aics-witness`, a witness that nobody here wrote: its server cosigns our logs, ours its client's.

The two deciders are also asked the same requests and have to give the same answers, bad requests included.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.merkle import EMPTY_ROOT
from genealog.core.note import encode_note, format_vkey, parse_note
from genealog.core.trust import parse_trust
from genealog.core.witness import AddCheckpoint, Refusal, admit, cosignatures, parse_logs
from genealog.cosigning import Collector
from genealog.remote import Remote
from genealog.store.home import REGISTRY, Home
from genealog.store.witness_state import WitnessState
from peers import BIN, ask, b64, raw, running
from witness_samples import Tree, make_witness
from witness_samples import running as serving

NOW = 1_760_000_000
NAME = "witness.example/theirs"


@contextmanager
def their_witness(folder: Path, *vkeys: str) -> Iterator[tuple[str, str]]:
    """Run `aics-witness serve` for these logs; gives its URL and its vkey."""
    config = ["--config", str(folder / "witness.json")]

    def tool(*words: str) -> str:
        done = subprocess.run([BIN / "aics-witness", *words], text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    if not (folder / "witness.json").exists():
        folder.mkdir()
        tool("init", *config, "--name", NAME, "--listen", "127.0.0.1:0")
        for vkey in vkeys:
            tool("add-log", *config, "--origin", vkey.partition("+")[0], "--vkey", vkey)
    vkey = tool("init", *config).strip()
    with running([BIN / "aics-witness", "serve", *config], until=r"listening on (http://\S+)") as said:
        yield said[1], vkey


def test_its_server_cosigns_our_store_round_after_round(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "store", origin="example.org/store", identity="Jane")
    ours = format_vkey(home.log_keys(REGISTRY).verifiers[0])
    policy = home.path / "trust.policy"
    with their_witness(tmp_path / "theirs", ours) as (url, vkey):
        lines = [line for line in policy.read_text().splitlines() if not line.startswith("quorum")]
        policy.write_text("\n".join([*lines, f"witness theirs {vkey} {url}", "quorum theirs", ""]))
        collector = Collector(home, names=[REGISTRY], at_least=0.0)
        log = home.log(REGISTRY)
        seen = []
        for _ in range(3):
            log.append([b"entry %d" % log.size, b"another"])
            assert [(each.said, each.size) for each in collector.collect()] == [("cosigned", log.size)]
            note = collector.heads.note(REGISTRY, log.size)
            assert note is not None
            assert home.trust.open_checkpoint(note).checkpoint.size == log.size
            found = ask("check_checkpoint", note=b64(note), vkey=ours, witnesses=[vkey], quorum=1)
            assert found["ok"], found["error"]
            seen.append(log.size)
        assert sorted(collector.heads.sizes(REGISTRY)) == seen
    home.close()


def test_its_server_refuses_a_fork_of_our_log_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    tree, fork = Tree(20), Tree(20, branch="x", part=7)
    folder = tmp_path / "theirs"
    with their_witness(folder, tree.vkey) as (url, vkey):
        first = post(url, tree.body(0, 9))
        assert first[0] == 200
        trust = parse_trust(f"log {tree.vkey}\nwitness w {vkey}\nquorum w\n".encode())
        keys = tuple(trust.witnesses.values())
        (line,) = cosignatures(first[1], tree.checkpoint(9).encode(), keys)
        assert trust.verify_checkpoint(tree.note(9) + line) == tree.checkpoint(9)
    with their_witness(folder) as (url, same):
        assert same == vkey
        assert post(url, tree.body(0, 12))[:2] == (409, b"9\n")
        assert post(url, fork.body(9, 12))[0] == 422
        assert post(url, fork.body(9, 9))[0] == 422
        assert post(url, tree.body(9, 12))[0] == 200
        assert post(url, Tree(4, origin="log.example/unknown").body(0, 4))[0] == 404
        assert post(url, Tree(20, key=2).body(12, 20))[0] == 403


@pytest.mark.parametrize("ml_dsa", [False, True], ids=["ed25519", "ed25519 and ml-dsa-44"])
def test_its_client_collects_from_our_server(tmp_path: Path, ml_dsa: bool) -> None:
    tree = Tree(40)
    state = make_witness(tmp_path / "ours", tree, ml_dsa=ml_dsa)
    vkey = state.trust_lines[0].split()[2]
    sizes = (5, 5, 16, 40)
    with serving(state) as port:
        answers = ask(
            "submit", url=f"http://127.0.0.1:{port}", witness_vkey=vkey, state=str(tmp_path / "client.json"),
            steps=[{"note": b64(tree.note(size)), "proofs": proofs(tree, size)} for size in sizes],
        )  # fmt: skip
    trust = parse_trust(f"log {tree.vkey}\nwitness w {vkey}\nquorum w\n".encode())
    for size, answer in zip(sizes, answers, strict=True):
        note = raw(answer["note"])
        assert trust.verify_checkpoint(note) == tree.checkpoint(size)
        assert ask("check_checkpoint", note=answer["note"], vkey=tree.vkey, witnesses=[vkey], quorum=1)["ok"]


def test_its_client_is_refused_by_our_server_what_its_own_would_refuse(tmp_path: Path) -> None:
    tree, fork = Tree(40), Tree(40, branch="x", part=3)
    stranger = Tree(4, origin="log.example/unknown")
    state = make_witness(tmp_path / "ours", tree)
    vkey = state.trust_lines[0].split()[2]
    steps = [(tree, 9), (fork, 12), (fork, 9), (tree, 5), (stranger, 4), (Tree(40, key=2), 12), (tree, 12)]
    with serving(state) as port:
        answers = ask(
            "submit", url=f"http://127.0.0.1:{port}", witness_vkey=vkey, state=str(tmp_path / "client.json"),
            steps=[{"note": b64(each.note(size)), "proofs": proofs(each, size)} for each, size in steps],
        )  # fmt: skip
    told = [answer.get("status") or answer.get("refused", "cosigned") for answer in answers]
    assert told == ["cosigned", 422, 422, "WitnessAhead", 404, 403, "cosigned"]


def test_both_deciders_answer_alike(tmp_path: Path) -> None:
    """One after the other, so that what one request changes counts for the next."""
    tree, fork = Tree(300), Tree(300, branch="x", part=100)
    requests = {
        "garbage": b"garbage",
        "empty": b"",
        "no empty line": b"old 0\n",
        "old without a number": b"old \n\n" + tree.note(5),
        "old with a leading zero": b"old 00\n\n" + tree.note(5),
        "old with a sign": b"old +0\n\n" + tree.note(5),
        "a hash of 31 bytes": b"old 0\n" + b64(bytes(31)).encode() + b"\n\n" + tree.note(5),
        "loose base64": b"old 0\n" + b64(bytes(32)).encode()[:-2] + b"B=\n\n" + tree.note(5),
        "64 hashes": b"old 0\n" + (b64(bytes(32)).encode() + b"\n") * 64 + b"\n" + tree.note(5),
        "no signature": b"old 0\n\n" + tree.checkpoint(5).encode() + b"\n",
        "unknown log": Tree(5, origin="log.example/unknown").body(0, 5),
        "another key of that name": Tree(300, key=2).body(0, 5),
        "a bent signature": tree.body(0, 5)[:-6] + b"AAAA=\n",
        "a proof from nothing": AddCheckpoint(0, (bytes(32),), tree.note(5)).encode(),
        "an empty tree with a root": AddCheckpoint(0, (), _empty(tree)).encode(),
        "first": tree.body(0, 5),
        "again": tree.body(5, 5),
        "again with a proof": AddCheckpoint(5, (bytes(32),), tree.note(5)).encode(),
        "from an older size": tree.body(3, 9),
        "from a newer size": tree.body(7, 9),
        "old above the size": AddCheckpoint(9, (), tree.note(5)).encode(),
        "on": tree.body(5, 256),
        "on by one": tree.body(256, 257),
        "a wrong proof": AddCheckpoint(257, tree.request(256, 300).proof, tree.note(300)).encode(),
        "a short proof": AddCheckpoint(257, tree.request(257, 300).proof[:-1], tree.note(300)).encode(),
        "no proof": AddCheckpoint(257, (), tree.note(300)).encode(),
        "a fork": fork.body(257, 300),
        "a fork of the same size": fork.body(257, 257),
        "back": AddCheckpoint(257, (), tree.note(200)).encode(),
        "an unknown line besides": AddCheckpoint(257, tree.request(257, 300).proof, _besides(tree)).encode(),
        "on the end": tree.body(300, 300),
    }
    theirs = ask(
        "decide", name=NAME, seed=b64(bytes(range(32))), vkey=tree.vkey, folder=str(tmp_path), now=NOW,
        requests=[b64(each) for each in requests.values()],
    )  # fmt: skip
    state = make_witness(tmp_path / "ours", tree)
    logs = parse_logs((tmp_path / "ours/logs").read_bytes())
    ours = [decided(state, logs, body) for body in requests.values()]
    state.close()
    told = {name: answer["status"] for name, answer in zip(requests, theirs, strict=True)}
    assert told == dict(zip(requests, [status for status, _ in ours], strict=True))
    sizes = {
        name: raw(answer["body"]) for name, answer in zip(requests, theirs, strict=True) if answer["status"] == 409
    }
    assert sizes == {name: body for name, (status, body) in zip(requests, ours, strict=True) if status == 409}
    assert {200, 400, 403, 404, 409, 422} == set(told.values())


def decided(state: WitnessState, logs: object, body: bytes) -> tuple[int, bytes]:
    admitted = admit(body, logs)  # type: ignore[arg-type]
    found = admitted if isinstance(admitted, Refusal) else state.add(admitted, NOW)
    return (found.status, found.body) if isinstance(found, Refusal) else (200, found.lines)


def proofs(tree: Tree, size: int) -> dict[int, list[str]]:
    """Every consistency proof that a client may need for a head: from each older size."""
    return {old: [b64(each) for each in tree.request(old, size).proof] for old in range(size + 1)}


def post(url: str, body: bytes) -> tuple[int, bytes, str]:
    with Remote(url) as remote:
        reply = remote.send("POST", "add-checkpoint", body, limit=10_000)
    return reply.status, reply.body, reply.content_type


def _empty(tree: Tree) -> bytes:
    text = Checkpoint(tree.origin, 0, EMPTY_ROOT).encode().replace(b64(EMPTY_ROOT).encode(), b64(bytes(32)).encode())
    return encode_note(text, [tree.signer.sign(text)])


def _besides(tree: Tree) -> bytes:
    other = sign_checkpoint(Checkpoint("log.example/other", 1, bytes(32)), Tree(1, origin="log.example/other").signer)
    return tree.note(300) + other[len(parse_note(other).text) + 1 :]
