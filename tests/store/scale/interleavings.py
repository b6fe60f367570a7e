"""Every interleaving of integrators, appenders and crashes, over models of the two ports.

An integrator's life is the real `Integrator` run over ports that replay what they answered before and stop at the first
operation that has no answer yet. So each operation is one step of the search, a life is known by its answers alone, and
the search visits each state of the world once. A life may be killed before any of its steps; and a lock may be
taken from a life that goes on as if it still had it, which is more than PostgreSQL allows: there the session dies too.

Long because models, moves and promises are one argument: whoever doubts it reads them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.merkle import EMPTY_ROOT, leaf_hash, tree_root
from genealog.core.note import Verified, Verifier, parse_note
from genealog.core.tile import TILE, RightEdge, entries_path, tile_path
from genealog.errors import GenealogError, StoreError
from genealog.store.journal import split_body
from genealog.store.scale.integrator import CHECKPOINT, Integrator, encode_bundle
from genealog.store.scale.ports import Head, Row, Stored
from log_samples import SIGNER

Answer = Any
_FREE = None


class Remembered:
    """The log's key, signing and opening each text once: a search signs the same few texts a million times."""

    def __init__(self) -> None:
        self._signed: dict[Checkpoint, bytes] = {}
        self.heard: list[tuple[int, bytes]] = []
        self.origin = SIGNER.name
        self.verifiers: Sequence[Verifier] = (RememberingVerifier(SIGNER.verifier),)  # type: ignore[assignment]

    def sign(self, checkpoint: Checkpoint) -> bytes:
        self.heard.append((checkpoint.size, checkpoint.root))
        if checkpoint not in self._signed:
            text = checkpoint.encode()
            self._signed[checkpoint] = text + b"\n" + SIGNER.sign(text)
        return self._signed[checkpoint]


class RememberingVerifier:
    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._known: dict[tuple[bytes, bytes], Any] = {}
        self.name, self.key_id, self.type = verifier.name, verifier.key_id, verifier.type

    def verify(self, text: bytes, blob: bytes) -> Any:
        if (text, blob) not in self._known:
            self._known[text, blob] = self._verifier.verify(text, blob)
        return self._known[text, blob]


@dataclass(frozen=True)
class World:
    """Everything that is shared, and where everybody stands. Hashable: a state is visited once."""

    next: int
    rows: tuple[Row, ...]
    head: Head
    lock: int | None
    bucket: frozenset[tuple[str, bytes]]
    signed: frozenset[tuple[int, bytes]]
    lives: tuple[int, ...]  # per integrator: the node of its life, see `Lives`
    left: tuple[int, ...]  # per integrator: lives after this one
    appends: tuple[int, ...]  # per appender: batches to come
    steals: int

    def get(self, path: str) -> bytes | None:
        return next((data for name, data in self.bucket if name == path), None)


@dataclass(frozen=True)
class Op:
    name: str
    arguments: tuple[Any, ...]


class _Stop(BaseException):
    """Thrown through an integrator at the first operation without an answer."""


