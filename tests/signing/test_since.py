"""A key that leaked: what the index, `fsck`, `show` and a rebuild say of what it signed before and after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from command_line import Cli, cli, store
from genealog.core.canonical import timestamp
from genealog.registry import Registry
from genealog.store.home import Home

__all__ = ["cli", "store"]


def add(cli: Cli, name: str, *options: str) -> None:
    Path(name).mkdir()
    Path(name, "w").write_text(name)
    assert cli("add", name, "--kind", "model", *options).status == 0


@pytest.fixture
def ci(cli: Cli, store: Path) -> str:
    """A key `ci` that registered `old`, before the owner said something else, and `new` behind it."""
    assert cli("signer", "add", "ci", "--identity", "CI").status == 0
    add(cli, "old", "--as", "ci")
    add(cli, "between")
    add(cli, "new", "--as", "ci")
    return next(row["key"] for row in cli("signer", "ls", "--json").json if row["identity"] == "CI")


def names(cli: Cli) -> set[str]:
    return {row["name"] for row in cli("ls", "--json").json}


def in_an_hour() -> str:
    return timestamp(datetime.now(UTC) + timedelta(hours=1))


def revoke(store: Path, keyid: str, since: str, before: int | None = None) -> None:
    """As `revoke_key`, with a time that has not come: all that is told here happens within a second."""
    registry = Registry(Home.open(store))
    (row,) = [row for row in registry.keys().values() if row.keyid.startswith(keyid)]
    from genealog.core import records

    body = records.Key(
        action="revoke", keyid=row.keyid, identity=row.identity, role="signer", at=in_an_hour(), since=since,
        before=before, reason="stolen",
    )  # fmt: skip
    registry.append(body, signer=registry.owner(), name="CI")
    registry.home.close()


def rebuilt(store: Path) -> bool:
    """Say whether reading the log from its start gives the rows that are there."""
    registry = Registry(Home.open(store))
    before = registry.ledger.index().dump()
    registry.ledger.rebuild()
    same = registry.ledger.index().dump() == before
    registry.home.close()
    return same


def test_what_somebody_else_followed_stays_and_the_rest_is_gone(cli: Cli, store: Path, ci: str) -> None:
    revoke(store, ci, in_an_hour())
    assert names(cli) == {"model", "old", "between"}
    assert cli("show", "new").status == 3
    assert rebuilt(store)
    found = cli("fsck", "--json")
    assert found.status == 0
    assert {(row["severity"], row["code"]) for row in found.json} == {("warning", "key-compromise-unclear")}
    add(cli, "after")
    assert names(cli) == {"model", "old", "between", "after"}
    assert cli("add", "new", "--kind", "model").status == 0  # somebody else vouches for the same bytes
    assert "new" in names(cli)
    assert rebuilt(store)


def test_since_before_everything_takes_all_of_it_back(cli: Cli, store: Path, ci: str) -> None:
    ran = cli("signer", "revoke", ci[:16], "--reason", "stolen", "--since", "2020-01-01T00:00:00Z")
    assert ran.status == 0, ran.err
    assert "no longer vouched for: registry:" in ran.out
    assert names(cli) == {"model", "between"}
    codes = {row["code"] for row in cli("fsck", "--json").json}
    assert codes == {"key-compromised"}
    assert "2020-01-01T00:00:00.000Z" in cli("signer", "ls").out
    assert rebuilt(store)


def test_the_owner_says_how_long_the_log_was(cli: Cli, store: Path, ci: str) -> None:
    revoke(store, ci, in_an_hour(), before=99)
    assert names(cli) == {"model", "old", "between", "new"}
    assert cli("fsck").status == 0
    assert rebuilt(store)


def test_a_later_revocation_can_say_an_earlier_time_and_never_a_later_one(cli: Cli, store: Path, ci: str) -> None:
    assert cli("signer", "revoke", ci[:16], "--reason", "rotation").status == 0
    assert names(cli) == {"model", "old", "between", "new"}
    revoke(store, ci, in_an_hour())
    assert names(cli) == {"model", "old", "between"}
    revoke(store, ci, "2020-01-01T00:00:00.000Z")
    assert names(cli) == {"model", "between"}
    revoke(store, ci, in_an_hour())
    assert names(cli) == {"model", "between"}
    assert rebuilt(store)


def test_a_second_signature_by_a_key_that_leaked_is_listed_as_what_it_is(cli: Cli, store: Path, ci: str) -> None:
    assert cli("sign", "model", "--as", "ci").status == 0
    revoke(store, ci, in_an_hour())
    shown = cli("show", "model", "--json").json["signatures"]
    assert [(each["state"], each["code"]) for each in shown] == [
        ("stated", None),
        ("unchecked", "key-compromise-unclear"),
    ]


@pytest.mark.parametrize("options", [["--since", "yesterday"], ["--since", "2026-01-01T00:00:00"], ["--before", "3"]])
def test_times_that_are_none(cli: Cli, store: Path, ci: str, options: list[str]) -> None:
    ran = cli("signer", "revoke", ci[:16], "--reason", "x", *options)
    assert (ran.status, "[bad-option]" in ran.err) == (2, True)


def test_a_time_that_has_not_come_is_refused(cli: Cli, store: Path, ci: str) -> None:
    ran = cli("signer", "revoke", ci[:16], "--reason", "x", "--since", in_an_hour())
    assert "[bad-time]" in ran.err


def test_later_entries_cost_what_they_are(cli: Cli, store: Path, ci: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what stands ahead of a revocation has a say in it: the log is not read again for each entry behind it."""
    revoke(store, ci, in_an_hour())
    assert names(cli) == {"model", "old", "between"}

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("genealog.store.projection.discounted", never)
    add(cli, "after")
    assert names(cli) == {"model", "old", "between", "after"}
    monkeypatch.undo()
    assert rebuilt(store)
