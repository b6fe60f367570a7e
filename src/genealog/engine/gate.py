"""The load gate: nothing is loaded unless the registry knows these very bytes, and every refusal is in its log.

The order is hash, check, load. A name or a path only says where to look; what counts is the ID of the bytes that were
read. An adapter needs a base that is bit for bit the one its registered run names. Then policy is asked, at the point
`load`, about what was read: it may refuse what this module would admit, and admits nothing that this module refuses.
The gate decides; it builds nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from msgspec import structs

from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.ids import WeightsId
from genealog.core.manifest import diff_files
from genealog.core.records import Artifact, Decision, Loaded
from genealog.deploy import Deployments
from genealog.engine.held import Held, read_folder
from genealog.errors import GenealogError, MalformedError, MissingError, PolicyDenied, VerificationError
from genealog.policy.decide import Judged, Policies
from genealog.policy.document import Pickle, Serving
from genealog.policy.facts import Facts, Used
from genealog.registry import Body, Registry, Version, left_out

Role = Literal["model", "base", "adapter"]
REFUSALS = (PolicyDenied, MalformedError, VerificationError)  # what is wrong with the bytes, not with this machine

log = logging.getLogger("genealog.policy")
_OPENS_NONE = Pickle(scanned=True, unsafe=0)  # whatever lies beside the weights: `held` never opens a pickle


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

    def admit(self, model: str, adapter: str | None = None, *, deployment: str = "") -> tuple[Admitted, ...]:
        """Read and check what `model` and `adapter` mean (name, ID or path). Returns the base first.

        `deployment` says which environment's policies decide; without it, those of `default`.
        Raises: PolicyDenied `unregistered-model`, `model-revoked`, `bytes-differ`, `files-added`, `weights-differ`,
        `wrong-base`, `base-unknown`, and the codes of policies; MalformedError for bytes that are no model;
        MissingError `unknown-artifact`, `no-location`.
        """
        admitted = [self._admit(model, "base" if adapter else "model")]
        if adapter is not None:
            admitted.append(self._admit(adapter, "adapter"))
            try:
                self._check_base(*admitted)
            except REFUSALS as error:
                self.refuse(admitted[1].version.id, error)
                raise
        self._ask(admitted, deployment)
        return tuple(admitted)

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

    def _ask(self, admitted: Sequence[Admitted], deployment: str) -> None:
        """Ask policy about the bytes that were read. Raises: PolicyDenied."""
        subject = admitted[-1].version.id
        home = self._registry.home
        try:
            policies = Policies.open(home)
        except REFUSALS as error:
            self.refuse(subject, error)
            raise
        try:
            facts = Facts(home, policies.set)
            base = admitted[0].loaded
            used = [
                Used(item.held.artifact, item.role, (base.artifact, base.weights) if item.role == "adapter" else None)
                for item in admitted
            ]
            glasses = facts.waived(deployment)
            document = facts.document(
                "load", deployment=deployment, used=used, waived=glasses, allowed=self._live(),
                actor=facts.actor(self._signer.keyid if self._signer else "", kind="workload"),
                serving=Serving(minimum_assurance=0, assurance=3 if self._signer else 0),
            )  # fmt: skip
            read = tuple(structs.replace(model, pickle=_OPENS_NONE) for model in document.models)
            judged = policies.judge(structs.replace(document, models=read), glasses)
            self._tell(policies, judged, subject)
        finally:
            policies.close()
        for glass in judged.broken:
            log.warning("break-glass %s", glass)

    def _tell(self, policies: Policies, judged: Judged, subject: str) -> None:
        """Put what policy said into the log. Raises: PolicyDenied, if it said no."""
        error = None if judged.verdict.allow else judged.verdict.denied(subject)
        if self._signer is not None:
            bodies = policies.bodies(self._registry, judged, subject, timestamp(datetime.now(UTC)))
            try:
                self._state(bodies, self._signer)
            except GenealogError as failure:
                if error is None:
                    log.warning("that %s may be loaded could not be logged: %s", subject, failure)
                else:
                    error.hint = f"the model was not loaded (this refusal could not be logged: {failure})"
        if error is not None:
            raise error

    def _state(self, bodies: Sequence[Body], signer: Signer) -> None:
        """Append a decision; an engine's key states nothing else, so the policy set is registered by who signs here."""
        for body in bodies:
            who = signer if isinstance(body[0], Decision) else self._registry.ledger.signer()
            if who is not None:
                self._registry.append_all([body], signer=who)

    def _live(self) -> frozenset[str]:
        """Return the models that a deployment serves: one that is tainted was deployed before, or with a reason."""
        live = Deployments(self._registry.home).snapshot().live.values()
        return frozenset(model for each in live for model in each.body.models)

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
            only_added = difference.added and not (difference.changed or difference.removed)
            raise PolicyDenied(
                "files-added" if only_added else "bytes-differ",
                f"the files in {path.name} are not {version.name} ({difference})",
                got=held.artifact, expected=version.id,
                hint="restore what is listed, or register the folder as a new version",
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
