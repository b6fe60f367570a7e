"""Every error that Genealog raises on purpose.

    GenealogError
    ├── MalformedError      the bytes are wrong: not parseable, not canonical, over a limit
    ├── VerificationError   the bytes are right, the proof is not: signature, inclusion, digest
    ├── MissingError        unknown ID, or a lineage hop without evidence
    ├── PolicyDenied        a rule said no (a decision, not a fault: hence no "Error")
    ├── StoreError          the local store cannot be read, written or trusted
    └── UpstreamError       somebody else's server or network

Each carries a stable `code`, what was got and expected, and a hint that says what to do next.
`exit_status` is what the command line returns: 1 contradicted or denied, 2 usage, 3 cannot tell.
"""

from __future__ import annotations


class GenealogError(Exception):
    """The base of all. `code` is stable and documented in docs/reference/errors.md."""

    exit_status = 2
    http_status = 500

    def __init__(
        self, code: str, message: str, *, got: object = None, expected: object = None, hint: str | None = None
    ) -> None:
        self.code = code
        self.message = message
        self.got = None if got is None else str(got)
        self.expected = None if expected is None else str(expected)
        self.hint = hint
        super().__init__(message)
        if hint is not None:
            self.add_note(f"hint: {hint}")  # a traceback says it too

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]{self.facts}"

    @property
    def facts(self) -> str:
        """What was got and expected, to stand behind the message; empty if neither is known."""
        text = ""
        if self.got is not None:
            text += f"; got {self.got}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        return text

    def problem(self) -> dict[str, object]:
        """The one HTTP shape of an error (RFC 9457), used by every server here."""
        body: dict[str, object] = {
            "type": f"urn:genealog:error:{self.code}",
            "title": self.message,
            "status": self.http_status,
            "code": self.code,
        }
        for name in ("got", "expected", "hint"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        return body


class MalformedError(GenealogError):
    """The bytes are wrong. Nothing about their content was checked."""

    exit_status = 1
    http_status = 400


class UsageError(MalformedError):
    """An option, an argument, a URL or a time is none that can be used: nothing was asked of anybody yet.

    Its exit status is that of wrong usage, so that no script takes a misspelled question for the answer "no".
    """

    exit_status = 2


class VerificationError(GenealogError):
    """The bytes parse and the proof fails."""

    exit_status = 1
    http_status = 409


class MissingError(GenealogError):
    """An ID, name, file or hop that is not there."""

    exit_status = 3
    http_status = 404


class PolicyDenied(GenealogError):  # noqa: N818 - a decision, not a fault
    """A rule said no. Undefined, error and timeout are no as well."""

    exit_status = 1
    http_status = 403


class StoreError(GenealogError):
    """The local store cannot be read, written or trusted."""

    exit_status = 2
    http_status = 503


class UpstreamError(GenealogError):
    """Somebody else's server or network failed."""

    exit_status = 2
    http_status = 502


def not_installed(what: str, missing: str, extra: str) -> MissingError:
    """Return the error where `what` needs the libraries `missing`, which the optional group `extra` brings."""
    return MissingError(
        "extra-not-installed",
        f"{what} needs libraries that are not installed",
        got=f"no {missing}",
        hint=f"pip install 'genealog[{extra}]', or '.[{extra}]' in a checkout",
    )
