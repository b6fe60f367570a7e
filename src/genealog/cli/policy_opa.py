"""Policy beside Open Policy Agent: the signed bundle, the server that agents ask, and the decisions that they send."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import select

from genealog.cli.extras import require
from genealog.cli.options import As, Json, Store
from genealog.cli.output import one_line, out, print_json, print_table, short
from genealog.policy.bundle import SCOPE, public_pem
from genealog.policy.bundling import Bundles
from genealog.policy.decision_logs import Event, Stated, stated
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.disk import write_whole
from genealog.store.home import REGISTRY, Home

NOTES = {
    "known": "",
    "never": "names a state that this log never had",
    "foreign": "decided by another bundle",
    "none": "names no bundle",
}
Token = Annotated[
    str | None,
    typer.Option(help="Where the agents' bearer token comes from: env:VARIABLE or file:/PATH.", metavar="SOURCE"),
]


def bundle(
    to: Annotated[Path, typer.Argument(help="The file to write, such as genealog.tar.gz.")],
    as_: As = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Without a signature.")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Write the policy set and the facts of the registry as a bundle of Open Policy Agent, signed.

    Its revision is `<tree size>:<root>` of the registry log, so each decision of an agent names the state that it was
    taken at. The key that signs must be ECDSA P-256.

    Example: [bold]genealog policy bundle genealog.tar.gz[/bold]
    """
    home = Home.find(store)
    signer = None if unsigned else Registry(home).signer(as_)
    packed = Bundles(home, signer).newest()
    write_whole(to, packed.data)
    told = {
        "revision": packed.bundle.revision, "policy_set": packed.bundle.policies, "size": len(packed.data),
        "key": signer and signer.keyid, "files": {each["name"]: each["hash"] for each in packed.bundle.hashes},
    }  # fmt: skip
    if json:
        print_json(told)
        return
    out.print(f"wrote {to}: {len(packed.data)} bytes, set {short(packed.bundle.policies)}", markup=False)
    out.print(f"  revision {packed.bundle.revision}", markup=False, soft_wrap=True)
    out.print(f"  signed by key {signer.keyid}" if signer else "  not signed", markup=False, soft_wrap=True)


