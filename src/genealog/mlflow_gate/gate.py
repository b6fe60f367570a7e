"""What an MLflow alias, stage or version may mean: asked at the point `promote`, recorded, refused by default.

An alias `champion` of the model `bot` is the deployment `mlflow/bot/champion`, in small letters, because some of
MLflow's databases tell no case apart; a stage is one too, and a new version of `bot` is `mlflow/bot`. Environments,
approvals and break-glasses fit these names as they fit any deployment.

Which model a version is, its bytes say: the folder is read and hashed for every question. The tag `genealog.model_id`
is a claim. It has to be true of bytes that can be read; where they lie elsewhere it is believed only if the settings
say so, and then the decision says that it was.

Approvals are for one model (its ID) on one of these names. They count until they are withdrawn.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from msgspec import structs

from genealog.capture.files import scan_tree
from genealog.core.canonical import timestamp
from genealog.core.manifest import files_root
from genealog.core.records import Decision
from genealog.deploy.approvals import Approvals
from genealog.errors import GenealogError, MissingError, PolicyDenied
from genealog.policy.decide import MOST, Policies
from genealog.policy.document import Actor, Serving
from genealog.policy.facts import Facts, Used
from genealog.registry import Registry, Version, left_out
from genealog.store.home import Home

TAG = "genealog.model_id"
CLAIMED = "mlflow model-claimed"  # the flag of a decision about bytes that nobody here read


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody asks of MLflow. `folder` is where the version's files are on this machine, None: elsewhere."""

    model: str
    version: str
    alias: str | None = None  # or a stage; None: the version is being made
    source: str = ""
    folder: Path | None = None
    claim: str | None = None
    user: str | None = None  # whom MLflow authenticated

    @property
    def deployment(self) -> str:
        """The name that environments and approvals know it by."""
        parts = ("mlflow", self.model, *([self.alias] if self.alias is not None else []))
        return "/".join("".join("_" if c.isspace() else c for c in part) for part in parts).lower()


class Gate:
    """The gate of one store. It opens the store anew for each question: aliases move seldom, settings count at once.

    `label` is whose key signs its decisions; `claims` whether a tag is believed where the bytes lie elsewhere.
    """

    def __init__(self, store: str | None, *, label: str | None = None, claims: bool = False) -> None:
        self.store = store
        self.label = label
        self.claims = claims

    def check(self) -> str:
        """Return the ID of the policy set that decides. Raises: as `ask`, where nothing could be asked."""
        with closing(Home.find(self.store)) as home, closing(Policies.open(home)) as policies:
            Registry(home).signer(self.label)
            return policies.set.id

    def ask(self, wish: Wish) -> None:
        """Return if the wish is allowed, once that is in the log.

        Raises: PolicyDenied with the policies' codes, `unregistered-model`, `model-revoked`, `mlflow-claim-differs`,
        `mlflow-unread`, `approvals-missing`; any other GenealogError is a no as well.
        """
        with closing(Home.find(self.store)) as home:
            registry = Registry(home)
            try:
                version = self._version(registry, wish)
                self._judge(registry, wish, version)
            except GenealogError as error:
                if not getattr(error, "recorded", False):
                    self._refuse(registry, wish, error)
                raise

    def _version(self, registry: Registry, wish: Wish) -> Version:
        """Return the registered model that the bytes are, or are said to be."""
        claimed = _find(registry, wish.claim) if wish.claim is not None else None
        if wish.folder is None:
            if wish.claim is None or not self.claims:
                raise PolicyDenied(
                    "mlflow-unread", "the files of this version are not where this server reads them as files",
                    got=wish.source, hint=f"keep artifacts in a folder of this server; or tag the version {TAG}, and "
                    "let GENEALOG_MLFLOW_ELSEWHERE=claim say that a tag is enough",
                )  # fmt: skip
            identifier = wish.claim
        else:
            manifest = registry.manifest(claimed) if claimed is not None else None
            tree = scan_tree(wish.folder, exclude=left_out(wish.folder, manifest))
            identifier = files_root(tree.entries)
            if wish.claim is not None and (claimed.id if claimed else wish.claim) != identifier:
                raise PolicyDenied(
                    "mlflow-claim-differs", f"the tag {TAG} does not say what the files are",
                    got=identifier, expected=wish.claim, hint="mend the tag, or restore the files",
                )  # fmt: skip
        version = _find(registry, identifier)
        if version is None:
            raise PolicyDenied(
                "unregistered-model", f"{wish.model} version {wish.version} is not registered", got=identifier,
                hint="register its files: genealog add FOLDER --kind model",
            )  # fmt: skip
        if version.revoked is not None:
            raise PolicyDenied("model-revoked", f"{version.name} was revoked: {version.revoked}", got=version.id)
        return version

    def _judge(self, registry: Registry, wish: Wish, version: Version) -> None:
        home, name = registry.home, wish.deployment
        signer = registry.signer(self.label)
        approvals, actor = Approvals(home), _actor(home, wish.user)
        mover = next((row.keyid for row in registry.keys().values() if row.identity == actor.id), signer.keyid)
        said = [given.identity for given in approvals.said(name, version.id) if given.void is None]
        with closing(Policies.open(home)) as policies:
            facts = Facts(home, policies.set)
            glasses = facts.waived(name)
            judged = policies.judge(
                facts.document(
                    "promote", deployment=name, used=[Used(version.id)], actor=actor, approvals=said,
                    waived=glasses, serving=Serving(minimum_assurance=0, assurance=-1),
                ),
                glasses,
            )  # fmt: skip
            if judged.verdict.allow:
                approvals.check(name, version.id, (), mover, known=False)
            *others, (decision, subject, artifact) = policies.bodies(registry, judged, name, _now())
        if wish.folder is None and isinstance(decision, Decision):
            decision = structs.replace(decision, flags=(*decision.flags, CLAIMED))
        registry.append_all([*others, (decision, subject, artifact)], signer=signer)
        if not judged.verdict.allow:
            error = judged.verdict.denied(f"that {name} means {version.name}", hint=_hint(name, version))
            error.recorded = True  # type: ignore[attr-defined]
            raise error

    def _refuse(self, registry: Registry, wish: Wish, error: GenealogError) -> None:
        """Append a refusal that came before any policy. One that cannot be recorded says so in its hint."""
        body = Decision(
            point="promote", outcome="deny", code=error.code, subject=wish.deployment, message=str(error)[:MOST],
            at=_now(),
        )  # fmt: skip
        try:
            registry.append(body, signer=registry.signer(self.label), name=wish.deployment)
        except GenealogError as failure:
            error.hint = f"{error.hint or 'nothing was changed'} (this refusal could not be recorded: {failure})"


def _find(registry: Registry, ref: str) -> Version | None:
    try:
        return registry.resolve(ref)
    except MissingError:
        return None


def _actor(home: Home, user: str | None) -> Actor:
    """Return who asks: somebody whom MLflow knows by a label of `[identities]` is that identity."""
    known = home.config.identities.get(user) if user is not None else None
    identity = known.name if known is not None else f"mlflow:{user}" if user is not None else ""
    return Actor(id=identity, kind="human" if user is not None else "unknown", groups=())


def _hint(name: str, version: Version) -> str:
    return f"genealog approve {name} --model {version.id} --as LABEL, if approvals are missing"


def _now() -> str:
    return timestamp(datetime.now(UTC))
