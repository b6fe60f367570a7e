"""The reverse proxy: provenance on every call, without touching the apps."""
