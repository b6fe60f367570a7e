"""Both ways with `aics-tlog`, a log that nobody here wrote: each reads, verifies, mirrors and proves the other's."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.merkle import leaf_hash, tree_root, verify_consistency, verify_inclusion
from genealog.core.note import Cosigner, NoteSigner, encode_note, format_vkey, parse_note, signature_line
from genealog.core.proof import TlogProof, parse_proof, verify_proof
from genealog.core.receipt import make_receipt, verify_receipt
from genealog.core.trust import Trust, parse_trust
from genealog.core.witness import merge_cosignatures
from genealog.errors import VerificationError
from genealog.remote import open_tree
from genealog.store.log import LocalLog
from genealog.store.static_export import export_tree
from genealog.store.static_tree import prove_tree
from log_samples import SIGNER, VERIFIER, batch, entry, make_log
from peers import BIN, ask, b64, raw
from published_tree import served

OURS = format_vkey(VERIFIER)
TRUST = parse_trust(f"log {OURS}\nquorum none\n".encode())
SIZES = (1, 2, 255, 256, 257, 1000, 70_000)
SEED = bytes(range(64, 96))
WITNESS = Cosigner("witness.example/ours", Ed25519PrivateKey.from_private_bytes(bytes(range(96, 128))))


def published(tmp_path: Path, size: int, *, frame: int = 4096) -> Path:
    """Our log of `size` entries as a folder of files."""
    with make_log(tmp_path / "log", [min(frame, size - start) for start in range(0, size, frame)]) as log:
        export_tree(log, tmp_path / "site", verifiers=[VERIFIER])
    return tmp_path / "site"


def digest(entries: Iterable[bytes]) -> str:
    return sha256(b"".join(len(each).to_bytes(2, "big") + each for each in entries)).hexdigest()


def theirs(tmp_path: Path, sizes: Iterable[int], origin: str = "log.example/theirs") -> tuple[Path, Trust, list[bytes]]:
    """A log that aics-tlog wrote in batches of `sizes`, whom to trust for it, and every head that it signed."""
    batches, start = [], 0
    for size in sizes:
        batches.append([b64(each) for each in batch(start, start + size)])
        start += size
    made = ask("write_log", folder=str(tmp_path / "theirs"), seed=b64(SEED), origin=origin, batches=batches)
    trust = parse_trust(f"log {made['vkey']}\nquorum none\n".encode())
    return tmp_path / "theirs", trust, [raw(note) for note in made["heads"]]


@pytest.mark.parametrize("size", SIZES)
def test_it_reads_our_published_log_whole(tmp_path: Path, size: int) -> None:
    site = published(tmp_path, size)
    read = ask("read_log", place=str(site), vkey=OURS)
    assert read["size"] == size
    assert read["root"] == parse_checkpoint_text(parse_note((site / "checkpoint").read_bytes()).text).root.hex()
    assert read["entries"] == digest(batch(0, size))
    assert read["bundles"] == -(-size // 256)


def test_it_reads_our_log_after_each_of_several_exports(tmp_path: Path) -> None:
    with make_log(tmp_path / "log") as log:
        for size in (3, 253, 1, 300, 512):
            log.append(batch(log.size, log.size + size))
            export_tree(log, tmp_path / "site", verifiers=[VERIFIER], prune=size == 512)
            read = ask("read_log", place=str(tmp_path / "site"), vkey=OURS)
            assert (read["size"], read["entries"]) == (log.size, digest(batch(0, log.size)))


def test_it_refuses_our_log_under_another_key_and_with_a_changed_byte(tmp_path: Path) -> None:
    site = published(tmp_path, 300)
    stranger = format_vkey(NoteSigner(VERIFIER.name, Ed25519PrivateKey.generate()).verifier)
    with pytest.raises(AssertionError, match="no signature from log key"):
        ask("read_log", place=str(site), vkey=stranger)
    bundle = site / "tile/entries/000"
    bundle.write_bytes(bundle.read_bytes().replace(b'{"n":7}', b'{"n":8}'))
    with pytest.raises(AssertionError, match="TileVerificationError"):
        ask("read_log", place=str(site), vkey=OURS)


def test_its_proofs_from_our_tiles_are_ours(tmp_path: Path) -> None:
    site = published(tmp_path, 1000)
    with make_log(tmp_path / "again", [1000]) as log:
        for index, old in ((0, 1), (255, 256), (256, 255), (999, 999), (511, 513)):
            made = ask("prove", place=str(site), vkey=OURS, index=index, old=old)
            assert [raw(value) for value in made["inclusion"]] == list(log.inclusion(index, 1000))
            assert [raw(value) for value in made["consistency"]] == list(log.consistency(old, 1000))


def test_it_verifies_our_proofs_and_refuses_them_bent(tmp_path: Path) -> None:
    with make_log(tmp_path / "log", [600]) as log:
        roots = {size: log_root(log, size) for size in (1, 255, 256, 257, 600)}
        good = [
            [b64(entry(index)), index, size, list(map(b64, log.inclusion(index, size))), b64(roots[size])]
            for size in roots
            for index in {0, size // 2, size - 1}
        ]
        chains = [
            [old, new, b64(roots[old]), b64(roots[new]), list(map(b64, log.consistency(old, new)))]
            for old in roots
            for new in roots
            if old <= new
        ]
    assert all(ask("check_inclusions", proofs=good))
    assert all(ask("check_consistencies", proofs=chains))
    bent = [[b64(b"other"), *rest] for _, *rest in good] + [[e, i, s, p[:-1], r] for e, i, s, p, r in good if p]
    assert not any(ask("check_inclusions", proofs=bent))
    assert not any(ask("check_consistencies", proofs=[[o, n, b, a, p] for o, n, a, b, p in chains if o < n]))


def log_root(log: LocalLog, size: int) -> bytes:
    return tree_root([log.leaf_hash(index) for index in range(size)])


def test_its_command_verifies_our_log_as_the_page_says(tmp_path: Path) -> None:
    site = published(tmp_path, 700)

    def tool(*words: str) -> dict[str, object]:
        place = ["--tiles", str(site), "--vkey-file", str(tmp_path / "vkey"), "--origin", VERIFIER.name]
        done = subprocess.run([BIN / "aics-tlog", *words, *place], text=True, capture_output=True, check=False)
        return {"status": done.returncode, **json.loads(done.stdout)}

    (tmp_path / "vkey").write_text(OURS + "\n")
    saved = str(tmp_path / "head")
    assert tool("verify-checkpoint", "--save-checkpoint", saved)["status"] == 0
    assert tool("verify-inclusion", "--index", "321", "--entry-out", str(tmp_path / "e"))["status"] == 0
    assert (tmp_path / "e").read_bytes() == entry(321)
    assert tool("verify-consistency", "--old-checkpoint", saved)["status"] == 0
    (site / "tile/0/001").write_bytes(bytes(8192))
    assert tool("verify-inclusion", "--index", "321")["status"] != 0


def test_it_mirrors_our_log_from_a_web_server_and_we_read_its_mirror(tmp_path: Path) -> None:
    site = published(tmp_path, 1500)
    copy = tmp_path / "copy"
    with served(site) as url:
        made = ask("mirror", urls=[url], vkey=OURS, folder=str(copy))
    assert made["stats"]["errors"] == 0
    with open_tree(str(copy)) as tree:
        view = tree.at(TRUST.verify_checkpoint(tree.note()))
        prove_tree(view)
        assert list(view.entries()) == batch(0, 1500)


@pytest.mark.parametrize("sizes", [(1,), (256,), (255, 2), (100, 100, 100), (300, 70_000)])
def test_we_read_its_log_whole_and_each_head_it_signed_chains(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    folder, trust, notes = theirs(tmp_path, sizes)
    with open_tree(str(folder)) as tree:
        newest = trust.verify_checkpoint(tree.note())
        view = tree.at(newest)
        prove_tree(view)
        assert list(view.entries(newest.size - 1)) == [entry(newest.size - 1)]
        for note in notes:
            old = trust.verify_checkpoint(note)
            verify_consistency(old.size, old.root, newest.size, newest.root, view.consistency(old.size))


def test_we_read_its_log_over_http_and_refuse_a_changed_tile(tmp_path: Path) -> None:
    folder, trust, _ = theirs(tmp_path, (600,))
    with served(folder) as url, open_tree(url) as tree:
        view = tree.at(trust.verify_checkpoint(tree.note()))
        prove_tree(view)
        assert view.entry(599) == entry(599)
        (folder / "tile/0/000").write_bytes(bytes(8192))
        with pytest.raises(VerificationError) as caught:
            tree.at(trust.verify_checkpoint(tree.note())).inclusion(1)
        assert caught.value.code == "tree-altered"


def test_we_verify_its_proofs_as_tlog_proofs_and_receipts(tmp_path: Path) -> None:
    folder, trust, notes = theirs(tmp_path, (300, 400))
    (key,) = trust.logs["log.example/theirs"]
    head = trust.verify_checkpoint(notes[-1])
    for index in (0, 299, 300, 699):
        made = ask("prove", place=str(folder), vkey=format_vkey(key), index=index, old=300)
        hashes = tuple(raw(value) for value in made["inclusion"])
        verify_inclusion(leaf_hash(entry(index)), index, head.size, hashes, head.root)
        old = trust.verify_checkpoint(notes[0])
        verify_consistency(old.size, old.root, head.size, head.root, [raw(value) for value in made["consistency"]])
        proof = TlogProof(index, hashes, notes[-1])
        assert verify_proof(entry(index), parse_proof(proof.encode()), trust) == head
        assert verify_receipt(make_receipt(entry(index), head.origin, proof), trust).index == index
        with pytest.raises(VerificationError, match="another root"):
            verify_proof(entry(index + 1), proof, trust)


def test_its_bundle_is_our_receipt_in_other_words_and_ours_is_its_bundle(tmp_path: Path) -> None:
    folder, trust, _ = theirs(tmp_path, (300,))
    (key,) = trust.logs["log.example/theirs"]
    told = json.loads(ask("bundle", folder=str(folder), vkey=format_vkey(key), index=77))
    note = unpadded(told["checkpoint_note"])
    proof = TlogProof(told["index"], tuple(raw(value) for value in told["inclusion_proof"]), note)
    assert verify_proof(unpadded(told["entry_bytes"]), proof, trust).size == 300

    with make_log(tmp_path / "log", [500]) as log:
        ours = log.prove(123)
    bundle = {
        "entry_bytes": padless(entry(123)),
        "index": 123,
        "inclusion_proof": list(map(b64, ours.hashes)),
        "checkpoint_note": padless(ours.checkpoint),
        "envelope": None,
        "body_or_ct": None,
    }
    found = ask("check_bundle", text=json.dumps(bundle), vkey=OURS)
    assert found == {"ok": True, "error": None, "size": 500, "index": 123}
    assert not ask("check_bundle", text=json.dumps(bundle | {"index": 124}), vkey=OURS)["ok"]


def test_each_verifies_the_others_cosignatures(tmp_path: Path) -> None:
    with make_log(tmp_path / "log", [9]) as log:
        note = log.checkpoint()
    text = parse_note(note).text
    made = ask("cosign", note=b64(note), seed=b64(SEED), name="witness.example/theirs", at=1_700_000_000)
    both = merge_cosignatures(note, [made["line"].encode(), WITNESS.cosign(text, 1_700_000_001)])
    keys = [made["vkey"], format_vkey(WITNESS.verifier)]

    found = ask("check_checkpoint", note=b64(both), vkey=OURS, witnesses=keys, quorum=2)
    assert found["ok"], found["error"]
    assert found["timestamps"] == {"witness.example/theirs": 1_700_000_000, "witness.example/ours": 1_700_000_001}

    lines = "".join(f"witness w{number} {key}\n" for number, key in enumerate(keys))
    trust = parse_trust(f"log {OURS}\n{lines}group g all w0 w1\nquorum g\n".encode())
    assert trust.open_checkpoint(both).cosigned_at == {"w0": 1_700_000_000, "w1": 1_700_000_001}
    with pytest.raises(VerificationError) as caught:
        trust.open_checkpoint(merge_cosignatures(note, [made["line"].encode()]))
    assert caught.value.code == "quorum-not-met"
    assert not ask("check_checkpoint", note=b64(note), vkey=OURS, witnesses=keys, quorum=1)["ok"]


def test_a_cosigned_head_with_extension_lines_and_an_unknown_signature_is_read_by_both() -> None:
    head = Checkpoint(VERIFIER.name, 1, leaf_hash(b"one"), ("an extension line",))
    other = Ed25519PrivateKey.from_private_bytes(SEED)
    unknown = replace(VERIFIER, name="stranger.example/x")
    note = encode_note(head.encode(), [SIGNER.sign(head.encode()), signature_line(unknown, other.sign(b"x"))])
    note = merge_cosignatures(note, [WITNESS.cosign(head.encode(), 5)])
    assert TRUST.verify_checkpoint(note) == head
    keys = [format_vkey(WITNESS.verifier)]
    assert ask("check_checkpoint", note=b64(note), vkey=OURS, witnesses=keys, quorum=1)["ok"]


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def padless(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
