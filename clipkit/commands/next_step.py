"""Name the command lines that would decide what a result leaves open.

They are made of the words that were typed and of the history of the typed files. Where nothing was
typed, as in Python, or a file came through a pipe, `claims.STEPS` says the same in words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.base import suggestions
from clipkit.base.errors import ClipkitError
from clipkit.base.options import options_of
from clipkit.commands._options import option_table

if TYPE_CHECKING:
    from clipkit.analysis.question import Analysis
    from clipkit.features.history import Entry
    from clipkit.features.model import FeatureFile

UNTRAINED = 7  # the seed of a suggested control
WOULD_DECIDE = re.compile(r"about ([\d,]+) images would decide")


def steps(
    ctx: Any, analysis: Analysis, values: Mapping[str, Any], result: FeatureFile
) -> Mapping[str, str]:
    """Return what would decide a result, by what keeps it open: in words, or as command lines."""
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import MORE_IMAGES, NO_CONTROL, STEPS

    lines: dict[str, str] = {}
    if any(claim.because == NO_CONTROL for claim in claims_of(result)):
        lines[NO_CONTROL] = _control_line(ctx, analysis, values)
    lines[MORE_IMAGES] = _more_line(ctx, analysis, values, _growth(result))
    return {**STEPS, **{because: line for because, line in lines.items() if line}}


def _growth(result: FeatureFile) -> float:
    """Return how many times as many images would decide what the sentences of a result name."""
    from clipkit.analysis.for_people import findings
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import would_decide

    rows = {would_decide([claim]): claim.n for claim in claims_of(result)}
    factors = [1.0]
    for sentence in findings(result, {}):
        for step in WOULD_DECIDE.finditer(sentence):
            n = rows.get(step[0], max(rows.values()))
            factors.append(float(step[1].replace(",", "")) / n)
    return max(factors)


def _more_line(ctx: Any, analysis: Analysis, values: Mapping[str, Any], growth: float) -> str:
    """Return the commands that embed more of the images, if --limit left some out, and ask again.

    There are none if the question has other files that are about the same images.
    """
    from clipkit.analysis.sections import CAPTIONS

    others = [name for name in analysis.files if values[name]][1:]
    if analysis.section == CAPTIONS or any(
        analysis.files[one].kinds != ("texts",) for one in others
    ):
        return ""
    path = values[next(iter(analysis.files))]
    if not isinstance(path, str) or not Path(path).is_file():
        return ""
    images, more = _embed_entry(path), Path(path).with_name("more.h5")
    if images is None or more.exists() or growth == 1:
        return ""
    draw = images.dataset.get("draw", {})
    if "limit" not in draw:
        return ""
    draw = {**draw, "limit": math.ceil(draw["limit"] * growth)}
    entry = {**images, "dataset": {**images.dataset, "draw": draw}}
    made_by = _embed_line(ctx, entry, suggestions.path(more))
    if not made_by:
        return ""
    asked = suggestions.again({path: [suggestions.path(more)]}, *_replacing(ctx))
    return suggestions.then(made_by, asked)


def _replacing(ctx: Any) -> list[str]:
    """Return the option that replaces the output of a command line, which exists by now."""
    return ["--force"] if ctx.params.get("output") and not ctx.params.get("force") else []


def _control_line(ctx: Any, analysis: Analysis, values: Mapping[str, Any]) -> str:
    """Return the commands that make an untrained control and ask again; "" if unknown."""
    inputs = [values[name] for name in analysis.inputs if values[name] is not None]
    options = options_of(analysis.measure)
    if "control" not in options or "-" in inputs or not Path(inputs[0]).is_file():
        return ""
    images = _embed_entry(inputs[0])
    if images is None or "untrained" in images.model:
        return ""
    control = Path(inputs[0]).with_name("control.h5")
    further = [options["control"].flag, suggestions.path(control), *_replacing(ctx)]
    line = suggestions.again({}, *further)
    if control.exists():
        return line if _is_control(control, images) else ""
    untrained = {**images, "model": {**images.model, "untrained": UNTRAINED}}
    made_by = _embed_line(ctx, untrained, suggestions.path(control))
    return suggestions.then(made_by, line) if made_by else ""


def _embed_entry(path: str | Path) -> Entry | None:
    """Return what `embed` wrote of a file; None if it was imported, split or joined."""
    from clipkit.features import open_file

    try:
        with open_file(str(path)) as file:
            (entry,) = file.history
    except (ClipkitError, ValueError):
        return None
    return entry if entry.command == "embed" else None


def _is_control(path: Path, images: Entry) -> bool:
    """Whether a file has the same images by the same model, untrained."""
    entry = _embed_entry(path)
    if entry is None or "untrained" not in entry.model:
        return False
    return entry.dataset == images.dataset and entry.model.get("name") == images.model.get("name")


def _embed_line(ctx: Any, images: Mapping[str, Any], output: str) -> str:
    """Return the command that writes an entry of `embed`; "" if it is not known."""
    from clipkit.features.history import History
    from clipkit.report.command_lines import command_lines

    options = option_table(ctx.find_root().command)
    lines = command_lines(History([dict(images)]), output, lambda _: None, options)
    is_incomplete = any(line.startswith("#") for line in lines)
    if is_incomplete and not Path(str(images["dataset"].get("name"))).exists():
        return ""
    return lines[-1]
