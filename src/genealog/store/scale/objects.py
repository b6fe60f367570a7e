"""Object storage: S3 and what speaks like it, through obstore; and a folder of this machine with the same promises.

Everything rests on conditional writes: a tile is created once (If-None-Match: *), a checkpoint replaces only the one
that was read (If-Match). Some S3-compatible servers ignore these headers, and would let two integrators overwrite
each other: `probe` finds out before anything is written.

Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
AWS_ENDPOINT_URL …) and are never stored or shown.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from genealog.errors import GenealogError, StoreError, UsageError, not_installed
from genealog.store.disk import disk, locked, read_file, sync_folder, write_whole
from genealog.store.scale.ports import Objects, Stored

if TYPE_CHECKING:
    from obstore.store import S3Store

_TEXT, _BYTES = "text/plain; charset=utf-8", "application/octet-stream"
_RETRY_S, _TIMEOUT_S = 30, 20


def open_objects(url: str) -> Objects:
    """Return the objects below `url`: `s3://bucket/prefix` or `file:///folder`.

    Raises: MalformedError `bad-store-url`; MissingError `extra-not-installed`.
    """
    parts = urlsplit(url)
    path = unquote(parts.path).strip("/")
    if parts.scheme == "file" and not parts.netloc and path:
        return FolderObjects(Path("/", path))
    if parts.scheme != "s3" or not parts.netloc or parts.query or "@" in parts.netloc:
        raise UsageError(
            "bad-store-url", "not a place for objects", got=parts.scheme or "no scheme",
            expected="s3://bucket/prefix or file:///folder, without credentials",
            hint="credentials go into the AWS_* variables of the environment",
        )  # fmt: skip
    return S3Objects(parts.netloc, path)


def probe(objects: Objects) -> None:
    """Check that writes are conditional, with objects that are removed again.

    Raises: StoreError `objects-not-conditional`, `objects-error`.
    """
    path = f".probe/{secrets.token_hex(8)}"
    try:
        created, again = objects.put_new(path, b"1"), objects.put_new(path, b"2")
        kept = objects.get(path)
        replaced = kept is not None and objects.replace(path, b"3", kept.tag)
        stale = kept is not None and objects.replace(path, b"4", kept.tag)
    except GenealogError:
        with suppress(GenealogError):  # what failed first says more
            objects.delete([path])
        raise
    objects.delete([path])
    if (created, again, replaced, stale) != (True, False, True, False) or kept is None or kept.data != b"1":
        raise StoreError(
            "objects-not-conditional",
            "this object storage does not honour If-None-Match and If-Match: two writers would overwrite each other",
            got=f"create {created}, create again {again}, replace {replaced}, replace with a stale tag {stale}",
            expected="create True, create again False, replace True, replace with a stale tag False",
            hint="use storage with conditional writes (Amazon S3, MinIO, Ceph and others have them)",
        )


class S3Objects:
    """Objects in an S3 bucket below `prefix`. Thread-safe."""

    def __init__(self, bucket: str, prefix: str) -> None:
        try:
            from obstore.store import S3Store
        except ImportError:
            raise not_installed("object storage", "obstore", "scale") from None
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        with _asking("opening the bucket"):
            self._store: S3Store = S3Store(
                bucket,
                prefix=prefix or None,
                client_options={"timeout": timedelta(seconds=_TIMEOUT_S), "allow_http": plain},
                retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=_RETRY_S)},
            )

    def put_new(self, path: str, data: bytes) -> bool:
        """See `Objects`."""
        from obstore.exceptions import AlreadyExistsError

        with _asking(f"creating {path}"):
            try:
                self._store.put(path, data, mode="create", attributes=_attributes(path))
            except AlreadyExistsError:
                return False
        return True

    def get(self, path: str) -> Stored | None:
        """See `Objects`."""
        with _asking(f"reading {path}"):
            try:
                found = self._store.get(path)
                return Stored(bytes(found.bytes()), found.meta["e_tag"] or "")
            except FileNotFoundError:
                return None

    def replace(self, path: str, data: bytes, tag: str | None) -> bool:
        """See `Objects`."""
        from obstore.exceptions import PreconditionError

        if tag is None:
            return self.put_new(path, data)
        with _asking(f"replacing {path}"):
            try:
                self._store.put(path, data, mode={"e_tag": tag}, attributes=_attributes(path), use_multipart=False)
            except (PreconditionError, FileNotFoundError):
                return False
        return True

    def delete(self, paths: Iterable[str]) -> None:
        """See `Objects`."""
        if names := list(paths):
            with _asking("removing objects"):
                for name in names:  # one by one: bulk deletion needs an MD5 that not every server computes alike
                    try:
                        self._store.delete(name)
                    except FileNotFoundError:
                        continue

    def names(self, folder: str) -> Iterator[str]:
        """See `Objects`."""
        with _asking(f"listing {folder}"):
            yield from [each["path"] for page in self._store.list(folder) for each in page]


class FolderObjects:
    """Objects as files below `root`: for one machine, for tests, for a network file system with working locks."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_new(self, path: str, data: bytes) -> bool:
        """See `Objects`."""
        target = self._root / path
        with disk(f"creating {path}"), self._temporary(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            sync_folder(target.parent)
        return True

    def get(self, path: str) -> Stored | None:
        """See `Objects`."""
        data = read_file(self._root / path)
        return None if data is None else Stored(data, sha256(data).hexdigest())

    def replace(self, path: str, data: bytes, tag: str | None) -> bool:
        """See `Objects`."""
        target = self._root / path
        if tag is None:
            return self.put_new(path, data)
        with disk(f"replacing {path}"), locked(self._root / ".lock"):
            kept = self.get(path)
            if kept is None or kept.tag != tag:
                return False
            with self._temporary(target, data) as temporary:
                temporary.replace(target)
                sync_folder(target.parent)
        return True

    def delete(self, paths: Iterable[str]) -> None:
        """See `Objects`."""
        with disk("removing objects"):
            for path in paths:
                (self._root / path).unlink(missing_ok=True)

    def names(self, folder: str) -> Iterator[str]:
        """See `Objects`."""
        for file in sorted((self._root / folder).rglob("*")):
            if file.is_file() and not file.name.startswith(".new-"):
                yield str(file.relative_to(self._root))

    @contextmanager
    def _temporary(self, target: Path, data: bytes) -> Iterator[Path]:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".new-{secrets.token_hex(8)}")
        try:
            write_whole(temporary, data)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


