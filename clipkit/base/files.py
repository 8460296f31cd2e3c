"""Write files completely or not at all, and copy piped input to a file."""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import io
import itertools
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Literal, NamedTuple

from clipkit.base import console, suggestions
from clipkit.base.errors import (
    ClipkitError,
    InputError,
    UsageError,
    WriteError,
    listed,
    system_reason,
)

STREAM = "-"
STREAM_PATHS = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK_FULL_HINT = "free some space or write elsewhere; nothing was replaced"
CLOSED = "cannot write standard output: it is closed"
COPY_BYTES = 1 << 20
# Limits of inputs. A small one must not take more than 2 GB or 30 s: the texts of a Parquet file of
# 3 MB may take 1.3 GB.
MAX_TEXT_BYTES = 1 << 30  # of a table, a list of paths, a file of prompts or other JSON
MAX_UNPACKED_BYTES = 1 << 30  # of the texts, or of one row group's images, in a Parquet file
MAX_NAME_BYTES = 180  # of an output's name in its temporary file's; file systems allow 255
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # a feature file begins with it
REMOVALS = 100  # of a folder, in which another thread may still write

_unfinished: set[Path] = set()  # temporary files and folders of this process


class OpenFile(NamedTuple):
    """A regular file that stays open, and a path that leads to it; see `keep_open`."""

    descriptor: int
    path: Path


def display_name(source: str | Path) -> str:
    """Return what messages call an input: its path, or `standard input` for ``-``.

    >>> display_name("img.h5"), display_name("-")
    ('img.h5', 'standard input')
    """
    return "standard input" if str(source) == STREAM else str(source)


def remove_unfinished() -> None:
    """Remove the temporary files of an interrupted process: a signal may come at any moment."""
    for path in list(_unfinished):
        for _ in range(REMOVALS):
            with contextlib.suppress(OSError):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                break


def user_cache() -> Path:
    """Return the folder of caches: ``$XDG_CACHE_HOME``, else ``~/.cache``."""
    return expand_user(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def expand_user(name: str | os.PathLike[str]) -> Path:
    """Return a path in which ``~`` and ``~USER`` at the start are home folders.

    ``~NAME`` of no user is a name: a folder may be called so. `Path.expanduser` raises there.
    """
    return Path(os.path.expanduser(name))  # noqa: PTH111


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None, name: str = "") -> Iterator[Path]:
    """Yield a folder that is removed at the end, also of an interrupted process.

    A folder of this `name` that a killed process left is removed first.
    """
    name = name or f".clipkit-{secrets.token_hex(8)}"
    path = (parent or Path(tempfile.gettempdir())) / name
    _unfinished.add(path)  # before it exists: a signal may come in between
    try:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _unfinished.discard(path)


