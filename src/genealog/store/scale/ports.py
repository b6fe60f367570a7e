"""The two sides that a scale log rests on, as few operations as will do, and the order in which they are used.

    append       one transaction: the range is assigned, batch and marks are written      truth: an entry is in the log
    integrate    1. put entry bundles and hash tiles, each created once, never replaced
                 2. compare-and-swap the head, with the signed note in it                 truth: a size is signed
                 3. publish the note as `checkpoint`, never backwards
                 4. forget batches that an earlier round has put into bundles

Each step is durable before the next one starts, and everything before step 2 is a pure function of committed batches,
so whoever is killed anywhere leaves only what his successor would write too. `integrator` is written against these
ports alone, and a test drives every interleaving of its steps over models of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Head:
    """What is signed: a size, the 32-byte root over so many entries, the note that says so, and whose turn it was."""

    size: int
    root: bytes
    note: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Row:
    """One append: `data` is its entries as in an entry bundle (uint16 length, bytes), `digest` their SHA-256."""

    first: int
    count: int
    data: bytes
    digest: bytes

    @property
    def stop(self) -> int:
        """The index after the last entry."""
        return self.first + self.count


@dataclass(frozen=True, slots=True)
class Stored:
    """An object, and the tag that `Objects.replace` wants to see again."""

    data: bytes
    tag: str


class Coordinator(Protocol):
    """What one integrator asks of the database, all in one session that holds the integrator's lock.

    A session that is lost takes the lock with it, and every method raises StoreError from then on: nobody goes on
    unlocked. Whoever was paused while another took over finds that `commit_head` returns False.
    """

    def take_over(self, *, force: bool = False) -> Head | None:
        """Take the lock and a new epoch; None if another holds the lock. `force` ends the other's session first."""

    def head(self) -> Head:
        """Return the newest committed head."""

    def rows(self, first: int, limit: int) -> Sequence[Row]:
        """Return batches from index `first` on, in order and without holes, until `limit` entries or 64 MiB are full.

        At least one if there is one. Raises: StoreError `seq-damaged` if there are more entries and none starts there.
        """

    def commit_head(self, old: Head, new: Head) -> bool:
        """Replace `old` by `new` if size and epoch are still those of `old`. This is the commit point."""

    def forget_rows(self, below: int) -> None:
        """Drop batches that end at or below index `below`."""

    def alive(self) -> None:
        """Show the database that this session is used. Raises: StoreError if it is not ours any more."""

    def let_go(self) -> None:
        """Release the lock. Never raises."""

    def close(self) -> None:
        """End the session. Never raises."""


class Objects(Protocol):
    """A folder of objects. Each operation is atomic, durable on return, and seen by everybody at once.

    Raises: StoreError `objects-error`.
    """

    def put_new(self, path: str, data: bytes) -> bool:
        """Create an object; False, and nothing changed, if there is one already (If-None-Match: *)."""

    def get(self, path: str) -> Stored | None:
        """Return an object, None where there is none."""

    def replace(self, path: str, data: bytes, tag: str | None) -> bool:
        """Replace the object that has `tag`, or create it if `tag` is None; False if it is another one by now."""

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; what is not there is fine."""

    def names(self, folder: str) -> Iterator[str]:
        """Yield the paths of the objects in `folder`, which ends in '/'."""
