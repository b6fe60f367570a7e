"""The registry over a real store: identities, names, signatures, revocations, and the index as a projection."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from genealog.core import records
from genealog.core.statement import make_statement
from genealog.errors import (
    GenealogError,
    MalformedError,
    MissingError,
    PolicyDenied,
    StoreError,
    VerificationError,
)
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import Home


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.init(tmp_path / ".genealog", origin="models.example", identity="Jane Doe")


def test_a_new_store_has_its_owner_and_engine_in_the_log(registry: Registry) -> None:
    rows = sorted((key.identity, key.role) for key in registry.keys().values())
    assert rows == [("Jane Doe", "owner"), ("engine", "engine")]
    assert registry.home.registry_log().size == 2
    assert registry.ledger.fsck() == ()


def test_a_store_is_made_once(registry: Registry) -> None:
    with pytest.raises(StoreError) as caught:
        Registry.init(registry.home.path)
    assert caught.value.code == "store-exists"


@pytest.mark.parametrize("origin", ["two words", "a+b", "a\nb", 'a"b'])
def test_an_origin_that_no_note_can_carry_is_refused(tmp_path: Path, origin: str) -> None:
    with pytest.raises(StoreError) as caught:
        Registry.init(tmp_path / "s", origin=origin)
    assert caught.value.code == "bad-origin"
    assert not (tmp_path / "s").exists()


def test_equal_bytes_are_one_artifact_under_any_name(registry: Registry, tmp_path: Path) -> None:
    one = registry.add(folder(tmp_path / "one", a="x"), kind="dataset")
    two = registry.add(folder(tmp_path / "two", a="x"), kind="dataset", name="again")
    assert (one.id, one.new, two.new) == (two.id, True, False)
    assert registry.resolve("one").id == registry.resolve("again").id == one.id
    before = registry.home.registry_log().size
    assert registry.add(tmp_path / "one", kind="dataset").position is None
    assert registry.home.registry_log().size == before


def test_a_file_name_counts(registry: Registry, tmp_path: Path) -> None:
    one = registry.add(folder(tmp_path / "one", a="x"), kind="files")
    two = registry.add(folder(tmp_path / "two", b="x"), kind="files")
    assert one.id != two.id


def test_a_name_moves_to_what_was_added_last_and_chains_its_moves(registry: Registry, tmp_path: Path) -> None:
    first = registry.add(folder(tmp_path / "m", a="1"), kind="files", name="m")
    registry.add(folder(tmp_path / "m", a="2"), kind="files", name="m")
    assert registry.resolve("m").id != first.id
    move = registry.last_ref("name", "m")
    assert move is not None
    previous = registry.statement(move["previous"]).body
    assert isinstance(previous, records.Ref)
    assert previous.to == first.id


def test_resolve_takes_names_ids_and_prefixes(registry: Registry, tmp_path: Path) -> None:
    added = registry.add(folder(tmp_path / "m", a="1"), kind="model", source="elsewhere")
    digits = added.id.removeprefix("glf1:")
    for ref in ("m", added.id, digits[:8], f"glf1:{digits[:12]}", digits):
        assert registry.resolve(ref).id == added.id
    for ref in ("nothing", digits[:7], "glr1:" + digits[:12], "%" * 8, "glf1:" + "0" * 64, ""):
        with pytest.raises(MissingError) as caught:
            registry.resolve(ref)
        assert caught.value.code == "unknown-artifact"


def test_check_names_the_file_that_changed(registry: Registry, tmp_path: Path) -> None:
    path = folder(tmp_path / "m", a="1", b="2")
    registry.add(path, kind="model")
    assert registry.check(path, "m").name == "m"
    (path / "b").write_text("3")
    (path / "c").write_text("new")
    with pytest.raises(VerificationError) as caught:
        registry.check(path, "m")
    assert caught.value.code == "bytes-differ"
    assert "b" in str(caught.value.got)
    assert "c" in str(caught.value.got)


def test_a_second_identity_signs_and_a_revoked_one_cannot(registry: Registry, tmp_path: Path) -> None:
    registry.add(folder(tmp_path / "m", a="1"), kind="model")
    registry.add_signer("security", "Security team")
    position = registry.sign("m", signer=registry.signer("security"))
    row = registry.ledger.index().first(select(schema.entry).where(schema.entry.c.id == position.index))
    assert row is not None
    assert (row["signer"], row["problem"]) == ("Security team", None)
    key = registry.signer("security").keyid
    registry.revoke_key(key, reason="left the company")
    with pytest.raises(VerificationError) as caught:
        registry.sign("m", signer=registry.signer("security"))
    assert caught.value.code == "signer-unknown"
    assert registry.keys()[key].revoked == "left the company"


def test_revoking_shows_everywhere(registry: Registry, tmp_path: Path) -> None:
    registry.add(folder(tmp_path / "m", a="1"), kind="model")
    registry.revoke("m", reason="trained on the wrong data")
    assert registry.resolve("m").revoked == "trained on the wrong data"


def test_a_statement_by_a_stranger_is_logged_and_creates_nothing(registry: Registry, tmp_path: Path) -> None:
    stranger = Registry.init(tmp_path / "other").signer()
    body = records.Artifact(kind="model", registered_at="2026-01-01T00:00:00.000Z", body={"kind": "model", "n": 1})
    registry.ledger.append([make_statement(body, stranger, name="evil")])
    with pytest.raises(MissingError):
        registry.resolve("evil")
    assert [f.code for f in registry.ledger.fsck()] == ["signer-unknown"]
    assert registry.ledger.index().rows(select(schema.artifact)) == []


def test_the_engine_key_registers_nothing(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(GenealogError) as caught:
        registry.add(folder(tmp_path / "m", a="1"), kind="model", signer=registry.home.keys.signer("engine"))
    assert caught.value.code == "role-not-allowed"


def test_bytes_that_are_no_statement_stand_in_the_index_as_a_problem(registry: Registry) -> None:
    registry.ledger.append([b"{}"])
    row = registry.ledger.index().first(select(schema.entry).where(schema.entry.c.id == 2))
    assert row is not None
    assert row["problem"] == "schema-mismatch"


def test_rebuilding_the_index_gives_the_same_rows(registry: Registry, tmp_path: Path) -> None:
    for number in range(3):
        registry.add(folder(tmp_path / f"m{number}", a=str(number)), kind="model", source="x")
    registry.add_signer("ci", "CI")
    registry.revoke("m1", reason="no")
    before = registry.ledger.index().dump()
    assert registry.ledger.rebuild() == registry.home.registry_log().size
    assert registry.ledger.index().dump() == before
    registry.home.close()
    for file in registry.home.path.glob("index.sqlite*"):
        file.unlink()
    assert Registry(Home.open(registry.home.path)).ledger.index().dump() == before


def test_an_index_that_is_no_database_is_named(registry: Registry) -> None:
    registry.home.close()
    for file in registry.home.path.glob("index.sqlite*"):
        file.unlink()
    (registry.home.path / "index.sqlite").write_bytes(b"not a database, and long enough to look like one" * 40)
    with pytest.raises(StoreError) as caught:
        Registry(Home.open(registry.home.path)).versions()
    assert caught.value.code == "index-unusable"
    assert "index rebuild" in str(caught.value.hint)


def test_a_key_that_others_can_read_is_refused(registry: Registry) -> None:
    (registry.home.path / "keys" / "owner.pem").chmod(0o640)
    with pytest.raises(StoreError) as caught:
        registry.signer()
    assert caught.value.code == "key-readable"


def test_no_error_and_no_repr_shows_a_private_key(registry: Registry) -> None:
    pem = (registry.home.path / "keys" / "owner.pem").read_text()
    secret = pem.splitlines()[1]
    assert secret not in repr(registry.signer())
    (registry.home.path / "keys" / "owner.pem").write_text(pem[:60])
    with pytest.raises(StoreError) as caught:
        registry.signer()
    assert secret[:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[store", "config-malformed"),
        ("[store]\norigin='x'\nformat=2\n[identities]\n[identities.owner]\nname='a'\nkey='owner'\n", "store-format"),
        ("[store]\norigin='x'\nformat=1\n[identities]\nsigner='ghost'\n", "config-malformed"),
        ("[store]\nformat=1\n[identities]\n", "config-malformed"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(registry: Registry, text: str, code: str) -> None:
    (registry.home.path / "genealog.toml").write_text(text)
    with pytest.raises(StoreError) as caught:
        Home.open(registry.home.path)
    assert caught.value.code == code


def test_the_store_is_found_upwards_as_git_does(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENEALOG_STORE", raising=False)
    deep = registry.home.path.parent / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert Home.find().path.resolve() == registry.home.path.resolve()
    monkeypatch.setenv("GENEALOG_STORE", str(deep))
    with pytest.raises(MissingError) as caught:
        Home.find()
    assert caught.value.code == "no-store"


def test_empty_and_missing_trees_have_no_identity(registry: Registry, tmp_path: Path) -> None:
    before = registry.home.registry_log().size
    (tmp_path / "empty").mkdir()
    with pytest.raises(MalformedError) as caught:
        registry.add(tmp_path / "empty", kind="files")
    assert caught.value.code == "empty-tree"
    assert registry.home.registry_log().size == before


def test_four_processes_register_at_once(registry: Registry, tmp_path: Path) -> None:
    for number in range(4):
        folder(tmp_path / f"m{number}", a=str(number))
    script = (
        "import sys; from pathlib import Path; from genealog.registry import Registry\n"
        "from genealog.store.home import Home\n"
        "r = Registry(Home.open(Path(sys.argv[1])))\n"
        "for n in range(5): (Path(sys.argv[2]) / 'a').write_text(sys.argv[3] + str(n)); "
        "r.add(Path(sys.argv[2]), kind='files', name=sys.argv[3])\n"
    )
    store = str(registry.home.path)
    workers = [
        subprocess.Popen([sys.executable, "-c", script, store, str(tmp_path / f"m{n}"), f"m{n}"], env=dict(os.environ))
        for n in range(4)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0, 0]
    assert len(registry.versions()) == 20
    assert registry.ledger.fsck() == ()
    before = registry.ledger.index().dump()
    registry.ledger.rebuild()
    assert registry.ledger.index().dump() == before


def test_an_index_that_says_something_else_than_the_log_is_found(registry: Registry, tmp_path: Path) -> None:
    registry.add(folder(tmp_path / "m", a="1"), kind="model")
    registry.home.close()
    with sqlite3.connect(registry.home.path / "index.sqlite") as connection:
        connection.execute('UPDATE ref SET "to" = \'glf1:' + "0" * 64 + "'")
    connection.close()
    fresh = Registry(Home.open(registry.home.path))
    assert [finding.code for finding in fresh.ledger.fsck()] == ["index-differs"]
    fresh.ledger.rebuild()
    assert fresh.ledger.fsck() == ()


def test_the_owner_key_stays(registry: Registry) -> None:
    with pytest.raises(PolicyDenied) as caught:
        registry.revoke_key(registry.signer().keyid, reason="a mistake")
    assert caught.value.code == "owner-key"
