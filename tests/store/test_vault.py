from __future__ import annotations

import hmac
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.core.call import GROUPS
from genealog.errors import MalformedError, MissingError, StoreError, VerificationError
from genealog.store.scale.objects import FolderObjects, open_objects
from genealog.store.vault import Limits, Vault, VaultCall
from genealog.store.vault.keys import Hmac, TextKey
from genealog.store.vault.schema import BODIES, COLUMNS
from s3 import s3_bucket, s3_server
from vault_samples import KEY, Place, call, place, postgres, vault

__all__ = ["place", "postgres", "s3_bucket", "s3_server", "vault"]


def test_groups_and_bodies_come_back(vault: Vault, place: Place) -> None:
    vault.put_calls([call()])
    assert vault.get_groups(call().call) == dict(call().groups)
    assert {name: vault.get_body(call().call, name) for name in BODIES} == dict(call().bodies)
    again = place.open()
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


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    path = tmp_path / "vault" / "vault.sqlite"
    vault = Vault(path, KEY)
    vault.put_calls([call()])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    vault.close()


def test_nothing_of_a_call_stands_in_clear(vault: Vault, place: Place) -> None:
    vault.put_calls([call(subject="jane.doe@example.org")])
    vault.close()
    everything = place.everything()
    assert call().call.encode() in everything
    for secret in (
        b"the request",
        b"the response",
        b'{"in":',
        b"Hello",
        b"Say",
        b"jane",
        *(salt for salt, _ in call().groups.values()),
    ):
        assert secret not in everything


def test_another_key_does_not_open_the_vault(vault: Vault, place: Place) -> None:
    vault.put_calls([call()])
    with pytest.raises(StoreError, match="vault-key-wrong"):
        place.open(bytes(32))
    with pytest.raises(MalformedError, match="bad-vault-key"):
        place.open(b"short")


def test_a_file_that_is_no_vault_says_so(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="vault-unusable"):
        Vault(tmp_path / "v", KEY)
    with pytest.raises(StoreError, match="vault-unusable"):
        Vault(tmp_path / "v" / "below-a-file", KEY)


def test_a_vault_of_another_format_is_left_alone(vault: Vault, place: Place) -> None:
    vault.close()
    place.sql("UPDATE meta SET value = ? WHERE name = 'format'", b"3")
    with pytest.raises(StoreError, match="vault-format"):
        place.open()


@pytest.mark.parametrize("column", COLUMNS)
def test_an_altered_value_is_named(vault: Vault, place: Place, column: str) -> None:
    vault.put_calls([call()])
    ((value,),) = place.sql(f"SELECT {column} FROM call")
    for altered in (value[:-1] + bytes([value[-1] ^ 1]), bytes([value[0] ^ 1]) + value[1:], value[:20], b"x"):
        place.sql(f"UPDATE call SET {column} = ?", altered)
        kind, _, name = column.partition("_")
        with pytest.raises(VerificationError, match="vault-row-altered") as caught:
            vault.get_groups(call().call) if kind == "group" else vault.get_body(call().call, name)
        assert f"{kind} {name!r} of call {call().call}" in str(caught.value)


def test_a_value_cannot_be_moved_to_another_call_or_column(vault: Vault, place: Place) -> None:
    vault.put_calls([call(1), call(2)])
    place.sql("UPDATE call SET body_request = (SELECT body_request FROM call WHERE call = ?)", call(2).call)
    with pytest.raises(VerificationError, match="vault-row-altered"):
        vault.get_body(call(1).call, "request")
    assert vault.get_body(call(2).call, "request") == b"the request"
    place.sql("UPDATE call SET body_request = body_response")
    with pytest.raises(VerificationError, match="vault-row-altered"):
        vault.get_body(call(2).call, "request")


def test_an_altered_tenant_key_is_named(vault: Vault, place: Place) -> None:
    vault.put_calls([call()])
    place.sql("UPDATE tenant SET key = ?", bytes(60))
    with pytest.raises(VerificationError, match="'acme'"):
        vault.get_groups(call().call)


