"""Download the files of a data set. An interrupted download continues where it stopped.

A file is downloaded as NAME.part, which one process at a time may write, and is complete if it has
the published checksum. Whoever finds a NAME.part asks the server for the rest of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
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
BLOCK_BYTES = 1 << 18
UNPACK_ERRORS = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error)
ERRORS = (OSError, HTTPException, *UNPACK_ERRORS)


class Download(NamedTuple):
    """A published file: its URL and its MD5 checksum."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]


def provide_folder(dataset: str, archive: Download, target: Path) -> None:
    """Make a data set's folder from its archive, unless it exists: all of it or nothing.

    An archive that already lies beside the folder is used and kept.
    """
    if target.exists():
        return
    path = target.with_name(archive.name)
    with _one_line_errors(dataset, archive, target.parent):
        if path.exists():
            _check(path, archive)
            _unpack(path, target)
        else:
            _fetch(archive, target, _unpack)


def provide_file(dataset: str, file: Download, target: Path) -> None:
    """Download a file of a data set, unless it exists."""
    if not target.exists():
        with _one_line_errors(dataset, file, target.parent):
            _fetch(file, target, Path.rename)


@contextlib.contextmanager
def _one_line_errors(dataset: str, file: Download, folder: Path) -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        hint = f"put {file.url} in {folder} by other means, or name another folder with --root"
        if (folder / f"{file.name}.part").exists():
            hint = f"the same command continues the download; or {hint}"
        message = f"cannot download {dataset} to {folder}: {images.reason(error)}"
        raise ClipkitError(message, hint) from error


def _fetch(file: Download, target: Path, finish: Callable[[Path, Path], object]) -> None:
    """Download a file, and `finish` makes `target` of it. Another process may be faster."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{file.name}.part")
    with _lock(part) as stream:
        try:
            if not target.exists():
                while not _append(file, stream, target.parent):
                    time.sleep(PAUSE_SECONDS)
                stream.flush()
                _check(part, file)
                finish(part, target)
            part.unlink(missing_ok=True)
        finally:
            if part.exists() and stream.tell() == 0:  # no server answered
                part.unlink()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to append to it. Other processes wait until the block ends."""
    while True:
        with path.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.note(f"waiting for another process that writes {path}")
                fcntl.flock(stream, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
            # the process before may have removed the file
            if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                stream.seek(0, os.SEEK_END)  # it may have grown meanwhile
                yield stream
                return


def _append(file: Download, stream: IO[bytes], folder: Path) -> bool:
    """Append to `stream` what it lacks of a file; return False if the connection was cut.

    A connection that was cut before any byte came is an error.
    """
    start = stream.tell()
    headers = {"User-Agent": f"clipkit/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(file.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # there is no rest
        raise
    with response:
        total = _total(file, response)
        if start and response.status != HTTPStatus.PARTIAL_CONTENT:  # it sends whole files only
            stream.truncate(0)
            stream.seek(0)
        done = stream.tell()
        text = f"downloading {file.url} ({_megabytes(total)}) to {folder}"
        console.note(f"{text}; {_megabytes(done)} of it are there" if done else text)
        with console.progress(f"downloading {file.name}", "megabytes", done // 10**6) as update:
            while block := _read(response):
                stream.write(block)
                update(stream.tell() // 10**6, total // 10**6)
    if stream.tell() < total and stream.tell() <= start:
        cut = f"the connection was cut, or silent for {TIMEOUT_SECONDS:g} s"
        raise ConnectionResetError(f"{cut}, at {stream.tell():,} of {total:,} bytes")
    return stream.tell() >= total


def _total(file: Download, response: HTTPResponse) -> int:
    """Return the size of the whole file, or 0 if the server does not say it."""
    if response.headers.get_content_type() == "text/html":
        raise ConnectionError(f"expected {file.name}, got a web page")
    match = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range") or "")
    return int(match[1] if match else response.headers.get("Content-Length") or 0)


def _read(response: HTTPResponse) -> bytes:
    """Read what has come, or nothing at the end and where the connection is cut."""
    try:
        return response.read1(BLOCK_BYTES)
    except (ConnectionError, TimeoutError, HTTPException):
        return b""


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size else "of unknown size"


def _check(path: Path, file: Download) -> None:
    """Refuse a file with another checksum. A download with another one is removed."""
    with path.open("rb") as stream:
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != file.md5:
        if path.name != file.name:
            path.unlink()
        raise OSError(f"{path}: expected the MD5 checksum {file.md5}, got {md5}")


def _unpack(path: Path, target: Path) -> None:
    """Unpack an archive beside its folder, and move the folder when it is whole.

    A process that was killed while it unpacked left its folder, which is removed first.
    """
    with (
        console.progress(f"unpacking {path.name.removesuffix('.part')}"),
        files.temporary_folder(target.parent, f"{target.name}.part") as scratch,
    ):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(scratch)
        else:
            with tarfile.open(path) as archive:
                archive.extractall(scratch, filter="data")
        (scratch / target.name).rename(target)
