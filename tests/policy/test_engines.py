"""Every engine answers alike, real Open Policy Agent being the reference; and what fails is a no with a code.

Long because every engine goes through the same cases, and an agent through all that an agent can do wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genealog.core.canonical import encode
from genealog.core.policy import POINTS, Point, read_verdict
from genealog.errors import GenealogError, PolicyDenied
from genealog.policy import forbidden, self_test, trial
from genealog.policy.engines import open_engine
from genealog.policy.engines.opa import Opa
from genealog.policy.engines.regorus import Regorus
from genealog.policy.paths import paths, without
from genealog.policy.port import Engine
from genealog.policy.sets import PolicySet, default_policies, load_set, make_set
from genealog.store.config import Config
from genealog.store.policy_settings import Environment
from genealog.store.policy_settings import Policy as Settings
from policy import opa_server
from policy.inputs import ENVIRONMENT, bad, everything, good
from policy.opa_server import Agent, Fault, GoOpa
from policy.regopy_engine import Regopy

VECTORS = Path(__file__).parent / "vectors"
HEAD = "package genealog\n\nimport rego.v1\n\n"
CARD = "# METADATA\n# title: Mine\n# custom:\n#   points: deploy\n#   codes: mine-denied\n"
OWN = f"{CARD}package genealog.policies.mine\n\nimport rego.v1\n\ndefault applies := true\n\ndefault allow := false\n\n"


@dataclass(frozen=True)
class Vector:
    name: str
    files: Mapping[str, bytes]
    input: bytes
    expected: object  # `error`: PolicyDenied
    regorus: object


def vectors(name: str) -> list[Vector]:
    found = []
    for each in json.loads((VECTORS / f"{name}.json").read_text("utf-8")):
        files = {
            "main.rego": (HEAD + "\n".join(each["rego"]) + "\n").encode(),
            "data.json": json.dumps({"genealog": {"settings": {}}} | each["data"]).encode(),
        }
        expected = "error" if each.get("error") else each["decision"]
        found.append(
            Vector(each["name"], files, json.dumps(each["input"]).encode(), expected, each.get("regorus", expected))
        )
    return found


ALL = [each for name in ("numbers", "text", "collections", "undefined", "errors") for each in vectors(name)]
DIFFERENCES = vectors("differences")


def answer(open_: self_test.Open, vector: Vector) -> object:
    try:
        engine = open_(vector.files)
        try:
            return engine.evaluate(vector.input)
        finally:
            engine.close()
    except PolicyDenied:
        return "error"


def over_http(files: Mapping[str, bytes], agent: Agent) -> Engine:
    """Open the agent for these files, as if they were a policy set."""
    agent.load(files)
    modules = {path: data.decode() for path, data in files.items() if path.endswith(".rego")}
    data = json.loads(files["data.json"])["genealog"]["settings"]
    return Opa(asked_of(agent), cast("PolicySet", SimpleNamespace(modules=modules, settings=data)))


def asked_of(agent: Agent, **more: Any) -> Settings:
    return Settings(engine="opa", url=agent.url, **{"timeout_ms": 5_000, **more})


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with opa_server.serving(everything().files) as served:
        yield served


@pytest.fixture
def ours(agent: Agent) -> Agent:
    agent.load(everything().files)
    agent.fault, agent.token = "", None
    agent.asked.clear()
    return agent


@pytest.mark.parametrize("vector", ALL, ids=lambda vector: vector.name)
def test_every_engine_answers_as_open_policy_agent(vector: Vector, ours: Agent) -> None:
    told = json.dumps(vector.expected)
    assert json.dumps(answer(GoOpa, vector)) == told
    assert json.dumps(answer(Regorus, vector)) == told
    assert json.dumps(answer(lambda files: over_http(files, ours), vector)) == told


@pytest.mark.parametrize("vector", DIFFERENCES, ids=lambda vector: vector.name)
def test_where_regorus_differs_is_known(vector: Vector) -> None:
    assert json.dumps(answer(GoOpa, vector)) == json.dumps(vector.expected)
    assert json.dumps(answer(Regorus, vector)) == json.dumps(vector.regorus)
    assert vector.regorus != vector.expected


def test_the_self_test_asks_what_open_policy_agent_answers() -> None:
    self_test.check(GoOpa)
    self_test.check(Regorus)


def test_an_engine_that_fails_open_is_refused() -> None:
    with pytest.raises(PolicyDenied, match="whole-number-text") as refused:
        self_test.check(Regopy)
    assert refused.value.code == "policy-engine-unfit"


@pytest.mark.parametrize("question", [*self_test.ANSWERS, *self_test.TRAPS, *self_test.SILENT])
def test_each_question_of_the_self_test_is_held(question: str) -> None:
    class Wrong(GoOpa):
        """Wrong in one thing."""

        def __init__(self, files: Mapping[str, bytes]) -> None:
            rule = (self_test.TRAPS | self_test.SILENT).get(question)
            self.hit = rule is not None and rule in files["main.rego"].decode()
            super().__init__({"main.rego": b"package genealog\n", "data.json": b"{}"} if self.hit else files)

        def evaluate(self, document: bytes) -> object:
            if self.hit:
                return {"allow": True}
            found = super().evaluate(document)
            if isinstance(found, dict) and question in found.get("answers", {}):
                found["answers"][question] = "wrong"
            return found

    with pytest.raises(PolicyDenied) as refused:
        self_test.check(Wrong)
    assert refused.value.code == "policy-engine-unfit"
    assert question in refused.value.message


def test_regopy_lets_a_deny_rule_sleep() -> None:
    sleeping = HEAD + (
        'deny if time.parse_rfc3339_ns("2020-01-01T00:00:00Z") < 9000000000000000000\n'
        'default allow := false\nallow if not deny\ndecision := {"allow": allow}\n'
    )
    files = {"main.rego": sleeping.encode(), "data.json": b"{}"}
    assert GoOpa(files).evaluate(b"{}") == {"allow": False}
    assert Regorus(files).evaluate(b"{}") == {"allow": False}
    assert Regopy(files, strict=False).evaluate(b"{}") == {"allow": True}


@cache
def reference() -> tuple[PolicySet, GoOpa, Regorus]:
    policies = everything()
    return policies, GoOpa(policies.files), Regorus(policies.files)


def same(document: bytes, point: Point, other: Engine) -> None:
    policies, truth, _ = reference()
    asked = policies.asked(ENVIRONMENT, point)

    def verdict(engine: Engine) -> object:
        try:
            return read_verdict(engine.evaluate(document), asked)
        except PolicyDenied as error:
            return error.code

    assert verdict(other) == verdict(truth)


@pytest.fixture(scope="module")
def asking() -> Iterator[Engine]:
    with opa_server.serving(everything().files) as served:
        engine = Opa(asked_of(served), everything())
        yield engine
        engine.close()


@pytest.mark.parametrize("point", POINTS)
def test_every_engine_allows_what_is_good(point: Point, asking: Engine) -> None:
    document = encode(good(point))
    policies, truth, regorus = reference()
    assert read_verdict(truth.evaluate(document), policies.asked(ENVIRONMENT, point)).allow
    same(document, point, regorus)
    same(document, point, asking)


@pytest.mark.parametrize("each", bad(), ids=lambda each: each.name)
def test_every_engine_says_no_alike(each: Any, asking: Engine) -> None:
    document = encode(each.document)
    same(document, each.point, reference()[2])
    same(document, each.point, asking)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_every_engine_judges_what_is_left_of_an_input_alike(data: st.DataObject, asking: Engine) -> None:
    point = data.draw(st.sampled_from(POINTS))
    start = data.draw(st.sampled_from([good(point), *(each.document for each in bad() if each.point == point)]))
    document: Any = json.loads(encode(start))
    for _ in range(data.draw(st.integers(1, 4))):
        document = without(document, data.draw(st.sampled_from(sorted(paths(document), key=str))))
    sent = msgspec.json.encode(document)
    same(sent, point, reference()[2])
    same(sent, point, asking)


def test_an_error_leaves_nothing_behind_in_the_engine() -> None:
    files = {
        "main.rego": (HEAD + 'decision := {"n": to_number(input.a)}\n').encode(), "data.json": b"{}",
    }  # fmt: skip
    engine = Regorus(files)
    for wrong in (b'{"a": "x"}', b'{"a": "\xff"}', b'{"a": ', b"[" * 100_000, b'{"a": "\\ud800"}', b""):
        with pytest.raises(PolicyDenied) as refused:
            engine.evaluate(wrong)
        assert refused.value.code == "policy-error"
        assert engine.evaluate(b'{"a": "5"}') == {"n": 5}
    assert engine.evaluate(b'{"b": "5"}') is None


def test_every_thread_may_ask_an_engine_and_let_go_of_it() -> None:
    files = {"main.rego": (HEAD + 'decision := {"n": to_number(input.a)}\n').encode(), "data.json": b"{}"}
    engines = [Regorus(files)]
    found: list[object] = []

    def ask() -> None:
        with pytest.raises(PolicyDenied):
            engines[0].evaluate(b'{"a": "x"}')
        found.append(engines[0].evaluate(b'{"a": "5"}'))

    for _ in range(2):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    thread = threading.Thread(target=engines.clear)
    thread.start()
    thread.join()
    assert found == [{"n": 5}, {"n": 5}]


def test_an_engine_that_was_opened_before_a_fork_answers_behind_it() -> None:
    script = (
        "import os, sys\nfrom genealog.policy.engines.regorus import Regorus\n"
        "files = {'main.rego': b'package genealog\\ndecision := {\"n\": 1}\\n', 'data.json': b'{}'}\n"
        "engine = Regorus(files)\nengine.evaluate(b'{}')\nchild = os.fork()\n"
        "if child == 0:\n    os._exit(0 if engine.evaluate(b'{}') == {'n': 1} else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False, timeout=30)
    assert done.returncode == 0


FAULTS: dict[Fault, str] = {
    "slow": "policy-timeout", "dripping": "policy-timeout", "status": "policy-error", "junk": "policy-error",
    "list": "policy-error", "redirect": "policy-error", "truncated": "policy-error", "huge": "policy-error",
    "gone": "policy-engine-missing",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_an_agent_that_does_wrong_says_no(fault: Fault, ours: Agent) -> None:
    engine = Opa(asked_of(ours, timeout_ms=800), everything())
    assert ours.engine.evaluate(encode(good("serve"))) is not None  # it has compiled its policies before the clock runs
    ours.fault = fault
    with pytest.raises(PolicyDenied) as refused:
        engine.evaluate(encode(good("serve")))
    assert refused.value.code == FAULTS[fault]
    ours.fault = ""
    assert engine.evaluate(encode(good("serve"))) is not None
    engine.close()


def test_an_agent_without_an_answer_is_undefined(ours: Agent) -> None:
    engine = Opa(asked_of(ours), everything())
    ours.fault = "undefined"
    assert engine.evaluate(encode(good("serve"))) is None
    engine.close()


def test_an_agent_that_is_not_there() -> None:
    with pytest.raises(PolicyDenied) as refused:
        Opa(Settings(engine="opa", url="http://127.0.0.1:9"), everything())
    assert refused.value.code == "policy-engine-missing"


def test_an_agent_with_a_kept_connection_that_was_closed(ours: Agent) -> None:
    engine = Opa(asked_of(ours), everything())
    assert engine.evaluate(encode(good("serve"))) is not None
    ours.fault = "gone"
    with pytest.raises(PolicyDenied):
        engine.evaluate(encode(good("serve")))
    assert ours.asked.count("/v1/data/genealog/decision") == 3  # asked again once: it changes nothing
    engine.close()


def test_an_agent_that_decides_by_another_set_is_refused(ours: Agent) -> None:
    other = dict(everything().files)
    path = next(path for path in other if path.startswith("policies/"))
    for changed in (
        {**other, path: other[path] + b"\n# changed\n"},
        {name: data for name, data in other.items() if name != path},
        {**other, "more.rego": b"package genealog.policies.registered\n\nimport rego.v1\n\nallow if true\n"},
        {**other, "data.json": b'{"genealog": {"settings": {}}}'},
    ):
        ours.load(changed)
        with pytest.raises(PolicyDenied) as refused:
            Opa(asked_of(ours), everything())
        assert refused.value.code == "policy-other-revision"
    ours.load({**other, "more.rego": b"package elsewhere\n\nx := 1\n"})
    Opa(asked_of(ours), everything()).close()


@pytest.mark.parametrize("bundle", ["2", None], ids=["with-a-bundle", "without-one"])
def test_an_agent_whose_policies_change_is_looked_at_again(
    bundle: str | None, ours: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bundle is None:
        ours.load(everything().files, None)
        monkeypatch.setattr("genealog.policy.engines.opa._LOOK", 0.0)
    engine = Opa(asked_of(ours), everything())
    assert engine.evaluate(encode(good("serve"))) is not None
    ours.load(everything().files, bundle)
    assert engine.evaluate(encode(good("serve"))) is not None
    ours.load({**everything().files, "data.json": b'{"genealog": {"settings": {"x": 1}}}'}, bundle and "3")
    with pytest.raises(PolicyDenied) as refused:
        engine.evaluate(encode(good("serve")))
    assert refused.value.code == "policy-other-revision"
    engine.close()


def test_the_token_of_an_agent_is_shown_to_nobody(ours: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_TOKEN", "opa-secret-5f0c")
    ours.token = "opa-secret-5f0c"
    engine = Opa(asked_of(ours, token="env:POLICY_TOKEN"), everything())
    ours.token = "another"
    with pytest.raises(PolicyDenied) as refused:
        engine.evaluate(encode(good("serve")))
    engine.close()
    assert refused.value.got == "status 401"
    for wrong in ("opa-secret-5f0c\r\nx: y", "opa-secret-é"):
        monkeypatch.setenv("POLICY_TOKEN", wrong)
        with pytest.raises(GenealogError) as bad_token:
            Opa(asked_of(ours, token="env:POLICY_TOKEN"), everything())
        assert bad_token.value.code == "no-secret"
        assert "secret-5f0c" not in str(bad_token.value)
        assert "opa-secret" not in str(refused.value)


def test_a_token_goes_to_another_machine_over_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICY_TOKEN", "opa-secret-5f0c")
    with pytest.raises(GenealogError) as refused:
        Opa(Settings(engine="opa", url="http://opa.example.org", token="env:POLICY_TOKEN"), everything())
    assert refused.value.code == "bad-url"


def test_the_opener_takes_the_engine_of_the_settings(ours: Agent) -> None:
    assert open_engine(Settings(), everything()).name.startswith("regorus ")
    engine = open_engine(asked_of(ours), everything())
    assert engine.name == "opa 1.20.0"
    engine.close()


def own_set(folder: Path, rule: str) -> PolicySet:
    folder.joinpath("mine.rego").write_text(OWN + rule + "\n")
    asked = Settings(folder=".", environments={"default": Environment(deny=("mine",))})
    return load_set(cast("Config", SimpleNamespace(policy=asked)), folder)


def test_a_policy_of_ones_own_is_tried_in_a_process_of_its_own(tmp_path: Path) -> None:
    policies = own_set(tmp_path, "allow if input.subject.models > 0")
    assert trial.needed(policies)
    open_engine(Settings(), policies)
    assert not trial.needed(policies)
    assert not trial.needed(make_set(default_policies(), Settings()))


LOOP = "allow if count([1 | some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x == y]) > 0"


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (LOOP, "policy-timeout"),
        ("allow if (", "policy-malformed"),
        ("x := " + "\n".join(["[" * 900] * 30 + ["1"] + ["]" * 900] * 30), "policy-malformed"),
    ],
    ids=["a-loop", "no-rego", "one-that-kills-the-interpreter"],
)
def test_a_policy_that_cannot_be_tried_is_refused(rule: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyDenied) as refused:
        trial.hold(own_set(tmp_path, rule), 3.0)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "rule",
    [
        "allow if http.send({}).status_code == 200",
        'allow if http["send"]({}).status_code == 200',
        "allow if http[`send`]({})",
        "allow if http . # a word\n send({})",
        'allow if time["now\\u005fns"]() > 0',
        "allow if rand.intn(`a`, 5) == 1",
        "allow if opa.runtime().env.HOME",
        'allow if net.lookup_ip_addr("a")',
        "allow if uuid.rfc4122(`a`)",
        "allow if [1 | f := [http.send][0]]",
        'allow if trace("a")',
        'allow if $"{http.send({})}"',
    ],
)
def test_a_policy_that_reaches_outside_is_refused_whichever_engine_it_is_for(rule: str, tmp_path: Path) -> None:
    policies = own_set(tmp_path, rule)
    line = (OWN + rule).count("\n", 0, len(OWN)) + 1
    for chosen in (Settings(), Settings(engine="opa", url="http://127.0.0.1:9")):
        with pytest.raises(PolicyDenied) as refused:
            open_engine(chosen, policies)
        assert refused.value.code == "policy-malformed"
        assert f"line {line}: " in (refused.value.got or "")


@pytest.mark.parametrize(
    "rule",
    ["# http.send is off", 'x := "http.send(1)"', "x := `time.now_ns()`", "x := input.http.send", "x := data.trace"],
)
def test_a_name_in_a_comment_a_text_or_a_fact_is_no_call(rule: str) -> None:
    forbidden.check({"x.rego": HEAD + rule})
