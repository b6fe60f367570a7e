"""Fixtures for every test: the tiny model is made once a session, when the first test asks for it."""

import os

from tiny_model import tiny_adapter, tiny_base

__all__ = ["tiny_adapter", "tiny_base"]

for _name in ("COLUMNS", "LINES"):  # whoever runs tests in parallel sets them, and tables are read at their own width
    os.environ.pop(_name, None)
