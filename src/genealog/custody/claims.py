"""Names that files give, as claimed edges: an `import` execution between what came in and what it says it is of.

A name counts only where it means one registered artifact and no other; the rest stays a text in the artifact's
statement. A claimed edge is never better than `claimed` for a reader, whoever signs it: digests alone can tell, and
`genealog check` asks them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from genealog.capture.claims import Claim, claim_texts, claims_of
from genealog.capture.files import scan_tree
from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.custody import MADE_OF
from genealog.core.dsse import Signer
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.registry import Added, Body, Progress, Registry, Version, left_out, new_nonce

_MODELS = ("model", "adapter", "checkpoint")


def add(
    registry: Registry, path: Path, *, kind: str, name: str | None = None, source: str | None = None,
    signer: Signer | None = None, progress: Progress | None = None,
) -> Added:  # fmt: skip
    """Register files as `Registry.add` does, with what they claim of where they came from."""
    tree = scan_tree(path, progress=progress, exclude=left_out(path))
    claims = claims_of(path) if kind in _MODELS else ()

    def imported(identifier: str, weights: str | None) -> Sequence[Body]:
        return import_claims(registry, claims, kind=kind, identifier=identifier, weights=weights)

    return registry.add_tree(
        tree, path, kind=kind, name=name or path.resolve().name, source=source, claims=claim_texts(claims),
        signer=signer, also=imported,
    )  # fmt: skip


def import_claims(
    registry: Registry, claims: Sequence[Claim], *, kind: str, identifier: str, weights: str | None
) -> list[Body]:
    """Return the bodies of an `import` that claims what `claims` say of the artifact `identifier`.

    Of none that can be resolved, or where an execution on record made the artifact already: an empty list.
    """  # fmt: skip
    if registry.is_made(identifier):
        return []
    versions = registry.versions()
    found = [(claim, version) for claim in claims if (version := _meant(registry, claim, versions, identifier))]
    if not found:
        return []
    events: dict[tuple[str, str], records.Event] = {}
    for claim, version in found:
        facts = {"name": claim.name, "file": claim.file, "relation": claim.relation, "revision": claim.revision}
        event = records.Event(
            artifact=version.id, direction="in", role=claim.role, state=State.CLAIMED, weights=version.weights,
            facts={name: text for name, text in facts.items() if text},
        )  # fmt: skip
        events.setdefault((version.id, claim.role), event)
    out = records.Event(artifact=identifier, direction="out", role=kind, state=State.CLAIMED, weights=weights)
    named = sorted({claim.name for claim in claims} - {claim.name for claim, _ in found})
    at = timestamp(datetime.now(UTC))
    parameters = {"unresolved": ", ".join(named)[:1000]} if named else {}
    start = records.Execution(kind="import", started_at=at, nonce=new_nonce(), parameters=parameters)
    end = records.ExecutionEnd(
        execution=record_id(start), ended_at=at, exit="succeeded", events=(*events.values(), out)
    )  # fmt: skip
    return [(start, "import", None), (end, "import", None)]


def _meant(registry: Registry, claim: Claim, versions: Iterable[Version], itself: str) -> Version | None:
    """Return the one registered artifact that a claimed name means: by its name, its source, or where it lies."""
    fitting: dict[str, Version] = {}
    for version in versions:
        right = version.kind in _MODELS if claim.role in MADE_OF else version.kind not in _MODELS
        if right and version.id != itself and _called(registry, version, claim.name):
            fitting[version.id] = version
    return next(iter(fitting.values())) if len(fitting) == 1 else None


def _called(registry: Registry, version: Version, name: str) -> bool:
    tail = name.rstrip("/").rpartition("/")[2]
    source = (version.source or "").rstrip("/")
    place = registry.home.location(version.id)
    return (
        version.name in (name, tail)
        or source == name
        or source.endswith(f"/{name}")
        or (place is not None and Path(name).is_absolute() and place == Path(name))
    )
