"""One log in one session: what is read of it, and the integrator's side of it with its lock.

Everything that the lock protects is done on the connection that holds it, so a lost connection ends both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genealog.errors import MissingError, StoreError
from genealog.store.scale.ports import Head, Row
from genealog.store.scale.postgres import Session

_PATIENCE_S = 30  # how long the integrator's session may be silent before the server ends it


@dataclass(frozen=True, slots=True)
class LogRows:
    """One log, read in one session."""

    session: Session
    log: str

    def head(self) -> Head:
        """Return the committed head."""
        return self.session.head(self.log)

    def rows(self, first: int, limit: int) -> list[Row]:
        """See `Session.rows`."""
        return self.session.rows(self.log, first, limit)


class PostgresCoordinator:
    """The `Coordinator` of one log. `session` is its own: the lock lives and dies with it."""

    def __init__(self, session: Session, log: str) -> None:
        self.session = session
        self._log = log

    def take_over(self, *, force: bool = False) -> Head | None:
        """See `Coordinator`."""
        if not self.session.lock(self._log, "integrate", wait=False):
            if not force:
                return None
            self.session.evict(self._log, "integrate")
            if not self.session.lock(self._log, "integrate", wait=False):
                return None
        self.session.expect_silence(_PATIENCE_S)
        self.session.one("UPDATE head SET epoch = epoch + 1 WHERE log = %s RETURNING epoch", (self._log,))
        return self.head()

    def head(self) -> Head:
        """See `Coordinator`."""
        return self.session.head(self._log)

    def rows(self, first: int, limit: int) -> Sequence[Row]:
        """See `Coordinator`."""
        size = self.session.next(self._log)  # before the batches: what comes in between is no damage
        found = self.session.rows(self._log, first, limit)
        if not found and size > first:
            raise StoreError(
                "seq-damaged", f"no batch of {self._log} starts at entry {first}", expected=f"{size} entries",
                hint="acknowledged entries are gone: restore the database; `genealog fsck` names what is there",
            )  # fmt: skip
        return found

    def commit_head(self, old: Head, new: Head) -> bool:
        """See `Coordinator`."""
        done = self.session.run(
            "UPDATE head SET size = %s, root = %b, note = %b WHERE log = %s AND size = %s AND epoch = %s RETURNING 1",
            (new.size, new.root, new.note, self._log, old.size, old.epoch),
        )
        return bool(done)

    def forget_rows(self, below: int) -> None:
        """See `Coordinator`."""
        self.session.run(
            "WITH gone AS (DELETE FROM seq WHERE log = %(log)s AND first + n <= %(below)s"
            " AND %(below)s <= (SELECT size FROM head WHERE log = %(log)s) RETURNING batch)"
            " DELETE FROM batch USING gone WHERE id = gone.batch",
            {"log": self._log, "below": below},
        )

    def alive(self) -> None:
        """See `Coordinator`."""
        self.session.run("SELECT 1")

    def let_go(self) -> None:
        """See `Coordinator`."""
        try:
            self.session.unlock(self._log, "integrate")
            self.session.expect_silence(None)
        except (StoreError, MissingError):
            self.session.close()

    def close(self) -> None:
        """See `Coordinator`."""
        self.session.close()
