"""Prove: receipts and evidence to take away, and the verifier that needs no store and no network."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from genealog.answers import DEFAULT_GROUPS, Answers
from genealog.bare import cose_receipt, examine_bare, is_bare, tlog_proof
from genealog.cli import signed
from genealog.cli.options import Json, Store
from genealog.cli.output import hashing, out, print_json, print_report, print_table, report_json
from genealog.core.bundle import Disclosure, Evidence, encode_evidence, parse_file
from genealog.core.call import GROUPS, is_call_log
from genealog.core.chain import Report, examine, examine_disclosure, examine_fork, examine_receipt
from genealog.core.fork import Fork
from genealog.core.membership import examine_membership, is_membership, parse_membership
from genealog.core.receipt import encode_receipt
from genealog.core.states import State, exit_status
from genealog.core.trust import Trust, parse_trust
from genealog.errors import MalformedError, MissingError, UsageError
from genealog.ledger import Ledger, Position
from genealog.registry import Registry
from genealog.store.home import REGISTRY, Home
from genealog.upgrading import upgrade_evidence, upgrade_from_store

Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]
MAX_FILE = 512 * 1024 * 1024
_NUMBER = re.compile(r"[0-9]{1,18}")
index_app = typer.Typer(
    no_args_is_help=True, help="The index: what the logs say, ready to be asked. It can be made again at any time."
)


class Form(StrEnum):
    """How a receipt is written."""

    json = "json"
    tlog_proof = "tlog-proof"
    cose = "cose"


_ENCODED: dict[Form, Callable[[Ledger, Position], bytes]] = {
    Form.json: lambda ledger, position: encode_receipt(ledger.receipt(position)),
    Form.tlog_proof: tlog_proof,
    Form.cose: cose_receipt,
}


def receipt(
    what: Annotated[str, typer.Argument(help="A call ID, or an entry as registry:12, calls:7 or calls-2026-11:7.")],
    o: Output,
    form: Annotated[
        Form, typer.Option("--format", help="json holds the entry too; tlog-proof and cose hold the proof alone.")
    ] = Form.json,
    entry: Annotated[Path | None, typer.Option(help="Write the entry's bytes into this file as well.")] = None,
    witnessed: Annotated[
        bool, typer.Option("--witnessed", help="Under a checkpoint that witnesses have cosigned, or not at all.")
    ] = False,
    store: Store = None,
) -> None:
    """Write the receipt of one entry: its bytes, and the proof that they are in the log.

    Example: [bold]genealog receipt calls:0 -o answer.receipt.json[/bold]
    """
    home = Home.find(store)
    ledger = Ledger(home)
    position = _entry(ledger, what)
    grade = ""
    if witnessed:
        if form is Form.cose:
            raise UsageError("bad-option", "a COSE receipt holds no cosignatures", got="--witnessed --format cose")
        upgraded = upgrade_from_store(ledger.receipt(position), home, home.trust)
        whole = form is Form.json
        write(o, encode_receipt(upgraded.receipt) if whole else upgraded.receipt.proof.encode())
        grade = f", {upgraded.grade}" + ("" if upgraded.quorum else " (too few for the policy's quorum)")
    else:
        write(o, _ENCODED[form](ledger, position))
    if entry is not None:
        write(entry, ledger.entry(position))
    out.print(f"wrote {o}: the receipt of {position}{grade}")
    if form is not Form.json:
        out.print(f"verify anywhere: genealog verify {o} --entry {entry or 'ENTRY'} --trust trust.policy")


def evidence(
    call: Annotated[str, typer.Argument(help="A call ID.")],
    o: Output,
    groups: Annotated[
        str, typer.Option(help="Sealed groups to open, with commas: engine, request, response, retrieval, usage, who.")
    ] = ",".join(DEFAULT_GROUPS),
    answer: Annotated[
        bool, typer.Option("--answer/--no-answer", help="Put in the body of the answer, if the vault has it.")
    ] = True,
    prompt: Annotated[
        bool, typer.Option("--prompt/--no-prompt", help="Put in the body of the prompt, if the vault has it.")
    ] = False,
    witnessed: Annotated[
        bool, typer.Option("--witnessed", help="Every receipt under a checkpoint that witnesses have cosigned.")
    ] = False,
    store: Store = None,
) -> None:
    """Write the evidence of a whole chain: every receipt from the answer back to the training data.

    Example: [bold]genealog evidence 01JD… -o answer.genealog[/bold]
    """
    wanted = tuple(filter(None, groups.split(",")))
    if unknown := set(wanted) - set(GROUPS):
        raise UsageError("unknown-group", "no such group", got=", ".join(sorted(unknown)), expected=", ".join(GROUPS))
    home = Home.find(store)
    answers = Answers(home)
    bundle = answers.evidence(call, groups=wanted, output=answer, prompt=prompt)
    if witnessed:
        bundle = upgrade_evidence(bundle, home, home.trust)
    write(o, encode_evidence(bundle))
    if gone := answers.erased(call):
        out.print(f"the contents of this call were erased at {gone.at}: {gone.reason}", markup=False)
    elif answer and bundle.response is None and (why_not := answers.not_kept(call)):
        out.print(f"the body of the answer is not in it: {why_not}", markup=False)
    opened = ", ".join(sorted(bundle.groups)) or "none"
    out.print(f"wrote {o}: {len(bundle.receipts)} receipts, opened groups: {opened}")
    out.print(f"verify anywhere: genealog verify {o} --trust trust.policy")


def verify(
    file: Annotated[
        Path,
        typer.Argument(
            help="A receipt, a disclosure, an evidence bundle, a proof about a record, fork evidence, a folder."
        ),
    ],
    trust: Annotated[
        Path | None, typer.Option(help="The trust policy: which logs you believe, as a store's trust.policy.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A file with the answer that you hold (text or whole body), to compare.")
    ] = None,
    entry: Annotated[
        Path | None, typer.Option(help="For a tlog-proof or a COSE receipt: the file with the entry's bytes.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(help="For a proof about a record: the record that you hold, as genealog contains.")
    ] = None,
    ref: Annotated[
        str | None, typer.Option("--as", help="For files: the registered version that they should be. Needs a store.")
    ] = None,
    tsa_roots: Annotated[
        Path | None, typer.Option(help="PEM certificates of the timestamp authorities that you believe.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Exit 3 for a claim too: a source that nobody checked.")] = False,
    signature: signed.Bundle = None,
    public_key: signed.PublicKey = None,
    roots: signed.Roots = None,
    subject: signed.Subject = None,
    trusted_root: signed.TrustedRoot = None,
    identity: signed.Identity = None,
    issuer: signed.Issuer = None,
    allow_ignored: signed.AllowIgnored = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Verify evidence offline, with no store and no network; or files against a registered version or a signature.

    With --signature and nobody asked for, whom genealog.toml trusts counts ([trust.signers.LABEL]).

    Fork evidence is verified too: if a log has signed two heads that do not chain, it is contradicted.

    Exit: 0 proven, stated or claimed, 1 contradicted, 3 cannot tell. Without --trust nothing is better than unchecked.
    Example: [bold]genealog verify answer.genealog --trust trust.policy[/bold]
    """
    asked = signed.asked_for(
        _read(public_key), _read(roots), subject, _read(trusted_root), identity, issuer, signed=signature is not None
    )
    if signature is not None:
        if any(option is not None for option in (ref, output, entry, trust)):
            raise UsageError("bad-option", "--signature is about files, and goes with who signed them")
        status = signed.verify_signed(
            file, signature, read(signature), asked, store=store, tsa_roots=_read(tsa_roots),
            allow_ignored=allow_ignored, json=json,
        )  # fmt: skip
        raise typer.Exit(status)
    if ref is not None or file.is_dir():
        _verify_files(file, ref, store, json=json)
        return
    policy = parse_trust(read(trust)) if trust is not None else None
    data, authorities = read(file), _read(tsa_roots)
    if record is not None and not is_membership(data):
        raise UsageError("bad-option", "this file says nothing of a record", hint="leave --record out")
    if is_membership(data):
        held = given(record) if record is not None else None
        report = examine_membership(parse_membership(data), policy, record=held)
    elif is_bare(data):
        if entry is None or output is not None:
            raise UsageError("bad-option", "this receipt does not hold its entry", hint="give --entry FILE")
        report = examine_bare(data, read(entry), policy)
    else:
        report = _judge(data, policy, output, authorities)
    if json:
        print_json(report_json(report))
    else:
        print_report(report)
        if policy is None:
            out.print("without --trust FILE nobody is believed: the trust.policy of the store that this came from")
    raise typer.Exit(exit_status(report.state, strict=strict))


