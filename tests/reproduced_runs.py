"""Small programs that train, recorded and run again: no framework but numpy, so that a test takes seconds."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from command_line import Cli, Ran
from genealog.registry import Registry
from genealog.store.home import Home

TRAIN = """\
import argparse, os, sys
import numpy as np
from safetensors.numpy import save_file

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--data")
parser.add_argument("--token", default="")
parser.add_argument("--out")
given = parser.parse_args()
data = np.array([float(line) for line in open(given.data)], dtype="f4")
weights = np.random.randn(4).astype("f4")  # nobody set a seed
for step in range(5):
    weights -= given.lr * (weights - data.mean())
os.makedirs(given.out, exist_ok=True)
save_file({"w": weights, "b": np.zeros(2, "f4")}, given.out + "/model.safetensors")
with open("seen.txt", "w") as file:
    file.write("\\n".join(sorted(name for name in os.environ if "SECRET" in name)))
"""

ITSELF = """\
import sys
import genealog
import numpy as np
from safetensors.numpy import save_file

rate = float(sys.argv[sys.argv.index("--lr") + 1])
with genealog.run("finetune", name="toy", inputs={"data": "numbers"}, parameters={"lr": rate}) as run:
    weights = np.arange(4, dtype="f4")
    for step in range(1, 6):
        weights -= rate * weights
        run.measure("loss", float((weights**2).sum()), step=step)
    save_file({"w": weights}, "toy.safetensors")
    run.output("toy.safetensors", kind="model", name="toy")
"""


@dataclass(frozen=True)
class Project:
    """A folder with a store, a script and its data."""

    folder: Path
    cli: Cli

    def record(
        self, *words: str, script: str = TRAIN, python: str = sys.executable, options: tuple[str, ...] = ()
    ) -> Ran:
        """Record `script` with these arguments."""
        (self.folder / "train.py").write_text(script)
        ran = self.cli("run", "--name", "toy", *options, "--", python, "train.py", *words)
        assert ran.status == 0, ran.err
        return ran

    def usual(self, *more: str) -> Ran:
        """Record the usual training."""
        return self.record("--lr", "0.1", "--data", "data.txt", "--out", "out", *more)

    def reproduce(self, *words: str) -> Ran:
        """Run it again in this environment, and print JSON."""
        here = () if "--environment" in words else ("--environment", "here")
        return self.cli("reproduce", "toy", *here, "--json", *words)

    @property
    def registry(self) -> Registry:
        return Registry(Home.open(self.folder / ".genealog"))


@pytest.fixture
def project(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project whose data is registered."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert cli("init", "--origin", "models.example").status == 0
    (folder / "data.txt").write_text("1\n2\n3\n")
    assert cli("add", "data.txt", "--kind", "dataset", "--name", "numbers").status == 0
    return Project(folder, cli)


Wheel = Callable[[str, str, str], Path]


def build_wheel(folder: Path, name: str, version: str, source: str) -> Path:
    """Write a wheel of one module: what an index would give, without one."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in files.items():
            wheel.writestr(inner, text)
    return path
