"""A PostgreSQL for a benchmark: the server of the tests, with its data on the disk that is measured."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Give the URL of a PostgreSQL with fsync on whose data lies on the disk of `folder`."""
    tests = str(Path(__file__).parent.parent / "tests")
    sys.path.insert(0, tests)
    try:
        module: Any = import_module("postgres")
    finally:
        sys.path.remove(tests)
    place = Path(tempfile.mkdtemp(prefix=".benchmark-pg-", dir=folder.parent))
    made = module.PostgresServer(place, settings={"max_wal_size": "4GB"})
    try:
        made.start()
        yield made.url
    finally:
        made.stop()
        shutil.rmtree(place, ignore_errors=True)
