"""What is erased is gone from every byte, whoever is killed when; and a vault of format 1 becomes one of format 2.

Long because erasing, migrating and rotating each have every crash of theirs as a case.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from call_node import Crash
from genealog.core.call import call_id
from genealog.errors import MissingError, PolicyDenied, StoreError, VerificationError
from genealog.store.keys import KeyRing
from genealog.store.scale.objects import FolderObjects
from genealog.store.vault import Limits, Vault
from genealog.store.vault.erase import TOLD, Chosen, Eraser, digest_of
from genealog.store.vault.rotate import rotate, settle
from genealog.store.vault.schema import milliseconds_of
from genealog.store.vault.sql import SqliteSql
from vault_samples import KEY, OTHER_KEY, Place, call, place, postgres, vault

__all__ = ["place", "postgres", "vault"]

FORMAT_1 = Path(__file__).parents[1] / "vectors" / "vault-format-1.sqlite"


def judge(rows: Any) -> tuple[bytes, str, str, str]:
    return b"tombstone", "00" * 32, "2026-02-01T00:00:00.000Z", "she asked for it"


def erase(vault: Vault, chosen: Chosen, **options: Any) -> None:
    eraser = Eraser(vault)
    erasure = eraser.decide(chosen, judge, **options)
    eraser.destroy(erasure)
    eraser.told(erasure)


def full(vault: Vault) -> None:
    vault.put_calls([
        call(1, subject="ann"), call(2, subject="bob"), call(3, subject="ann"), call(4),
        call(5, subject="ann", tenant="other"),
    ])  # fmt: skip


def readable(vault: Vault) -> list[int]:
    return [number for number in range(1, 6) if not told(vault, number)]


def told(vault: Vault, number: int) -> bool:
    """Say whether the vault says of a call that it was erased."""
    try:
        vault.get_groups(call(number).call)
    except MissingError as error:
        return error.code == "call-erased" and "erased at 2026-02-01T00:00:00.000Z: she asked for it" in error.message
    return False


def secrets_of(place: Place, where: str) -> list[bytes]:
    """Return wrapped keys and masked digests of texts as they stand in the database."""
    keys = place.sql(f"SELECT key FROM subject WHERE id IN (SELECT subject FROM call WHERE {where})")
    texts = place.sql(f"SELECT mac FROM text WHERE call IN (SELECT call FROM call WHERE {where})")
    return [value for (value,) in keys + texts]


def test_a_subject_is_erased_and_nobody_else(vault: Vault) -> None:
    full(vault)
    before = Eraser(vault).select(Chosen("acme", "ann"))
    assert [row.call for row in before] == [call(1).call, call(3).call]
    assert {row.subject for row in before} == {vault.subject_digest("acme", "ann")}
    erase(vault, Chosen("acme", "ann"))
    assert readable(vault) == [2, 4, 5]
    assert {found for found, _, _ in vault.find_text("Say hello")} == {call(n).call for n in (2, 4, 5)}
    assert vault.number("kept") == 3 * len("the requestthe response{}")
    (erasure,) = Eraser(vault).all()
    assert Eraser(vault).digest(erasure) == digest_of([call(3).call, call(1).call])
    assert erasure.state == TOLD


def test_no_byte_of_a_key_or_text_is_left_in_the_files(vault: Vault, place: Place) -> None:
    others = [call(n, subject=f"s{n}", texts=(("response", b"text %d" % n),)) for n in range(10, 300)]
    vault.put_calls(others)
    vault.put_calls(
        [
            call(n, subject=who, texts=(("response", b"%d  words" % n),))
            for n, who in ((1, "ann"), (3, "ann"), (2, "bob"))
        ]
    )
    gone = secrets_of(place, f"call IN ('{call(1).call}', '{call(3).call}')")
    stays = secrets_of(place, f"call = '{call(2).call}'")
    assert len(gone) == 1 + 2 * 2
    assert all(value in place.everything() for value in gone + stays)
    erase(vault, Chosen("acme", "ann"))
    everything = place.everything()
    assert not any(value in everything for value in gone)
    assert all(value in everything for value in stays)


def test_a_tenant_is_erased_with_all_its_subjects(vault: Vault, place: Place) -> None:
    full(vault)
    (key,) = place.sql("SELECT key FROM tenant WHERE name = 'acme'")[0]
    erase(vault, Chosen("acme"))
    assert readable(vault) == [5]
    assert key not in place.everything()
    assert Eraser(vault).tenants() == ["other"]


def test_one_call_is_erased_and_its_subject_keeps_the_others(vault: Vault) -> None:
    full(vault)
    erase(vault, Chosen(calls=(call(1).call,)))
    assert readable(vault) == [2, 3, 4, 5]


def test_only_bodies_or_only_texts_may_go(vault: Vault) -> None:
    full(vault)
    erase(vault, Chosen(calls=(call(1).call,)), what=("bodies",))
    assert vault.get_groups(call(1).call) == dict(call(1).groups)
    with pytest.raises(MissingError, match=r"erased at 2026-02-01T00:00:00\.000Z: she") as caught:
        vault.get_body(call(1).call, "request")
    assert caught.value.code == "body-not-kept"
    assert len(vault.find_text("Say hello")) == 5
    erase(vault, Chosen(calls=(call(1).call,)), what=("texts",))
    assert len(vault.find_text("Say hello")) == 4
    assert vault.get_groups(call(1).call)
    assert vault.number("kept") == 4 * len("the requestthe response{}")


def test_who_comes_back_gets_a_new_key_and_is_not_erased_with_the_past(vault: Vault, place: Place) -> None:
    full(vault)
    late = Vault(place.where, KEY, schema=place.schema)  # a process that has the old key in its memory
    late.put_calls([call(6, subject="ann")])
    eraser = Eraser(vault)
    erasure = eraser.decide(Chosen("acme", "ann"), judge)
    late.put_calls([call(7, subject="ann")])
    eraser.destroy(erasure)
    late.put_calls([call(8, subject="ann")])
    late.close()
    assert vault.get_groups(call(7).call) == dict(call(7).groups)
    assert vault.get_groups(call(8).call) == dict(call(8).groups)
    with pytest.raises(MissingError, match="call-erased"):
        vault.get_groups(call(6).call)
    assert [row.call for row in eraser.select(Chosen("acme", "ann"))] == [call(7).call, call(8).call]


def test_a_judge_that_refuses_leaves_everything_as_it_is(vault: Vault) -> None:
    full(vault)

    def refuses(rows: Any) -> tuple[bytes, str, str, str]:
        assert len(rows) == 2
        raise PolicyDenied("held", "no")

    with pytest.raises(PolicyDenied):
        Eraser(vault).decide(Chosen("acme", "ann"), refuses)
    assert readable(vault) == [1, 2, 3, 4, 5]
    assert Eraser(vault).unfinished() == []
    with pytest.raises(MissingError, match="nothing-to-erase"):
        Eraser(vault).decide(Chosen("acme", "nobody"), judge)


@pytest.mark.parametrize("step", range(1, 5))
def test_killed_at_any_step_it_goes_on_from_there(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    outside = FolderObjects(tmp_path / "outside")
    vault = place.open(limits=Limits(inline=5), outside=outside)
    full(vault)
    eraser = Eraser(vault)
    erasure = eraser.decide(Chosen("acme", "ann"), judge)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        if step == 1:  # before anything
            broken.setattr(Eraser, "_delete", crash)
        elif step == 2:  # objects are gone, rows are not
            broken.setattr(type(vault.db), "transaction", crash)
        elif step == 3:  # rows are gone, bytes are not
            broken.setattr(type(vault.db), "scrub", crash)
        else:  # all is gone, and not noted
            broken.setattr(Eraser, "_set", lambda *given: crash() if given[-1] == 2 else Eraser_set(*given))
        with pytest.raises(Crash):
            eraser.destroy(erasure)
    vault.close()
    again = place.open(limits=Limits(inline=5), outside=outside)
    eraser = Eraser(again)
    (left,) = eraser.unfinished()
    eraser.destroy(left)
    eraser.told(left)
    assert eraser.unfinished() == []
    assert readable(again) == [2, 4, 5]
    assert len(list(outside.names("bodies"))) == 3 * 2  # the report is too small to lie outside
    eraser.destroy(left)


Eraser_set = Eraser._set


def test_a_reader_in_between_keeps_the_log_from_being_emptied_and_is_named(tmp_path: Path) -> None:
    place = Place(tmp_path / "vault" / "vault.sqlite")
    vault = place.open()
    full(vault)
    vault.db.connection.execute("PRAGMA busy_timeout = 50")  # type: ignore[attr-defined]
    vault.db.patience = 0.1  # type: ignore[attr-defined]
    reader = SqliteSql(tmp_path / "vault" / "vault.sqlite")
    reader.run("BEGIN")
    reader.run("SELECT * FROM call")
    eraser = Eraser(vault)
    erasure = eraser.decide(Chosen("acme", "ann"), judge)
    with pytest.raises(StoreError, match="vault-busy"):
        eraser.destroy(erasure)
    assert len(eraser.unfinished()) == 1
    reader.close()
    eraser.destroy(erasure)
    vault.close()


# Format 1


@pytest.fixture
def old(tmp_path: Path) -> Place:
    """A vault that the first version wrote: calls 1 and 2 of acme, 3 of nobody in particular."""
    path = tmp_path / "vault" / "vault.sqlite"
    path.parent.mkdir()
    shutil.copy(FORMAT_1, path)
    path.chmod(0o600)
    return Place(path)


def test_a_vault_of_format_1_opens_and_says_the_same(old: Place) -> None:
    ((wrapped, *_),) = old.sql("SELECT key FROM tenant WHERE name = 'acme'")
    vault = old.open()
    groups = {name: (salt, body) for name, (salt, body) in call().groups.items()}
    assert [vault.get_groups(call(number).call) for number in (1, 2, 3)] == [groups] * 3
    assert vault.get_body(call(1).call, "response") == b"the response"
    with pytest.raises(MissingError, match="body-not-kept"):
        vault.get_body(call(2).call, "response")
    assert vault.find_text("Hello,  world 2\n") == [(call(2).call, "response", "exact")]
    assert len(vault.find_text("Say  hello")) == 3
    assert vault.number("kept") == 2 * len("the requestthe response{}")
    rows = {row.call: row for row in Eraser(vault).older(2**60)}
    assert rows[call(1).call].at == milliseconds_of(call(1).call) == 1735842046975, "the time of the ID"
    vault.put_calls([call(4, subject="ann"), call(1, source="gateway-0/00000001-00000000/1")])
    assert vault.get_body(call(1).call, "request") == b"the request"
    assert Eraser(vault).select(Chosen("acme", "ann"))[0].call == call(4).call
    vault.close()
    assert wrapped not in old.everything()
    again = old.open()
    assert again.get_groups(call(3).call) == groups
    again.close()


def test_calls_of_format_1_can_be_erased(old: Place) -> None:
    vault = old.open()
    erase(vault, Chosen("acme"))
    assert [row.call for row in Eraser(vault).older(2**60)] == [call(3).call]
    vault.close()


def test_a_migration_with_the_wrong_key_changes_nothing(old: Place) -> None:
    before = old.where.read_bytes()  # type: ignore[union-attr]
    with pytest.raises(StoreError, match="vault-key-wrong"):
        old.open(OTHER_KEY)
    vault = old.open()
    vault.close()
    assert before != old.where.read_bytes()  # type: ignore[union-attr]


def test_a_killed_migration_has_not_begun(old: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr("genealog.store.vault.schema._write_meta", crash)
        with pytest.raises(Crash):
            old.open()
    assert old.sql("PRAGMA user_version") == [(1,)]
    vault = old.open()
    assert vault.get_groups(call(1).call)
    vault.close()


# A new vault key


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    ring = KeyRing(tmp_path / "keys")
    ring.create_vault_key()
    return ring


def test_after_a_rotation_only_the_new_key_opens_the_vault(place: Place, ring: KeyRing) -> None:
    vault = place.open(ring.vault_keys)
    full(vault)
    digest = vault.subject_digest("acme", "ann")
    other = place.open(ring.vault_keys)  # another process, that knows nothing of it
    old_key, old_bytes = ring.vault_key(), place.everything()
    old_secrets = secrets_of(place, "1 = 1") + [key for (key,) in place.sql("SELECT key FROM tenant")]
    assert rotate(vault, ring) == 2
    assert ring.vault_key() != old_key
    assert not (ring.path / "vault-next.key").exists()
    with pytest.raises(StoreError, match="vault-key-wrong"):
        place.open(old_key)
    for each in (vault, other, place.open(ring.vault_key())):
        assert each.get_groups(call(1).call) == dict(call(1).groups)
        assert len(each.find_text("Say hello")) == 5
        assert each.subject_digest("acme", "ann") == digest, "statements in the log stay true"
    other.put_calls([call(9, subject="ann")])
    assert len(Eraser(vault).select(Chosen("acme", "ann"))) == 3
    tenants_and_texts = [value for value in old_secrets if value in place.everything()]
    assert len(tenants_and_texts) == 4, "only the keys of subjects, which hang from their tenants', stay as they are"
    assert all(value in old_bytes for value in old_secrets)
    rotate(other, ring)
    assert len(vault.find_text("Say hello")) == 6


@pytest.mark.parametrize("committed", [False, True])
def test_a_killed_rotation_leaves_one_key_that_opens_the_vault(
    place: Place, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    vault = place.open(ring.vault_keys)
    full(vault)
    old_key = ring.vault_key()

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        if committed:
            broken.setattr(KeyRing, "finish_vault_key", crash)
        else:
            broken.setattr("genealog.store.vault.rotate.wrap_meta", crash)
        with pytest.raises(Crash):
            rotate(vault, ring)
    vault.close()
    assert (ring.path / "vault-next.key").exists()
    again = place.open(ring.vault_keys)
    settle(again, ring)
    assert (ring.path / "vault-next.key").exists() != committed
    assert (ring.vault_key() != old_key) == committed
    assert again.get_groups(call(1).call) == dict(call(1).groups)
    rotate(again, ring)
    assert place.open(ring.vault_key()).get_groups(call(1).call)


def test_a_rotation_killed_while_the_old_key_is_overwritten(place: Place, ring: KeyRing) -> None:
    vault = place.open(ring.vault_keys)
    full(vault)
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            rotate(vault, ring)
    assert (ring.path / "vault.key").read_text().startswith("0000")
    again = place.open(ring.vault_keys)
    settle(again, ring)
    assert again.get_groups(call(1).call) == dict(call(1).groups)
    assert place.open(ring.vault_key()).get_groups(call(1).call)


def test_an_altered_tenant_key_stops_a_rotation(place: Place, ring: KeyRing) -> None:
    vault = place.open(ring.vault_keys)
    full(vault)
    place.sql("UPDATE tenant SET key = ? WHERE name = 'acme'", bytes(60))
    with pytest.raises(VerificationError, match="vault-row-altered"):
        rotate(vault, ring)
    assert vault.get_groups(call(5).call) == dict(call(5).groups)


def test_the_time_of_a_call_is_read_from_its_id() -> None:
    assert milliseconds_of(call_id(1_767_323_045_678, bytes(10))) == 1_767_323_045_678


# Several processes

WRITER = """
import sys
from pathlib import Path
from genealog.store.keys import KeyRing
from genealog.store.vault import Vault
from vault_samples import call

where = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
vault = Vault(where, KeyRing(Path(sys.argv[3])).vault_keys, schema=sys.argv[2])
number = 0
while True:
    batch = [call(number * 3 + at, subject=f"s{at}") for at in range(3)]
    vault.put_calls(batch)
    number += 1
    print(*[item.call for item in batch], flush=True)
"""


def test_a_process_goes_on_writing_while_others_erase_and_rotate(place: Place, ring: KeyRing) -> None:
    vault = place.open(ring.vault_keys)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place.where), place.schema, str(ring.path)],
        stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert writer.stdout is not None
    said: list[str] = []

    def erase_what_comes(chosen: Chosen) -> None:
        while not Eraser(vault).select(chosen):  # the writer may not have come again since the last time
            said.extend(writer.stdout.readline().split())  # type: ignore[union-attr]
        erase(vault, chosen)

    try:
        for _ in range(4):
            erase_what_comes(Chosen("acme"))
            rotate(vault, ring)
            erase_what_comes(Chosen("acme", "s0"))
    finally:
        writer.kill()
        lines = writer.stdout.readlines()
        writer.stdout.close()
        writer.wait()
    said += [call for line in lines if line.endswith("\n") for call in line.split()]
    erased = {call for erasure in Eraser(vault).all() for (call,) in calls_of(vault, erasure.id)}
    assert len(erased) > 12
    for each in said:
        if each in erased:
            with pytest.raises(MissingError, match="call-erased"):
                vault.get_groups(each)
        else:
            assert vault.get_groups(each) == dict(call().groups)
    assert len(said) > len(erased & set(said)) > 12


def calls_of(vault: Vault, erasure: int) -> list[Any]:
    return vault.db.run("SELECT call FROM erased WHERE erasure = ?", (erasure,))
