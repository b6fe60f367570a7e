"""`genealog policy check`: what a gate would say, for CI. Nothing is written to a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json, print_table
from genealog.core.canonical import encode
from genealog.core.policy import Verdict, no
from genealog.deploy import Deployments, Wanted
from genealog.deploy.checking import would_deploy
from genealog.errors import MalformedError, MissingError, PolicyDenied, StoreError, UsageError
from genealog.policy.decide import Policies
from genealog.policy.document import Actor
from genealog.policy.kubernetes.files import Object, read_manifest
from genealog.policy.kubernetes.judging import Admission
from genealog.policy.kubernetes.workloads import group_of, is_ours, read_workload
from genealog.policy.sarif import Finding, sarif
from genealog.store.home import Home

app = typer.Typer(no_args_is_help=True)
CANNOT_TELL = ("policy-error", "policy-timeout", "policy-engine-missing", "policy-engine-unfit", "policy-malformed")


@app.callback()
def _group() -> None:
    """Ask what a gate would say, and change nothing: for CI."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One thing that was judged. `code` is `no-model` where there was nothing to ask."""

    file: str
    line: int
    subject: str
    kind: str
    environment: str
    verdict: Verdict
    code: str
    models: tuple[str, ...] = ()
    details: tuple[str, ...] = field(default=())


