"""MLflow's server with the gate in it: `mlflow server --app-name genealog` (entry point `mlflow.app`).

The hook stands where MLflow's own `basic-auth` has its: before a request reaches its handler, once Flask has decided
which handler that is. So it does not matter by which path or prefix somebody asks. Requests are read by the functions
that the handlers read them with: two readers could be told two things. Everything but what `_ASKED` names passes
untouched. An MLflow whose registry has routes that this module does not know is not started.

This module runs in MLflow's environment. It imports MLflow when it is called and not before, and needs nothing of
Genealog but what a bare installation has. Tested with MLflow 3.17.

The environment says the rest. GENEALOG_STORE: where the store is. GENEALOG_MLFLOW_AS: whose key signs, a label.
GENEALOG_MLFLOW_ELSEWHERE=claim: a tag is believed where the bytes lie elsewhere. GENEALOG_MLFLOW_APP: another app
(`basic-auth`) that comes first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from genealog.errors import GenealogError, StoreError, UsageError
from genealog.mlflow_gate.gate import TAG, Gate, Wish

_ASKED = ("_create_model_version", "_rename_registered_model", "_set_registered_model_alias", "_transition_stage")
_UNTOUCHED = frozenset({  # what else MLflow's registry can be asked to change, and moves no name
    "_create_registered_model", "_delete_model_version", "_delete_model_version_tag", "_delete_registered_model",
    "_delete_registered_model_alias", "_delete_registered_model_tag", "_get_latest_versions", "_set_model_version_tag",
    "_set_registered_model_tag", "_update_model_version", "_update_registered_model",
})  # fmt: skip
_REGISTRY = ("/mlflow/registered-models/", "/mlflow/model-versions/")
_NOWHERE = ("none", "archived")  # stages that nobody serves from
_log = logging.getLogger("genealog.mlflow")


def create_app() -> Any:
    """Return MLflow's app with the gate in it, in the shape that the server it runs on wants.

    A store that cannot be opened stops no tracking server: it is said in its log, and every question is a no.
    Raises: StoreError `mlflow-layout`, where this MLflow is not one that is known here; UsageError `bad-option`.
    """
    from mlflow import server

    elsewhere = os.environ.get("GENEALOG_MLFLOW_ELSEWHERE", "deny")
    if elsewhere not in ("claim", "deny"):
        raise UsageError("bad-option", "GENEALOG_MLFLOW_ELSEWHERE", got=elsewhere, expected="deny, claim")
    gate = Gate(
        os.environ.get("GENEALOG_STORE"), label=os.environ.get("GENEALOG_MLFLOW_AS"), claims=elsewhere == "claim"
    )
    _check_layout(server.app)
    try:
        _log.warning("policy set %s decides on aliases, stages and versions", gate.check())
    except GenealogError as error:
        _log.error("every alias, stage and version is refused, because nothing can be asked: %s", error)
    other = os.environ.get("GENEALOG_MLFLOW_APP")
    inner = _load(other)() if other else None
    server.app.before_request(_Hook(gate))
    if inner is not None:
        return inner
    from mlflow.environment_variables import _MLFLOW_SGI_NAME

    if _MLFLOW_SGI_NAME.get() != "uvicorn":
        return server.app
    from mlflow.server.fastapi_app import create_fastapi_app

    return create_fastapi_app(server.app)


class _Hook:
    """Asks the gate before MLflow's handler does what it was asked. Returns MLflow's own error for a no, else None."""

    def __init__(self, gate: Gate) -> None:
        from mlflow.server import handlers

        self._gate = gate
        self._handlers: Any = handlers
        self._guarded = handlers.catch_mlflow_exception(self._ask)

    def __call__(self) -> Any:
        """Look which handler Flask chose. Raises: nothing that Flask would not answer."""
        from flask import request

        return self._guarded(request.endpoint) if request.endpoint in _ASKED else None

    def _ask(self, endpoint: str) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos import databricks_pb2

        try:
            for wish in getattr(self, endpoint.lstrip("_"))():
                self._gate.ask(wish)
        except GenealogError as error:
            said = f"Genealog: {error}" + (f". {error.hint}" if error.hint else "")
            raise MlflowException(said, error_code=databricks_pb2.PERMISSION_DENIED) from None

    # What each request asks for

    def set_registered_model_alias(self) -> Iterator[Wish]:
        asked = self._read("SetRegisteredModelAlias", "name", "alias", "version")
        yield from self._named(asked.name, asked.version, asked.alias)

    def transition_stage(self) -> Iterator[Wish]:
        asked = self._read("TransitionModelVersionStage", "name", "version", "stage")
        if asked.stage.lower() not in _NOWHERE:
            yield from self._named(asked.name, asked.version, asked.stage)

    def rename_registered_model(self) -> Iterator[Wish]:
        """A new name takes aliases and stages with it: each is asked for under that name."""
        asked = self._read("RenameRegisteredModel", "name", "new_name")
        store = self._handlers._get_model_registry_store()
        model = store.get_registered_model(asked.name)
        for alias, version in sorted(model.aliases.items()):
            yield from self._named(asked.name, version, alias, called=asked.new_name)
        for each in store.search_model_versions(f"name = '{asked.name}'", max_results=10_000):
            stage = each.current_stage
            called = stage if stage and stage.lower() not in _NOWHERE else None
            yield from self._named(asked.name, each.version, called, called=asked.new_name)

    def create_model_version(self) -> Iterator[Wish]:
        asked = self._read("CreateModelVersion", "name", "source")
        if not self._handlers._is_prompt_request(asked):  # of prompts, MLflow takes no source but a placeholder
            tags = {tag.key: tag.value for tag in asked.tags}
            where = self._location(asked.source)
            yield Wish(
                model=asked.name, version="(new)", source=where, folder=self._folder(where), claim=tags.get(TAG),
                user=_user(),
            )  # fmt: skip

    def _named(self, name: str, version: Any, alias: str | None, called: str | None = None) -> Iterator[Wish]:
        store = self._handlers._get_model_registry_store()
        found = store.get_model_version(name, version)
        where = store.get_model_version_download_uri(name, version)
        if found._is_prompt() and where in _placeholders(self._handlers):
            return
        yield Wish(
            model=called or name, version=str(version), alias=alias, source=where, folder=self._folder(where),
            claim=found.tags.get(TAG), user=_user(),
        )  # fmt: skip

    def _read(self, message: str, *required: str) -> Any:
        from mlflow.protos import model_registry_pb2

        handlers = self._handlers
        schema = {name: [handlers._assert_string, handlers._assert_required] for name in required}
        return handlers._get_request_message(getattr(model_registry_pb2, message)(), schema=schema)

    # Where the bytes are

    def _location(self, source: str) -> str:
        """Return where MLflow will look for what `source` means, as its store finds it when it makes a version."""
        if not source.startswith("models:"):
            return source
        store = self._handlers._get_model_registry_store()
        parsed = self._handlers._parse_model_version_source(source)
        if parsed.model_id is not None:
            return str(self._handlers._get_tracking_store().get_logged_model(parsed.model_id).artifact_location)
        from mlflow.store.artifact.utils.models import get_model_name_and_version

        return str(store.get_model_version_download_uri(*get_model_name_and_version(store, source)))

    def _folder(self, where: str) -> Path | None:
        """Return the folder of this machine that a location means; None where it is none."""
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
        from mlflow.utils.file_utils import local_file_uri_to_path
        from mlflow.utils.uri import is_local_uri

        handlers = self._handlers
        if is_local_uri(where, is_tracking_or_registry_uri=False):
            path = Path(local_file_uri_to_path(where))
            return path if path.is_absolute() else None
        if not handlers._is_servable_proxied_run_artifact_root(where):
            return None
        repository = handlers._get_artifact_repo_mlflow_artifacts()
        if not isinstance(repository, LocalArtifactRepository):
            return None
        inside = PurePosixPath(handlers._get_proxied_run_artifact_destination_path(proxied_artifact_root=where))
        if ".." in inside.parts or inside.is_absolute():
            return None
        return Path(repository.artifact_dir) / inside


def _check_layout(app: Any) -> None:
    """Refuse an MLflow whose registry can be changed in ways that nobody here looked at."""
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.version import VERSION

    changing = {
        rule.endpoint
        for rule in app.url_map.iter_rules()
        if any(part in f"{rule.rule}/" for part in _REGISTRY) and rule.methods & {"POST", "PUT", "PATCH", "DELETE"}
    }
    unknown = sorted(changing - _UNTOUCHED - set(_ASKED))
    missing = sorted(set(_ASKED) - changing)
    if unknown or missing or MLFLOW_ENABLE_WORKSPACES.get():
        raise StoreError(
            "mlflow-layout", f"the gate does not know the registry of MLflow {VERSION}",
            got=", ".join([*unknown, *(f"no {name}" for name in missing)]) or "workspaces, in which names repeat",
            expected="MLflow 3.17, without workspaces",
        )  # fmt: skip


def _load(name: str) -> Any:
    from importlib.metadata import entry_points

    for entry in entry_points(group="mlflow.app", name=name):
        if entry.value.partition(":")[0] != __name__:
            return entry.load()
    raise UsageError("bad-option", "GENEALOG_MLFLOW_APP names no other app of MLflow", got=name)


def _user() -> str | None:
    """Return whom MLflow's own authentication let in; a header alone says nothing."""
    from flask import g

    user = g.get("mlflow_authenticated_user")
    return user if isinstance(user, str) else None


def _placeholders(handlers: Any) -> frozenset[str]:
    return frozenset(getattr(handlers, "_PROMPT_SOURCE_PLACEHOLDERS", ()))
