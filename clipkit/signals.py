"""End a command soon after a signal, even during a library call that does not return.

The first signal raises an exception, so that every `finally` runs. But Python runs a signal's
handler only between two steps of the main thread, and a library call that takes hours delays it by
hours. A thread therefore watches for signals too, and ends the process if that does not happen. It
cannot run while a library holds Python's lock, which libraries release for long computations. If
one does not, SIGQUIT (Ctrl and backslash) ends the process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from typing import Any

from clipkit import files

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 3.0  # for the main thread to end the process
REPEAT_SECONDS = 0.2  # timeout(1) and batch systems send a signal to a process and to its group

_received: list[int] = []  # signals, in order
_reported = threading.Lock()  # held once a signal was reported


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
    threading.Thread(target=_watch, args=(read_end,), daemon=True).start()


def _interrupt(number: int, frame: Any) -> None:
    if not _received:
        _received.append(number)
        raise Interrupted(number)


def interrupted() -> Interrupted | None:
    """Return the first signal, or None: a library may have turned it into another error."""
    return Interrupted(_received[0]) if _received else None


def report(command: str, number: int) -> None:
    """Write once which signal ended the command, without a lock that a stuck thread may hold."""
    if _reported.acquire(blocking=False):
        line = f"{command}: interrupted by {signal.Signals(number).name}\n"
        with contextlib.suppress(OSError):
            os.write(2, line.encode())


def _watch(read_end: int) -> None:
    """Wait for a signal, and end the process at the second one or after GRACE_SECONDS."""
    number = os.read(read_end, 1)[0]
    time.sleep(REPEAT_SECONDS)
    if select.select([read_end], [], [], 0)[0]:
        os.read(read_end, 64)
    select.select([read_end], [], [], GRACE_SECONDS)
    report("clipkit", number)
    files.remove_unfinished()
    os._exit(128 + number)
