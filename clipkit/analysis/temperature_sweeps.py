"""Accuracy and entropy against temperature, from results of `probe` on logits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.base.errors import ClipkitError, unknown
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import is_untrained
from clipkit.statistics import claims, main_number

COLUMNS = {"classifier", "C", "temperature", "eval_split", "acc1", "mean_entropy"}


class Sweep:
    """One curve of accuracy against temperature: R temperatures and what was measured at each.

    Parameters
    ----------
    label : str
        Classifier, C and split, as the legend shows them.
    tau : array (R,)
        Temperatures, > 0, in any order.
    accuracy, low, high : array (R,)
        Fractions, with the ends of their intervals. NaN leaves a gap.
    entropy : array (R,)
        Mean entropies in nats.
    chance : float, optional
        Fraction.
    is_control : bool
        Whether the model is untrained.
    is_validation : bool
        Whether the rows were held out to choose a temperature, and others are scored.
    what : str
        What the fractions are: accuracies, or mean recalls of unequal classes.

    Attributes
    ----------
    tau, percent, entropy, low, high : (R,) float64, rising in tau
    best : int or None
        Index of the highest accuracy.
    plateau : slice
        The temperatures around the best one that it is not decided against.
    """

    def __init__(  # noqa: PLR0913 - a documented constructor
        self,
        label: str,
        tau: ArrayLike,
        accuracy: ArrayLike,
        entropy: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
        *,
        chance: float = math.nan,
        is_control: bool = False,
        is_validation: bool = False,
        what: str = main_number.ACCURACY,
    ) -> None:
        columns = np.array([tau, accuracy, entropy, low, high], np.float64)
        columns[[1, 3, 4]] *= 100
        self.label, self.chance, self.is_control = label, 100 * chance, is_control
        self.what, self.is_validation = what, is_validation
        self.tau, self.percent, self.entropy, self.low, self.high = columns[:, np.argsort(tau)]
        self.best: int | None = None
        self.plateau = slice(0)
        found = claims.highest(self.percent, self.low, self.high)
        if found is not None:
            self.best = best = found.first
            others = [*found.equal, *found.open_against]
            lower = np.setdiff1d(np.arange(len(self.tau)), others)
            first = lower[lower < best].max(initial=-1) + 1
            self.plateau = slice(int(first), int(lower[lower > best].min(initial=len(self.tau))))

    @property
    def highest(self) -> float:
        """The highest accuracy in percent; NaN if there is none."""
        return math.nan if self.best is None else float(self.percent[self.best])

    @property
    def names(self) -> list[str]:
        """What the temperatures are called."""
        return [f"{tau:g}" for tau in self.tau]

    def sentence(self) -> str:
        """Name the highest accuracy, and the temperatures that it is not decided against."""
        limits = self.low / 100, self.high / 100
        return claims.best_of("temperature", self.names, self.percent / 100, limits)


def temperature_sweeps(files: Sequence[FeatureFile], split: str | None = None) -> list[Sweep]:
    """Return the accuracies of results of `probe` on logits, with Wilson's 95 % interval.

    There is a curve for each classifier, C and split of each result. By default, these are the
    splits with several runs, or all if none has: a sweep is drawn without the run that was chosen
    from it.
    """
    curves: dict[tuple[int, str, str], list[results.Row]] = {}
    for number, file in enumerate(files):
        _check_sweep(file)
        for row in rows_of_sweeps(file, split):
            words = [*results.run_settings(row, numbers=["C"]), row["eval_split"]]
            label = ", ".join(words)
            if results.newest_entry(file).get("features") == "probs":
                label += " (probs)"
            key = (number, label, str(row["C"]))  # as text, NaN equals NaN
            curves.setdefault(key, []).append(row)
    labels = results.name_curves(files, [(number, label) for number, label, _ in curves])
    sweeps = []
    for label, (number, *_), rows in zip(labels, curves, curves.values(), strict=True):
        sweeps.append(_sweep(files[number], label, rows))
    return sweeps


def rows_of_sweeps(file: FeatureFile, split: str | None) -> list[results.Row]:
    """Return the runs on a split; by default on the splits with several runs, or all runs.

    Each has its number among the runs of its split as `place`.
    """
    seen: Counter[str] = Counter()
    rows = []
    for row in file.rows():
        rows.append(row | {"place": seen[row["eval_split"]]})
        seen[row["eval_split"]] += 1
    if split is not None:
        of_split = [row for row in rows if row["eval_split"] == split]
        if not of_split:
            splits = set(file.runs["eval_split"].tolist())
            raise unknown(f"split of {file.display_name}", split, splits)
        return of_split
    counts = Counter(results.column(rows, "eval_split"))
    return [row for row in rows if counts[row["eval_split"]] > 1] or rows


def _check_sweep(file: FeatureFile) -> None:
    """Refuse a file that holds no sweep over temperatures."""
    results.check_run_count(file)
    if not COLUMNS.issubset(file.runs) or not np.isfinite(file.runs["temperature"]).all():
        raise ClipkitError(
            f"{file.display_name}: expected a sweep over temperatures, got a result of "
            f"{results.newest_entry(file)['command']}",
            "make one with: clipkit probe logits.h5 -t 1,0.5,0.07 -o probe.h5",
        )


def _sweep(file: FeatureFile, label: str, rows: list[results.Row]) -> Sweep:
    taus, entropies = (results.column(rows, name) for name in ("temperature", "mean_entropy"))
    what, of_split = results.main_numbers(file, rows[0]["eval_split"])
    numbers = [of_split[row["place"]] for row in rows]
    values, low, high, chances = np.transpose(numbers)
    chance = float(chances.max())  # the hardest to pass
    entry = results.newest_entry(file)
    is_scored = rows[0]["eval_split"] == entry.get("eval_split")
    facts: dict[str, Any] = {"chance": chance, "is_control": is_untrained(file), "what": what}
    facts["is_validation"] = entry.get("val") is not None and not is_scored
    return Sweep(label, taus, values, entropies, low, high, **facts)


def common_prompt_count(files: Sequence[FeatureFile]) -> int | None:
    """Return K, the number of prompts that results of `probe` share; None if they differ."""
    counts = {results.prompt_count(results.newest_entry(file).get("prompts")) for file in files}
    return counts.pop() if len(counts) == 1 else None


def best_sweep(sweeps: Sequence[Sweep], *, of_controls: bool = False) -> Sweep | None:
    """Return the sweep with the highest accuracy of a trained model, or of a control."""
    best: Sweep | None = None
    for sweep in sweeps:
        if sweep.best is None or sweep.is_control != of_controls:
            continue
        if best is None or sweep.highest > best.highest:
            best = sweep
    return best
