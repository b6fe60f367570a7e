"""Log lines of the gateway: text for people, or one JSON object a line for machines.

    {"at": "2026-11-22T12:00:00.000Z", "level": "warning", "logger": "genealog.gateway", "message": "…", "pid": 4711}

No line holds a body, a header or a secret: whoever logs writes codes and IDs.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

from genealog.core.canonical import timestamp


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "at": timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(style: Literal["text", "json"]) -> None:
    """Send what this process logs to its standard error, in one style."""
    handler = logging.StreamHandler()
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
