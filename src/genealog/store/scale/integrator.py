"""The integrator: the only one that turns batches into tiles and signs, one at a time for each log.

    take_over → (rows → put bundles, tiles → compare-and-swap the head → publish → forget)* → let_go

It may be killed or paused between any two steps, and another may take over at any moment: the steps and why that is
safe are in `ports`. When the head turns out to be another's, it stops with `integrator-fenced` and has signed nothing
that anybody will see. When the bucket holds other bytes than the batches give, it stops with the evidence:
somebody restored an older database, and what was acknowledged since is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.merkle import HASH_SIZE, leaf_hash, root_at
from genealog.core.note import Verifier, open_note
from genealog.core.tile import TILE, RightEdge, TileReader, entries_path, tile_path
from genealog.errors import GenealogError, StoreError
from genealog.store.journal import split_body
from genealog.store.log_keys import LogKeys
from genealog.store.scale.ports import Coordinator, Head, Objects, Row
from genealog.store.scale.tiles import Tiles

CHECKPOINT = "checkpoint"
ROUND_ENTRIES = 65_536
_PUTS_AT_ONCE = 16
_PUTS_BETWEEN_SIGNS_OF_LIFE = 128


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did: the head that it left, and how many entries it added."""

    head: Head
    added: int


class Integrator:
    """Integrates one log. Not thread-safe.

    `keys` is asked before each signing: they may be replaced while this runs for weeks. `workers` objects are written
    at once; 1 means one after the other.
    """

    def __init__(
        self,
        keys: Callable[[], LogKeys],
        coordinator: Coordinator,
        objects: Objects,
        *,
        workers: int = _PUTS_AT_ONCE,
    ) -> None:
        self.origin = keys().origin
        self._coordinator = coordinator
        self._objects = objects
        self._keys = keys
        self._pool = ThreadPoolExecutor(workers, "genealog-put") if workers > 1 else None
        self._tiles = Tiles(objects)
        self._head: Head | None = None
        self._forgotten = 0
        self._edge = RightEdge()
        self._open: tuple[bytes, ...] = ()  # the entries of the open bundle
        self._partials: list[str] = []  # folders of partial tiles that the last round has made full ones of

    def take_over(self, *, force: bool = False) -> bool:
        """Become the integrator unless another is; compare what is signed with what is published.

        Raises: StoreError `log-rolled-back`, `log-altered`, `checkpoint-damaged`, `tile-…`, `bundle-…`.
        """
        published = self._published()  # before the head: a head read later is never behind what was published
        head = self._coordinator.take_over(force=force)
        if head is None:
            return False
        try:
            self._edge = self._tiles.edge(head)
            tail = self._edge.tail(0)
            self._open = self._tiles.bundle(head.size // TILE, tail) if tail else ()
            self._partials = []
            check_published(published, head, self._root_at)
            self._head = head
            self._publish(head)
        except BaseException as error:
            fenced = isinstance(error, StoreError) and self._is_fenced(head)
            self.let_go()
            if fenced:
                raise self._fenced() from None
            raise
        return True

    def run_round(self) -> Round:
        """Integrate what is there, 65,536 entries or 64 MiB at most, and sign it. Nothing new is fine.

        Raises: StoreError `integrator-fenced`, `tile-differs` (the bucket holds other bytes), `seq-damaged`, and what
        ports raise. After an error this object must `take_over` again.
        """
        old = self._head
        if old is None:
            raise self._fenced()
        self._head = None  # until this round is whole
        rows = self._rows(old)
        self._objects.delete([path for folder in self._partials for path in self._objects.names(folder)])
        self._partials = []
        if not rows:
            self._forget(old.size)
            self._head = old
            return Round(old, 0)
        self._put(self._grow(rows, old))
        new = self._signed(old)
        if not self._coordinator.commit_head(old, new):
            raise self._fenced()
        self._publish(new)
        self._forget(old.size)
        self._head = new
        return Round(new, new.size - old.size)

    def run_to(self, size: int) -> Head:
        """Run rounds until `size` entries are signed. Raises: as `run_round`."""
        while True:
            done = self.run_round()
            if done.head.size >= size or not done.added:
                return done.head

    def adopt(self, note: bytes) -> Head:
        """Commit and publish `note` for exactly the present size and root: it may bear more signatures than ours.

        Raises: StoreError `log-altered` if it is of another root; VerificationError if our keys have not signed it.
        """
        old = self._head
        if old is None:
            raise self._fenced()
        checkpoint = parse_checkpoint_text(open_note(note, self._keys().verifiers).text)
        if (checkpoint.origin, checkpoint.size, checkpoint.root) != (self.origin, old.size, old.root):
            raise StoreError("log-altered", "the note is of another tree", got=checkpoint.size, expected=old.size)
        new = Head(old.size, old.root, note, old.epoch)
        if not self._coordinator.commit_head(old, new):
            raise self._fenced()
        self._head = new
        self._publish(new)
        return new

    def sign_again(self) -> Head:
        """Sign the present size with the present keys: they have changed. Raises: as `run_round`."""
        old = self._head
        if old is None:
            raise self._fenced()
        return self.adopt(self._keys().sign(Checkpoint(self.origin, old.size, old.root)))

    def let_go(self) -> None:
        """Stop being the integrator. Never raises."""
        self._head = None
        self._coordinator.let_go()

    def close(self) -> None:
        """Let go, hang up, and stop the threads."""
        self.let_go()
        self._coordinator.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _rows(self, old: Head) -> Sequence[Row]:
        try:
            return self._coordinator.rows(old.size, ROUND_ENTRIES)
        except StoreError:
            if self._is_fenced(old):  # they are in bundles by now
                raise self._fenced() from None
            raise

    def _grow(self, rows: Sequence[Row], old: Head) -> list[tuple[str, bytes]]:
        """Extend the edge by `rows`; return the objects that the new size needs."""
        entries = list(self._open)
        at = old.size
        for row in rows:
            if row.first != at:
                raise StoreError("seq-damaged", "a batch is missing", got=row.first, expected=at)
            entries += split_body(row.data, row.count)
            at = row.stop
        fresh = entries[len(self._open) :]
        puts: list[tuple[str, bytes]] = []
        number = old.size // TILE
        for start in range(0, len(entries), TILE):
            piece = entries[start : start + TILE]
            puts.append((entries_path(number, len(piece)), encode_bundle(piece)))
            number += 1
        for tile in self._edge.extend([leaf_hash(entry) for entry in fresh]):
            puts.append((tile_path(tile.level, tile.number), tile.data))
            self._partials.append(tile_path(tile.level, tile.number) + ".p/")
            if tile.level == 0:
                self._partials.append(entries_path(tile.number) + ".p/")
        for level, tail in enumerate(self._edge.tails()):
            if tail:
                puts.append((tile_path(level, (at >> 8 * level) // TILE, len(tail) // HASH_SIZE), tail))
        self._open = tuple(entries[len(entries) - at % TILE :]) if at % TILE else ()
        return puts

    def _forget(self, below: int) -> None:
        if below != self._forgotten:
            self._coordinator.forget_rows(below)
            self._forgotten = below

    def _signed(self, old: Head) -> Head:
        size, root = self._edge.size, self._edge.root()
        note = self._keys().sign(Checkpoint(self.origin, size, root))
        return Head(size, root, note, old.epoch)

    def _put(self, puts: Sequence[tuple[str, bytes]]) -> None:
        for start in range(0, len(puts), _PUTS_BETWEEN_SIGNS_OF_LIFE):
            if start:
                self._coordinator.alive()
            some = puts[start : start + _PUTS_BETWEEN_SIGNS_OF_LIFE]
            done: Iterable[None] = (
                map(self._put_one, some) if self._pool is None else self._pool.map(self._put_one, some)
            )
            for _ in done:
                pass

    def _put_one(self, put: tuple[str, bytes]) -> None:
        path, data = put
        if self._objects.put_new(path, data):
            return
        stored = self._objects.get(path)
        if stored is None or stored.data != data:
            raise StoreError(
                "tile-differs",
                f"the bucket holds another {path} than the acknowledged entries give",
                got="nothing" if stored is None else f"{len(stored.data)} bytes",
                expected=f"{len(data)} bytes",
                hint="an older database was put back, or somebody wrote into the bucket: nothing was signed; keep both,"
                " find the newer database",
            )

    def _publish(self, head: Head) -> None:
        publish(self._objects, head, self._keys().verifiers)

    def _published(self) -> Checkpoint | None:
        stored = self._objects.get(CHECKPOINT)
        return None if stored is None else read_checkpoint(stored.data, self._keys().verifiers)

    def _root_at(self, size: int) -> bytes:
        return root_at(size, TileReader(self._full, self._edge))

    def _full(self, level: int, number: int) -> bytes:
        return self._tiles.full(level, number, self._edge, self._full)

    def _is_fenced(self, head: Head) -> bool:
        """Tell whether another took over since `head` was ours: what we saw was its work and no damage."""
        try:
            return self._coordinator.head().epoch != head.epoch
        except StoreError:
            return False

    def _fenced(self) -> StoreError:
        return StoreError(
            "integrator-fenced",
            f"another integrator has taken {self.origin} over, or this one failed before",
            hint="it goes on where this one stopped; nothing is lost",
        )


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Return entries as in an entry bundle: uint16 length (big endian), bytes. Source: c2sp.org/tlog-tiles."""
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])


def publish(objects: Objects, head: Head, verifiers: Sequence[Verifier]) -> None:
    """Make a committed head the public checkpoint unless a newer one is. Anybody may, at any time; the newer one stays.

    Raises: StoreError `log-altered` if another root is published for this size, `checkpoint-damaged`.
    """
    while True:
        stored = objects.get(CHECKPOINT)
        if stored is not None:
            if stored.data == head.note:
                return
            published = read_checkpoint(stored.data, verifiers)
            if published.size > head.size:  # whoever published it has committed it: we are behind
                return
            if published.size == head.size and published.root != head.root:
                raise contradiction(published, head.root)
        if objects.replace(CHECKPOINT, head.note, None if stored is None else stored.tag):
            return


def read_checkpoint(note: bytes, verifiers: Sequence[Verifier]) -> Checkpoint:
    """Return what a public checkpoint says. Raises: StoreError `checkpoint-damaged` unless the log's key signed it."""
    try:
        return parse_checkpoint_text(open_note(note, verifiers).text)
    except GenealogError as error:
        raise StoreError(
            "checkpoint-damaged", f"the published checkpoint is not the log's: {error.message}", got=error.code,
            hint="keep it as evidence; `genealog fsck --repair` publishes the signed head again",
        ) from None  # fmt: skip


def check_published(published: Checkpoint | None, head: Head, root: Callable[[int], bytes]) -> None:
    """Hold the public checkpoint against the committed head; `root` gives the root at a size below it.

    Raises: StoreError `log-rolled-back` if more was published than is committed, `log-altered` if something else was.
    """
    if published is None:
        return
    if published.size > head.size:
        raise StoreError(
            "log-rolled-back",
            f"{published.origin}: the bucket's checkpoint has signed more than the database knows",
            got=f"{head.size} entries, root {head.root.hex()}",
            expected=f"{published.size} entries, root {published.root.hex()}",
            hint="an older database was put back: find the newer one; going on here would fork the log",
        )
    if (found := root(published.size)) != published.root:
        raise contradiction(published, found)


def contradiction(published: Checkpoint, found: bytes) -> StoreError:
    """Return the error for two roots of one size."""
    return StoreError(
        "log-altered",
        f"{published.origin}: the database gives another root for {published.size} entries than was published",
        got=found.hex(),
        expected=published.root.hex(),
        hint="keep database and bucket as they are: together they are evidence; compare with a witness",
    )
