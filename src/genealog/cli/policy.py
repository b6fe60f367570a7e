"""Policy: what is in force where, what it decides, and what a change of it would decide otherwise."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from rich.markup import escape

from genealog.cli import policy_check, policy_explain, policy_kubernetes, policy_opa, policy_try
from genealog.cli.options import Json, Store
from genealog.cli.output import out, print_json, print_table
from genealog.core.policy import POINTS
from genealog.errors import MissingError
from genealog.policy.sets import Policy, PolicySet, default_policies, load_set
from genealog.store.home import Home

app = typer.Typer(
    no_args_is_help=True,
    help="Policy: what may be deployed, loaded, served, released and promoted, and who decided so far.",
)
_SETTING = re.compile(r"\bsettings\.([a-z_]+)")


@app.command(name="ls")
def list_policies(
    environment: Annotated[str | None, typer.Option(help="Only this environment.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also policies that are in force nowhere.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """List which policies are in force in each environment and point, and what comes of a no.

    The environment of a deployment is the first whose patterns fit its name, else `default`. Last come those that an
    environment takes off what is asked everywhere: `off`.

    Example: [bold]genealog policy ls --environment prod[/bold]
    """
    home = Home.find(store)
    policies = load_set(home.config, home.path)
    names = [name for name in policies.settings["environments"] if environment in (None, name)]
    if not names:
        known = ", ".join(policies.settings["environments"])
        raise MissingError("no-policy-environment", "there is no such environment", got=environment, expected=known)
    if json:
        print_json(_listed(policies, names, home.config.policy.engine))
        return
    rows = [
        (name, point, each, mode, policies.policies[each].title)
        for name in sorted(names)
        for point in POINTS
        for each, mode in sorted(policies.asked(name, point).items())
    ]
    off = [
        (name, point, each, "off", policies.policies[each].title)
        for name in sorted(names)
        for point, taken in policies.off(name).items()
        for each in taken
    ]
    columns = ("environment", "point", "policy", "mode", "title")
    print_table(columns, [*rows, *off], empty="no policy is in force: all is denied")
    asleep = sorted(policies.policies.keys() - {row[2] for row in rows})
    if all_ and asleep:
        out.print("[bold]in force nowhere[/bold]" if environment is None else "[bold]not in force here[/bold]")
        for each in asleep:
            out.print(f"  {each}  {policies.policies[each].title}", markup=False)
    out.print(f"set {policies.id}, {home.config.policy.engine}", markup=False)


def _listed(policies: PolicySet, names: list[str], engine: str) -> dict[str, Any]:
    return {
        "set": policies.id,
        "engine": engine,
        "environments": {name: {p: dict(policies.asked(name, p)) for p in POINTS} for name in sorted(names)},
        "off": {name: policies.off(name) for name in sorted(names)},
        "policies": [_card(each) for each in policies.policies.values()],
    }


def _card(policy: Policy) -> dict[str, Any]:
    return {
        "name": policy.name, "title": policy.title, "description": policy.description, "points": policy.points,
        "codes": policy.codes, "breakable": policy.breakable, "own": policy.name not in default_policies(),
        "settings": sorted(set(_SETTING.findall(policy.source))),
    }  # fmt: skip


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="A policy; `main`, what puts them together; `lib`; or the set's ID.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Show a policy: its card, its codes, the settings that it reads, and its Rego. Of a set: its files.

    Example: [bold]genealog policy show not_revoked[/bold]
    """
    home = Home.find(store)
    policies = load_set(home.config, home.path)
    if what in ("main", "lib"):
        text = policies.files[f"{what}.rego"].decode()
        if json:
            print_json({"name": what, "set": policies.id, "source": text})
        else:
            out.print(text, markup=False, end="", soft_wrap=True)
        return
    if what.startswith("glf1:"):
        _show_set(policies, what, json=json)
        return
    policy = policies.policies.get(what)
    if policy is None:
        known = ", ".join(policies.policies)
        raise MissingError("no-policy", "there is no policy of this name", got=what, expected=known)
    if json:
        print_json(_card(policy) | {"set": policies.id, "source": policy.source, "page": policy.page})
        return
    card = _card(policy)
    out.print(f"[bold]{escape(policy.title)}[/bold]")
    out.print(policy.description, markup=False)
    for name in ("points", "codes", "settings"):
        out.print(f"  {name:>9}  {' '.join(card[name]) or 'none'}", markup=False)
    said = "yes: two people may put it aside for a while" if policy.breakable else "no"
    out.print(f"  breakable  {said}")
    if policy.page:
        out.print(f"\n{policy.page.strip()}", markup=False)
    out.print(f"\n{policy.source}", markup=False, end="", soft_wrap=True)


def _show_set(policies: PolicySet, what: str, *, json: bool) -> None:
    if not policies.id.startswith(what):
        raise MissingError("no-policy-set", "this is not the set in force", got=what, expected=policies.id)
    if json:
        print_json({"set": policies.id, "files": {file.path: file.sha256 for file in policies.manifest.files}})
        return
    rows = [(file.path, file.size, file.sha256) for file in policies.manifest.files]
    print_table(("path", "size", "sha256"), rows, empty="no files")


app.command("test")(policy_try.run_tests)
app.command("eval")(policy_try.eval_)
app.command("explain")(policy_explain.explain_decision)
app.command("diff")(policy_try.diff)
app.command("decisions")(policy_opa.decisions)
app.command("bundle")(policy_opa.bundle)
app.command("bundle-key")(policy_opa.bundle_key)
app.command("serve-bundle")(policy_opa.serve_bundle)
app.add_typer(policy_check.app, name="check")
app.add_typer(policy_kubernetes.app, name="kubernetes")