def file_kind(path: Path) -> str:
    """Return what is at a path, links followed: nothing, file, folder or stream (FIFO, device)."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "nothing"
    except OSError as error:
        raise ClipkitError(f"cannot read {path}: {error.strerror}") from error
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "stream"


MISSING_HINT = "check the name, and the folder that the command runs in"
MAX_NEIGHBOURS = 1000  # files of a folder whose names are compared


def missing(source: str) -> InputError:
    """Return the error for a file that does not exist, with files beside it of the same ending."""
    path = Path(source)
    if not path.parent.is_dir():
        hint = f"there is no folder {path.parent} either"
        return InputError(f"cannot read {source}: there is no such file", hint)
    beside = itertools.islice(path.parent.iterdir(), MAX_NEIGHBOURS)
    known = sorted(file.name for file in beside if file.suffix == path.suffix)
    near = difflib.get_close_matches(path.name, known, n=2, cutoff=0.8)
    hint = MISSING_HINT
    if near:
        hint = f"did you mean {' or '.join(str(path.with_name(name)) for name in near)}?"
    elif known and path.suffix:
        hint = f"its folder has {listed(known, 8)}"
    return InputError(f"cannot read {source}: there is no such file", hint)


def check_one_stream(sources: Sequence[str]) -> None:
    """Refuse standard input as more than one of the inputs."""
    if sources.count(STREAM) > 1:
        raise UsageError(
            "expected only one file on standard input, got several",
            "it can be read once: save the others, and name their files",
        )


@contextlib.contextmanager
def held_input() -> Iterator[None]:
    """Put a file in the place of a pipe on standard input, which can then be read twice."""
    if _redirected_input() is not None:
        yield
        return
    piped = sys.stdin
    try:
        with _copied(STREAM) as copy:
            os.lseek(copy.descriptor, 0, os.SEEK_SET)
            with os.fdopen(os.dup(copy.descriptor), encoding=piped.encoding) as sys.stdin:
                yield
    finally:
        sys.stdin = piped


def is_stream(name: str) -> bool:
    """Whether a name is ``-``, or that of a FIFO or a device: it is read or written once."""
    return name == STREAM or file_kind(Path(name)) == "stream"


def check_output(output: str, *, force: bool = False, inputs: Iterable[str | None] = ()) -> None:
    """Refuse an output that cannot be published before the command does any work.

    Parameters
    ----------
    output : str
        A path, or ``-`` for standard output.
    force : bool
        Replace an existing file.
    inputs : iterable of str or None
        What the command reads, which the output must not be under any name.

    Raises
    ------
    UsageError, ClipkitError
        If the output exists and `force` is not given, is an input or a terminal, or its folder is
        missing or not writable.
    """
    if _is_terminal(output):
        hint = "add -o FILE, or pipe it into the next command"
        raise UsageError("cannot write binary data to a terminal", hint)
    if output == STREAM:
        if not console.data().buffer.writable():
            raise ClipkitError(CLOSED)
        return
    if not output:
        raise UsageError("expected the name of an output, got ''")
    kind = file_kind(Path(output))
    if kind == "folder":
        hint = f"add a file name: {suggestions.command('-o', f'{output}/NAME.h5')}"
        raise UsageError(f"expected a file as output, got the folder {output}", hint)
    if kind == "file" and any(_is_same_file(source, Path(output)) for source in inputs):
        raise UsageError(f"the output {output} is an input of this command", "choose another name")
    if kind == "file" and not force:
        hint = "choose another name, or add --force to replace it"
        raise UsageError(f"the output {output} exists", hint)
    folder = Path(output).resolve().parent
    if not folder.is_dir():
        hint = f"create it: {suggestions.command('mkdir', '-p', folder)}"
        raise UsageError(f"cannot write {output}: there is no folder {folder}", hint)
    if kind != "stream" and not os.access(folder, os.W_OK):
        raise ClipkitError(f"cannot write {output}: {folder} is not writable")


def _is_terminal(output: str) -> bool:
    """Whether an output is a terminal, also under a name such as /dev/stdout."""
    if output == STREAM:
        return console.data().isatty()
    try:
        if not Path(output).is_char_device():
            return False
        terminal = os.open(output, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:  # writing to it will say why
        return False
    try:
        return os.isatty(terminal)
    finally:
        os.close(terminal)


def _is_same_file(source: str | None, output: Path) -> bool:
    """Whether an input is the file at `output`, also through a link or standard input."""
    if source is None:
        return False
    try:
        status = os.fstat(sys.stdin.fileno()) if source == STREAM else Path(source).stat()
        return os.path.samestat(status, output.stat())
    except (OSError, ValueError):  # not a file; ValueError: a name with NUL
        return False


@contextlib.contextmanager
def atomic_write(output: str, *, force: bool = False) -> Iterator[Path]:
    """Yield the path of an empty file to fill; publish it as `output` if the block succeeds.

    A regular file appears complete under its name, by a hard link (which never replaces a file) or,
    with `force`, by a rename. A file that replaces another keeps that file's permissions. Standard
    output, a FIFO or a device gets the finished bytes or none. Symbolic links are followed.

    Raises
    ------
    UsageError
        If the output exists, now or when it is published, and `force` is not given.
    WriteError
        If the file system refuses the data.
    """
    check_output(output, force=force)
    to_stream = is_stream(output)
    target = Path(output).resolve()
    folder, place = target.parent, output
    replaced = None  # the permissions of the file that is replaced
    if to_stream:
        folder = Path(tempfile.gettempdir())
        place = f"to {folder}"
    else:
        with contextlib.suppress(FileNotFoundError):
            replaced = target.stat().st_mode & 0o777
    # nobody may read a private file's successor while it is written
    mode = 0o600 if to_stream or replaced is not None else 0o666
    with _temporary_file(folder, target.name, mode) as created:
        temporary = created.path
        # of the block's errors, the others may be about what it reads
        with _write_errors(place, only=DISK_FULL):
            yield temporary
        with _write_errors("standard output" if output == STREAM else output):
            if to_stream:
                with _open_stream(output, "wb") as sink:
                    start = 0
                    while block := os.pread(created.descriptor, COPY_BYTES, start):
                        sink.write(block)
                        start += len(block)
                    sink.flush()
            else:
                if replaced is not None:
                    temporary.chmod(replaced)
                _publish(created, target, force)


@contextlib.contextmanager
def _temporary_file(folder: Path, name: str, mode: int) -> Iterator[OpenFile]:
    """Create an empty file with a hidden name, and remove it at the end."""
    start = os.fsdecode(os.fsencode(name)[:MAX_NAME_BYTES])
    # on a shared folder, another machine's process may have our number
    path = folder / f".{start}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    _unfinished.add(path)
    try:
        with _write_errors(f"to {folder}"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            yield OpenFile(descriptor, path)
        finally:
            _close(descriptor)
    finally:
        path.unlink(missing_ok=True)
        _unfinished.discard(path)


@contextlib.contextmanager
def _write_errors(where: str, only: Container[int | None] | None = None) -> Iterator[None]:
    """Turn a system error into one line; if `only` is given, only errors with these numbers."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        hint = DISK_FULL_HINT if error.errno in DISK_FULL else "nothing was replaced"
        raise WriteError(f"cannot write {where}: {error.strerror}", hint) from error


