"""A store on disk: where everything is, and how it is found.

    .genealog/
      genealog.toml    origin, signer identities                      edit it
      trust.policy     the log keys, for whoever verifies us          hand it out
      keys/            private keys, 0600                              guard it
      logs/registry/   the registry log: statements                   the truth
      logs/calls…/     call logs: one entry a call                    the truth
      objects/         manifests and other bodies, by SHA-256         the truth
      vault/           salts, sealed groups, bodies, encrypted        the truth, erasable
      spool/           calls not sequenced yet                        the truth, for a moment
      heads/           what witnesses have cosigned of the logs       keep it
      forks/           evidence that a log signed two histories       keep it
      leases/          which epoch each running worker serves at      gone with the worker
      index.sqlite     a projection of the logs, if not in PostgreSQL may be deleted
      locations.json   where this machine keeps an artifact's files   a convenience

Found as git finds its own: `--store`, then `GENEALOG_STORE`, then upwards from the current folder.

A store may also be a URL, `postgresql://…?objects=s3://…`: then logs, settings, policy and objects are shared there,
and the folder is this machine's node folder (`shared`), with keys, spool, vault, index and locations.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Literal

from genealog.core.call import is_call_log
from genealog.core.note import format_vkey
from genealog.core.trust import Trust, parse_trust
from genealog.errors import MalformedError, MissingError, StoreError
from genealog.store.call_logs import CALLS, CallLogs
from genealog.store.config import parse_config, read_config, toml_text
from genealog.store.disk import disk, read_file, write_whole
from genealog.store.heads import Heads
from genealog.store.index import Index, open_index
from genealog.store.keys import KeyRing
from genealog.store.log import LocalLog
from genealog.store.log_fsck import Finding, fsck
from genealog.store.log_keyring import LogKeyring
from genealog.store.log_keys import LogKeys
from genealog.store.making import MARK, is_unfinished, making
from genealog.store.objects import Objects
from genealog.store.port import Log
from genealog.store.scale.url import StoreUrl, is_store_url, parse_store_url
from genealog.store.shared import SHARED, Shared, SharedBodies, write_shared
from genealog.store.vault import Vault
from genealog.store.vault.open import open_vault

NAME = ".genealog"
REGISTRY = "registry"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Home:
    """One store. Logs, vault and index open when first asked for, and close with `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shared = Shared.load(path)
        self.reload()
        self.keys = KeyRing(path / "keys")
        self._logs: dict[str, Log] = {}

    @classmethod
    def create(
        cls,
        path: Path | StoreUrl,
        *,
        origin: str | None = None,
        identity: str = "owner",
        first: Callable[[Home], object] = lambda _: None,
    ) -> Home:
        """Make the folders, keys and empty logs of a store, whole or not at all (`making`).

        `first` does to it what belongs to making it. Raises: StoreError `store-exists`, `bad-origin`, `disk-error`.
        """
        origin = origin or f"genealog-{secrets.token_hex(4)}.local"
        if any(c.isspace() or c == "+" or not c.isprintable() or c in "\"'\\" for c in origin):
            raise StoreError("bad-origin", "an origin is a name without spaces, quotes and '+'", got=origin)
        shared = Shared.prepare(path) if isinstance(path, StoreUrl) else None
        path = path.node_folder if isinstance(path, StoreUrl) else path
        with making(path), shared.taken_back((REGISTRY, CALLS)) if shared else nullcontext():
            if shared is not None:
                shared.save()
            keys = KeyRing(path / "keys")
            policy = []
            for log in (REGISTRY, CALLS):
                keys.create(f"log-{log}", "ed25519")
                signer = keys.note_signer(f"log-{log}", f"{origin}/{log}")
                if shared is None:
                    LocalLog.create(path / "logs" / log, signer=signer).close()
                else:
                    shared.create_log(log, LogKeys((signer.verifier,), (signer,))).close()
                policy.append(f"log {format_vkey(signer.verifier)}\n")
            keys.create("owner")
            keys.create("engine")
            keys.create_vault_key()
            write_whole(path / ".gitignore", b"*\n")  # keys and bodies have no place in a repository
            write_whole(path / "trust.policy", ("".join(policy) + "quorum none\n").encode())
            text = (
                f'[store]\nformat = 1\norigin = "{origin}"\n\n'
                "# Who signs here. `signer` is used when a command is not told --as.\n"
                '[identities]\nsigner = "owner"\n\n'
                f'[identities.owner]\nname = {toml_text(identity)}\nkey = "owner"\n'
            )
            write_whole(path / "genealog.toml", text.encode())
            if shared is not None:
                for name in SHARED:
                    shared.push(name, None, (path / name).read_bytes())
            home = cls(path)
            try:
                first(home)
            except BaseException:
                home.close()
                raise
        return home

    @classmethod
    def open(cls, path: Path | StoreUrl) -> Home:
        """Open the store at `path`; this machine becomes a node of a shared store if it was none.

        Raises: MissingError `no-store`; StoreError `store-unfinished`, `config-malformed`, `disk-error`.
        """
        if isinstance(path, StoreUrl):
            path = Shared.join(path)
        if is_unfinished(path):
            raise StoreError(
                "store-unfinished",
                f"{path} was begun and not finished",
                got=MARK,
                hint="run `genealog init` again: it begins anew, nobody has used these keys",
            )
        with disk(f"looking for a store at {path}"):
            found = (path / "genealog.toml").is_file()
        if not found:
            raise MissingError("no-store", f"there is no store at {path}", hint="genealog init")
        home = cls(path)
        if home.shared is not None and home.config.vault.database is None:
            home.keys.ensure_vault_key()  # this machine's own vault
        return home

    @classmethod
    def find(cls, path: Path | str | None = None) -> Home:
        """Open `path` (a folder or the URL of a store), else `GENEALOG_STORE`, else the first `.genealog` upwards."""
        if path is not None:
            return cls.open(as_place(path))
        if env := os.environ.get("GENEALOG_STORE"):
            return cls.open(as_place(env))
        here = Path.cwd()
        for folder in (here, *here.parents):
            if (folder / NAME / "genealog.toml").is_file():
                return cls.open(folder / NAME)
        raise MissingError("no-store", f"there is no {NAME} folder in {here} or above it", hint="genealog init")

    @property
    def spool_dir(self) -> Path:
        """Where capturing processes leave their calls."""
        return self.path / "spool"

    @property
    def leases(self) -> Path:
        """Where the workers of this machine say which epoch they serve at."""
        return self.path / "leases"

    @property
    def emitter_kind(self) -> str:
        """How the gateways of this machine are called: `gateway`, and in a shared store the node's name with it."""
        return "gateway" if self.shared is None else f"gateway-{self.shared.node}"

    @cached_property
    def trust(self) -> Trust:
        """The store's own trust policy: its own log keys."""
        return parse_trust((self.path / "trust.policy").read_bytes())

    def forget_trust(self) -> None:
        """Read the trust policy again when it is next asked for: a log or a key has come."""
        if self.shared is not None:
            self.shared.pull()
        self.__dict__.pop("trust", None)

    def names_origin(self, origin: str) -> bool:
        """Say whether the trust policy names a key for a log of this origin."""
        self.forget_trust()
        return origin in self.trust.logs

    def reload(self) -> None:
        """Read `genealog.toml` again."""
        if self.shared is not None:
            self.shared.pull()
        self.config = read_config(self.path / "genealog.toml")

    @cached_property
    def calls(self) -> CallLogs:
        """All call logs, as one that goes on."""
        return CallLogs(self)

    @cached_property
    def objects(self) -> Objects | SharedBodies:
        """Content-addressed bodies."""
        if self.shared is not None:
            return self.shared.bodies
        return Objects(self.path / "objects")

    @property
    def heads(self) -> Heads:
        """What witnesses have cosigned of the logs, and evidence of forks."""
        return Heads(self.path / "heads")

    @cached_property
    def vault(self) -> Vault:
        """The erasable side: salts, sealed groups, bodies."""
        return open_vault(self.path, self.config.vault, self.keys)

    @cached_property
    def index(self) -> Index:
        """The projection, as it is on disk; `ledger.index` brings it up to date."""
        return open_index(self.path, self.config.index, origin=self.config.origin)

    def log(self, name: str) -> Log:
        """Return the log `registry` or a call log, open for append where its key is here, else read-only.

        Raises: MissingError `no-log`; StoreError as `LocalLog.open`.
        """
        if name not in self._logs:
            if name != REGISTRY and not is_call_log(name):
                raise MissingError("no-log", "there is no such log", got=ascii(name)[1:-1][:80], hint="genealog log ls")
            source = self.key_source(name)
            keys = source.read()
            if self.shared is not None:
                self._logs[name] = self.shared.open_log(name, keys, source)
            else:
                self._logs[name] = LocalLog.open(
                    self.path / "logs" / name, verifiers=keys.verifiers, signers=keys.signers, renew=source
                )
        return self._logs[name]

    def fsck_log(self, name: str, *, repair: bool = False) -> tuple[Finding, ...]:
        """Prove a log again from its bytes (`log_fsck`, `scale.fsck`). Raises: as those."""
        keys = self.log_keys(name)
        if self.shared is not None:
            return self.shared.fsck(name, keys, repair=repair)
        return fsck(self.path / "logs" / name, verifiers=keys.verifiers, repair=repair)

    def write(self, name: Literal["genealog.toml", "trust.policy"], data: bytes) -> None:
        """Replace a file that is shared with the other machines of the store. Raises: StoreError `config-conflict`."""
        write_shared(self.path, name, data)

    def change(self, name: Literal["genealog.toml", "trust.policy"], before: bytes, after: bytes) -> None:
        """Replace a file that somebody edited, if it reads well and nobody else has changed it since `before`.

        Raises: StoreError `config-malformed`, `config-conflict`; MalformedError `trust-malformed`.
        """
        if name == "trust.policy":
            lost = [key for key in self.trust.logs if key not in parse_trust(after).logs]
            if lost:
                raise MalformedError("trust-malformed", "the store reads the keys of its logs here", expected=lost[0])
        elif parse_config(after, self.path / name).store != self.config.store:
            raise StoreError("config-malformed", "[store] says which store this is, and stays as it is")
        self.forget_trust()
        if read_file(self.path / name) != before:
            raise StoreError("config-conflict", f"{name} was changed meanwhile", hint="run the command again")
        self.write(name, after)

    def registry_log(self) -> Log:
        """The registry log."""
        return self.log(REGISTRY)

    def call_log(self) -> Log:
        """The call log that takes the next call, as far as this process knows."""
        return self.calls.current()

    def call_log_names(self) -> frozenset[str]:
        """Return the names of the call logs that have a folder. Raises: StoreError `disk-error`."""
        if self.shared is not None:
            return frozenset(name for name in self.shared.log_names() if is_call_log(name))
        with disk("listing the logs"):
            folder = self.path / "logs"
            return frozenset(path.name for path in folder.iterdir() if is_call_log(path.name) and path.is_dir())

    def log_names(self) -> tuple[str, ...]:
        """Return the names of all logs: the registry log, then call logs by name. Raises: as `call_log_names`."""
        return (REGISTRY, *sorted(self.call_log_names()))

    def owns(self, emitter: str) -> bool:
        """Say whether an emitter is of this machine: whether its spool is here."""
        return self.shared is None or self.shared.owns(emitter)

    def location(self, artifact: str) -> Path | None:
        """Return where this machine last saw the files of `artifact`. A hint, never evidence."""
        path = self._locations().get(artifact)
        return Path(path) if path else None

    def locations(self) -> dict[str, str]:
        """Return where this machine last saw files, by artifact. Hints, never evidence."""
        return self._locations()

    def remember(self, artifact: str, path: Path) -> None:
        """Note where the files of `artifact` are."""
        known = self._locations() | {artifact: str(path.resolve())}
        temporary = self.path / f"locations.{os.getpid()}.tmp"
        with disk("noting where files are"):
            temporary.write_text(json.dumps(known, indent=1, sort_keys=True))
            temporary.replace(self.path / "locations.json")

    def check_label(self, label: str) -> None:
        """Refuse what cannot be a new identity: a label names a key file and a section of `genealog.toml`.

        Raises: MalformedError `bad-label`; StoreError `identity-exists`.
        """
        if not _LABEL.fullmatch(label) or label == "signer":  # [identities] has that word already
            raise MalformedError(
                "bad-label", "not a label for an identity", got=ascii(label)[1:-1][:80],
                expected="1 to 64 letters, digits, '-' and '_', a letter or digit first; not 'signer'",
            )  # fmt: skip
        if label in self.config.identities:
            raise StoreError("identity-exists", f"genealog.toml has an identity {label!r} already")

    def add_identity(self, label: str, name: str, key: str, secret: str | None = None) -> None:
        """Write a signer identity into `genealog.toml`. Raises: as `check_label`."""
        self.check_label(label)
        before = read_file(self.path / "genealog.toml") or b""
        section = f"\n[identities.{label}]\nname = {toml_text(name)}\nkey = {toml_text(key)}\n"
        section += f"secret = {toml_text(secret)}\n" if secret is not None else ""
        self.write("genealog.toml", before + section.encode())
        self.reload()

    def close(self) -> None:
        """Close what was opened."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        self.__dict__.pop("calls", None)
        for name in ("vault", "index"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    def _locations(self) -> dict[str, str]:
        try:
            known = json.loads((self.path / "locations.json").read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return {key: path for key, path in known.items() if isinstance(path, str)} if isinstance(known, dict) else {}

    def log_keys(self, log: str) -> LogKeys:
        """Return the keys of the log `registry` or `calls` as they are now. Raises: StoreError `no-log-key`."""
        return self.key_source(log).read()

    def key_source(self, log: str) -> LogKeyring:
        """Return what tells a process that has a log open that its keys changed."""
        return LogKeyring(self.path, log, f"{self.config.origin}/{log}")


def as_place(text: Path | str) -> Path | StoreUrl:
    """Return the folder or the URL of a store. Raises: MalformedError `bad-store-url`."""
    return parse_store_url(text) if isinstance(text, str) and is_store_url(text) else Path(text)
