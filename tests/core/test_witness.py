"""What a witness decides: only heads that chain are ever cosigned, whoever asks for whatever."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.fork import verify_fork
from genealog.core.merkle import verify_consistency
from genealog.core.note import Cosigner, parse_note, signature_line
from genealog.core.trust import parse_trust
from genealog.core.witness import (
    AddCheckpoint,
    Admitted,
    Head,
    Refusal,
    admit,
    cosignatures,
    decide,
    parse_logs,
    parse_request,
)
from genealog.errors import GenealogError, MalformedError
from witness_samples import ORIGIN, Tree

TREE = Tree(24)
FORKED = Tree(24, branch="other", part=5)
LOGS = parse_logs(f"logs/v0\nvkey {TREE.vkey}\n".encode())
TRUST = parse_trust(f"log {TREE.vkey}\nquorum none\n".encode())
WITNESS = Cosigner("w.example/w", Ed25519PrivateKey.from_private_bytes(bytes(32)))

requests = st.builds(
    lambda tree, sizes, other, drop: AddCheckpoint(
        min(sizes), tree.request(min(sizes), max(sizes)).proof[drop:], (other or tree).note(max(sizes))
    ),
    st.sampled_from([TREE, FORKED]),
    st.lists(st.integers(0, 24), min_size=2, max_size=2),
    st.sampled_from([None, None, None, FORKED, TREE]),
    st.sampled_from([0, 0, 0, 1]),
)


def reply(body: bytes, last: Head | None = None, now: int = 100) -> Head | Refusal:
    admitted = admit(body, LOGS)
    return admitted if isinstance(admitted, Refusal) else decide(admitted, last, now)


def status(body: bytes, last: Head | None = None) -> int:
    found = reply(body, last)
    return found.status if isinstance(found, Refusal) else 200


@given(st.lists(st.tuples(requests, st.integers(0, 50)), max_size=12))
def test_whatever_comes_what_is_cosigned_chains_and_times_do_not_go_back(
    sent: list[tuple[AddCheckpoint, int]],
) -> None:
    last: Head | None = None
    for request, now in sent:
        admitted = admit(request.encode(), LOGS)
        if isinstance(admitted, Refusal):
            continue
        assert parse_request(request.encode()) == request
        decided = decide(admitted, last, now)
        if isinstance(decided, Refusal):
            assert decided.status in (409, 422)
            if decided.fork:
                assert verify_fork(decided.fork, TRUST).origin == ORIGIN
            continue
        if last is not None:
            assert decided.size >= last.size
            assert decided.at >= max(now, last.at)
            verify_consistency(last.size, last.root, decided.size, decided.root, request.proof)
        last = decided
    if last is not None:
        assert any(last.root == tree.checkpoint(last.size).root for tree in (TREE, FORKED))


def test_the_replies_of_the_protocol() -> None:
    last = reply(TREE.body(0, 8))
    assert isinstance(last, Head)
    assert (last.size, last.at) == (8, 100)
    stranger = Tree(9, origin="stranger.example/log", key=2)
    thief = Tree(9, key=2)
    cases = [
        (TREE.body(8, 12), 200),
        (TREE.body(8, 8), 200),
        (stranger.body(0, 9), 404),
        (thief.body(8, 9), 403),
        (TREE.body(0, 12), 409),
        (TREE.body(9, 12), 409),
        (TREE.body(0, 8), 409),
        (FORKED.body(8, 12), 422),
        (FORKED.body(8, 8), 422),
        (AddCheckpoint(8, (bytes(32),), TREE.note(8)).encode(), 422),
        (AddCheckpoint(12, (), TREE.note(8)).encode(), 400),
        (b"old 8\n\n", 400),
        (TREE.body(8, 12).replace(b"old 8", b"old 08"), 400),
        (TREE.body(8, 12).replace(b"old 8\n", b"old 8 \n"), 400),
        (b"", 400),
        (b"old 8\n" + b"A" * 300_000, 400),
    ]
    assert [status(body, last) for body, _ in cases] == [wanted for _, wanted in cases]


def test_a_wrong_size_gets_the_right_one() -> None:
    last = reply(TREE.body(0, 8))
    assert isinstance(last, Head)
    conflict = reply(TREE.body(3, 12), last)
    assert isinstance(conflict, Refusal)
    assert (conflict.body, conflict.content_type) == (b"8\n", "text/x.tlog.size")
    first = reply(TREE.body(3, 12))
    assert isinstance(first, Refusal)
    assert (first.status, first.body) == (409, b"0\n")


def test_the_first_head_needs_no_proof_and_takes_none() -> None:
    assert status(TREE.body(0, 8)) == 200
    assert status(TREE.body(0, 0)) == 200
    assert status(AddCheckpoint(0, (bytes(32),), TREE.note(8)).encode()) == 422
    empty = TREE.note(0)
    text = parse_note(empty).text
    false = text.replace(text.split(b"\n")[2], b"A" * 43 + b"=")
    signed = false + b"\n" + TREE.signer.sign(false)
    assert status(AddCheckpoint(0, (), signed).encode()) == 422


def test_a_second_root_for_a_size_is_evidence_whatever_the_old_size() -> None:
    last = reply(TREE.body(0, 8))
    assert isinstance(last, Head)
    for old, wanted in ((8, 422), (0, 409)):
        refused = reply(FORKED.body(old, 8), last)
        assert isinstance(refused, Refusal)
        assert refused.status == wanted
        assert refused.fork is not None
        assert verify_fork(refused.fork, TRUST).second.checkpoint.size == 8


def test_a_proof_that_leads_to_another_past_is_evidence_and_a_made_up_one_is_not() -> None:
    last = reply(TREE.body(0, 7))
    assert isinstance(last, Head)
    refused = reply(FORKED.body(7, 12), last)
    assert isinstance(refused, Refusal)
    assert refused.fork is not None
    assert verify_fork(refused.fork, TRUST).first.checkpoint.size == 7
    made_up = reply(AddCheckpoint(7, (bytes(32),) * 3, TREE.note(12)).encode(), last)
    assert isinstance(made_up, Refusal)
    assert (made_up.status, made_up.fork) == (422, None)


def test_what_strangers_sign_beside_the_log_is_not_passed_on() -> None:
    other = Tree(1, origin="noise.example/n", key=9)
    body = TREE.body(0, 8) + other.signer.sign(b"anything\n")
    admitted = admit(body, LOGS)
    assert isinstance(admitted, Admitted)
    assert admitted.note == TREE.note(8)


def test_a_known_key_that_signs_badly_is_refused_even_beside_a_good_signature() -> None:
    note = TREE.note(8)
    bad = signature_line(TREE.signer.verifier, bytes(64))
    assert status(AddCheckpoint(0, (), note + bad).encode()) == 403


def test_lists_of_logs() -> None:
    other = Tree(1, origin="b.example/log", key=3)
    text = f"# 2 logs\nlogs/v0\n\nvkey {TREE.vkey}\norigin none\nbastion none\nqpd 24\ncontact me (at) x\n"
    known = parse_logs(f"{text}vkey {other.vkey}\norigin go.sum tree\n".encode())
    assert [(log.origin, log.per_day) for log in known.values()] == [(ORIGIN, 24), ("go.sum tree", None)]
    assert parse_logs(f"log {TREE.vkey} https://x/\nquorum none\n".encode()) == LOGS
    for bad in (
        "qpd 24\n",
        f"vkey {TREE.vkey}\nqpd many\n",
        f"vkey {TREE.vkey}\nqpd 1\nqpd 2\n",
        "vkey x\n",
        "log x\n",
    ):
        with pytest.raises(MalformedError):
            parse_logs(f"logs/v0\n{bad}".encode())


def test_a_log_may_have_two_keys_in_a_rotation() -> None:
    newer = Tree(24, key=5)
    known = parse_logs(f"logs/v0\nvkey {TREE.vkey}\nqpd 7\nvkey {newer.vkey}\n".encode())
    assert len(known[ORIGIN].keys) == 2
    for tree in (TREE, newer):
        assert isinstance(admit(tree.body(0, 8), known), Admitted)


def test_only_cosignatures_of_the_witness_over_this_text_are_taken() -> None:
    text, keys = TREE.checkpoint(8).encode(), (WITNESS.verifier,)
    line = WITNESS.cosign(text, 5)
    other = Cosigner("v.example/v", Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\2")).cosign(text, 5)
    assert cosignatures(other + line + line, text, keys) == (line,)
    for garbage in (b"", b"200 OK\n", other, WITNESS.cosign(TREE.checkpoint(9).encode(), 5), b"x\n\n" + line):
        with pytest.raises(GenealogError):
            cosignatures(garbage, text, keys)
