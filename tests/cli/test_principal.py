"""`genealog principal`: keys are shown once and kept as digests; the rest of genealog.toml keeps its bytes."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli
from genealog.errors import StoreError
from genealog.store.api_keys import KEY
from genealog.store.config import read_config
from genealog.store.sections import add_section, remove_sections


def sections(store: Path) -> Any:
    return tomllib.loads((store / "genealog.toml").read_text())


def test_a_principal_comes_gets_keys_and_goes(cli: Cli, store: Path) -> None:
    with (store / "genealog.toml").open("a") as file:
        file.write('\n# a note of mine\n[calls]  # another\nsplit = "none"\n')
    before = (store / "genealog.toml").read_text()
    limits = ("--requests-per-minute", "600", "--tokens-per-minute", "9", "--budget-per-day", "0.5")
    facts = ("--department", "finance", "--project", "inv", "--tenant", "acme", "--tenants", "acme-*")
    ran = cli("principal", "add", "billing", *facts, "--deployments", "prod/*", *limits, "--budget-per-month", "12.50")
    key = ran.out.strip()
    found = KEY.fullmatch(key.encode())
    assert found is not None
    assert (store / "genealog.toml").read_text().startswith(before)
    assert key not in (store / "genealog.toml").read_text()
    section = sections(store)["principals"]["billing"]
    assert section["keys"] == [{"id": found[1].decode(), "sha256": hashlib.sha256(key.encode()).hexdigest()}]
    assert section["limits"] == {
        "requests_per_minute": 600, "tokens_per_minute": 9, "budget_per_day": 500_000, "budget_per_month": 12_500_000,
        "currency": "USD",
    }  # fmt: skip
    assert cli("principal", "add", "lab", "--spiffe", "spiffe://acme.example/lab").out == ""
    second = cli("principal", "key", "add", "billing", "--expires", "2027-01-31").out.strip()
    shown = cli("principal", "show", "billing", "--json").json
    assert shown["keys"][1] == {"id": second.split("_")[1], "expires": "2027-01-31T23:59:59.999Z"}
    assert shown["department"] == "finance"
    assert [each["name"] for each in cli("principal", "ls", "--json").json] == ["billing", "lab"]
    for words in (("ls",), ("show", "billing"), ("show", "billing", "--json")):
        text = cli("principal", *words).out
        assert found[1].decode() in text
        assert key.split("_", 2)[2] not in text
    assert cli("principal", "key", "revoke", "billing", found[1].decode()).status == 0
    assert [each["id"] for each in sections(store)["principals"]["billing"]["keys"]] == [second.split("_")[1]]
    assert cli("principal", "remove", "billing").status == 0
    assert cli("principal", "remove", "lab").status == 0
    assert (store / "genealog.toml").read_text() == before
    assert read_config(store / "genealog.toml").principals == {}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("add", "a b"), "bad-option"),
        (("add", "x", "--budget-per-day", "a lot"), "bad-option"),
        (("add", "x", "--budget-per-day", "0.0000001"), "bad-option"),
        (("add", "x", "--expires", "soon"), "bad-option"),
        (("add", "x", "--expires", "2020-01-31"), "bad-option"),
        (("add", "x", "--currency", "dollars", "--budget-per-day", "1"), "config-malformed"),
        (("show", "x"), "no-such-principal"),
        (("key", "add", "x"), "no-such-principal"),
        (("remove", "x"), "no-such-principal"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    cli: Cli, store: Path, words: tuple[str, ...], code: str
) -> None:
    before = (store / "genealog.toml").read_bytes()
    ran = cli("principal", *words)
    assert ran.status != 0
    assert code in ran.err
    assert "gl_" not in ran.out
    assert (store / "genealog.toml").read_bytes() == before


def test_a_name_is_taken_once(cli: Cli, store: Path) -> None:
    assert cli("principal", "add", "billing").status == 0
    again = cli("principal", "add", "billing")
    assert "principal-exists" in again.err
    assert "no-such-key" in cli("principal", "key", "revoke", "billing", "0" * 12).err


def test_sections_that_were_written_in_another_way_are_left_to_their_owner(cli: Cli, store: Path) -> None:
    digest = "0" * 64
    with (store / "genealog.toml").open("a") as file:
        file.write(f'[principals.old]\nkeys = [{{id = "k", sha256 = "{digest}"}}]\n')
    before = (store / "genealog.toml").read_bytes()
    for words in (("key", "add", "old"), ("key", "revoke", "old", "k")):
        assert "config-by-hand" in cli("principal", *words).err
        assert (store / "genealog.toml").read_bytes() == before
    assert cli("principal", "remove", "old").status == 0


def test_text_that_looks_like_a_section_is_text() -> None:
    before = b'[a]\ntext = """\n[b.c]\n"""\n# of b\n[b.c]\nx = 1\n\n# of d\n[d]\ny = 2\n'
    with pytest.raises(StoreError, match="config-by-hand"):
        remove_sections(before, "b.c")
    assert remove_sections(b"[b.c]\nx = 1\n\n# of d\n[d]\ny = 2\n", "b.c") == b"\n# of d\n[d]\ny = 2\n"
    assert add_section(b"", "n", {"a": 'x"\n', "b": None, "c": ("p", "q"), "d": 5}) == (
        b'\n[n]\na = "x\\"\\n"\nc = ["p", "q"]\nd = 5\n'
    )
