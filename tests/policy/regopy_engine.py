"""regopy, rego-cpp in process: an engine that is not offered, because the self-test refuses it. Here to be refused."""

from __future__ import annotations

from collections.abc import Mapping

import regopy

from genealog.errors import PolicyDenied


class Regopy:
    """The files of a policy set, built once. `strict`: a built-in that fails is an error and not undefined."""

    name = "regopy"

    def __init__(self, files: Mapping[str, bytes], *, strict: bool = True) -> None:
        self._engine = regopy.Interpreter()
        self._engine.strict_built_in_errors = strict
        for path, data in files.items():
            if path.endswith(".rego"):
                self._engine.add_module(path, data.decode())
        self._engine.add_data_json(files["data.json"].decode())
        self._built = self._engine.build(None, ["genealog/decision"])

    def evaluate(self, document: bytes) -> object:
        """Return the decision. Raises: PolicyDenied `policy-error`."""
        self._engine.set_input_term(document.decode())
        output = self._engine.query_bundle_entrypoint(self._built, "genealog/decision")
        if not output.ok():
            raise PolicyDenied("policy-error", "regopy gives an error", got=output)
        found: object = None if str(output) == "undefined" else output[0].expressions[0]
        return found

    def close(self) -> None:
        """Nothing is held."""
