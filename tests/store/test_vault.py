from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.core.call import GROUPS
from genealog.errors import MalformedError, MissingError, StoreError, VerificationError
from genealog.store.vault import BODIES, Vault, VaultCall

KEY = bytes(range(32))
COLUMNS = [f"group_{name}" for name in GROUPS] + [f"body_{name}" for name in BODIES]


def call(number: int = 1, **changes: Any) -> VaultCall:
    fields: dict[str, Any] = {
        "call": f"{number:026d}",
        "source": f"gateway-0/00000001-00000000/{number}",
        "tenant": "acme",
        "groups": {name: (bytes([at + 65]) * 32, b'{"in":"%s"}' % name.encode()) for at, name in enumerate(GROUPS)},
        "bodies": {"request": b"the request", "response": b"the response", "report": b"{}"},
        "texts": (("response", b"Hello,  world\n"), ("request", b"Say hello")),
    }
    return VaultCall(**(fields | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault" / "vault.sqlite"


@pytest.fixture
def vault(path: Path) -> Iterator[Vault]:
    vault = Vault(path, KEY)
    yield vault
    vault.close()


def sql(path: Path, statement: str, *values: object) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        rows = database.execute(statement, values).fetchall()
        database.commit()
    finally:
        database.close()
    return rows


def test_groups_and_bodies_come_back(vault: Vault, path: Path) -> None:
    vault.put_calls([call()])
    assert vault.get_groups(call().call) == dict(call().groups)
    assert {name: vault.get_body(call().call, name) for name in BODIES} == dict(call().bodies)
    again = Vault(path, KEY)
    assert again.get_groups(call().call) == dict(call().groups)
    again.close()


@given(salt=st.binary(min_size=32, max_size=32), group=st.binary(max_size=100), body=st.binary(max_size=100))
@settings(max_examples=10)
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, salt: bytes, group: bytes, body: bytes) -> None:
    vault = Vault(tmp_path_factory.mktemp("vault") / "v", KEY)
    vault.put_calls([call(groups=dict.fromkeys(GROUPS, (salt, group)), bodies={"request": body})])
    assert vault.get_groups(call().call) == dict.fromkeys(GROUPS, (salt, group))
    assert vault.get_body(call().call, "request") == body
    vault.close()


def test_only_the_owner_can_read_the_files(vault: Vault, path: Path) -> None:
    vault.put_calls([call()])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_nothing_of_a_call_stands_in_clear(vault: Vault, path: Path) -> None:
    vault.put_calls([call()])
    vault.close()
    everything = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert call().call.encode() in everything
    for secret in (
        b"the request",
        b"the response",
        b'{"in":',
        b"Hello",
        b"Say",
        *(salt for salt, _ in call().groups.values()),
    ):
        assert secret not in everything


def test_another_key_does_not_open_the_vault(vault: Vault, path: Path) -> None:
    vault.put_calls([call()])
    with pytest.raises(StoreError, match="vault-key-wrong"):
        Vault(path, bytes(32))
    with pytest.raises(MalformedError, match="bad-vault-key"):
        Vault(path, b"short")


def test_a_file_that_is_no_vault_says_so(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="vault-unusable"):
        Vault(tmp_path / "v", KEY)
    with pytest.raises(StoreError, match="vault-unusable"):
        Vault(tmp_path / "v" / "below-a-file", KEY)


def test_a_vault_of_another_format_is_left_alone(vault: Vault, path: Path) -> None:
    vault.close()
    sql(path, "PRAGMA user_version = 2")
    with pytest.raises(StoreError, match="vault-format"):
        Vault(path, KEY)


@pytest.mark.parametrize("column", COLUMNS)
def test_an_altered_value_is_named(vault: Vault, path: Path, column: str) -> None:
    vault.put_calls([call()])
    ((value,),) = sql(path, f"SELECT {column} FROM call")
    for altered in (value[:-1] + bytes([value[-1] ^ 1]), bytes([value[0] ^ 1]) + value[1:], value[:20], b"x"):
        sql(path, f"UPDATE call SET {column} = ?", altered)
        kind, _, name = column.partition("_")
        with pytest.raises(VerificationError, match="vault-row-altered") as caught:
            vault.get_groups(call().call) if kind == "group" else vault.get_body(call().call, name)
        assert f"{kind} {name!r} of call {call().call}" in str(caught.value)


def test_a_value_cannot_be_moved_to_another_call_or_column(vault: Vault, path: Path) -> None:
    vault.put_calls([call(1), call(2)])
    sql(path, "UPDATE call SET body_request = (SELECT body_request FROM call WHERE call = ?)", call(2).call)
    with pytest.raises(VerificationError, match="vault-row-altered"):
        vault.get_body(call(1).call, "request")
    assert vault.get_body(call(2).call, "request") == b"the request"
    sql(path, "UPDATE call SET body_request = body_response")
    with pytest.raises(VerificationError, match="vault-row-altered"):
        vault.get_body(call(2).call, "request")


def test_an_altered_tenant_key_is_named(vault: Vault, path: Path) -> None:
    vault.put_calls([call()])
    sql(path, "UPDATE tenant SET key = zeroblob(60)")
    with pytest.raises(VerificationError, match="'acme'"):
        vault.get_groups(call().call)


def test_each_tenant_has_its_own_key(vault: Vault, path: Path) -> None:
    vault.put_calls([call(1), call(2, tenant="other"), call(3)])
    assert [name for (name,) in sql(path, "SELECT name FROM tenant ORDER BY id")] == ["acme", "other"]
    sql(path, "UPDATE call SET tenant = 2 WHERE call = ?", call(1).call)
    with pytest.raises(VerificationError, match="vault-row-altered"):
        vault.get_groups(call(1).call)
    assert vault.get_groups(call(3).call)
    sql(path, "DELETE FROM tenant WHERE name = 'other'")
    with pytest.raises(MissingError, match="tenant-erased"):
        vault.get_groups(call(2).call)


def test_what_is_not_there_is_missing(vault: Vault, path: Path) -> None:
    with pytest.raises(MissingError, match="call-not-in-vault"):
        vault.get_groups(call().call)
    vault.put_calls([call(bodies={})])
    with pytest.raises(MissingError, match="body-not-kept"):
        vault.get_body(call().call, "request")
    with pytest.raises(MalformedError, match="no-such-body"):
        vault.get_body(call().call, "who")
    sql(path, "UPDATE call SET group_who = NULL")
    assert sorted(vault.get_groups(call().call)) == sorted(set(GROUPS) - {"who"})


def test_an_empty_body_is_kept_as_one(vault: Vault) -> None:
    vault.put_calls([call(bodies={"request": b""})])
    assert vault.get_body(call().call, "request") == b""


def test_the_same_call_again_replaces_itself(vault: Vault, path: Path) -> None:
    vault.put_calls([call()])
    vault.put_calls([call(bodies={"request": b"sealed again after a crash"})])
    assert vault.get_body(call().call, "request") == b"sealed again after a crash"
    assert sql(path, "SELECT count(*) FROM call") == [(1,)]
    assert len(vault.find_text("Say hello")) == 1


def test_another_call_cannot_take_its_place(vault: Vault) -> None:
    vault.put_calls([call()])
    vault.put_calls([call(source="gateway-1/00000001-00000000/1", bodies={"request": b"forged"})])
    assert vault.get_body(call().call, "request") == b"the request"


def test_a_batch_is_kept_whole_or_not_at_all(vault: Vault) -> None:
    def batch() -> Iterator[VaultCall]:
        yield call(1)
        raise KeyError("the sequencer fails in between")

    with pytest.raises(KeyError):
        vault.put_calls(batch())
    with pytest.raises(MissingError):
        vault.get_groups(call(1).call)
    vault.put_calls([call(2)])
    assert vault.get_groups(call(2).call)


def test_a_text_is_found_exactly_or_but_for_white_space(vault: Vault) -> None:
    vault.put_calls([call(1), call(2, texts=(("response", b"Hello, world"),))])
    assert vault.find_text("Hello,  world\n") == [
        (call(1).call, "response", "exact"),
        (call(2).call, "response", "normalised"),
    ]
    assert vault.find_text("Hello, world") == [
        (call(2).call, "response", "exact"),
        (call(1).call, "response", "normalised"),
    ]
    assert vault.find_text("\u00a0Hello,\tworld ") == [
        (call(1).call, "response", "normalised"),
        (call(2).call, "response", "normalised"),
    ]
    assert vault.find_text("Say hello") == [(call(1).call, "request", "exact")]
    assert vault.find_text("hello, world") == []


def test_nothing_is_found_by_white_space_alone(vault: Vault) -> None:
    vault.put_calls([call(1, texts=(("response", b" \n"),)), call(2, texts=(("response", b"\n\n"),))])
    assert vault.find_text(" \n") == [(call(1).call, "response", "exact")]
    assert vault.find_text("\t") == []
    assert vault.find_text("\ud800") == []


def test_a_whole_body_is_found_too(vault: Vault) -> None:
    body = b'{"a": "\xc3\xa9",\n "b": "\xff"}'
    vault.put_calls([call(texts=(("response", body),))])
    assert vault.find_text(body.decode("utf-8", "surrogateescape")) == []
    assert vault.find_text(body.decode("utf-8", "replace")) == [(call().call, "response", "normalised")]


def test_the_index_is_useless_without_the_key(vault: Vault, path: Path, tmp_path: Path) -> None:
    vault.put_calls([call()])
    other = Vault(tmp_path / "other", bytes(32))
    other.put_calls([call()])
    ours, theirs = (
        {mac for (mac,) in sql(file, "SELECT mac FROM text")} for file in (path, tmp_path / "other")
    )  # fmt: skip
    assert ours.isdisjoint(theirs)
    other.close()


def test_bodies_of_32_mib_are_kept(vault: Vault) -> None:
    body = bytes(32 * 2**20)
    vault.put_calls([call(bodies={"response": body})])
    assert vault.get_body(call().call, "response") == body


def test_two_processes_worth_of_vaults_share_the_file(vault: Vault, path: Path) -> None:
    def fill(first: int) -> None:
        own = Vault(path, KEY)
        for number in range(first, first + 10):
            own.put_calls([call(number)])
        own.close()

    threads = [threading.Thread(target=fill, args=(first,)) for first in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(vault.get_groups(call(number).call) for first in (100, 200, 300) for number in range(first, first + 10))


def test_a_closed_vault_says_so(vault: Vault) -> None:
    vault.close()
    with pytest.raises(StoreError, match="vault-unusable"):
        vault.get_groups(call().call)