def _publish(temporary: OpenFile, target: Path, force: bool) -> None:
    os.fsync(temporary.descriptor)
    # network file systems report a full disk or quota when any descriptor is closed
    os.close(os.dup(temporary.descriptor))
    if force:
        os.replace(temporary.path, target)
    else:
        try:
            _link(temporary.path, target)
        except FileExistsError:
            message = f"the output {target} exists: another program wrote it meanwhile"
            raise UsageError(message, "add --force to replace it") from None
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


def _open_stream(name: str, mode: Literal["rb", "wb"]) -> AbstractContextManager[IO[bytes]]:
    """Open a file; ``-`` is standard input or output, which stays open."""
    if name != STREAM:
        return Path(name).open(mode)
    stream = sys.stdin if mode == "rb" else console.data()
    return contextlib.nullcontext(stream.buffer)


def digest(data: bytes) -> str:
    """Return ``sha256:<hex>`` of bytes, as a history records it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read_bytes(source: str, *, is_text: bool = True) -> bytes:
    """Read a text input of at most MAX_TEXT_BYTES: a file, or ``-``.

    A feature file is refused, unless the input may also be one.
    """
    content = io.BytesIO()
    try:
        with _open_stream(source, "rb") as stream:
            # in blocks, since one call allocates as much as it may return
            while content.tell() <= MAX_TEXT_BYTES and (block := stream.read(COPY_BYTES)):
                content.write(block)
    except FileNotFoundError as error:
        raise missing(source) from error
    except OSError as error:
        hint = "name a file in it" if isinstance(error, IsADirectoryError) else None
        reason = f"cannot read {display_name(source)}: {error.strerror}"
        raise ClipkitError(reason, hint) from error
    if content.tell() > MAX_TEXT_BYTES:
        most = f"{MAX_TEXT_BYTES >> 20} MiB"
        raise ClipkitError(f"{display_name(source)}: expected at most {most} of text, got more")
    data = content.getvalue()
    if is_text and data.startswith(HDF5_SIGNATURE):
        message = f"{display_name(source)}: expected text, got a feature file"
        name = suggestions.command("clipkit", "info", suggestions.path(source))
        raise InputError(message, f"to see what it holds: {name}")
    return data


@contextlib.contextmanager
def keep_open(source: str | Path) -> Iterator[OpenFile]:
    """Open a file. Its path leads to it until the block ends, whatever its name becomes."""
    try:
        descriptor = os.open(source, os.O_RDONLY)
    except OSError as error:
        raise ClipkitError(f"cannot read {source}: {error.strerror}") from error
    try:
        yield OpenFile(descriptor, path_to(descriptor, source))
    finally:
        _close(descriptor)


def _close(descriptor: int) -> None:
    """Close a file that was read or published: an error of the system would come too late."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def path_to(descriptor: int, name: str | Path) -> Path:
    """Return the path of an open file, which was opened under a name."""
    path = Path(f"/proc/self/fd/{descriptor}")
    if not path.exists():  # on other systems, and in containers without /proc
        return Path(name)
    return path


