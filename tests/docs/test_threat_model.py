"""The table of files in the threat model is true: every attack in it is carried out on a real store."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from call_samples import answer, context, request
from documents import ROOT
from genealog.anchoring import anchor
from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.note import NoteSigner, format_vkey
from genealog.errors import GenealogError
from genealog.gateway.record import Recorder
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.heads import Heads
from genealog.store.home import Home
from genealog.store.log import LocalLog
from genealog.store.spool import SpoolWriter
from told_store import tell

PAGE = ROOT / "docs" / "explanation" / "threat-model.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| .+? \| .+? \| (.+?) \|$", re.MULTILINE)
CODE = re.compile(r"\[`([a-z0-9-]+)`\]\(\.\./reference/errors\.md#")
JOURNAL = Path("journal") / f"{0:020d}.seg"
TILES = Path("tile") / "0" / f"{0:020d}.tiles"
ATTACKS: dict[str, Callable[[Path], object]] = {}


def attack(function: Callable[[Path], object]) -> Callable[[Path], object]:
    """Put an attack under the name that it has in the table."""
    ATTACKS[function.__name__.replace("_", "-")] = function
    return function


def flip(path: Path, at: int = -40) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def log(store: Path, name: str = "registry") -> Path:
    return store / "logs" / name


def codes(store: Path) -> set[str]:
    """Return every code that the store answers with: opened, asked and checked."""
    found: set[str] = set()

    def check() -> None:
        found.update(finding.code for finding in Ledger(home).fsck())

    try:
        with closing(Home.open(store)) as home:
            for step in (check, lambda: Registry(home).resolve("facts-lora")):
                try:
                    step()
                except GenealogError as error:
                    found.add(error.code)
    except GenealogError as error:
        found.add(error.code)
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    tell(folder)
    with closing(Home.open(folder / ".genealog")) as home:
        anchor(Ledger(home), now=datetime.now(UTC))
    return folder / ".genealog"


@pytest.fixture
def store(told: Path, tmp_path: Path) -> Path:
    return shutil.copytree(told, tmp_path / "store")


@attack
def journal_byte(store: Path) -> None:
    flip(log(store) / JOURNAL, at=2000)


@attack
def journal_cut(store: Path) -> None:
    path = log(store) / JOURNAL
    path.write_bytes(path.read_bytes()[:-100])


@attack
def journal_gone(store: Path) -> None:
    (log(store) / JOURNAL).unlink()


@attack
def tile_byte(store: Path) -> None:
    flip(log(store) / TILES, at=40)


@attack
def state_edited(store: Path) -> None:
    path = log(store) / "state"
    path.write_bytes(path.read_bytes().replace(b'"size":', b'"size":1'))


@attack
def state_gone(store: Path) -> None:
    (log(store) / "state").unlink()


@attack
def checkpoint_forged(store: Path) -> None:
    """Sign another root with a key of one's own."""
    name = (log(store) / "checkpoint").read_text().splitlines()[0]
    forger = NoteSigner(name, Ed25519PrivateKey.generate())
    (log(store) / "checkpoint").write_bytes(sign_checkpoint(Checkpoint(name, 1, bytes(32)), forger))


@attack
def log_key_stolen(store: Path) -> None:
    """Sign another root with the log's own key."""
    with closing(Home.open(store)) as home:
        (signer,) = home.log_keys("registry").signers
    (log(store) / "checkpoint").write_bytes(sign_checkpoint(Checkpoint(signer.name, 1, bytes(32)), signer))


def put_back(store: Path, *, keep_head: bool) -> None:
    """Put the registry log back to where it stood before its last entry; `keep_head` if witnesses saw that."""
    older = shutil.copytree(log(store), store.parent / "older")
    with closing(Home.open(store)) as home:
        registry = Registry(home)
        (store.parent / "more.txt").write_text("more")
        registry.add(store.parent / "more.txt", kind="dataset", name="more")
        if keep_head:
            Heads(store / "heads").add("registry", home.registry_log().checkpoint())
    shutil.rmtree(log(store))
    shutil.copytree(older, log(store))
    (store / "index.sqlite").unlink()


