"""Name the command lines that would decide what a result leaves open.

They are made of the words that were typed and of the history of the typed files. Where nothing was
typed, as in Python, or a file came through a pipe, `claims.STEPS` says the same in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.base import suggestions
from clipkit.base.errors import ClipkitError
from clipkit.base.options import options_of
from clipkit.commands._options import TYPED, option_table

if TYPE_CHECKING:
    from clipkit.analysis.question import Analysis
    from clipkit.features.history import Entry
    from clipkit.features.model import FeatureFile

UNTRAINED = 7  # the seed of a suggested control


def steps(
    ctx: Any, analysis: Analysis, values: Mapping[str, Any], result: FeatureFile
) -> Mapping[str, str]:
    """Return what would decide a result, by what keeps it open: in words, or as command lines."""
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import NO_CONTROL, STEPS

    if all(claim.because != NO_CONTROL for claim in claims_of(result)):
        return STEPS
    line = _control_line(ctx, analysis, values)
    return {**STEPS, NO_CONTROL: line} if line else STEPS


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
    further = [options["control"].flag, suggestions.path(control)]
    if ctx.params.get("output") and not ctx.params.get("force"):
        further.append("--force")  # the output exists by now
    line = f"{ctx.meta[TYPED]} {suggestions.command(*further)}"
    if control.exists():
        return line if _is_control(control, images) else ""
    made_by = _embed_line(ctx, images, suggestions.path(control))
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


def _embed_line(ctx: Any, images: Entry, output: str) -> str:
    """Return the command that embeds the same images untrained; "" if it is not known."""
    from clipkit.features.history import History
    from clipkit.report.command_lines import command_lines

    untrained = History([{**images, "model": {**images.model, "untrained": UNTRAINED}}])
    options = option_table(ctx.find_root().command)
    lines = command_lines(untrained, output, lambda _: None, options)
    is_incomplete = any(line.startswith("#") for line in lines)
    if is_incomplete and not Path(str(images.dataset.get("name"))).exists():
        return ""
    return lines[-1]
