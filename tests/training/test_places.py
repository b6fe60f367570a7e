"""Where things lay, in statements: nothing of this machine that the command does not say itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from genealog.registry import Registry
from genealog.training import run
from genealog.training.begin import lies


@pytest.mark.parametrize(
    ("path", "command", "said"),
    [
        ("/home/jane/project/data/x.txt", "python train.py", "data/x.txt"),
        ("/home/jane/project", "python train.py", "."),
        ("/home/jane/data/x.txt", "python train.py", None),
        ("/home/jane/data/x.txt", "python train.py --data ../data/x.txt", "../data/x.txt"),
        ("/home/jane/data/x.txt", "python train.py --data=../data/x.txt", "../data/x.txt"),
        ("/mnt/x.txt", "python train.py --data /mnt/./x.txt", "/mnt/x.txt"),
        ("/mnt/x.txt", "python train.py --data /mnt/", None),
        ("/home/jane/project/\udcff", "python train.py", None),
    ],
)
def test_what_a_statement_says_of_a_place(path: str, command: str, said: str | None) -> None:
    assert lies(Path(path), Path("/home/jane/project"), command.split()) == said


def test_an_input_elsewhere_is_known_by_its_id_and_here_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry.init(tmp_path / "store")
    data = tmp_path / "private" / "data.txt"
    data.parent.mkdir()
    data.write_text("1")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "train.py").write_text("")
    monkeypatch.chdir(tmp_path / "work")
    version = registry.resolve(registry.add(data, kind="dataset", name="data").id)
    with run(inputs={"data": "data"}, store=registry.home, code=tmp_path / "work", watch=False) as this:
        pass
    (event,) = [event for event in this.events if event.role == "data"]
    assert (event.artifact, event.path) == (version.id, None)
    assert registry.home.location(version.id) == data
