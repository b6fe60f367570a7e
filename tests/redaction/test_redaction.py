"""What the vault keeps of a call under `[[redaction]]`, and under each `body_capture`: nothing else, anywhere."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from call_samples import MODELS, SPEC, TEXT, answer, request, stream
from command_line import Cli
from genealog.answers import Answers
from genealog.core.call import CallLeaf, call_id
from genealog.core.canonical import decode
from genealog.core.frames import EngineEvidence, Intent, Outcome, encode_frame
from genealog.core.ids import seal, sha256_hex
from genealog.errors import MissingError, StoreError
from genealog.ledger import Ledger
from genealog.redaction import Redactor
from genealog.redaction.engine import Engine
from genealog.redaction.patterns import Patterns
from genealog.redaction.rendering import TAG
from genealog.registry import Registry
from genealog.store.gateway_settings import Redaction
from genealog.store.home import Home
from genealog.store.spool import SpoolWriter

NOW = datetime(2026, 11, 1, tzinfo=UTC)
MAIL, CARD = "jane.doe@example.org", "4111 1111 1111 1111"
PROMPT, ANSWER = f"Write to {MAIL} about {CARD}", f"Dear {MAIL}, your card {CARD} …"
MASKED = "Write to [email] about [card]", "Dear [email], your card [card] …"
RULE = '[[redaction]]\ntenant = "acme*"\nentities = ["email", "card"]\n'


class Store:
    """A store with settings, and calls put into its spool as a gateway leaves them."""

    def __init__(self, path: Path, settings: str) -> None:
        Registry.init(path, identity="Owner", origin="models.example.org").home.close()
        with (path / "genealog.toml").open("a") as file:
            file.write(settings)
        self.home = Home.open(path)
        self.spool = SpoolWriter(self.home.spool_dir)
        self.count = 0

    def call(self, asked: bytes, answered: bytes | None, **changes: Any) -> str:
        self.count += 1
        call = call_id(int(NOW.timestamp() * 1000), self.count.to_bytes(10))
        known: dict[str, Any] = {
            "deployment": "prod/bot", "spec": SPEC, "models": MODELS, "bound": "A2", "durability": "D1",
            "capture": "encrypted", "dialect": "openai-chat", "operation": "/v1/chat/completions",
            "who": {"tenant": "acme", "principal": "app", "how": "key"}, "headers": {}, "salts": bytes(range(192)),
        }  # fmt: skip
        known |= {name: value for name, value in changes.items() if name in known}
        n = 2 * self.count
        self.spool.write(
            encode_frame(Intent(n=n - 1, call=call, seq=self.count, called_at=NOW, request=asked, **known))
        )
        if answered is not None:
            came: dict[str, Any] = {
                "finish": "complete", "status": 200, "content_type": "application/json", "content_encoding": None,
                "error": None, "engine": None, "assurance": "A2",
            }  # fmt: skip
            came |= {name: value for name, value in changes.items() if name in came}
            self.spool.write(
                encode_frame(Outcome(n=n, call=call, ended_at=NOW, response=answered, delivered=len(answered), **came))
            )
        return call

    def drain(self) -> Ledger:
        ledger = Ledger(self.home)
        ledger.drain()
        return ledger

    def kept(self, call: str, which: str) -> Any:
        body, by = self.home.vault.get_kept(call, which)
        assert by is not None
        assert by.startswith("patterns/1")
        return json.loads(body)

    def leaf(self, ledger: Ledger, call: str) -> CallLeaf:
        return decode(ledger.entry(ledger.call(call)), CallLeaf)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / ".genealog", RULE)
    yield made
    made.spool.close()
    made.home.close()


def test_what_is_personal_is_masked_and_the_log_commits_to_what_passed(store: Store) -> None:
    call = store.call(request(PROMPT), answer(ANSWER))
    ledger = store.drain()
    for which, masked in (("request", MASKED[0]), ("response", MASKED[1])):
        kept = store.kept(call, which)
        assert (kept["t"], kept["form"], kept["found"]) == (TAG, "json", {"card": 1, "email": 1})
        text = json.dumps(kept, ensure_ascii=False)
        assert masked in text
        assert MAIL not in text
        with pytest.raises(MissingError, match="body-redacted"):
            store.home.vault.get_body(call, which)
    groups = store.home.vault.get_groups(call)
    assert json.loads(groups["request"][1])["wire"] == sha256_hex(request(PROMPT))
    assert json.loads(groups["response"][1])["wire"] == sha256_hex(answer(ANSWER))
    assert seal(*groups["request"]) == store.leaf(ledger, call).seals.request


def test_a_stream_that_cuts_words_is_kept_as_a_masked_message(store: Store) -> None:
    body = b"".join(stream(ANSWER))
    assert MAIL.encode() not in body  # it is cut
    call = store.call(request(PROMPT), body, content_type="text/event-stream")
    store.drain()
    kept = store.kept(call, "response")
    assert kept["form"] == "message"
    assert MASKED[1] in json.dumps(kept, ensure_ascii=False)


def test_a_compressed_answer_is_read_before_it_is_masked(store: Store) -> None:
    call = store.call(request(PROMPT), gzip.compress(answer(ANSWER), mtime=0), content_encoding="gzip")
    store.drain()
    assert MASKED[1] in json.dumps(store.kept(call, "response"), ensure_ascii=False)


def test_rules_are_for_tenants_and_deployments(store: Store) -> None:
    masked = store.call(request(PROMPT), answer(ANSWER), who={"tenant": "acme-7"})
    open_ = store.call(request(PROMPT), answer(ANSWER), who={"tenant": "other"})
    store.drain()
    assert store.kept(masked, "request")
    assert store.home.vault.get_body(open_, "request") == request(PROMPT)


def test_a_masked_answer_is_found_by_what_was_said(store: Store) -> None:
    call = store.call(request(PROMPT), answer(ANSWER))
    store.drain()
    answers = Answers(store.home)
    for text, which in ((ANSWER, "response"), (MASKED[1], "response"), (PROMPT, "request")):
        assert [(hit.call, hit.which) for hit in answers.find(text)] == [(call, which)]
    assert store.home.vault.find_text(ANSWER) == []  # only its masked form is there
    assert answers.find(answer(ANSWER).decode()) == ()


def test_nothing_that_leaves_the_vault_takes_a_rendering_for_the_body(store: Store) -> None:
    call = store.call(request(PROMPT), answer(ANSWER))
    store.drain()
    answers = Answers(store.home)
    evidence = answers.evidence(call, output=True, prompt=True)
    assert (evidence.request, evidence.response) == (None, None)
    with pytest.raises(MissingError, match="body-redacted"):
        answers.disclose(call, groups=["response"], output=True)
    assert "patterns/1" in (answers.not_kept(call) or "")


def test_who_has_the_original_can_still_prove_it(store: Store) -> None:
    call = store.call(request(PROMPT), answer(ANSWER))
    store.drain()
    report = Answers(store.home).why(call, output=answer(ANSWER))
    assert report.hops[0].state in ("claimed", "proven", "stated")
    other = Answers(store.home).why(call, output=answer("something else"))
    assert other.hops[0].state == "contradicted"


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n" + MAIL.encode(), {"dialect": "openai-audio"}),
        (b"\x00\x01" + MAIL.encode(), {"dialect": "opaque"}),
        (MAIL.encode(), {"dialect": "opaque"}),
    ],
)
def test_what_nobody_can_look_into_is_not_kept(store: Store, asked: bytes, changes: Mapping[str, Any]) -> None:
    call = store.call(asked, b"\xff" + MAIL.encode(), **changes)
    store.drain()
    for which in ("request", "response"):
        with pytest.raises(MissingError, match="nobody could say"):
            store.home.vault.get_body(call, which)


def test_an_answer_that_broke_off_is_not_kept(store: Store) -> None:
    call = store.call(request(PROMPT), None)
    store.spool.close()
    store.drain()
    assert store.kept(call, "request")
    with pytest.raises(MissingError, match="body-not-kept"):
        store.home.vault.get_body(call, "response")


def test_the_report_of_an_engine_spells_the_answer_and_is_not_kept(store: Store) -> None:
    evidence = EngineEvidence(load="0" * 64, signature=b"{}", report=b"tokens")
    call = store.call(request(PROMPT), answer(ANSWER), engine=evidence)
    store.drain()
    with pytest.raises(MissingError, match="token by token"):
        store.home.vault.get_body(call, "report")


def test_an_engine_that_fails_keeps_nothing_and_says_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_self: object, text: str) -> Any:
        raise ValueError(text)

    monkeypatch.setattr(Patterns, "find", fail)
    call = store.call(request(PROMPT), answer(ANSWER))
    ledger = store.drain()
    for which in ("request", "response"):
        with pytest.raises(MissingError, match="failed on it"):
            store.home.vault.get_kept(call, which)
    assert ledger.redactor is not None
    assert ledger.redactor.counts == {"redaction-failed": 2}
    assert "ValueError" in caplog.text
    assert MAIL not in caplog.text
    assert store.leaf(ledger, call).finish == "complete"  # the call is on record all the same


def test_an_engine_that_cannot_be_loaded_leaves_calls_in_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_rule: Redaction) -> Engine:
        raise StoreError("redaction-unusable", "the engine does not know such entities")

    made = Store(tmp_path / ".genealog", '[[redaction]]\nengine = "presidio"\nentities = ["NAMES"]\n')
    call = made.call(request(PROMPT), answer(ANSWER))
    monkeypatch.setattr("genealog.redaction._load", refuse)
    with pytest.raises(StoreError, match="redaction-unusable"):
        made.drain()
    monkeypatch.undo()
    settings = tmp_path / ".genealog" / "genealog.toml"
    settings.write_text(settings.read_text().replace("presidio", "patterns").replace("NAMES", "email"))
    made.home.reload()
    made.drain()
    assert made.kept(call, "request")
    made.spool.close()
    made.home.close()


def everything(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def test_nothing_personal_is_left_in_any_file(store: Store) -> None:
    calls = [
        store.call(request(PROMPT), answer(ANSWER)),
        store.call(request(PROMPT, user=MAIL), b"".join(stream(ANSWER)), content_type="text/event-stream"),
        store.call(request(PROMPT), b"no JSON " + MAIL.encode()),
    ]
    store.spool.close()
    store.drain()
    for path, data in everything(store.home.path):
        assert MAIL.encode() not in data, path
        assert base64.b64encode(MAIL.encode())[:20] not in data, path
    for call in calls:
        for which in ("request", "response"):
            try:
                body, _ = store.home.vault.get_kept(call, which)
            except MissingError:
                continue
            assert MAIL.encode() not in body
            assert CARD.encode() not in body


@pytest.mark.parametrize("rules", ["", RULE])
@pytest.mark.parametrize("capture", ["encrypted", "hashes", "none"])
def test_each_capture_keeps_what_it_says(tmp_path: Path, capture: str, rules: str) -> None:
    made = Store(tmp_path / ".genealog", rules)
    image = base64.b64encode(b"\x89PNG" + bytes(100)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    words = json.loads(request(PROMPT))
    words["messages"].append({"role": "user", "content": [{"type": "text", "text": PROMPT}, part]})
    words["metadata"] = {"note": PROMPT}
    asked = json.dumps(words).encode()
    call = made.call(asked, answer(ANSWER), capture=capture)
    made.spool.close()
    made.drain()
    vault = made.home.vault
    for which in ("request", "response"):
        if capture == "encrypted":
            assert vault.get_kept(call, which)[0]
        else:
            with pytest.raises(MissingError, match="body-not-kept"):
                vault.get_kept(call, which)
    found = {hit.which for text in (PROMPT, ANSWER) for hit in Answers(made.home).find(text)}
    assert found == (set() if capture == "none" else {"request", "response"})
    groups = {name: body for name, (_, body) in vault.get_groups(call).items()}
    for body in groups.values():
        for text in (MAIL, CARD, image[:40], PROMPT):
            assert text.encode() not in body
    digests = [sha256_hex(PROMPT.encode()), sha256_hex(ANSWER.encode()), sha256_hex(b"\x89PNG" + bytes(100))]
    told = [any(digest.encode() in body for body in groups.values()) for digest in digests]
    assert any(told) == (capture != "none")
    for path, data in everything(made.home.path):
        assert MAIL.encode() not in data, path
    made.home.close()


def test_presidio_masks_too(tmp_path: Path) -> None:
    made = Store(tmp_path / ".genealog", '[[redaction]]\nengine = "presidio"\nentities = ["EMAIL_ADDRESS"]\n')
    call = made.call(request(PROMPT), answer(ANSWER))
    made.drain()
    body, by = made.home.vault.get_kept(call, "request")
    assert by is not None
    assert by.startswith("presidio/")
    assert b"Write to [EMAIL_ADDRESS] about" in body
    made.spool.close()
    made.home.close()


def test_a_rendering_is_shown_by_name(store: Store, cli: Cli) -> None:
    call = store.call(request(PROMPT), answer(ANSWER))
    plain = store.call(request(TEXT), answer(TEXT), who={"tenant": "other"})
    store.drain()
    shown = cli("vault", "redacted", call, "--prompt", "--store", str(store.home.path))
    assert shown.json["t"] == TAG
    assert MASKED[0] in json.dumps(shown.json)
    assert "not-redacted" in cli("vault", "redacted", plain, "--store", str(store.home.path)).err
    refused = cli("disclose", call, "--groups", "response", "--answer", "-o", "x.json", "--store", str(store.home.path))
    assert "body-redacted" in refused.err


def test_no_rules_is_no_redactor() -> None:
    assert Redactor([]).forms(ANSWER) == ()
