"""A key revoked since a time: the package and the verifier of one file say the same of every story, and why."""

from __future__ import annotations

import pytest
from golden_story import CHAIN, Story, Twist, at, key_body
from golden_world import trust_policy
from msgspec.structs import replace

from genealog.core.bundle import Evidence, encode_evidence
from genealog.core.chain import examine
from genealog.core.standing import COMPROMISED
from genealog.core.trust import parse_trust
from test_golden import STANDALONE_POLICY, standalone

NEVER = "2099-01-01T00:00:00.000Z"  # witnesses have seen everything before


def codes(label: str, since: str, before: int | None = None) -> set[str | None]:
    """Revoke a key at the end of the story; return the codes of all hops, which both verifiers agree on."""
    body = replace(key_body(label, "revoke", 900), since=since, before=before)
    story = Story(Twist(more=[("late", body, "owner")]))
    receipts = tuple(story.receipt(name) for name in ("call", *CHAIN, "late"))
    evidence = Evidence(call=story.leaf["call"], receipts=receipts, groups={})
    ours = examine(evidence, parse_trust(trust_policy().encode()))
    theirs = standalone.verify(encode_evidence(evidence), STANDALONE_POLICY, None)
    assert [(hop.role, str(hop.state), hop.code) for hop in ours.hops] == [(hop[1], hop[3], hop[4]) for hop in theirs]
    return {hop.code for hop in ours.hops}


@pytest.mark.parametrize("label", ["trainer", "engine", "former"])
@pytest.mark.parametrize("minute", [0, 3, 8, 15, 600])
def test_both_verifiers_agree(label: str, minute: int) -> None:
    found = codes(label, at(minute))
    assert label != "trainer" or minute or COMPROMISED[0] in found
    assert not {*COMPROMISED} & codes(label, at(minute + 1000), 99)


def test_what_witnesses_saw_before_counts() -> None:
    assert not {*COMPROMISED} & codes("trainer", NEVER)
