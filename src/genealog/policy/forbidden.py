"""Built-ins that no policy may call: those that reach outside, and those that answer differently the next time.

A decision is a function of its input and its policy set: anybody can ask again and hold the record to it. So a set that
names one of these is refused when it is loaded, whichever engine it is for. Rego is read token by token, so that a name
in a comment or in a text counts for nothing, and `http["send"]` for as much as `http.send`.

Source: Open Policy Agent, Policy Reference, "Built-in Functions"; those marked nondeterministic, and `opa.runtime`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from genealog.errors import PolicyDenied

FORBIDDEN = frozenset({
    "http.send", "io.jwt.decode_verify", "net.lookup_ip_addr", "opa.runtime", "providers.aws.sign_req", "rand.intn",
    "time.now_ns", "trace", "uuid.rfc4122",
})  # fmt: skip
_PERHAPS = re.compile(r"\b(" + "|".join(sorted({name.partition(".")[0] for name in FORBIDDEN})) + r")\b|\$")
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<raw>`[^`]*`)|(?P<text>"(?:\\.|[^"\\\n])*")|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>.)""",
    re.DOTALL,
)


def check(modules: Mapping[str, str]) -> None:
    """Refuse Rego that names a forbidden built-in. Raises: PolicyDenied `policy-malformed` with file and line."""
    for path, text in modules.items():
        if not _PERHAPS.search(text):
            continue
        for line, name in _references(text):
            if name in FORBIDDEN or any(name.startswith(f"{each}.") for each in FORBIDDEN):
                raise _refused(path, line, f"the built-in {name}")


def _references(text: str) -> Iterator[tuple[int, str]]:
    """Give each reference that begins with a name, `a.b["c"]` as `a.b.c`, and each template text as `$`."""
    tokens = [found for found in _TOKEN.finditer(text) if found.lastgroup != "skip"]
    at = 0
    while at < len(tokens):
        token = tokens[at]
        before, at = (tokens[at - 1].group() if at else ""), at + 1
        if token.group() == "$" and at < len(tokens) and tokens[at].lastgroup in ("raw", "text"):
            raise _refused("Rego", text.count("\n", 0, token.start()) + 1, "a template text, which may call anything")
        if token.lastgroup != "name" or before == ".":
            continue
        parts = [token.group()]
        while at + 1 < len(tokens):
            if tokens[at].group() == "." and tokens[at + 1].lastgroup == "name":
                parts.append(tokens[at + 1].group())
                at += 2
            elif tokens[at].group() == "[" and at + 2 < len(tokens) and tokens[at + 2].group() == "]":
                parts.append(_text(tokens[at + 1]))
                at += 3
            else:
                break
        called = at < len(tokens) and tokens[at].group() == "("
        if len(parts) > 1 or called:
            yield text.count("\n", 0, token.start()) + 1, ".".join(parts)


def _text(token: re.Match[str]) -> str:
    if token.lastgroup != "text":
        return token.group().strip("`")
    try:
        return str(json.loads(token.group()))
    except ValueError:
        return token.group()


def _refused(path: str, line: int, what: str) -> PolicyDenied:
    return PolicyDenied(
        "policy-malformed", "a policy may not reach outside, nor answer differently the next time",
        got=f"{path}, line {line}: {what}", expected="facts from the input",
        hint="the input has the time (`now_ns`) and every age; docs/reference/policy-input.md",
    )  # fmt: skip
