"""The agent that `benchmarks.policy` asks: OPA's REST API with the real engine in it, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

if __name__ == "__main__":
    from policy import inputs, opa_server  # type: ignore[import-not-found]

    with opa_server.serving(inputs.everything().files) as agent:
        print(agent.url, flush=True)
        sys.stdin.read()
