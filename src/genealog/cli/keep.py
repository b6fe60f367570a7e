"""Keep: put models, data and code on record, and look at what is there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from msgspec import to_builtins
from rich.markup import escape

from genealog import custody
from genealog.cli import assess
from genealog.cli.acknowledging import NoWait, acknowledged, say, shown
from genealog.cli.options import As, Json, Store
from genealog.cli.output import hashing, one_line, out, print_json, print_table, short
from genealog.cli.past import moves_json, print_moves, print_targets
from genealog.cli.shown import print_body, show_run
from genealog.cli.signed import line_of
from genealog.core.canonical import Record
from genealog.core.manifest import few
from genealog.core.pickles import classes_told
from genealog.core.records import Artifact
from genealog.deploy import Deployments
from genealog.deploy.taint import tainted, taints_of
from genealog.drift import seen
from genealog.errors import MissingError, UsageError
from genealog.policy.assessing import assessment_of
from genealog.policy.model_facts import revocations
from genealog.registry import Registry, Version
from genealog.signing.listing import Signature, signatures_of
from genealog.store.home import NAME, REGISTRY, Home, as_place

Kind = Literal["model", "adapter", "checkpoint", "dataset", "code", "index", "prompt-template", "report", "files"]
_CALL = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def init(
    path: Annotated[
        str | None,
        typer.Argument(
            help=f"The folder that becomes the store, or its URL. Default: $GENEALOG_STORE, else {NAME} here.",
            metavar="DIR|URL",
        ),
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="A name for your logs, such as models.example.org. Default: a random one.")
    ] = None,
    identity: Annotated[str, typer.Option(help="Who owns this store, as others shall read it.")] = "owner",
    store: Annotated[
        str | None,
        typer.Option("--store", help="The same as the argument, as other commands have it.", metavar="DIR|URL"),
    ] = None,
    json: Json = False,
) -> None:
    """Make a store: keys, two logs, a vault, a trust policy to hand out.

    Other commands find a store called .genealog here or in a folder above, as git finds its own.
    A store that several machines share is a URL: postgresql://user@host/db?objects=s3://bucket/prefix

    Example: [bold]genealog init --origin models.example.org --identity "Jane Doe <jane@example.org>"[/bold]
    """
    if path is not None and store is not None:
        raise UsageError("bad-option", "a place as an argument and another as --store", hint="say it once")
    registry = Registry.init(
        as_place(path or store or os.environ.get("GENEALOG_STORE") or NAME), origin=origin, identity=identity
    )
    home = registry.home
    name, shown = home.config.origin, str(home.shared.url.shown if home.shared is not None else home.path)
    if json:
        print_json({"store": shown, "origin": name, "trust": str(home.path / "trust.policy")})
        return
    out.print(f"made {escape(shown)} for the logs [bold]{name}/registry[/bold] and [bold]{name}/calls[/bold]")
    out.print(f"  {home.path / 'trust.policy'}  hand this to whoever shall verify you")
    out.print(f"  {home.path / 'keys'}/  private keys: back them up, show them to nobody")
    out.print("next: genealog add PATH --kind model --name NAME")


def add(
    path: Annotated[Path, typer.Argument(help="A file or a folder.", exists=False)],
    kind: Annotated[Kind, typer.Option(help="What it is; `files` if nothing else fits.")],
    name: Annotated[
        str | None, typer.Option(help="A name to find it by. Default: the name of the file or folder.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Where it came from, if from outside. Shown as a claim, never as proven.")
    ] = None,
    claims: Annotated[
        bool,
        typer.Option(help="Put on record, as claims, what its files say it was made of: base_model and the like."),
    ] = True,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Register files under the ID of their content, and sign that.

    Equal bytes are registered once; a name moves to what was added under it last.
    Example: [bold]genealog add ./smol-hf --kind model --name smol --source huggingface.co/…[/bold]
    """
    if not path.exists():
        raise MissingError("no-such-file", "there is nothing to add", got=path)
    registry = Registry(Home.find(store))
    with hashing(path.name, quiet=json) as progress:
        put = partial(custody.add, registry) if claims else registry.add
        added = put(path, kind=kind, name=name, source=source, signer=registry.signer(as_), progress=progress)
    tree = added.tree
    warnings = list(tree.warnings) if tree else []
    if json:
        position = str(added.position) if added.position else None
        print_json({
            "id": added.id, "weights": added.weights, "format": tree and tree.format,
            "tensors": len(tree.weights or ()) if tree else 0, "tied": dict(tree.tied) if tree else {},
            "new": added.new, "entry": position, "warnings": warnings,
        })  # fmt: skip
        return
    what = "registered" if added.new else "known already"
    known = registry.resolve(added.id)
    if not added.new and (known.kind != kind or source not in (None, known.source)):
        warnings.append(
            f"these bytes stand as {known.kind} at registry:{known.index}; --kind and --source change nothing"
        )
    out.print(f"{what}: [bold]{name or path.resolve().name}[/bold]  {added.id}")
    if added.weights:
        out.print(f"  weights {added.weights}")
    if tree and tree.weights:
        out.print(f"  {_packing(tree.format, len(tree.weights), tree.tied)}", markup=False)
    if added.position:
        out.print(f"  entry {added.position}")
    _print_warnings(warnings)


