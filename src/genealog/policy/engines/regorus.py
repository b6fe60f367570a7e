"""Regorus in process: a Rego interpreter in Rust, the default engine.

A built-in that fails raises here, and so does one that this build does not have. `http.send` does nothing in it and is
undefined: `policy.forbidden` refuses the name before. There is no limit on the time of one evaluation in process:
`policy.trial` has one, in a process of its own, for policies that did not come with Genealog.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from genealog.errors import PolicyDenied, not_installed
from genealog.policy.port import ENTRY

_UNDEFINED = '"<undefined>"'  # what this build gives for it; a decision is never a string


class Regorus:
    """The files of a policy set in one Regorus engine."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Load Rego files and `data.json`.

        Raises: MissingError `extra-not-installed`; PolicyDenied `policy-malformed`.
        """
        try:
            import regorus
        except ModuleNotFoundError:
            raise not_installed("the policy engine", "gordon-to-regorus", "policy") from None
        self.name = f"regorus {version('gordon-to-regorus')}"
        loaded: Any = regorus.Engine()
        try:
            for path, data in files.items():
                if path.endswith(".rego"):
                    loaded.add_policy(path, data.decode())
            loaded.add_data_json(files["data.json"].decode())
        except BaseException as error:  # noqa: BLE001 - a panic in Rust is no `Exception`
            raise _refused("policy-malformed", error) from None
        self._loaded = loaded  # never asked itself: what it was before the first input
        self._engine: Any = loaded.clone()

    def evaluate(self, document: bytes) -> object:
        """As `port.Engine.evaluate`."""
        try:
            self._engine.set_input_json(document.decode())
            found = self._engine.eval_rule_as_json(ENTRY)
            decoded: object = None if found == _UNDEFINED else msgspec.json.decode(found)
        except BaseException as error:  # noqa: BLE001 - a panic in Rust is no `Exception`
            self._engine = self._loaded.clone()  # half an evaluation is in the other
            raise _refused("policy-error", error) from None
        return decoded

    def close(self) -> None:
        """Nothing is held."""


def _refused(code: str, error: BaseException) -> PolicyDenied:
    """Turn what the library raises into a refusal. What is no fault is raised again."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        raise error
    said = str(error).partition("\n\nStack backtrace")[0].strip()
    return PolicyDenied(code, "the policy engine gave no answer", got=said[-300:] or repr(error)[:300])
