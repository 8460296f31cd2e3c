"""Prompt files, templates and class names -> prompts."""

from __future__ import annotations

from clipkit.prompts.texts import (
    Prompts,
    fill,
    from_classes,
    from_lines,
    parse,
    parse_templates,
    readable,
)

__all__ = [
    "Prompts",
    "fill",
    "from_classes",
    "from_lines",
    "parse",
    "parse_templates",
    "readable",
]
