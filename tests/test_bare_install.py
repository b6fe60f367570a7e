"""A bare install: no torch, no numpy, no HTTP library. All but engine, gateway and demo works; those say why not."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from genealog.cli.extras import EXTRAS

HEAVY = sorted(
    {module for modules in EXTRAS.values() for module in modules} | {"accelerate", "multidict", "tokenizers"}
)

WITHOUT = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {HEAVY!r} else find(name, package)
"""

IMPORT_ALL = """
import importlib, pkgutil
import genealog
left_out = (
    "genealog.engine.", "genealog.gateway.", "genealog.demo.", "genealog.__main__",
    "genealog.store.vault.postgres", "genealog.witness.protocol",
)
for module in pkgutil.walk_packages(genealog.__path__, "genealog."):
    if not module.name.startswith(left_out):
        importlib.import_module(module.name)
print(len([name for name in sys.modules if name.startswith("genealog.")]))
"""


def bare(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_every_other_module_imports() -> None:
    done = bare(IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_help_and_a_whole_session_work(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    store = str(tmp_path / "store")
    for command in (
        ["--help"],
        ["init", store],
        ["add", str(tmp_path / "m"), "--kind", "files", "--store", store],
        ["fsck", "--store", store],
    ):
        done = bare("sys.argv = ['genealog', *sys.argv[1:]]\nfrom genealog.cli import main\nmain()\n", *command)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", [["gateway"], ["engine", "--model", "m", "--port", "0"], ["demo", "nowhere"]], ids=lambda c: str(c[0])
)
def test_what_needs_an_extra_names_it(command: list[str]) -> None:
    done = bare("sys.argv = ['genealog', *sys.argv[1:]]\nfrom genealog.cli import main\nmain()\n", *command)
    assert done.returncode == 3
    assert "extra-not-installed" in done.stderr
    assert f"genealog[{command[0]}]" in done.stderr


def test_the_extras_are_those_of_the_package() -> None:
    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    declared = table["project"]["optional-dependencies"]
    for extra in ("gateway", "engine"):
        names = {line.partition(">")[0].partition("=")[0].replace("-", "_") for line in declared[extra]}
        assert set(EXTRAS[extra]) <= names
