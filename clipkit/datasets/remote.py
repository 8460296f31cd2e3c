"""Read bytes at an offset of a file, on this machine or at a URL.

Python's own client reads http(s): fsspec's would need aiohttp, which nothing else needs. A request
of that client opens a new connection, so callers ask for many bytes at once. fsspec reads the other
protocols. Only the protocols that are listed here are opened.
"""

from __future__ import annotations

import functools
import http.client
import os
import re
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from clipkit.datasets.images import escape, reason
from clipkit.errors import ClipkitError, UsageError, shorten
from clipkit.version import __version__

PROTOCOLS = ("https", "http", "hf", "s3", "gs")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}  # what fsspec needs for them
TIMEOUT_SECONDS = 20.0  # without a byte from the server
SLOWEST_RATE = 2**15  # bytes per second; a server may not trickle forever
ATTEMPTS = 3
PAUSE_SECONDS = 0.5  # before the second attempt, and twice as long before the third
TRANSIENT = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class StoredFile:
    """A file whose bytes can be read at any offset, on this machine or at a URL.

    Attributes
    ----------
    name : str
        Its path or URL.
    size : int
    state : str
        What changes with the content: an ETag, a hash or the time of modification.
    etag : str
        A strong ETag or a hash, or "": a weak ETag may stand for several contents.
    """

    name: str
    size: int
    state: str
    etag: str = ""

    is_remote: ClassVar[bool] = True

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes at an offset. Threads may call this at the same time.

        Raises
        ------
        ClipkitError
            If the file cannot be read, has changed or has become shorter.
        """
        if size == 0:
            return b""
        data = self._read(offset, size)
        if len(data) != size:
            raise ClipkitError(
                f"{display_url(self.name)}: expected {size:,} bytes, got {len(data):,}",
                "the file has become shorter, or the connection was cut",
            )
        return data

    def _read(self, offset: int, size: int) -> bytes:
        raise NotImplementedError


class LocalFile(StoredFile):
    """A file on this machine; `state` is its modification time."""

    is_remote = False

    def _read(self, offset: int, size: int) -> bytes:
        try:
            # opened for each read, as image files are: nothing to close, share or pickle
            descriptor = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(descriptor, size, offset)
                while len(data) < size:  # one call of the system reads at most 2 GiB
                    more = os.pread(descriptor, size - len(data), offset + len(data))
                    if not more:
                        break
                    data += more
            finally:
                os.close(descriptor)
        except OSError as error:
            raise read_error(self.name, error) from error
        return data


class HttpFile(StoredFile):
    """A file at an http(s) URL, which is read by requests of ranges."""

    def _read(self, offset: int, size: int) -> bytes:
        reply = _retry(self.name, lambda: _request(self.name, offset, size))
        if (reply.total, reply.state) != (self.size, self.state):
            raise ClipkitError(f"{display_url(self.name)}: the file changed while it was read")
        return reply.data


class FilesystemFile(StoredFile):
    """A file that fsspec reads."""

    def _read(self, offset: int, size: int) -> bytes:
        system, path = filesystem(self.name)
        try:
            if protocol_of(self.name) == "hf":
                # its `cat_file` would read 5 MB ahead, and throw that away
                with system.open(path, cache_type="none") as stream:
                    stream.seek(offset)
                    return bytes(stream.read(size))
            return bytes(system.cat_file(path, start=offset, end=offset + size))
        except Exception as error:  # the errors of storage clients have no common base
            raise read_error(self.name, error) from error


def protocol_of(name: str) -> str | None:
    """Return the protocol of a URL in lower case, or None for a path.

    >>> protocol_of("HTTPS://host/a.tar"), protocol_of("folder/a.tar")
    ('https', None)
    """
    match = _PROTOCOL.match(name)
    return match[1].lower() if match else None


def is_http(name: str) -> bool:
    """Whether a name is an http(s) URL."""
    return protocol_of(name) in ("http", "https")


def without_query(url: str) -> str:
    """Return a URL without its query and fragment.

    >>> without_query("https://host/a.tar?token=1#b")
    'https://host/a.tar'
    """
    return re.split(r"[?#]", url, maxsplit=1)[0]


def is_url(name: str) -> bool:
    """Whether a name is a URL of a protocol that can be opened.

    Raises
    ------
    UsageError
        If it is a URL of another protocol.
    """
    protocol = protocol_of(name)
    if protocol is None:
        return False
    if protocol not in PROTOCOLS:
        hint = "give a file on this machine by its path"
        if protocol != "file":
            hint = "download the file and give its path"
        expected = ", ".join(f"{known}://" for known in PROTOCOLS)
        raise UsageError(f"{display_url(name)}: expected a URL with {expected}", hint)
    return True


def display_url(name: str) -> str:
    """Return what messages and histories call a file: without passwords and signatures.

    >>> display_url("https://me:secret@host/a.tar?token=1"), display_url("a?.tar")
    ('https://host/a.tar', 'a?.tar')
    """
    if protocol_of(name) is None:
        return escape(name)
    scheme, _, rest = without_query(name).partition("://")
    host, slash, path = rest.partition("/")
    return escape(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")


def open_file(name: str) -> StoredFile:
    """Return the size and state of a file, by which its bytes can be read.

    Parameters
    ----------
    name : str
        A path or a URL.

    Raises
    ------
    UsageError
        If the protocol is not one of `PROTOCOLS`.
    ClipkitError
        If there is no such file, a server does not answer or send ranges, or a package is missing.
    """
    if not is_url(name):
        return _open_local(name)
    if is_http(name):
        return _open_http(name)
    system, path = filesystem(name)
    try:
        info = system.info(path)
        if info["type"] != "file":
            raise ClipkitError(f"expected a file, got the folder {display_url(name)}")
        etag = _first_of(info, ("ETag", "etag", "blob_id"))
        state = etag or _first_of(info, ("mtime", "LastModified", "updated", "created"))
        return FilesystemFile(name, int(info["size"]), state, etag)
    except Exception as error:  # the errors of storage clients have no common base
        raise read_error(name, error) from error


def _first_of(info: Mapping[str, Any], keys: Sequence[str]) -> str:
    for key in keys:
        if info.get(key):
            return str(info[key])
    return ""


def read_whole(name: str, limit: int) -> bytes:
    """Read a file of at most `limit` bytes, also from a server that sends no ranges.

    Raises
    ------
    ClipkitError
        As `open_file` does, and if the file is larger.
    """
    if is_http(name):
        reply = _retry(name, lambda: _request(name, None, limit + 1))
        data = reply.data
    else:
        file = open_file(name)
        data = file.read(0, min(file.size, limit + 1))
    if len(data) > limit:
        raise ClipkitError(f"{display_url(name)}: expected at most {limit:,} bytes, got more")
    return data


def filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, and the path there.

    Raises
    ------
    ClipkitError
        If the package that it needs is not installed.
    """
    protocol = str(protocol_of(url))
    path = url.partition("://")[2]
    try:
        import fsspec  # a dependency of huggingface-hub and torch

        # by its protocol and path: as a whole URL, fsspec would take "a::file://b" for a chain
        return fsspec.filesystem(protocol), path
    except ImportError as error:
        package = PACKAGES.get(protocol, "fsspec")
        message = f"cannot read {display_url(url)}: the package {package} is not installed"
        raise ClipkitError(message, f"pip install {package}") from error
    except Exception as error:  # credentials that are missing, for example
        raise read_error(url, error) from error


