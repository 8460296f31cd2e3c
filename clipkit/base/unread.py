"""Notice a pipe that a command did not read, although another command writes a feature file to it.

Nothing is taken from the pipe: in a `while read` loop, standard input belongs to the loop. The
check needs Linux.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from clipkit.base.files import HDF5_SIGNATURE

STDIN = 0
SPLICE_F_NONBLOCK = 2
PROC = Path("/proc")


def holds_unread_file() -> bool:
    """Whether standard input is a pipe with the start of a feature file, or another clipkit's."""
    with contextlib.suppress(OSError, AttributeError):  # no /proc, or no tee
        if stat.S_ISFIFO(os.fstat(STDIN).st_mode):
            return _peek(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE or _is_written_by_clipkit()
    return False


def _peek(count: int) -> bytes:
    """Return the first bytes of a pipe, at most `count`, and leave them there."""
    import ctypes  # slow to load, and only for a pipe

    end, start = os.pipe()
    try:
        copied = ctypes.CDLL(None).tee(STDIN, start, count, SPLICE_F_NONBLOCK)
        return os.read(end, copied) if copied > 0 else b""
    finally:
        os.close(end)
        os.close(start)


def _is_written_by_clipkit() -> bool:
    """Whether another process of clipkit, which still works, has the pipe as its output."""
    pipe = (PROC / "self/fd/0").readlink()
    for output in PROC.glob("[0-9]*/fd/1"):
        process = output.parents[1]
        with contextlib.suppress(OSError):  # of another user, or it has ended
            if output.readlink() == pipe and process.name != str(os.getpid()):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if any(word.split(b"/")[-1] == b"clipkit" for word in words[:3]):
                    return True
    return False
