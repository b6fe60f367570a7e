"""Keys that principals call with: `gl_ID_SECRET`. The ID is public; of the whole only a digest is kept.

The secret has 256 random bits. A slow hash makes guessing of words that people choose expensive; here there is nothing
to guess, and it would make every call slow.
"""

from __future__ import annotations

import hashlib
import re
import secrets

KEY = re.compile(rb"gl_([0-9a-z]{12})_([0-9A-Za-z_-]{43})")
PREFIX = b"gl_"
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_key() -> tuple[str, str, str]:
    """Return a new key: its public ID, the key itself, and the hex SHA-256 that is kept of it."""
    identity = "".join(secrets.choice(_LETTERS) for _ in range(12))
    key = f"gl_{identity}_{secrets.token_urlsafe(32)}"
    return identity, key, hashlib.sha256(key.encode()).hexdigest()
