"""The gateways of others that `benchmarks.gateways` runs beside ours: how each is set up and started.

Each has an environment of its own, made by `make bench-gateways`; one that is absent is left out with a word. They run
as their documents say for one worker, in front of the same upstream, on one core. Facts of set-up: LiteLLM without a
database; MLflow's AI gateway inside `mlflow server` on SQLite, usage tracking off and on; aegis-gateway without
guardrails on SQLite; Portkey's open-source gateway on Node.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-bench"
MODEL = "bench-model"
_MLFLOW = """
import sys
from mlflow.entities.gateway_endpoint import GatewayEndpointModelConfig, GatewayModelLinkageType
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

store = SqlAlchemyStore(sys.argv[1], sys.argv[2])
secret = store.create_gateway_secret("bench", {"api_key": "sk-bench"}, provider="openai",
                                     auth_config={"api_base": sys.argv[3]})
model = store.create_gateway_model_definition("bench-def", secret.secret_id, "openai", "bench-model")
for name, tracking in (("bench-traced", True), ("bench-model", False)):
    link = GatewayEndpointModelConfig(model.model_definition_id, GatewayModelLinkageType.PRIMARY)
    store.create_gateway_endpoint(name, [link], usage_tracking=tracking)
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """One gateway: its command, and how it is asked. `ways` maps the name of a way to its model."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    headers: Mapping[str, str] = field(default_factory=dict)
    ways: Mapping[str, str] = field(default_factory=lambda: {"": MODEL})


def litellm(folder: Path, upstream: int, port: int) -> Peer:
    """LiteLLM's proxy."""
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": {
            "model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": KEY}}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }  # fmt: skip
    (folder / "litellm.yaml").write_text(json.dumps(config))
    command = [str(_bin("litellm") / "litellm"), "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1",
               "--port", str(port), "--num_workers", "1", "--telemetry", "False"]  # fmt: skip
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True"}
    return Peer("litellm", command, quiet, headers={"authorization": f"Bearer {KEY}"})


def mlflow(folder: Path, upstream: int, port: int) -> Peer:
    """MLflow's AI gateway."""
    database = f"sqlite:///{folder / 'mlflow.db'}"
    python = str(_bin("mlflow") / "python")
    subprocess.run([python, "-c", _MLFLOW, database, str(folder / "art"), f"http://127.0.0.1:{upstream}/v1"],
                   check=True, capture_output=True)  # fmt: skip
    command = [str(_bin("mlflow") / "mlflow"), "server", "--backend-store-uri", database, "--default-artifact-root",
               str(folder / "art"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    local = {"MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true", "MLFLOW_ENABLE_AI_GATEWAY": "true",
             "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # fmt: skip
    ways = {"": MODEL, "_traced": "bench-traced"}
    return Peer("mlflow", command, local, path="/gateway/mlflow/v1/chat/completions", ways=ways)


def aegis(folder: Path, upstream: int, port: int) -> Peer:
    """aegis-gateway, which keeps a hash-chained ledger."""
    config = {
        "providers": {"up": {"type": "openai_compatible", "base_url": f"http://127.0.0.1:{upstream}/v1",
                             "model": f"openai/{MODEL}", "api_key": KEY}},
        "guardrails": {}, "pipeline": {"ingress": [], "egress": []},
        "routes": {MODEL: {"provider": "up", "model": f"openai/{MODEL}"}}, "auth": {"type": "none"},
    }  # fmt: skip
    (folder / "aegis.yaml").write_text(json.dumps(config))
    stores = {name: str(folder / f"{name}.db") for name in ("ledger", "checkpoint", "runs")}
    command = [str(_bin("aegis") / "aegis"), "serve", "-c", str(folder / "aegis.yaml"), "--host", "127.0.0.1",
               "--port", str(port), "--no-auth", *(word for name, path in stores.items()
                                                   for word in (f"--{name}-db", path))]  # fmt: skip
    return Peer("aegis", command, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})


def portkey(_folder: Path, upstream: int, port: int) -> Peer:
    """Portkey's open-source gateway."""
    script = ROOT / ".venv-peers-portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    node = shutil.which("node")
    if node is None or not script.exists():
        raise FileNotFoundError
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
               "authorization": f"Bearer {KEY}"}  # fmt: skip
    environment = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    return Peer("portkey", [node, str(script), f"--port={port}", "--headless"], environment, headers=headers)


PEERS: Mapping[str, Callable[[Path, int, int], Peer]] = {
    "litellm": litellm, "mlflow": mlflow, "aegis": aegis, "portkey": portkey,
}  # fmt: skip


def _bin(name: str) -> Path:
    found = ROOT / f".venv-peers-{name}" / "bin"
    if not (found / "python").exists():
        raise FileNotFoundError
    return found