class RangeReader:
    """A stored file as a readable and seekable stream, as pyarrow expects it."""

    closed = False

    def __init__(self, file: StoredFile) -> None:
        self.file = file
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all that are left."""
        remaining = max(0, self.file.size - self._position)
        if size < 0 or size > remaining:
            size = remaining
        data = self.file.read(self._position, size)
        self._position += size
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset, and return it from the start."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.file.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the offset."""
        return self._position

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether its offset can be set."""
        return True

    def writable(self) -> bool:
        """Whether it can be written."""
        return False

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def flush(self) -> None:
        """Do nothing: it is not written."""


def _open_local(name: str) -> LocalFile:
    try:
        info = Path(name).stat()
    except FileNotFoundError:
        raise ClipkitError(f"cannot read {escape(name)}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise read_error(name, error) from error
    if not stat.S_ISREG(info.st_mode):
        raise ClipkitError(f"{escape(name)}: expected a regular file, got a folder, FIFO or device")
    return LocalFile(name, info.st_size, str(info.st_mtime_ns))


@dataclass(frozen=True)
class _Reply:
    """A server's answer: bytes, the size of the file, its ETag and its time of modification."""

    data: bytes
    total: int
    etag: str
    modified: str

    @property
    def state(self) -> str:
        """The ETag or else the time of modification; it changes with the file."""
        return self.etag or self.modified


