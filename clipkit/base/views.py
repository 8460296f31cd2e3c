"""What a notebook shows of a feature file, by its kind: a function from the file to HTML or None.

`report` makes the views, and stands above `features`. `clipkit` registers them when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VIEWS: dict[str, Callable[[Any], str | None]] = {}