def bundle_key(
    url: Annotated[str, typer.Option(help="Where the agent finds `genealog policy serve-bundle`.")] = (
        "http://127.0.0.1:8092"
    ),
    as_: As = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Print the public key that bundles are signed with, and the configuration of an agent that checks them by it.

    Example: [bold]genealog policy bundle-key --url https://genealog.example > opa.yaml[/bold]
    """
    home = Home.find(store)
    signer = Registry(home).signer(as_)
    pem = public_pem(signer)
    if json:
        print_json({"keyid": signer.keyid, "algorithm": "ES256", "scope": SCOPE, "pem": pem, "url": url})
        return
    lines = "\n".join(f"      {line}" for line in pem.strip().splitlines())
    print(_CONFIG.format(url=url, keyid=signer.keyid, scope=SCOPE, lines=lines), end="")


_CONFIG = """\
# Configuration of Open Policy Agent: opa run --server --config-file opa.yaml
services:
  genealog:
    url: {url}
    credentials:
      bearer:
        token: "${{GENEALOG_POLICY_TOKEN}}"
keys:
  {keyid}:
    algorithm: ES256
    scope: {scope}
    key: |
{lines}
bundles:
  genealog:
    service: genealog
    resource: bundles/genealog.tar.gz
    polling:
      long_polling_timeout_seconds: 60
    signing:
      keyid: {keyid}
      scope: {scope}
decision_logs:
  service: genealog
  reporting:
    min_delay_seconds: 5
    max_delay_seconds: 10
status:
  service: genealog
default_decision: genealog/decision
"""


def serve_bundle(
    listen: Annotated[
        str, typer.Option(help="Where to listen, HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:8092",
    token: Token = None,
    as_: As = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM, to serve HTTPS; needs --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM of its private key.")] = None,
    store: Store = None,
) -> None:
    """Serve the signed bundle to agents, and take their decision logs into the registry log.

    An agent that polls long hears of a revocation at once. Without --token everybody who reaches it may read the
    registry's facts and send decisions: then listen where only agents are.

    Example: [bold]genealog policy serve-bundle --listen 0.0.0.0:8092 --token env:POLICY_TOKEN[/bold]
    """
    require("policy")
    from genealog.policy.bundle_server import serve
    from genealog.store.signers.secret import from_terminal, read_secret

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home.find(store)
    try:
        signer = Registry(home).signer(as_)
        secret = None if token is None else read_secret(token, "token of the agents", from_terminal)
        serve(
            home, signer, listen=listen, token=secret, stating=signer,
            announce=lambda url: typer.echo(f"bundles at {url}/bundles/genealog.tar.gz"),
            certificate=str(certificate) if certificate else None, key=str(key) if key else None,
        )  # fmt: skip
    finally:
        home.close()


def decisions(
    limit: Annotated[int, typer.Option(help="At most so many rows of each kind, the newest.", min=1)] = 50,
    agents: Annotated[bool, typer.Option("--agents", help="Only what agents sent.")] = False,
    doubtful: Annotated[
        bool, typer.Option("--doubtful", help="Only what agents sent and named no state that this log had.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """List decisions on record: those that gates took here, and those that Open Policy Agents say they took.

    What an agent sent is its word. What can be checked is the state of the registry that it names: one that this log
    never had is said to be so. Exit: 1 if there is such a one.

    Example: [bold]genealog policy decisions --agents[/bold]
    """
    home = Home.find(store)
    registry = Registry(home)
    ours = [] if agents or doubtful else _ours(registry, limit)
    theirs = stated(home, registry, limit=None if doubtful else limit)
    theirs = [each for each in theirs if not doubtful or each.standing != "known" or each.again][:limit]
    told = sorted([*ours, *map(_theirs, theirs)], key=lambda row: row["at"])
    if json:
        print_json(told)
    else:
        columns: tuple[str, ...] = ("entry", "at", "by", "point", "outcome", "code", "subject")
        if any(row.get("note") for row in told):
            columns = (*columns, "note")
        rows = [tuple(one_line(str(row.get(name) or "")) for name in columns) for row in told]
        print_table(columns, rows, empty="no decisions yet", spare=("by", "at"))
    if any(each.standing == "never" for each in theirs):
        raise typer.Exit(1)


def _ours(registry: Registry, limit: int) -> list[dict[str, Any]]:
    table = schema.decision
    rows = registry.ledger.index(REGISTRY).rows(select(table).order_by(table.c.id.desc()).limit(limit))
    return [
        {name: row[name] for name in ("at", "point", "outcome", "code", "subject", "message", "policy")}
        | {"by": "gate", "entry": f"registry:{row['id']}", "grade": "logged"}
        for row in rows
    ]


def _theirs(each: Stated) -> dict[str, Any]:
    event = each.event
    asked = event.input if isinstance(event.input, dict) else {}
    subject = asked.get("subject")
    notes = [NOTES[each.standing], "the same decision_id with other content" if each.again else ""]
    return {
        "at": event.timestamp, "by": f"agent {short(event.source)}".strip(),
        "point": str(asked.get("point") or event.path), "outcome": "allow" if event.allowed else "deny",
        "code": ", ".join(_codes(event)), "subject": subject.get("deployment") if isinstance(subject, dict) else None,
        "note": "; ".join(filter(None, notes)), "decision_id": event.decision_id, "revisions": event.revisions,
        "standing": each.standing, "entry": f"registry:{each.entry}", "grade": "stated",
    }  # fmt: skip


def _codes(event: Event) -> list[str]:
    """Return the codes of the policies that said no, as the agent tells it."""
    results = event.result.get("results") if isinstance(event.result, dict) else None
    found = set()
    for result in results.values() if isinstance(results, dict) else ():
        if isinstance(result, dict) and result.get("allow") is not True and result.get("applies") is not False:
            reasons = result.get("reasons")
            found |= {
                reason["code"]
                for reason in (reasons if isinstance(reasons, list) else ())
                if isinstance(reason, dict) and isinstance(reason.get("code"), str)
            }
    return sorted(found)
