"""What goes to standard error: notes, warnings and progress. Standard output is for data."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

quiet = False

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    r"""One line that leaves the terminal as it is, whatever a file name or a stranger's file holds.

    >>> escaped("a\n\x1b[31mred")
    'a\\n\\x1b[31mred'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def note(text: str) -> None:
    """Tell something worth knowing; silent under --quiet."""
    if not quiet:
        print(escaped(f"clipkit: {text}"), file=sys.stderr)


def warn(text: str) -> None:
    """Tell something that a number may depend on."""
    print(escaped(f"clipkit: warning: {text}"), file=sys.stderr)


@contextlib.contextmanager
def progress(what: str, unit: str = "rows", start: int = 0) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and time left on a terminal, nothing elsewhere; yields `update(done, total)`.

    The rate counts from `start`, where a resumed run began.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    rate = TextColumn("{task.fields[rate]}")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        rate,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escaped(what), total=None, rate="")

        def update(done: int, total: int) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            speed = f"{(done - start) / elapsed:,.0f} {unit}/s" if elapsed > 0.5 else ""
            bar.update(task, completed=done, total=total, rate=speed)

        yield update
