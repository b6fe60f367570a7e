"""Assessments: what somebody says that an artifact is and may be used for, signed, so that policies can go by it.

The last one that counts holds whole: what it leaves out is not assessed, whatever an earlier one said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.errors import UsageError
from genealog.ledger import Position
from genealog.policy.model_facts import newest_assessment
from genealog.registry import Registry
from genealog.store.home import REGISTRY

Tier = Literal["minimal", "limited", "high", "systemic"]
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_WORD = re.compile(r"[a-z0-9][a-z0-9._/-]{0,63}")


@dataclass(frozen=True, slots=True)
class Assessed:
    """The assessment that holds, and who signed it. Empty is not assessed."""

    licence: str
    tier: str
    purposes: tuple[str, ...]
    data_classes: tuple[str, ...]
    reason: str | None
    by: str
    at: str
    entry: str


def assess(
    registry: Registry, ref: str, *, licence: str | None = None, tier: Tier | None = None,
    purposes: Sequence[str] = (), data_classes: Sequence[str] = (), reason: str | None = None,
    signer: Signer | None = None, now: datetime | None = None,
) -> Position:  # fmt: skip
    """Say what a registered artifact is and may be used for. A licence is an SPDX identifier, in any case.

    Raises: MissingError `unknown-artifact`; UsageError `bad-option`; as `Registry.append`.
    """
    version = registry.resolve(ref)
    licence = licence.lower() if licence is not None else None
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UsageError("bad-option", "not an SPDX identifier", got=ascii(licence)[:80], expected="such as apache-2.0")
    for word in (*purposes, *data_classes):
        if not _WORD.fullmatch(word):
            raise UsageError(
                "bad-option", "not a purpose or a class of data", got=ascii(word)[:80],
                expected="small letters, digits, and . _ / -",
            )  # fmt: skip
    body = records.Assessment(
        artifact=version.id, at=timestamp(now or datetime.now(UTC)), licence=licence, tier=tier,
        purposes=tuple(dict.fromkeys(purposes)), data_classes=tuple(dict.fromkeys(data_classes)), reason=reason,
    )  # fmt: skip
    return registry.append(body, signer=signer or registry.signer(), name=version.name)


def assessment_of(registry: Registry, artifact: str) -> Assessed | None:
    """Return the assessment of an artifact ID that holds: the last by a key that is not revoked."""
    row = newest_assessment(registry.ledger.index(REGISTRY), artifact)
    if row is None:
        return None
    return Assessed(
        row["licence"] or "", row["tier"] or "", tuple(json.loads(row["purposes"])),
        tuple(json.loads(row["data_classes"])), row["reason"], row["signer"], row["at"], f"{REGISTRY}:{row['id']}",
    )  # fmt: skip
