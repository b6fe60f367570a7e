"""What aics-tlog and aics-witness wrote and answered once, checked everywhere (scripts/make_peer_vectors.py)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from genealog.core.merkle import leaf_hash, verify_consistency
from genealog.core.note import parse_vkey
from genealog.core.proof import TlogProof, verify_proof
from genealog.core.trust import parse_trust
from genealog.core.witness import KnownLog, Refusal, admit, cosignatures, merge_cosignatures
from genealog.errors import VerificationError
from genealog.remote import open_tree
from genealog.store.static_tree import prove_tree
from genealog.store.witness_state import WitnessState
from peers import raw

FOLDER = Path(__file__).parents[1] / "vectors/peers"
TOLD = json.loads((FOLDER / "told.json").read_text())
TRUST = parse_trust(f"log {TOLD['log_vkey']}\nquorum none\n".encode())
NOW = 1_760_000_000


def entry(number: int) -> bytes:
    return b'{"n":%d}' % number


def test_the_log_that_aics_tlog_published_is_read_whole() -> None:
    with open_tree(str(FOLDER / "log")) as tree:
        view = tree.at(TRUST.verify_checkpoint(tree.note()))
        prove_tree(view)
        assert list(view.entries()) == [entry(number) for number in range(258)]
        for head in map(TRUST.verify_checkpoint, map(raw, TOLD["heads"])):
            verify_consistency(head.size, head.root, 258, view.head.root, view.consistency(head.size))


@pytest.mark.parametrize("index", sorted(map(int, TOLD["proofs"])))
def test_the_proofs_that_aics_tlog_made_hold_and_are_ours(index: int) -> None:
    made = TOLD["proofs"][str(index)]
    old, new = map(TRUST.verify_checkpoint, map(raw, TOLD["heads"]))
    hashes = tuple(map(raw, made["inclusion"]))
    assert verify_proof(entry(index), TlogProof(index, hashes, raw(TOLD["heads"][1])), TRUST) == new
    with pytest.raises(VerificationError):
        verify_proof(entry(index + 1), TlogProof(index, hashes, raw(TOLD["heads"][1])), TRUST)
    verify_consistency(old.size, old.root, new.size, new.root, list(map(raw, made["consistency"])))
    with open_tree(str(FOLDER / "log")) as tree:
        assert tree.at(new).inclusion(index) == hashes


def test_the_bundle_of_aics_tlog_holds() -> None:
    told = TOLD["bundle"]
    proof = TlogProof(told["index"], tuple(map(raw, told["inclusion_proof"])), unpadded(told["checkpoint_note"]))
    assert verify_proof(unpadded(told["entry_bytes"]), proof, TRUST).size == 258


def test_the_cosignatures_of_the_peers_meet_a_quorum() -> None:
    trust = parse_trust(f"log {TOLD['our_vkey']}\nwitness w {TOLD['witness_vkey']}\nquorum w\n".encode())
    head = raw(TOLD["our_head"])
    with pytest.raises(VerificationError):
        trust.verify_checkpoint(head)
    both = merge_cosignatures(head, [TOLD["cosignature"].encode()])
    assert trust.open_checkpoint(both).cosigned_at == {"w": NOW + 1}
    answer = next(raw(each["body"]) for each in TOLD["exchange"] if each["name"] == "on")
    (line,) = cosignatures(answer, head.partition(b"\n\n")[0] + b"\n", [parse_vkey(TOLD["witness_vkey"])])
    assert trust.open_checkpoint(merge_cosignatures(head, [line])).cosigned_at == {"w": NOW}


def test_our_witness_answers_what_aics_witness_answered(tmp_path: Path) -> None:
    key = parse_vkey(TOLD["our_vkey"])
    state = WitnessState.create(tmp_path / "w", name="witness.example/ours")
    for each in TOLD["exchange"]:
        admitted = admit(raw(each["request"]), {key.name: KnownLog(key.name, (key,))})
        found = admitted if isinstance(admitted, Refusal) else state.add(admitted, NOW)
        assert (found.status if isinstance(found, Refusal) else 200) == each["status"], each["name"]
        if each["status"] == 409:
            assert isinstance(found, Refusal)
            assert (found.body, found.content_type) == (raw(each["body"]), each["type"])
    state.close()


def test_a_leaf_is_the_hash_in_the_tile_of_aics_tlog() -> None:
    tile = (FOLDER / "log/tile/0/000").read_bytes()
    assert [tile[i : i + 32] for i in range(0, len(tile), 32)] == [leaf_hash(entry(number)) for number in range(256)]


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
