"""What these versions of the peers do not do: facts that docs/how-to/check-with-other-tools.md states.

A fact that stops being true fails here, and then the page says something else.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.merkle import leaf_hash, tree_root
from genealog.core.note import Cosigner, format_vkey, parse_note
from genealog.core.tile import parse_tile_path
from genealog.errors import GenealogError, MalformedError
from log_samples import SIGNER
from peers import ask, b64

TEXT = "log.example/x\n1\n" + b64(bytes(32)) + "\n\n"
LINE = "— log.example/x " + b64(b"1234" + bytes(64)) + "\n"


@pytest.mark.parametrize("path", ["tile/0/x000/001", "tile/0/\u0660\u0660\u0660"])
def test_aics_tlog_reads_tile_paths_that_are_not_spelled_canonically(path: str) -> None:
    assert ask("parse_paths", paths=["tile/0/001", path]) == [True, True]
    with pytest.raises(MalformedError):
        parse_tile_path(path)


@pytest.mark.parametrize(
    "note", [TEXT + LINE.rstrip("\n"), TEXT + "— log.example/x " + b64(b"1234") + "\n"], ids=["no LF", "no signature"]
)
def test_aics_tlog_reads_notes_that_signed_note_does_not_allow(note: str) -> None:
    assert ask("parse_notes", notes=[b64((TEXT + LINE).encode()), b64(note.encode())]) == [True, True]
    parse_note((TEXT + LINE).encode())
    with pytest.raises(GenealogError):
        parse_note(note.encode())


def test_two_aics_tlog_writers_on_one_folder_both_succeed_with_different_trees(tmp_path: Path) -> None:
    made = ask("two_writers", folder=str(tmp_path))
    assert made["first"] == [2, tree_root([leaf_hash(b"a")] * 2).hex()]
    assert made["second"] == [3, tree_root([leaf_hash(b"b")] * 3).hex()]


def test_aics_tlog_cannot_append_other_entries_after_a_crash_before_its_head_was_published(tmp_path: Path) -> None:
    assert ask("crash_between", folder=str(tmp_path)) == "TileConflictError"


def test_aics_tlog_ignores_ml_dsa_cosignatures_and_refuses_a_checkpoint_with_nothing_else() -> None:
    checkpoint = Checkpoint(SIGNER.name, 1, leaf_hash(b"one"))
    signed = sign_checkpoint(checkpoint, SIGNER)
    line = Cosigner(SIGNER.name, MLDSA44PrivateKey.generate()).cosign(checkpoint.encode(), 5)
    vkey = format_vkey(SIGNER.verifier)
    assert ask("check_checkpoint", note=b64(signed + line), vkey=vkey, witnesses=[], quorum=0)["ok"]
    alone = b64(checkpoint.encode() + b"\n" + line)
    assert "no signature" in ask("check_checkpoint", note=alone, vkey=vkey, witnesses=[], quorum=0)["error"]
