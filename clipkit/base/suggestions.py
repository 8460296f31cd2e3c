"""Commands that hints suggest: each word that came from a file or a folder is quoted."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

PLACEHOLDER = re.compile(r"\{(\w+)\}")


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