@attack
def registry_older(store: Path) -> None:
    put_back(store, keep_head=False)


@attack
def registry_older_but_cosigned(store: Path) -> None:
    put_back(store, keep_head=True)


@attack
def calls_older(store: Path) -> None:
    """Put an empty call log of the same key in the place of the one that the registry log anchors."""
    calls = log(store, "calls")
    with closing(Home.open(store)) as home:
        (signer,) = home.log_keys("calls").signers
    shutil.rmtree(calls)
    LocalLog.create(calls, signer=signer).close()


@attack
def calls_gone(store: Path) -> None:
    shutil.rmtree(log(store, "calls"))


@attack
def heads_edited(store: Path) -> None:
    with closing(Home.open(store)) as home:
        Heads(store / "heads").add("registry", home.registry_log().checkpoint())
    (path,) = (store / "heads" / "registry").glob("*.note")
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = "1\n"
    path.write_text("".join(lines))


@attack
def trust_other_key(store: Path) -> None:
    path = store / "trust.policy"
    lines = path.read_text().splitlines()
    name = lines[0].split()[1].partition("+")[0]
    lines[0] = f"log {format_vkey(NoteSigner(name, Ed25519PrivateKey.generate()).verifier)}"
    path.write_text("\n".join(lines) + "\n")


@attack
def config_origin(store: Path) -> None:
    path = store / "genealog.toml"
    path.write_text(path.read_text().replace('origin = "', 'origin = "other.'))


@attack
def object_byte(store: Path) -> None:
    with closing(sqlite3.connect(store / "index.sqlite")) as db:
        (digest,) = db.execute("SELECT min(manifest) FROM artifact").fetchone()
    flip(store / "objects" / digest[:2] / digest[2:])


@attack
def vault_byte(store: Path) -> None:
    with closing(sqlite3.connect(store / "vault" / "vault.sqlite")) as db, db:
        (value,) = db.execute("SELECT group_who FROM call LIMIT 1").fetchone()
        db.execute("UPDATE call SET group_who = ?", (bytes([value[0] ^ 1]) + value[1:],))


@attack
def vault_emptied(store: Path) -> None:
    with closing(sqlite3.connect(store / "vault" / "vault.sqlite")) as db, db:
        db.execute("DELETE FROM call")


@attack
def vault_key_other(store: Path) -> None:
    (store / "keys" / "vault.key").write_text("00" * 32 + "\n")


@attack
def spool_forged(store: Path) -> None:
    """Write a call that never happened, as any process of the gateway's user can."""
    spool = SpoolWriter(store / "spool")
    call = Recorder(spool.emitter, spool.boot, spool.write).open(request("hello"), context())
    call.chunk(answer("hi"))
    call.close(finish="complete", status=200, content_type="application/json")
    spool.close()
    with closing(Home.open(store)) as home:
        assert Ledger(home).drain().appended == 1


@attack
def index_edited(store: Path) -> None:
    with closing(sqlite3.connect(store / "index.sqlite")) as db, db:
        db.execute("UPDATE artifact SET name = 'another' WHERE name = 'facts-lora'")


@attack
def locations_edited(store: Path) -> None:
    """Point every artifact at other files: whoever opens them by an ID compares the bytes."""
    path = store / "locations.json"
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), "/elsewhere")))


def rows() -> dict[str, set[str]]:
    """Return the attacks of the table, each with the codes that it says will show."""
    return {name: set(CODE.findall(result)) for name, result in ROW.findall(PAGE.read_text())}


def test_every_attack_has_a_row_and_every_row_an_attack() -> None:
    assert rows().keys() == ATTACKS.keys()


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_what_the_table_says_happens(name: str, store: Path) -> None:
    ATTACKS[name](store)
    assert codes(store) == rows()[name]


def test_nothing_is_found_where_nobody_attacked(store: Path) -> None:
    assert codes(store) == set()
