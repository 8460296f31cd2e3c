"""Open an untrusted file in a subprocess first: a crafted one can crash its reader."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable

from clipkit import signals
from clipkit.errors import ClipkitError
from clipkit.files import OpenFile

CRASHES = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGXCPU,
}
CPU_LIMIT_SECONDS = 10  # of processor time, and one more for each of BYTES_PER_SECOND
BYTES_PER_SECOND = 2**27
TIMEOUT_SECONDS = 60  # after which the subprocess ends itself, whatever it waits for


def check_in_subprocess(
    file: OpenFile, display_name: str, check: Callable[[OpenFile], None], format: str = "HDF5"
) -> None:
    """Run `check` on a file in a forked process, and raise if it crashes or does not end there.

    Whatever else `check` finds is ignored: the caller opens the file again and reports it. This is
    no sandbox. On systems other than Linux nothing is done, since forking is not safe there.

    Raises
    ------
    ClipkitError
        If the subprocess crashed or ran into its limit of processor time.
    """
    if sys.platform != "linux":
        return
    child = 0
    try:
        # Python swallows the exception of a signal that comes while it forks
        with signals.deferred():
            child = _fork(lambda: _run_limited(file, check))
        _, status = os.waitpid(child, 0)
    except BaseException:
        _end(child)
        raise
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in CRASHES:
        return
    if os.WTERMSIG(status) == signal.SIGXCPU:
        problem = "reading it does not end"
    else:
        problem = f"its reader crashes ({signal.Signals(os.WTERMSIG(status)).name})"
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


def _run_limited(file: OpenFile, check: Callable[[OpenFile], None]) -> None:
    # who reads our output must not wait for this process, nor see the last words of a crash
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    _set_limits(os.fstat(file.descriptor).st_size)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
    check(file)


def _end(child: int) -> None:
    """End a child process that was interrupted: it would outlive this one, with open pipes."""
    if child:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _set_limits(size: int) -> None:
    """Set default signals, no core dump, and limits that grow with the file's size."""
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_SECONDS + size // BYTES_PER_SECOND, hard))
    signal.alarm(TIMEOUT_SECONDS)
