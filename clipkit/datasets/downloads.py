"""Download the files of a data set by torchvision's `download_url`, one process at a time.

A file counts as downloaded if it has the published checksum. It is downloaded and unpacked in a
folder TARGET.part. Only what is complete is moved out of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import io
import os
import shutil
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple

from clipkit.base import console, files
from clipkit.base.errors import ClipkitError
from clipkit.datasets import images

ERRORS = (
    OSError,
    HTTPException,
    RecursionError,  # torchvision's, of too many redirects
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
)
TIMEOUT_SECONDS = 30  # without a byte of the server


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
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{file.name}.lock") as is_locked:
            if target.exists():  # another process was faster
                return
            # without a lock, another process may work in the folder of this name
            scratch_name = f"{target.name}.part" if is_locked else ""
            with files.temporary_folder(folder, scratch_name) as scratch:
                _make(file, target, scratch)
    except ERRORS as error:
        raise ClipkitError(
            f"cannot download {dataset} to {folder}: {images.reason(error)}",
            f"put {file.url} in {folder} by other means, or name another folder with --root",
        ) from error


def _make(file: Download, target: Path, scratch: Path) -> None:
    """Download a file, check it and unpack it in the folder `scratch`; move it to `target`."""
    archive = target.with_name(file.name)
    if not archive.exists():
        from torchvision.datasets.utils import download_url

        archive = scratch / file.name
        console.note(f"downloading {file.url} to {target.parent}")
        with _as_clipkit_downloads(file.name):
            download_url(file.url, scratch, file.name)
    md5 = md5_of(archive)
    if md5 != file.md5:
        raise OSError(f"{file.name}: expected the MD5 checksum {file.md5}, got {md5}")
    if target.name == file.name:
        archive.rename(target)
        return
    with console.progress(f"unpacking {file.name}"):
        if zipfile.is_zipfile(archive):
            shutil.unpack_archive(archive, scratch, "zip")
        else:
            shutil.unpack_archive(archive, scratch, "gztar", filter="data")
    try:
        (scratch / target.name).rename(target)
    except OSError:
        if not target.exists():  # without a lock, another process may be faster
            raise


@contextlib.contextmanager
def _as_clipkit_downloads(name: str) -> Iterator[None]:
    """Limit the time of torchvision's download, and put what it writes in its place.

    A terminal gets its bar, and a log gets clipkit's lines instead. Before version 0.22, it prints
    to standard output, which is for data.
    """
    from torchvision.datasets import utils

    bar, timeout = utils.tqdm, socket.getdefaulttimeout()
    progress: Callable[[str], contextlib.AbstractContextManager[object]] = console.stage
    if not console.is_watched():
        utils.tqdm = functools.partial(bar, disable=True)
        progress = console.progress
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        with progress(f"downloading {name}"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(timeout)
        utils.tqdm = bar


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Wait for other processes that use this lock, and remove its file at the end.

    Yield whether there is a lock: some file systems have none.
    """
    while True:
        with path.open("ab") as stream:
            is_locked = _wait_for_lock(stream, path)
            if not _is_at(stream, path):  # the process before this one has removed it
                continue
            try:
                yield is_locked
            finally:
                path.unlink(missing_ok=True)
            return


def _wait_for_lock(stream: IO[bytes], path: Path) -> bool:
    """Lock a file, and return False on a file system without locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console.note(f"waiting for another process that holds {path}")
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Return whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def md5_of(path: Path) -> str:
    """Return the MD5 checksum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
