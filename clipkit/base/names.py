"""Docstring."""

from __future__ import annotations

import os
import re
import urllib.parse

# Controls, invalid UTF-8, line and bidirectional controls, and a "%" that would read as an escape.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|%(?=[0-9A-Fa-f]{2})"
)


def escape(name: str) -> str:
    r"""Return a file name as printable UTF-8 text, the same on every machine.

    Bytes that are not UTF-8 and control characters are percent-encoded.
    `urllib.parse.unquote_to_bytes` restores the bytes of the name.

    >>> escape("été 100%.png"), escape("a\nb.png"), escape("\udcff.png"), escape("%41.png")
    ('été 100%.png', 'a%0Ab.png', '%FF.png', '%2541.png')
    """
    if name.isascii() and name.isprintable() and "%" not in name:
        return name
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    return _UNSAFE.sub(
        lambda match: urllib.parse.quote(match[0], errors="surrogateescape"),
        text,
    )