@app.command("deploy")
def check_deploy(
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Kubernetes manifests, YAML or JSON; may be given again; - is the input."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Or: a registered model, as of genealog deploy.")] = None,
    upstream: Annotated[str | None, typer.Option(help="With --model: the base URL of its engine.")] = None,
    name: Annotated[str | None, typer.Option(help="With --model: the deployment that would get it.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="With --model: an adapter; may be given again.")] = None,
    environment: Annotated[
        str | None, typer.Option(help="Judge by this environment. Default: the one that NAMESPACE/NAME belongs to.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Where objects go that do not say so.")] = None,
    actor: Annotated[str, typer.Option(help="Who would do it, as policies see it.")] = "ci",
    serving_image: Annotated[
        list[str] | None, typer.Option(help="A further pattern of images that serve models; may be given again.")
    ] = None,
    sarif_file: Annotated[Path | None, typer.Option("--sarif", help="Write the findings as SARIF 2.1.0.")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Say whether manifests, or a deployment, would be let in; nothing is changed, and nothing is put on record.

    Exit: 0 everything may run, 1 something may not, 2 wrong usage, 3 nothing could be judged.

    Example: [bold]genealog policy check deploy -f manifest.yaml --environment prod --sarif policy.sarif[/bold]
    """
    if bool(file) == (model is not None) or (model is not None and not (upstream and name)):
        raise UsageError(
            "bad-option", "say what would be deployed", expected="-f FILE, or --model REF --upstream URL --name NAME"
        )
    if model is not None and environment is not None:
        raise UsageError("bad-option", "the name of a deployment says its environment", hint="leave --environment out")
    who = Actor(id=actor, kind="ci", groups=())
    home = Home.find(store)
    policies = Policies.open(home)
    try:
        if model is not None:
            wanted = Wanted(model=model, upstream=upstream or "", adapters=adapter or ())
            rows = [_deployment(home, policies, name or "", wanted, who)]
        else:
            admission = Admission(home, policies, images=serving_image or ())
            rows = [
                row
                for path in file or ()
                for row in _manifests(admission, path, who, environment=environment, namespace=namespace)
            ]
    finally:
        policies.close()
    if sarif_file is not None:
        _write_sarif(sarif_file, rows, policies)
    status = _status(rows)
    if json:
        print_json({
            "allow": status == 0, "policy": policies.set.id, "engine": policies.engine.name,
            "results": [_json(row) for row in rows],
        })  # fmt: skip
    else:
        _print(rows)
    if not rows:
        raise MissingError(
            "no-workload", "no object here runs models, so that nothing was judged",
            got=", ".join(map(str, file or ())), expected="pods, Deployments or objects of KServe",
        )  # fmt: skip
    raise typer.Exit(status)


def _manifests(
    admission: Admission, path: Path, actor: Actor, *, environment: str | None, namespace: str | None
) -> Iterator[_Row]:
    shown = "stdin" if str(path) == "-" else path.as_posix()
    for each in read_manifest(_read(path)):
        value = each.value if isinstance(each.value, dict) else {}
        kind, version = value.get("kind"), value.get("apiVersion")
        if not isinstance(kind, str) or not isinstance(version, str):
            raise MalformedError("bad-manifest", f"this is no object of Kubernetes: {shown} line {each.line}")
        if is_ours(group_of(version), kind):
            yield _workload(admission, each, shown, actor, environment=environment, namespace=namespace)


def _workload(
    admission: Admission, found: Object, file: str, actor: Actor, *, environment: str | None, namespace: str | None
) -> _Row:
    own = found.value.get("metadata")
    stated = isinstance(own, dict) and own.get("namespace")
    try:
        workload = read_workload(found.value, namespace=None if stated else namespace)
    except MalformedError as error:
        raise MalformedError(error.code, f"{error.message}: {file} line {found.line}", got=error.got) from None
    answer = admission.judge(workload, actor=actor, environment=environment)
    judged = answer.judged
    where = environment or admission.policies.set.environment_of(workload.deployment)
    models = () if judged is None else tuple(each.id for each in judged.document.models)
    verdict = Verdict(True, {}) if judged is None else judged.verdict
    return _Row(
        file, found.line, workload.deployment, workload.kind, where, verdict, answer.code, models, answer.details
    )


def _deployment(home: Home, policies: Policies, name: str, wanted: Wanted, actor: Actor) -> _Row:
    where = policies.set.environment_of(name)
    deployments = Deployments(home)
    try:
        judged = would_deploy(deployments, policies, name, wanted, actor=actor)
    except PolicyDenied as error:
        verdict = no(error.code, f"{error.message}{error.facts}", policy="deploy")
        return _Row("", 1, name, "deployment", where, verdict, error.code)
    models = tuple(each.id for each in judged.document.models)
    return _Row("", 1, name, "deployment", where, judged.verdict, judged.verdict.code, models)


def _status(rows: Sequence[_Row]) -> int:
    denied = [row for row in rows if not row.verdict.allow]
    if not denied:
        return 0
    return 3 if all(row.code in CANNOT_TELL for row in denied) else 1


def _findings(rows: Sequence[_Row]) -> Iterator[Finding]:
    for row in rows:
        details = "".join(f"; {each}" for each in row.details)
        for reason in row.verdict.reasons:
            more = details if reason.policy == "workload_safe" else ""
            yield Finding(reason.policy, reason.code, "error", reason.message + more, row.subject, row.file, row.line)
        for _, reason in row.verdict.noted:
            yield Finding(reason.policy, reason.code, "warning", reason.message, row.subject, row.file, row.line)


def _write_sarif(path: Path, rows: Sequence[_Row], policies: Policies) -> None:
    ok = bool(rows) and _status(rows) != 3
    made = sarif(_findings(rows), policies.set.policies, revision=policies.set.id, ok=ok)
    try:
        path.write_bytes(encode(made) + b"\n")
    except OSError as error:
        raise StoreError("system-refused", "the findings cannot be written", got=f"{path}: {error.strerror}") from None


def _json(row: _Row) -> dict[str, Any]:
    verdict = row.verdict
    return {
        "file": row.file or None, "line": row.line if row.file else None, "subject": row.subject, "kind": row.kind,
        "environment": row.environment, "outcome": "allow" if verdict.allow else "deny", "code": row.code,
        "reasons": [{"policy": each.policy, "code": each.code, "message": each.message} for each in verdict.reasons],
        "flags": list(verdict.flags), "waived": list(verdict.waived), "models": list(row.models),
        "details": list(row.details),
    }  # fmt: skip


def _print(rows: Sequence[_Row]) -> None:
    table = [
        (
            f"{row.file}:{row.line}" if row.file else "", row.kind, row.subject, row.environment,
            "allow" if row.verdict.allow else "deny", row.code,
        )
        for row in rows
    ]  # fmt: skip
    if table:
        print_table(("where", "kind", "name", "environment", "outcome", "code"), table, empty="")
    for row in rows:
        for reason in row.verdict.reasons:
            out.print(f"  {row.subject}: {reason}: {reason.message}", markup=False)
        for mode, reason in row.verdict.noted:
            out.print(f"  {row.subject}: {mode}: {reason}: {reason.message}", markup=False)
        for each in row.details:
            out.print(f"  {row.subject}: {each}", markup=False)


def _read(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("bad-manifest", "this is no Kubernetes manifest", got=f"{path}: not UTF-8") from None
    except OSError as error:
        raise MissingError("no-such-file", "a manifest cannot be read", got=f"{path}: {error.strerror}") from None
