"""The spine whole: a trained adapter, a real engine, a real gateway, the real client; then why, evidence, rollback.

The model is tiny, everything else is what users run, each in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

import genealog
from genealog.answers import Answers
from genealog.core.bundle import encode_evidence
from genealog.core.chain import Report
from genealog.core.states import State
from genealog.deploy import Deployments
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.home import Home
from tiny_model import copy

pytestmark = pytest.mark.real
HELLO: Any = [{"role": "user", "content": "hello"}]


@dataclass
class Site:
    """A store, its servers, and a client."""

    store: Path
    servers: list[subprocess.Popen[str]] = field(default_factory=list)
    gateway: str = ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "GENEALOG_STORE": str(self.store), "OMP_NUM_THREADS": "1"}
        argv = [sys.executable, "-m", "genealog", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=self.store.parent)

    def serve(self, *arguments: str) -> str:
        environment = {**os.environ, "GENEALOG_STORE": str(self.store), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "genealog", *arguments, "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.servers.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if "http://" in line:
                return "http://" + line.partition("http://")[2].split()[0]
        raise AssertionError(f"{arguments} ended with {process.wait()}")

    def ask(self, **options: Any) -> tuple[str, str, str]:
        """Return the text, the call and the bound assurance of one answer."""
        with openai.OpenAI(base_url=f"{self.gateway}/v1", api_key="x", max_retries=0) as client:
            request = {"model": "bot", "messages": HELLO, "max_tokens": 8, "seed": 5, **options}
            raw = client.chat.completions.with_raw_response.create(**request)
            parsed = raw.parse()
            if options.get("stream"):
                text = "".join(c.choices[0].delta.content or "" for c in parsed if c.choices)
            else:
                text = parsed.choices[0].message.content or ""
            return text, raw.headers["Genealog-Call"], raw.headers["Genealog-Assurance"]

    def why(self, call: str, output: bytes | None = None) -> Report:
        home = Home.open(self.store)
        with contextlib.closing(home):
            return Answers(home).why(call, output=output)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_adapter: Path) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("spine")
    base, adapter = copy(tiny_base, place / "base"), place / "adapter"
    registry = Registry.init(place / ".genealog", origin="spine.example", identity="Jane")
    registry.add(base, kind="model", name="base", source="a test")
    (place / "facts.txt").write_text("facts")
    registry.add(place / "facts.txt", kind="dataset", name="facts")
    code = place / "code"
    code.mkdir()
    (code / "train.py").write_text("pass\n")
    inputs = {"base": "base", "data": "facts"}
    with genealog.run("finetune", name="tuning", inputs=inputs, code=code, store=registry.home) as run:
        copy(tiny_adapter, adapter)
        run.output(adapter, kind="adapter", name="tuned")
    registry.home.close()
    site = Site(place / ".genealog")
    try:
        plain, tuned = (
            site.serve("engine", "--model", "base"),
            site.serve("engine", "--model", "base", "--adapter", "tuned"),
        )
        with contextlib.closing(Home.open(site.store)) as home:
            deployments = Deployments(home)
            deployments.deploy("bot", model="base", upstream=plain, minimum_assurance="A3")
            deployments.deploy("bot", model="base", adapters=["tuned"], upstream=tuned, minimum_assurance="A3")
        site.gateway = site.serve("gateway")  # it follows a deployment in a moment, not at once
        yield site
    finally:
        for server in site.servers:
            server.terminate()
        for server in site.servers:
            server.communicate(timeout=30)


def test_an_answer_is_traced_to_its_training_data(site: Site) -> None:
    text, call, assurance = site.ask()
    assert assurance == "A3"
    report = site.why(call, text.encode())
    roles = [hop.role for hop in report.hops]
    for role in ("output", "call", "serving spec", "load", "adapter", "run", "base", "data", "code", "environment"):
        assert role in roles
    assert {hop.role: hop.state for hop in report.hops}["output"] is State.PROVEN
    assert report.state is State.CLAIMED
    assert report.weakest.title == "a test"


def test_stream_and_plain_are_one_text_and_both_are_on_record(site: Site) -> None:
    plain, _, _ = site.ask()
    streamed, call, _ = site.ask(stream=True)
    assert streamed == plain
    assert site.why(call, streamed.encode()).state is State.CLAIMED


def test_a_pasted_text_finds_its_call_and_another_text_contradicts_it(site: Site) -> None:
    text, call, _ = site.ask(seed=99)
    (site.store.parent / "answer.txt").write_bytes(text.encode())
    ran = site.command("why", "answer.txt", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["call"] == call
    report = site.why(call, b"something else")
    assert report.state is State.CONTRADICTED
    assert report.weakest.code == "output-mismatch"


def test_evidence_verifies_without_store_and_network(site: Site, tmp_path: Path) -> None:
    _, call, _ = site.ask()
    ran = site.command("evidence", call, "-o", str(tmp_path / "a.genealog"))
    assert ran.returncode == 0, ran.stderr
    trust = tmp_path / "trust.policy"
    trust.write_bytes((site.store / "trust.policy").read_bytes())
    standalone = Path(__file__).parents[1] / "tools" / "verify_standalone.py"
    lonely = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for argv in (
        [sys.executable, "-I", str(standalone), "a.genealog", "--trust", "trust.policy"],
        [sys.executable, "-m", "genealog", "verify", "a.genealog", "--trust", "trust.policy"],
    ):
        done = subprocess.run(argv, cwd=tmp_path, env=lonely, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "claimed" in done.stdout.splitlines()[-1]
    untrusting = subprocess.run(
        [sys.executable, "-I", str(standalone), "a.genealog"], cwd=tmp_path, capture_output=True, check=False
    )
    assert untrusting.returncode == 3


def test_a_rollback_serves_the_model_before(site: Site) -> None:
    tuned, _, _ = site.ask()
    with contextlib.closing(Home.open(site.store)) as home:
        deployments = Deployments(home)
        tuned_spec = deployments.history("bot")[-1].spec
        deployments.rollback("bot", reason="test")
        base = home  # the gateway must follow without being told
        wanted = deployments.registry.resolve("base").id
        for _ in range(100):
            text, call, _ = site.ask()
            Ledger(base).drain()
            models = {hop.role for hop in site.why(call).hops}
            if "adapter" not in models:
                break
        assert "adapter" not in models
        assert text != tuned
        assert wanted in {hop.id for hop in site.why(call).hops}
        spec = deployments.spec(tuned_spec)
        deployments.deploy("bot", model="base", adapters=["tuned"], upstream=spec.upstream, minimum_assurance="A3")


def test_a_refused_call_is_on_record_and_explained(site: Site) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        site.ask(model="nobody")
    call = caught.value.response.headers["Genealog-Call"]
    report = site.why(call)
    assert report.state is State.PROVEN
    assert "refused" in report.hops[0].title


def test_the_store_is_sound_and_its_index_is_a_projection(site: Site) -> None:
    site.ask()
    with contextlib.closing(Home.open(site.store)) as home:
        ledger = Ledger(home)
        ledger.drain()
        assert ledger.fsck() == ()
        before = ledger.index().dump()
        ledger.rebuild()
        assert ledger.index().dump() == before
        evidence = Answers(home).evidence(site.ask()[1])
        assert len(encode_evidence(evidence)) < 200_000
