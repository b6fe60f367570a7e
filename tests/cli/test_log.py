"""`genealog log` and the receipts in other encodings, as their users meet them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import Cli
from genealog.core.fork import parse_fork, verify_fork
from genealog.core.trust import parse_trust
from published_tree import served


@pytest.fixture
def more(cli: Cli, tmp_path: Path) -> Iterator[int]:
    """Registers something new with each `next`."""

    def numbers() -> Iterator[int]:
        number = 0
        while True:
            number += 1
            (tmp_path / f"m{number}").mkdir()
            (tmp_path / f"m{number}" / "config.json").write_text(str(number))
            assert cli("add", f"m{number}", "--kind", "model").status == 0
            yield number

    return numbers()


@pytest.fixture
def twin(cli: Cli, store: Path, more: Iterator[int], tmp_path: Path) -> Path:
    """A copy of the store that went on by itself: the same key, another history."""
    copy = tmp_path / "twin"
    shutil.copytree(store, copy)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("other")
    assert cli("add", "other", "--kind", "model", "--store", str(copy)).status == 0
    return copy


def test_export_verify_and_a_web_server(cli: Cli, store: Path, more: Iterator[int], tmp_path: Path) -> None:
    done = cli("log", "export", "registry", "-o", "site", "--url", "https://log.example/", "--json")
    assert (done.status, done.json["size"], done.json["before"]) == (0, 4, None)
    assert "https://log.example/" in (tmp_path / "site" / "trust.policy").read_text()
    shutil.copy("site/checkpoint", "kept.checkpoint")
    next(more)
    assert (
        "published models.example/registry in site: 6 entries, 4 before"
        in cli("log", "export", "registry", "-o", "site").out
    )

    with served(tmp_path / "site") as url:
        for place in (url, "site"):
            all_ = ("log", "verify", "--tree", place, "--trust", str(store / "trust.policy"), "--json")
            found = cli(*all_)
            assert (found.status, found.json["state"], found.json["checked"]) == (0, "proven", "entries")
            found = cli(*all_, "--from", "kept.checkpoint")
            assert (found.status, found.json["from"]["size"], found.json["size"]) == (0, 4, 6)
            assert found.json["proof"]


@pytest.mark.parametrize("head", ["checkpoint", "r.json", "r.tlog-proof"])
def test_a_store_is_held_to_any_head_that_was_kept(cli: Cli, store: Path, more: Iterator[int], head: str) -> None:
    if head == "checkpoint":
        shutil.copy(store / "logs" / "registry" / "checkpoint", head)
    else:
        form = "tlog-proof" if head.endswith("proof") else "json"
        assert cli("receipt", "registry:0", "-o", head, "--format", form).status == 0
    next(more)
    found = cli("log", "verify", "registry", "--from", head)
    assert found.status == 0
    assert "proven models.example/registry: 6 entries now, and the first 4 are those of the old head" in found.out
    found = cli("log", "verify")
    assert (found.status, "all 6 entries" in found.out) == (0, True)


def test_two_histories_are_contradicted_with_evidence(
    cli: Cli, store: Path, more: Iterator[int], twin: Path, tmp_path: Path
) -> None:
    shutil.copy(twin / "logs" / "registry" / "checkpoint", "kept.checkpoint")
    next(more)
    next(more)
    cli("log", "export", "registry", "-o", "site")
    trust = parse_trust((store / "trust.policy").read_bytes())
    for place in (("registry",), ("--tree", "site")):
        found = cli("log", "verify", *place, "--from", "kept.checkpoint", "--evidence", "forks", "--json")
        assert (found.status, found.json["state"], found.json["code"]) == (1, "contradicted", "log-forked")
        proven = verify_fork(parse_fork(Path(found.json["evidence"]).read_bytes()), trust)
        assert (proven.first.checkpoint.size, proven.second.checkpoint.size) == (6, 8)
    refused = cli("log", "export", "registry", "-o", "site", "--store", str(twin))
    assert refused.status == 2
    assert "export-forked" in refused.err
    (evidence,) = (twin / "forks").iterdir()
    verify_fork(parse_fork(evidence.read_bytes()), trust)


def test_a_log_that_was_cut_back_and_a_tree_that_is_old(
    cli: Cli, store: Path, more: Iterator[int], tmp_path: Path
) -> None:
    cli("log", "export", "registry", "-o", "site")
    backup = tmp_path / "backup"
    shutil.copytree(store, backup)
    next(more)
    shutil.copy(store / "logs" / "registry" / "checkpoint", "kept.checkpoint")
    found = cli("log", "verify", "registry", "--from", "kept.checkpoint", "--store", str(backup), "--json")
    assert (found.status, found.json["state"], found.json["code"]) == (1, "contradicted", "log-rolled-back")
    found = cli("log", "verify", "--tree", "site", "--from", "kept.checkpoint")
    assert found.status == 3
    assert "log-behind" in found.out
    cli("log", "export", "registry", "-o", "site")
    refused = cli("log", "export", "registry", "-o", "site", "--store", str(backup))
    assert (refused.status, "export-ahead" in refused.err) == (2, True)


def test_verify_says_what_it_needs(cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("log", "export", "registry", "-o", "site")
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.move("site", outside / "site")
    monkeypatch.chdir(outside)
    shutil.move(store, tmp_path / "elsewhere")
    for arguments, code, status in (
        (("--tree", "site"), "no-trust", 3),
        (("--tree", "nothing", "--trust", "site/trust.policy"), "no-such-tree", 3),
        (("registry", "--tree", "site"), "bad-option", 2),
        (("--tree", "site", "--from", "nothing", "--trust", "site/trust.policy"), "no-such-file", 3),
        (("--tree", "site", "--from", "site/log.vkey", "--trust", "site/trust.policy"), "note-malformed", 1),
    ):
        found = cli("log", "verify", *arguments)
        assert code in found.err, found
        assert found.status == status
    assert cli("log", "verify", "--tree", "site", "--trust", "site/trust.policy").status == 0


@pytest.mark.parametrize("form", ["cose", "tlog-proof"])
def test_bare_receipts(cli: Cli, store: Path, form: str) -> None:
    wrote = cli("receipt", "registry:1", "-o", f"r.{form}", "--format", form, "--entry", "entry.json")
    assert f"genealog verify r.{form} --entry entry.json" in wrote.out
    verify = ("verify", f"r.{form}", "--entry", "entry.json")
    trust = ("--trust", str(store / "trust.policy"))
    assert cli(*verify, *trust, "--json").json["state"] == "proven"
    assert cli(*verify).status == 3
    missing = cli("verify", f"r.{form}", *trust)
    assert (missing.status, "--entry" in missing.err) == (2, True)
    entry = Path("entry.json").read_bytes()
    Path("entry.json").write_bytes(entry + b" ")
    assert cli(*verify, *trust).status == 1
    assert cli(*verify).status == 1 if form == "cose" else True
    Path("entry.json").write_bytes(entry)
    Path(f"r.{form}").write_bytes(Path(f"r.{form}").read_bytes()[:-2])
    assert cli(*verify, *trust).status == 1


def test_rotate_key(cli: Cli, store: Path) -> None:
    old = (store / "trust.policy").read_bytes()
    cli("receipt", "registry:0", "-o", "old.json")
    begun = cli("log", "rotate-key", "registry", "--json").json
    assert [key["state"] for key in begun["keys"]] == ["signing", "signing"]
    again = cli("log", "rotate-key", "registry")
    assert (again.status, "rotation-underway" in again.err) == (2, True)
    ended = cli("log", "rotate-key", "registry", "--retire", "--reason", "the yearly change")
    assert ended.status == 0
    assert "verify-only" in ended.out
    assert cli("verify", "old.json", "--trust", str(store / "trust.policy")).status == 0
    Path("before.policy").write_bytes(old)
    cli("receipt", "registry:0", "-o", "new.json")
    assert cli("verify", "new.json", "--trust", str(store / "trust.policy")).status == 0
    listed = json.loads(cli("signer", "ls", "--json").out)
    assert [row["revoked"] for row in listed if row["role"] == "log"] == [None, "the yearly change"]
    assert cli("log", "rotate-key", "registry", "--drop").status == 2
    dropped = cli("log", "rotate-key", "registry", "--retire", "--drop")
    assert "no longer believes the old key" in dropped.out
    assert cli("verify", "old.json", "--trust", str(store / "trust.policy")).status == 1
    assert cli("fsck").status == 0
