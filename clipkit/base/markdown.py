"""Markdown with GitHub's extensions: texts that are shown literally, and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipkit.base.console import escaped

LONGEST_NAME = 300
# What Markdown, with GitHub's extensions, may read as more than a character: punctuation, an
# underscore outside a word, the scheme of a link, and what begins a list or underlines a heading
MARKDOWN = re.compile(
    r"[\\`*\[\]<>|~$#&@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.|(?<!\S)[-+=](?!\d)"
    r"|(?<=(?<!\S)\d)[.)](?!\S)"
)


def escape(text: object) -> str:
    """Return a name as `literal` does, cut if it is long."""
    line = " ".join(str(text).split())
    if len(escaped(line)) > LONGEST_NAME:
        line = escaped(line)[: LONGEST_NAME - 1] + "…"
    return literal(line)


def literal(text: object) -> str:
    r"""Return one line of Markdown that shows a text literally.

    A name cannot make a heading, a link, a list, a cell of a table, HTML or a formula.

    >>> print(literal("a|b <b>$x$</b> [link](http://a.b) snake_case"))
    a\|b \<b\>\$x\$\</b\> \[link\](http\://a.b) snake_case
    >>> print(literal("# 1"), literal("---"), literal("1. x"), literal("_x_"))
    \# 1 \--- 1\. x \_x\_
    >>> print(literal("- x"), literal("-1.00 (-6.00 to +4.00)"))
    \- x -1.00 (-6.00 to +4.00)
    """
    return MARKDOWN.sub(r"\\\g<0>", escaped(" ".join(str(text).split())))


def format_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    is_number: Sequence[bool],
    header: bool = True,
) -> str:
    r"""Return a table with padded columns, those of numbers on the right, or its rows alone.

    Titles and cells are Markdown.

    >>> print(format_table(["x", "n"], [[literal("a|b"), "1"]], [False, True]))
    | x    |  n |
    |------|---:|
    | a\|b |  1 |
    """
    columns = []
    for cells, is_right in zip(zip(titles, *rows, strict=True), is_number, strict=True):
        width = max(2, *map(len, cells))
        end, align = (":", str.rjust) if is_right else ("-", str.ljust)
        title, *padded = [f" {align(cell, width)} " for cell in cells]
        columns.append([title, "-" * (width + 1) + end, *padded])
    lines = [f"|{'|'.join(line)}|" for line in zip(*columns, strict=True)]
    return "\n".join(lines if header else lines[2:])


def format_note(text: str) -> str:
    """Return a paragraph, for below a table."""
    return "\n" + literal(text)
