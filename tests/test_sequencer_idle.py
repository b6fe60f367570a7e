"""Segments of a writer that idles: their bodies go from the disk, and nothing that is still needed does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from call_node import Node
from genealog.core.emitters import check_emitter_chain
from genealog.sequencer import Sequenced, Sequencer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def test_no_body_stays_in_clear_while_nobody_calls(node: Node) -> None:
    idle = node.writer(rotate_after=0)
    idle.call()
    running = idle.call(close=False)
    node.sequencer.run_once()
    idle.spool.tidy()
    node.sequencer.run_once()
    assert len(list(node.spool.glob("gateway-0/*.spool"))) == 2  # the request of the running call is still needed
    running.close(finish="client_abandoned")
    idle.spool.tidy()
    node.sequencer.run_once()
    (left,) = node.spool.glob("gateway-0/*.spool")
    assert left.stat().st_size == 0
    idle.call()
    again = Sequencer(node.spool, node.log, node.vault)
    assert again.run_once() == Sequenced(1, 0, ())
    idle.close()
    assert check_emitter_chain(node.leaves()).whole
