"""Open an untrusted file in a subprocess first: a crafted one can crash its reader."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from clipkit import signals
from clipkit.errors import ClipkitError
from clipkit.files import OpenFile, path_to

CRASHES = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
}
CPU_LIMIT_SECONDS = 10  # of processor time, and one more for each of BYTES_PER_SECOND
BYTES_PER_SECOND = 2**27
TIMEOUT_SECONDS = 60  # after which the subprocess ends itself, whatever it waits for
PATH_BYTES = 2**16  # more than a path has
CHECKED = b"."  # the answer of the subprocess
NO_MEMORY = 70  # the exit status of a subprocess that needs more memory than it may have

Check = Callable[[OpenFile], None]


class Checker:
    """A subprocess that runs `check` on one file after another.

    It is started for the first file, and again after a file that ended it.
    """

    def __init__(self, check: Check) -> None:
        self._check = check
        self._child = 0
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()

    def run(self, file: OpenFile) -> int:
        """Check a file; return the wait status of the subprocess if that ended, else 0."""
        with self._lock:
            was_used = self._child != 0
            status = self._run_once(file)
            if was_used and status is not None:  # a file before this one may have harmed it
                status = self._run_once(file)
        return status or 0

    def close(self) -> None:
        """End the subprocess."""
        _end(self._child)
        self._child = 0
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _run_once(self, file: OpenFile) -> int | None:
        """Check a file; return the wait status of the subprocess, or None if it still runs."""
        connection = self._connection
        if connection is None:
            connection = self._start()
        try:
            socket.send_fds(connection, [os.fsencode(file.path)], [file.descriptor])
            if connection.recv(1):
                return None
        except ConnectionError:  # it ended before it had read what was sent
            pass
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        self.close()
        return status

    def _start(self) -> socket.socket:
        """Start the subprocess, and return the socket that sends it files."""
        parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def serve() -> None:
            parent_end.close()
            _serve(child_end, self._check)

        # Python swallows the exception of a signal that comes while it forks
        with child_end, signals.deferred():
            self._child = _fork(serve)
        self._connection = parent_end
        return parent_end


_shared: dict[Check, Checker] | None = None  # in a block of `one_subprocess`


@contextlib.contextmanager
def one_subprocess() -> Iterator[None]:
    """Check all files that are opened in a block in one subprocess, which is faster than many.

    A file that crashes it is an error as always, and the next file has a new one.
    """
    global _shared
    if _shared is not None:
        yield
        return
    checkers: dict[Check, Checker] = {}
    _shared = checkers
    try:
        yield
    finally:
        _shared = None
        for checker in checkers.values():
            checker.close()


def check_in_subprocess(
    file: OpenFile,
    display_name: str,
    check: Check,
    format: str = "HDF5",
    max_memory: int | None = None,
) -> None:
    """Run `check` on a file in a forked process, and raise if it crashes or does not end there.

    With `max_memory`, also raise if the subprocess needs more than that many bytes beyond those of
    this process, or was killed, as by a system without memory: the caller then relies on the check.
    Whatever else `check` finds is ignored: the caller opens the file again and reports it. This is
    no sandbox. On systems other than Linux nothing is done, since forking is not safe there.

    Raises
    ------
    ClipkitError
        If the subprocess crashed or ran into its limit of processor time or memory.
    """
    if sys.platform != "linux":
        return
    if max_memory is not None:
        check = functools.partial(_check_within, max_memory, check)
    if _shared is None or max_memory is not None:  # a limit of memory stays
        with contextlib.closing(Checker(check)) as checker:
            status = checker.run(file)
    else:
        if check not in _shared:
            _shared[check] = Checker(check)
        status = _shared[check].run(file)
    ending = os.waitstatus_to_exitcode(status)  # the number of a signal is negative
    if max_memory is not None and ending in (NO_MEMORY, -signal.SIGKILL):
        most = f"{max_memory >> 20:,} MiB"
        raise ClipkitError(f"{display_name}: expected a file that takes at most {most} to read")
    if ending == -signal.SIGXCPU or (max_memory is not None and ending == -signal.SIGALRM):
        problem = "reading it does not end"
    elif -ending in CRASHES:
        problem = f"its reader crashes ({signal.Signals(-ending).name})"
    else:
        return
    raise ClipkitError(
        f"{display_name}: expected a valid {format} file, but {problem}", "do not open it elsewhere"
    )


def _fork(run: Callable[[], None]) -> int:
    """Fork a process that calls a function, and return its number."""
    # the child takes no signal with our handlers, which would write to the pipe that we watch
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns about forking a process with threads; the child uses none of them
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                run()
            finally:
                os._exit(0)
        return child
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(connection: socket.socket, check: Check) -> None:
    """Check each file whose descriptor and path are sent, until the sender closes or ends."""
    # who reads our output must not wait for this process, nor see the last words of a crash
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        name, descriptors, _, _ = socket.recv_fds(connection, PATH_BYTES, 1)
        if not descriptors:
            return
        _set_limits(os.fstat(descriptors[0]).st_size)
        with contextlib.suppress(Exception):
            check(OpenFile(descriptors[0], path_to(descriptors[0], os.fsdecode(name))))
        signal.alarm(0)
        os.close(descriptors[0])
        connection.send(CHECKED)


def _check_within(max_memory: int, check: Check, file: OpenFile) -> None:
    """Check a file with at most `max_memory` more bytes, or end the process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + max_memory
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        check(file)
    except MemoryError:
        os._exit(NO_MEMORY)


def _end(child: int) -> None:
    """End a child process. Otherwise it would outlive an interrupted command and keep its pipes."""
    if child:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _set_limits(size: int) -> None:
    """Limit the time of the next check; a large file may take longer."""
    used = math.ceil(time.process_time())
    seconds = used + CPU_LIMIT_SECONDS + size // BYTES_PER_SECOND
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        seconds = min(seconds, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    signal.alarm(TIMEOUT_SECONDS)
