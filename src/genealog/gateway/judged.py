"""What a call is on record as besides its bytes, and why it is not made where its target must not be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from genealog.core.frames import Assurance, Durability
from genealog.deploy import Live
from genealog.errors import GenealogError, PolicyDenied, StoreError, UpstreamError
from genealog.gateway import headers as rules
from genealog.gateway.admission import Who
from genealog.gateway.aims import Aim
from genealog.gateway.directory import Found
from genealog.gateway.handshake import Binding
from genealog.gateway.http1 import Request
from genealog.gateway.parts import Parts
from genealog.gateway.policing import Ruling
from genealog.gateway.record import Context
from genealog.gateway.routes import OPAQUE, Route

_UNRULED: tuple[str, tuple[str, ...], tuple[str, ...]] = ("", (), ())
_CONTEXTS = 256  # kept for one deployment: as many clients as there may be that differ


class Asking(Protocol):
    """What is known of a request (`asking.Asking`)."""

    plane: Parts
    request: Request
    route: Route
    who: Who
    name: str
    ruling: Ruling | None


def context_of(asking: Asking, found: Found | None, aim: Aim | None, bound: Assurance) -> Context:
    """Return what is on record of a call. Calls of one client to one deployment share it."""
    kept = rules.kept(asking.request.headers, asking.plane.recorded)
    live = found.live if found is not None else None
    facts, route = asking.who.facts, asking.route
    if found is None or live is None:
        return Context(
            deployment=asking.name, operation=route.operation, dialect=route.dialect, who=facts,
            headers=rules.on_record(kept), content_type=header(asking.request, b"content-type"),
        )  # fmt: skip
    ruled = asking.ruling.on_record if asking.ruling is not None else _UNRULED
    key = (aim.index if aim is not None else -1, bound, route.operation, kept, ruled, tuple(facts.items()))
    context = found.contexts.get(key)
    if context is None:
        if len(found.contexts) >= _CONTEXTS:
            found.contexts.clear()
        policy, flags, waived = ruled
        context = found.contexts[key] = Context(
            deployment=asking.name,
            operation=route.operation,
            dialect=route.dialect,
            spec=live.spec,
            models=aim.models if aim is not None else live.body.models,
            bound=bound,
            durability=cast("Durability", live.body.durability),
            capture=live.body.body_capture,
            who=facts,
            headers=rules.on_record(kept),
            content_type=header(asking.request, b"content-type"),
            target=aim.index if aim is not None else 0,
            seller=aim.target.seller if aim is not None else None,
            served_as=aim.target.served_as if aim is not None else None,
            policy=policy or None,
            flags=flags,
            waived=waived,
        )
    return context


def header(request: Request, name: bytes) -> str | None:
    """Return the first header of this name as text; None where it is empty or not there."""
    value = request.first(name)
    return rules.text(value) if value else None


def denied(live: Live, binding: Binding) -> PolicyDenied | None:
    """Say no to an engine that is another than it says, and where the demanded level can no longer be reached.

    A1 can: it is only known once the answer is there.
    """
    if binding.contradicted:
        return PolicyDenied(
            "upstream-contradicted",
            f"the engine behind {live.name} is not what the registry says ({binding.reason})",
            got=binding.reason,
            hint="serve the registered models with genealog engine, and register its key",
        )
    wanted = live.body.minimum_assurance
    if max(binding.level, "A1") >= wanted:
        return None
    return PolicyDenied(
        "assurance-too-low",
        f"{live.name} demands {wanted}; its upstream is bound at {binding.level} ({binding.reason})",
        got=binding.level,
        expected=wanted,
        hint="serve the registered models with genealog engine, or deploy with a lower minimum",
    )


def overtaken(found: Found | None, aim: Aim, revoked: Mapping[str, str]) -> GenealogError | None:
    """Say why a call that is on record already must not be sent: the registry has moved on while it waited.

    `found` is what its name leads to now. Another serving spec is no reason: a call ends on the version it began on.
    """
    if found is None:
        return StoreError("registry-stale", "the registry could not be read for a while", hint="genealog fsck")
    return revocation(aim, revoked) or found.refusal


def revocation(aim: Aim, revoked: Mapping[str, str], *, code: str = "model-revoked") -> PolicyDenied | None:
    """Say no to a target of which a model was revoked. `code` is another one where it serves already."""
    if not revoked:
        return None
    why = next((revoked[model] for model in aim.models if model in revoked), None)
    return None if why is None else PolicyDenied(code, f"a model of this call was revoked: {why}")


def closed(live: Live, aim: Aim, dialect: str) -> PolicyDenied | None:
    """Say no to a path that nobody knows where our own secret would go along: it may open more than models."""
    credentials = aim.credentials
    if dialect != OPAQUE or credentials is None or not credentials.replaces or credentials.section.opaque:
        return None
    return PolicyDenied(
        "opaque-not-allowed",
        f"{live.name} is asked with the gateway's own secret, and this path is none of a known dialect",
        hint="set `opaque = true` in its section of [upstreams], if its callers may do everything there",
    )


def loop(live: Live) -> UpstreamError:
    """Return why a call that came from this gateway does not go on."""
    return UpstreamError(
        "upstream-loop", f"the upstream of {live.name} leads back to this gateway", got=live.body.upstream,
        hint="deploy it again with the address of its engine",
    )  # fmt: skip
