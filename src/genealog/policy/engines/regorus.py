"""Regorus in process: a Rego interpreter in Rust, the default engine.

A built-in that fails raises here, and so does one that this build does not have. `http.send` does nothing in it and is
undefined: `policy.forbidden` refuses the name before. There is no limit on the time of one evaluation in process:
`policy.trial` has one, in a process of its own, for policies that did not come with Genealog.

An engine of Regorus panics on every thread but the one that made it, and when it dies on another; the collector runs on
any. So it is made, asked and dropped on one thread that does nothing else.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import msgspec

from genealog.errors import PolicyDenied, not_installed
from genealog.policy.port import ENTRY

_UNDEFINED = '"<undefined>"'  # what this build gives for it; a decision is never a string
_here = threading.local()  # of the thread of one engine


class Regorus:
    """The files of a policy set in one Regorus engine, which lives in a thread of its own; any thread may ask it."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """Load Rego files and `data.json`.

        Raises: MissingError `extra-not-installed`; PolicyDenied `policy-malformed`.
        """
        try:
            import regorus  # noqa: F401
        except ModuleNotFoundError:
            raise not_installed("the policy engine", "gordon-to-regorus", "policy") from None
        self.name = f"regorus {version('gordon-to-regorus')}"
        self._files = dict(files)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._thread = ThreadPoolExecutor(1, "regorus")
        refused = self._thread.submit(_load, self._files).result()
        if refused is not None:
            self.close()
            raise refused

    def evaluate(self, document: bytes) -> object:
        """As `port.Engine.evaluate`."""
        if self._process != os.getpid():  # a fork has no threads
            self._start()
        found = self._thread.submit(_evaluate, document).result()
        if isinstance(found, PolicyDenied):
            raise found
        return found

    def close(self) -> None:
        """End the thread, and the engine with it."""
        self._thread.shutdown(wait=False)


def _load(files: Mapping[str, bytes]) -> PolicyDenied | None:
    import regorus

    try:
        loaded: Any = regorus.Engine()
        for path, data in files.items():
            if path.endswith(".rego"):
                loaded.add_policy(path, data.decode())
        loaded.add_data_json(files["data.json"].decode())
        _here.loaded = loaded  # never asked itself: what it was before the first input
        _here.engine = loaded.clone()
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no `Exception`
        return _refused("policy-malformed", error)
    return None


def _evaluate(document: bytes) -> object:
    """Return the decision, or why there is none: an error that is raised would keep the engine for another thread."""
    try:
        _here.engine.set_input_json(document.decode())
        found = _here.engine.eval_rule_as_json(ENTRY)
        decoded: object = None if found == _UNDEFINED else msgspec.json.decode(found)
    except BaseException as error:  # noqa: BLE001 - as above
        _here.engine = _here.loaded.clone()  # half an evaluation is in the other
        return _refused("policy-error", error)
    return decoded


def _refused(code: str, error: BaseException) -> PolicyDenied:
    """Turn what the library raises into a refusal."""
    said = str(error).partition("\n\nStack backtrace")[0].strip()
    return PolicyDenied(code, "the policy engine gave no answer", got=said[-300:] or repr(error)[:300])
