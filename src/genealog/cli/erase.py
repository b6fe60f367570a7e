"""Erase, disclose, hold, retention, vault: what may be forgotten, what must be kept, and what one person may see."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.answers import Answers
from genealog.cli.options import As, Json, Store, moment
from genealog.cli.output import out, print_json, print_table
from genealog.cli.prove import write
from genealog.core.bundle import encode_evidence
from genealog.erasure import Erasure, Plan
from genealog.errors import MissingError
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.retention import Due, Keeping
from genealog.retention import Plan as DuePlan
from genealog.store.home import Home
from genealog.store.vault.rotate import rotate

Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the log, readable by everyone who has it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it, without asking.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help='A tenant; "" for calls without one.')]
Subject = Annotated[
    str | None, typer.Option("--subject", help="The person that calls are about, as the client named them.")
]

hold_app = typer.Typer(no_args_is_help=True, help="Holds: what may not be erased, by nobody and no rule.")
retention_app = typer.Typer(no_args_is_help=True, help="Retention: keep for so long, delete after so long.")
vault_app = typer.Typer(no_args_is_help=True, help="The vault: the erasable side of the store.")


def erase(
    reason: Why,
    subject: Subject = None,
    tenant: Tenant = None,
    call: Annotated[str | None, typer.Option("--call", help="The ID of one call.")] = None,
    override_minimum: Annotated[
        str | None,
        typer.Option("--override-minimum", help="Erase before a retention minimum too, and why; it stands in the log."),
    ] = None,
    yes: Yes = False,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Destroy the keys, bodies and texts of a person, a tenant or a call. The log and its proofs stay whole.

    Shows what would go first, and asks; without a terminal nothing is erased unless --yes.
    Example: [bold]genealog erase --subject jane@example.org --reason "her request of 3 May" --yes[/bold]
    """
    home = Home.find(store)
    service = Erasure(home)
    parts = service.parts(subject=subject, tenant=tenant, call=call)
    plan = service.plan(parts)
    if not json:
        _show(plan, override_minimum is not None)
    if not (yes or (not json and _asked(f"Erase {_calls(len(plan.calls))} for good?"))):
        if json:
            print_json(_plan_json(plan) | {"erased": False})
        else:
            out.print("nothing was erased: add --yes to do it")
        return
    done = service.erase(parts, reason=reason, signer=Registry(home).signer(as_), override=override_minimum)
    if json:
        tombstones = [str(position) for position in done.positions]
        print_json(_plan_json(plan) | {"erased": True, "calls": done.calls, "tombstones": tombstones})
        return
    where = ", ".join(map(str, done.positions))
    out.print(f"erased {_calls(done.calls)}, {done.size} bytes of bodies; the log says so: {where}")
    out.print("copies live on: backups until [bold]genealog vault rotate-key[/bold], and what was handed out")


