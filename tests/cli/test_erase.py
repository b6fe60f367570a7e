"""The commands that erase, hold, keep, disclose and rotate, as their users meet them."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Cli
from erasing_store import Store


@pytest.fixture
def calls(tmp_path: Path) -> dict[str, str]:
    """A store in this folder with calls about Ann and Bob; their IDs."""
    store = Store(tmp_path)
    found = {name: store.call(f"{name} likes tea", subject=name) for name in ("ann", "bob")}
    store.spool.close()
    store.home.close()
    return found


def test_without_yes_nothing_is_erased(cli: Cli, calls: dict[str, str]) -> None:
    looked = cli("erase", "--subject", "ann", "--reason", "her wish")
    assert looked.status == 0
    assert "nothing was erased: add --yes" in looked.out
    value = cli("erase", "--subject", "ann", "--reason", "her wish", "--json").json
    assert (value["calls"], value["erased"], value["held"], value["too_young"]) == (1, False, {}, 0)
    assert cli("why", calls["ann"]).status == 3  # no serving spec; its output is proven
    assert "✔ proven" in cli("why", calls["ann"]).out.splitlines()[0]


def test_with_yes_it_is_and_every_command_says_so(cli: Cli, calls: dict[str, str], tmp_path: Path) -> None:
    done = cli("erase", "--subject", "ann", "--reason", "her wish", "--yes", "--json")
    assert done.status == 0
    assert (done.json["erased"], done.json["calls"]) == (True, 1)
    (tombstone,) = done.json["tombstones"]
    assert "ann" not in done.out
    value = cli("why", calls["ann"], "--json").json
    assert (value["hops"][0]["state"], value["hops"][0]["code"]) == ("missing", "erased")
    assert value["hops"][0]["detail"].endswith(f"her wish ({tombstone})")
    written = cli("evidence", calls["ann"], "-o", "ann.genealog")
    assert "the contents of this call were erased at" in written.out
    assert cli("verify", "ann.genealog", "--trust", ".genealog/trust.policy").status == 3
    assert cli("receipt", calls["ann"], "-o", "ann.receipt.json").status == 0
    assert cli("verify", "ann.receipt.json", "--trust", ".genealog/trust.policy").status == 0
    refused = cli("disclose", calls["ann"], "--groups", "usage", "-o", "part.json")
    assert (refused.status, "call-erased" in refused.err) == (3, True)
    assert not (tmp_path / "part.json").exists()
    assert cli("fsck").status == 0
    assert "clean" in cli("fsck").out
    again = cli("erase", "--subject", "ann", "--reason", "her wish", "--yes")
    assert (again.status, "nothing-to-erase" in again.err) == (3, True)


def test_a_hold_is_placed_seen_and_lifted(cli: Cli, calls: dict[str, str]) -> None:
    placed = cli("hold", "place", "case [1]", "--call", calls["ann"], "--reason", "court", "--json")
    assert placed.status == 0
    (row,) = cli("hold", "ls", "--json").json
    assert (row["hold"], row["holds"], row["entry"]) == ("case [1]", f"call {calls['ann']}", placed.json["entry"])
    refused = cli("erase", "--subject", "ann", "--reason", "x", "--yes")
    assert refused.status == 1
    assert "held" in refused.err
    assert "1 call by the hold case [1]" in refused.out
    assert cli("hold", "lift", "case [1]", "--reason", "over").status == 0
    assert cli("hold", "ls", "--json").json == []
    assert cli("erase", "--call", calls["ann"], "--reason", "x", "--yes").status == 0


def test_times_of_a_hold_are_days_or_moments(cli: Cli, calls: dict[str, str]) -> None:
    days = ("--since", "2026-03-01", "--until", "2026-03-01")
    assert cli("hold", "place", "day", "--reason", "r", *days).status == 0
    (row,) = cli("hold", "ls", "--json").json
    assert row["holds"] == "2026-03-01T00:00:00.000Z to 2026-03-01T23:59:59.999Z"
    assert cli("erase", "--subject", "ann", "--reason", "x", "--yes").status == 1
    moment = ("--since", "2026-03-01T10:00:00Z", "--until", "2026-03-01T10:00:00.500Z")
    assert cli("hold", "place", "moment", "--reason", "r", *moment).status == 0
    for wrong in ("yesterday", "2026-13-01", "2026-03-01T10:00:00+01:00", "20260301"):
        refused = cli("hold", "place", "x", "--reason", "r", "--since", wrong, "--until", "2026-03-02")
        assert (refused.status, "bad-option" in refused.err) == (2, True), wrong


def test_retention_shows_asks_and_applies(cli: Cli, calls: dict[str, str], tmp_path: Path) -> None:
    assert "no rules" in cli("retention", "ls").out
    with (tmp_path / ".genealog" / "genealog.toml").open("a") as stream:
        stream.write('\n[[retention]]\ntenant = "acme"\nmaximum = "1d"\n')
    assert cli("retention", "ls", "--json").json == [
        {"rule": 1, "tenant": "acme", "deployment": "*", "minimum": None, "maximum": "1d",
         "deletes": "bodies, groups, texts"},
    ]  # fmt: skip
    assert [due["calls"] for due in cli("retention", "plan", "--json").json["due"]] == [2]
    assert "nothing was deleted" in cli("retention", "apply").out
    assert cli("retention", "apply", "--json").json["applied"] is False
    done = cli("retention", "apply", "--yes", "--json").json
    assert (done["applied"], len(done["tombstones"])) == (True, 1)
    assert cli("retention", "plan", "--json").json["due"] == []
    assert cli("retention", "apply", "--yes").out.strip() == "nothing is due"
    assert cli("fsck").status == 0


def test_a_minimum_is_overridden_in_the_open(cli: Cli, calls: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / ".genealog" / "genealog.toml").open("a") as stream:
        stream.write('\n[[retention]]\nminimum = "36500d"\n')
    refused = cli("erase", "--subject", "ann", "--reason", "x", "--yes")
    assert (refused.status, "retention-minimum" in refused.err) == (1, True)
    assert "too young" in refused.out
    over = ("--override-minimum", "the law")
    assert cli("erase", "--subject", "ann", "--reason", "x", "--yes", *over).status == 0


def test_a_disclosure_is_written_and_verified(cli: Cli, calls: dict[str, str], tmp_path: Path) -> None:
    done = cli("disclose", calls["ann"], "--groups", "usage,response", "--answer", "-o", "part.json", "--json")
    assert done.json["groups"] == ["response", "usage"]
    assert done.json["bodies"] == ["response"]
    (tmp_path / "answer.txt").write_text("ann likes tea")
    trust = ("--trust", ".genealog/trust.policy")
    assert cli("verify", "part.json", *trust, "--output", "answer.txt").status == 0
    assert cli("verify", "part.json").status == 3
    (tmp_path / "answer.txt").write_text("ann likes gin")
    assert cli("verify", "part.json", *trust, "--output", "answer.txt").status == 1
    assert cli("disclose", calls["ann"], "--groups", "money", "-o", "x").status == 2


def test_a_new_vault_key_changes_nothing_that_one_sees(cli: Cli, calls: dict[str, str], tmp_path: Path) -> None:
    cli("fsck")
    old = (tmp_path / ".genealog" / "keys" / "vault.key").read_bytes()
    assert cli("why", calls["ann"]).out.splitlines()[0].endswith("proven")
    assert cli("vault", "rotate-key", "--json").json == {"tenants": 1}
    assert (tmp_path / ".genealog" / "keys" / "vault.key").read_bytes() != old
    assert cli("why", calls["ann"]).out.splitlines()[0].endswith("proven")
    assert cli("fsck").status == 0
    assert cli("erase", "--subject", "ann", "--reason", "x", "--yes").status == 0
