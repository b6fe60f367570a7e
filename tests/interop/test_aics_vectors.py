"""The captured words of the peers are what they say today."""

from __future__ import annotations

import make_peer_vectors


def test_the_peers_say_today_what_was_captured() -> None:
    folder = make_peer_vectors.FOLDER
    kept = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert make_peer_vectors.make() == kept, "run scripts/make_peer_vectors.py"
