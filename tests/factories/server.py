"""A web server for the files of a folder, which fails as its attributes say."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

BLOCK = 1 << 16
Answer = Callable[[http.server.BaseHTTPRequestHandler], Iterable[bytes]]


class FileServer(http.server.ThreadingHTTPServer):
    """Serve the files of the folder `root` at `url`, and count what is sent."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []  # the paths of the files that were sent
        self.sent = 0  # bytes of files
        self.has_ranges = True
        self.etag = '"1"'
        self.content_type = "application/octet-stream"
        self.redirects: dict[str, str] = {}  # the place of a path
        self.failures = 0  # so many answers are errors
        self.stated: int | None = None  # the size of each file, if that is a lie
        self.cut_after: int | None = None  # bytes of an answer
        self.silence = 0.0  # seconds before an answer
        self.pause = 0.0  # seconds after a block
        self.answer: Answer | None = None  # makes the parts of an answer, in place of the above

    def forget(self) -> None:
        """Count from here."""
        self.requests.clear()
        self.sent = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the reader has left
            super().handle()

    def do_GET(self) -> None:
        server, path = self.server, self.path.partition("?")[0]
        file = server.root / urllib.parse.unquote(path.lstrip("/"))
        time.sleep(server.silence)
        if server.answer is not None:
            self.send_parts(server.answer(self))
        elif server.failures:
            server.failures -= 1
            self.send_error(503)
        elif path in server.redirects:
            self.send_headers(302, {"Location": server.redirects[path]})
        elif file.is_file():
            self.send_file(file.read_bytes())
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def send_headers(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_file(self, data: bytes) -> None:
        server, status, total = self.server, 200, len(data)
        headers = {"Content-Type": server.content_type, "ETag": server.etag}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and server.has_ranges:
            status, first = 206, int(asked[1])
            data = data[first : int(asked[2] or total) + 1]
            if not data:
                self.send_error(416)
                return
            last = first + len(data) - 1
            headers["Content-Range"] = f"bytes {first}-{last}/{server.stated or total}"
        headers["Content-Length"] = str(len(data))
        self.send_headers(status, headers)
        server.requests.append(self.path)
        data = data[: server.cut_after]
        self.send_parts(data[start : start + BLOCK] for start in range(0, len(data), BLOCK))

    def send_parts(self, parts: Iterable[bytes]) -> None:
        """Send the parts of an answer, which may never end."""
        for part in parts:
            self.wfile.write(part)
            self.server.sent += len(part)
            time.sleep(self.server.pause)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(root: Path) -> Iterator[FileServer]:
    """Serve a folder during the block."""
    with FileServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
