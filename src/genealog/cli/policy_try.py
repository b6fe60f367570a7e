"""Policy, tried out: tests, an input, and what another set would decide. Nothing is recorded."""

from __future__ import annotations

import sys
from difflib import unified_diff
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs

from genealog.cli.options import Json, Store
from genealog.cli.output import one_line, out, print_json, print_table, short
from genealog.core.policy import Point, Verdict
from genealog.errors import MissingError, PolicyDenied
from genealog.policy import testing
from genealog.policy.diff import (
    CURRENT,
    Again,
    Change,
    changes,
    decide_again,
    find_set,
    judge,
    read_input,
)
from genealog.policy.engines import open_engine
from genealog.policy.engines.regorus import Regorus
from genealog.policy.sets import PolicySet, load_set
from genealog.registry import Registry
from genealog.store.config import Config
from genealog.store.home import Home

At = Annotated[Point | None, typer.Option("--point", help="Ask for this point instead of the input's.")]
EnvironmentName = Annotated[str | None, typer.Option(help="Ask for this environment instead of the input's.")]
InputFile = Annotated[str, typer.Argument(help="A JSON file with an input document, or - for standard input.")]


def run_tests(
    folder: Annotated[
        Path | None, typer.Argument(help="Policies of your own. Default: those of the settings, and the default ones.")
    ] = None,
    own: Annotated[bool, typer.Option("--own", help="Leave the default policies out.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Run the tests of policies: each `test_…` rule in each `NAME_test.rego`, in the engine in process.

    A policy without tests is an error: nobody knows whether it can say no. Without a store, the settings are the
    defaults. Exit: 0 all pass, 1 some do not.

    Example: [bold]genealog policy test ./policies[/bold]
    """
    policies, ours = _tested(folder, store)
    names = [name for name in policies.policies if not own or name in ours]
    found = testing.run(policies, Regorus, names)
    bad = [each for each in found if each.result != "passed"]
    if json:
        print_json([{name: getattr(each, name) for name in ("policy", "rule", "result", "detail")} for each in found])
    else:
        for each in bad:
            out.print(str(each), markup=False, style="red", soft_wrap=True)
        out.print(f"{len(found) - len(bad)} passed, {len(bad)} not, in {len(names)} policies")
    if bad:
        raise typer.Exit(1)


def _tested(folder: Path | None, store: str | None) -> tuple[PolicySet, set[str]]:
    try:
        home = Home.find(store)
        config, root = home.config, home.path
    except MissingError:
        if store is not None or folder is None:
            raise
        config, root = _no_store(), Path()
    if folder is not None:
        config = structs.replace(config, policy=structs.replace(config.policy, folder=str(folder.resolve())))
    policies = load_set(config, root)
    plain = load_set(structs.replace(config, policy=type(config.policy)()), root)
    return policies, policies.policies.keys() - plain.policies.keys()


def _no_store() -> Config:
    from genealog.store.config import parse_config

    text = '[store]\nformat = 1\norigin = "none"\n[identities]\nsigner = "o"\n[identities.o]\nname = "o"\nkey = "o"\n'
    return parse_config(text.encode(), Path("genealog.toml"))


def eval_(
    file: InputFile, point: At = None, environment: EnvironmentName = None, store: Store = None, json: Json = False
) -> None:
    """Decide about an input document as a gate would, and record nothing. What is undefined is denied.

    Exit: 0 allowed, 1 denied.

    Example: [bold]genealog policy eval input.json --environment prod[/bold]
    """
    home = Home.find(store)
    document = given_input(file, point, environment)
    policies = load_set(home.config, home.path)
    engine = open_engine(home.config.policy, policies)
    try:
        verdict = judge(policies, engine, document)
    finally:
        engine.close()
    if json:
        print_json({**verdict_json(verdict), "set": policies.id, "engine": engine.name})
    else:
        print_verdict(verdict)
    if not verdict.allow:
        raise typer.Exit(1)


def diff(
    before: Annotated[str, typer.Argument(help="A set: its ID, a folder, a genealog.toml, or `current`.")],
    after: Annotated[str, typer.Argument(help="Another one.")] = CURRENT,
    limit: Annotated[int, typer.Option(help="Decide so many inputs again, the newest.", min=0)] = 1_000,
    text: Annotated[bool, typer.Option("--text", help="Also how the Rego differs, line by line.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Say what differs between two policy sets, and which decisions on record the second would take otherwise.

    Try a change before it is in force: `genealog policy diff current ./policies`. Exit: 0 no recorded input would be
    decided otherwise, 1 some would.

    Example: [bold]genealog policy diff current ./policies[/bold]
    """
    home = Home.find(store)
    registry = Registry(home)
    sets = [find_set(home, registry, ref) for ref in (before, after)]
    found = changes(sets[0], sets[1])
    try:
        again = decide_again(registry, sets[0], sets[1], limit=limit)
    except PolicyDenied as error:
        error.add_note("one of the two sets cannot be loaded")
        raise
    if json:
        print_json(_diff_json(sets, found, again))
    else:
        _print_diff(sets, found, again, text=text)
    if again.turned:
        raise typer.Exit(1)


def _diff_json(sets: list[PolicySet], found: list[Change], again: Again) -> dict[str, Any]:
    fields = ("what", "name", "before", "after")
    return {
        "before": sets[0].id, "after": sets[1].id,
        "changes": [{name: getattr(each, name) for name in fields} for each in found],
        "inputs": again.inputs, "lost": again.lost,
        "turned": [
            {
                "entry": f"registry:{each.entry}", "point": each.point, "subject": each.subject, "turn": each.turn,
                "before": verdict_json(each.before), "after": verdict_json(each.after),
            }
            for each in again.turned
        ],
    }  # fmt: skip


def _print_diff(sets: list[PolicySet], found: list[Change], again: Again, *, text: bool) -> None:
    if not found:
        out.print("the two sets say the same")
    for each in found:
        if each.what == "setting":
            out.print(f"setting {each.name}: {_shift(each.before, each.after)}", markup=False)
            continue
        done = "comes" if each.before is None else "goes" if each.after is None else "changes"
        out.print(f"{each.what} {each.name} {done}", markup=False)
        if text:
            lines = unified_diff((each.before or "").splitlines(), (each.after or "").splitlines(), lineterm="", n=2)
            out.print("\n".join(list(lines)[2:]), markup=False, style="dim")
    rows = [
        (f"registry:{each.entry}", each.point, each.subject, each.turn,
         ", ".join(map(str, (each.after if each.turn != "allowed" else each.before).reasons)))
        for each in again.turned
    ]  # fmt: skip
    out.print(f"{len(again.turned)} of {again.inputs} recorded inputs would be decided otherwise")
    if again.lost:
        out.print(f"{again.lost} cannot be read any more")
    if rows:
        print_table(("entry", "point", "subject", "would be", "reasons"), rows, empty="")
    out.print(f"from {short(sets[0].id)} to {short(sets[1].id)}", style="dim")


def _shift(before: Any, after: Any) -> str:
    if isinstance(before, list) and isinstance(after, list):
        told = [f"+{item}" for item in after if item not in before] + [
            f"-{item}" for item in before if item not in after
        ]
        return one_line(" ".join(told)) or "in another order"
    return f"{_plain(before)} → {_plain(after)}"


def _plain(value: Any) -> str:
    return "unset" if value is None else one_line(str(value))


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as commands print it for machines."""
    fields = ("policy", "code", "message")
    return {
        "allow": verdict.allow, "code": verdict.code, "outcomes": dict(verdict.outcomes),
        "reasons": [{name: getattr(each, name) for name in fields} for each in verdict.reasons],
        "noted": [{"mode": mode} | {name: getattr(each, name) for name in fields} for mode, each in verdict.noted],
        "waived": list(verdict.waived),
    }  # fmt: skip


def print_verdict(verdict: Verdict) -> None:
    """Print a verdict for people."""
    out.print("[bold green]allowed[/bold green]" if verdict.allow else "[bold red]denied[/bold red]")
    for reason in verdict.reasons:
        out.print(f"  {reason.policy} {reason.code}: {one_line(reason.message)}", markup=False)
    for mode, reason in verdict.noted:
        out.print(f"  {mode}: {reason.policy} {reason.code}: {one_line(reason.message)}", markup=False)
    for name in verdict.waived:
        out.print(f"  put aside: {name}", markup=False)


def given_input(place: str, point: str | None, environment: str | None) -> dict[str, Any]:
    """Read an input document from a file or standard input, with another point or environment if they are said.

    Raises: MissingError `no-such-file`; MalformedError `not-json`.
    """
    document = read_input(_bytes(place))
    env = document.get("env")
    changed = dict(document)
    if point is not None:
        changed["point"] = point
    if environment is not None:
        changed["env"] = {**(env if isinstance(env, dict) else {}), "name": environment}
    return changed


def _bytes(place: str) -> bytes:
    if place == "-":
        return sys.stdin.buffer.read()
    path = Path(place)
    if not path.is_file():
        raise MissingError(
            "no-such-file", "there is no such file", got=place, expected="a JSON file, or -",
            hint=f"of a decision: genealog policy explain registry:N; of a deployment: … explain deploy {place}",
        )  # fmt: skip
    return path.read_bytes()