@contextlib.contextmanager
def spool_input(source: str, signature: bytes = b"") -> Iterator[OpenFile]:
    """Yield a regular file with the input: the file itself, or a copy of a pipe.

    On Linux its path leads to the file that was opened, even if a writer replaces it meanwhile: all
    that is read through the path belongs together. It lasts as long as the block. Messages and
    endings need the name of the `source`. A usable input begins with the `signature`. Only
    the start of another pipe is copied, since it may be endless; the caller refuses it.

    Raises
    ------
    UsageError, ClipkitError
        If the input is a terminal, missing, unreadable or a folder, or if the temporary folder is
        full.
    """
    if not source:
        raise UsageError("expected the name of an input, got ''")
    if source == STREAM and sys.stdin.isatty():
        raise UsageError("expected an input file, got a terminal", "name a file, or pipe one in")
    if source == STREAM:
        redirected = _redirected_input()
        if redirected is not None:
            yield redirected
            return
    else:
        kind = file_kind(Path(source))
        if kind == "nothing":
            raise missing(source)
        if kind == "folder":
            raise InputError(
                f"expected a file as input, got the folder {source}", "name a file in it"
            )
        if kind == "file":
            with keep_open(source) as file:
                yield file
            return
    with _copied(source, signature) as copy:
        yield copy


def _redirected_input() -> OpenFile | None:
    """Return standard input if it is a file that can be read from its start, as after ``<``."""
    try:
        descriptor = sys.stdin.fileno()
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
    except (OSError, ValueError):  # a pipe, or no descriptor
        return None
    path = path_to(descriptor, STREAM)
    # without /proc there is no path, and another user's file may be open but not opened again
    if not is_file or position != 0 or path == Path(STREAM) or not os.access(path, os.R_OK):
        return None
    return OpenFile(descriptor, path)


@contextlib.contextmanager
def _copied(source: str, signature: bytes = b"") -> Iterator[OpenFile]:
    """Copy a stream to a temporary file."""
    folder = tempfile.gettempdir()
    with _temporary_file(Path(folder), "input.h5", 0o600) as copy:
        try:
            sink = os.fdopen(copy.descriptor, "wb", closefd=False)
            with _open_stream(source, "rb") as stream, sink:
                head = stream.read(COPY_BYTES)
                sink.write(head)
                if head.startswith(signature):
                    shutil.copyfileobj(stream, sink, COPY_BYTES)
        except OSError as error:
            name, reason = display_name(source), system_reason(error)
            if error.errno not in DISK_FULL:
                raise ClipkitError(f"cannot read {name}: {reason}") from error
            hint = "set TMPDIR to a folder with more space"
            raise ClipkitError(f"cannot copy {name} to {folder}: {reason}", hint) from error
        yield copy
