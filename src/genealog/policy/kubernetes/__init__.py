"""Kubernetes asks before it runs a model: the workload as facts, the webhook that answers, and what installs it."""
