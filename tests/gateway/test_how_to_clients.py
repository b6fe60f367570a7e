"""The page on vendors' clients: each of its Python blocks runs, against a real gateway in front of fakes."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gateway import fake_anthropic, fake_bedrock, fake_google, fake_ollama
from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, whole
from gateway.processes import Process, make_store, on_record
from genealog.deploy import Deployments
from genealog.gateway.routes import route
from genealog.store.home import Home

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/point-clients-at-the-gateway.md").read_text()
HERE = "http://127.0.0.1:8080"
BLOCKS = dict(re.findall(r"^```python ([a-z0-9-]+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
CURL = re.findall(r"^```bash\n(curl .*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
DIALECTS = {
    "anthropic-messages": fake_anthropic.script, "bedrock": fake_bedrock.script, "google-generate": fake_google.script,
    "ollama": fake_ollama.script, "openai-chat": whole(completion()),
}  # fmt: skip


async def every_vendor(wire: Wire, asked: Asked) -> None:
    """Answer in the dialect that was asked in."""
    await DIALECTS[route("POST", asked.path.partition("?")[0]).dialect](wire, asked)


async def test_each_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    said = {}
    async with FakeUpstream(every_vendor) as upstream:
        store = make_store(tmp_path, upstream.url)
        home = Home.open(store)
        Deployments(home).deploy("support-bot", model="tiny", upstream=upstream.url)
        home.close()
        async with Process(store) as gateway:
            for name, code in BLOCKS.items():
                scope: dict[str, object] = {}
                await asyncio.to_thread(exec, code.replace(HERE, gateway.url), scope)
                said[name] = str(scope["reply"])
                for made in scope.values():
                    if callable(close := getattr(made, "close", None)) and not isinstance(made, type):
                        await asyncio.to_thread(close)
            for command in CURL:
                words = shlex.split(command.replace("\\\n", " ").replace(HERE, gateway.url))
                ran = await asyncio.to_thread(
                    subprocess.run, ["/usr/bin/env", *words, "-sS"],
                    capture_output=True, check=True, timeout=30,
                )  # fmt: skip
                said["curl"] = ran.stdout.decode()
            assert await gateway.stop() == 0
    assert len(said) == len(BLOCKS) + len(CURL) == 9
    for name, text in said.items():
        assert "Hello" in text or "2,102,650" in text, name
    calls = on_record(store)
    assert len(calls) == len(upstream.asked) == 10
    assert {found.leaf.finish for (found,) in calls.values()} == {"complete"}
