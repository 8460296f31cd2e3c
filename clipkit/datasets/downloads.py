"""Download the files of a data set. An interrupted download continues where it stopped.

A file is downloaded as NAME.part, which one process at a time may write, and is complete if it has
the published checksum. Whoever finds a NAME.part asks the server for the rest of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, NamedTuple

from clipkit.base import console, files
from clipkit.base.errors import ClipkitError
from clipkit.base.version import __version__
from clipkit.datasets import images

TIMEOUT_SECONDS = 30  # without a byte from the server
PAUSE_SECONDS = 1.0  # before the rest is asked for again
ERRORS = (OSError, HTTPException, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error)


class Download(NamedTuple):
    """A published file: its URL and its MD5 checksum."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


def provide(dataset: str, file: Download, target: Path) -> None:
    """Make `target`, unless it exists: the file itself, or the folder that it unpacks.

    It appears when it is complete. An archive that already lies beside its folder is used and kept.
    """
    if target.exists():
        return
    part = target.with_name(f"{file.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(file, part, target)
    except ERRORS as error:
        hint = f"put {file.url} in {part.parent} by other means, or name another folder with --root"
        if part.exists():
            hint = f"the same command continues the download; or {hint}"
        message = f"cannot download {dataset} to {part.parent}: {images.reason(error)}"
        raise ClipkitError(message, hint) from error


def _fetch(file: Download, part: Path, target: Path) -> None:
    """Download a file as `part`, and make `target` of it. Another process may be faster."""
    source = target.with_name(file.name)
    with _lock(part) as (stream, is_locked):
        try:
            if not target.exists():
                size = None
                if not source.exists():
                    source = part
                    size = _append(file, stream, part.parent)
                    while size is None:
                        time.sleep(PAUSE_SECONDS)
                        size = _append(file, stream, part.parent)
                    stream.flush()
                _check(source, file, may_be_cut=size == 0)
                if target.name == file.name:
                    source.rename(target)
                else:  # without a lock, another process may unpack at the same time
                    _unpack(source, target, f"{target.name}.part" if is_locked else "")
        finally:
            if target.exists() or stream.tell() == 0:  # or no server answered
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[tuple[IO[bytes], bool]]:
    """Open a file to append to it, and say whether other processes wait until the block ends."""
    while True:
        with path.open("ab") as stream:
            is_locked = _wait_for_lock(stream, path)
            if _is_at(stream, path):
                stream.seek(0, os.SEEK_END)  # it may have grown meanwhile
                yield stream, is_locked
                return


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Return whether a path still leads to an open file, which another process may have removed."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _wait_for_lock(stream: IO[bytes], path: Path) -> bool:
    """Lock a file, and return False on a file system without locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.note(f"waiting for another process that writes {path}")
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _append(file: Download, stream: IO[bytes], folder: Path) -> int | None:
    """Append to `stream` what it lacks of a file; return None if the connection was cut.

    Return the size of the file, or 0 if the server does not say it. A connection that was cut
    before any byte came is an error.
    """
    start = stream.tell()
    response = _request(file.url, start)
    if response is None:
        return start  # there is no rest
    with response:
        if response.headers.get_content_type() == "text/html":
            raise ConnectionError(f"expected {file.name}, got a web page")
        if start and response.status != HTTPStatus.PARTIAL_CONTENT:  # it sends whole files only
            stream.truncate(0)
            stream.seek(0)
        done = stream.tell()
        total = done + response.length if response.length else 0  # 0: the server does not say it
        text = f"downloading {file.url} ({_megabytes(total)}) to {folder}"
        if done:
            text += f"; {_megabytes(done)} of it are there"
        console.note(text)
        with console.progress(f"downloading {file.name}", "megabytes", done // 10**6) as update:
            while block := _read(response):
                stream.write(block)
                update(stream.tell() // 10**6, total // 10**6)
    if stream.tell() < total and stream.tell() <= start:
        cut = f"the connection was cut, or silent for {TIMEOUT_SECONDS:g} s"
        raise ConnectionResetError(f"{cut}, at {stream.tell():,} of {total:,} bytes")
    return total if stream.tell() >= total else None


def _request(url: str, start: int) -> HTTPResponse | None:
    """Ask for a file from an offset on; return None if it ends there."""
    headers = {"User-Agent": f"clipkit/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise
    return response


def _read(response: HTTPResponse) -> bytes:
    """Read what has come, or nothing at the end and where the connection is cut."""
    try:
        return response.read1(1 << 18)
    except (ConnectionError, TimeoutError, HTTPException):
        return b""


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size else "of unknown size"


def md5_of(path: Path) -> str:
    """Return the MD5 checksum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check(path: Path, file: Download, *, may_be_cut: bool) -> None:
    """Refuse a file with another checksum. A whole download with another one is removed."""
    md5 = md5_of(path)
    if md5 != file.md5 and may_be_cut:
        size = f"{path.stat().st_size:,} bytes of a file whose size the server does not say"
        raise ConnectionResetError(f"expected all of {file.name}, got {size}")
    if md5 != file.md5:
        if path.name != file.name:
            path.unlink()
        raise OSError(f"{path}: expected the MD5 checksum {file.md5}, got {md5}")


def _unpack(path: Path, target: Path, name: str) -> None:
    """Unpack an archive beside its folder, and move the folder when it is whole.

    A process that was killed while it unpacked left the folder `name`, which is removed first.
    """
    with (
        console.progress(f"unpacking {path.name.removesuffix('.part')}"),
        files.temporary_folder(target.parent, name) as scratch,
    ):
        if zipfile.is_zipfile(path):
            shutil.unpack_archive(path, scratch, "zip")
        else:
            shutil.unpack_archive(path, scratch, "gztar", filter="data")
        if not target.exists():  # another process may be faster
            (scratch / target.name).rename(target)
