"""The runs of a result with labels, and which images each gets right."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Protocol

import numpy as np

from clipkit.analysis import results
from clipkit.analysis.compare.comparison import Bools
from clipkit.analysis.results import Row
from clipkit.base.matrices import Floats, Int64
from clipkit.features.columns import NOTHING, SETTINGS
from clipkit.features.compatibility import SAME_IMAGES, Origin, origin, relate
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile, known_columns
from clipkit.features.provenance import is_untrained
from clipkit.report.blocks import Measurement
from clipkit.report.steps import run_settings, settings
from clipkit.statistics import main_number, metrics


@dataclass(frozen=True)
class Scored:
    """The runs of a result, and which images of the evaluated split each gets right.

    The images are in the order of their ids.
    """

    name: str
    file: FeatureFile
    split: str
    runs: list[Row]
    ids: list[str]
    labels: Int64
    right: Bools  # (R, N)
    clusters: Int64 | None  # (N), of images that depend on each other
    untestable: str  # why the accuracies are not tested, or ""
    chances: list[float]  # of the runs: see `results.chance`, or 1 / K of unequal classes

    @classmethod
    def read(cls, name: str, file: FeatureFile) -> Scored:
        """Read the runs of a result with labels."""
        _, split = choose_split(file)
        scored = results.scored_runs(file, split)
        right = scored.predicted == scored.labels
        order = sorted(range(len(scored.ids)), key=scored.ids.__getitem__)
        ids = sorted(scored.ids)
        labels, right = scored.labels[order], right[:, order]
        clusters = file.splits[split].cluster
        if clusters is not None:
            clusters = clusters[order]
        why = results.untestable(file, split)
        if main_number.is_unequal(labels):
            chances = [1 / len(np.unique(labels))] * len(right)
        else:
            chances = [results.chance(scored.labels, one) for one in scored.predicted]
        return cls(name, file, split, scored.rows, ids, labels, right, clusters, why, chances)

    @property
    def has_one_run(self) -> bool:
        """Whether there is no choice among runs."""
        return len(self.runs) == 1

    def draws(self) -> list[list[int]]:
        """Return the numbers of the runs that differ in nothing but their draw of rows."""
        if not any("draw" in run for run in self.runs):
            return [[number] for number in range(len(self.runs))]
        alike: dict[str, list[int]] = {}
        for number, run in enumerate(self.runs):
            settings = [run.get(name) for name in SETTINGS if name != "draw"]
            alike.setdefault(repr(settings), []).append(number)
        return list(alike.values())

    @property
    def is_control(self) -> bool:
        """Whether the model is an untrained control."""
        return is_untrained(self.file)

    @cached_property
    def settings(self) -> str:
        """What a result and its control share, or "" if the history does not tell the prompts."""
        return settings(self.file)

    def runs_like(self, other: Scored, run: int) -> Scored:
        """Return only the runs with the settings of a run of another result."""
        wanted = run_settings(other.file, other.runs[run])
        is_alike = np.array([run_settings(self.file, run) == wanted for run in self.runs])
        return replace(
            self,
            runs=list(compress(self.runs, is_alike)),
            right=self.right[is_alike],
            chances=list(compress(self.chances, is_alike)),
        )

    @cached_property
    def main(self) -> str:
        """What the main number is: the accuracy or, of unequal classes, the mean recall."""
        return main_number.name_of(self.labels)

    @cached_property
    def unequal(self) -> Int64 | None:
        """The labels (N,) of unequal classes, or None."""
        return main_number.unless_equal(self.labels)

    @cached_property
    def values(self) -> Floats:
        """The main number (R,) of each run."""
        return main_number.values_of(self.labels, self.right)

    @property
    def best(self) -> int:
        """The number of the most accurate run; of equals, the first."""
        return int(np.argmax(self.values))

    def chance(self) -> float:
        """Return what the predictions of the most accurate run give if they are permuted."""
        return self.chances[self.best]

    def measure(self, run: int | None = None) -> Measurement:
        """Return the main number of a run, by default of the most accurate."""
        if run is None:
            run = self.best
        value = float(self.values[run])
        if self.untestable:
            return Measurement(value, "%")
        if self.unequal is not None:
            recall = main_number.mean_recall(self.labels, self.right[run], self.clusters)
            return Measurement(value, "%", recall.low, recall.high)
        rows = metrics.effective_rows(self.right[run], self.clusters)
        return Measurement(value, "%", *metrics.wilson(value, rows))

    @cached_property
    def origin(self) -> Origin:
        """What gives the ids their meaning: images of different data sets may have the same."""
        return origin(self.file, self.split)

    def images(self) -> list[tuple[str, str]]:
        """Return the ids of the images, each with the name of its class."""
        names = np.array(results.class_names(self.file, self.labels.max()))
        return list(zip(self.ids, names[self.labels].tolist(), strict=True))

    def images_digest(self) -> str:
        """Return a digest of the images, their classes and the data set that they are from."""
        key = f"{self.origin.key!r}\n{self.images()!r}"
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()

    def holds(self, part: Scored) -> bool:
        """Whether the images of another result are some of the images of this one."""
        is_larger = len(self.ids) > len(part.ids) and self.origin.key == part.origin.key
        if not is_larger or relate(self.origin, part.origin) != SAME_IMAGES:
            return False
        return set(part.images()).issubset(self.images())

    def take_images_of(self, part: Scored) -> Scored:
        """Return the runs on the images of another result, which are some of this one's."""
        split = self.file.splits[self.split]
        taken = split.take(np.flatnonzero(np.isin(split.ids, part.ids)))
        known = known_columns(self.file)
        of_rows = [name for name, column in known.items() if column.depends_on != NOTHING]
        unknown = dict.fromkeys(filter(self.file.runs.__contains__, of_rows), np.nan)
        scored = Scored.read(self.name, replace(self.file, splits={self.split: taken}))
        return replace(scored, runs=[run | unknown for run in self.runs])


class Group(Protocol):
    """Results on the same images, of trained models and of their untrained controls."""

    @property
    def trained(self) -> list[Scored]:
        """The results that are no controls."""

    def controls_of(self, scored: Scored, run: int | None = None) -> list[Scored]:
        """Return the results of untrained models that were made as a result was."""
