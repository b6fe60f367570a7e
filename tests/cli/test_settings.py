"""`genealog config`: what is edited is checked before it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Cli


def test_an_edit_is_checked_and_then_holds(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    before = (store / "genealog.toml").read_text()
    assert cli("config", "show").out == before
    for editor, status, said in (
        ("true", 0, "stays as it is"),
        ("false", 3, "no-editor"),
        ("/nowhere/editor", 3, "no-editor"),
        ("sed -i '$a\\nonsense = 1'", 2, "config-malformed"),
        ("sed -i 's/^origin = .*/origin = \"others.example\"/'", 2, "config-malformed"),
    ):
        monkeypatch.setenv("EDITOR", editor)
        done = cli("config", "edit")
        assert (done.status, said in done.out + done.err) == (status, True), (editor, done)
        assert (store / "genealog.toml").read_text() == before
    monkeypatch.setenv("EDITOR", "sed -i '$a[calls]\\nsplit = \"month\"'")
    assert cli("config", "edit").out == "genealog.toml is changed\n"
    assert (store / "genealog.toml").read_text() == before + '[calls]\nsplit = "month"\n'


def test_the_trust_policy_keeps_the_logs_of_the_store(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    before = cli("config", "show", "trust.policy").out
    monkeypatch.setenv("EDITOR", "sed -i 1d")
    assert cli("config", "edit", "trust.policy").status == 1
    monkeypatch.setenv("EDITOR", "sed -i '1i# ours'")
    assert cli("config", "edit", "trust.policy").status == 0
    assert (store / "trust.policy").read_text() == "# ours\n" + before
