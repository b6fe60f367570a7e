"""Fork evidence: two signed heads that do not chain are proven not to, and nothing else passes for it."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from golden_world import QUORUM, Log, trust_policy
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.fork import Fork, check_fork, encode_fork, forked, make_fork, parse_fork, verify_fork
from genealog.core.merkle import leaf_hash, prefix_path, prefix_roots, tree_root
from genealog.core.note import NoteSigner, format_vkey
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError, MalformedError

ORIGIN = "log.example/forks"
SIGNER = NoteSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
STRANGER = NoteSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1"))
TRUST = parse_trust(f"log {format_vkey(SIGNER.verifier)}\nquorum none\n".encode())


def leaves(count: int, *, other: int | None = None) -> list[bytes]:
    """`count` leaf hashes; `other` is the index of one that differs."""
    return [leaf_hash(b"%d%s" % (i, b"!" if i == other else b"")) for i in range(count)]


def head(hashes: list[bytes], signer: NoteSigner = SIGNER, origin: str = ORIGIN) -> bytes:
    return sign_checkpoint(Checkpoint(origin, len(hashes), tree_root(hashes)), signer)


def nodes(old: int, hashes: list[bytes]) -> tuple[bytes, ...]:
    return prefix_path(old, len(hashes), lambda level, i: tree_root(hashes[i << level : (i + 1) << level]))


def refused(fork: Fork, code: str) -> None:
    with pytest.raises(GenealogError) as error:
        verify_fork(fork, TRUST)
    assert error.value.code == code


@given(st.integers(2, 70), st.data())
def test_the_nodes_of_a_prefix_give_both_roots(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    hashes = leaves(new)
    assert prefix_roots(old, new, nodes(old, hashes)) == (tree_root(hashes[:old]), tree_root(hashes))


@given(st.integers(1, 40), st.integers(0, 40), st.data())
def test_two_heads_that_do_not_chain_are_proven_whatever_their_sizes(old: int, more: int, data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, old - 1))
    smaller, bigger = leaves(old, other=changed), leaves(old + more)
    proof = nodes(old, bigger) if more else None
    pair = [head(smaller), head(bigger)]
    if data.draw(st.booleans()):
        pair.reverse()
    fork = parse_fork(encode_fork(make_fork(*pair, proof, seen=("here", "there"))))
    proven = verify_fork(fork, TRUST)
    assert (proven.origin, proven.first.checkpoint.size, proven.second.checkpoint.size) == (ORIGIN, old, old + more)
    assert proven.prefix == tree_root(leaves(old)) or not more
    assert check_fork(fork) == (proven.first.checkpoint, proven.second.checkpoint)


@given(st.integers(0, 40), st.integers(1, 40))
def test_an_honest_log_cannot_be_accused(old: int, more: int) -> None:
    hashes = leaves(old + more)
    for proof in (None, nodes(old, hashes) if old else ()):
        with pytest.raises(GenealogError) as error:
            make_fork(head(hashes[:old]), head(hashes), proof)
        assert error.value.code == "fork-unproven"
    with pytest.raises(GenealogError) as error:
        make_fork(head(hashes), head(hashes))
    assert error.value.code == "fork-unproven"


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_made_up_nodes_prove_nothing(old: int, more: int, data: st.DataObject) -> None:
    hashes = leaves(old + more)
    proof = list(nodes(old, hashes))
    place = data.draw(st.integers(0, len(proof) - 1))
    proof[place] = data.draw(st.binary(min_size=32, max_size=32).filter(lambda node: node != proof[place]))
    with pytest.raises(GenealogError) as error:
        make_fork(head(hashes[:old]), head(hashes), proof)
    assert error.value.code == "fork-unproven"


def test_it_takes_the_key_of_the_log() -> None:
    smaller, bigger = leaves(5, other=2), leaves(9)
    refused(make_fork(head(smaller, STRANGER), head(bigger), nodes(5, bigger)), "checkpoint-signature-invalid")
    refused(make_fork(head(smaller), head(bigger, STRANGER), nodes(5, bigger)), "checkpoint-signature-invalid")
    with pytest.raises(GenealogError) as error:
        verify_fork(make_fork(head(smaller), head(leaves(5))), parse_trust(b"quorum none\n"))
    assert error.value.code == "unknown-log"


def test_a_quorum_is_not_asked_for() -> None:
    log = Log("golden.example/registry", QUORUM)
    text = [Checkpoint(log.signer.name, 1, leaf_hash(entry)) for entry in (b"a", b"b")]
    fork = make_fork(*(sign_checkpoint(each, log.signer) for each in text))
    assert verify_fork(fork, parse_trust(trust_policy().encode())).origin == log.signer.name


def test_files_that_say_something_else_are_refused() -> None:
    smaller, bigger = leaves(4, other=0), leaves(7)
    fork = make_fork(head(smaller), head(bigger), nodes(4, bigger))
    refused(replace(fork, first=fork.second, second=fork.first), "fork-unproven")
    refused(replace(fork, second=fork.first), "fork-unproven")
    refused(replace(fork, proof=None), "fork-unproven")
    refused(
        replace(fork, proof=(*(fork.proof or ()), base64.b64encode(bytes(32)).decode())), "consistency-proof-mismatch"
    )
    refused(replace(fork, proof=("!",)), "bad-base64")
    same = make_fork(head(smaller), head(leaves(4)))
    refused(replace(same, proof=()), "fork-unproven")
    other = NoteSigner("other.example/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    foreign = head(leaves(4), other, other.name).decode()
    refused(replace(same, second=replace(same.second, note=foreign)), "fork-unproven")
    for data in (b"{}", encode_fork(same) + b"\n", encode_fork(same).replace(b'"first"', b' "first"')):
        with pytest.raises(MalformedError):
            parse_fork(data)


def test_the_error_names_both_heads() -> None:
    error = forked(make_fork(head(leaves(3, other=1)), head(leaves(3))))
    assert error.code == "log-forked"
    assert ORIGIN in error.message
    assert "size 3" in error.facts
