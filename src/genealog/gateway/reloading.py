"""genealog.toml while a worker runs: another file counts for every call that begins after it was read.

Policies are loaded on the thread that they stay on, so what changed of them counts a moment later, with the rest of the
file. What cannot be used is said so in the log, and everything that was read before still counts.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from genealog.core.frames import MAX_BODY
from genealog.errors import GenealogError
from genealog.gateway import principals
from genealog.gateway.admission import Admission
from genealog.gateway.http1.tls import server_context
from genealog.gateway.parts import Parts, Settings
from genealog.gateway.policing import Court, Policing
from genealog.gateway.upstreams import Upstreams
from genealog.store.config import Config, read_config
from genealog.store.gateway_settings import Tls
from genealog.store.home import Home

log = logging.getLogger("genealog.gateway")


class Reloading:
    """The settings of one worker. `before` is what it started with."""

    def __init__(
        self, path: Path, parts: Parts, max_body: int | None, tls: ssl.SSLContext | None, before: Config
    ) -> None:
        self._file = path / "genealog.toml"
        self._parts = parts
        self._max_body = max_body
        self._tls = tls
        self._config = before
        self._policies = _policies(path, before)
        self._stamp = _stamp(self._file)
        self._loading = False

    def look(self) -> None:
        """Read the file again if it has changed, or a policy has."""
        if _stamp(self._file) != self._stamp or _policies(self._file.parent, self._config) != self._policies:
            self.read()

    def read(self) -> None:
        """Read the file again; one that cannot be used is said so, and what was read before still counts."""
        if self._loading:
            return  # `look` sees that it is another one again
        self._stamp = _stamp(self._file)
        try:
            config = read_config(self._file)
            policies = _policies(self._file.parent, config)
        except (GenealogError, OSError) as error:
            _unusable(error)
            return
        policing = self._parts.policing
        changed = (config.policy, policies) != (self._config.policy, self._policies)
        self._policies = policies
        if policing is None or not changed:
            self._take(config)
            return
        self._loading = True
        self._parts.spawn(self._load(policing, config), self._loaded)

    async def _load(self, policing: Policing, config: Config) -> None:
        path = self._file.parent
        try:
            await policing.replace(lambda: Court(Home.open(path), config=config))
        except (GenealogError, OSError) as error:
            _unusable(error)
        else:
            self._take(config)
        self._loaded()

    def _loaded(self) -> None:
        self._loading = False

    def _take(self, config: Config) -> None:
        parts, path = self._parts, self._file.parent
        try:
            tls = config.gateway.tls if self._tls is not None else None
            files = None if tls is None else beside(path, tls)
            if files is not None:
                server_context(*files)  # what does not fit together must not get into the one in use
            before = parts.admission
            settings, admission, upstreams = configured(config, path, self._max_body, before)
            if self._tls is not None and files is not None:
                self._tls.load_cert_chain(*files[:2])
        except (GenealogError, OSError) as error:
            _unusable(error)
            return
        self._config = config
        parts.configure(settings, admission, upstreams)
        if admission is not before:
            before.close()
        log.info("genealog.toml was read again")


def _unusable(error: Exception) -> None:
    what = error.facts.removeprefix("; ") if isinstance(error, GenealogError) else type(error).__name__
    what = what or (error.message if isinstance(error, GenealogError) else "")
    log.error("genealog.toml cannot be used, so the gateway goes on with what it read before: %s", what)


def _stamp(file: Path) -> object:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _policies(path: Path, config: Config) -> object:
    """Return what is another value once a policy of one's own has changed."""
    folder = config.policy.folder
    return None if folder is None else tuple(_stamps(path / folder))


def _stamps(folder: Path) -> Iterator[object]:
    try:
        files = sorted(folder.iterdir())
    except OSError:
        return
    for file in files:
        yield file.name, _stamp(file)


def configured(
    config: Config, path: Path, max_body: int | None, before: Admission | None = None
) -> tuple[Settings, Admission, Upstreams]:
    """Return what a call feels of the settings of the store at `path`. Raises: as `principals.admission`."""
    settings = Settings.of(config.gateway)
    if max_body is not None:
        settings = replace(settings, max_body=min(max_body, MAX_BODY))
    return settings, principals.admission(config, path, before), Upstreams(config.upstreams, path)


def beside(path: Path, tls: Tls) -> tuple[str, str, str | None]:
    """Return the files of `[gateway.tls]`: certificate, key, and the authority of clients."""
    client_ca = None if tls.client_ca is None else str(path / tls.client_ca)
    return str(path / tls.certificate), str(path / tls.key), client_ca
