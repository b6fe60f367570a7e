"""Fixtures for the tests of runs."""

from watched_runs import place

__all__ = ["place"]
