"""The questions that an engine has to answer before it decides anything.

Each is a place where a Rego engine is known to fail open, or to differ from Open Policy Agent: a built-in that is
missing or fails and makes a `deny` rule sleep, numbers that lose digits, `every` over nothing, a conflict of rules, a
value that is not there. The answers are those of Open Policy Agent 1.20. One wrong answer, and the engine is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from genealog.errors import PolicyDenied
from genealog.policy.port import Engine

Open = Callable[[Mapping[str, bytes]], Engine]  # the files of a set → an engine

ANSWERS: Mapping[str, tuple[str, object]] = {  # name → (expression, what Open Policy Agent makes of it)
    "whole-number": ("input.big + 1", 9007199254740994),
    "whole-number-read": ("input.big == 9007199254740993", True),
    "whole-number-text": ('to_number("9007199254740993") == 9007199254740993', True),
    "decimal-text": ('to_number("0.1") < to_number("0.11")', True),
    "decimal-equal": ('to_number("1.50") == 1.5', True),
    "number-shown": ('sprintf("%v %d", [input.big, 3])', "9007199254740993 3"),
    "text-shown": ('sprintf("%s is é", [input.name])', "Ω is é"),
    "letters-small": ('lower("MIT-ÀÉ")', "mit-àé"),
    "set-ordered": ('{"b", 3, "a", null, 1, "a"}', [None, 1, 3, "a", "b"]),
    "set-of-pairs": ('[x | some x in {"b", "a"}]', ["a", "b"]),
    "missing-with-default": ('object.get(input, ["no", "where"], "other")', "other"),
    "missing-negated": ("[1 | not input.absent]", [1]),
    "missing-in-array": ("[x | some i in [1, 2]; x := input.list[i]]", [5]),
    "false-negated": ("[1 | not input.no]", [1]),
    "null-is-there": ("[1 | input.null == null]", [1]),
    "every-over-nothing": ("[1 | every x in [] { x == 1 }]", [1]),
    "every-with-one-false": ("[1 | every x in input.list { x == 4 }]", []),
    "every-over-the-missing": ("[1 | every x in input.absent { x == 1 }]", []),
    "count-of-equal": ("count({m | some m in [1, 1.0, 2]})", 2),
    "in-object": ("[1 | 4 in input.object]", [1]),
    "in-text": ('[1 | "a" in input.name]', []),
    "text-is-no-number": ('[1 | "3" > 2]', [1]),  # kinds are ordered: whoever measures by text has to_number
    "false-is-no-zero": ("[1 | input.no == 0]", []),
    "time-written": ('time.parse_rfc3339_ns("2020-01-01T00:00:00Z")', 1577836800000000000),
    "names-fit": ('glob.match("prod/*", ["/"], "prod/a")', True),
    "pattern-fits": ('regex.match("^[a-z]+$", "abc")', True),
    "kind-of-object": ("is_object(input.object)", True),
    "kind-of-text": ("is_object(input.name)", False),
}
_HEAD = "package genealog\nimport rego.v1\n"
_SUM = (
    _HEAD
    + """
default allow := false
deny if time.parse_rfc3339_ns(input.at) < 9000000000000000000
allow if not deny
answers := {%s}
decision := {"allow": allow, "answers": answers}
"""
)
TRAPS: dict[str, str] = {  # name → a decision that has to raise, for in Open Policy Agent it is an error
    "built-in-fails": 'decision := {"allow": to_number(input.name)}',
    "built-in-fails-negated": 'decision := {"allow": true} if not time.parse_rfc3339_ns(input.name) < 9',
    "division-by-zero": 'decision := {"allow": 1 / input.zero}',
    "rules-in-conflict": 'decision := {"allow": true} if input.zero == 0\ndecision := {"allow": false} if input.name',
    "no-such-built-in": 'decision := {"allow": true} if not no.such.built_in(input.name)',
    "functions-in-conflict": "decision := f(1)\nf(x) := true if x == 1\nf(x) := false if x > 0",
}
SILENT: dict[str, str] = {  # name → a decision that is undefined
    "missing": 'decision := {"allow": true} if input.absent',
    "missing-compared": 'decision := {"allow": true} if input.absent == false',
    "missing-not-equal": 'decision := {"allow": true} if input.absent != "revoked"',
    "negated-true": 'decision := {"allow": true} if not input.zero == 0',
    "missing-function": 'decision := {"allow": f(2)}\nf(x) := true if x == 1',
}
_INPUT = msgspec.json.encode({
    "at": "2020-01-01T00:00:00Z", "big": 9007199254740993, "list": [4, 5], "name": "Ω", "no": False, "null": None,
    "object": {"a": 4}, "zero": 0,
})  # fmt: skip
_passed: set[Open] = set()


def check(opener: Open) -> None:
    """Ask an engine every question, once a process.

    Raises: PolicyDenied `policy-engine-unfit`, which names the question; what opening it raises.
    """
    if opener in _passed:
        return
    answers = ",\n".join(f'"{name}": {expression}' for name, (expression, _) in ANSWERS.items())
    try:
        found = _ask(opener, _SUM % answers)
    except PolicyDenied:
        found = None
    if not isinstance(found, dict) or not isinstance(answered := found.get("answers"), dict):
        raise _unfit(*_first_without_answer(opener))
    if found.get("allow") is not False:
        raise _unfit("time-denies", found.get("allow"))
    for name, (_, expected) in ANSWERS.items():
        if not _same(answered.get(name), expected):
            raise _unfit(name, answered.get(name))
    for name, rule in (TRAPS | SILENT).items():
        try:
            got, raised = _ask(opener, f"{_HEAD}{rule}\n"), False
        except PolicyDenied as error:
            got, raised = error.code, True
        if raised != (name in TRAPS) or (not raised and got is not None):
            raise _unfit(name, got)
    _passed.add(opener)


def forget() -> None:
    """Have every engine asked again."""
    _passed.clear()


def _first_without_answer(opener: Open) -> tuple[str, object]:
    for name, (expression, expected) in ANSWERS.items():
        try:
            got = _ask(opener, f"{_HEAD}decision := {expression}\n")
        except PolicyDenied as error:
            got = error.got
        if not _same(got, expected):
            return name, got
    return "all-at-once", None


def _ask(opener: Open, module: str) -> object:
    engine = opener({"main.rego": module.encode(), "data.json": b"{}"})
    try:
        return engine.evaluate(_INPUT)
    finally:
        engine.close()


def _same(got: object, expected: object) -> bool:
    """Compare as JSON does: `True` is no 1."""
    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(_same, got, expected))
    return type(got) is type(expected) and got == expected


def _unfit(question: str, got: object) -> PolicyDenied:
    return PolicyDenied(
        "policy-engine-unfit", f"the policy engine cannot be believed: it fails the question {question}",
        got=repr(got)[:200], hint="install the version that Genealog was tested with (constraints.txt)",
    )  # fmt: skip
