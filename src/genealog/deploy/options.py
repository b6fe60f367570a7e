"""What may be a deployment's name, and an engine's base URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from genealog.errors import UsageError

ASSURANCE = ("A0", "A1", "A2", "A3", "A4")
DURABILITY = ("D1", "D1+", "D2", "D3")

MOST_ATTEMPTS = 10


def check_name(name: str) -> None:
    """Refuse what apps could not send as a model's name. Raises: UsageError `bad-option`."""
    if not name or any(c.isspace() or not c.isprintable() for c in name):
        raise UsageError("bad-option", "a deployment's name has no spaces", got=repr(name))


def check_upstream(upstream: str) -> None:
    """Refuse what is not the base URL of an engine. Raises: UsageError `bad-upstream`."""
    if "@" in upstream:  # first of all: the errors below quote the URL
        raise UsageError("bad-upstream", "an upstream URL is public: leave user and password out of it")
    try:
        parts = urlsplit(upstream)
        fine = (
            parts.scheme in ("http", "https", "grpc", "grpcs")
            and parts.hostname
            and not parts.query
            and not parts.fragment
        )
        fine = fine and parts.port != 0 and upstream.isascii() and upstream.isprintable() and " " not in upstream
    except ValueError:
        fine = None
    if not fine:
        raise UsageError("bad-upstream", "not the base URL of an engine", got=upstream, expected="http://HOST:PORT")
    if parts.path.rstrip("/").endswith("/v1"):
        raise UsageError(
            "bad-upstream",
            "the base URL of an engine ends before /v1",
            got=upstream,
            expected=upstream.rstrip("/").removesuffix("/v1"),
        )


def check_options(name: str, assurance: str, durability: str, capture: str, attempts: int) -> None:
    """Refuse what no serving spec can say. Raises: UsageError `bad-option`."""
    check_name(name)
    if not 1 <= attempts <= MOST_ATTEMPTS:
        raise UsageError("bad-option", "no call is tried so often", got=attempts, expected=f"1 to {MOST_ATTEMPTS}")
    for value, known, what in (
        (assurance, ASSURANCE, "assurance level"),
        (durability, DURABILITY, "durability class"),
        (capture, ("encrypted", "hashes", "none"), "body capture"),
    ):
        if value not in known:
            raise UsageError("bad-option", f"no such {what} here", got=value, expected=", ".join(known))
