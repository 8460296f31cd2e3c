"""Name the command lines that would decide what a result leaves open.

They are made of the words that were typed and of the history of the typed files. Where nothing was
typed, as in Python, or a file came through a pipe, `claims.STEPS` says the same in words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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

    rows: dict[str, int] = {}  # by the number that would decide
    for claim in claims_of(result):
        rows |= dict.fromkeys(WOULD_DECIDE.findall(would_decide([claim])), claim.n)
    factors = [1.0]
    for sentence in findings(result, {}):
        for needed in WOULD_DECIDE.findall(sentence):
            n = rows.get(needed, max(rows.values()))
            factors.append(float(needed.replace(",", "")) / n)
    return max(factors)


def _more_line(ctx: Any, analysis: Analysis, values: Mapping[str, Any], growth: float) -> str:
    """Return the commands that embed more of the images, if --limit left some out, and ask again.

    Each typed file of these images is made again: a control, logits or a result, too. Texts
    and probes stay; there are no commands if they are captions, which are of these images alone.
    """
    typed = {path: _history(path) for path in _typed_files(analysis, values)}
    typed = {path: made for path, made in typed.items() if not _stays(analysis, made)}
    if growth == 1 or not typed:
        return ""
    images = next(iter(typed.values()))[:1]
    larger: dict[str, list[str]] = {}  # files of more images, by what was typed
    commands: dict[str, None] = {}  # each once
    for path, history in typed.items():
        stem = Path(path).stem
        name = "more" if history == images else f"more-{stem}"
        more = suggestions.path(Path(path).with_name(f"{name}.h5"))
        embedded = "more" if history[:1] == images else f"more-{stem}-images"
        lines = _lines_of_more(ctx, path, history, growth, more, embedded)
        if not lines:
            return ""
        commands |= dict.fromkeys(lines)
        larger[path] = [more]
    asked = suggestions.again(larger, *_replacing(ctx))
    return suggestions.then(*commands, asked) if asked else ""


def _stays(analysis: Analysis, history: Sequence[Entry]) -> bool:
    """Whether a file is about more images, too: texts, or a probe that is asked about others."""
    from clipkit.analysis.sections import CAPTIONS

    if not history:
        return False
    if history[-1].command == "textembed":
        return analysis.section != CAPTIONS
    return history[-1].command == "probe" and "probe" in analysis.files


def _typed_files(analysis: Analysis, values: Mapping[str, Any]) -> list[str]:
    """Return the paths of a question's feature files, in its order."""
    paths: list[str] = []
    for name in analysis.files:
        value = values[name]
        paths += [value] if isinstance(value, str) else value or []
    return paths


def _lines_of_more(
    ctx: Any, path: str, history: Sequence[Entry], growth: float, output: str, embedded: str
) -> list[str]:
    """Return the commands that make a file of more images, and before it what it is made of.

    There are none if its images are not known, or all there, or if one of the files exists.
    """
    if not history or history[0].command != "embed":
        return []
    draw = history[0].dataset.get("draw", {})
    if "limit" not in draw:
        return []
    draw = {**draw, "limit": math.ceil(draw["limit"] * growth)}
    larger = {**history[0], "dataset": {**history[0].dataset, "draw": draw}}
    later = [entry.inputs for entry in history[1:]]
    names = {
        digest: f"{Path(output).stem}-{role}" for made in later for role, digest in made.items()
    }
    of_images = [made.get("images") or made.get("features") for made in later]
    names |= dict.fromkeys(list(filter(None, of_images))[:1], embedded)
    files = {
        digest: suggestions.path(Path(path).with_name(f"{name}.h5"))
        for digest, name in names.items()
    }
    if any(Path(name).exists() for name in (output, *files.values())):
        return []
    return _lines_that_make(ctx, [larger, *history[1:]], output, files)


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
    made_by = _lines_that_make(ctx, [untrained], suggestions.path(control))
    return suggestions.then(*made_by, line) if made_by else ""


def _history(path: str | Path) -> Sequence[Entry]:
    """Return the history of a file; [] if it cannot be read, as after a pipe."""
    from clipkit.features import open_file

    if not Path(path).is_file():
        return []
    try:
        with open_file(str(path)) as file:
            return list(file.history)
    except (ClipkitError, ValueError):
        return []


def _embed_entry(path: str | Path) -> Entry | None:
    """Return what `embed` wrote of a file; None if it was imported, split or joined."""
    history = _history(path)
    is_embedded = len(history) == 1 and history[0].command == "embed"
    return history[0] if is_embedded else None


def _is_control(path: Path, images: Entry) -> bool:
    """Whether a file has the same images by the same model, untrained."""
    entry = _embed_entry(path)
    if entry is None or "untrained" not in entry.model:
        return False
    return entry.dataset == images.dataset and entry.model.get("name") == images.model.get("name")


def _lines_that_make(
    ctx: Any,
    history: Sequence[Mapping[str, Any]],
    output: str,
    files: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Return the commands that make a file with a history; [] if it does not say all.

    `files` are names by digests. Images are where the history says, if a file or folder is there.
    """
    from clipkit.features.history import History
    from clipkit.report.command_lines import command_lines

    options = option_table(ctx.find_root().command)
    lines = command_lines(History(history), output, files.get, options)
    unsaid = {line for line in lines if line.startswith("#")}
    if Path(str(history[0]["dataset"].get("name"))).exists():
        unsaid -= {*command_lines(History(history[:1]), output, files.get, options)}
    if unsaid:
        return []
    return [line for line in lines if not line.startswith(("#", "mkdir -p "))]
