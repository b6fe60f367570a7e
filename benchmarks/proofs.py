"""Inclusion proofs: making them from cached tiles, and verifying them, against aics-tlog in the same rounds.

Both sides hold the same tree of 1,000,000 leaves in memory (their roots are compared). Ours keeps the tiles that it
used last with their inner hashes, and the proofs asked for lie in 64 tiles, so that they are cached after the first
round, which is thrown away; aics-tlog hashes the tiles of a proof again each time. A proof that touches tiles which
nobody has asked for yet is `cold`: those come from a file.

Verifying is timed for one proof object under a checkpoint that is known (`verify_known`), for the bytes of a receipt
file under one (`receipt_known`), and for both with the checkpoint's signature checked each time (`…_fresh`).
aics-tlog's verification is of a proof against a known root, nothing parsed and no signature.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks._peers import Peer, absent
from benchmarks.harness import Result, Samples, interleave, medians, ratio, scratch
from genealog.core.note import NoteSigner, format_vkey
from genealog.core.proof import RememberingTrust, verify_proof
from genealog.core.receipt import encode_receipt, make_receipt, parse_receipt, verify_receipt
from genealog.core.trust import Trust, parse_trust
from genealog.store.log import LocalLog

_Item = TypeVar("_Item")
_LEAVES = 1_000_000
_WINDOW = range(500_000, 500_000 + 64 * 256)  # where cached proofs are asked for
_CACHED = 4_000  # proofs in a block
_COLD = 200
_PEER = 3
_PIECE = 4_096
_ORIGIN = "benchmark.example/log"


def run(runs: int) -> Result:
    """Measure proofs and verifications, and the peer's if it is here."""
    dice = random.Random(11)  # which leaves does not matter, only that they differ
    with scratch() as folder:
        signer = NoteSigner(_ORIGIN, Ed25519PrivateKey.generate())
        with _log(folder, signer) as log:
            trust = parse_trust(f"log {format_vkey(signer.verifier)}\nquorum none\n".encode())
            reason = absent()
            if reason:
                return _result(runs, interleave(_ours(log, trust, dice), runs), {"aics_tlog": reason})
            with Peer() as peer:
                if peer("start_tree", count=_LEAVES) != log.root().hex():
                    raise RuntimeError("the two logs have different roots for the same entries")
                theirs: dict[str, Callable[[], float]] = {
                    "peer_prove": lambda: float(peer("prove", indexes=dice.sample(_WINDOW, _PEER))),
                    "peer_verify": lambda: float(peer("verify")),
                }
                return _result(runs, interleave(_ours(log, trust, dice) | theirs, runs), {})


def _ours(log: LocalLog, trust: Trust, dice: random.Random) -> dict[str, Callable[[], float]]:
    remembering = RememberingTrust(trust)
    picked = dice.sample(_WINDOW, _CACHED)
    proofs = [(log.entry(index), log.prove(index)) for index in picked]
    files = [encode_receipt(make_receipt(entry, _ORIGIN, proof)) for entry, proof in proofs]
    some = proofs[:: _CACHED // 200], files[:: _CACHED // 200]
    return {
        "prove_cached": lambda: _each(picked, lambda index: log.inclusion(index, _LEAVES)),
        "prove_cold": lambda: _cold(log, dice),
        "verify_known": lambda: _each(proofs, lambda pair: verify_proof(*pair, remembering)),
        "verify_fresh": lambda: _each(some[0], lambda pair: verify_proof(*pair, trust)),
        "receipt_known": lambda: _each(files, lambda data: verify_receipt(parse_receipt(data), remembering)),
        "receipt_fresh": lambda: _each(some[1], lambda data: verify_receipt(parse_receipt(data), trust)),
    }


def _result(runs: int, samples: Samples, peers: dict[str, float | str]) -> Result:
    """Turn seconds for one into figures for one second, and into ratios."""
    middle = medians(samples)
    figures = {f"{name}_per_s": 1 / seconds for name, seconds in middle.items() if not name.startswith("peer_")}
    ratios = {"receipt_known_over_fresh": ratio(samples["receipt_fresh"], samples["receipt_known"])}
    if "peer_prove" in samples:
        peers |= {f"aics_tlog_{name}_per_s": 1 / middle[f"peer_{name}"] for name in ("prove", "verify")}
        ratios["prove_cached_over_aics_tlog"] = ratio(samples["peer_prove"], samples["prove_cached"])
        ratios["prove_cold_over_aics_tlog"] = ratio(samples["peer_prove"], samples["prove_cold"])
        ratios["verify_known_over_aics_tlog"] = ratio(samples["peer_verify"], samples["verify_known"])
    return Result("proofs", runs, figures, ratios, peers)


def _log(folder: Path, signer: NoteSigner) -> LocalLog:
    log = LocalLog.create(folder / "log", signer=signer)
    for start in range(0, _LEAVES, _PIECE):
        log.append([_leaf(index) for index in range(start, min(_LEAVES, start + _PIECE))])
    log.checkpoint()
    return log


def _leaf(index: int) -> bytes:
    """Return the entry that stands at `index` here and in `_peers_worker`."""
    return sha256(b"%d" % index).digest()


def _cold(log: LocalLog, dice: random.Random) -> float:
    return _each(dice.sample(range(_WINDOW.start), _COLD), lambda index: log.inclusion(index, _LEAVES))


def _each(items: Sequence[_Item], work: Callable[[_Item], object]) -> float:
    """Return the seconds that the work takes for one item, on average."""
    start = time.perf_counter()
    for item in items:
        work(item)
    return (time.perf_counter() - start) / len(items)
