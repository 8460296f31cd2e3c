"""End a command soon after a signal, even during a library call that does not return.

The order of events:

1. `cli.main` calls `install`, and the command names itself by `set_command`.
2. The first signal raises `Interrupted` in the main thread, so that every `finally` runs. Within
   `deferred`, it is raised at the end of the block. Later signals raise nothing: they would
   interrupt the handling of the first.
3. The exception ends the command. If a library loses it or turns it into another error,
   `interrupted` still says so.
4. `cli.main` calls `disarm`, writes the line of `report`, removes unfinished files and ends the
   process with 128 + n.
5. Python runs a signal's handler only between two steps of the main thread, and a library call
   delays it by hours. So a thread watches too. At a second signal, or after GRACE_SECONDS, it does
   what `cli.main` would do.

The thread cannot run while a library holds Python's lock, which libraries release for long
computations. If one does not, SIGQUIT (Ctrl and backslash) ends the process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from clipkit.base import files

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 3.0  # for the main thread to end the process
REPEAT_SECONDS = 0.2  # timeout(1) and batch systems send a signal to a process and to its group

_received: list[int] = []  # signals, in order
_reported = threading.Lock()  # held once a signal was reported
_deferred = False  # whether a signal raises no exception for now
_disarmed = False  # whether the command has ended
_command = "clipkit"  # what the report names


class Interrupted(SystemExit):
    """Report that a signal asked the command to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def install() -> None:
    """Let the first signal raise `Interrupted`, and a second one end the process."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)
    sys.unraisablehook = _show_unraisable
    with contextlib.suppress(RuntimeError):  # no thread can be started: the exception has to do
        threading.Thread(target=_watch, args=(read_end,), daemon=True).start()


def _interrupt(number: int, frame: Any) -> None:
    if _disarmed:
        return
    _received.append(number)
    if len(_received) == 1 and not _deferred:
        raise Interrupted(number)


def _show_unraisable(lost: Any) -> None:
    """Show an exception that Python cannot raise, such as one in `__del__`, unless interrupted."""
    if not _received:
        sys.__unraisablehook__(lost)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Raise the exception of a signal at the end of a block that would lose it, such as a fork."""
    global _deferred
    if threading.current_thread() is not threading.main_thread():  # signals do not raise in others
        yield
        return
    before = len(_received)
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    if _received and not before:
        raise Interrupted(_received[0])


def disarm() -> None:
    """Ignore signals: the command has ended, well or with an error that it now reports."""
    global _disarmed
    _disarmed = True


def interrupted() -> Interrupted | None:
    """Return the first signal, or None: a library may have turned it into another error."""
    return Interrupted(_received[0]) if _received else None


def set_command(path: str) -> None:
    """Name the command that runs, such as `clipkit embed`."""
    global _command
    _command = path


def report(number: int) -> None:
    """Write once which signal ended the command, without a lock that a stuck thread may hold."""
    if not _reported.acquire(blocking=False):
        return
    line = f"{_command}: interrupted by {signal.Signals(number).name}\n"
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:  # nobody may read a full pipe
            os.write(2, line.encode())


def _watch(read_end: int) -> None:
    """Wait for a signal, and end the process at the second one or after GRACE_SECONDS."""
    number = os.read(read_end, 1)[0]
    try:
        time.sleep(REPEAT_SECONDS)
        if select.select([read_end], [], [], 0)[0]:
            os.read(read_end, 64)
        select.select([read_end], [], [], GRACE_SECONDS)
        number = _received[0] if _received else number
        report(number)
        files.remove_unfinished()
    finally:
        os._exit(128 + number)
