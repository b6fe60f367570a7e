"""Serve: which model answers under which name; on to the next with whose approval, and back to the one before."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.cli.acknowledging import NoWait, acknowledged, say, shown
from genealog.cli.break_glass import say_open
from genealog.cli.options import As, Expect, Json, Reason, Store, moment
from genealog.cli.output import out, print_json, print_table, short
from genealog.cli.past import print_targets
from genealog.core.policy import POINTS
from genealog.deploy import Approvals, Deployments, Given, Status, read_wanted
from genealog.deploy.resting import FOUR_EYES
from genealog.errors import UsageError
from genealog.incidents import Case, Incidents
from genealog.policy.sets import load_set
from genealog.registry import Registry
from genealog.store.home import Home

Name = Annotated[str, typer.Argument(help="A deployment.")]
AllowTainted = Annotated[
    str | None,
    typer.Option(
        "--allow-tainted",
        help="Serve a descendant of a revoked version all the same, and why; it stands in the log.",
        metavar="REASON",
    ),
]


def deploy(
    name: Annotated[str, typer.Argument(help="The name that apps send as `model`.")],
    model: Annotated[str, typer.Option(help="A registered model, by name or ID.")],
    upstream: Annotated[str, typer.Option(help="Base URL of the engine or the vendor, without /v1.")],
    adapter: Annotated[
        list[str] | None, typer.Option(help="A registered adapter of that model; may be given again.")
    ] = None,
    weight: Annotated[int, typer.Option(help="Its share of new calls, where there are other targets.")] = 1,
    served_as: Annotated[
        str | None, typer.Option(help="What the upstream calls the model, if not NAME: requests are rewritten.")
    ] = None,
    seller: Annotated[
        str | None, typer.Option(help="Whom calls are paid to. Default: the vendor of an external model.")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="SHA-256 of the public key that the upstream shows in TLS (A2); may be given again."),
    ] = None,
    credentials: Annotated[
        str | None, typer.Option(help="LABEL of \\[upstreams.LABEL] in genealog.toml: how to log in there.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Another target, `model=REF,upstream=URL,weight=N,…`; may be given again.", metavar="PAIRS"),
    ] = None,
    attempts: Annotated[int, typer.Option(help="How many targets one call may be tried on.")] = 1,
    min_assurance: Annotated[
        str, typer.Option(help="Refuse to serve below this level, A0 to A4. This version reaches A0 to A3.")
    ] = "A0",
    durability: Annotated[
        str,
        typer.Option(
            help="What the record of a call survives. D1: a crash of the gateway; D1+: a power cut, but for 50 ms; "
            "D2: a power cut; D3: the loss of the machine."
        ),
    ] = "D1",
    bodies: Annotated[
        str, typer.Option(help="What to keep of prompts and answers: encrypted (bodies), hashes (no bodies) or none.")
    ] = "encrypted",
    reason: Reason = None,
    allow_tainted: AllowTainted = None,
    expect: Expect = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Point a name at a model behind an engine. Gateways follow at once.

    Where genealog.toml asks for approvals, they have to be there first, as for `promote`. Further targets share the
    calls by weight: for a canary, `--weight 95 --target model=v2,upstream=URL,weight=5`. One of weight 0 is only asked
    when others failed and --attempts allows it.

    Example: [bold]genealog deploy support-bot --model smol --adapter facts-lora --upstream http://127.0.0.1:8001[/bold]
    """
    deployments = Deployments(Home.find(store), tell=say_open)
    live = deployments.deploy(
        name, model=model, upstream=upstream, adapters=adapter or (), weight=weight, served_as=served_as,
        seller=seller, endpoint=endpoint or (), credentials=credentials,
        others=[read_wanted(each) for each in target or ()], attempts=attempts, minimum_assurance=min_assurance,
        durability=durability, body_capture=bodies, reason=reason, allow_tainted=allow_tainted, expect=expect,
        signer=deployments.registry.signer(as_),
    )  # fmt: skip
    if json:
        print_json({"deployment": name, "spec": live.spec, "models": live.body.models, "tainted": live.tainted})
        return
    if live.body.others:
        out.print(f"[bold]{name}[/bold] → {short(live.spec)}")
        print_targets(live.body)
    else:
        out.print(f"[bold]{name}[/bold] → {short(live.spec)}: {', '.join(map(short, live.body.models))} at {upstream}")
    _say_tainted(live.tainted)