def test_each_subject_of_each_tenant_has_its_own_key(vault: Vault, place: Place) -> None:
    vault.put_calls([call(1), call(2, tenant="other"), call(3, subject="ann"), call(4, subject="bob")])
    vault.put_calls([call(5, subject="ann"), call(6, tenant="other", subject="ann")])
    assert [name for (name,) in place.sql("SELECT name FROM tenant ORDER BY id")] == ["acme", "other"]
    assert place.sql("SELECT subject FROM call ORDER BY call") == [(1,), (2,), (3,), (4,), (3,), (5,)]
    place.sql("UPDATE call SET subject = 2 WHERE call = ?", call(1).call)
    with pytest.raises(VerificationError, match="vault-row-altered"):
        vault.get_groups(call(1).call)
    assert vault.get_groups(call(3).call)
    names = {name for (name,) in place.sql("SELECT name FROM subject WHERE name != ?", b"")}
    assert len(names) == 3, "the same name under two tenants is two subjects"
    assert vault.subject_digest("acme", "ann") != vault.subject_digest("other", "ann")


def test_what_is_not_there_is_missing(vault: Vault, place: Place) -> None:
    with pytest.raises(MissingError, match="call-not-in-vault"):
        vault.get_groups(call().call)
    vault.put_calls([call(bodies={})])
    with pytest.raises(MissingError, match="body-not-kept"):
        vault.get_body(call().call, "request")
    with pytest.raises(MalformedError, match="no-such-body"):
        vault.get_body(call().call, "who")
    place.sql("UPDATE call SET group_who = NULL")
    assert sorted(vault.get_groups(call().call)) == sorted(set(GROUPS) - {"who"})


def test_an_empty_body_is_kept_as_one(vault: Vault) -> None:
    vault.put_calls([call(bodies={"request": b""})])
    assert vault.get_body(call().call, "request") == b""


def test_the_same_call_again_replaces_itself(vault: Vault, place: Place) -> None:
    vault.put_calls([call()])
    vault.put_calls([call(bodies={"request": b"sealed again after a crash"})])
    assert vault.get_body(call().call, "request") == b"sealed again after a crash"
    assert place.sql("SELECT count(*) FROM call") == [(1,)]
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


@given(st.binary(max_size=64), st.lists(st.binary(max_size=200), min_size=2, max_size=2))
def test_a_key_that_is_hashed_once_gives_the_same_digests(key: bytes, values: list[bytes]) -> None:
    mac = Hmac(key)
    assert [mac.digest(value) for value in values] == [hmac.digest(key, value, "sha256") for value in values]


@given(
    st.text(st.sampled_from("ab \n\t\v\f\r\x1b\x1c\x1d\x1e\x1f\x85\xa0\u2028é")).map(str.encode)
    | st.binary(max_size=20)
)
def test_every_white_space_is_normalised(text: bytes) -> None:
    words = " ".join(text.decode("utf-8", "replace").split()).encode()
    found = TextKey(KEY).digests(text)
    assert found["exact"] == hmac.digest(KEY, b"exact\0" + text, "sha256")
    assert found.get("normalised") == (hmac.digest(KEY, b"normalised\0" + words, "sha256") if words else None)


def test_the_index_is_useless_without_the_key(vault: Vault, place: Place, tmp_path: Path) -> None:
    vault.put_calls([call()])
    other = Place(tmp_path / "other")
    other.open(bytes(32)).put_calls([call()])
    mine, theirs = ({mac for (mac,) in each.sql("SELECT mac FROM text")} for each in (place, other))
    assert len(mine) == 4
    assert not mine & theirs
    other.opened[0].close()


def test_bodies_of_32_mib_are_kept(vault: Vault) -> None:
    body = bytes(32 * 2**20)
    vault.put_calls([call(bodies={"response": body})])
    assert vault.get_body(call().call, "response") == body


def test_two_processes_worth_of_vaults_share_the_file(vault: Vault, place: Place) -> None:
    def fill(first: int) -> None:
        own = place.open()
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


# Limits, and bodies outside


