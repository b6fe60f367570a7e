"""Regorus in process: a Rego interpreter in Rust, the default engine.

A built-in that fails raises here, and so does one that this build does not have; `http.send` is one of those. There is
no limit on the time of one evaluation: the self-test at the start has one.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from genealog.errors import GenealogError, PolicyDenied, not_installed
from genealog.policy.port import ENTRY
from genealog.policy.sets import PolicySet


class Regorus:
    """A policy set in one Regorus engine."""

    def __init__(self, policies: PolicySet) -> None:
        """Load a set. Raises: MissingError `extra-not-installed`; PolicyDenied `policy-malformed`."""
        try:
            import regorus
        except ModuleNotFoundError:
            raise not_installed("the policy engine", "gordon-to-regorus", "policy") from None
        self.name = f"regorus {version('gordon-to-regorus')}"
        self._engine: Any = regorus.Engine()
        try:
            for path, text in policies.modules.items():
                self._engine.add_policy(path, text)
            self._engine.add_data_json(policies.files["data.json"].decode())
        except RuntimeError as error:
            raise _error("policy-malformed", error) from None

    def evaluate(self, document: bytes) -> object:
        """As `port.Engine.evaluate`."""
        try:
            self._engine.set_input_json(document.decode())
            found = self._engine.eval_rule_as_json(ENTRY)
        except (RuntimeError, UnicodeDecodeError) as error:
            raise _error("policy-error", error) from None
        decoded: object = msgspec.json.decode(found) if found else None
        return decoded

    def close(self) -> None:
        """Nothing is held."""


def _error(code: str, error: Exception) -> GenealogError:
    said = str(error).partition("\n\nStack backtrace")[0].strip()
    return PolicyDenied(code, "the policy engine gave no answer", got=said[-300:] or repr(error)[:300])
