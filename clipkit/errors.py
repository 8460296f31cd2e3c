"""Errors that a user can act on: one line of what must hold and what was got, one hint of what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClipkitError(Exception):
    """Bad data or failed input/output; the command exits with `exit_code`.

    Parameters
    ----------
    message : str
        What must hold and what was got, naming the file, data set, line or row.
    hint : str, optional
        What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ClipkitError):
    """The command line asks for something that cannot be, or the output exists."""

    exit_code = 2


class ImageError(ClipkitError):
    """An image that cannot be used; `embed` skips it, counts it and goes on."""


class WriteError(ClipkitError):
    """Writing failed (disk full, say).

    HDF5 may crash the interpreter at a normal exit after this one, so the door leaves by `os._exit`.
    """


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for a name that is not in a registry, with the nearest names that are.

    >>> unknown("data set", "cifar1", ["cifar10", "digits"]).message
    "unknown data set 'cifar1'"
    >>> unknown("data set", "cifar1", ["cifar10", "digits"]).hint
    'did you mean cifar10?'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UsageError(f"unknown {what} {name!r}", hint)