def test_a_body_over_the_limit_is_not_kept_and_the_row_says_so(place: Place) -> None:
    vault = place.open(limits=Limits(max_body=20))
    vault.put_calls([call(bodies={"request": b"x" * 21, "response": b"y" * 20})])
    assert vault.get_body(call().call, "response") == b"y" * 20
    with pytest.raises(MissingError, match="bigger than max_body") as caught:
        vault.get_body(call().call, "request")
    assert caught.value.code == "body-not-kept"
    assert vault.get_groups(call().call) == dict(call().groups)


def test_a_full_vault_keeps_groups_and_texts_but_no_bodies(place: Place) -> None:
    vault = place.open(limits=Limits(max_total=35))
    vault.put_calls([call(1, bodies={"request": b"x" * 30}), call(2, bodies={"request": b"y" * 6, "report": b"z" * 5})])
    assert vault.get_body(call(1).call, "request") == b"x" * 30
    assert vault.get_body(call(2).call, "report") == b"z" * 5
    with pytest.raises(MissingError, match="max_total"):
        vault.get_body(call(2).call, "request")
    assert vault.find_text("Say hello")
    vault.put_calls([call(1, bodies={"request": b""})])  # sealed again after a crash: its place is free again
    vault.put_calls([call(3, bodies={"request": b"w" * 30})])
    assert vault.get_body(call(3).call, "request") == b"w" * 30
    assert vault.number("kept") == 35


def test_big_bodies_lie_outside_under_random_names_and_encrypted(place: Place, tmp_path: Path) -> None:
    outside = FolderObjects(tmp_path / "outside")
    vault = place.open(limits=Limits(inline=20), outside=outside)
    big = b"a big body " * 100
    vault.put_calls([call(1, bodies={"request": big, "response": b"small"}), call(2, bodies={"request": big})])
    assert vault.get_body(call(1).call, "request") == big
    assert vault.get_body(call(1).call, "response") == b"small"
    names = list(outside.names("bodies"))
    assert len(names) == 2
    assert all(re.fullmatch(r"bodies/[0-9a-f]{16}/[0-9a-f]{32}", name) for name in names)
    assert all(b"big body" not in (tmp_path / "outside" / name).read_bytes() for name in names)
    assert call(1).call not in str(names)
    vault.put_calls([call(1, bodies={"request": big})])  # again after a crash: the object from before is gone
    assert len(list(outside.names("bodies"))) == 2
    assert vault.get_body(call(1).call, "request") == big


def test_an_object_outside_that_is_altered_moved_or_gone_is_named(place: Place, tmp_path: Path) -> None:
    outside = FolderObjects(tmp_path / "outside")
    vault = place.open(limits=Limits(inline=5), outside=outside)
    vault.put_calls([call(1, bodies={"request": b"the first"}), call(2, bodies={"request": b"the second"})])
    ((one,), (two,)) = place.sql("SELECT notes FROM call ORDER BY call")
    place.sql("UPDATE call SET notes = ? WHERE call = ?", two, call(1).call)
    with pytest.raises(VerificationError, match=f"body 'request' of call {call(1).call}"):
        vault.get_body(call(1).call, "request")
    outside.delete([one.partition("@")[2]])
    place.sql("UPDATE call SET notes = ? WHERE call = ?", one, call(1).call)
    with pytest.raises(VerificationError, match="is gone"):
        vault.get_body(call(1).call, "request")


def test_s3_holds_big_bodies_too(place: Place, s3_bucket: str) -> None:
    outside = open_objects(f"{s3_bucket}/node-1")
    vault = place.open(limits=Limits(inline=5), outside=outside)
    vault.put_calls([call(bodies={"request": b"the request", "response": b"tiny"})])
    assert vault.get_body(call().call, "request") == b"the request"
    (name,) = outside.names("bodies")
    kept = outside.get(name)
    assert kept is not None
    assert b"request" not in kept.data


def test_a_batch_with_the_same_call_twice_keeps_the_last(vault: Vault) -> None:
    vault.put_calls([call(bodies={"request": b"one"}), call(bodies={"request": b"two"})])
    assert vault.get_body(call().call, "request") == b"two"
    assert vault.number("kept") == 3
