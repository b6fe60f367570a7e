"""Read a published log that nobody trusts: from a folder, and from a web server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.checkpoint import Checkpoint
from genealog.core.merkle import verify_consistency
from genealog.core.states import State
from genealog.core.tile import entries_path, tile_path
from genealog.core.trust import parse_trust
from genealog.errors import GenealogError, MissingError, VerificationError
from genealog.published import verify_tree
from genealog.store.static_tree import FolderFiles, StaticTree, prove_tree, split_bundle
from log_samples import SIGNER, batch, entry, make_log, reopen, root_of
from published_tree import export, served, view


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def published(tmp_path: Path, site: Path) -> Path:
    with make_log(tmp_path / "log", [700]) as log:
        export(log, site)
    return site


def test_proofs_from_files_are_those_of_the_log(tmp_path: Path, published: Path) -> None:
    found = view(published)
    with reopen(tmp_path / "log", write=False) as log:
        for index in (0, 255, 256, 511, 512, 699):
            assert found.entry(index) == entry(index)
            assert found.inclusion(index) == log.inclusion(index, 700)
            assert found.inclusion(index, index + 1) == log.inclusion(index, index + 1)
        for old in (0, 1, 255, 256, 300, 512, 699, 700):
            proof = found.consistency(old)
            assert proof == log.consistency(old, 700)
            verify_consistency(old, root_of(batch(0, old)), 700, found.head.root, proof)
        for level, number, width in ((0, 0, 256), (0, 2, 188), (1, 0, 2), (0, 1, 3)):
            assert found.tile(level, number, width) == log.tile(level, number, width)
    for index in (-1, 700):
        with pytest.raises(MissingError):
            found.entry(index)
    with pytest.raises(MissingError):
        found.tile(0, 3)
    with pytest.raises(MissingError):
        list(found.entries(690, 701))


def test_any_byte_that_is_altered_is_found(published: Path) -> None:
    for path in (tile_path(0, 0), tile_path(0, 2, 188), tile_path(1, 0, 2), entries_path(1), entries_path(2, 188)):
        good = (published / path).read_bytes()
        for place in (0, 1, len(good) // 2, len(good) - 1):
            for bad in (good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], good[:place], good + b"\0"):
                (published / path).write_bytes(bad)
                with pytest.raises(GenealogError) as caught:
                    prove_tree(view(published))
                assert caught.value.code in ("tree-altered", "tree-file-too-big"), path
        (published / path).unlink()
        with pytest.raises(MissingError) as missing:
            prove_tree(view(published))
        assert missing.value.code == "tree-incomplete"
        (published / path).write_bytes(good)
    prove_tree(view(published))


def test_a_proof_is_not_made_from_an_altered_tile(published: Path) -> None:
    path = published / tile_path(0, 0)
    path.write_bytes(bytes(32) + path.read_bytes()[32:])
    found = view(published)
    with pytest.raises(VerificationError) as caught:
        found.inclusion(5)
    assert caught.value.code == "tree-altered"
    assert found.entry(300) == entry(300)


def test_what_is_no_file_is_refused_at_once(published: Path) -> None:
    trust = parse_trust((published / "trust.policy").read_bytes())
    tile = published / tile_path(0, 0)
    for put in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path), lambda path: path.symlink_to("/dev/zero")):
        tile.unlink()
        put(tile)
        with pytest.raises(GenealogError):
            verify_tree(str(published), trust, evidence=published)
        if tile.is_dir():
            tile.rmdir()
            tile.touch()


def test_a_head_of_another_tree_is_refused(published: Path) -> None:
    with pytest.raises(VerificationError):
        StaticTree(FolderFiles.open(published)).at(Checkpoint(SIGNER.name, 700, bytes(32)))
    with pytest.raises(MissingError):
        StaticTree(FolderFiles.open(published)).at(Checkpoint(SIGNER.name, 900, bytes(32)))


@given(st.lists(st.binary(max_size=300), max_size=20), st.binary(max_size=3))
def test_bundles_round_trip_and_nothing_else_is_read(entries: list[bytes], rest: bytes) -> None:
    data = b"".join(len(each).to_bytes(2, "big") + each for each in entries)
    assert split_bundle(data) == tuple(entries)
    try:
        found = split_bundle(data + rest)
    except VerificationError:
        return
    assert b"".join(len(each).to_bytes(2, "big") + each for each in found) == data + rest


def test_any_web_server_will_do(published: Path) -> None:
    trust = parse_trust((published / "trust.policy").read_bytes())
    head = (published / "checkpoint").read_bytes()
    with served(published) as url:
        assert verify_tree(url, trust, evidence=published).state is State.PROVEN
        assert verify_tree(url, trust, since=head, evidence=published).since == trust.open_head(head).checkpoint
        shutil.rmtree(published / "tile/0/002.p")
        with pytest.raises(MissingError) as caught:
            verify_tree(url, trust, evidence=published)
        assert caught.value.code == "tree-incomplete"
        (published / "checkpoint").unlink()
        with pytest.raises(MissingError) as caught:
            verify_tree(url, trust, evidence=published)
        assert caught.value.code == "no-checkpoint"


def test_a_server_that_is_not_there_is_no_contradiction(tmp_path: Path) -> None:
    trust = parse_trust(b"quorum none\n")
    for place, code in (
        ("http://127.0.0.1:1/", "remote-failed"),
        ("ftp://x/", "bad-url"),
        (str(tmp_path / "nothing"), "no-such-tree"),
    ):
        with pytest.raises(GenealogError) as refused:
            verify_tree(place, trust, evidence=tmp_path)
        assert refused.value.code == code
