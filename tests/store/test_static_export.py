"""Publish a log as files: a reader that shares no code with ours finds every entry; never back, never over another."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.core.checkpoint import Checkpoint
from genealog.core.fork import Fork, verify_fork
from genealog.core.merkle import leaf_hash, verify_inclusion
from genealog.core.note import Cosigner, format_vkey, parse_note, parse_vkey
from genealog.core.trust import parse_trust
from genealog.errors import StoreError
from genealog.store import static_export
from genealog.store.static_tree import FolderFiles, StaticTree, prove_tree
from log_samples import SIGNER, VERIFIER, batch, make_log, reopen, root_of
from published_tree import export, files, view


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


# A reader of c2sp.org/tlog-tiles that knows nothing of ours


def naive_number(number: int) -> str:
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03d}")
    return "/".join(groups)


def naive_get(folder: Path, kind: str, number: int, width: int) -> bytes:
    path = folder / "tile" / kind / naive_number(number)
    partial = Path(f"{path}.p") / str(width)
    return path.read_bytes() if width == 256 or not partial.exists() else partial.read_bytes()


def naive_entries(folder: Path, size: int) -> list[bytes]:
    found: list[bytes] = []
    for number in range((size + 255) // 256):
        data = naive_get(folder, "entries", number, min(256, size - 256 * number))
        while data:
            length = data[0] * 256 + data[1]
            found.append(data[2 : 2 + length])
            data = data[2 + length :]
    return found[:size]


def naive_root(hashes: list[bytes]) -> bytes:
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256(b"").digest()
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return hashlib.sha256(b"\x01" + naive_root(hashes[:split]) + naive_root(hashes[split:])).digest()


def naive_levels(folder: Path, size: int, leaves: list[bytes]) -> None:
    """Every tile of every level holds what the entries give."""
    level, hashes = 0, leaves
    while hashes:
        for number in range((len(hashes) + 255) // 256):
            part = hashes[256 * number : 256 * (number + 1)]
            assert naive_get(folder, str(level), number, len(part))[: 32 * len(part)] == b"".join(part)
        hashes = [naive_root(hashes[i : i + 256]) for i in range(0, len(hashes) // 256 * 256, 256)]
        level += 1


def naive_check(folder: Path, expected: int) -> None:
    origin, size, root, *_ = (folder / "checkpoint").read_text().split("\n")
    assert (origin, int(size)) == (SIGNER.name, expected)
    found = naive_entries(folder, expected)
    assert found == batch(0, expected)
    leaves = [hashlib.sha256(b"\x00" + each).digest() for each in found]
    assert base64.b64decode(root) == naive_root(leaves)
    naive_levels(folder, expected, leaves)


SIZES = sorted({0, 1, 2, 3, 255, 256, 257, 300, 511, 512, 513, 599, 600, *range(7, 600, 61)})


def test_every_size_reads_back_the_same(tmp_path: Path) -> None:
    with make_log(tmp_path / "log") as log:
        for size in SIZES:
            log.append(batch(log.size, size))
            folder = tmp_path / str(size)
            done = export(log, folder)
            assert (done.size, done.root, done.before) == (size, root_of(batch(0, size)).hex(), None)
            naive_check(folder, size)
            prove_tree(view(folder))


@given(st.lists(st.integers(0, 300), max_size=6), st.booleans())
@settings(max_examples=25, deadline=None)
def test_growing_gives_the_same_files_as_exporting_once(steps: list[int], prune: bool) -> None:
    folder = Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"static-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with make_log(folder / "log") as log:
            sizes = []
            for step in steps:
                log.append(batch(log.size, log.size + step))
                sizes.append(log.size)
                export(log, folder / "site", prune=prune)
            if not sizes:
                return
            naive_check(folder / "site", sizes[-1])
            if not prune:  # every size that was published can still be read, after the full tiles came too
                for size in sizes:
                    tree = StaticTree(FolderFiles.open(folder / "site"))
                    prove_tree(tree.at(Checkpoint(SIGNER.name, size, root_of(batch(0, size)))))
            once = folder / "once"
            export(log, once)
            assert files(once).items() <= files(folder / "site").items()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_big_tree_has_three_levels_and_long_names(tmp_path: Path, site: Path) -> None:
    with make_log(tmp_path / "log") as log:
        log.append([b"%d" % n for n in range(65_536)])
        log.append([b"%d" % n for n in range(65_536, 66_000)])
        export(log, site)
    assert (site / "tile/1/000").stat().st_size == 8192
    assert (site / "tile/2/000.p/1").stat().st_size == 32
    assert (site / "tile/entries/256").is_file()
    found = view(site)
    proof = found.inclusion(65_999)
    verify_inclusion(leaf_hash(b"65999"), 65_999, 66_000, proof, found.head.root)
    assert list(found.entries(65_530, 65_540)) == [b"%d" % n for n in range(65_530, 65_540)]


def test_only_new_files_are_written(tmp_path: Path, site: Path) -> None:
    with make_log(tmp_path / "log", [600]) as log:
        assert export(log, site).written == 3 + 3 + 1
        before = {path: (site / path).stat().st_mtime_ns for path in files(site)}
        again = export(log, site)
        assert (again.written, again.before) == (0, 600)
        assert {path: (site / path).stat().st_mtime_ns for path in files(site)} == before
        log.append(batch(600, 601))
        done = export(log, site)
        assert (done.written, done.before, done.size) == (2, 600, 601)
        assert export(log, site, whole=True).kept == 7
        (site / "tile/0/000").unlink()
        assert export(log, site).written == 0
        assert export(log, site, whole=True).written == 1
    prove_tree(view(site))


def test_partials_go_when_asked_and_only_behind_a_full_tile(tmp_path: Path, site: Path) -> None:
    with make_log(tmp_path / "log", [5]) as log:
        export(log, site)
        log.append(batch(5, 300))
        assert export(log, site).pruned == 0
        assert (site / "tile/0/000.p/5").exists()
        assert export(log, site, prune=True).pruned == 2
        assert not (site / "tile/0/000.p").exists()
        assert (site / "tile/0/001.p/44").exists()
        old = StaticTree(FolderFiles.open(site)).at(Checkpoint(SIGNER.name, 5, root_of(batch(0, 5))))
        assert list(old.entries()) == batch(0, 5)  # cut from the full tile and bundle


def test_beside_the_tree_stand_its_keys(tmp_path: Path, site: Path) -> None:
    with make_log(tmp_path / "log", [1]) as log:
        export(log, site, url="https://log.example/", policy="")
        assert parse_vkey((site / "log.vkey").read_text().strip()) == VERIFIER
        trust = parse_trust((site / "trust.policy").read_bytes())
        assert trust.verify_checkpoint((site / "checkpoint").read_bytes()).size == 1
        export(log, site, policy=static_export.policy_lines(b"# x\nlog a+b+c\n  quorum none\n"))
        assert (site / "trust.policy").read_text().splitlines()[1:] == [f"log {format_vkey(VERIFIER)}", "  quorum none"]


def test_cosignatures_are_published_and_stay(tmp_path: Path, site: Path) -> None:
    witness = Cosigner("witness.example/w", Ed25519PrivateKey.generate())
    trust = parse_trust(f"log {format_vkey(VERIFIER)}\nwitness w {format_vkey(witness.verifier)}\nquorum w\n".encode())
    with make_log(tmp_path / "log", [5]) as log:
        export(log, site)
        note = log.checkpoint()
        text = parse_note(note).text
        cosigned = note + witness.cosign(text, 1_700_000_000)
        export(log, site, cosigned={5: cosigned}.get)
        assert trust.open_checkpoint((site / "checkpoint").read_bytes()).cosigned_at == {"w": 1_700_000_000}
        export(log, site)
        assert trust.open_checkpoint((site / "checkpoint").read_bytes()).checkpoint.size == 5
        log.append(batch(5, 6))
        export(log, site, cosigned={5: cosigned}.get)
        assert view(site).head.size == 6


def test_a_checkpoint_is_the_last_file(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step the power fails at: what is published is whole, and the next export goes on."""
    log = make_log(tmp_path / "log", [300])
    export(log, site)
    log.append(batch(300, 700))
    log.checkpoint()  # so that only the export writes below
    calls = [0]
    stop_at = 0
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)

        def stop(*a: object, _real: object = real) -> object:
            calls[0] += 1
            if calls[0] == stop_at:
                raise KeyboardInterrupt
            return _real(*a)  # type: ignore[operator]

        monkeypatch.setattr(static_export.os, name, stop)
    finished = False
    while not finished:
        stop_at += 1
        calls[0] = 0
        copy = tmp_path / f"copy{stop_at}"
        shutil.copytree(site, copy)
        try:
            export(log, copy)
            finished = True
        except KeyboardInterrupt:
            published = view(copy)
            prove_tree(published)
            assert published.head.size in (300, 700)
            calls[0] = -1_000_000
            export(log, copy)
        prove_tree(view(copy))
        assert not (copy / ".staging").exists()
        shutil.rmtree(copy)
    assert stop_at > 20
    log.close()


