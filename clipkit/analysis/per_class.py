"""Report precision, recall and F1 of each class: what `--per-class` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipkit.analysis import metrics
from clipkit.analysis.results import ScoredRuns, check_predicted_classes, scored_runs
from clipkit.base.errors import ClipkitError
from clipkit.base.tables import distinct_names
from clipkit.features import FeatureFile

MAX_ROWS = 1 << 20
# The columns that tell the runs of a report apart
SETTINGS = {
    *("classifier", "C", "temperature", "standardize", "fit_split", "eval_split", "split"),
    *("shots", "draw"),
}


def per_class_rows(result: FeatureFile) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class in each run of a result.

    Parameters
    ----------
    result : FeatureFile
        Of `probe` or `zeroshot`. Splits without labels are left out.

    Returns
    -------
    list of dict
        One per run and class: the settings of the run, `class`, `precision`, `recall`, `f1` and
        `support`, the number of images of the class. As in scikit-learn with `zero_division=0`, a
        ratio is 0 if it has no images. A number tells classes of one name apart. Without class
        names, only the classes that occur are listed.

    Raises
    ------
    ClipkitError
        If the result holds no predicted classes or no labels, or has too many runs and classes.
    """
    check_predicted_classes(result)
    labelled = [name for name, split in result.splits.items() if split.labels is not None]
    rows: list[dict[str, Any]] = []
    for name in labelled or result.splits:  # without any labels, `scored_runs` says so
        scored = scored_runs(result, name)
        names = _class_names(result, scored)
        if len(rows) + len(names) * len(scored.rows) > MAX_ROWS:
            raise ClipkitError(
                f"{result.display_name}: expected at most {MAX_ROWS:,} rows of runs and classes, "
                f"got {len(names):,} classes in {len(scored.rows):,} runs",
                "use fewer temperatures, values of C or draws",
            )
        for run, predicted in zip(scored.rows, scored.predicted, strict=True):
            settings = {key: value for key, value in run.items() if key in SETTINGS}
            if "eval_split" not in settings:
                settings["split"] = name
            scores = metrics.class_scores(scored.labels, predicted, max(names) + 1)
            rows += [settings | _row(scores, number, name) for number, name in names.items()]
    return rows


def _class_names(result: FeatureFile, scored: ScoredRuns) -> dict[int, str]:
    """Return the name of each class by its number."""
    if result.class_names:
        return dict(enumerate(distinct_names(result.class_names)))
    present = np.union1d(scored.labels, scored.predicted)
    return {number: str(number) for number in present.tolist()}


def _row(scores: Mapping[str, Any], number: int, name: str) -> dict[str, Any]:
    return {"class": name, **{key: values[number].item() for key, values in scores.items()}}
