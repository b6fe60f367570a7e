"""Write docs/reference/policies.md from the cards and the METADATA of the policies that come with Genealog.

python scripts/make_policy_reference.py            write the page
python scripts/make_policy_reference.py --check    say whether it is up to date (a test does the same)
"""

from __future__ import annotations

import sys
from pathlib import Path

from genealog.core.policy import POINTS, Point
from genealog.policy.sets import BASELINE, BASELINE_FLAGS, Policy, default_policies

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "policies.md"
SOURCE = "../../src/genealog/policy/defaults"
HEAD = """# Policies

Made from the cards of the policies by `scripts/make_policy_reference.py`; change those, not this page.

Each policy asks one question and allows on good facts only. What the facts are, [policy-input.md](policy-input.md)
says; what becomes of a no, [the explanation](../explanation/policy.md); what the codes mean, [errors.md](errors.md).
Every policy about models says `facts-missing` where the input does not have all of them.

**●** in force unless an environment takes it off · **○** the same, but it only flags · **+** for you to turn on

"""


def page() -> str:
    """Return the whole page."""
    policies = default_policies()
    rows = [
        f"| policy | {' | '.join(f'`{point}`' for point in POINTS)} | break-glass |",
        f"|---|{'---|' * len(POINTS)}---|",
    ]
    for name, policy in policies.items():
        marks = " | ".join(_mark(policy, point) for point in POINTS)
        rows.append(f"| [{policy.title}](#{name}) | {marks} | {'yes' if policy.breakable else 'no'} |")
    return HEAD + "\n".join(rows) + "\n" + "".join(map(_section, policies.values()))


def _mark(policy: Policy, point: Point) -> str:
    if point not in policy.points:
        return ""
    if policy.name not in BASELINE.get(point, ()):
        return "+"
    return "○" if policy.name in BASELINE_FLAGS else "●"


def _section(policy: Policy) -> str:
    text = (policy.page or "").partition("\n")[2].strip()
    codes = " ".join(f"[`{code}`](errors.md#{code})" for code in policy.codes)
    return (
        f"\n## `{policy.name}`\n\n*{policy.description}* [Rego]({SOURCE}/{policy.name}.rego) · "
        f"[tests]({SOURCE}/{policy.name}_test.rego)\n\n{text}\n\n**Codes.** {codes}\n"
    )


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit status."""
    text = page()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text() == text:
            return 0
        print("docs/reference/policies.md is not what the policies say; run scripts/make_policy_reference.py")
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
