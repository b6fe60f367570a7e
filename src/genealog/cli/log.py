"""Logs: publish them, hold them to what they signed, replace their keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genealog import rotation
from genealog.cli import log_shared, logs
from genealog.cli.options import Json, Store
from genealog.cli.output import counting, out, print_json, say
from genealog.cli.prove import read
from genealog.core.states import State, exit_status
from genealog.core.trust import parse_trust
from genealog.errors import MissingError, UsageError
from genealog.published import LogVerified, head_in, need_trust, publish, verify_log, verify_tree
from genealog.registry import Registry
from genealog.store.home import Home

app = typer.Typer(no_args_is_help=True, help="The logs of a store: publish them, hold them to what they signed.")
logs.register(app)
log_shared.register(app)

Name = Annotated[str, typer.Argument(help="The log: registry, calls, or another call log's name.", metavar="NAME")]


@app.command("export")
def export(
    name: Name,
    o: Annotated[Path, typer.Option("-o", "--output", help="The folder to publish in.", metavar="DIR")],
    url: Annotated[
        str | None, typer.Option(help="Where the folder will be served; it is written into its trust.policy.")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Look at every file again, not only at new ones.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete partial tiles whose full tile is there.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Write a log as plain files (C2SP tlog-tiles) for any web server; again to bring them up to date.

    Only new files are written. It never goes back, and never writes over a file that differs.
    Example: [bold]genealog log export registry -o /srv/www/registry --url https://log.example.org/registry/[/bold]
    """
    with counting(f"publishing {name}", quiet=json) as told:
        done = publish(Home.find(store), name, o, url=url, whole=whole, prune=prune, told=told)
    if json:
        print_json({field: getattr(done, field) for field in done.__slots__})
        return
    was = "" if done.before is None else f", {done.before} before"
    out.print(f"published {done.origin} in {o}: {done.size} entries{was}")
    out.print(f"  {done.written} files written, {done.kept} there already, {done.pruned} pruned")
    out.print(f"  {o / 'log.vkey'}  tell people this key by another way too")


@app.command("verify")
def verify(
    name: Annotated[
        str | None, typer.Argument(help="A log of the store, as registry or calls.", metavar="NAME")
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--from", help="An old signed head that you kept: a checkpoint, tlog-proof or receipt."),
    ] = None,
    tree: Annotated[
        str | None, typer.Option(help="A published log instead of a store's: its URL or folder.", metavar="URL|DIR")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option(help="The trust policy: whose keys you believe. Default: the store's own.")
    ] = None,
    evidence: Annotated[
        Path, typer.Option(help="Where to keep the evidence if the log signed two histories.", metavar="DIR")
    ] = Path(),
    store: Store = None,
    json: Json = False,
) -> None:
    """Prove that a log only grew since an old head; without --from, prove all its entries against its head.

    Exit: 0 proven; 1 contradicted, with a *.fork file that convinces others; 3 cannot tell, as when a published tree is
    older than the head that you kept.

    Example: [bold]genealog log verify --from kept.checkpoint --tree https://log.example.org/registry/ --trust trust.policy[/bold]
    """  # noqa: E501 - a command stands in one line
    old = None if since is None else head_in(read(since))
    policy = None if trust is None else parse_trust(read(trust))
    if tree is not None and name is not None:
        raise UsageError("bad-option", "NAME is a log of the store, --tree is another place: give one of them")
    if tree is not None:
        believed = need_trust(_home(store) if policy is None else None, policy)
        with counting("reading the tree", quiet=json) as told:
            found = verify_tree(tree, believed, since=old, evidence=evidence, told=told)
    else:
        home = Home.find(store)
        found = verify_log(home, name or "registry", need_trust(home, policy), since=old, evidence=evidence)
    _print(found, json=json)
    raise typer.Exit(exit_status(found.state))


@app.command("rotate-key")
def rotate_key(
    name: Name,
    retire: Annotated[
        bool, typer.Option("--retire", help="End the overlap: only the newest key signs from here on.")
    ] = False,
    drop: Annotated[
        bool,
        typer.Option(
            "--drop", help="With --retire: somebody may have the old key, so nobody shall believe it any more."
        ),
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why the old key goes; it stands in the registry log.")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Give a log its next key. Both keys sign from then on; hand the new trust.policy out, then end it with --retire.

    Needs the owner's key, which states it in the registry log. Running gateways need no restart.
    Example: [bold]genealog log rotate-key registry[/bold]
    """
    registry = Registry(Home.find(store))
    if (drop or reason is not None) and not retire:
        raise UsageError("bad-option", "--drop and --reason end an overlap", hint="add --retire")
    keys = rotation.retire(registry, name, reason=reason, drop=drop) if retire else rotation.begin(registry, name)
    policy = registry.home.path / "trust.policy"
    if json:
        listed = [{"vkey": key.vkey, "state": key.state} for key in keys]
        print_json({"log": registry.home.log(name).origin, "keys": listed, "trust": str(policy)})
        return
    for key in keys:
        out.print(f"{key.state:>11}  {key.vkey}", markup=False)
    out.print(f"hand out trust.policy again: it {'no longer believes the old key' if drop else 'lists these keys'}")
    if not retire:
        out.print(f"when everybody has it: genealog log rotate-key {name} --retire")


def _print(found: LogVerified, *, json: bool) -> None:
    head, since = found.head, found.since
    if json:
        print_json({
            "state": found.state, "code": found.code, "origin": head.origin, "size": head.size,
            "root": head.root.hex(), "from": since and {"size": since.size, "root": since.root.hex()},
            "checked": found.checked, "proof": [value.hex() for value in found.proof],
            "evidence": found.fork and str(found.fork), "detail": found.detail,
        })  # fmt: skip
        return
    out.print(say(found.state), end=" ")
    if found.state is State.PROVEN and since is None:
        out.print(f"{head.origin}: all {head.size} entries give the root that its key signed")
    elif found.state is State.PROVEN and since is not None:
        out.print(f"{head.origin}: {head.size} entries now, and the first {since.size} are those of the old head")
    else:
        sizes = "" if since is None else f" ({head.size} entries now, the old head has {since.size})"
        out.print(f"{head.origin}: {found.detail}{sizes} \\[{found.code}]")
    if found.fork is not None:
        out.print(f"  evidence: {found.fork}")


def _home(store: str | None) -> Home | None:
    try:
        return Home.find(store)
    except MissingError:
        if store is not None:
            raise
        return None