def disclose(
    call: Annotated[str, typer.Argument(help="A call ID.")],
    o: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    groups: Annotated[
        str, typer.Option(help="Sealed groups to open, with commas: engine, request, response, retrieval, usage, who.")
    ],
    answer: Annotated[bool, typer.Option("--answer", help="Put in the body of the answer.")] = False,
    prompt: Annotated[bool, typer.Option("--prompt", help="Put in the body of the prompt.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Open a part of one call for a reader: its receipt and these groups, and nothing else.

    Whoever gets the file can prove that this is what was sealed in the log; of the rest it shows nothing.
    Example: [bold]genealog disclose 01JD… --groups usage,engine -o part.disclosure.json[/bold]
    """
    wanted = tuple(dict.fromkeys(filter(None, groups.split(","))))
    found = Answers(Home.find(store)).disclose(call, groups=wanted, output=answer, prompt=prompt)
    data = encode_evidence(found)
    write(o, data)
    bodies = [name for name in ("request", "response") if getattr(found, name) is not None]
    if json:
        print_json({"file": str(o), "size": len(data), "groups": sorted(found.groups), "bodies": bodies})
        return
    out.print(f"wrote {o}: opened groups: {', '.join(sorted(found.groups))}; bodies: {', '.join(bodies) or 'none'}")
    out.print(f"verify anywhere: genealog verify {o} --trust trust.policy")


@hold_app.command("place")
def place(
    name: Annotated[str, typer.Argument(help="A name for it, such as that of an incident.")],
    reason: Why,
    call: Annotated[list[str] | None, typer.Option("--call", help="A call ID; may be given again.")] = None,
    tenant: Tenant = None,
    subject: Subject = None,
    since: Annotated[str | None, typer.Option(help="With --until: every call made from then on, UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="With --since: every call made up to then, UTC.")] = None,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Hold calls: nobody and no rule erases them until the hold is lifted. It stands in the log.

    A subject without --tenant is held in every tenant that has calls about it now.

    Example: [bold]genealog hold place case-17 --tenant acme --reason "court order of 3 May"[/bold]
    """
    home = Home.find(store)
    position = Erasure(home).place(
        name, reason=reason, signer=Registry(home).signer(as_), calls=call or (), tenant=tenant, subject=subject,
        since=moment(since), until=moment(until, last=True),
    )  # fmt: skip
    _said(f"hold {name} stands: entry {position}", {"hold": name, "entry": str(position)}, json=json)


@hold_app.command("lift")
def lift(
    name: Annotated[str, typer.Argument(help="The name of a hold.")],
    reason: Why,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Lift a hold: what it held may be erased again.

    Example: [bold]genealog hold lift case-17 --reason "closed"[/bold]
    """
    home = Home.find(store)
    position = Erasure(home).lift(name, reason=reason, signer=Registry(home).signer(as_))
    _said(f"hold {name} is lifted: entry {position}", {"hold": name, "entry": str(position)}, json=json)


@hold_app.command("ls")
def holds(store: Store = None, json: Json = False) -> None:
    """List the holds that stand, as the log says.

    Example: [bold]genealog hold ls[/bold]
    """
    found = Erasure(Home.find(store)).holds()
    rows = []
    for hold in found:
        parts = [f"call {call}" for call in sorted(hold.calls)] + [f"tenant {name!r}" for name in sorted(hold.tenants)]
        parts += [f"subject {digest[:12]}" for digest in sorted(hold.subjects)]
        parts += [f"{hold.since} to {hold.until}"] if hold.since else []
        rows.append((hold.name, ", ".join(parts), hold.reason, hold.at, str(hold.position)))
    columns = ("hold", "holds", "reason", "at", "entry")
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows, empty="no hold stands")


@retention_app.command("ls")
def rules(store: Store = None, json: Json = False) -> None:
    """List the retention rules of genealog.toml.

    Example: [bold]genealog retention ls[/bold]
    """
    columns = ("rule", "tenant", "deployment", "minimum", "maximum", "deletes")
    rows = [
        (number, rule.tenant, rule.deployment, _days(rule.minimum), _days(rule.maximum), ", ".join(rule.what))
        for number, rule in enumerate(Home.find(store).config.retention, 1)
    ]
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, rows, empty="no rules: genealog.toml has no retention section")


@retention_app.command("plan")
def retention_plan(store: Store = None, json: Json = False) -> None:
    """Show what `retention apply` would delete now, and what stays though its time is over.

    Example: [bold]genealog retention plan[/bold]
    """
    plan = Keeping(Home.find(store)).plan()
    if json:
        print_json(_due_json(plan))
    else:
        _show_due(plan)


@retention_app.command("apply")
def retention_apply(
    reason: Annotated[str, typer.Option("--reason", help="It stands in the log.")] = "retention rules",
    yes: Yes = False,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Delete what is past its maximum, and put a tombstone into the log. Run it daily, by a timer, with --yes.

    Example: [bold]genealog retention apply --yes[/bold]
    """
    home = Home.find(store)
    keeping = Keeping(home)
    plan = keeping.plan()
    if not json:
        _show_due(plan)
    count = sum(len(due.calls) for due in plan.due)
    if not count:
        if json:
            print_json(_due_json(plan) | {"applied": True, "tombstones": []})
        return
    if not (yes or (not json and _asked(f"Destroy this of {_calls(count)} for good?"))):
        if json:
            print_json(_due_json(plan) | {"applied": False})
        else:
            out.print("nothing was deleted: add --yes to do it")
        return
    done = keeping.apply(reason=reason, signer=Registry(home).signer(as_))
    where = [str(position) for position in done.positions]
    value = _due_json(done.plan) | {"applied": True, "tombstones": where}
    _said(f"deleted; the log says so: {', '.join(where)}", value, json=json)


@vault_app.command("rotate-key")
def rotate_key(store: Store = None, json: Json = False) -> None:
    """Put the vault under a new key, and destroy the old one: older copies of the vault cannot be opened any more.

    Killed at any moment, the store opens again with one of the two keys. Copies of the old key are yours to destroy.
    Example: [bold]genealog vault rotate-key[/bold]
    """
    home = Home.find(store)
    count = rotate(home.vault, home.keys)
    said = f"the vault has a new key: {count} tenants' keys wrapped anew"
    next_ = "back up keys/vault.key now, and destroy the copies of the old one"
    _said(f"{said}\n{next_}", {"tenants": count}, json=json)


@vault_app.command()
def redacted(
    call: Annotated[str, typer.Argument(help="The ID of a call.")],
    prompt: Annotated[bool, typer.Option("--prompt", help="The prompt; else the answer.")] = False,
    store: Store = None,
) -> None:
    """Print what is kept of a body in which personal data was masked, as JSON: not what passed, and no evidence.

    Example: [bold]genealog vault redacted 01KXQ3Z3K5ZJ8Q0V6J1T9N4B2C --prompt[/bold]
    """
    home = Home.find(store)
    Ledger(home).drain()
    which = "request" if prompt else "response"
    body, by = home.vault.get_kept(call, which)
    if by is None:
        raise MissingError(
            "not-redacted", f"the {which} of this call is kept as it came", hint=f"genealog disclose {call} shows it"
        )
    print_json(json_module.loads(body))


def _said(text: str, value: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(value)
    else:
        out.print(text, markup=False)


def _calls(count: int) -> str:
    return f"{count} call" if count == 1 else f"{count} calls"


def _asked(question: str) -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and typer.confirm(question)


def _show(plan: Plan, overridden: bool) -> None:
    counts: dict[str, list[int]] = {}
    for row in plan.calls:
        found = counts.setdefault(row.tenant, [0, 0])
        found[0] += 1
        found[1] += row.size
    titles = "; ".join(part.title for part in plan.parts) or "nothing"
    out.print(f"to be erased: {titles}", markup=False)
    rows = [(tenant or '""', calls, size) for tenant, (calls, size) in sorted(counts.items())]
    print_table(("tenant", "calls", "bytes of bodies"), rows, empty="no calls")
    for name, count in sorted(plan.held.items()):
        out.print(f"[bold red]held[/bold red] {_calls(count)} by the hold {escape(name)}: nothing will be erased")
    if plan.young and not overridden:
        out.print(f"[bold red]too young[/bold red] {_calls(plan.young)}; the last is free from {plan.free}")


def _plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "calls": len(plan.calls), "bytes": plan.size, "what": [part.title for part in plan.parts],
        "held": dict(plan.held), "too_young": plan.young, "free_from": plan.free,
    }  # fmt: skip


def _show_due(plan: DuePlan) -> None:
    rows = [
        (", ".join(due.what), len(due.calls), due.size, ", ".join(map(str, due.rules)), due.before) for due in plan.due
    ]
    print_table(("deletes", "calls", "bytes of bodies", "rules", "ended before"), rows, empty="nothing is due")
    for name, count in sorted(plan.held.items()):
        out.print(f"{_calls(count)} past the maximum, and kept: the hold {escape(name)}")
    if plan.young:
        out.print(f"{_calls(plan.young)} past the maximum, and kept: another rule's minimum is longer")


def _due_json(plan: DuePlan) -> dict[str, Any]:
    def one(due: Due) -> dict[str, Any]:
        return {"what": due.what, "calls": len(due.calls), "bytes": due.size, "rules": due.rules, "before": due.before}

    return {"at": plan.at, "due": [one(due) for due in plan.due], "held": dict(plan.held), "too_young": plan.young}


def _days(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
