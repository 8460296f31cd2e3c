"""Read bytes at an offset of a file, on this machine or at a URL.

fsspec reads the URLs, and uses aiohttp for http(s). A request takes long, so callers ask for many
bytes at once. Protocols of fsspec that do not lead to another machine are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import io
import math
import os
import re
import stat
import threading
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.names import escape
from clipkit.base.version import __version__

# These protocols of fsspec read this machine, or another URL that is part of the name.
NOT_REMOTE = {
    *("file", "local", "asynclocal", "memory", "data", "dir", "git", "dvc", "jlab", "jupyter"),
    *("zip", "tar", "libarchive", "reference", "generic", "dask", "async_wrapper", "asyncwrapper"),
    *("cached", "blockcache", "filecache", "simplecache", "pyscript", "root"),
}
# of what a storage says of a file, what changes with its content
STATES = ("ETag", "etag", "blob_id", "mtime", "LastModified", "updated", "created")
# A request has these seconds, and one more for each so many bytes that come. A file that is read
# whole, such as an image of a list, has the last number at most: 512 MB would take 4.6 hours.
TIMEOUT_SECONDS, SLOWEST_RATE, WHOLE_SECONDS = 20.0, 2**15, 600.0
ATTEMPTS = 3
PAUSE_SECONDS = 0.5  # before the second attempt, and twice as long before the third
LONGEST_PAUSE_SECONDS = 60.0  # that a server may ask for
TRANSIENT = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}

REDIRECTED = "redirects to a file or another protocol"

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class StoredFile:
    """A file that can be read at any offset, on this machine or at a URL."""

    name: str  # its path or URL
    size: int
    state: str  # what changes with the content: an ETag, a hash or the time of modification

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
        # opened for each read, as image files are: nothing to close, share or pickle
        with _read_errors(self.name), Path(self.name).open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
            self.check_opened(stream.fileno())
            return data

    def check_opened(self, descriptor: int) -> None:
        """Refuse a file that was changed since it was found: rows of both would mix.

        The path may name one file now and another in a moment, so the opened one is looked at.
        """
        if _local_file(self.name, os.fstat(descriptor)) != self:
            raise _changed(self.name)


class HttpFile(StoredFile):
    """A file at an http(s) URL, which is read by requests of ranges."""

    def _read(self, offset: int, size: int) -> bytes:
        reply = _get(self.name, offset, size)
        if (reply.total, reply.state) != (self.size, self.state):
            raise _changed(self.name)
        return reply.data


class FilesystemFile(StoredFile):
    """A file that fsspec reads."""

    def _read(self, offset: int, size: int) -> bytes:
        data = self._content(offset, size)
        if open_file(self.name) != self:
            raise _changed(self.name)
        return data

    def _content(self, offset: int, size: int) -> bytes:
        system, path = filesystem(self.name)
        with _read_errors(self.name):
            if protocol_of(self.name) == "hf":
                # its `cat_file` would read 5 MB ahead, and throw that away
                with system.open(path, cache_type="none") as stream:
                    stream.seek(offset)
                    return bytes(stream.read(size))
            return bytes(system.cat_file(path, start=offset, end=offset + size))


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


def path_of(name: str) -> str:
    """Return a path, or a URL without its query and fragment.

    >>> path_of("https://host/a.tar?token=1#b"), path_of("a?.tar")
    ('https://host/a.tar', 'a?.tar')
    """
    return name if protocol_of(name) is None else re.split(r"[?#]", name, maxsplit=1)[0]


def is_url(name: str) -> bool:
    """Whether a name is a URL. One that does not lead to another machine is refused."""
    protocol = protocol_of(name)
    if protocol in NOT_REMOTE:
        raise UsageError(
            f"{display_url(name)}: expected the URL of a file on another machine",
            "give a file on this machine by its path",
        )
    return protocol is not None


def display_url(name: str) -> str:
    """Return what messages and histories call a file: without passwords and signatures.

    >>> display_url("https://me:secret@host/a.tar?token=1"), display_url("a?.tar")
    ('https://host/a.tar', 'a?.tar')
    """
    if protocol_of(name) is None:
        return escape(name)
    scheme, _, rest = path_of(name).partition("://")
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
        If the protocol is one of `NOT_REMOTE`.
    ClipkitError
        If there is no such file, a server does not answer or send ranges, or a package is missing.
    """
    if not is_url(name):
        with _read_errors(name):
            status = Path(name).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ClipkitError(
                f"{escape(name)}: expected a regular file, got a folder, FIFO or device"
            )
        return _local_file(name, status)
    if is_http(name):
        # A HEAD request would not say whether ranges work, and signed URLs often allow GET alone.
        reply = _get(name, 0, 1)
        return HttpFile(name, reply.total, reply.state)
    system, path = filesystem(name)
    with _read_errors(name):
        info = system.info(path)
        if info["type"] != "file":
            raise ClipkitError(f"expected a file, got the folder {display_url(name)}")
        state = next((str(info[key]) for key in STATES if info.get(key)), "")
        return FilesystemFile(name, int(info["size"]), state)


