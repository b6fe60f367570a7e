"""Published logs to test with: the tree of a log of `log_samples`, read again, and served as any web server would."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genealog.store.log import LocalLog
from genealog.store.log_state import verify_note
from genealog.store.static_export import Exported, export_tree
from genealog.store.static_tree import FolderFiles, StaticTree, StaticView
from log_samples import VERIFIER


def export(log: LocalLog, folder: Path, **options: object) -> Exported:
    return export_tree(log, folder, verifiers=[VERIFIER], **options)  # type: ignore[arg-type]


def view(folder: Path) -> StaticView:
    tree = StaticTree(FolderFiles.open(folder))
    return tree.at(verify_note(tree.note(), [VERIFIER]))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder; gives its URL."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True  # a connection may be kept
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
