"""A folder and the signature of somebody: are these the files that he signed, and is it he?

Every hop has a state, as in a chain (`core.chain`). What differs by a name or a byte contradicts; so does a file that
nobody signed. What the signer left out is `unchecked` and named: it may be anything. Files are not read for a signature
that does not hold, and never stronger than it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path

from genealog.capture.signed_files import Listed, hash_signed, list_signed
from genealog.core.chain import Hop, Report
from genealog.core.manifest import FileEntry
from genealog.core.states import State, weakest
from genealog.errors import MissingError, VerificationError
from genealog.interop.oms.bundle import Method, read_bundle
from genealog.interop.oms.payload import Differs, Signed, compare, read_payload
from genealog.signing.believe import Believed, Verdict, judge

Progress = Callable[[int, int], None]
LEFT_OUT = "left-out-by-signer"


def examine_signed(
    path: Path,
    data: bytes,
    believed: Sequence[Believed],
    *,
    at: datetime,
    signature: Path | None = None,
    tsa_roots: bytes | None = None,
    progress: Progress | None = None,
) -> Report:
    """Judge the bundle `data` over the files at `path`. The file `signature` cannot sign itself, and is passed over.

    Raises: as `read_bundle`, `judge`, `list_signed` and `hash_signed`.
    """
    verdict, signed = judge_bundle(data, believed, at=at, tsa_roots=tsa_roots)
    top = _top(data, verdict)
    if signed is None or verdict.state is State.CONTRADICTED:
        return Report((top,))
    itself = _inside(path, signature)
    wanted = _with_folders(piece.path for piece in signed.pieces)
    listed = list_signed(
        path, ignored=lambda found: _left_out(found, signed, wanted, itself), follow=signed.allow_symlinks
    )
    digests = hash_signed(listed.files, algorithm=signed.hash_type, shard=signed.shard_size, progress=progress)
    differs = compare(signed, digests)
    return Report((top, *_hops(verdict, signed, listed, differs, itself)))


def judge_bundle(
    data: bytes, believed: Sequence[Believed], *, at: datetime, tsa_roots: bytes | None = None
) -> tuple[Verdict, Signed | None]:
    """Judge a bundle and read what it says; None for what is not said in a way that is understood here."""
    bundle = read_bundle(data)
    verdict = judge(bundle, believed, at=at, tsa_roots=tsa_roots)
    try:
        return verdict, read_payload(bundle.payload)
    except VerificationError as error:
        return Verdict(State.CONTRADICTED, verdict.signer, error.code, error.message + error.facts), None
    except MissingError as error:
        if error.code != "oms-unsupported" or verdict.state is State.CONTRADICTED:
            return verdict, None
        return Verdict(State.UNCHECKED, verdict.signer, error.code, error.message + error.facts), None


def judge_manifest(signed: Signed, files: Sequence[FileEntry]) -> Differs | None:
    """Compare a statement with the manifest of a version, no file being read; None where it has other digests."""
    if signed.hash_type != "sha256" or signed.shard_size is not None:
        return None
    wanted = {piece.path for piece in signed.pieces}
    if wanted == {"."} and len(files) == 1:
        return compare(signed, {".": files[0].sha256})
    return compare(signed, {f.path: f.sha256 for f in files if f.path in wanted or not signed.ignores(f.path)})


def method_of(data: bytes) -> Method:
    """Return how a bundle names its signer. Raises: as `read_bundle`."""
    return read_bundle(data).method


def _top(data: bytes, verdict: Verdict) -> Hop:
    by = verdict.signer if verdict.label is None else f"{verdict.label} ({verdict.signer})"
    title = f"OMS, by {method_of(data)}"
    return Hop(0, "signature", title, verdict.state, signer=by, code=verdict.code, detail=verdict.detail)


def _left_out(path: str, signed: Signed, wanted: set[str], itself: str | None) -> bool:
    """Say whether the walk passes `path` over: left out, and nothing that is signed by name lies in it."""
    if path == itself:
        return True
    return path not in wanted and signed.ignores(path)


def _with_folders(paths: Iterable[str]) -> set[str]:
    """Return paths and every folder above one of them."""
    found: set[str] = set()
    for path in paths:
        here = path
        while here and here not in found:
            found.add(here)
            here = here.rpartition("/")[0]
    return found


def _inside(root: Path, signature: Path | None) -> str | None:
    if signature is None:
        return None
    inside, above = os.path.realpath(signature), os.path.realpath(root)
    return os.path.relpath(inside, above) if inside.startswith(above + os.sep) else None


def _hops(verdict: Verdict, signed: Signed, listed: Listed, differs: Differs, itself: str | None) -> list[Hop]:
    wrong = [
        *(_file("signed-file-changed", path, "its bytes are not those that were signed") for path in differs.changed),
        *(_file("signed-file-missing", path, "it was signed and is not here") for path in differs.missing),
        *(_file("file-not-signed", path, "nobody signed it") for path in differs.added),
        *(_file("file-not-signed", path, "a link, and its signer signed none") for path in listed.links),
        *(_file("file-not-signed", path, "neither a file nor a folder") for path in listed.special),
    ]
    ignored = [path for path in listed.ignored if path != itself]
    state = State.CONTRADICTED if wrong else weakest((State.PROVEN, verdict.state))
    count = len({piece.path for piece in signed.pieces})
    detail = f"compared by name and {signed.hash_type}" + (
        f"; not itself: {itself}" if itself in listed.ignored else ""
    )
    hops = [
        Hop(
            1, "files", f"{count} signed as {signed.name}", state, code="files-differ" if wrong else None, detail=detail
        )
    ]
    hops += sorted(wrong, key=lambda hop: (str(hop.code), hop.title))
    what = "its signer left it out: it may be anything"
    if signed.shard_size is not None:  # then files without bytes are in no signature
        ignored += [path for path, _, size in listed.files if size == 0]
    return hops + [
        Hop(1, "left out", path, State.UNCHECKED, code="left-out-by-signer", detail=what) for path in ignored
    ]


def _file(code: str, path: str, what: str) -> Hop:
    return Hop(2, "file", path, State.CONTRADICTED, code=code, detail=what)
