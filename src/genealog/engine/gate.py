"""The load gate: nothing is loaded unless the registry knows these very bytes, and every refusal is in its log.

The order is hash, check, load. A name or a path only says where to look; what counts is the ID of the bytes that were
read. An adapter needs a base that is bit for bit the one its registered run names. The gate decides; it builds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.ids import WeightsId
from genealog.core.manifest import diff_files
from genealog.core.records import Artifact, Decision, Loaded
from genealog.engine.held import Held, read_folder
from genealog.errors import GenealogError, MalformedError, MissingError, PolicyDenied, VerificationError
from genealog.registry import Registry, Version, left_out

Role = Literal["model", "base", "adapter"]
REFUSALS = (PolicyDenied, MalformedError, VerificationError)  # what is wrong with the bytes, not with this machine


@dataclass(frozen=True, slots=True)
class Admitted:
    """A version that may be loaded, with its bytes."""

    role: Role
    version: Version
    held: Held
    weights: WeightsId

    @property
    def loaded(self) -> Loaded:
        """What the load statement says about it."""
        return Loaded(role=self.role, artifact=self.held.artifact, weights=self.weights)

    @property
    def digests(self) -> dict[str, str]:
        """Role and path → hex SHA-256 of its tokenizer, template and configuration files."""
        return {f"{self.role}/{path}": digest for path, digest in self.held.digests.items()}


class Gate:
    """Admits and refuses on behalf of one engine. Without a signer its refusals are raised and not logged."""

    def __init__(self, registry: Registry, signer: Signer | None) -> None:
        self._registry = registry
        self._signer = signer

    def admit(self, model: str, adapter: str | None = None) -> tuple[Admitted, ...]:
        """Read and check what `model` and `adapter` mean (name, ID or path). Returns the base first.

        Raises: PolicyDenied `unregistered-model`, `model-revoked`, `bytes-differ`, `weights-differ`, `wrong-base`,
        `base-unknown`; MalformedError for bytes that are no model; MissingError `unknown-artifact`, `no-location`.
        """
        base = self._admit(model, "base" if adapter else "model")
        if adapter is None:
            return (base,)
        tuned = self._admit(adapter, "adapter")
        try:
            self._check_base(base, tuned)
        except REFUSALS as error:
            self.refuse(tuned.version.id, error)
            raise
        return base, tuned

    def recheck(self, admitted: tuple[Admitted, ...]) -> None:
        """Raise PolicyDenied `model-revoked` if something was revoked since: building a model takes its time."""
        for item in admitted:
            try:
                _check_revoked(self._registry.resolve(item.version.id))
            except REFUSALS as error:
                self.refuse(item.version.id, error)
                raise

    def refuse(self, subject: str, error: GenealogError) -> None:
        """Append the refusal as a decision. An error that cannot be logged says so in its hint."""
        if self._signer is None:
            return
        now = timestamp(datetime.now(UTC))
        body = Decision(point="load", outcome="deny", code=error.code, subject=subject, message=str(error), at=now)
        try:
            self._registry.append(body, signer=self._signer, name=subject)
        except GenealogError as failure:
            error.hint = f"{error.hint or 'the model was not loaded'} (this refusal could not be logged: {failure})"

    def _admit(self, ref: str, role: Role) -> Admitted:
        path, version = self._find(ref)
        subject = version.id if version else path.name
        try:
            if version:
                _check_revoked(version)
            held = read_folder(path, left_out(path, self._registry.manifest(version) if version else None))
            subject = held.artifact
            found, weights = self._match(path, version, held)
        except REFUSALS as error:
            self.refuse(subject, error)
            raise
        return Admitted(role, found, held, weights)

    def _find(self, ref: str) -> tuple[Path, Version | None]:
        """Return where the files of `ref` are, and the version it names unless it is a path."""
        path = Path(ref)
        try:
            version = self._registry.resolve(ref)
        except MissingError:
            if path.exists():
                return path, None
            raise
        location = self._registry.home.location(version.id)
        if location is None:
            raise MissingError(
                "no-location", f"this machine has not seen the files of {version.name}", got=version.id,
                hint="give the path of the folder instead of the name",
            )  # fmt: skip
        return location, version

    def _match(self, path: Path, version: Version | None, held: Held) -> tuple[Version, WeightsId]:
        """Return the registered version of the bytes in `held`, and their weights ID.

        Tied names are added as the registration says: one from before there were rules for them has none.
        """
        if version is None:
            try:
                version = self._registry.resolve(held.artifact)
            except MissingError:
                raise PolicyDenied(
                    "unregistered-model", f"the files in {path.name} are not registered", got=held.artifact,
                    hint="register them: genealog add; or name the version, if only a part of the folder is registered",
                ) from None  # fmt: skip
            _check_revoked(version)
        elif version.id != held.artifact:
            registered = self._registry.manifest(version).files
            difference = diff_files(registered, held.entries)
            raise PolicyDenied(
                "bytes-differ", f"the files in {path.name} are not {version.name} ({difference})",
                got=held.artifact, expected=version.id,
                hint="restore the listed files, or register the folder as a new version",
            )  # fmt: skip
        body = self._registry.statement(version.statement).body
        registered_weights = body.weights if isinstance(body, Artifact) else None
        weights = held.weights_id({} if registered_weights is None else registered_weights.tied)
        if version.weights != weights:
            raise PolicyDenied(
                "weights-differ", f"the registry names other weights for {version.name}",
                got=weights, expected=version.weights,
            )  # fmt: skip
        return version, weights

    def _check_base(self, base: Admitted, adapter: Admitted) -> None:
        named = self._registry.base_of(adapter.version.id)
        if named is None:
            raise PolicyDenied(
                "base-unknown", f"no registered run says what {adapter.version.name} was trained on",
                hint="register the run that made the adapter, with its base",
            )  # fmt: skip
        loaded = base.loaded
        if named.artifact != loaded.artifact or named.weights not in (None, loaded.weights):
            raise PolicyDenied(
                "wrong-base", f"{adapter.version.name} was trained on another base",
                got=f"{loaded.artifact} {loaded.weights}", expected=f"{named.artifact} {named.weights or ''}".strip(),
            )  # fmt: skip


def _check_revoked(version: Version) -> None:
    if version.revoked is not None:
        raise PolicyDenied(
            "model-revoked", f"{version.name} was revoked: {version.revoked}", got=version.id,
            hint="load another version",
        )  # fmt: skip
