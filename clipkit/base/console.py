"""Notes, warnings and progress on standard error; standard output is for data."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

# takes done, total and, if it says more than the rate of the steps, how far the work got
Update = Callable[..., None]

FIRST_LINE_SECONDS = 2.0  # shorter work is silent where standard error is no terminal
NEXT_LINE_SECONDS = 30.0
NEXT_BAR_SECONDS = 0.5  # in a notebook
LONG_SECONDS = 600.0  # longer work says at its start how long it will take
LONGEST_LINE = 4000  # characters

# Controls, marks of direction, line separators, and surrogates (bytes of a name that is not UTF-8)
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SIMILAR = str.maketrans("─━═│┃║–—−…×‘’“”", "---|||---.x''\"\"") | {ord("τ"): "tau"}
_quiet = False
_verbose = False
_mute = threading.local()  # of the thread that repeats work, not of one that shows its progress
_reserved: TextIO | None = None  # for data, while descriptor 1 is standard error
_began = time.monotonic()
_seconds: dict[str, float] = {}  # that each stage took
_running_stages: list[str] = []


def reserve_stdout() -> None:
    """Keep standard output for data until this process ends: whatever else is printed is a message.

    A user's code may print from threads, child processes and C libraries at any time. Where
    standard output is not descriptor 1, as in a notebook, nothing changes.
    """
    global _reserved
    try:
        is_plain = sys.stdout.fileno() == 1
        sys.stdout.flush()
    except (OSError, ValueError):
        return
    if is_plain and _reserved is None and sys.stdout.writable():
        kept = os.dup(1)
        _reserved = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors="backslashreplace")
        os.dup2(2, 1)


def has_reserved_stdout() -> bool:
    """Whether what Python code prints is a message by now."""
    return _reserved is not None


def data() -> TextIO:
    """Return standard output, for data."""
    return _reserved or sys.stdout


def set_quiet(quiet: bool) -> None:
    """Show no notes and no progress; warnings and errors stay."""
    global _quiet
    _quiet = quiet


def set_verbose(verbose: bool) -> None:
    """Show details, and measure the stages of the work from now on."""
    global _verbose, _began
    _verbose = verbose
    _began = time.monotonic()
    _seconds.clear()


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Show no notes, warnings and progress of work that repeats what already said them."""
    _mute.is_on = True
    try:
        yield
    finally:
        _mute.is_on = False


def _is_muted() -> bool:
    return getattr(_mute, "is_on", False)


def is_verbose() -> bool:
    """Whether details are shown."""
    return _verbose


def escaped(text: str) -> str:
    r"""Escape control characters: a file name must not break the line or steer the terminal.

    >>> escaped("a\n\x1b[31mred")
    'a\\n\\x1b[31mred'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 line`, `2,000 lines`."""
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


def replace_by_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks by similar ASCII, or else an escape (for `codecs`)."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_SIMILAR)
    return text.encode("ascii", "backslashreplace").decode(), error.end


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
    if not _quiet and not _is_muted():
        write_line(f"clipkit: {text}")


def note_spellings(where: str, names: Iterable[str]) -> None:
    """Note names that differ in case alone, which may be meant as one class."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            note(f"{where}: {other!r} and {name!r} are two classes: they differ in case alone")
            return


def detail(text: str) -> None:
    """Write a note that only a user who asked for details reads."""
    if _verbose and not _is_muted():
        write_line(f"clipkit: {text}")


def warn(text: str) -> None:
    """Write a warning about something that may affect a result."""
    if not _is_muted():
        write_line(f"clipkit: warning: {text}")


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Measure how long a stage of the work takes, for `report_stages`.

    A stage inside another one counts as the outer one.
    """
    began = time.monotonic()
    _running_stages.append(name)
    try:
        yield
    finally:
        _running_stages.pop()
        if not _running_stages:
            _seconds[name] = _seconds.get(name, 0) + time.monotonic() - began


def report_stages() -> None:
    """Write, as a detail, how long the command and its stages took, and the memory they needed."""
    elapsed = time.monotonic() - _began
    stages = {**_seconds, "all else": max(0.0, elapsed - sum(_seconds.values()))}
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items())
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kilobytes = usage // 1024 if sys.platform == "darwin" else usage
    detail(f"took {elapsed:.1f} s: {times}; peak memory {kilobytes / 1024:,.0f} MiB")


def note_if_long(what: str, seconds: float) -> None:
    """Note how long work will take, if its first part suggests more than LONG_SECONDS."""
    if seconds > LONG_SECONDS:
        note(f"{what}: will take about {seconds / 60:,.0f} minutes, judging by its first part")


def is_watched() -> bool:
    """Whether a person sees each line as it is written, and did not ask for quiet.

    That is on a terminal, or in a notebook.
    """
    return not _quiet and (sys.stderr.isatty() or _is_notebook())


def _is_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console  # takes 20 ms to import, which every command would pay

    return Console().is_jupyter


