"""What `features` asks of packages above it: `clipkit` registers it here when it is imported.

`report` makes what a notebook shows of a feature file, and questions have columns and layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# By the kind of a file: what returns its HTML, or None
VIEWS: dict[str, Callable[[Any], str | None]] = {}
# By `data set` and `prompt set`: what tells whether one has a name
NAMES: dict[str, Callable[[str], bool]] = {}
# By the command of a question: what returns its record, an `Analysis`
QUESTIONS: dict[str, Callable[[], Any]] = {}


def of_command(command: str) -> Any:
    """Return the `Analysis` of what made a result, by the command in its history; or else None."""
    if command in QUESTIONS:
        return QUESTIONS[command]()
    for make in QUESTIONS.values():
        for record in make().also:
            if record.name == command:
                return record
    return None