def promote(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A deployment, such as staging/support-bot.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="The deployment that gets exactly the same serving spec.")],
    reason: Reason = None,
    allow_tainted: AllowTainted = None,
    expect: Expect = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Let one deployment serve exactly what another serves: the same spec, by its ID.

    Where genealog.toml asks for approvals of TO, others have to approve that spec first: `genealog approve`.

    Example: [bold]genealog promote staging/support-bot prod/support-bot --reason "a week without complaints"[/bold]
    """
    deployments = Deployments(Home.find(store), tell=say_open)
    moved = deployments.promote(
        source, to, reason=reason, allow_tainted=allow_tainted, expect=expect,
        signer=deployments.registry.signer(as_),
    )  # fmt: skip
    live = moved.live
    if json:
        print_json({
            "deployment": to, "from": source, "spec": live.spec, "models": live.body.models,
            "entry": str(moved.position), "approvals": moved.approvals, "tainted": live.tainted,
        })  # fmt: skip
        return
    models = ", ".join(map(short, live.body.models))
    out.print(f"[bold]{to}[/bold] → {short(live.spec)}: {models}, as {source} serves it (entry {moved.position})")
    if moved.approvals:
        count = len(moved.approvals)
        out.print(f"  resting on {count} approval{'s' if count > 1 else ''}: genealog show {to}")
    _say_tainted(live.tainted)


def approve(
    name: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="The deployment that shall get the spec.")],
    spec: Annotated[str | None, typer.Option(help="The start of the ID of a serving spec.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Or: the spec that this deployment serves now.", metavar="DEPLOYMENT")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Or: a model, for a name that another registry keeps.", metavar="REF")
    ] = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take your approval back.")] = False,
    reason: Reason = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Agree that a deployment may serve one spec, or no longer agree. Signed, and good for nothing else.

    An alias of MLflow has no spec: there, what is approved is the model.

    Example: [bold]genealog approve prod/support-bot --from staging/support-bot --as security[/bold]
    Example: [bold]genealog approve mlflow/bot/champion --model bot --as security[/bold]
    """
    deployments = Deployments(Home.find(store))
    if sum(given is not None for given in (spec, source, model)) != 1:
        raise UsageError(
            "bad-option", "say what you approve", expected="--spec ID, --from DEPLOYMENT or --model REF",
            hint="genealog show DEPLOYMENT says what it serves",
        )  # fmt: skip
    if model is not None:
        which = deployments.registry.resolve(model).id
    else:
        which = deployments.find_spec(spec) if spec is not None else deployments.history(source or "")[-1].spec
    signer, asked = deployments.registry.signer(as_), _four_eyes(deployments, name)
    position = deployments.approvals.say(name, which, signer=signer, reason=reason, withdraw=withdraw)
    status = _status(deployments, name, which)
    if json:
        print_json({"entry": str(position), "four_eyes": asked} | _status_json(status))
        return
    done = "no longer approved" if withdraw else "approved"
    out.print(f"{done}: {short(which)} on [bold]{name}[/bold] (entry {position})")
    if model is None:
        out.print(f"  it serves {', '.join(map(short, deployments.spec(which).models))}")
    _print_rules(status)
    if asked is not None:
        _print_four_eyes(asked, "  ")
    elif not status.rules:
        out.print(f"  no rule of genealog.toml guards {name}: it can be deployed to without", markup=False)


