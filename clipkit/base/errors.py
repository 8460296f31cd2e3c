"""Errors that a user can act on: one line on what is wrong, and a hint on what to do."""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self


class ClipkitError(Exception):
    """Report bad data or failed input/output; the command exits with `exit_code`.

    The message names the file, data set, line or row, and says what was expected of it and what it
    is; for input and output, the system's reason. The hint says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message and the hint in one line, as the command line shows them."""
        return f"{self.message}; hint: {self.hint}" if self.hint else self.message

    def adding_hint(self, text: str) -> Self:
        """Return the same error with one more thing to do in its hint."""
        error = copy.copy(self)
        error.hint = text
        if self.hint:
            error.hint = f"{self.hint}; {text}".replace("?;", "?")
        return error


class UsageError(ClipkitError):
    """Report a command line that cannot be run, or an output that exists."""

    exit_code = 2


class InputError(ClipkitError):
    """Report an input that does not belong in its place."""


class ImageError(ClipkitError):
    """Report an image that cannot be used. `embed` skips it, counts it and continues."""


class WriteError(ClipkitError):
    """Report a write that failed, on a full disk for example.

    The process must then end by `os._exit`, as every command does: the interpreter's shutdown may
    crash inside HDF5 after a failed write.
    """


# What people type because other tools call it so, tab, what is meant, separated by ", ": names of
# commands, options, arguments and values. Further words may follow a name. Only what is known where
# the word was typed is said.
SYNONYMS = Path(__file__).with_name("synonyms.tsv")
MAX_COMPARED = 10_000  # more names take too long to compare
MAX_LISTED = 40  # every registry fits


@functools.cache
def _synonyms() -> dict[str, list[str]]:
    lines = SYNONYMS.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    return {typed: meant.split(", ") for typed, meant in pairs}


def _fold(name: str) -> str:
    """Return a name without capitals, and with dashes for underscores."""
    return name.lower().replace("_", "-")


def synonyms_of(name: str) -> list[str]:
    """Return the names that a name of other tools may stand for.

    >>> synonyms_of("--Half")
    ['--precision fp16']
    """
    synonyms = _synonyms()
    return synonyms.get(name, synonyms.get(_fold(name), []))


def meant_by(name: str, known: Sequence[str]) -> list[str]:
    """Return the known names that are written alike, or else those that a synonym stands for.

    >>> meant_by("KNN", ["svm", "knn"]), meant_by("SVC", ["svm", "knn"])
    (['knn'], ['svm'])
    >>> meant_by("--K", ["-k", "-t"]), meant_by("--n_clusters", ["-k", "-t"])
    (['-k'], ['-k'])
    """
    folded = _fold(name)
    alike = [other for other in known if _fold(other).lstrip("-") == folded.lstrip("-")]
    if alike and name not in _synonyms():
        return alike
    meant = synonyms_of(name)
    return [other for other in meant if other.partition(" ")[0] in known] or alike


def unknown(what: str, name: str, known: Iterable[str], others: Iterable[str] = ()) -> UsageError:
    """Return the error for a name that is not known, with the nearest known names.

    `others` are further names that are understood, but not listed.

    >>> unknown("data set", "cifar1", ["cifar10", "digits"]).message
    "unknown data set 'cifar1'"
    >>> unknown("data set", "cifar1", ["cifar10", "digits"]).hint
    'did you mean cifar10?'
    >>> unknown("row", "none", map(str, range(45))).hint[-10:]
    'and 5 more'
    """
    names = list(known)
    compared = [*dict.fromkeys([*names[:MAX_COMPARED], *others])]
    meant = _did_you_mean(name, compared)
    if meant:
        return UsageError(f"unknown {what} {name!r}", meant)
    if not names:
        return UsageError(f"unknown {what} {name!r}", "there is none")
    return UsageError(f"unknown {what} {name!r}", f"known: {listed(sorted(names), MAX_LISTED)}")


def unknown_option(name: str, known: Sequence[str], hint: str) -> UsageError:
    """Return the error for an option that a command lacks; `hint` is said if none is similar.

    >>> unknown_option("--n_clusters", ["-k", "--seed"], "see clipkit cluster --help").hint
    'did you mean -k?'
    """
    return UsageError(f"No such option: {name}", _did_you_mean(name, known, 0.78) or hint)


