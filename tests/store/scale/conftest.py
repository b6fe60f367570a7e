"""Servers for the tests of the scale driver, and the folder of this file for what they share."""

from __future__ import annotations

import sys
from pathlib import Path

from postgres import own_postgres, postgres
from s3 import s3_bucket, s3_server

sys.path.insert(0, str(Path(__file__).parent))

__all__ = ["own_postgres", "postgres", "s3_bucket", "s3_server"]
