"""What a bare install leaves out, and how to get it."""

from __future__ import annotations

from importlib.util import find_spec

from genealog.errors import not_installed

EXTRAS = {
    "gateway": ("prometheus_client",),
    "policy": ("uvicorn",),
    "kubernetes": ("uvicorn", "yaml"),
    "replica": ("uvicorn",),
    "witness": ("httptools", "rfc3161_client", "uvicorn"),
    "engine": ("httptools", "numpy", "peft", "safetensors", "torch", "transformers", "uvicorn"),
    "scale": ("obstore", "psycopg"),
    "demo": ("gguf", "openai", "peft", "torch", "transformers", "uvicorn"),
}


def require(extra: str) -> None:
    """Check that the libraries of an extra are here. Raises: MissingError `extra-not-installed`."""
    absent = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if absent:
        raise not_installed(f"genealog {extra}", ", ".join(absent), extra)
