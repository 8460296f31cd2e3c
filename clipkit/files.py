"""Files that are whole or not there: atomic publication, and spools between a pipe and a file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from clipkit.errors import ClipkitError, UsageError, WriteFailed

STREAM = "-"
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_unfinished: set[Path] = set()  # temporary files of this process


def remove_unfinished() -> None:
    """Remove the temporary files of an interrupted process: a signal may come between any two lines."""
    for path in _unfinished:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _kind(path: Path) -> str:
    """What is at `path`, links followed: nothing, file, folder or stream (a FIFO, a device, a socket)."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "nothing"
    except OSError as error:
        raise ClipkitError(f"{path} must be reachable; got: {error.strerror}") from error
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "stream"


def check_output(output: str, *, force: bool = False) -> None:
    """Refuse, before any work is done, an output that could not be published after it.

    Raises
    ------
    UsageError
        If the output exists and `force` is not given, its folder does not exist, or it is a terminal.
    """
    if output == STREAM:
        if sys.stdout.isatty():
            raise UsageError(
                "binary data is not written to a terminal",
                "add -o FILE, or pipe it into the next command",
            )
        return
    path = Path(output)
    kind = _kind(path)
    if kind == "folder":
        raise UsageError(
            f"the output must be a file; {output} is a folder",
            f"add a file name: -o {output}/NAME.h5",
        )
    if kind == "file" and not force:
        raise UsageError(
            f"the output must not exist yet; {output} does",
            "choose another name, or add --force to replace it",
        )
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(
            f"the output's folder must exist; {folder} does not",
            f"make it first: mkdir -p {folder}",
        )
    if kind != "stream" and not os.access(folder, os.W_OK):
        raise ClipkitError(f"the output's folder must be writable; {folder} is not")


@contextlib.contextmanager
def publishing(output: str, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary path to write; publish it as `output` if the block succeeds, remove it if not.

    A regular file appears whole under its name, by a hard link (which never replaces a file) or, with `force`, by a
    rename. Standard output (``-``), a FIFO or a device gets the finished bytes, or nothing.

    Parameters
    ----------
    output : str
        A path, or ``-`` for standard output. Symbolic links are followed.
    force : bool
        Replace an existing file.

    Raises
    ------
    UsageError
        If the output exists, now or when it is to be published, and `force` is not given.
    WriteFailed
        If the file system refuses the data.
    """
    check_output(output, force=force)
    streamed = output == STREAM or _kind(Path(output)) == "stream"
    target = Path(output).resolve()
    folder = Path(tempfile.gettempdir()) if streamed else target.parent
    temporary = folder / _temporary_name("stdout" if output == STREAM else target.name)
    where = "standard output" if output == STREAM else output
    _unfinished.add(temporary)
    try:
        try:
            temporary.open("x").close()
        except OSError as error:
            raise WriteFailed(f"{folder} must be writable; got: {error.strerror}") from error
        try:
            yield temporary
        except OSError as error:
            if error.errno in FULL:  # of what the block wrote; other errors may be of what it read
                raise _refused(str(folder), error) from error
            raise
        try:
            if streamed:
                _pour(temporary, output)
            else:
                _publish(temporary, target, force)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _refused(where, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def _temporary_name(name: str) -> str:
    """A hidden name of our own: on a shared folder, another machine's process may have our number."""
    start = os.fsdecode(os.fsencode(name)[:180])  # a file system allows 255 bytes
    return f".{start}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


def _refused(where: str, error: OSError) -> WriteFailed:
    return WriteFailed(
        f"{where} must take the whole result; got: {error.strerror}",
        "free some space or write elsewhere; nothing was replaced"
        if error.errno in FULL
        else "nothing was replaced",
    )


def _publish(temporary: Path, target: Path, force: bool) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    if force:
        os.replace(temporary, target)
    else:
        try:
            _link(temporary, target)
        except FileExistsError:
            raise UsageError(
                f"the output must not exist yet; {target} appeared meanwhile",
                "add --force to replace it",
            ) from None
    with contextlib.suppress(OSError):  # it is published; some file systems cannot sync a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _link(temporary: Path, target: Path) -> None:
    """Give the file its name unless that is taken."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        target.open("x").close()  # the same promise where the file system has no hard links
        try:
            os.replace(temporary, target)
        except BaseException:
            target.unlink()
            raise


def _pour(temporary: Path, output: str) -> None:
    with temporary.open("rb") as source:
        if output == STREAM:
            _copy(source, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            with Path(output).open("wb") as sink:
                _copy(source, sink)


def _copy(source: IO[bytes], sink: IO[bytes]) -> None:
    """Copy all bytes, also where a write takes a part, as to standard output under PYTHONUNBUFFERED."""
    while block := source.read(1 << 20):
        left = memoryview(block)
        while left:
            left = left[sink.write(left) :]


def read_bytes(source: str, limit: int = 1 << 26) -> bytes:
    """The bytes of a small text input: a file, or standard input for ``-``; at most `limit` of them.

    Raises
    ------
    ClipkitError
        If the file cannot be read, or is larger than `limit`.
    """
    try:
        if source == STREAM:
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(source, error) from error
    if len(data) > limit:
        raise ClipkitError(
            f"{_name(source)} must be at most {limit >> 20} MiB of text; it is larger"
        )
    return data


@contextlib.contextmanager
def spooled(source: str) -> Iterator[Path]:
    """Give the path of a regular file that holds the input: the file itself, or a copy of what a pipe brought.

    Raises
    ------
    UsageError
        If the input is a terminal.
    ClipkitError
        If the input is missing, unreadable, a folder, or empty, or if the temporary folder is full.
    """
    if source == STREAM and sys.stdin.isatty():
        raise UsageError("an input file is missing", "name a feature file, or pipe one in")
    if source != STREAM:
        kind = _kind(Path(source))
        if kind == "nothing":
            raise ClipkitError(f"the input must exist; {source} does not")
        if kind == "folder":
            raise ClipkitError(f"the input must be a file; {source} is a folder")
        if kind == "file":
            yield Path(source)
            return
    with contextlib.ExitStack() as stack:
        try:
            spool = stack.enter_context(
                tempfile.NamedTemporaryFile(prefix="clipkit-", suffix=".h5")
            )
            with contextlib.ExitStack() as opened:
                stream = (
                    sys.stdin.buffer
                    if source == STREAM
                    else opened.enter_context(Path(source).open("rb"))
                )
                _copy(stream, spool)
            spool.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing tries to write the rest once more
                stack.close()
            full = error.errno in FULL
            raise ClipkitError(
                f"{_name(source)} must be copied whole before it is read; got: {error.strerror or error}",
                f"set TMPDIR to a folder with more room than {tempfile.gettempdir()}"
                if full
                else None,
            ) from error
        yield Path(spool.name)


def _name(source: str) -> str:
    return "standard input" if source == STREAM else source


def _unreadable(source: str, error: OSError) -> ClipkitError:
    return ClipkitError(f"the input must be readable; {_name(source)}: {error.strerror}")
