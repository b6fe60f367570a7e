"""What `faults` breaks: six things that are done to a store, and what must hold after any fault in them.

After every case, whatever failed: no check finds an error; everything that was acknowledged is there once, byte for
byte; what was not acknowledged is there whole or not at all; the store opens and goes on; a check is clean again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from call_node import SIGNER as CALLS_SIGNER
from call_node import Node
from faults import Scenario, Told
from genealog.core.emitters import check_emitter_chain
from genealog.errors import MissingError, StoreError
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.sequencer import check_sealed
from genealog.store import journal, log_tree, schema, segments
from genealog.store.home import Home
from genealog.store.journal import Mark
from genealog.store.keys import KeyRing
from genealog.store.log import LocalLog
from genealog.store.log_fsck import fsck
from genealog.store.making import MARK
from log_samples import SIGNER, VERIFIER, batch, entry, make_log, reopen, segment

Tell = Callable[[str, Any], None]
Batches = Sequence[Sequence[bytes]]


def mark(count: int) -> Mark:
    return Mark("boot", count, bytes(32))


def never_by_the_clock(log: LocalLog) -> LocalLog:
    """Save the state only where the scenario says so: a busy machine must not change the order of calls."""
    log._save_due = float("inf")
    return log


@contextmanager
def small_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "SEGMENT", 1024)
        patch.setattr(segments, "SEGMENT", 1024)
        patch.setattr(log_tree, "_FILE", 512)
        yield


def append_all(log: LocalLog, batches: Batches, tell: Tell) -> None:
    for entries in batches:
        indexes = log.append(entries, {"emitter": mark(log.size + len(entries))})
        tell("acked", [indexes.start, indexes.stop])


def check_log(path: Path, before: int, batches: Batches, told: Told) -> None:
    """The log has its first `before` entries, then whole batches in order, every acknowledged one among them."""
    assert [f for f in fsck(path, verifiers=[VERIFIER]) if f.severity == "error"] == []
    ends = [before]
    for entries in batches:
        ends.append(ends[-1] + len(entries))
    acked = max([before, *(stop for _, stop in told.acked)])
    with reopen(path, write=False) as reader:
        size = reader.size
        assert size >= acked, f"{acked} entries were acknowledged, {size} are there"
        assert size in ends, f"{size} entries: a part of a batch"
        expected = [each for entries in batches for each in entries][: size - before]
        assert list(reader.entries(before)) == expected
    with reopen(path) as log:
        assert log.size == size
        assert log.marks() == ({"emitter": mark(size)} if size > before else {})
        assert log.append([b"after the fault"]) == range(size, size + 1)
        assert log.entry(size) == b"after the fault"
        log.checkpoint()
    assert {f.code for f in fsck(path, verifiers=[VERIFIER])} <= {"torn-kept"}


class Append:
    """Create a log, append to it, sign it, append again, close."""

    name = "append"
    batches = (batch(0, 1), batch(1, 4), batch(4, 5), batch(5, 7))

    def prepare(self, path: Path) -> None:
        path.mkdir(parents=True)

    def act(self, path: Path, tell: Tell) -> None:
        with LocalLog.create(path / "log", signer=SIGNER) as log:
            never_by_the_clock(log)
            append_all(log, self.batches[:2], tell)
            log.checkpoint()
            append_all(log, self.batches[2:3], tell)
            log._save_due = 0.0  # the append itself saves
            append_all(log, self.batches[3:], tell)
            never_by_the_clock(log)

    def check(self, path: Path, told: Told) -> None:
        if not told.acked:
            try:
                make_log(path / "log").close()
            except StoreError as error:
                assert error.code == "log-exists"  # noqa: PT017 - that it refuses is not sure
        check_log(path / "log", 0, self.batches, told)


class Fill:
    """Append across the end of a segment file, of a file of tiles and of several tiles, and save that.

    A segment has 1,024 entries here and a file of tiles has 512 hashes, so that a thousand runs stay cheap.
    """

    name = "fill"
    before = 1000
    batches = (batch(1000, 1077), batch(1077, 1100), batch(1100, 1102))  # the first is synced in a thread

    def prepare(self, path: Path) -> None:
        with small_files():
            log = make_log(path)
            log.append(batch(0, self.before))
            log.close()

    def act(self, path: Path, tell: Tell) -> None:
        with small_files(), reopen(path) as log:
            for entries in self.batches:
                log._save_due = 0.0
                append_all(log, [entries], tell)
            never_by_the_clock(log)

    def check(self, path: Path, told: Told) -> None:
        with small_files():
            if told.acked[2:]:
                assert len(list((path / "journal").iterdir())) == 2
                assert len(list((path / "tile" / "0").iterdir())) == 3
            check_log(path, self.before, self.batches, told)


class Torn:
    """Open a log that a killed writer left with a frame behind the state and a torn frame behind that."""

    name = "torn"
    batches = (batch(5, 8), batch(8, 9))

    def prepare(self, path: Path) -> None:
        make_log(path, [2, 3]).close()
        keep = {name: (path / name).read_bytes() for name in ("state", "checkpoint")}
        with reopen(path) as log:
            log.append(self.batches[0], {"emitter": mark(8)})
            whole = segment(path).read_bytes()
            log.append(batch(100, 140))
        longer = segment(path).read_bytes()
        segment(path).write_bytes(longer[: len(whole) + 150])
        for name, data in keep.items():
            (path / name).write_bytes(data)

    def act(self, path: Path, tell: Tell) -> None:
        with reopen(path) as log:
            never_by_the_clock(log)
            tell("acked", [5, log.size])
            append_all(log, self.batches[1:], tell)
            log.checkpoint()

    def check(self, path: Path, told: Told) -> None:
        torn = segment(path).read_bytes().find(entry(100)) > 0 or any((path / "torn").iterdir())
        assert torn, "what the killed writer left is gone without a trace"
        told.acked.append([0, 8])  # the frame was whole when the writer died
        check_log(path, 5, self.batches, told)


class Statement:
    """Append a statement to the ledger of a store: log, checkpoint, index."""

    name = "statement"

    def __init__(self) -> None:
        self.statements: list[bytes] = []
        self.before: list[bytes] = []
        self.more: list[bytes] = []

    def prepare(self, path: Path) -> None:
        registry = Registry.init(path, origin="faults.example")
        self.before = list(registry.home.registry_log().entries())
        registry.ledger.index()
        registry.home.close()
        other, data = path.parent / "other", path.parent / "data"
        shutil.copytree(path, other)
        data.write_text("x")
        home = Home.open(other)
        Registry(home).add(data, kind="dataset")
        self.statements = list(home.registry_log().entries())[len(self.before) :]
        data.write_text("y")
        Registry(home).add(data, kind="dataset")
        self.more = list(home.registry_log().entries())[len(self.before) + len(self.statements) :]
        shutil.copytree(other / "objects", path / "objects", dirs_exist_ok=True)
        home.close()
        shutil.rmtree(other)
        assert len(self.statements) > 1

    def act(self, path: Path, tell: Tell) -> None:
        home = Home.open(path)
        ledger = Ledger(home)
        never_by_the_clock(home.registry_log())
        tell("acked", [str(each) for each in ledger.append(self.statements)])
        home.close()

    def check(self, path: Path, told: Told) -> None:
        home = Home.open(path)
        ledger = Ledger(home)
        assert [f for f in ledger.fsck() if f.severity == "error"] == []  # holds the index against the log, too
        found = list(home.registry_log().entries())
        assert found == self.before + self.statements or (found == self.before and not told.acked)
        placed = ledger.append(self.more)
        assert [ledger.entry(place) for place in placed] == self.more
        assert len(ledger.index().rows(select(schema.entry))) == len(found) + len(self.more)
        home.close()


class Sequence:
    """Move calls from a spool into vault and call log, and delete the spool."""

    name = "sequence"

    def __init__(self) -> None:
        self.calls: dict[str, str] = {}

    def prepare(self, path: Path) -> None:
        path.mkdir(parents=True)
        node = Node(path)
        writer = node.writer()
        self.calls = {writer.call().id: "complete", writer.call().id: "complete"}
        self.calls[writer.call(close=False).id] = "unknown"
        writer.close()
        node.close()

    def act(self, path: Path, tell: Tell) -> None:
        node = Node(path)
        never_by_the_clock(node.log)
        tell("acked", node.sequencer.run_once().appended)
        node.log.checkpoint()
        node.close()

    def check(self, path: Path, told: Told) -> None:
        log = path / "log"
        assert [f for f in fsck(log, verifiers=[CALLS_SIGNER.verifier]) if f.severity == "error"] == []
        node = Node(path)
        if told.acked:
            assert node.endings() == self.calls
        node.sequencer.run_once()
        assert node.endings() == self.calls
        assert check_emitter_chain(node.leaves()).whole
        assert list(check_sealed(node.log.entries(), node.vault)) == []
        node.log.checkpoint()
        assert not list(path.glob("spool/*/*.spool"))
        assert fsck(log, verifiers=[CALLS_SIGNER.verifier]) == ()
        node.close()


class Init:
    """Make a store, then one more identity with its key: `genealog init` and `genealog signer new`."""

    name = "init"

    def prepare(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)

    def create(self, path: Path) -> Home:
        return Home.create(path, origin="faults.example", first=lambda home: home.registry_log().append([b"the keys"]))

    def act(self, path: Path, tell: Tell) -> None:
        home = self.create(path)
        tell("acked", home.config.origin)
        keys = KeyRing(home.path / "keys")
        home.check_label("second")
        public = keys.create("second").public_der
        tell("acked", public.hex())
        home.add_identity("second", "Joe", "second")
        tell("acked", "second")
        home.close()

    def check(self, path: Path, told: Told) -> None:
        try:
            home = self.create(path)
            assert not told.acked, "what was made was made again"
        except StoreError as error:
            assert error.code == "store-exists", error.code  # noqa: PT017 - that it refuses is not sure
            home = Home.open(path)
        assert not (path / MARK).exists()
        for name, log in (("registry", home.registry_log()), ("calls", home.call_log())):
            assert fsck(path / "logs" / name, verifiers=home.key_source(name).read().verifiers) == ()
            assert list(log.entries()) == ([b"the keys"] if name == "registry" else [])
        for label in ("owner", "engine", "log-registry", "log-calls"):
            home.keys.signer(label)
        assert home.keys.vault_key()
        if len(told.acked) >= 2:
            assert home.keys.signer("second").public_der.hex() == told.acked[1]
        if len(told.acked) >= 3:
            assert home.config.identities["second"].name == "Joe"
        elif "second" not in home.config.identities:
            try:
                home.keys.signer("second")
            except MissingError:
                home.keys.create("second")  # its name is free: nothing half-made stands there
            home.add_identity("second", "Joe", "second")
        assert Home.open(path).config.identities["second"].name == "Joe"
        home.close()


SCENARIOS: dict[str, Scenario] = {
    each.name: each for each in (Append(), Fill(), Torn(), Statement(), Sequence(), Init())
}
