"""Who calls, and whether they may: the one place where the plane asks.

    authenticate(request)          at the end of a request's head, before any byte of its body is read
    admit(who, deployment)         once the name is known, before anything goes upstream

What a call used is charged by whoever puts it into the log (`store.charges`).

None of them may wait: they run between two bytes of somebody else's call. `Claimed` believes the `Genealog-…` headers,
which is right where only a proxy that authenticates reaches the gateway; `gateway.principals` knows better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from genealog.errors import GenealogError
from genealog.gateway import headers as rules


class Head(Protocol):
    """What is known of a request before its body: the fields of `http1.Request` that speak of its sender."""

    @property
    def method(self) -> str:
        """As sent."""

    @property
    def path(self) -> str:
        """Before the question mark, as sent."""

    @property
    def query(self) -> bytes:
        """Behind it."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case."""

    @property
    def peer(self) -> str:
        """Address of the client."""

    @property
    def certificate(self) -> Any:
        """`http1.PeerCertificate` of a client in mTLS, else None."""


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody who calls. `facts` goes on record as it is: principal, department, project, tenant, subject, how, key.

    `withheld` names the headers (lower case) that held the gateway's own credentials: they never go upstream. `key` is
    whatever admission knows the caller by; the plane only hands it back. `purpose` and `data_class` are what the
    client says of its call, empty where it says nothing; `budget`: there is a limit on what it may spend.

    `asks` is all of it that policy asks for: equal for callers whom no policy can tell apart.
    """

    facts: Mapping[str, str]
    withheld: frozenset[bytes] = frozenset()
    key: Any = None
    purpose: str = ""
    data_class: str = ""
    budget: bool = False
    asks: tuple[str | bool, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        told = tuple(self.facts.get(name, "") for name in ("principal", "how", "tenant", "department", "project"))
        object.__setattr__(self, "asks", (*told, self.purpose, self.data_class, self.budget))


class Admission(Protocol):
    """What the plane asks of whoever knows principals."""

    def authenticate(self, request: Head) -> Who | GenealogError:
        """Say who calls, or why they may not: PolicyDenied, with `http_status` 401 or 403 by `gateway.refusal`."""

    def admit(self, who: Who, deployment: str) -> GenealogError | None:
        """Say why this call must not be made now, or count it."""

    def close(self) -> None:
        """Let go of what it holds: nobody asks it any more."""


class Claimed:
    """Believes what the headers claim, and limits nothing."""

    def __init__(self) -> None:
        self._known: dict[rules.Kept, Who] = {}

    def authenticate(self, request: Head) -> Who | GenealogError:
        """Read the `Genealog-…` headers."""
        kept = rules.claims(request.headers)
        known = self._known.get(kept)
        if known is None:
            facts = rules.who(kept)
            if facts:
                facts["how"] = "claimed"
            if len(self._known) > 1_024:
                self._known.clear()
            purpose, data_class = rules.use(kept)
            known = self._known[kept] = Who(facts, purpose=purpose, data_class=data_class)
        return known

    def admit(self, _who: Who, _deployment: str) -> GenealogError | None:
        """Let everybody in."""
        return None

    def close(self) -> None:
        """Nothing is held."""
