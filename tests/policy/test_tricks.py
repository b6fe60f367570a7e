"""What policies, settings and engines might try in order to get a yes."""

from __future__ import annotations

import pytest

from genealog.errors import MalformedError
from genealog.policy.decide import Policies
from genealog.policy.sets import read_policies
from policy.inputs import everything, good

CARD = "# METADATA\n# title: Mine\n# custom:\n#   points: serve\n#   codes: mine\n"
RULES = "\nimport rego.v1\n\ndefault applies := false\n\ndefault allow := true\n"


def test_an_engine_that_panics_has_said_no() -> None:
    class Panic(BaseException):
        pass

    class Panicking:
        name = "panicking"

        def evaluate(self, _: bytes) -> object:
            raise Panic

        def close(self) -> None:
            pass

    verdict = Policies(everything(), Panicking()).judge(good("serve")).verdict
    assert (verdict.allow, verdict.code) == (False, "policy-error")


@pytest.mark.parametrize(
    "text",
    [
        f"{CARD}package genealog.policies.registered\n{RULES}text := `\npackage genealog.policies.mine\n`\n",
        f"{CARD}package genealog\n{RULES}text := `\npackage genealog.policies.mine\n`\n",
        f"package genealog.policies.registered\n{CARD}{RULES}# \npackage genealog.policies.mine\n",
        f"{CARD}package genealog.policies.mine.deeper\n{RULES}",
        f"{CARD}# package genealog.policies.mine\n{RULES}",
        "",
    ],
    ids=["of-another", "of-all", "two", "deeper", "comment", "empty"],
)
def test_a_policy_has_its_own_package_and_no_other(text: str) -> None:
    assert read_policies({"mine.rego": f"{CARD}package genealog.policies.mine\n{RULES}"}, "here")
    with pytest.raises(MalformedError) as refused:
        read_policies({"mine.rego": text}, "here")
    assert refused.value.code == "policy-malformed"


def test_a_card_ends_at_the_package() -> None:
    text = f"{CARD}package genealog.policies.mine\n{RULES}text := `\n# breakable: true\n`\n"
    assert not read_policies({"mine.rego": text}, "here")["mine"].breakable
