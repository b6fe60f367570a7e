"""assess and break-glass: as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import Cli, Ran
from genealog.store.home import Home

URL = ("--upstream", "http://127.0.0.1:1")
STRICT = '\n[policy.environments.prod]\ndeny = ["evaluated"]\n\n[policy.evaluations.safety]\nnewest = "30d"\n'
ASK = ("--deployment", "prod/*", "--policy", "evaluated", "--reason", "outage")


@pytest.fixture
def strict(cli: Cli, store: Path) -> Path:
    """A store where prod/* wants an evaluation that nobody made; Security has two keys."""
    for label, identity in (("security", "Security"), ("security-2", "Security"), ("ml-lead", "ML lead")):
        assert cli("signer", "add", label, "--identity", identity).status == 0
    with (store / "genealog.toml").open("a") as stream:
        stream.write(STRICT)
    return store


def ask(cli: Cli, name: str = "case-17", *more: str, lasting: str = "1h", who: str = "security") -> Ran:
    return cli("break-glass", "ask", name, *ASK, "--for", lasting, "--as", who, *more)


def agree(cli: Cli, *more: str, name: str = "case-17", who: str = "ml-lead") -> Ran:
    return cli("break-glass", "agree", name, "--reason", "seen", "--as", who, *more)


def deploy(cli: Cli, name: str = "prod/bot", *more: str) -> Ran:
    return cli("deploy", name, "--model", "model", *URL, *more)


def size(store: Path) -> int:
    home = Home.open(store)
    try:
        return home.registry_log().size
    finally:
        home.close()


def test_from_asking_to_the_end(cli: Cli, strict: Path) -> None:
    assert cli("break-glass", "ls").out.strip() == "none"
    ran = deploy(cli)
    assert ran.status == 1
    assert "[evaluation-missing]" in ran.err
    ran = ask(cli)
    assert ran.status == 0, ran.err
    assert "asked: case-17: evaluated on prod/* until " in ran.out
    assert "genealog break-glass agree case-17 --reason WHY --as LABEL" in ran.out
    assert deploy(cli).status == 1
    ran = agree(cli)
    assert (ran.status, ran.out) == (0, "")
    assert "break-glass case-17: evaluated on prod/*" in ran.err
    assert ran.err.strip().endswith("by Security and ML lead")
    assert deploy(cli).status == 0
    listed = cli("break-glass", "ls").out
    assert "open" in listed
    assert "ML lead" in listed
    ran = cli("break-glass", "end", "case-17", "--reason", "mended", "--as", "security")
    assert ran.status == 0
    assert "over: case-17" in ran.out
    assert "ended by Security: mended" in cli("break-glass", "ls").out
    assert deploy(cli).status == 1


def test_for_machines(cli: Cli, strict: Path) -> None:
    asked = ask(cli, "case-17", "--json").json
    assert asked["entry"].startswith("registry:")
    assert (asked["state"], asked["policies"], asked["asked_by"], asked["agreed_by"]) == (
        "asked", ["evaluated"], "Security", None,
    )  # fmt: skip
    agreed = agree(cli, "--json")
    assert agreed.err == ""
    assert (agreed.json["state"], agreed.json["agreed_by"]) == ("open", "ML lead")
    assert agreed.json["leaf"] == asked["leaf"]
    (listed,) = cli("break-glass", "ls", "--json").json
    assert listed == agreed.json
    ended = cli("break-glass", "end", "case-17", "--reason", "mended", "--json").json
    assert (ended["state"], ended["acknowledged"]["workers"]) == ("ended", 0)
    assert ended["closed"] == agreed.json["agreed"] + 1
    ask(cli, "case-18")
    ended = cli("break-glass", "end", "case-18", "--reason", "not needed", "--no-wait", "--json").json
    assert ended["acknowledged"] is None
    assert [each["name"] for each in cli("break-glass", "ls", "--json").json] == ["case-17", "case-18"]


@pytest.mark.parametrize("who", ["security", "security-2"])
def test_one_person_with_two_keys_is_one_person(cli: Cli, strict: Path, who: str) -> None:
    ask(cli)
    before = size(strict)
    ran = agree(cli, who=who)
    assert ran.status == 1
    assert "[same-identity]" in ran.err
    assert "another key of the same identity is the same person" in ran.err
    assert size(strict) == before
    assert cli("break-glass", "ls", "--json").json[0]["state"] == "asked"
    assert deploy(cli).status == 1


def test_what_is_refused_and_how_it_ends(cli: Cli, strict: Path) -> None:
    before = size(strict)
    for ran, status, code in (
        (ask(cli, "case", "--policy", "not_revoked"), 1, "not-breakable"),
        (ask(cli, lasting="5h"), 1, "break-glass-too-long"),
        (ask(cli, lasting="soon"), 2, "bad-option"),
        (ask(cli, "case\x07"), 2, "bad-option"),
        (agree(cli, name="nobody"), 3, "unknown-break-glass"),
        (cli("break-glass", "end", "nobody", "--reason", "x"), 3, "unknown-break-glass"),
        (cli("break-glass", "ask", "case", "--deployment", "prod/*", "--for", "1h", "--reason", "x"), 2, "--policy"),
    ):
        assert ran.status == status, (code, ran.err)
        assert code in ran.err
        assert ran.out == ""
    assert size(strict) == before
    ask(cli)
    ran = ask(cli)
    assert ran.status == 2
    assert "[break-glass-exists]" in ran.err
    cli("break-glass", "end", "case-17", "--reason", "x")
    ran = agree(cli)
    assert ran.status == 1
    assert "[break-glass-over]" in ran.err


def test_an_error_for_machines(cli: Cli, strict: Path) -> None:
    ask(cli)
    ran = agree(cli, "--json", who="security-2")
    assert ran.status == 1
    assert "same-identity" in ran.err + ran.out


@pytest.mark.parametrize("json", [False, True], ids=["people", "json"])
def test_a_move_that_needs_it_is_loud(cli: Cli, strict: Path, *, json: bool) -> None:
    ask(cli)
    agree(cli)
    more = ("--json",) if json else ()
    for ran in (deploy(cli, "prod/bot", *more), cli("promote", "prod/bot", "prod/other", *more)):
        assert ran.status == 0, ran.err
        (line,) = ran.err.splitlines()
        assert line.startswith("break-glass case-17: evaluated on prod/* until ")
        assert line.endswith("by Security and ML lead")
        assert "break-glass" not in ran.out
        assert not json or ran.json["spec"]
    assert deploy(cli, "staging/bot", *more).err == ""  # it needs none


def test_the_warning_is_red(cli: Cli, strict: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genealog.cli import output

    ask(cli)
    agree(cli)
    with monkeypatch.context() as patched:
        patched.setattr(output.err, "_color_system", 1)
        patched.setattr(output.err, "no_color", False)
        patched.setattr(output.err, "_force_terminal", True)
        ran = deploy(cli)
    assert ran.status == 0
    assert "\x1b[1;31mbreak-glass\x1b[0m case-17" in ran.err


def test_an_assessment_is_signed_and_holds_whole(cli: Cli, store: Path) -> None:
    said = ("--licence", "Apache-2.0", "--tier", "minimal", "--purpose", "support", "--purpose", "search",
            "--data-class", "public", "--reason", "read the card")  # fmt: skip
    ran = cli("assess", "model", *said)
    assert ran.status == 0, ran.err
    assert "licence apache-2.0; tier minimal; for support, search; data public · by Jane · registry:" in ran.out
    assert "read the card" in ran.out
    ran = cli("assess", "model", "--tier", "high", "--json")
    held = ran.json["assessment"]
    assert (held["licence"], held["tier"], held["purposes"], held["data_classes"]) == ("", "high", [], [])
    assert held["entry"] == ran.json["entry"]
    assert (held["by"], held["reason"]) == ("Jane", None)


def test_who_assessed_it(cli: Cli, strict: Path) -> None:
    ran = cli("assess", "model", "--tier", "limited", "--as", "security", "--json")
    assert ran.json["assessment"]["by"] == "Security"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("nobody", "--tier", "high"), 3, "unknown-artifact"),
        (("model", "--licence", "my own"), 2, "bad-option"),
        (("model", "--purpose", "Hiring!"), 2, "bad-option"),
        (("model", "--data-class", ""), 2, "bad-option"),
        (("model", "--tier", "huge"), 2, "huge"),
        (("model", "--tier", "high", "--as", "nobody"), 3, "unknown-identity"),
    ],
    ids=["artifact", "licence", "purpose", "data", "tier", "signer"],
)
def test_an_assessment_that_is_none(cli: Cli, store: Path, arguments: tuple[str, ...], status: int, code: str) -> None:
    before = size(store)
    ran = cli("assess", *arguments)
    assert ran.status == status
    assert code in ran.err
    assert (ran.out, size(store)) == ("", before)


def test_no_command_shows_a_secret(cli: Cli, strict: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "s3cr3t-of-the-agent"
    monkeypatch.setenv("AGENT_TOKEN", token)
    with (strict / "genealog.toml").open("a") as stream:
        stream.write('\n[policy]\nengine = "opa"\nurl = "http://127.0.0.1:1"\ntoken = "env:AGENT_TOKEN"\n')
    keys = [path.read_text() for path in (strict / "keys").rglob("*") if path.is_file()]
    lines = {line for text in keys for line in text.splitlines() if len(line) > 40}
    assert lines
    shown = ""
    for ran in (
        cli("assess", "model", "--tier", "high", "--json"), ask(cli, "case-17", "--json"), agree(cli, "--json"),
        agree(cli, who="security-2"), deploy(cli), cli("break-glass", "ls", "--json"),
        cli("break-glass", "end", "case-17", "--reason", "x", "--json"),
    ):  # fmt: skip
        shown += ran.out + ran.err
    assert "policy-engine-missing" in shown
    home = Home.open(strict)
    entries = b"".join(home.registry_log().entries())
    home.close()
    for secret in (token, *lines):
        assert secret not in shown
        assert secret.encode() not in entries