class Below:
    """The objects of `objects` below `prefix`, which ends in '/'."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix

    def put_new(self, path: str, data: bytes) -> bool:
        """See `Objects`."""
        return self._objects.put_new(self._prefix + path, data)

    def get(self, path: str) -> Stored | None:
        """See `Objects`."""
        return self._objects.get(self._prefix + path)

    def replace(self, path: str, data: bytes, tag: str | None) -> bool:
        """See `Objects`."""
        return self._objects.replace(self._prefix + path, data, tag)

    def delete(self, paths: Iterable[str]) -> None:
        """See `Objects`."""
        self._objects.delete([self._prefix + path for path in paths])

    def names(self, folder: str) -> Iterator[str]:
        """See `Objects`."""
        return (name.removeprefix(self._prefix) for name in self._objects.names(self._prefix + folder))


def _attributes(path: str) -> dict[str, str]:
    if path.endswith("checkpoint"):
        return {"Content-Type": _TEXT, "Cache-Control": "no-cache"}
    if path.startswith("bodies/"):  # of a vault: nobody in between may keep what can be erased
        return {"Content-Type": _BYTES, "Cache-Control": "no-store"}
    return {"Content-Type": _BYTES, "Cache-Control": "public, max-age=31536000, immutable"}


@contextmanager
def _asking(doing: str) -> Iterator[None]:
    """Turn what obstore raises into a StoreError without its text, which quotes requests."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise StoreError(
            "objects-error",
            f"the object storage failed while {doing}",
            got=type(error).__name__,
            hint="check that the bucket is there, AWS_* (AWS_ENDPOINT_URL for servers that are not Amazon's), access",
        ) from None
