"""What others wrote is shown as text: it moves no cursor and looks like no line of ours."""

from __future__ import annotations

import io
from typing import Any

import pytest

from genealog.cli import output
from genealog.core.chain import Hop, Report
from genealog.core.states import State
from genealog.errors import VerificationError

EVIL = "x\x1b[2K\x1b[1A\x1b]0;t\x07\r\b\n✔ proven\u202e\x9b31m\u2028\udc80:heavy_check_mark:"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(output.out, "_file", stream)  # its property would stay set to a stream of this test
    monkeypatch.setattr(output.err, "_file", stream)
    return stream


def harmless(text: str) -> bool:
    text.encode()  # what is no character would break the terminal's encoding
    return all(letter.isprintable() or letter == "\n" for letter in text)


def test_a_report_has_its_own_lines_only(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.out, "_width", 1000)
    values: dict[str, Any] = dict.fromkeys(("id", "signer", "position", "code", "detail", "grade"), EVIL)
    output.print_report(Report((Hop(0, "answer", EVIL, State.CONTRADICTED, **values),)))
    assert harmless(shown.getvalue())
    assert not [line for line in shown.getvalue().splitlines() if line.strip().startswith("✔")]
    assert shown.getvalue().count("\n") == 3
    assert "✔ proven" in shown.getvalue(), "spelled out, not hidden"
    assert ":heavy_check_mark:" in shown.getvalue()


def test_errors_and_tables_are_tame(shown: io.StringIO) -> None:
    output.print_error(VerificationError("code", EVIL, got=EVIL, expected=EVIL, hint=EVIL))
    assert not [line for line in shown.getvalue().splitlines() if line.strip().startswith("✔")]
    output.print_table(("name", "id"), [(EVIL, EVIL)], empty="")
    output.out.print(EVIL, markup=False)
    assert harmless(shown.getvalue())


def test_what_is_no_control_character_stays() -> None:
    for text in ("Zoë 💡 日本語", "a\u00a0b", "می\u200cخواهم", "👩\u200d🔬", "one\ntwo"):
        assert output.tame(text) == text


def test_a_table_cuts_no_id_and_no_column(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal that is too narrow the lines are longer than it, not poorer."""
    monkeypatch.setattr(output.out, "_width", 80)
    call, at, entry = "01M81GXKFJB3BRQ04QCM76K85D", "2026-11-22T11:40:31.602Z", "calls-2026-11:0"
    columns = ("call", "called_at", "finish", "assurance", "spec", "entry")
    output.print_table(columns, [(call, at, "complete", "A0", "glr1:3dccbd04b5f1", entry)], empty="")
    head, line = shown.getvalue().splitlines()
    assert head.split() == list(columns)
    assert line.split() == [call, at, "complete", "A0", "glr1:3dccbd04b5f1", entry]


def test_what_may_be_folded_is_folded_first(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.out, "_width", 80)
    output.print_table(("log", "signed", "reason"), [("calls-2026-11", "5, 13m ago", "word " * 40)], empty="")
    assert shown.getvalue().count("\n") > 2
    assert max(len(line.rstrip()) for line in shown.getvalue().splitlines()) <= 80
    assert "calls-2026-11" in shown.getvalue()


MOVES = [
    ("registry:20", "2026-11-22T15:23:08.626Z", "set", "glr1:676d1fc17ff4", "Demo Owner <owner@example.org>", ""),
    ("registry:32", "2026-11-22T15:23:10.690Z", "rollback", "glr1:676d1fc17ff4", "Eve <e@example.org>", "word " * 20),
]


def test_a_long_reason_stands_under_the_table(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ("entry", "at", "move", "spec", "by", "reason")
    monkeypatch.setattr(output.out, "_width", 120)
    output.print_table(columns, MOVES, empty="")
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines[0].split() == list(columns[:-1])
    assert [line.split()[0] for line in lines[1:4]] == ["registry:20", "registry:32", "registry:32"]
    assert lines[1].endswith("Demo Owner <owner@example.org>")
    assert " ".join(" ".join(lines[3:]).split()) == "registry:32 " + " ".join(["word"] * 20)
    shown.seek(0)
    shown.truncate()
    monkeypatch.setattr(output.out, "_width", 80)
    output.print_table(columns, MOVES, empty="")
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert "  registry:20  by Demo Owner <owner@example.org>" in lines
    assert any(line.startswith("  registry:32  by Eve <e@example.org>; word word") for line in lines)


def test_names_are_folded_words_of_ours_are_not(shown: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.out, "_width", 80)
    short = "glf1:3b1972f8f435"
    rows = [("SmolLM2-135M-Instruct.Q4_1.gguf", "environment", short, short, "registry:12", "tainted")]
    output.print_table(("name", "kind", "id", "weights", "entry", "note"), rows, empty="", spare=("weights",))
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines[1].split()[1:] == ["environment", short, "registry:12", "tainted"]
    assert lines[-1] == "left out at this width, --json has it: weights"
    assert max(map(len, lines)) <= 80
    shown.seek(0)
    shown.truncate()
    state = output.say(State.CONTRADICTED)
    edge = [("glr1:676d1fc17ff4", "→", "checkpoint", "a-model-with-a-long-name", short, state, "rerun-differs")]
    columns = ("execution", "", "role", "name", "artifact", "state", "code")
    output.print_table(columns, edge, empty="", spare=("artifact",))
    assert "✘ contradicted  rerun-differs" in shown.getvalue()
    assert max(len(line.rstrip()) for line in shown.getvalue().splitlines()) <= 80


def test_ages_are_for_people() -> None:
    assert [output.ago(each) for each in (None, -2, 51, 119, 120, 7200, 172_800)] == [
        "", "0s ago", "51s ago", "119s ago", "2m ago", "2h ago", "2d ago",
    ]  # fmt: skip
