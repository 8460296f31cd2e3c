"""Which attribute explains the errors of a result."""

from __future__ import annotations

import math
from typing import Annotated

from clipkit.analysis.layout import Layout, number
from clipkit.analysis.options import Attributes, Common, Seed, Table
from clipkit.analysis.question import UNDERSTAND, Analysis, Claim, FeatureFile, Input
from clipkit.analysis.sections import MISTAKES
from clipkit.base.options import option, split_option
from clipkit.features.columns import (
    ATTRIBUTE,
    CHANCE,
    CLUSTERS,
    COUNT,
    LABELS,
    POINTS,
    SHARE,
    TEXT,
    VALUES,
    Column,
    P,
)

RESULT = Input(
    "RESULT", "Result of probe, zeroshot or predict (default: standard input).", ("result",), True
)


def mistakes(
    result: Annotated[FeatureFile, RESULT],
    table: Table = None,
    attribute: Attributes = [],
    split: Annotated[
        str | None, split_option("Split with the errors (default: test, else the first).")
    ] = None,
    run: Annotated[
        int | None, option("N", "Number of the run, from 0 (default: the most accurate).", min=0)
    ] = None,
    common: Common = False,
    seed: Seed = 42,
) -> FeatureFile:
    """Report for each attribute how many errors keep its value, and which change is the largest.

    The attributes are those of TABLE that all images of a class share. Without a table, they are
    those of `shapes` if the images are, else the words of class names. `chance` is what errors keep
    if the classes exchange their values. `p` is corrected for all attributes. `value` is the value
    of which most images are predicted as another one, `predicted`. `change_p` says how often errors
    that know no attribute share as many.

    Example: clipkit mistakes zeroshot.h5 --table shapes
    """
    from clipkit.analysis.mistakes import kept

    return kept.measure(
        result,
        table=table,
        columns=attribute,
        split=split,
        run=run,
        common=common,
        seed=seed,
    )


COLUMNS = (
    ATTRIBUTE,
    VALUES,
    Column("errors", COUNT, LABELS),
    CLUSTERS,
    Column("kept", SHARE, LABELS, decimals=1, has_interval=True, reference="chance"),
    CHANCE,
    Column("difference", POINTS, LABELS, decimals=1, has_interval=True),
    Column("p", P, LABELS),
    Column("value", TEXT, LABELS),
    Column("predicted", TEXT, LABELS),
    Column("images", COUNT, LABELS),
    Column("of", COUNT, LABELS),
    Column("classes_with", COUNT, LABELS),
    Column("classes", COUNT, LABELS),
    Column("change_p", P, LABELS),
)

EXPLANATION = (
    "*Kept* is the share of errors whose predicted class has the value of the true one. *Chance* "
    "is the same if the classes exchange their values. *Images* of a *value* are most often "
    "predicted as classes of another one."
)


def _claim(result: FeatureFile) -> list[Claim]:
    """Hold the errors that keep a value against those of permuted values."""
    from clipkit.statistics.claims import kept_value_claim

    rows = enumerate(result.rows())
    return [kept_value_claim(row, run) for run, row in rows if math.isfinite(number(row, "kept"))]


def _find(result: FeatureFile) -> list[str]:
    """Say which change of a value the errors share, and what they keep or change."""
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import mistake_sentences

    return mistake_sentences(result.rows(), claims_of(result))


LAYOUT = Layout(
    needed="kept",
    columns="attribute values errors clusters kept chance difference p value predicted images of",
    hidden="split classes_with classes change_p",
)


ANALYSIS = Analysis(
    "mistakes",
    "Which attribute explains the errors?",
    mistakes,
    columns=COLUMNS,
    layout=LAYOUT,
    section=MISTAKES,
    topic="What explains errors",
    claims=_claim,
    findings=_find,
    needs="attribute errors kept kept_low kept_high chance p value predicted images of "
    "classes_with classes change_p",
    explanation=EXPLANATION,
    panel=UNDERSTAND,
)
