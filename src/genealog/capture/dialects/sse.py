"""Server-sent events: the data of each event in a body that may have been cut anywhere.

Source: WHATWG HTML §9.2.6. An event counts once the empty line after it is there; what follows the last one is what a
client would throw away too. Fields other than `data` say nothing that we record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE_END = re.compile("\r\n|\n|\r")


def events(body: bytes) -> Iterator[str]:
    """Yield the data of each complete event. Bytes that are not UTF-8 become U+FFFD, as the standard says."""
    data: list[str] = []
    for line in _LINE_END.split(body.decode(errors="replace").removeprefix("\N{BYTE ORDER MARK}"))[:-1]:
        if not line:
            if data:
                yield "\n".join(data)
            data = []
            continue
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