def _judge(data: bytes, policy: Trust | None, output: Path | None, roots: bytes | None) -> Report:
    found = parse_file(data)
    if isinstance(found, Evidence):
        return examine(found, policy, output=read(output) if output else None, tsa_roots=roots)
    if isinstance(found, Disclosure):
        return examine_disclosure(found, policy, output=read(output) if output else None)
    if output is not None:
        raise UsageError("bad-option", "this file holds no answer to match --output with", got=output)
    return examine_fork(found, policy) if isinstance(found, Fork) else examine_receipt(found, policy, tsa_roots=roots)


def fsck(
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make hash tiles and checkpoint again from the journal, which is never touched."),
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Prove the whole store again from its bytes: logs, tiles, signatures, manifests, sealed groups.

    Exit: 0 clean, 1 something is wrong, and it says what and where.
    """
    findings = Ledger(Home.find(store)).fsck(repair=repair)
    if json:
        print_json([{name: getattr(f, name) for name in ("severity", "code", "where", "message")} for f in findings])
    else:
        rows = [(f.severity, f.code, f.where, f.message) for f in findings]
        print_table(("severity", "code", "where", "what"), rows, empty="clean: every entry proven again")
    raise typer.Exit(1 if any(f.severity == "error" for f in findings) else 0)


@index_app.command("rebuild")
def rebuild(store: Store = None) -> None:
    """Forget the index and read all logs again. The same logs give the same rows."""
    out.print(f"read {Ledger(Home.find(store)).rebuild()} entries again")


def _verify_files(path: Path, ref: str | None, store: str | None, *, json: bool) -> None:
    if not path.exists():
        raise MissingError("no-such-file", "there is nothing to verify", got=path)
    name = ref or path.resolve().name
    try:
        with hashing(path.name, quiet=json) as progress:
            version = Registry(Home.find(store)).check(path, name, progress=progress)
    except MissingError as error:
        if ref is not None or error.code != "unknown-artifact":
            raise
        hint = "say which version it should be: --as NAME"
        raise MissingError(
            error.code, "nothing is registered under the name of this folder", got=name, hint=hint
        ) from None
    if json:
        print_json({"state": State.PROVEN, "id": version.id, "name": version.name, "revoked": version.revoked})
    else:
        out.print(f"[green]✔ proven[/green] {path} is {version.name}, byte for byte: {version.id}")
        if version.revoked is not None:
            out.print(f"[bold red]revoked[/bold red] {version.revoked}")


def _entry(ledger: Ledger, what: str) -> Position:
    log, colon, number = what.partition(":")
    if not colon:
        try:
            return ledger.call(what)
        except MissingError as error:
            raise MissingError(
                error.code, "neither an entry nor a call in the log", got=what,
                expected="registry:N, calls:N or a call ID", hint="genealog ls, or genealog ls calls, shows the entry",
            ) from None  # fmt: skip
    if not (log == REGISTRY or is_call_log(log)) or not _NUMBER.fullmatch(number):
        raise MalformedError("bad-entry", "not an entry", got=what, expected="registry:N, calls:N or a call ID")
    if log != REGISTRY:
        ledger.drain()
    if int(number) >= ledger.home.log(log).size:
        size = ledger.home.log(log).size
        raise MissingError(
            "unknown-entry", f"the log {log} has {size} entries", got=what, expected=f"below {log}:{size}"
        )
    return Position(log, int(number), ledger.home.log(log).leaf_hash(int(number)).hex())


def given(text: str) -> bytes:
    """Return what an argument gives: itself, the contents of @FILE, or standard input for "-"."""
    if text == "-":
        return sys.stdin.buffer.read(MAX_FILE)
    return read(Path(text[1:])) if text.startswith("@") else text.encode()


def read(path: Path) -> bytes:
    """Return a file's bytes. Raises: MissingError `no-such-file`, `unreadable-file`; MalformedError `file-too-big`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise MissingError("no-such-file", "there is no such file", got=path) from None
    except OSError as error:
        raise MissingError("unreadable-file", "the file cannot be read", got=error.strerror) from None
    if len(data) > MAX_FILE:
        raise MalformedError("file-too-big", "evidence has at most 512 MiB", got=path)
    return data


def _read(path: Path | None) -> bytes | None:
    return None if path is None else read(path)


def write(path: Path, data: bytes) -> None:
    """Write a file. Raises: MissingError `unwritable-file`."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise MissingError("unwritable-file", "the file cannot be written", got=error.strerror) from None