def revoke(
    ref: Annotated[str, typer.Argument(help="A registered name, an ID, or the start of one (8 digits or more).")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the log and in every refusal.")],
    no_wait: NoWait = False,
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Withdraw a version: engines refuse to load it, gateways to serve it.

    Returns when no gateway of this store makes a call to it any more: "acknowledged". Answers that were on their way
    are cut, or end, as `on_revoke` in genealog.toml says. What descends from it is flagged as tainted: what serves goes
    on, a new deployment of it needs a reason.

    Example: [bold]genealog revoke facts-lora --reason "trained on the wrong snapshot"[/bold]
    """
    registry = Registry(Home.find(store))
    version = registry.resolve(ref)
    position = registry.revoke(ref, reason=reason, signer=registry.signer(as_))
    done = acknowledged(registry.home, no_wait=no_wait)
    flagged = [taint for taint in tainted(registry.ledger.index(REGISTRY)).values() if taint.ancestor == version.id]
    if json:
        print_json({
            "id": version.id, "entry": str(position), "tainted": [taint.artifact for taint in flagged],
            "acknowledged": shown(done),
        })  # fmt: skip
        return
    out.print(f"revoked {ref}: entry {position}")
    say(done)
    if flagged:
        count = "1 descendant is" if len(flagged) == 1 else f"{len(flagged)} descendants are"
        out.print(f"{count} flagged as tainted; what served them and what they said: genealog blast {ref}")


def show(
    ref: Annotated[str, typer.Argument(help="An artifact by name or ID, a run by ID, or a deployment by name.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Show one artifact, run or deployment: IDs, files, settings, what went in and came out, who signed.

    Of an ID its first 8 digits are enough, as `ls runs` and `lineage` print them.
    Example: [bold]genealog show smol[/bold]
    """
    home = Home.find(store)
    try:
        _show_artifact(Registry(home), ref, json=json)
    except MissingError as missing:
        if missing.code != "unknown-artifact":
            raise
        for other in (partial(show_run, Registry(home)), partial(_show_deployment, Deployments(home))):
            try:
                other(ref, json=json)
            except MissingError as error:
                if error.code not in ("unknown-execution", "unknown-deployment"):
                    raise
            else:
                return
        if _CALL.fullmatch(ref):
            raise MissingError(
                "unknown-artifact", missing.message, got=ref, hint=f"a call: genealog why {ref}"
            ) from None
        raise


def _packing(format_: str | None, tensors: int, tied: Mapping[str, str]) -> str:
    """Say in words how weights were read."""
    names = f", of them {few(sorted(tied), 3)} tied to another" if tied else ""
    return f"{tensors} {'tensor' if tensors == 1 else 'tensors'} from {format_}{names}"


def _print_warnings(warnings: Sequence[str]) -> None:
    """Print lines `code: what`: first and in red those that say that loading a file runs code.

    A trainer's own classes in a pickle are told in a few words; the whole line is in the statement and in --json.
    """
    lines = []
    for warning in warnings:
        code, _, what = warning.partition(": ")
        if code != "pickle-unsafe":
            lines.append((2, f"  [yellow]note[/yellow] {escape(one_line(warning))}"))
        elif classes := _classes(warning):
            lines.append((1, f"  [yellow]note[/yellow] {escape(one_line(classes))} [dim]\\[{code}][/dim]"))
        else:
            text = f"  [bold red]unsafe[/bold red] whoever loads it as a pickle runs {escape(one_line(what))}"
            lines.append((0, f"{text} [dim]\\[{code}][/dim]"))
    for _, line in sorted(lines, key=lambda each: each[0]):
        out.print(line)


def _classes(warning: str) -> str | None:
    """Return a few words for a pickle that names nothing but classes of training libraries, None for any other."""
    if (told := classes_told(warning)) is None:
        return None
    names, more, file = told
    libraries = ", ".join(sorted({name.partition(".")[0] for name in names}))
    count = len(names) + more
    return f"{file} is a pickle: loading it imports {count} {'name' if count == 1 else 'names'} of {libraries}"


def _show_artifact(registry: Registry, ref: str, *, json: bool) -> None:
    version = registry.resolve(ref)
    signatures = signatures_of(registry, version)
    body = registry.statement(version.statement).body
    files = registry.manifest(version).files if version.id.startswith("glf1:") else ()
    index = registry.ledger.index(REGISTRY)
    taints = taints_of(index, version.id, revocations(index))
    assessed = assessment_of(registry, version.id)
    if json:
        listed = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in files]
        more = {"signatures": [_plain(each) for each in signatures], "tainted": [str(taint) for taint in taints]}
        more |= {"assessment": assess.plain(assessed)}
        print_json(_plain(version) | _facts(body) | more | {"files": listed})
        return
    location = registry.home.location(version.id)
    facts = {
        "id": version.id, "weights": version.weights, "kind": version.kind, "entry": f"registry:{version.index}",
        "source": version.source and f"“{version.source}” (claimed)",
        "revoked": version.revoked, "tainted": "; ".join(map(str, taints)), "seen at": location,
        "assessed": assessed and assess.line_of(assessed),
    }  # fmt: skip
    out.print(f"[bold]{version.name}[/bold]")
    for name, value in facts.items():
        if value:
            out.print(f"  {name:>10}  {value}", markup=False)
    for signature in signatures:
        out.print(f"  {'signed by':>10}  {line_of(signature)}", markup=False)
    if isinstance(body, Artifact):
        if weights := body.weights:
            out.print(f"  {'read':>10}  {_packing(body.format, weights.tensors, weights.tied)}", markup=False)
        if found := body.records:
            counted = f"{found.count}, of them {found.leaves} different"
            out.print(f"  {'records':>10}  {counted}: {found.root}", markup=False)
        _print_warnings(body.warnings)
        if body.body is not None and not files:
            print_body(body.body)
            return
    print_table(("file", "size", "sha256"), [(f.path, f.size, f.sha256[:16] + "…") for f in files], empty="no files")


def _show_deployment(deployments: Deployments, name: str, *, json: bool) -> None:
    live = deployments.history(name)[-1]
    spec = deployments.spec(live.spec)
    taint = deployments.taint(spec)
    reported = seen(deployments.registry.ledger, name)
    if json:
        print_json({
            "deployment": name, "spec": live.spec, "models": spec.models, "upstream": spec.upstream,
            "tainted": str(taint) if taint else None, "history": moves_json(deployments, name),
            "drift": [to_builtins(each) for each in reported],
        })  # fmt: skip
        return
    out.print(f"[bold]{name}[/bold] → {live.spec}")
    if spec.others:
        print_targets(spec)
    else:
        out.print(f"  serves {', '.join(short(model) for model in spec.models)} from {spec.upstream}")
    out.print(f"  minimum assurance {spec.minimum_assurance}, durability {spec.durability}, bodies {spec.body_capture}")
    if taint:
        out.print(f"  [yellow]tainted[/yellow] {escape(f'{short(taint.artifact)} {taint}')}")
    for each in reported:
        said = f"{each.body.vendor}/{each.body.model} {each.body.fingerprint or ''}".rstrip()
        word = "calls itself" if each.previous is None else "[yellow]drifted[/yellow] to"
        out.print(f"  target {each.target} {word} {escape(said)} since {each.at} (entry registry:{each.entry})")
    print_moves(deployments, name)


def _facts(body: Record) -> dict[str, object]:
    if not isinstance(body, Artifact):
        return {}
    weights = body.weights
    return {
        "format": body.format, "tensors": weights.tensors if weights else 0,
        "tied": dict(weights.tied) if weights else {}, "warnings": list(body.warnings), "body": body.body,
    }  # fmt: skip


def _plain(value: Version | Signature) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}
