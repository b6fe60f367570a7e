"""The index in PostgreSQL gives the rows that the file gives, whoever reads the log there, and however many at once."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from genealog.core import records
from genealog.core.canonical import Record, encode
from genealog.core.dsse import sign_envelope
from genealog.core.ids import record_id
from genealog.core.statement import make_statement
from genealog.core.states import State
from genealog.errors import StoreError
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store import index as index_module
from genealog.store import schema
from genealog.store.home import Home
from genealog.store.index import Index
from genealog.store.signers.pem import KeySigner
from postgres import PASSWORD, PostgresServer, own_postgres, postgres

__all__ = ["own_postgres", "postgres"]
AT = "2026-01-01T00:00:00.000Z"
OWNER, OTHER = (KeySigner(generate_private_key(SECP256R1())) for _ in range(2))
NAMES = st.sampled_from(["a", "Ä", "a\0b", "z", "ß", "_", "Z"])
PLACES = st.integers(0, 4)


def thing(number: int) -> str:
    return "glf1:" + sha256(b"thing %d" % number).hexdigest()


def run(number: int) -> records.Execution:
    return records.Execution(kind="train", started_at=AT, nonce=f"{number:032x}", name=f"run {number}")


def key(signer: KeySigner, role: str, action: str = "add", since: str | None = None) -> records.Key:
    public = base64.b64encode(signer.public_der).decode() if action == "add" else None
    return records.Key(
        action=action, keyid=signer.keyid, identity="x\0y", role=role, at=AT, public=public, reason="lost",
        since=since, before=None if since is None else int(since[3]) % 6,
    )  # fmt: skip


def artifact(number: int, name: str) -> bytes:
    blob = records.Blob(sha256="00" * 32, size=1)
    body = records.Artifact(kind="model", registered_at=AT, files=1, size=2**53 - 1, manifest=blob, source=name)
    return make_statement(body, OWNER, name=name, artifact=thing(number))


EVENTS = st.lists(
    st.builds(
        lambda number, direction, role, state: records.Event(
            artifact=thing(number), direction=direction, role=role, state=state, facts={"scale": "1"}
        ),
        PLACES, st.sampled_from(["in", "out"]), NAMES, st.sampled_from(State),
    ), max_size=4,
).map(tuple)  # fmt: skip


def stated(body: Record, name: str = "x", signer: KeySigner = OWNER) -> bytes:
    return make_statement(body, signer, name=name)


ENTRY = st.one_of(
    st.builds(artifact, PLACES, NAMES),
    st.builds(lambda number: stated(run(number)), PLACES),
    st.builds(
        lambda number, events, how: stated(
            records.ExecutionEnd(execution=record_id(run(number)), ended_at=AT, exit=how, events=events)
        ),
        PLACES, EVENTS, st.sampled_from(["succeeded", "failed"]),
    ),
    st.builds(
        lambda number, events: stated(
            records.ExecutionEvents(execution=record_id(run(number)), at=AT, events=events)
        ),
        PLACES, EVENTS,
    ),
    st.builds(
        lambda number, other, state: stated(
            records.Finding(
                execution=record_id(run(number)), artifact=thing(other), direction="in", role="base", state=state,
                method="shapes", at=AT,
            )
        ),
        PLACES, PLACES, st.sampled_from(State),
    ),
    st.builds(
        lambda number, name, signer: make_statement(
            records.Ref(kind="name", name=name, to=thing(number), at=AT, reason=name), signer, name=name
        ),
        PLACES, NAMES, st.sampled_from([OWNER, OTHER]),
    ),
    st.builds(
        lambda action, since: stated(key(OTHER, "signer", action, since if action == "revoke" else None)),
        st.sampled_from(["add", "revoke"]), st.sampled_from([None, AT, AT.replace("2026", "2025"), "2021" + AT[4:]]),
    ),
    st.sampled_from([b"", b"{}", sign_envelope(encode({"a": 1}), OWNER)]),
)  # fmt: skip


def catch_up(index: Index, entries: Sequence[bytes]) -> None:
    index.catch_up("registry", len(entries), lambda start, stop: entries[start:stop])


def empty(index: Index) -> None:
    with index._writing() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            if table is not schema.about:
                connection.execute(table.delete())


@pytest.fixture(scope="module")
def indexes(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Index]]:
    folder = tmp_path_factory.mktemp("indexes")
    made = [Index(folder / "a.sqlite"), Index(folder / "b.sqlite"), Index(postgres.url, tables="random_logs")]
    yield made
    for index in made:
        index.close()


@settings(max_examples=60, deadline=None)
@given(entries=st.lists(ENTRY, max_size=14), batch=st.integers(1, 5))
def test_the_same_log_gives_the_same_rows_whatever_the_database_and_the_batches(
    indexes: list[Index], entries: list[bytes], batch: int
) -> None:
    entries = [stated(key(OWNER, "owner")), *entries]
    dumps = []
    for index, size in zip(indexes, (2_000, 1, batch), strict=True):
        empty(index)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index_module, "_BATCH", size)
            catch_up(index, entries)
        dumps.append(index.dump())
    assert dumps[0] == dumps[1]
    assert dumps[0] == dumps[2]
    assert len(dumps[0]["entry"]) == len(entries)


@pytest.fixture
def home(tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A store whose index is in PostgreSQL, with a few statements in it."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    home = Registry.init(tmp_path / "store").home
    url = postgres.url.replace(f":{PASSWORD}@", "@")
    path = home.path / "genealog.toml"
    name = "index_" + sha256(bytes(home.path)).hexdigest()[:8]
    path.write_text(path.read_text() + f'\n[index]\ndatabase = "{url}"\nschema = "{name}"\n')
    home.close()
    (home.path / "index.sqlite").unlink()
    home = Home.open(home.path)
    registry = Registry(home)
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(str(number))
        registry.add(tmp_path / f"{number}.txt", kind="dataset", name=f"set-{number}")
    yield home
    home.close()


def in_a_file(home: Home, path: Path) -> dict[str, list[tuple[Any, ...]]]:
    log = home.registry_log()
    fresh = Index(path)
    fresh.catch_up("registry", log.refresh(), log.entries)
    rows = fresh.dump()
    fresh.close()
    return rows


def test_a_store_has_its_index_there_and_none_on_its_own_disk(home: Home, tmp_path: Path) -> None:
    ledger = Ledger(home)
    rows = ledger.index("registry").dump()
    assert rows == in_a_file(home, tmp_path / "fresh.sqlite")
    assert len(rows["artifact"]) == 3
    assert not (home.path / "index.sqlite").exists()
    ledger.rebuild()
    assert ledger.index("registry").dump(("artifact", "entry", "ref", "key")) == {
        name: rows[name] for name in ("artifact", "entry", "ref", "key")
    }
    assert [item for item in ledger.fsck() if item.severity == "error"] == []


def test_many_at_once_write_each_row_once(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_BATCH", 1)
    Ledger(home).index("registry").clear()

    def read(_: int) -> None:
        other = Home.open(home.path)
        Ledger(other).index("registry")
        other.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert home.index.dump() == in_a_file(home, tmp_path / "fresh.sqlite")


def test_what_another_store_wrote_is_not_read_as_this_ones(home: Home, tmp_path: Path) -> None:
    settings = home.config.index
    other = Registry.init(tmp_path / "other").home
    path = other.path / "genealog.toml"
    path.write_text(path.read_text() + f'\n[index]\ndatabase = "{settings.database}"\nschema = "{settings.schema}"\n')
    other.close()
    Ledger(home).index("registry")
    with pytest.raises(StoreError) as caught:
        Ledger(Home.open(other.path)).index("registry")
    assert caught.value.code == "index-of-another-store"
    assert len(Ledger(home).index("registry").dump()["artifact"]) == 3


def test_nor_what_a_store_of_the_same_origin_wrote(home: Home, tmp_path: Path) -> None:
    """An origin is a name, and two may have chosen one: the first entry of the registry log tells them apart."""
    settings = home.config.index
    other = Registry.init(tmp_path / "other", origin=home.config.origin).home
    path = other.path / "genealog.toml"
    path.write_text(path.read_text() + f'\n[index]\ndatabase = "{settings.database}"\nschema = "{settings.schema}"\n')
    other.close()
    rows = Ledger(home).index("registry").dump()
    other = Home.open(other.path)
    ledger = Ledger(other)
    for attempt in (ledger.index, lambda: ledger.index("calls"), ledger.rebuild):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert caught.value.code == "index-of-another-store"
    assert Ledger(home).index("registry").dump() == rows
    Ledger(home).rebuild()
    same = Home.open(home.path)  # another machine of this store
    assert Ledger(same).index("registry").dump()["artifact"] == rows["artifact"]
    same.close()
    with home.index._writing() as connection:  # made before there was such a mark
        connection.execute(text("DELETE FROM about WHERE name = 'first'"))
    with pytest.raises(StoreError, match="index-of-another-store"):
        ledger.index()
    other.close()
    same = Home.open(home.path)
    Ledger(same).index()
    same.close()


def test_tables_of_other_code_are_made_again_and_whoever_had_them_open_says_so(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Ledger(home).index("registry").dump()
    monkeypatch.setattr(schema, "PROJECTION", schema.PROJECTION + 1)
    newer = Home.open(home.path)
    assert newer.index.size("registry") == 0
    assert Ledger(newer).index("registry").dump() == rows
    newer.close()
    monkeypatch.undo()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with pytest.raises(StoreError, match="index-of-other-code"):
        home.index.catch_up("registry", 1_000, lambda _a, _b: [])


def test_a_schema_that_holds_something_else_is_left_alone(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE SCHEMA taken")
        connection.execute("CREATE TABLE taken.head (log text)")
        with pytest.raises(StoreError, match="index-schema-in-use"):
            Index(postgres.url, tables="taken")
        assert connection.execute("SELECT count(*) FROM taken.head").fetchone() == (0,)


def test_no_password_reaches_a_message(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "wrong-hunter2")
    other = Home.open(home.path)
    with pytest.raises(StoreError) as caught:
        _ = other.index
    assert caught.value.code == "index-unusable"
    assert caught.value.got == "OperationalError, password authentication failed"
    assert "hunter2" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    ("place", "cause"),
    [("127.0.0.1:1", "Connection refused"), ("nobody-here.invalid", "unknown host"),
     ("", "No such file or directory")],
)  # fmt: skip
def test_a_server_that_cannot_be_reached_is_told_by_its_cause(
    place: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setenv("PGHOST", str(tmp_path))
    with pytest.raises(StoreError, match="index-unusable") as caught:
        Index(f"postgresql://jane@{place}/x", tables="away")
    assert caught.value.got == f"OperationalError, {cause}"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://a:hunter2@db/x", "mysql://db/x", "postgresql://db/x?password=hunter2", "index.sqlite", "postgres://[x"]
)  # fmt: skip
def test_a_password_has_no_place_in_the_settings(tmp_path: Path, url: str) -> None:
    home = Registry.init(tmp_path / "store").home
    path = home.path / "genealog.toml"
    path.write_text(path.read_text() + f'\n[index]\ndatabase = "{url}"\n')
    home.close()
    with pytest.raises(StoreError, match="config-malformed") as caught:
        _ = Home.open(home.path).index
    assert "hunter2" not in str(caught.value)


def test_a_server_that_was_away_is_asked_again(own_postgres: PostgresServer) -> None:
    index = Index(own_postgres.url, tables="away")
    catch_up(index, [stated(key(OWNER, "owner"))])
    own_postgres.kill_sessions()
    assert index.size("registry") == 1
    own_postgres.stop()
    with pytest.raises(StoreError, match="index-unusable"):
        index.size("registry")
    own_postgres.start()
    assert index.size("registry") == 1
    with index.reading() as connection:
        assert connection.scalar(text("SHOW transaction_isolation")) == "repeatable read"
    index.close()