class Lives:
    """What integrators do, given the answers that they got: a tree of nodes, each reached by one more answer."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._parents: list[tuple[int, Answer]] = [(-1, None)]
        self._children: dict[tuple[int, Answer], int] = {}
        self._known: dict[int, tuple[Op | str, frozenset[tuple[int, bytes]]]] = {}
        self._keys = Remembered()

    def then(self, node: int, answer: Answer) -> int:
        key = (node, answer.code if isinstance(answer, StoreError) else answer)
        if key not in self._children:
            self._children[key] = len(self._parents)
            self._parents.append((node, answer))
        return self._children[key]

    def step(self, node: int) -> tuple[Op | str, frozenset[tuple[int, bytes]]]:
        """What comes next: an operation, or how the life ended; and what it has signed so far."""
        if node not in self._known:
            self._known[node] = self._replay(node)
        return self._known[node]

    def _replay(self, node: int) -> tuple[Op | str, frozenset[tuple[int, bytes]]]:
        answers: list[Answer] = []
        while node > 0:
            node, answer = self._parents[node]
            answers.append(answer)
        ports = _Replay(answers[::-1])
        self._keys.heard = []
        integrator = Integrator(lambda: self._keys, ports, ports, workers=1)  # type: ignore[arg-type, return-value]
        ended = "left"
        try:
            if integrator.take_over():
                for _ in range(self._rounds):
                    integrator.run_round()
                integrator.let_go()
        except _Stop:
            pass
        except GenealogError as error:
            ended = error.code
        return ports.waiting or ended, frozenset(self._keys.heard)


class _Replay:
    """Both ports of one life: answers from the past, then stops."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = iter(answers)
        self.waiting: Op | None = None

    def _ask(self, name: str, *arguments: Any) -> Answer:
        if self.waiting is not None:
            raise _Stop
        try:
            answer = next(self._answers)
        except StopIteration:
            self.waiting = Op(name, arguments)
            raise _Stop from None
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def take_over(self, *, force: bool = False) -> Head | None:  # noqa: ARG002
        return self._ask("take_over")

    def head(self) -> Head:
        return self._ask("head")

    def rows(self, first: int, limit: int) -> tuple[Row, ...]:  # noqa: ARG002
        return self._ask("rows", first)

    def commit_head(self, old: Head, new: Head) -> bool:
        return self._ask("commit_head", old, new)

    def forget_rows(self, below: int) -> None:
        self._ask("forget_rows", below)

    def alive(self) -> None:
        pass

    def let_go(self) -> None:
        if self.waiting is None:
            self._ask("let_go")

    def put_new(self, path: str, data: bytes) -> bool:
        return self._ask("put_new", path, data)

    def get(self, path: str) -> Stored | None:
        data = self._ask("get", path)
        return None if data is None else Stored(data, data.hex())

    def replace(self, path: str, data: bytes, tag: str | None) -> bool:
        return self._ask("replace", path, data, tag)

    def delete(self, paths: Iterable[str]) -> None:
        if paths := tuple(paths):
            self._ask("delete", paths)

    def names(self, folder: str) -> Iterator[str]:
        return iter(self._ask("names", folder))


Rule = Callable[[World, int, Op], tuple[World, Answer]]


def obey(world: World, who: int, op: Op) -> tuple[World, Answer]:
    """Do one operation as PostgreSQL and S3 do it."""
    return globals()[f"_{op.name}"](world, who, *op.arguments)


def _take_over(world: World, who: int) -> tuple[World, Answer]:
    if world.lock is not _FREE:
        return world, None
    head = replace(world.head, epoch=world.head.epoch + 1)
    return replace(world, lock=who, head=head), head


def _head(world: World, who: int) -> tuple[World, Answer]:
    return world, world.head


def _rows(world: World, who: int, first: int) -> tuple[World, Answer]:
    found = tuple(row for row in world.rows if row.first >= first)
    if (found[0].first if found else world.next) != first:
        return world, StoreError("seq-damaged", "no batch starts there")
    return world, found


def _commit_head(world: World, who: int, old: Head, new: Head) -> tuple[World, Answer]:
    if (world.head.size, world.head.epoch) != (old.size, old.epoch):
        return world, False
    return replace(world, head=new), True


def _forget_rows(world: World, who: int, below: int) -> tuple[World, Answer]:
    if below > world.head.size:
        return world, None
    return replace(world, rows=tuple(row for row in world.rows if row.stop > below)), None


def _let_go(world: World, who: int) -> tuple[World, Answer]:
    return replace(world, lock=_FREE if world.lock == who else world.lock), None


def _put_new(world: World, who: int, path: str, data: bytes) -> tuple[World, Answer]:
    if world.get(path) is not None:
        return world, False
    return replace(world, bucket=world.bucket | {(path, data)}), True


def _get(world: World, who: int, path: str) -> tuple[World, Answer]:
    return world, world.get(path)


def _replace(world: World, who: int, path: str, data: bytes, tag: str | None) -> tuple[World, Answer]:
    old = world.get(path)
    if (None if old is None else old.hex()) != tag:
        return world, False
    return replace(world, bucket=frozenset({(path, data), *(x for x in world.bucket if x[0] != path)})), True


