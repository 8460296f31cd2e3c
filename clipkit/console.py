"""Notes, warnings and progress on standard error; standard output is for data."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator

Update = Callable[[int, int], None]

FIRST_LINE_SECONDS = 2.0  # shorter work is silent where standard error is no terminal
NEXT_LINE_SECONDS = 30.0
LONGEST_LINE = 4000  # characters

# Controls, marks of direction, line separators, and surrogates (bytes of a name that is not UTF-8)
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
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
    """Write one line; a full disk or a closed pipe behind standard error stops no work.

    A line that quotes a very long text is cut in its middle.
    """
    if len(text) > LONGEST_LINE:
        half = LONGEST_LINE // 2
        text = f"{text[:half]} … {text[-half:]}"
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
        yield lambda *_: None
        return
    show = _bar if sys.stderr.isatty() else _log_lines
    with show(what, unit, start) as update:
        yield update


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


@contextlib.contextmanager
def _log_lines(what: str, unit: str, start: int) -> Iterator[Update]:
    """Write lines from a thread, so that a step that takes minutes is seen too."""
    began = time.monotonic()
    finished = threading.Event()
    done, total = start, 0

    def update(new_done: int, new_total: int) -> None:
        nonlocal done, total
        done, total = new_done, new_total

    def write_lines() -> None:
        seconds = FIRST_LINE_SECONDS
        while not finished.wait(seconds):
            note(f"{what}: {_state(done, total, unit, start, time.monotonic() - began)}")
            seconds = NEXT_LINE_SECONDS

    thread = threading.Thread(target=write_lines, daemon=True)
    thread.start()
    try:
        yield update
    finally:
        finished.set()
        thread.join()
    elapsed = time.monotonic() - began
    if elapsed > FIRST_LINE_SECONDS:
        result = f"{done:,} {unit}" if total else "done"
        note(f"{what}: {result} in {elapsed:.0f} s")


def _state(done: int, total: int, unit: str, start: int, elapsed: float) -> str:
    if not total:
        return f"running for {elapsed:.0f} s"
    rate = (done - start) / elapsed
    state = f"{done:,} of {total:,} {unit}, {rate:,.0f} {unit}/s"
    if rate > 0:
        state += f", {(total - done) / rate:,.0f} s left"
    return state
