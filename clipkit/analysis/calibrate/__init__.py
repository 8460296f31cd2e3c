"""How far the probabilities of classes are from how often they are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from clipkit.analysis.layout import Layout
from clipkit.analysis.options import LogitsFile, Seed
from clipkit.analysis.question import Analysis, Claim, FeatureFile
from clipkit.analysis.sections import PROBABILITIES
from clipkit.base.errors import UsageError
from clipkit.base.options import EvalSplit, Temperatures, option, parse_temperatures, split_option
from clipkit.features.columns import (
    ACC1,
    EVAL_SPLIT,
    FLAG,
    HIGHER,
    LABELS,
    LOWER,
    MEAN_CONFIDENCE,
    NOTHING,
    NUMBER,
    ROW_COUNT,
    ROWS,
    SCALE,
    SHARE,
    Column,
)

if TYPE_CHECKING:
    from clipkit.analysis.shuffling import Shuffle


def calibrate(
    logits: LogitsFile,
    temperature: Temperatures = [],
    fit_split: Annotated[str, split_option("Split to fit the temperature on.")] = "train",
    eval_split: EvalSplit = "test",
    val: Annotated[
        float | None,
        option(
            "FRACTION", "If both splits are the same, hold out this fraction of its rows to score."
        ),
    ] = None,
    bins: Annotated[int, option("N", "Bins of the calibration error.", min=1)] = 15,
    seed: Seed = 42,
) -> FeatureFile:
    """Fit the temperature of the softmax over the classes, and score the probabilities.

    The last row shows the fitted temperature with its 95 % interval. The others show the
    temperatures of -t (default: the file's). `information` is the entropy of the labels - NLL, in
    nats. `ece` is the expected calibration error. `ece_null` and `ece_null95` are its mean and 95 %
    quantile for a calibrated model with the same confidences.

    Example: clipkit calibrate img.h5 classes.h5 -t 1,model
    """
    from clipkit.analysis.calibrate import calibration

    temperatures = parse_temperatures(temperature, logits.logit_scale)
    return calibration.calibrate(logits, temperatures, fit_split, eval_split, val, bins, seed)


COLUMNS = (
    Column("temperature", SCALE, NOTHING, interval=("low", "high")),
    EVAL_SPLIT,
    ROW_COUNT,
    ACC1,
    MEAN_CONFIDENCE,
    Column("fitted", FLAG, NOTHING),
    Column("nll", NUMBER, LABELS, better=LOWER),
    Column("information", NUMBER, LABELS, better=HIGHER),
    Column("brier", NUMBER, LABELS, better=LOWER),
    Column("ece", SHARE, LABELS, better=LOWER, relatives="equal_width"),
    Column("ece_null", SHARE, ROWS),
    Column("ece_null95", SHARE, ROWS),
    Column("ece_null975", SHARE, ROWS),
)


def _claim(result: FeatureFile) -> list[Claim]:
    from clipkit.statistics.claims import calibration_claim

    made = []
    for run, row in enumerate(result.rows()):
        name = f"τ {row['temperature']:.4g}{', fitted' * bool(row['fitted'])}"
        null, limit = row["ece_null"], row["ece_null975"]
        made.append(calibration_claim(name, row["ece"], null, limit, int(row["rows"]), run))
    return made


def _find(result: FeatureFile) -> list[str]:
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import calibration_sentence

    return [calibration_sentence(claims_of(result))]


def _draw_labels(values: Mapping[str, Any], shuffle: Shuffle) -> dict[str, Any]:
    """Draw the labels from the probabilities at the temperature, which are then calibrated."""
    from clipkit.analysis.calibrate import calibration

    logits = values["logits"]
    temperatures = parse_temperatures(values["temperature"], logits.logit_scale)
    temperatures = temperatures or [logits.default_temperature]
    if len(temperatures) > 1:
        raise UsageError(
            f"expected one temperature to draw labels at, got {len(temperatures)}",
            "give one: -t 0.01",
        )
    return {"logits": calibration.draw_labels(logits, temperatures[0], shuffle.random)}


ANALYSIS = Analysis(
    "calibrate",
    "Are the probabilities of classes right?",
    calibrate,
    columns=COLUMNS,
    section=PROBABILITIES,
    layout=Layout(needed="nll", hidden="fitted information ece_null ece_null975 ece_equal_width"),
    claims=_claim,
    findings=_find,
    needs="temperature fitted rows ece ece_null ece_null975",
    topic="Calibration",
    null=_draw_labels,
)
