"""genealog.toml is read strictly, and its reference page describes every key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from documents import ROOT
from genealog.core.canonical import Record
from genealog.errors import StoreError
from genealog.store.config import Calls, Config, Seconds, parse_config, read_config, toml_text
from genealog.store.keys import KeyRing
from genealog.store.vault.open import open_vault

BASE = '[store]\nformat = 1\norigin = "x"\n[identities]\n[identities.owner]\nname = "a"\nkey = "owner"\n'
PAGE = ROOT / "docs" / "reference" / "configuration.md"


def read(folder: Path, text: str) -> Config:
    path = folder / "genealog.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_what_is_absent_has_its_default(tmp_path: Path) -> None:
    config = read(tmp_path, BASE)
    assert (config.origin, config.signer, config.identities["owner"].key) == ("x", "owner", "owner")
    assert config.calls == Calls()
    assert (config.calls.anchor_every, config.calls.heartbeat_every) == (3600, 600)


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("90s", 90), ("10m", 600), ("1h", 3600), ("30d", 2_592_000)])
def test_a_time_has_a_unit(tmp_path: Path, text: str, seconds: int) -> None:
    config = read(tmp_path, f'{BASE}[calls]\nanchor_every = "{text}"\n')
    assert config.calls.anchor_every == seconds
    assert isinstance(config.calls.anchor_every, Seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("7B", 7), ("64KiB", 65_536), ("8MiB", 1 << 23), ("1GiB", 1 << 30), ("2TiB", 2 << 40)]
)
def test_a_size_has_a_unit(tmp_path: Path, text: str, size: int) -> None:
    assert read(tmp_path, f'{BASE}[vault]\nmax_total = "{text}"\n').vault.max_total == size


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://jane:secret@db/x",
        "mysql://db/x",
        "postgresql://db/x?password=secret",
        "postgresql://db/x?sslpassword=secret",
        "vault.sqlite",
        "postgres://[x",
    ],
)
def test_a_vault_is_no_place_for_a_password(tmp_path: Path, url: str) -> None:
    settings = read(tmp_path, f'{BASE}[vault]\ndatabase = "{url}"\n').vault
    with pytest.raises(StoreError, match="config-malformed") as caught:
        open_vault(tmp_path, settings, KeyRing(tmp_path / "keys"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE + "[call]\n", "unknown field `call`"),
        (BASE + '[calls]\nsplitt = "month"\n', "unknown field `splitt` in [calls]"),
        (BASE + '[calls]\nsplit = "week"\n', "in [calls.split]"),
        (BASE + '[calls]\nsplit = "node"\n', 'needs `node = "NAME"`'),
        (BASE + '[calls]\nnode = "a"\n', 'needs `node = "NAME"`'),
        (BASE + '[calls]\nsplit = "node"\nnode = "../a"\n', "in [calls.node]"),
        (BASE + "[calls]\nanchor_every = 60\n", "a time with its unit"),
        (BASE + '[calls]\nanchor_every = "0s"\n', "a time with its unit"),
        (BASE + '[calls]\nanchor_every = "1 h"\n', "a time with its unit"),
        (BASE + '[calls]\nanchor_every = "36526d"\n', "at most a century"),
        (BASE + '[[retention]]\nminimum = "999999999d"\n', "at most a century"),
        (BASE + "a = " + "[" * 5000, "RecursionError"),
        (BASE + "a = " + "9" * 5000, "ValueError"),
        (BASE + '[vault]\nmax_body = "8 MiB"\n', "a size with its unit"),
        (BASE + "[vault]\nmax_total = 8\n", "a size with its unit"),
        (BASE + '[vault]\nschema = "a b"\n', "in [vault.schema]"),
        (BASE + "[retention]\n", "in [retention]"),
        (BASE + '[[redaction]]\nentities = ["emial"]\n', "emial"),
        (BASE + "color = 1\n", "unknown field `color` in [identities"),
        ('signer = "owner"\n' + BASE, "outside of [identities]"),
        (BASE.replace('"x"', "7"), "in [store.origin]"),
        (BASE.replace("format = 1", "format = 1\nsize = 2"), "unknown field `size` in [store]"),
        ("store = 1\n", "in [store]"),
        (BASE + '[identities.owner]\nname = "b"\nkey = "b"\n', "TOMLDecodeError"),
    ],
)
def test_what_nobody_knows_is_refused_and_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StoreError) as caught:
        read(tmp_path, text)
    assert caught.value.code == "config-malformed"
    assert said in str(caught.value.got)


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_texts_come_back_as_they_were(text: str) -> None:
    import tomllib

    assert tomllib.loads(f"a = {toml_text(text)}\n") == {"a": text}


def _keys(kind: Any, before: str = "") -> set[str]:
    found: set[str] = set()
    for field in msgspec.structs.fields(kind):
        inner = field.type
        if isinstance(inner, type) and issubclass(inner, Record):
            found |= _keys(inner, f"{before}{field.encode_name}.")
        elif field.encode_name not in ("identities", "signer"):
            found.add(before + field.encode_name)
    return found


def test_every_key_is_described() -> None:
    described = set(re.findall(r"^\| `([a-z_.]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert _keys(Config) - described == set()
    assert {key for key in described if key.partition(".")[0] in Config.__struct_fields__} - _keys(Config) <= {
        "identities.signer"
    }


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ('[calls]\nsplit = "weekly"', '"none", "month", "node"'),
        ('[[retention]]\nmaximum = "1d"\ndelete = ["all"]', '"bodies"'),
    ],
)
def test_a_word_that_is_none_of_a_few_is_answered_with_them(text: str, choices: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        parse_config(f'[store]\nformat = 1\norigin = "x.example"\n{text}\n'.encode(), tmp_path / "genealog.toml")
    assert choices in str(caught.value.expected)