def approvals(
    name: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="A deployment, also one that serves nothing yet.")],
    spec: Annotated[str | None, typer.Option(help="Only this serving spec, by the start of its ID.")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Show who approves what a deployment may serve, and whose approval is missing.

    Example: [bold]genealog approvals prod/support-bot[/bold]
    """
    deployments = Deployments(Home.find(store))
    specs = [deployments.find_spec(spec)] if spec is not None else list(deployments.approvals.waiting(name))
    found, asked = [_status(deployments, name, each) for each in specs], _four_eyes(deployments, name)
    if json:
        print_json({"deployment": name, "rules": _rules_json(deployments.approvals, name), "four_eyes": asked,
                    "specs": [_status_json(status) for status in found]})  # fmt: skip
        return
    for rule in deployments.approvals.rules(name):
        whose = ", ".join(rule.from_) or "anybody who signs here"
        out.print(f"rule {rule.deployment}: {rule.required} of {whose}", markup=False)
    if not deployments.approvals.rules(name):
        out.print(f"no rule of genealog.toml guards {name}", markup=False)
    if asked is not None:
        _print_four_eyes(asked)
    for status in found:
        out.print(f"[bold]{status.spec}[/bold]")
        rows = [
            (each.identity, f"registry:{each.index}", each.at, each.reason, each.void or "") for each in status.said
        ]
        print_table(("who", "entry", "at", "reason", "does not count"), rows, empty="nobody has said anything")
        _print_rules(status)
    if not found:
        out.print("nobody has approved anything here yet: genealog approve")


def rollback(
    name: Name,
    to: Annotated[
        str | None, typer.Option(help="The start of the spec ID to go back to. Default: the one before.")
    ] = None,
    to_time: Annotated[str | None, typer.Option(help="Go back to what was live then (UTC).", metavar="TIME")] = None,
    incident: Annotated[
        str | None,
        typer.Option(help="Belongs to this incident, which is opened if need be: its hold goes into the log first."),
    ] = None,
    reason: Reason = None,
    expect: Expect = None,
    no_wait: NoWait = False,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Point a deployment back at what it served before. Needs no approvals: its target was live here.

    Calls that run finish where they began; the command returns when every gateway sends new ones to where it went. The
    next rollback goes further back, not forth again.

    Example: [bold]genealog rollback support-bot --reason "wrong answers since noon" --incident case-17[/bold]
    """
    began = time.perf_counter()
    if to is not None and to_time is not None:
        raise UsageError("bad-option", "a spec and a time", hint="give --to or --to-time")
    home = Home.find(store)
    signer, when = Registry(home).signer(as_), moment(to_time, last=True)
    case: Case | None = None
    if incident is not None:
        live, position, case = Incidents(home).rollback(
            name, incident=incident, to=to, to_time=when, reason=reason, expect=expect, signer=signer
        )
    else:
        live, position = Deployments(home).rollback(
            name, to=to, to_time=when, reason=reason, expect=expect, signer=signer
        )
    took = round((time.perf_counter() - began) * 1000)
    done = acknowledged(home, no_wait=no_wait)
    if json:
        print_json({
            "deployment": name, "spec": live.spec, "entry": str(position), "took_ms": took, "incident": incident,
            "hold": case and case.hold and str(case.hold.position), "tainted": live.tainted,
            "acknowledged": shown(done),
        })  # fmt: skip
        return
    models = ", ".join(map(short, live.body.models))
    out.print(f"[bold]{name}[/bold] is back at {short(live.spec)}: {models} ({took} ms, entry {position})")
    say(done)
    if case is not None and case.hold is not None:
        out.print(
            f"  held first: every call since {case.since}, by the hold {escape(case.name)} ({case.hold.position})"
        )
    _say_tainted(live.tainted)


def _status(deployments: Deployments, name: str, spec: str) -> Status:
    moves = [move for move in deployments.moves(name) if not move.stale]
    return deployments.approvals.status(name, spec, moves)


def _print_rules(status: Status) -> None:
    for ruled in status.rules:
        count = f"{len(ruled.given)} of {ruled.rule.required} approvals ({ruled.rule.deployment})"
        missing = "" if ruled.met else f"; not yet: {', '.join(ruled.missing) or 'others who sign here'}"
        out.print(f"  {'enough' if ruled.met else 'not enough'}: {count}{missing}", markup=False)


def _four_eyes(deployments: Deployments, name: str) -> dict[str, Any] | None:
    """Return what the policy `four_eyes` denies without, whatever the rules ask for; None where it does not deny."""
    home = deployments.registry.home
    policies = load_set(home.config, home.path)
    environment = policies.environment_of(name)
    if not any(policies.asked(environment, point).get(FOUR_EYES) == "deny" for point in POINTS):
        return None
    return {"environment": environment, "required": policies.settings["approvals"]}


def _print_four_eyes(asked: dict[str, Any], indent: str = "") -> None:
    count = f"{asked['required']} approval{'s'[: asked['required'] != 1]}"
    whose = "of others: neither who moves it, nor who made or registered a model"
    out.print(f"{indent}policy {FOUR_EYES} ({asked['environment']}): {count} {whose}", markup=False)


def _status_json(status: Status) -> dict[str, Any]:
    def one(each: Given) -> dict[str, Any]:
        return {"by": each.identity, "key": each.keyid, "entry": f"registry:{each.index}", "leaf": each.leaf,
                "at": each.at, "reason": each.reason, "void": each.void}  # fmt: skip

    return {
        "deployment": status.deployment, "spec": status.spec, "met": status.met,
        "said": [one(each) for each in status.said],
        "rules": [
            {"deployment": ruled.rule.deployment, "required": ruled.rule.required, "from": ruled.rule.from_,
             "given": [each.leaf for each in ruled.given], "missing": ruled.missing, "met": ruled.met}
            for ruled in status.rules
        ],
    }  # fmt: skip


def _rules_json(approvals: Approvals, name: str) -> list[dict[str, Any]]:
    return [
        {"deployment": rule.deployment, "required": rule.required, "from": rule.from_,
         "promoter_counts": rule.promoter_counts}
        for rule in approvals.rules(name)
    ]  # fmt: skip


def _say_tainted(tainted: str | None) -> None:
    if tainted:
        out.print(f"  [yellow]tainted[/yellow] {escape(tainted)}")
