"""`genealog run -- COMMAND`: programs that know nothing of us, and how they end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genealog.answers import Answers
from genealog.core.ids import sha256_hex
from genealog.core.states import State
from watched_runs import Place

READS = "import pathlib\nopen('out.json', 'w').write(open('data/rows.jsonl').read())\n"


def rows(place: Place, text: str = '{"a":1}\n') -> Path:
    path = place.folder / "data" / "rows.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_program_is_on_record_with_what_it_read_and_wrote(place: Place) -> None:
    rows(place)
    place.script(READS)
    told = place.told(options=("--name", "first", "-p", "lr=0.1"))
    assert told.edges() == {("in", "data", "rows.jsonl"), ("out", "file", "out.json")}
    assert told.start.command == ("python", "code/train.py")
    assert (told.start.folder, told.start.entry_point) == ("..", "train.py")
    assert told.start.parameters == {"lr": "0.1"}
    assert told.start.determinism["PYTHONHASHSEED"].isdigit()
    assert (told.one("code").path, told.one("data").path) == ("code", "data/rows.jsonl")
    assert told.closed().exit == "succeeded"
    assert told.closed().warnings == ()
    assert told.closed().measurements["energy_gpu_j"] == "not-measurable"
    assert float(told.closed().measurements["duration_s"]) > 0
    assert told.facts()["data-order"] == "unknown"
    found = Answers(told.registry.home).lineage(told.one("file").artifact)
    assert found.complete
    assert told.registry.versions()[-2].source == "seen by run"


def test_the_code_is_kept_and_not_only_named(place: Place) -> None:
    place.script("print('hello')\n")
    place.script("SECRET=1\n", name=".env")
    told = place.told()
    objects = told.registry.home.objects
    assert objects.get(sha256_hex(b"print('hello')\n")) == b"print('hello')\n"
    assert not objects.has(sha256_hex(b"SECRET=1\n"))
    warned = told.registry.statement(told.registry.resolve(told.one("code").artifact).statement).body
    assert any(line.startswith("code-secret") for line in warned.warnings)  # type: ignore[attr-defined]


def test_what_is_registered_is_known_by_its_bytes_and_the_chain_holds_over_two_runs(place: Place) -> None:
    path = rows(place)
    place.registry().add(path, kind="dataset", name="facts")
    (place.folder / "copy").mkdir()
    (place.folder / "copy" / "rows.jsonl").write_bytes(path.read_bytes())
    place.script(READS.replace("data/rows", "copy/rows"))
    first = place.told()
    assert ("in", "data", "facts") in first.edges()
    place.script("open('more.json', 'w').write(open('out.json').read() + ' ')\n")
    second = place.told()
    found = Answers(second.registry.home).lineage(second.one("file").artifact)
    assert first.one("data").artifact in {node.id for node in found.artifacts}


def test_a_file_of_a_registered_folder_is_that_dataset(place: Place) -> None:
    path = rows(place)
    (path.parent / "other.jsonl").write_text("{}\n")
    place.registry().add(path.parent, kind="dataset", name="whole")
    place.script(READS)
    told = place.told()
    event = told.one("data")
    assert (told.name(event), event.facts) == ("whole", {"files": "1 of 2"})


def test_an_input_that_is_overwritten_by_the_run_is_said_to_be_unchecked(place: Place) -> None:
    rows(place)
    place.script("text = open('data/rows.jsonl').read()\nopen('data/rows.jsonl', 'w').write(text * 2)\n")
    event = place.told().one("data")
    assert (event.state, event.code) == (State.UNCHECKED, "input-changed")


def test_many_files_are_one_artifact(place: Place) -> None:
    for number in range(40):
        (rows(place).parent / f"{number}.txt").write_text(str(number))
    place.script(
        "import glob\nfor p in sorted(glob.glob('data/*.txt')): open(p).read()\n"
        "for n in range(30): open(f'part-{n}.txt', 'w').write(str(n))\n"
    )
    told = place.told()
    assert told.edges() == {("in", "data", "data"), ("out", "file", "work")}
    assert len(told.registry.manifest(told.registry.resolve(told.one("data").artifact)).files) == 40


def test_secrets_of_a_command_stay_out_of_the_log(place: Place) -> None:
    place.script("")
    words = ("--token", "s3cr3t-1", "--api-key=s3cr3t-2", "https://me:s3cr3t-3@host/x", "HF_TOKEN=s3cr3t-4")
    place.told("python", "code/train.py", *words)
    log = place.registry().home.registry_log()
    assert not [entry for entry in log.entries(0, log.size) if b"s3cr3t" in entry]


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "import sys; sys.exit(3)"])
def test_a_program_that_fails_is_said_to_have_failed_and_its_status_is_ours(place: Place, text: str) -> None:
    place.script(text)
    ended = place.run()
    assert ended.returncode == 3
    assert "as failed: the program ended with status 3" in ended.stderr
    assert re.search(r"^on record: glr1:[0-9a-f]{12}, as failed", ended.stderr, re.MULTILINE), "no run of that name"
    assert (place.last().closed().exit, place.last().closed().error) == ("failed", "exit-3")


def test_its_last_lines_name_what_is_typed_next(place: Place) -> None:
    rows(place)
    place.script("open('table.npz', 'wb').write(open('data/rows.jsonl', 'rb').read())\n")
    ended = place.run(options=("--name", "table"))
    assert re.search(r"^on record: table glr1:[0-9a-f]{12}$", ended.stderr, re.MULTILINE)
    assert re.search(r"^  → model table  glf1:[0-9a-f]{12}$", ended.stderr, re.MULTILINE)


def test_kill_9_of_the_program_is_an_end_and_its_checkpoint_stands(place: Place) -> None:
    place.script(
        "import numpy, os, signal\nnumpy.random.seed(5)\nnumpy.savez('ckpt-1.npz', w=numpy.ones(3))\n"
        "numpy.savez('model.npz', w=numpy.zeros(3))\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert place.run().returncode == 128 + 9
    told = place.last()
    assert (told.closed().exit, told.closed().error) == ("failed", "signal-9")
    assert {(e.direction, e.role) for e in told.events} >= {("out", "checkpoint"), ("out", "model")}
    assert told.closed().seeds == {"numpy": "5"}
    assert told.registry.ledger.fsck() == ()


def test_kill_9_of_ourselves_leaves_an_open_run_with_its_checkpoint(place: Place) -> None:
    place.script(
        "import numpy, sys\nnumpy.savez('ckpt-1.npz', w=numpy.ones(3))\nprint('saved', flush=True)\nsys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        place.argv(), cwd=place.folder, env=place.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "saved\n"
    place.registry()
    while not any(version.kind == "checkpoint" for version in place.registry().versions()):
        assert parent.poll() is None
    while place.registry().home.registry_log().size < 10 and not _logged(place):
        assert parent.poll() is None
    parent.kill()
    parent.communicate()
    told = place.last()
    assert told.end is None
    assert told.one("checkpoint").path == "ckpt-1.npz"
    assert told.registry.ledger.fsck() == ()


def _logged(place: Place) -> bool:
    return any(event.role == "checkpoint" for event in place.last().events)


def test_a_signal_to_us_is_the_programs_to_answer(place: Place) -> None:
    place.script(
        "import signal, sys\ndef bye(*_):\n    open('saved.txt', 'w').write('late')\n    sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, bye)\nprint('ready', flush=True)\nsignal.pause()\n"
    )
    parent = subprocess.Popen(place.argv(), cwd=place.folder, env=place.env(), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.send_signal(signal.SIGINT)  # from a terminal the program gets it too; from kill only we do
    parent.send_signal(signal.SIGTERM)
    parent.communicate()
    assert parent.returncode == 7
    assert place.last().closed().error == "exit-7"
    assert ("out", "file", "saved.txt") in place.last().edges()


def test_a_hostile_report_file_is_counted_and_harms_nothing(place: Place) -> None:
    rows(place)
    place.script(
        "import os, glob, json\n"
        "folder = os.environ['GENEALOG_CAPTURE']\n"
        'lines = [b\'\\x00garbage\', b\'{"t":"save","path":"relative","how":"x","what":"model"}\', b\'[\' * 9000,\n'
        '  b\'{"t":"metric","name":"loss","value":\' + b\'9\' * 5000 + b\'}\', b\'x\' * 200_000,\n'
        "  json.dumps({'t': 'load', 'how': 'x', 'path': '/nowhere', 'role': 'base', 'at': 1}).encode(),\n"
        "  json.dumps({'t': 'metric', 'name': 'fine', 'value': 0.5}).encode()]\n"
        "open(folder + '/1-1.jsonl', 'wb').write(b'\\n'.join(lines))\n"
        "os.symlink('/dev/zero', folder + '/2-2.jsonl')\n" + READS
    )
    told = place.told()
    assert told.closed().measurements["fine"] == "0.5"
    assert "loss" not in told.closed().measurements
    assert any("lines that are no reports" in line for line in told.closed().warnings)
    assert ("in", "data", "rows.jsonl") in told.edges()


def test_a_program_that_tells_nothing_is_said_to(place: Place) -> None:
    place.script(READS)
    rows(place)
    for command in (("python", "-I", "code/train.py"), ("sh", "-c", "true")):
        assert any("told nothing" in line for line in place.told(*command).closed().warnings)


def test_children_of_the_program_tell_too_and_modules_run_as_scripts(place: Place) -> None:
    rows(place)
    place.script(READS, name="inner.py")
    place.script("import subprocess, sys\nsubprocess.run([sys.executable, 'code/inner.py'], check=True)\n")
    assert ("in", "data", "rows.jsonl") in place.told().edges()
    (place.folder / "pkg").mkdir()
    (place.folder / "pkg" / "__main__.py").write_text(READS)
    told = place.told("python", "-m", "pkg", options=("--code", "pkg"))
    assert ("in", "data", "rows.jsonl") in told.edges()


def test_a_forked_child_has_a_report_of_its_own(place: Place) -> None:
    rows(place)
    place.script(f"import os\nif os.fork() == 0:\n    exec({READS!r})\n    os._exit(0)\nos.wait()\n")
    assert ("in", "data", "rows.jsonl") in place.told().edges()


def test_the_sitecustomize_of_the_user_still_runs(place: Place) -> None:
    folder = place.folder / "mine"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("MARK = 'mine'\n")
    place.environment["PYTHONPATH"] = str(folder)
    place.script("import sitecustomize\nassert sitecustomize.MARK == 'mine', sitecustomize\n")
    assert place.told().closed().warnings == ()


def test_a_python_without_genealog_is_watched_and_its_environment_is_its_own(place: Place) -> None:
    bare = place.folder.parent / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    rows(place)
    place.script("import importlib.util as u\nassert u.find_spec('msgspec') is None\n" + READS)
    told = place.told(str(bare / "bin" / "python"), "code/train.py")
    assert ("in", "data", "rows.jsonl") in told.edges()
    environment = told.registry.statement(told.registry.resolve(told.one("environment").artifact).statement).body
    assert environment.body["distributions"]["count"] == 0  # type: ignore[attr-defined]
    assert told.start.command[0] == "python"


def test_states_of_generators_are_kept_and_can_be_restored(place: Place) -> None:
    place.script("import random\nopen('drawn.txt', 'w').write(str(random.random()))\n")
    told = place.told()
    states = place.folder / "states"
    states.mkdir()
    for source, digest in told.closed().random.items():
        (states / source).write_bytes(told.registry.home.objects.get(digest))
    first = (place.folder / "drawn.txt").read_text()
    place.told()
    assert (place.folder / "drawn.txt").read_text() != first
    place.environment["GENEALOG_RANDOM"] = str(states)
    place.told()
    assert (place.folder / "drawn.txt").read_text() == first


def test_a_full_disk_at_the_end_leaves_the_run_open_and_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from genealog.errors import StoreError
    from genealog.ledger import Ledger
    from genealog.store.home import Home
    from genealog.training import run_command

    place.script("")
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("PATH", place.env()["PATH"])
    real = Ledger.append
    appended = []

    def full(self: Ledger, statements: list[bytes]) -> object:
        appended.append(statements)
        if b"execution-end" in b"".join(_payload(one) for one in statements):
            raise StoreError("disk-error", "no space left on device")
        return real(self, statements)

    monkeypatch.setattr(Ledger, "append", full)
    with pytest.raises(StoreError) as caught:
        run_command(Home.open(place.store), ["python", "code/train.py"])
    assert caught.value.code == "run-left-open"
    monkeypatch.undo()
    assert place.last().end is None


def _payload(envelope: bytes) -> bytes:
    import base64
    import json

    return base64.b64decode(json.loads(envelope)["payload"])


def test_a_program_that_is_not_there_starts_no_run(place: Place) -> None:
    done = place.run("no-such-program-anywhere")
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
    assert place.registry().versions() == []


def test_many_outputs_do_not_break_the_limit_of_an_entry(place: Place) -> None:
    place.script(
        "import numpy\nfor n in range(60):\n    numpy.savez(f'w{n}' + 'x' * 200 + '.npz', w=numpy.full(3, n))\n"
    )
    told = place.told()
    assert len([event for event in told.events if event.role == "model"]) == 60
    assert told.registry.ledger.fsck() == ()


def test_declared_outputs_have_their_kind_and_name(place: Place) -> None:
    place.script("open('thing', 'w').write('x')\n")
    told = place.told(options=("--output", "thing=adapter:mine", "--output", "absent"))
    assert told.edges() == {("out", "adapter", "mine")}
    assert any(line.startswith("output-absent") for line in told.closed().warnings)
    done = place.run(options=("--output", "thing=adapter"))
    assert (done.returncode, "bad-option" in done.stderr) == (2, True)


def test_json_says_what_came_of_it(place: Place) -> None:
    import json

    rows(place)
    place.script(READS)
    done = place.run(options=("--json",))
    assert json.loads(done.stdout)["status"] == 0
    assert [one["role"] for one in json.loads(done.stdout)["outputs"]] == ["file"]
    assert os.environ.get("GENEALOG_CAPTURE") is None
