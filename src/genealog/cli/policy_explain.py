"""`genealog policy explain`: what an answer rests on, and what would have to be otherwise. Nothing is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from genealog.cli.options import Json, Store
from genealog.cli.output import one_line, out, print_json
from genealog.cli.policy_try import At, EnvironmentName, given_input, print_verdict, verdict_json
from genealog.core import records
from genealog.core.canonical import encode
from genealog.core.policy import Verdict
from genealog.deploy import Deployments
from genealog.deploy.gate import moving
from genealog.errors import MissingError, UsageError
from genealog.ledger import Position
from genealog.policy.diff import in_process, judge, read_input, registered_set
from genealog.policy.document import Actor, Call, Serving
from genealog.policy.explain import Explained, explain
from genealog.policy.facts import LEVELS, Facts, used_by
from genealog.policy.sets import PolicySet, load_set
from genealog.registry import Registry
from genealog.store.home import REGISTRY, Home

_LIVE = ("deploy", "serve")
_WHICH = "genealog policy decisions names the entries"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be explained: an input for a policy set, and what the record says came of it, if it is there."""

    policies: PolicySet
    document: dict[str, Any]
    recorded: bool | None = None


def explain_decision(
    what: Annotated[
        str,
        typer.Argument(
            help="A decision on record: registry:N; an input, as for eval; or `deploy` or `serve` and NAME."
        ),
    ],
    name: Annotated[str | None, typer.Argument(help="The deployment, as it is now.")] = None,
    point: At = None,
    environment: EnvironmentName = None,
    purpose: Annotated[str, typer.Option(help="With `serve`: what the call is for.")] = "",
    data_class: Annotated[str, typer.Option(help="With `serve`: of the data that it has.")] = "",
    assurance: Annotated[
        str | None, typer.Option(help="With `serve`: the level that is reached. Default: what the deployment demands.")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Say why: what each policy came to, which facts that rests on, and what would have to be otherwise.

    Found by asking the engine again with other facts, for a second or two. A decision on record is decided again by the
    set that it names, and held to what it says: exit 1 if it says otherwise. Of a deployment: what is live there now,
    as if it were deployed, or called by somebody with a budget. Records nothing.

    Example: [bold]genealog policy explain serve prod/support-bot[/bold]
    """
    home = Home.find(store)
    if what in _LIVE and name is not None:
        asked = _live(home, what, name, _call(purpose, data_class), assurance)
    elif name is not None:
        raise UsageError("bad-option", "a deployment is explained at a point", got=what, expected=" or ".join(_LIVE))
    elif what.startswith("registry:"):
        asked = _recorded(Registry(home), what)
    else:
        asked = _Asked(load_set(home.config, home.path), given_input(what, point, environment))
    engine = in_process(home.config.policy, asked.policies)
    try:
        verdict = judge(asked.policies, engine, asked.document)
        found = explain(asked.policies, engine, asked.document) if verdict.outcomes else []
    finally:
        engine.close()
    same = None if asked.recorded is None else asked.recorded == verdict.allow
    modes = asked.policies.asked(asked.document["env"]["name"], asked.document["point"]) if found else {}
    if json:
        rows = [_json(each, modes) for each in found]
        print_json({**verdict_json(verdict), "set": asked.policies.id, "policies": rows, "as_recorded": same})
    else:
        _print(verdict, found, modes, asked.policies, same)
    if same is False:
        raise typer.Exit(1)


def _call(purpose: str, data_class: str) -> Call:
    return Call(purpose=purpose, data_class=data_class, tenant="", budget=True, budget_left=True)


def _live(home: Home, point: str, name: str, call: Call, assurance: str | None) -> _Asked:
    deployments = Deployments(home)
    live = deployments.snapshot().live.get(name)
    if live is None:
        deployments.history(name)
        raise MissingError("unknown-deployment", "nothing is live under this name", got=name)
    if assurance is not None and assurance not in LEVELS:
        raise UsageError("bad-option", "not a level", got=assurance[:40], expected=", ".join(LEVELS))
    policies = load_set(home.config, home.path)
    facts = Facts(home, policies)
    demanded, used = LEVELS[live.body.minimum_assurance], used_by(live.body)
    if point == "serve":
        reached = max(1, demanded if assurance is None else LEVELS[assurance])
        document = facts.document(
            "serve", deployment=name, used=used, actor=Actor(id="", kind="unknown", groups=()), call=call,
            allowed=[each.id for each in used], serving=Serving(minimum_assurance=demanded, assurance=reached),
        )  # fmt: skip
    else:
        moves = [move for move in deployments.moves(name) if not move.stale]
        said = deployments.approvals.said(name, live.spec, moves)
        actor = facts.actor(deployments.registry.signer().keyid)
        document = moving(facts, "deploy", name, live.body, actor, said)
    return _Asked(policies, msgspec.json.decode(encode(document)))


def _recorded(registry: Registry, place: str) -> _Asked:
    number = place.removeprefix("registry:")
    if not number.isascii() or not number.isdecimal():
        raise UsageError("bad-option", "not an entry", got=place[:80], expected="registry:N")
    registry.ledger.index(REGISTRY)
    leaf = registry.leaf(int(number))
    if not leaf:
        raise MissingError(
            "no-such-entry", "the registry log has no such entry", got=Position(REGISTRY, int(number), ""), hint=_WHICH
        )
    body = registry.statement(leaf).body
    if not isinstance(body, records.Decision) or body.policy is None or body.input is None:
        raise MissingError("no-decision", "this entry is no decision of a policy", got=place, hint=_WHICH)
    document = read_input(registry.home.objects.get(body.input))
    return _Asked(registered_set(registry, body.policy), document, body.outcome == "allow")


def _json(each: Explained, modes: Mapping[str, str]) -> dict[str, Any]:
    return {
        "policy": each.policy, "outcome": each.outcome, "mode": modes[each.policy],
        "reasons": [{"code": reason.code, "message": reason.message} for reason in each.reasons],
        "rests_on": list(each.rests_on), "settings": list(each.settings),
        "otherwise": [
            {"path": change.path, "before": change.before, "after": change.after} for change in each.otherwise
        ],
        "cut": each.cut,
    }  # fmt: skip


def _print(
    verdict: Verdict, found: Sequence[Explained], modes: Mapping[str, str], policies: PolicySet, same: bool | None
) -> None:
    print_verdict(verdict)
    for each in found:
        title = escape(policies.policies[each.policy].title)
        out.print(f"[bold]{each.policy}[/bold] {each.outcome} ({modes[each.policy]})  {title}")
        for reason in each.reasons:
            out.print(f"  {reason.code}: {one_line(reason.message)}", markup=False, soft_wrap=True)
        for at, change in enumerate(each.otherwise):
            out.print(f"  {'and if' if at else 'allowed if'} {one_line(str(change))}", markup=False, soft_wrap=True)
        measured = [f"[policy] {setting}" for setting in each.settings]
        rests = ", ".join([*each.rests_on, *measured]) or "nothing in the input"
        out.print(f"  rests on {rests}", markup=False, style="dim", soft_wrap=True)
        if each.outcome in ("denied", "undefined") and not each.otherwise:
            said = "the search was cut short" if each.cut else "no other fact would do"
            out.print(f"  no change found that it would allow: {said}", style="dim")
        elif each.cut:
            out.print("  cut short: it may rest on more", style="dim")
    if same is not None:
        out.print("decided again, it comes to the same" if same else "[bold red]the record says otherwise[/bold red]")