def _did_you_mean(name: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """Return the hint that names what is meant or written similarly; "" if nothing is."""
    nearest = meant_by(name, known) or difflib.get_close_matches(name, known, n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(nearest)}?" if nearest else ""


def listed(names: Sequence[str], most: int) -> str:
    """Return names for a message, and how many more there are.

    >>> listed("abcde", 3)
    'a, b, c and 2 more'
    """
    text = ", ".join(names[:most])
    if len(names) > most:
        text += f" and {len(names) - most:,} more"
    return text


SMALLEST, LARGEST = 1e-12, 1e12  # beyond them, float32 products of settings over- or underflow


def check_positive(name: str, value: float | str) -> float:
    """Return a temperature, C or scale as a float between 1e-12 and 1e12, or refuse it."""
    hint = None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
        hint = "separate several by commas: 1,10"
        if str(value).endswith("%"):
            hint = f"write a share: {_share_of(str(value))}"
    if number <= 0:
        hint = "a small number comes close to 0: 0.001"
    if SMALLEST <= number <= LARGEST:
        return number
    expected = f"a number between {SMALLEST:g} and {LARGEST:g}"
    raise UsageError(f"{name}: expected {expected}, got {value!r}", hint)


def _share_of(percent: str) -> str:
    """Return a percentage as a share, such as 0.05 for `5%`; an example for what is no number."""
    try:
        return f"{float(percent.removesuffix('%')) / 100:g}"
    except ValueError:
        return "0.05"


MAX_REASON = 300  # characters of a library's message, which may quote a whole file or reply
MAX_QUOTED = 80  # characters of a name, a text or an argument in a message


def system_reason(error: Exception) -> str:
    """Return the system's reason for an error, without the file's name, or else `brief`.

    >>> system_reason(FileNotFoundError(2, "No such file or directory", "img.h5"))
    'No such file or directory'
    """
    return getattr(error, "strerror", None) or brief(error)


def brief(error: BaseException) -> str:
    r"""Return the first line of an error's message, or the error's type if it has no message.

    A line that ends in a colon announces the next one, which then belongs to it. A single word
    says too little without the type.

    >>> brief(ValueError("bad size:\n    expected 3\nsee the manual")), brief(KeyError("size"))
    ('bad size: expected 3', "KeyError: 'size'")
    """
    lines = str(error).split("\n")
    text = ""
    for line in lines:
        text = f"{text} {line.strip()}".strip()
        if text and not text.endswith(":"):
            break
    kind = type(error).__name__
    if not text:
        return kind
    text = shorten(text, MAX_REASON)
    if " " not in text:
        return f"{kind}: {text}"
    return text


def shorten(value: object, most: int = MAX_QUOTED) -> str:
    """Return a value as text, cut to `most` characters: a message quotes what may be very long."""
    text = str(value)
    if len(text) > most:
        return f"{text[:most]} ..."
    return text


def quote(value: object) -> str:
    """Return a wrong argument as one short line, for a message.

    >>> quote({"a": "b"})
    "{'a': 'b'}"
    """
    return shorten(" ".join(repr(value).split()))


# The last pyarrow that goes with NumPy 1 is 25, and the first that goes with NumPy 2 is 16.
PYARROW_HINT = "pip install 'pyarrow<26' beside NumPy 1, or pip install --upgrade pyarrow numpy"


def import_error(error: ImportError) -> ClipkitError:
    """Return the error of a library that is installed, but not with versions that it goes with.

    >>> str(import_error(ImportError("a needs b>=2, found 1")))
    'cannot import a library: a needs b>=2, found 1; hint: pip check lists what does not fit'
    """
    reason = brief(error)
    hint = PYARROW_HINT if "pyarrow" in reason else "pip check lists what does not fit"
    return ClipkitError(f"cannot import a library: {reason}", hint)


@contextlib.contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Turn the many exceptions of zipfile, NumPy and Arrow into one error that names the file."""
    try:
        yield
    except (ClipkitError, MemoryError):
        raise
    except Exception as error:
        raise ClipkitError(f"cannot read {name}: {system_reason(error)}") from error