@contextlib.contextmanager
def progress(
    what: str, unit: str = "rows", start: int = 0, opening: str | None = None
) -> Iterator[Update]:
    """Show the progress of work that may take long; yield an `Update`.

    On a terminal, show a bar with rate and time left. In a notebook, show it below the cell once
    the work has taken FIRST_LINE_SECONDS. Elsewhere, for a log, write a plain line after this time,
    then every NEXT_LINE_SECONDS, and one at the end.

    `what` names the work, such as "embedding cifar10", and `unit` is the plural of what is counted,
    from `start` in a resumed run. If `opening` says what will be done, a log gets this line at
    once, and the line at the end in any case.
    """
    counter = _Counter(unit, start)
    with stage(what):
        if _quiet or _is_muted():
            yield lambda *_: None
        elif sys.stderr.isatty():
            with _terminal_bar(what, counter) as update:
                yield update
        elif _is_notebook():
            with _cell_bar(what, counter) as update:
                yield update
        else:
            with _log_lines(what, counter, opening) as update:
                yield update


class _Counter:
    """The progress of work: its steps until now, and their rate."""

    def __init__(self, unit: str, start: int) -> None:
        self.unit = unit
        self.start = start
        self.done = start
        self.total = 0
        self.reached = ""

    def update(self, done: int, total: int, reached: str = "") -> None:
        self.done = done
        self.total = total
        self.reached = reached

    def rate(self, seconds: float) -> float:
        return (self.done - self.start) / seconds

    def speed(self, seconds: float) -> str:
        return self.reached or f"{self.rate(seconds):,.0f} {self.unit}/s"

    def state(self, seconds: float) -> str:
        """Return what a line says while the work goes on."""
        if not self.total:
            return f"running for {seconds:.0f} s"
        rate = self.rate(seconds)
        state = f"{self.done:,} of {self.total:,} {self.unit}, {self.speed(seconds)}"
        if rate > 0:
            state += f", {(self.total - self.done) / rate:,.0f} s left"
        return state

    def outcome(self, completed: bool) -> str:
        """Return what the last line says before the time."""
        if not self.total:
            return "done in" if completed else "stopped after"
        if not completed:
            return f"stopped at {self.done:,} of {self.total:,} {self.unit} after"
        return f"{count(self.done, self.unit.removesuffix('s'))} in"


def _make_bar(what: str, counter: _Counter, **options: Any) -> tuple[Progress, Update]:
    """Return a bar of Rich, and the `Update` that moves it."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[count]}"),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, **options)
    task = bar.add_task(escaped(what), total=None, rate="", count="")

    def update(done: int, total: int, reached: str = "") -> None:
        counter.update(done, total, reached)
        seconds = bar.tasks[0].elapsed or 0.0
        rate = counter.speed(seconds) if seconds > 0.5 else ""
        bar.update(task, completed=done, total=total, rate=rate, count=f"{done}/{total}")

    return bar, update


@contextlib.contextmanager
def _terminal_bar(what: str, counter: _Counter) -> Iterator[Update]:
    from rich.console import Console

    bar, update = _make_bar(what, counter, console=Console(stderr=True), transient=True)
    with bar:
        yield update


@contextlib.contextmanager
def _cell_bar(what: str, counter: _Counter) -> Iterator[Update]:
    """Show a bar below a cell, and leave it there.

    Rich's own display of it needs a widget, which hides notes that are written in the meantime.
    """
    from IPython.display import display

    bar, update = _make_bar(what, counter)
    shown: list[Any] = []

    def show() -> None:
        if shown:
            shown[0].update(bar)
        else:
            shown.append(display(bar, display_id=True))

    try:
        with _repeated(show, FIRST_LINE_SECONDS, NEXT_BAR_SECONDS):
            yield update
    finally:
        if shown:
            show()


@contextlib.contextmanager
def _log_lines(what: str, counter: _Counter, opening: str | None) -> Iterator[Update]:
    began = time.monotonic()
    first = FIRST_LINE_SECONDS
    if opening:
        first = NEXT_LINE_SECONDS
        note(f"{what}: {opening}")

    def write() -> None:
        note(f"{what}: {counter.state(time.monotonic() - began)}")

    completed = False
    try:
        with _repeated(write, first, NEXT_LINE_SECONDS):
            yield counter.update
        completed = True
    finally:
        elapsed = time.monotonic() - began
        if elapsed > FIRST_LINE_SECONDS or (opening and completed):
            note(f"{what}: {counter.outcome(completed)} {elapsed:.0f} s")


@contextlib.contextmanager
def _repeated(show: Callable[[], None], first: float, later: float) -> Iterator[None]:
    """Call a function from a thread, so that a step that takes minutes is seen too.

    The first call is after `first` seconds, and each other one `later` seconds after the last.
    """
    finished = threading.Event()

    def call() -> None:
        seconds = first
        while not finished.wait(seconds):
            show()
            seconds = later

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