def test_it_never_goes_back(tmp_path: Path, site: Path) -> None:
    make_log(tmp_path / "log", [10]).close()
    shutil.copytree(tmp_path / "log", tmp_path / "backup")
    with reopen(tmp_path / "log") as log:
        log.append(batch(10, 20))
        export(log, site)
    before = files(site)
    with reopen(tmp_path / "backup") as old, pytest.raises(StoreError) as caught:
        export(old, site)
    assert caught.value.code == "export-ahead"
    assert files(site) == before


@pytest.mark.parametrize(("first", "second"), [(20, 20), (20, 30), (30, 20), (300, 700), (700, 300)])
def test_a_fork_is_refused_with_evidence_that_convinces_others(
    tmp_path: Path, site: Path, first: int, second: int
) -> None:
    make_log(tmp_path / "log", [10]).close()
    shutil.copytree(tmp_path / "log", tmp_path / "twin")
    with reopen(tmp_path / "log") as log:
        log.append(batch(10, first))
        export(log, site)
    before = files(site)
    found: list[Fork] = []
    with reopen(tmp_path / "twin") as twin:
        twin.append([b"other %d" % n for n in range(10, second)])
        with pytest.raises(StoreError) as caught:
            export(twin, site, evidence=found.append)
    assert caught.value.code == "export-forked"
    assert files(site) == before
    trust = parse_trust(f"log {format_vkey(VERIFIER)}\nquorum none\n".encode())
    assert verify_fork(found[0], trust).origin == SIGNER.name


