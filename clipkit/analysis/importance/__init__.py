"""Which prompts a kept probe relies on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from clipkit.analysis.options import FirstSplit
from clipkit.analysis.question import UNDERSTAND, Analysis, Answer, FeatureFile, Input
from clipkit.base.errors import UsageError
from clipkit.base.options import MAX_SEED, OUTPUT_PANEL, option
from clipkit.base.pictures import Dots
from clipkit.features.columns import (
    ACC1,
    CLASS,
    GROUP,
    HIGHER,
    LABELS,
    NOTHING,
    NUMBER,
    POINTS,
    PROMPT,
    ROW_COUNT,
    ROWS,
    SHARE,
    TEXT,
    Column,
)

if TYPE_CHECKING:
    from clipkit.statistics.claims import Claim

PROBE = Input("PROBE", "Probe on logits, from clipkit probe --keep.", ("probe",))
LOGITS = Input(
    "LOGITS",
    "Feature file of logits (default: standard input).",
    ("logits",),
    is_piped=True,
    unless="weights",
)


def importance(
    probe: Annotated[FeatureFile, PROBE],
    logits: Annotated[FeatureFile | None, LOGITS] = None,
    split: FirstSplit = None,
    repeat: Annotated[
        int | None,
        option("N", "Permutations of the images for each prompt (default: 5).", min=1, max=1000),
    ] = None,
    groups: Annotated[
        str | None,
        option(
            "FILE",
            "Permute groups of prompts; each line of FILE is: prompt TAB group.",
            is_file=True,
        ),
    ] = None,
    weights: Annotated[
        int | None,
        option("N", "List the N largest weights of each class instead, without LOGITS.", min=1),
    ] = None,
    seed: Annotated[
        int | None, option("N", "Random seed (default: 42).", min=0, max=MAX_SEED)
    ] = None,
    top: Annotated[
        int | None,
        option("K", "Print the K prompts or groups that cost most.", min=1, panel=OUTPUT_PANEL),
    ] = None,
) -> FeatureFile | Answer:
    """Report for each prompt the accuracy that a probe loses if the prompt's cosines are permuted.

    Prompts are sorted by decreasing cost. If similar prompts can replace each other, each of them
    costs little. With --groups, prompts are permuted together.

    Example: clipkit probe logits.h5 --keep -o p.h5; clipkit importance p.h5 logits.h5
    """
    from clipkit.analysis.importance import costs

    options = {"split": split, "repeat": repeat, "groups": groups, "seed": seed, "top": top}
    _check(logits=logits, weights=weights, **options)
    if weights is not None:
        return costs.largest_weights(probe, weights)
    if logits is None:
        raise UsageError("expected LOGITS or --weights, got none")
    result = costs.prompt_importance(
        probe,
        logits,
        split=split,
        repeat=repeat or costs.REPEAT,
        seed=costs.SEED if seed is None else seed,
        groups=groups,
    )
    return result if top is None else Answer(result, result.rows()[:top])


def _check(*, logits: Any, weights: int | None, **values: Any) -> None:
    """Refuse what has no effect on weights."""
    names = ("split", "repeat", "groups", "seed", "top")
    has_others = any(values[name] is not None for name in names)
    if weights is not None and (has_others or logits is not None):
        raise UsageError(
            "expected --weights without LOGITS, --split, --repeat, --groups, --seed and --top"
        )


COLUMNS = (
    CLASS,
    GROUP,
    Column("unit", TEXT, NOTHING),
    PROMPT,
    ACC1,
    Column("cost", POINTS, LABELS, better=HIGHER, interval=("low", "high")),
    Column("changed", SHARE, ROWS),
    ROW_COUNT,
    Column("weight", NUMBER, LABELS),
)


def _claim(result: FeatureFile) -> list[Claim]:
    """Hold the cost of each prompt against none; intervals are for all of them (Bonferroni)."""
    from clipkit.statistics.claims import Claim, Reference, for_several

    if "cost" not in result.runs:
        return []
    claims = []
    for run, row in enumerate(result.rows()):
        low, high = for_several(row["cost"], row["low"], row["high"], result.run_count)
        subject = str(row.get("prompt", row.get("group")))
        nothing = Reference("no cost", 0.0)
        n = int(row["rows"])
        claims.append(Claim(subject, row["cost"], low, high, nothing, n, "points", run))
    return claims


def _find(result: FeatureFile) -> list[str]:
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import cost_sentence

    return [cost_sentence(claims_of(result))] if "cost" in result.runs else []


COST = "the accuracy that permuting each {} costs a probe"

ANALYSIS = Analysis(
    "importance",
    "Which prompts does a probe rely on?",
    importance,
    columns=COLUMNS,
    check=_check,
    claims=_claim,
    findings=_find,
    needs="cost low high rows",
    topic="Prompts",
    panel=UNDERSTAND,
    null="labels",
    picture=(
        Dots("prompt", ("cost",), is_sorted=True, title=COST.format("prompt"), stated=("acc1",)),
        Dots("group", ("cost",), is_sorted=True, title=COST.format("group"), stated=("acc1",)),
    ),
)
