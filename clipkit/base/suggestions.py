"""Commands that hints suggest: each word that came from a file or a folder is quoted."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

PLACEHOLDER = re.compile(r"\{(\w+)\}")
_typed: list[str] = []  # the words of the command line that runs; none in Python


def command(*words: object) -> str:
    """Return words as a command of a shell.

    >>> command("mkdir", "-p", "m;q")
    "mkdir -p 'm;q'"
    """
    return shlex.join(map(str, words))


def then(*commands: str) -> str:
    """Return commands as one line of a shell: each runs if the one before succeeds.

    >>> then(command("mkdir", "a b"), "ls")
    "mkdir 'a b' && ls"
    """
    return " && ".join(commands)


def set_typed(words: Sequence[str]) -> None:
    """Remember the command line that runs, from the command on; no words end it."""
    _typed[:] = words


def again(replaced: Mapping[str, Sequence[object]], *further: object) -> str:
    """Return the command line that runs, with others in place of some words, and further ones.

    It is "" if one of these words was not typed, as in Python.
    """
    if not _typed or not set(replaced) <= set(_typed):
        return ""
    words = itertools.chain.from_iterable(replaced.get(word, [word]) for word in _typed)
    return command("clipkit", *words, *further)


def with_commas(values: Sequence[str]) -> str:
    """Return the command line that runs, with values that follow each other joined by commas."""
    for start in range(len(_typed)):
        end = start + len(values)
        if _typed[start:end] == list(values):
            return command("clipkit", *_typed[:start], ",".join(values), *_typed[end:])
    return ""


def made(by: str, replaced: Mapping[str, Sequence[object]]) -> str:
    """Return the command that makes a missing input, and then the one that lacked it."""
    return then(*filter(None, [by, again(replaced)]))


def path(name: str | os.PathLike[str]) -> str:
    """Return the name of a file as a word that is no option.

    >>> path("-v.h5"), path("a/b.h5")
    ('./-v.h5', 'a/b.h5')
    """
    text = os.fspath(name)
    return f"./{text}" if text.startswith("-") and text != "-" else text


def python(lines: Iterable[str], **values: object) -> str:
    """Return lines of Python as one command of a shell. Values replace `{name}` as literals.

    >>> print(python(["import os", "os.stat({file})"], file="a b"))
    python -c 'import os; os.stat("a b")'
    """
    code = "; ".join(lines)
    code = PLACEHOLDER.sub(lambda found: _literal(str(values[found[1]])), code)
    return command("python", "-c", code)


def _literal(text: str) -> str:
    """Return a literal of Python, in double quotes where these need no escape: a shell's are '."""
    if text.isprintable() and not set("'\"\\").intersection(text):
        return f'"{text}"'
    return repr(text)