def test_a_file_that_differs_is_never_written_over(tmp_path: Path, site: Path) -> None:
    with make_log(tmp_path / "log", [10]) as log:
        export(log, site)
        log.append(batch(10, 300))
        (site / "tile/0/000").write_bytes(b"x" * 8192)
        with pytest.raises(StoreError) as caught:
            export(log, site)
        assert caught.value.code == "export-differs"
        assert (site / "tile/0/000").read_bytes() == b"x" * 8192
        assert view(site).head.size == 10


def test_another_logs_folder_is_refused(tmp_path: Path, site: Path) -> None:
    site.mkdir()
    (site / "checkpoint").write_bytes(b"x\n0\n\n")
    with make_log(tmp_path / "log", [1]) as log, pytest.raises(StoreError) as caught:
        export(log, site)
    assert caught.value.code == "export-foreign"


def test_many_exports_at_once_and_readers_that_always_find_a_whole_tree(tmp_path: Path, site: Path) -> None:
    make_log(tmp_path / "log", [3]).close()
    with reopen(tmp_path / "log", write=False) as log:
        export(log, site)
    over, failed, seen = threading.Event(), list[BaseException](), list[int]()
    sizes = range(10, 1200, 37)

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                while not over.is_set():
                    work()
            except BaseException as error:  # noqa: BLE001 - told below
                failed.append(error)
                over.set()

        return threading.Thread(target=run)

    def publish() -> None:
        with reopen(tmp_path / "log", write=False) as log:
            export(log, site, prune=True)

    def read() -> None:
        found = view(site)
        prove_tree(found)
        seen.append(found.head.size)
        if seen[-1] == sizes[-1]:
            over.set()

    threads = [guarded(publish), guarded(publish), guarded(publish), guarded(read)]
    for thread in threads:
        thread.start()
    with reopen(tmp_path / "log") as log:
        for size in sizes:
            log.append(batch(log.size, size))
            log.checkpoint()
    for thread in threads:
        thread.join()
    assert failed == []
    assert seen == sorted(seen)
    naive_check(site, seen[-1])
