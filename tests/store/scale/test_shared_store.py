"""A store at a URL as its users meet it: init, two machines, an integrator, moving there and back, no secrets shown.

Long because it follows a store from its making to its moving.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from call_node import Writer
from call_samples import context, request
from genealog.anchoring import overview
from genealog.core.call import CallLeaf
from genealog.core.canonical import decode
from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.emitters import check_emitter_chain
from genealog.core.note import Cosigner, open_note
from genealog.core.proof import parse_proof
from genealog.erasure import Erasure
from genealog.errors import GenealogError, MalformedError, StoreError
from genealog.gateway.record import Recorder
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.copying import move_log
from genealog.store.home import CALLS, REGISTRY, Home, as_place
from genealog.store.journal import Mark
from genealog.store.log import LocalLog
from genealog.store.moving import move_store
from genealog.store.scale.daemon import integrate
from genealog.store.scale.objects import open_objects
from genealog.store.scale.url import StoreUrl, parse_store_url
from genealog.store.spool import SpoolWriter
from log_samples import SIGNER, VERIFIER, batch, root_of
from postgres import PASSWORD, PostgresServer
from scale_samples import KEYS, make_place

GENEALOG = [sys.executable, "-m", "genealog"]


@dataclass
class Store:
    """A place for a shared store, and the machines that use it."""

    url: str
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def on(self, machine: str) -> StoreUrl:
        """Be another machine from now on; return the store as it names it."""
        self.monkeypatch.setenv("GENEALOG_NODE", str(self.folder / machine))
        return parse_store_url(self.url)

    def cli(self, machine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*GENEALOG, *arguments], capture_output=True, text=True, check=False, cwd=self.folder,
            env=dict(os.environ, GENEALOG_STORE=self.url, GENEALOG_NODE=str(self.folder / machine)),
        )  # fmt: skip
        assert PASSWORD not in done.stdout + done.stderr
        return done


@pytest.fixture
def store(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    schema = make_place(postgres, "file:///unused").schema
    return Store(f"{postgres.url}?objects=file://{tmp_path}/bucket&schema={schema}", tmp_path, monkeypatch)


def code_of(use: Callable[[], object]) -> str:
    with pytest.raises(GenealogError) as caught:
        use()
    return caught.value.code


def signed(home: Home, log: str) -> int:
    note = home.log(log).checkpoint()
    return parse_checkpoint_text(open_note(note, home.log_keys(log).verifiers).text).size


def test_two_machines_share_a_store(store: Store) -> None:
    one = Registry.init(store.on("one"), origin="shared.example").home
    two = Home.open(store.on("two"))
    assert two.path != one.path
    assert two.config.origin == "shared.example"
    assert two.trust.logs.keys() == one.trust.logs.keys()
    assert not list((two.path / "keys").glob("log-*"))
    size = one.registry_log().size
    two.registry_log().append([b"from the machine without a key"])
    assert one.registry_log().refresh() == size + 1
    assert signed(two, REGISTRY) == size
    assert signed(one, REGISTRY) == size + 1
    assert signed(two, REGISTRY) == size + 1
    digest = two.objects.put(b"a body")
    assert one.objects.get(digest) == b"a body"
    assert one.objects.has(digest)
    assert not one.objects.has("0" * 64)
    one.add_identity("jane", "Jane", "owner")
    two.reload()
    assert two.config.identities["jane"].name == "Jane"
    (two.path / "genealog.toml").write_bytes(b"# changed by hand\n")
    assert code_of(lambda: two.write("genealog.toml", b"# lost update\n")) == "config-conflict"
    one.close()
    two.close()


def test_emitters_of_two_machines_never_mix(store: Store) -> None:
    one = Registry.init(store.on("one")).home
    two = Home.open(store.on("two"))
    names = [f"{home.emitter_kind}-0" for home in (one, two)]
    assert len(set(names)) == 2
    for home, name in zip((one, two), names, strict=True):
        with home.calls.exclusive():
            home.calls.append([], {name: Mark("00000001-00000000", 7, bytes(32))})
    for home, name in zip((one, two), names, strict=True):
        assert list(home.calls.marks()) == [name]  # what the other has open is not missed here
    assert set(one.call_log().marks()) == set(names)
    one.close()
    two.close()


def test_calls_of_two_machines_are_sequenced_into_one_log(store: Store, postgres: PostgresServer) -> None:
    one = Registry.init(store.on("one")).home
    two = Home.open(store.on("two"))
    writers = [Writer(home.spool_dir, kind=home.emitter_kind) for home in (one, two)]
    ledgers = [Ledger(home) for home in (one, two)]
    expected = []
    for number in range(6):
        expected.append(writers[number % 2].call().id)
        still = writers[number % 2].call(close=False)
        assert ledgers[number % 2].drain().appended == (1 if number < 2 else 2)
        still.close(finish="complete", status=200)
        expected.append(still.id)
        if number == 3:  # the connections are cut while nobody uses them: nobody notices
            postgres.kill_sessions()
    for ledger in ledgers:
        done = ledger.drain()
        assert (done.unknown, done.gaps) == (0, ())
    leaves = [decode(entry, CallLeaf) for entry in one.call_log().entries(0, one.call_log().refresh())]
    assert sorted(leaf.call for leaf in leaves) == sorted(expected)
    assert {leaf.emitter for leaf in leaves} == {f"{home.emitter_kind}-0" for home in (one, two)}
    assert check_emitter_chain(leaves).whole
    for ledger, mine in zip(ledgers, (expected[0], expected[2]), strict=True):
        assert ledger.home.vault.get_groups(mine)
    one.call_log().checkpoint()
    receipt = ledgers[1].receipt(ledgers[1].call(expected[2]))
    assert two.trust.verify_checkpoint(parse_proof(receipt.proof.encode()).checkpoint).size in range(2, len(leaves) + 1)
    for writer, ledger in zip(writers, ledgers, strict=True):
        writer.close()
        assert ledger.drain().appended == 0
        assert [f.code for f in ledger.fsck() if f.severity == "error"] == []
        ledger.home.close()


def test_a_subject_that_every_vault_knows_by_another_digest_is_not_held(store: Store) -> None:
    registry = Registry.init(store.on("one"))
    service = Erasure(registry.home)
    with pytest.raises(MalformedError, match="a vault of its own"):
        service.place("case", reason="court order", signer=registry.signer(), subject="bob", tenant="acme")
    service.place("case", reason="court order", signer=registry.signer(), tenant="acme")
    registry.home.close()
    other = Home.open(store.on("two"))
    assert [hold.tenants for hold in Erasure(other).holds()] == [{"acme"}]
    other.close()


def test_what_one_vault_erased_is_no_fault_of_another(store: Store) -> None:
    registry = Registry.init(store.on("one"))
    other = Home.open(store.on("two"))
    spool = SpoolWriter(other.spool_dir)
    recorder = Recorder(spool.emitter, spool.boot, spool.write)
    call = recorder.open(request("about bob"), context(who={"subject": "bob"}, spec=None, models=()))
    call.close(finish="complete", status=200, content_type="application/json")
    spool.close()
    Ledger(other).drain()
    service = Erasure(other)
    service.erase(service.parts(subject="bob"), reason="his wish", signer=registry.signer())
    assert [found.code for found in Ledger(other).fsck()] == []
    found = {(each.severity, each.code) for each in Ledger(registry.home).fsck()}
    assert found == {("warning", "erasure-elsewhere"), ("warning", "call-not-in-vault")}
    registry.home.close()
    other.close()


def test_call_logs_of_a_shared_store_go_on_by_month(store: Store) -> None:
    one = Registry.init(store.on("one")).home
    one.write("genealog.toml", (one.path / "genealog.toml").read_bytes() + b'\n[calls]\nsplit = "month"\n')
    one.reload()
    with one.calls.exclusive():
        one.calls.append([b"a call"], {"gateway-x-0": Mark("00000001-00000000", 1, bytes(32))})
    (month,) = one.call_log_names() - {CALLS}
    two = Home.open(store.on("two"))
    assert two.calls.current().size == 1
    assert two.log(month).entry(0) == b"a call"
    assert two.names_origin(f"{one.config.origin}/{month}")
    for name in (REGISTRY, CALLS, month):
        assert one.fsck_log(name) == two.fsck_log(name) == ()
    one.close()
    two.close()


def test_commands_work_at_a_url_and_show_no_password(store: Store) -> None:
    (store.folder / "m.bin").write_bytes(b"model")
    assert store.cli("one", "init", "--origin", "x.example").returncode == 0
    assert store.cli("one", "add", "m.bin", "--kind", "files", "--name", "m").returncode == 0
    for machine in ("one", "two"):
        done = store.cli(machine, "ls", "artifacts", "--json")
        assert [row["name"] for row in json.loads(done.stdout)] == ["m"]
        assert store.cli(machine, "fsck").returncode == 0
    assert store.cli("one", "init").returncode == 2
    done = store.cli("one", "log", "integrate", "--once")
    assert done.returncode == 0
    assert "registry: took over" in done.stderr
    assert "no key of any log" in store.cli("two", "log", "integrate", "--once").stderr
    for machine in ("one", "two"):
        for file in (store.folder / machine).rglob("*"):
            assert not file.is_file() or PASSWORD.encode() not in file.read_bytes(), file
    done = store.cli("one", "receipt", "registry:0", "-o", "r.json")
    assert done.returncode == 0
    assert store.cli("one", "verify", "r.json", "--trust", "one/trust.policy").returncode == 0


def test_settings_are_changed_for_every_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    assert store.cli("one", "init", "--origin", "x.example").returncode == 0
    assert store.cli("two", "ls", "artifacts").returncode == 0
    monkeypatch.setenv("EDITOR", "sed -i '$a[calls]\\nsplit = \"month\"'")
    assert store.cli("two", "config", "edit").stdout == "genealog.toml is changed\n"
    assert store.cli("one", "config", "show").stdout.endswith('[calls]\nsplit = "month"\n')
    other = f"{sys.executable} -m genealog config edit --store '{store.url}'"  # somebody else is quicker
    monkeypatch.setenv("EDITOR", shlex.join(["sh", "-c", f"EDITOR='sed -i s/month/none/' {other} && echo >> $0"]))
    assert "config-conflict" in store.cli("two", "config", "edit").stderr
    assert store.cli("one", "config", "show").stdout.endswith('[calls]\nsplit = "none"\n')


def test_a_wrong_password_is_told_without_it(store: Store) -> None:
    store.url = store.url.replace(PASSWORD, "wrong-" + PASSWORD[::-1])
    done = store.cli("one", "init")
    assert done.returncode == 2
    assert "database-unreachable" in done.stderr
    assert "password authentication failed" in done.stderr
    assert PASSWORD[::-1] not in done.stdout + done.stderr
    store.url = store.url.replace("127.0.0.1", "[bad")
    done = store.cli("one", "ls", "artifacts")
    assert "bad-store-url" in done.stderr
    assert PASSWORD[::-1] not in done.stdout + done.stderr


def test_the_password_may_come_from_the_environment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.url = store.url.replace(f":{PASSWORD}", "")
    assert code_of(lambda: Home.create(store.on("one"))) == "database-unreachable"
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    home = Home.create(store.on("one"))
    home.close()
    Home.open(home.path).close()  # a process that is given the node's folder finds the rest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:secret@h/db?objects=s3://b/p", "postgresql://u@h/db?objects=s3://b/p"),
        ("postgres://u@h:5433/db?password=secret&sslmode=require&objects=s3://b",
         "postgresql://u@h:5433/db?sslmode=require&objects=s3://b"),
        ("postgresql:///db?host=/run/pg&objects=file:///tmp/x&schema=two",
         "postgresql:///db?host=%2Frun%2Fpg&objects=file:///tmp/x&schema=two"),
        ("postgresql://u:se%40cr%2Fet@h/db?objects=s3://b", "postgresql://u@h/db?objects=s3://b"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password(text: str, shown: str) -> None:
    url = parse_store_url(text)
    assert url.shown == shown
    assert "secret" not in repr(url)
    again = parse_store_url(url.shown)
    assert (again.shown, again.password, again.node_folder) == (shown, None, url.node_folder)
    assert as_place(text) == url
    assert as_place("some/folder") == Path("some/folder")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:secret@h/db",
        "postgresql:u:secret@h/db?objects=s3://b",
        "postgresql://u:secret@h:port/db?objects=s3://b",
        "postgresql://u:sec#ret@h/db?objects=s3://b",
        "postgresql://u:secret@h/db?objects=s3://b&schema=A;drop",
        "postgresql://u:secret@h/db?objects=s3://b&objects=s3://c",
        "postgresql://u:secret@[h/db?objects=s3://b",
        "POSTGRESQL://u:secret@h/db?objects=s3://b",
        " postgresql://u:secret@h/db?objects=s3://b",
        "mysql://u:secret@h/db?objects=s3://b",
        "postgres:/u:secret@h/db",
        "host=h password=secret",
        "postgresql://u@h/db?objects=s3://b&sslpassword=secret",
    ],
)
def test_a_url_that_is_none_is_refused_without_quoting_it(text: str) -> None:
    for read in (parse_store_url, as_place):
        with pytest.raises(MalformedError) as caught:
            read(text)
        assert caught.value.code == "bad-store-url"
        assert "sec" not in str(caught.value)
    for bad in ("s3://", "http://b/p", "s3://key:secret@b/p", "file://host/x", "/plain/folder"):
        assert code_of(lambda bad=bad: open_objects(bad)) == "bad-store-url"


def test_one_integrator_works_and_the_other_takes_over_when_it_is_killed(store: Store) -> None:
    home = Registry.init(store.on("one")).home
    front = Home.open(store.on("two"))
    environment = dict(os.environ, GENEALOG_STORE=store.url, GENEALOG_NODE=str(home.path))
    command = [*GENEALOG, "log", "integrate", "--every", "1s"]
    first, second = (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for _ in range(2)
    )
    try:
        for process in (first, second):
            assert process.stderr is not None
            lines = {process.stderr.readline(), process.stderr.readline()}
            assert all("took over" in line or "standing by" in line for line in lines), lines
        log = front.registry_log()
        _until_signed(front, log.append([b"one"]).stop)
        first.send_signal(signal.SIGKILL)
        _until_signed(front, log.append([b"two"]).stop)
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert all(finding.severity != "error" for finding in home.fsck_log(REGISTRY))
    home.close()
    front.close()


def _until_signed(home: Home, size: int) -> None:
    deadline = time.monotonic() + 60
    while signed(home, REGISTRY) < size:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_store_in_a_folder_has_nothing_to_integrate(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "store")
    assert code_of(lambda: integrate(home, once=True)) == "not-shared"
    home.close()


# Moving


@pytest.fixture
def local(tmp_path: Path) -> Home:
    """A store in a folder with statements, calls, a body, and a cosigned head."""
    home = Registry.init(tmp_path / "local", origin="moving.example").home
    home.call_log().append(batch(0, 700), {"gateway-0": Mark("00000001-00000000", 700, b"l" * 32)})
    home.objects.put(b"a body")
    home.call_log().checkpoint()
    return home


def test_a_store_moves_to_a_url_and_back_with_its_roots(store: Store, local: Home, tmp_path: Path) -> None:
    roots = {name: local.log(name).root() for name in (REGISTRY, CALLS)}
    there = store.on("node")
    told: list[tuple[str, int, int]] = []
    moved = move_store(local, there, lambda *what: told.append(what))
    assert {name: each.root for name, each in moved.logs.items()} == roots
    assert (CALLS, 700, 700) in told
    assert PASSWORD not in moved.place
    for name in (REGISTRY, CALLS):
        assert code_of(lambda name=name: local.log(name).append([b"x"])) == "log-moved"
    remote = Home.open(there)
    assert remote.call_log().marks() == {"gateway-0": Mark("00000001-00000000", 700, b"l" * 32)}
    assert list(remote.call_log().entries()) == batch(0, 700)
    assert [f for f in Registry(remote).ledger.fsck() if f.severity == "error" and f.code != "malformed"] == [
        f for f in Registry(local).ledger.fsck() if f.severity == "error" and f.code != "malformed"
    ]
    assert code_of(lambda: move_store(local, there)) == "log-moved"
    now = datetime.now(UTC)
    assert {row.state for row in overview(Ledger(local), now=now)} == {"moved"}
    assert {row.state for row in overview(Ledger(remote), now=now)} == {"open"}
    remote.call_log().append(batch(700, 900))
    back = move_store(remote, tmp_path / "back")
    assert back.logs[CALLS].root == root_of(batch(0, 900))
    home = Home.open(tmp_path / "back")
    assert home.call_log().append(batch(900, 901)) == range(900, 901)
    assert home.call_log().marks() == {"gateway-0": Mark("00000001-00000000", 700, b"l" * 32)}
    assert home.objects.get(home.objects.put(b"a body")) == b"a body"
    assert code_of(lambda: remote.call_log().append([b"x"])) == "log-moved"
    for each in (local, remote, home):
        each.close()


def test_a_head_moves_with_every_signature_on_it(postgres: PostgresServer, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    source = LocalLog.create(tmp_path / "log", signer=SIGNER)
    source.append(batch(0, 300))
    plain = source.checkpoint()
    text = plain.split(b"\n\n")[0] + b"\n"
    cosigned = plain + Cosigner("witness.example/w", Ed25519PrivateKey.generate()).cosign(text, 1_700_000_000)
    source.adopt(cosigned)
    place = make_place(postgres, f"file://{tmp_path}/bucket")
    target = place.create()
    target.close_for("incoming from here")
    done = move_log(source, target, keys=KEYS, names=("here", "there"))
    assert (done.size, done.copied) == (300, 300)
    assert target.checkpoint() == cosigned
    assert place.objects().get("checkpoint").data == cosigned  # type: ignore[union-attr]
    assert move_log(source, target, keys=KEYS, names=("here", "there")).copied == 0
    assert source.checkpoint() == cosigned
    target.close()
    source.close()


def test_a_log_never_moves_to_two_places_or_onto_another(postgres: PostgresServer, tmp_path: Path) -> None:
    source = LocalLog.create(tmp_path / "log", signer=SIGNER)
    source.append(batch(0, 300))
    place = make_place(postgres, f"file://{tmp_path}/bucket")
    target = place.create()
    assert code_of(lambda: move_log(source, target, keys=KEYS, names=("here", "there"))) == "log-not-empty"
    assert code_of(lambda: move_log(source, target, keys=KEYS, names=("here", "third"))) == "log-moved"
    target.append([b"something else"])
    target.close_for("incoming from here")
    assert code_of(lambda: move_log(source, target, keys=KEYS, names=("here", "there"))) == "copy-differs"
    assert target.closed_for() is not None
    target.close()
    source.close()


def test_an_open_writer_is_stopped_when_its_log_moves(tmp_path: Path) -> None:
    writer = LocalLog.create(tmp_path / "log", signer=SIGNER)
    mover = LocalLog.open(tmp_path / "log", verifiers=[VERIFIER], signers=[SIGNER])
    writer.append(batch(0, 1))
    mover.close_for("moved to there")
    assert code_of(lambda: writer.append(batch(1, 2))) == "log-moved"
    assert code_of(lambda: writer.append([], {"a": Mark("b", 1, bytes(32))})) == "log-moved"
    assert writer.append([]) == range(1, 1)
    mover.close_for(None)
    assert writer.append(batch(1, 2)) == range(1, 2)
    writer.close()
    mover.close()


@pytest.mark.parametrize("steps", [3, 12, 30, 60, 90])
def test_a_move_that_is_killed_goes_on(store: Store, local: Home, steps: int) -> None:
    """Killed at some system call that writes, then run again: everything arrives, and only one place takes entries."""
    there = store.on("node")
    pid = os.fork()
    if pid == 0:
        left = steps

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal left
            if event == "c_call" and getattr(argument, "__name__", "") in (
                "replace",
                "fsync",
                "write",
                "send",
                "execute",
                "PQsendQueryParams",
                "exec_params",
                "send_query_params",
            ):
                left -= 1
                if left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        try:
            move_store(Home.open(local.path), there)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    opened = [home for home in (_opened(local.path), _opened(there)) if home is not None]
    takes = [home for home in opened if home.log(CALLS).closed_for() is None]  # type: ignore[attr-defined]
    assert len(takes) <= 1
    for home in opened:
        home.close()
    if len(takes) == 1 and takes[0].shared is not None:
        return
    moved = move_store(local, there)
    assert moved.logs[CALLS].root == root_of(batch(0, 700))
    remote = Home.open(there)
    assert remote.call_log().append(batch(700, 701)) == range(700, 701)
    assert code_of(lambda: local.call_log().append([b"x"])) in ("log-moved", "forked")
    remote.close()
    local.close()


def _opened(place: Path | StoreUrl) -> Home | None:
    try:
        return Home.open(place)
    except (GenealogError, StoreError):
        return None