def _delete(world: World, who: int, paths: tuple[str, ...]) -> tuple[World, Answer]:
    return replace(world, bucket=frozenset(x for x in world.bucket if x[0] not in paths)), None


def _names(world: World, who: int, folder: str) -> tuple[World, Answer]:
    return world, tuple(sorted(name for name, _ in world.bucket if name.startswith(folder)))


class Broken(AssertionError):  # noqa: N818 - what a search finds
    """A promise that does not hold."""


@dataclass
class Search:
    """Visits every state that can be reached. `batches[i]` are the appends of appender i, in order."""

    batches: Sequence[Sequence[Sequence[bytes]]]
    integrators: int = 2
    lives: int = 2
    rounds: int = 1
    steals: int = 1
    rule: Rule = obey
    states: int = 0
    ends: int = 0

    def run(self) -> None:
        self._lives = Lives(self.rounds)
        self._edges: dict[tuple[bytes, ...], Any] = {}
        self._checked: set[Any] = set()
        note = Remembered().sign(Checkpoint(SIGNER.name, 0, EMPTY_ROOT))
        start = World(
            next=0, rows=(), head=Head(0, EMPTY_ROOT, note, 0), lock=_FREE, bucket=frozenset({(CHECKPOINT, note)}),
            signed=frozenset({(0, EMPTY_ROOT)}), lives=(0,) * self.integrators,
            left=(self.lives - 1,) * self.integrators, appends=tuple(map(len, self.batches)), steals=self.steals,
        )  # fmt: skip
        # an entry is acknowledged when its append returns; what was, by state, is the tree that must come out
        seen = {start}
        todo: list[tuple[World, tuple[bytes, ...]]] = [(start, ())]
        while todo:
            world, entries = todo.pop()
            self.states += 1
            self._check(world, entries)
            moves = list(self._moves(world, entries))
            if not moves:
                self._finish(world, entries)
            for after, acknowledged in moves:
                self._compare(world, after)
                if after not in seen:
                    seen.add(after)
                    todo.append((after, acknowledged))

    def _moves(self, world: World, entries: tuple[bytes, ...]) -> Iterator[tuple[World, tuple[bytes, ...]]]:
        for who, left in enumerate(world.appends):
            if left:
                batch = tuple(self.batches[who][-left])
                row = Row(world.next, len(batch), encode_bundle(batch), b"")
                appends = tuple(n - (i == who) for i, n in enumerate(world.appends))
                after = replace(world, next=row.stop, rows=(*world.rows, row), appends=appends)
                yield after, entries + batch
        for who, node in enumerate(world.lives):
            step, _ = self._lives.step(node)
            if isinstance(step, str):
                if world.left[who]:
                    yield self._born_again(world, who), entries
                continue
            if step.name == "take_over" and world.lock is not _FREE:
                continue  # it would leave and try again
            yield self._do(world, who, step), entries
            if world.left[who] and node:
                yield self._born_again(world, who), entries  # killed; its session lingers
        if world.lock is not _FREE and (world.steals or not self._alive(world, world.lock)):
            alive = self._alive(world, world.lock)
            yield replace(world, lock=_FREE, steals=world.steals - alive), entries

    def _alive(self, world: World, session: int) -> bool:
        who, life = divmod(session, 1000)
        return life == world.left[who] and not isinstance(self._lives.step(world.lives[who])[0], str)

    def _born_again(self, world: World, who: int) -> World:
        return replace(
            world,
            lives=tuple(0 if i == who else node for i, node in enumerate(world.lives)),
            left=tuple(n - (i == who) for i, n in enumerate(world.left)),
        )

    def _do(self, world: World, who: int, op: Op) -> World:
        session = who * 1000 + world.left[who]
        after, answer = self.rule(world, session, op)
        node = self._lives.then(world.lives[who], answer)
        step, signed = self._lives.step(node)
        if isinstance(step, str) and step not in ("left", "integrator-fenced"):
            raise Broken(f"an integrator ended with {step} after {op.name}")
        lives = tuple(node if i == who else other for i, other in enumerate(after.lives))
        return replace(after, lives=lives, signed=after.signed | signed)

    def _check(self, world: World, entries: tuple[bytes, ...]) -> None:
        """What must hold in every state."""
        shared = (world.head, world.rows, world.bucket, world.signed, len(entries))
        if shared in self._checked:
            return
        self._checked.add(shared)
        edge = self._edge(entries[: world.head.size])
        if world.head.root != edge.root():
            raise Broken("the head is not the root over what was acknowledged")
        for size, root in world.signed:
            if root != self._edge(entries[:size]).root() or size > len(entries):
                raise Broken(f"two roots signed for {size} entries")
        published = parse_checkpoint_text(parse_note(world.get(CHECKPOINT) or b"").text)
        if published.size > world.head.size:
            raise Broken("the public checkpoint is ahead of the head")
        if published.root != self._edge(entries[: published.size]).root():
            raise Broken("another root is public")
        self._check_bucket(world, entries, edge)
        behind = [
            entry for row in world.rows if row.stop > world.head.size for entry in split_body(row.data, row.count)
        ]
        if tuple(behind) != entries[world.head.size :]:
            raise Broken("an acknowledged entry is neither in the bucket nor in the database")

    def _check_bucket(self, world: World, entries: tuple[bytes, ...], edge: RightEdge) -> None:
        names = dict(world.bucket)
        size = world.head.size
        for number in range(-(-size // TILE)):
            width = min(TILE, size - number * TILE)
            data = names.get(entries_path(number, width)) or names.get(entries_path(number)) or b""
            wanted = encode_bundle(entries[number * TILE : number * TILE + width])
            if data[: len(wanted)] != wanted or not data:
                raise Broken(f"signed entries are not in bundle {number}")
            leaves = b"".join(map(leaf_hash, entries[number * TILE : number * TILE + width]))
            if (names.get(tile_path(0, number, width)) or names.get(tile_path(0, number)) or b"")[
                : len(leaves)
            ] != leaves:
                raise Broken(f"signed leaf hashes are not in tile {number}")
        if (tail := edge.tail(1)) and names.get(tile_path(1, 0, len(tail) // 32)) != tail:
            raise Broken("the tile above is not there")

    def _compare(self, before: World, after: World) -> None:
        """What must hold between a state and the next."""
        if after.head.size < before.head.size:
            raise Broken("the head went back")
        if after.bucket is not before.bucket:
            kept = dict(after.bucket)
            for name, data in before.bucket:
                now = kept.get(name, data)
                if name == CHECKPOINT:
                    sizes = [parse_checkpoint_text(parse_note(note).text).size for note in (data, now)]
                    if sizes[1] < sizes[0]:
                        raise Broken("the public checkpoint went back")
                elif now != data:
                    raise Broken(f"{name} was replaced")

    def _finish(self, world: World, entries: tuple[bytes, ...]) -> None:
        """Nobody is left: whoever comes next must get everything that was acknowledged into the tree."""
        self.ends += 1
        world = replace(world, lock=_FREE, lives=(0,) * self.integrators, left=(0,) * self.integrators)
        lives = Lives(rounds=2)
        node = 0
        while not isinstance(step := lives.step(node)[0], str):
            world, answer = obey(world, 999_000, step)
            node = lives.then(node, answer)
        if (
            step != "left"
            or world.head.size != len(entries)
            or world.head.root != tree_root(list(map(leaf_hash, entries)))
        ):
            raise Broken(f"a successor ended with {step} at {world.head.size} of {len(entries)}")
        self._check(world, entries)

    def _edge(self, entries: tuple[bytes, ...]) -> RightEdge:
        if entries not in self._edges:
            edge = RightEdge()
            edge.extend([leaf_hash(entry) for entry in entries])
            self._edges[entries] = edge
        return self._edges[entries]


__all__ = ["Broken", "Op", "Search", "Verified", "World", "obey"]