def read_whole(name: str, limit: int) -> bytes:
    """Read a file of at most `limit` bytes, also from a server that sends no ranges."""
    if is_http(name):
        data = _get(name, None, limit + 1).data
    else:
        file = open_file(name)
        data = file.read(0, min(file.size, limit + 1))
    if len(data) > limit:
        raise ClipkitError(f"{display_url(name)}: expected at most {limit:,} bytes, got more")
    return data


def filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, and the path there."""
    protocol = str(protocol_of(url))
    path = url.partition("://")[2]
    options: dict[str, Any] = {"use_listings_cache": False}  # a file may change
    if is_http(url):
        options = {"client_kwargs": {"trust_env": True}}  # the environment's proxies
    try:
        import fsspec  # a dependency of huggingface-hub and torch

        # by its protocol and path: as a whole URL, fsspec would take "a::file://b" for a chain
        return fsspec.filesystem(protocol, **options), path
    except ImportError as error:
        hint = "pip install 'clipkit-vl[remote]'" if is_http(url) else None
        raise ClipkitError(read_error(url, error).message, hint) from error
    except Exception as error:  # an unknown protocol, or credentials that are missing
        raise read_error(url, error) from error


class RangeReader(io.RawIOBase):
    """A stored file as a readable and seekable stream, as pyarrow and tarfile expect it."""

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

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether its offset can be set."""
        return True


def _local_file(name: str, info: os.stat_result) -> LocalFile:
    return LocalFile(name, info.st_size, str(info.st_mtime_ns))


class _Reply(NamedTuple):
    """A server's answer: bytes, the size of the whole file, and its ETag or its time."""

    data: bytes
    total: int
    state: str


def _get(url: str, offset: int | None, size: int) -> _Reply:
    """Get `size` bytes at an offset, or the first `size` of a whole file for None.

    The request is sent again after errors that may pass.
    """
    system, _ = filesystem(url)
    from fsspec.asyn import sync

    for attempt in range(ATTEMPTS):
        try:
            reply: _Reply = sync(system.loop, _request, system, url, offset, size)
            return reply
        except Exception as error:
            # a server that was silent once would cost the same time again
            was_cut = isinstance(error, ConnectionResetError)
            may_pass = was_cut or getattr(error, "status", 0) in TRANSIENT
            if attempt == ATTEMPTS - 1 or not may_pass:
                raise read_error(url, error) from error
            pause = pause_seconds(getattr(error, "headers", None) or {}, PAUSE_SECONDS * 2**attempt)
        time.sleep(pause)
    raise AssertionError  # the last attempt returns or raises


def pause_seconds(headers: Mapping[str, str], usual: float) -> float:
    """Return how long to wait before the next attempt: what a server asks for, if it says so.

    >>> pause_seconds({"Retry-After": "7"}, 0.5), pause_seconds({}, 0.5)
    (7.0, 0.5)
    """
    asked = headers.get("Retry-After", "")
    if asked.isdecimal():
        seconds = float(asked)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return usual
    return min(max(seconds, usual), LONGEST_PAUSE_SECONDS)


