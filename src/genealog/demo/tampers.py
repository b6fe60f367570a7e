"""Four tampers and one shortcut. Each must be caught and named: by the engine, fsck, the verifier, by policy."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape

from genealog.demo.stage import Stage

PRODUCTION = '\n[policy.environments.prod]\ndeny = ["licence_allowed"]\n'


def try_all(stage: Stage, bundle: Path) -> bool:
    """Try all, and say whether each was caught."""
    stage.step("Now break things: one byte, one field, one stranger, one rule")
    return all([_adapter(stage), _journal(stage), _receipt(stage, bundle), _stranger(stage), _shortcut(stage)])


def _adapter(stage: Stage) -> bool:
    stage.say("\n[bold]a byte of the adapter on disk[/bold]")
    with _flipped(stage.home / "facts-lora" / "adapter_model.safetensors"):
        status, said = stage.command("engine", "--model", "smol-base", "--adapter", "facts-lora", "--port", "0")
    return _caught(stage, status == 1, said, "bytes-differ")


def _journal(stage: Stage) -> bool:
    stage.say("\n[bold]a byte of the journal[/bold] (of a copy of the store)")
    copy = stage.home / "tampered-store"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(stage.home / ".genealog", copy, ignore=shutil.ignore_patterns("spool"))
    (copy / "spool").mkdir(exist_ok=True)
    segment = next((copy / "logs" / "registry" / "journal").iterdir())
    with _flipped(segment):
        status, said = stage.command("fsck", "--store", copy.name)
    shutil.rmtree(copy)
    return _caught(stage, status == 1, said, "journal-damaged")


def _receipt(stage: Stage, bundle: Path) -> bool:
    from genealog.demo.story import standalone

    stage.say("\n[bold]a field of a receipt[/bold] (the call was never A3, says the forger)")
    evidence = json.loads(bundle.read_bytes())
    forged = stage.home / "forged.genealog"
    for receipt in evidence["receipts"]:
        entry = base64.b64decode(receipt["entry"])
        if receipt["origin"].endswith("/calls"):
            receipt["entry"] = base64.b64encode(entry.replace(b'"assurance":"A3"', b'"assurance":"A4"')).decode()
    forged.write_bytes(json.dumps(evidence, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    policy = str(Path(".genealog") / "trust.policy")
    argv = [sys.executable, "-I", str(standalone()), forged.name, "--trust", policy]
    status, said = stage.run(argv, shown=["python", "verify_standalone.py", *argv[3:]], shows=False)
    said = said.strip() or "nothing"
    stage.console.print(said.splitlines()[-1], markup=False)
    return _caught(stage, status == 1, said.splitlines()[-1], "inclusion-proof-mismatch")


def _stranger(stage: Stage) -> bool:
    stage.say("\n[bold]a model that nobody registered[/bold] (the same weights under another configuration)")
    stranger = stage.home / "stranger"
    shutil.rmtree(stranger, ignore_errors=True)
    shutil.copytree(stage.home / "smol-base", stranger, copy_function=os.link)
    config = stranger / "config.json"
    text = config.read_text()
    config.unlink()
    config.write_text(text.rstrip() + "\n\n")
    status, said = stage.command("engine", "--model", "./stranger", "--port", "0")
    shutil.rmtree(stranger)
    return _caught(stage, status == 1, said, "unregistered-model")


def _shortcut(stage: Stage) -> bool:
    stage.say("\n[bold]straight into production[/bold] (where policy wants a licence that somebody vouches for)")
    settings = stage.home / ".genealog" / "genealog.toml"
    if PRODUCTION not in (text := settings.read_text()):
        settings.write_text(text + PRODUCTION)
    stage.say(f"[dim]{escape(PRODUCTION.strip())}[/dim]")
    status, said = stage.command(
        "deploy", "prod/support-bot", "--model", "smol-base", "--upstream", "http://127.0.0.1:9"
    )
    return _caught(stage, status == 1, said, "licence-unknown")


def _caught(stage: Stage, fine: bool, said: str, code: str) -> bool:
    found = re.search(code, re.sub(r"\x1b\[[0-9;]*m", "", said))
    if fine and found:
        stage.say(f"[green]caught[/green] \\[{found[0]}]")
        return True
    stage.say("[bold red]NOT CAUGHT[/bold red]")
    return False


@contextmanager
def _flipped(path: Path) -> Iterator[None]:
    """Flip one bit in the middle of a file, and put it back."""
    place = path.stat().st_size // 2
    _flip(path, place)
    try:
        yield
    finally:
        _flip(path, place)


def _flip(path: Path, place: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte[0] ^ 1]))
