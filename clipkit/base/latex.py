"""LaTeX: texts that are shown literally, and tables that need no package but booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipkit.base.console import escaped

SYMBOLS = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    '"': "''",
    "<": "$<$",
    ">": "$>$",
    "[": "{[}",  # at the start of a line, it would be an option of the line break before it
    "*": "{*}",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\le$",
    "\N{GREEK SMALL LETTER TAU}": r"$\tau$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}
# A character of SYMBOLS, the sign of a number, or the first of two hyphens, which would be a dash
SPECIAL = re.compile(rf"[{re.escape(''.join(SYMBOLS))}]|(?<![\w.-])-(?=[\d.])|-(?=-)")
WITH_INTERVAL = re.compile(r"(\S+) (\(.+\))")  # a number and its interval


def literal(text: object) -> str:
    r"""Return one line of LaTeX that shows a text literally.

    >>> print(literal("50 % of a_b, C:\\x, {1}, a--b"), literal("-1.5 (-2.0 to +0.5)"))
    50 \% of a\_b, C:\textbackslash{}x, \{1\}, a-{}-b $-$1.5 ($-$2.0 to +0.5)
    """
    return SPECIAL.sub(_symbol, escaped(" ".join(str(text).split())))


def _symbol(match: re.Match[str]) -> str:
    character = match[0]
    if character == "-":
        return "-{}" if match.string[match.end() : match.end() + 1] == "-" else "$-$"
    return SYMBOLS[character]


def format_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    is_number: Sequence[bool],
    header: bool = True,
) -> str:
    r"""Return a table, or its rows alone. Titles and cells are LaTeX.

    In columns of numbers, a number and its interval are aligned with those above them.

    >>> print(format_table(["x", r"n \%"], [[r"a\_b", "1.0 (0.5--2.0)"]], [False, True]))
    \begin{tabular}{lr@{ }l}
    \toprule
    x & \multicolumn{2}{c}{n \%} \\
    \midrule
    a\_b & 1.0 & (0.5--2.0) \\
    \bottomrule
    \end{tabular}
    """
    columns, kinds = [], ""
    for (title, *cells), is_right in zip(zip(titles, *rows, strict=True), is_number, strict=True):
        if is_right and any(map(WITH_INTERVAL.fullmatch, cells)):
            kinds += "r@{ }l"
            cells = list(map(_apart, cells))
            columns.append([rf"\multicolumn{{2}}{{c}}{{{title}}}", *cells])
        else:
            kinds += "r" if is_right else "l"
            columns.append([title, *cells])
    first, *others = [" & ".join(line) + r" \\" for line in zip(*columns, strict=True)]
    if not header:
        return "\n".join(others)
    begin = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", first, r"\midrule"]
    return "\n".join([*begin, *others, r"\bottomrule", r"\end{tabular}"])


def _apart(cell: str) -> str:
    """Return a number and its interval, if it has one, as two cells."""
    number, has_interval, interval = cell.partition(" (")
    return f"{number} & ({interval}" if has_interval else f"{cell} &"


def format_note(text: str) -> str:
    """Return a paragraph in small type, for below a table."""
    return rf"\par\smallskip{{\footnotesize {literal(text)}\par}}"