async def _request(system: Any, url: str, offset: int | None, size: int) -> _Reply:
    """Send a request; its deadline moves on with each byte that comes."""
    import aiohttp

    headers = {"User-Agent": f"clipkit/{__version__}", "Accept-Encoding": "identity"}
    if offset is not None:
        headers["Range"] = f"bytes={offset}-{offset + size - 1}"
    silence = aiohttp.ClientTimeout(
        total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS
    )
    session = await system.set_session()
    body = io.BytesIO()  # which gives its bytes without a copy
    start = asyncio.get_running_loop().time()
    most = WHOLE_SECONDS if offset is None else math.inf
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS) as deadline,
            session.get(_encoded(url), headers=headers, timeout=silence) as response,
        ):
            total = check_answer(response, offset)
            async for block in response.content.iter_any():
                body.write(block)
                received = body.tell()
                deadline.reschedule(start + min(TIMEOUT_SECONDS + received / SLOWEST_RATE, most))
                if received >= size:
                    break
    except aiohttp.InvalidUrlRedirectClientError:
        raise ClipkitError(f"{display_url(url)}: the server {REDIRECTED}") from None
    except aiohttp.InvalidURL:
        raise ClipkitError(f"{display_url(url)}: expected a valid URL") from None
    except aiohttp.ClientConnectorError:  # there is no server
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, aiohttp.ClientOSError):
        raise ConnectionResetError("the connection was cut") from None
    body.truncate(size)
    data = body.getvalue()
    if offset is None and data[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise _page(url)
    state = response.headers.get("ETag") or response.headers.get("Last-Modified", "")
    return _Reply(data, total, state)


def _encoded(url: str) -> Any:
    """Return a URL for aiohttp, which would also decode what a signature covers."""
    import yarl

    return yarl.URL(urllib.parse.quote(url, safe="%/:?#[]@!$&'()*+,;=~"), encoded=True)


def check_answer(response: Any, offset: int | None) -> int:
    """Return the size of the whole file, or 0 if it was asked for whole."""
    url = str(response.request_info.url)
    schemes = [answer.url.scheme for answer in (*response.history, response)]
    if schemes != sorted(schemes):  # http may become https, but not the reverse
        raise ClipkitError(f"{display_url(url)}: the server {REDIRECTED}")
    response.raise_for_status()
    if offset is None:
        return 0
    match = _RANGE.match(response.headers.get("Content-Range") or "")
    if response.status == HTTPStatus.PARTIAL_CONTENT and match and int(match[1]) == offset:
        return int(match[3])
    if response.content_type == "text/html":
        raise _page(url)
    raise ClipkitError(
        f"cannot read {display_url(url)}: expected a server that sends parts of files "
        "(byte ranges), got the whole file",
        "download the file and give its path",
    )


def _page(url: str) -> ClipkitError:
    return ClipkitError(
        f"{display_url(url)}: expected data, got a web page",
        "it may ask you to log in: download the file and give its path",
    )


def _changed(name: str) -> ClipkitError:
    return ClipkitError(f"{display_url(name)}: the file changed while it was read")


@contextlib.contextmanager
def _read_errors(name: str) -> Iterator[None]:
    """Turn any error into one line: those of storage clients have no common base."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise read_error(name, error) from error


def read_error(name: str, error: Exception) -> ClipkitError:
    """Return one line on why a file cannot be read."""
    if isinstance(error, ClipkitError):
        return error
    status = getattr(error, "status", None)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        text = "the file is empty or has become shorter"
    elif status is not None:  # its own text holds the whole URL
        text = f"the server answers {status} {escape(str(getattr(error, 'message', '')))}".strip()
    elif isinstance(error, TimeoutError):
        text = (
            f"the server was silent for {TIMEOUT_SECONDS:g} s or too slow (less than "
            f"{SLOWEST_RATE >> 10} kB a second, or over {WHOLE_SECONDS / 60:g} minutes)"
        )
    elif isinstance(error, FileNotFoundError):
        text = "there is no such file"
    else:
        # all lines: clients of servers do not put the reason in the first one
        whole = getattr(error, "strerror", None) or str(error)
        text = shorten(escape(" ".join(whole.split())) or type(error).__name__)
    return ClipkitError(f"cannot read {display_url(name)}: {text}")


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SharedCache(Generic[Key, Value]):
    """Keep what `load` returned last, for all threads: what several of them need is loaded once.

    At least `count` values are kept, and more while all together take at most `budget` bytes.
    """

    def __init__(
        self,
        load: Callable[[Key], Value],
        size_of: Callable[[Value], int],
        *,
        count: int,
        budget: int,
    ) -> None:
        self._load = load
        self._size_of = size_of
        self._count = count
        self._budget = budget
        self._values: OrderedDict[Key, Future[Value]] = OrderedDict()  # the last used at the end
        self._sizes: dict[Key, int] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value:
        """Return the value of a key."""
        with self._lock:
            is_new = key not in self._values
            future = self._values.setdefault(key, Future())
            self._values.move_to_end(key)
        if not is_new:
            return future.result()
        try:
            value = self._load(key)
        except BaseException as error:
            with self._lock:
                self._values.pop(key, None)
            future.set_exception(error)
            raise
        future.set_result(value)
        with self._lock:
            self._sizes[key] = self._size_of(value)
            while len(self._values) > self._count and sum(self._sizes.values()) > self._budget:
                oldest = next(key for key in self._values if key in self._sizes)
                del self._values[oldest], self._sizes[oldest]
        return value

    def has(self, key: Key) -> bool:
        """Whether the value of a key is there or is being loaded."""
        with self._lock:
            return key in self._values
