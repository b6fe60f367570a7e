"""The judge over all golden evidence: leaving things out never helps, changed bytes are seen, and nothing raises."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_story import Story
from golden_world import Log, trust_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from genealog.core.bundle import Evidence, encode_evidence, parse_file
from genealog.core.chain import Report, examine, examine_receipt
from genealog.core.proof import TlogProof, parse_proof
from genealog.core.receipt import Receipt, make_receipt
from genealog.core.states import exit_status
from genealog.core.trust import Trust, parse_trust
from genealog.errors import GenealogError

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "EXPECTED.json").read_bytes())
GOOD = sorted(name for name in EXPECTED if name.startswith("good/"))
BUNDLES = [name for name in GOOD if name.endswith(".genealog")]
TRUST = parse_trust(trust_policy().encode())
STORY = Story()


def load(name: str) -> tuple[Evidence | Receipt, bytes | None]:
    held = EXPECTED[name].get("output")
    return parse_file((GOLDEN / name).read_bytes()), (GOLDEN / held).read_bytes() if held else None


def judge(found: Evidence | Receipt, output: bytes | None = None, trust: Trust | None = TRUST) -> Report:
    return examine(found, trust, output=output) if isinstance(found, Evidence) else examine_receipt(found, trust)


# --- Leaving things out never helps -----------------------------------------------------------------------------------


def smaller(evidence: Evidence) -> Iterator[Evidence]:
    """Yield the bundle without each receipt, each group and each body."""
    for number in range(len(evidence.receipts)):
        yield replace(evidence, receipts=evidence.receipts[:number] + evidence.receipts[number + 1 :])
    for name in evidence.groups:
        yield replace(evidence, groups={key: group for key, group in evidence.groups.items() if key != name})
    if evidence.request is not None:
        yield replace(evidence, request=None)
    if evidence.response is not None:
        yield replace(evidence, response=None)


@pytest.mark.parametrize("name", BUNDLES)
def test_leaving_one_thing_out_never_makes_a_good_bundle_better(name: str) -> None:
    evidence, output = load(name)
    assert isinstance(evidence, Evidence)
    before = judge(evidence, output).state.rank
    assert all(judge(less, output).state.rank >= before for less in smaller(evidence))


@pytest.mark.parametrize("name", sorted(n for n in EXPECTED if EXPECTED[n]["exit"] == 3 and n.endswith(".genealog")))
def test_leaving_one_thing_out_never_turns_doubt_into_success(name: str) -> None:
    evidence, output = load(name)
    assert isinstance(evidence, Evidence)
    assert all(exit_status(judge(less, output).state) != 0 for less in smaller(evidence))


@given(
    st.sampled_from(BUNDLES), st.sets(st.integers(0, 20)), st.sets(st.sampled_from(["engine", "request", "response"]))
)
@settings(max_examples=60, deadline=None)
def test_leaving_many_things_out_never_makes_a_good_bundle_better(name: str, gone: set[int], shut: set[str]) -> None:
    evidence, output = load(name)
    assert isinstance(evidence, Evidence)
    less = replace(
        evidence,
        receipts=tuple(receipt for number, receipt in enumerate(evidence.receipts) if number not in gone),
        groups={key: group for key, group in evidence.groups.items() if key not in shut},
    )
    assert judge(less, output).state.rank >= judge(evidence, output).state.rank


@given(st.randoms(use_true_random=False))
@settings(max_examples=5, deadline=None)
def test_the_order_of_receipts_changes_nothing(rng: random.Random) -> None:
    evidence = STORY.bundle(request=True)
    shuffled = list(evidence.receipts)
    rng.shuffle(shuffled)
    assert judge(replace(evidence, receipts=tuple(shuffled))).hops == judge(evidence).hops


# --- Bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_no_byte_of_good_evidence_can_change(name: str) -> None:
    """All of it is authenticated: `extra` and signatures by strangers are not, and our files have none (see below)."""
    data, output = (GOLDEN / name).read_bytes(), load(name)[1]
    rng = random.Random(name)
    for _ in range(30):
        place, flip = rng.randrange(len(data)), rng.choice([1, 2, 4, 0x20, 0x80, rng.randrange(1, 256)])
        flipped = data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
        try:
            report = judge(parse_file(flipped), output)
        except GenealogError:
            continue
        assert exit_status(report.state) != 0, (place, flip, data[max(0, place - 40) : place + 40])


def with_proof(receipt: Receipt, change: Callable[[TlogProof], TlogProof]) -> Receipt:
    changed = change(parse_proof(receipt.proof.encode()))
    return make_receipt(base64.b64decode(receipt.entry), receipt.origin, changed)


def test_what_nothing_authenticates_changes_no_hop() -> None:
    """`extra` of a tlog-proof, signature lines of keys that the policy does not name, and the order of receipts."""
    evidence = STORY.bundle()
    stranger = Log("stranger.example/log").signer.sign(b"whatever\n")

    def add(proof: TlogProof) -> TlogProof:
        return TlogProof(proof.index, proof.hashes, proof.checkpoint + stranger, b"not authenticated")

    changed = replace(evidence, receipts=tuple(with_proof(receipt, add) for receipt in evidence.receipts))
    assert encode_evidence(changed) != encode_evidence(evidence)
    assert judge(changed).hops == judge(evidence).hops


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_nothing_raises(data: st.DataObject) -> None:
    """Whatever parses is judged: swap entries, proofs, groups and bodies between bundles."""
    evidence, _ = load(data.draw(st.sampled_from(BUNDLES)))
    other, output = load(data.draw(st.sampled_from(BUNDLES)))
    assert isinstance(evidence, Evidence)
    assert isinstance(other, Evidence)
    pool = [*evidence.receipts, *other.receipts]
    entries, origins, proofs = ([getattr(r, field) for r in pool] for field in ("entry", "origin", "proof"))
    odd = st.builds(
        Receipt, entry=st.sampled_from(entries), origin=st.sampled_from(origins), proof=st.sampled_from(proofs)
    )
    picked = data.draw(st.lists(st.sampled_from(pool) | odd, max_size=12))
    groups = data.draw(
        st.dictionaries(
            st.sampled_from(["engine", "response", "x"]),
            st.sampled_from([*other.groups.values()]) if other.groups else st.nothing(),
            max_size=2,
        )
    )
    mixed = Evidence(call=other.call, receipts=tuple(picked), groups=groups, response=evidence.response)
    for trust in (TRUST, None):
        assert examine(mixed, trust, output=output).hops
