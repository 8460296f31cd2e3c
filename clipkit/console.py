"""Notes, warnings and progress on standard error; standard output is for data."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

Update = Callable[[int, int], None]

FIRST_LINE_SECONDS = 2.0  # shorter work is silent where standard error is no terminal
NEXT_LINE_SECONDS = 30.0

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Show no notes and no progress; warnings and errors stay."""
    global _quiet
    _quiet = quiet


def escaped(text: str) -> str:
    r"""Escape control characters: a file name must not break the line or steer the terminal.

    >>> escaped("a\n\x1b[31mred")
    'a\\n\\x1b[31mred'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def write_line(text: str) -> None:
    """Write one line; a full disk or a closed pipe behind standard error stops no work."""
    with contextlib.suppress(OSError):
        sys.stderr.write(escaped(text) + "\n")


def note(text: str) -> None:
    """Write a note, unless the user asked for quiet."""
    if not _quiet:
        write_line(f"clipkit: {text}")


def warn(text: str) -> None:
    """Write a warning about something that may affect a result."""
    write_line(f"clipkit: warning: {text}")


@contextlib.contextmanager
def progress(what: str, unit: str = "rows", start: int = 0) -> Iterator[Update]:
    """Show the progress of work that may take long; yield `update(done, total)`.

    On a terminal, show a bar with rate and time left. Elsewhere, for a log, write a plain line once
    the work has taken FIRST_LINE_SECONDS, then every NEXT_LINE_SECONDS, and one at its end.

    Parameters
    ----------
    what : str
        Names the work, such as "embedding cifar10".
    unit : str
        Plural noun of what `update` counts.
    start : int
        The count at which a resumed run begins.
    """
    if _quiet:
        yield _ignore
    elif sys.stderr.isatty():
        with _bar(what, unit, start) as update:
            yield update
    else:
        with _LogLines(what, unit, start) as update:
            yield update


def _ignore(done: int, total: int) -> None:
    pass


@contextlib.contextmanager
def _bar(what: str, unit: str, start: int) -> Iterator[Update]:
    # Rich takes 20 ms to import, which every command would pay.
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escaped(what), total=None, rate="")

        def update(done: int, total: int) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{(done - start) / elapsed:,.0f} {unit}/s" if elapsed > 0.5 else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield update


class _LogLines:
    """Write the progress of work from a thread, so that a step that takes minutes is seen too."""

    def __init__(self, what: str, unit: str, start: int) -> None:
        self.what = what
        self.unit = unit
        self.start = start
        self.done = start
        self.total = 0
        self.began = time.monotonic()
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self._write_lines, daemon=True)

    def __enter__(self) -> Update:
        self.thread.start()
        return self._update

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finished.set()
        self.thread.join()
        elapsed = time.monotonic() - self.began
        if kind is None and elapsed > FIRST_LINE_SECONDS:
            done = f"{self.done:,} {self.unit}" if self.total else "done"
            note(f"{self.what}: {done} in {elapsed:.0f} s")

    def _update(self, done: int, total: int) -> None:
        self.done = done
        self.total = total

    def _write_lines(self) -> None:
        seconds = FIRST_LINE_SECONDS
        while not self.finished.wait(seconds):
            note(f"{self.what}: {self._state()}")
            seconds = NEXT_LINE_SECONDS

    def _state(self) -> str:
        elapsed = time.monotonic() - self.began
        if not self.total:
            return f"running for {elapsed:.0f} s"
        rate = (self.done - self.start) / elapsed
        state = f"{self.done:,} of {self.total:,} {self.unit}, {rate:,.0f} {self.unit}/s"
        if rate > 0:
            state += f", {(self.total - self.done) / rate:,.0f} s left"
        return state
