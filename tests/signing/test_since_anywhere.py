"""A leaked key in the index: the same rows in either database, in whatever batches the log was read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from golden_story import at, key_body
from golden_world import Key
from msgspec.structs import replace

from genealog.core import records
from genealog.core.canonical import Record
from genealog.core.statement import make_statement
from genealog.store import index as index_module
from genealog.store.index import Index
from postgres import PostgresServer, postgres

__all__ = ["postgres"]


def statement(body: Record, signer: str, artifact: str | None = None) -> bytes:
    return make_statement(body, Key(signer), name="x", artifact=artifact)


def made(number: int, minute: int, signer: str) -> bytes:
    body = records.Artifact(kind="model", registered_at=at(minute), files=1, size=1)
    return statement(body, signer, "glf1:" + f"{number:064x}")


def entries() -> list[bytes]:
    """A trainer's statements among the owner's, and three revocations that tell more each time."""
    revoked = key_body("trainer", "revoke", 500)
    return [
        statement(key_body("owner"), "owner"), statement(key_body("trainer"), "owner"),
        made(1, 5, "trainer"), made(2, 6, "owner"), made(3, 7, "trainer"), made(1, 8, "owner"), made(4, 9, "trainer"),
        statement(revoked, "owner"), made(5, 501, "owner"), made(6, 502, "trainer"),
        statement(replace(revoked, since=at(100)), "owner"), made(4, 503, "owner"),
        statement(replace(revoked, since=at(6)), "owner"), statement(replace(revoked, since=at(50)), "owner"),
        made(3, 504, "owner"),
    ]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def indexes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Index]]:
    """Two empty indexes in one kind of database."""
    if request.param == "sqlite":
        found = [Index(tmp_path / f"{number}.sqlite") for number in range(2)]
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        found = [Index(server.url, tables=f"since_{number}") for number in range(2)]
    yield found
    for each in found:
        each.close()


def test_any_way_to_read_the_log_gives_the_same_rows(indexes: list[Index], monkeypatch: pytest.MonkeyPatch) -> None:
    log = entries()
    step, whole = indexes
    for size in range(1, len(log) + 1):
        step.catch_up("registry", size, lambda start, stop: log[start:stop])
    monkeypatch.setattr(index_module, "_BATCH", 4)
    whole.catch_up("registry", len(log), lambda start, stop: log[start:stop])
    assert step.dump() == whole.dump()
    rows = {row[0]: row for row in step.dump(["entry"])["entry"]}
    problems = {index: row[6] for index, row in rows.items() if row[6] is not None}
    assert problems[2] == "key-compromise-unclear"  # since minute 6 nothing of the owner's is earlier, but its own key
    assert problems[4] == problems[6] == "key-compromised"
    assert 9 in problems
    artifacts = {row[1]: row[2] for row in step.dump(["artifact"])["artifact"]}
    assert artifacts["glf1:" + f"{1:064x}"] == 5  # the next who vouched for the same bytes
    assert artifacts["glf1:" + f"{4:064x}"] == 11
    assert artifacts["glf1:" + f"{3:064x}"] == 14