class _UnsupportedRangeError(Exception):
    """Report a server that sends the whole file where a range was asked for."""


def _open_http(url: str) -> HttpFile:
    # A HEAD request would not say whether ranges work, and signed URLs often allow GET alone.
    reply = _retry(url, lambda: _request(url, 0, 1))
    etag = "" if reply.etag.startswith("W/") else reply.etag  # a weak one may stand for other bytes
    return HttpFile(url, reply.total, reply.state, etag)


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """Return a client of http(s) that follows redirects and the environment's proxies."""
    opener = urllib.request.OpenerDirector()  # without the handlers of file: and ftp:
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _request(url: str, offset: int | None, size: int) -> _Reply:
    """Get `size` bytes at an offset, or the first `size` of a whole file for None."""
    headers = {"User-Agent": f"clipkit/{__version__}", "Accept-Encoding": "identity"}
    if offset is not None:
        headers["Range"] = f"bytes={offset}-{offset + size - 1}"
    request = urllib.request.Request(url, headers=headers)
    with _opener().open(request, timeout=TIMEOUT_SECONDS) as response:
        total = 0
        if offset is not None:
            total = _check_range(response, offset)
        data = _read_body(response, size)
        received = response.headers
    return _Reply(data, total, received.get("ETag", ""), received.get("Last-Modified", ""))


def _check_range(response: Any, offset: int) -> int:
    """Return the size of the whole file, if the reply starts at the offset."""
    match = _RANGE.match(response.headers.get("Content-Range") or "")
    if response.status != HTTPStatus.PARTIAL_CONTENT or not match or int(match[1]) != offset:
        raise _UnsupportedRangeError
    return int(match[3])


def _read_body(response: Any, size: int) -> bytes:
    deadline = time.monotonic() + TIMEOUT_SECONDS + size / SLOWEST_RATE
    data = bytearray()
    while len(data) < size:
        block = response.read1(min(size - len(data), 1 << 20))
        if not block:
            break
        data += block
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(data)


def _retry(url: str, request: Callable[[], _Result]) -> _Result:
    """Send a request, and again after errors that may pass."""
    for attempt in range(ATTEMPTS):
        try:
            return request()
        except Exception as error:
            if attempt == ATTEMPTS - 1 or not _may_pass(error):
                raise read_error(url, error) from error
        time.sleep(PAUSE_SECONDS * 2**attempt)
    raise AssertionError  # the last attempt returns or raises


def _may_pass(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in TRANSIENT
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    # a server that was silent once would cost the same time again
    if isinstance(cause, TimeoutError):
        return False
    passing = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
    return isinstance(cause, (*passing, http.client.HTTPException))


def read_error(name: str, error: Exception) -> ClipkitError:
    """Return one line on why a file cannot be read."""
    if isinstance(error, ClipkitError):
        return error
    hint = None
    text = ""
    cause = error
    if isinstance(error, urllib.error.HTTPError):
        text = f"the server answers {error.code} {escape(str(error.reason))}".strip()
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            text = "the file is empty or has become shorter"
    elif isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        cause = error.reason
    if isinstance(cause, TimeoutError):
        text = f"the server sent nothing for {TIMEOUT_SECONDS:g} s"
    elif isinstance(cause, _UnsupportedRangeError):
        text = "expected a server that sends parts of files (byte ranges), got the whole file"
        hint = "download the file and give its path"
    elif isinstance(cause, FileNotFoundError):
        text = "there is no such file"
    if not text:
        text = shorten(reason(cause))
    return ClipkitError(f"cannot read {display_url(name)}: {text}", hint)
