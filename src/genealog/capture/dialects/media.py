"""Images, audio, video and files in JSON: what they are as bytes, without decoding all of a big one at once.

Base64 is taken strictly (RFC 4648 §4: the standard alphabet, padding, nothing else), because decoders differ on
everything beyond; what is spelled otherwise, and a URL that leads somewhere, is a reference: its digest is over the
reference and there is no size. Source of data URLs: RFC 2397.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from genealog.capture.dialects.multipart import media_type as media_type_of
from genealog.core.call_groups import Part
from genealog.core.ids import sha256_hex

_STEP = 1 << 20  # characters of base64 that are decoded at once; a multiple of four
_AUDIO = {"mp3": "audio/mpeg", "wav": "audio/wav", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac",
          "pcm16": "audio/pcm", "pcm": "audio/pcm"}  # fmt: skip
_IMAGES = frozenset(("png", "jpeg", "webp", "gif"))


class Media(NamedTuple):
    """Bytes by their digest, or a reference: then without a size."""

    sha256: str
    size: int | None = None
    media_type: str | None = None

    def part(self, index: int, role: str, kind: str) -> Part:
        """Return it as a part of message `index`."""
        return Part(index=index, role=role, sha256=self.sha256, type=kind, media_type=self.media_type, size=self.size)


def reference(text: str) -> Media:
    """Return what is only referred to: a URL, a file's ID."""
    return Media(sha256_hex(text.encode("utf-8", "surrogatepass")))


def of_bytes(data: bytes, media_type: str | None) -> Media:
    """Return what came as its own bytes."""
    return Media(sha256_hex(data), len(data), media_type)


def of_url(url: str) -> Media:
    """Return what a URL holds, if it is a `data:` URL that decodes; else the reference."""
    comma = url.find(",", 0, 4096)
    if url[:5].lower() != "data:" or comma < 0:
        return reference(url)
    kind, *parameters = url[5:comma].split(";")
    named = media_type_of(kind) or ("text/plain" if not kind else None)
    if parameters and parameters[-1].strip().lower() == "base64":
        return of_base64(url, named, start=comma + 1) or reference(url)
    data = unquote_to_bytes(url[comma + 1 :].encode("utf-8", "surrogatepass"))
    return Media(sha256_hex(data), len(data), named)


def of_base64(text: str, media_type: str | None = None, *, start: int = 0) -> Media | None:
    """Return what base64 holds from `start` on; None if it is not strictly base64."""
    return of_pieces((text,), media_type, start=start)


def of_pieces(pieces: Iterable[str], media_type: str | None = None, *, start: int = 0) -> Media | None:
    """Return what pieces of base64, each whole for itself, hold together; None if one is not strictly base64."""
    digest, size = hashlib.sha256(), 0
    try:
        for piece in pieces:
            for data in _decoded(piece, start):
                digest.update(data)
                size += len(data)
    except ValueError:
        return None
    return Media(digest.hexdigest(), size, media_type)


def _decoded(text: str, start: int) -> Iterator[bytes]:
    padding = text.find("=", start)
    if (len(text) - start) % 4 or 0 <= padding < len(text) - 2:
        raise binascii.Error
    for at in range(start, len(text), _STEP):
        yield binascii.a2b_base64(text[at : at + _STEP], strict_mode=True)


def of_streamed(pieces: list[str], media_type: str | None = None) -> Media | None:
    """Return what deltas of base64 hold: each is whole for itself, or they are one text cut anywhere."""
    return of_pieces(pieces, media_type) or of_base64("".join(pieces), media_type)


def audio_type(name: object) -> str | None:
    """Return the media type of an audio format as OpenAI names it."""
    return _AUDIO.get(name) if isinstance(name, str) else None


def image_type(name: object) -> str | None:
    """Return the media type of an image format as OpenAI names it."""
    return f"image/{name}" if name in _IMAGES else "image/svg+xml" if name == "svg" else None
