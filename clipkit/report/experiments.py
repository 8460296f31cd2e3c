"""Compare the experiments of a results folder with the thesis and with untrained controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipkit.report.blocks import Bar, Block, Cell, Number, Picture, Rows
from clipkit.report.folder import Measurement, ResultsFolder
from clipkit.report.formatting import escape, format_difference, format_measurement
from clipkit.report.thesis import Experiment

Labels = dict[Experiment, str]  # the rows of a table


@dataclass(frozen=True)
class Comparison:
    """Results to compare with those of untrained controls and with the thesis's figures."""

    results: ResultsFolder
    controls: Sequence[ResultsFolder]
    figures: dict[Experiment, float]

    def compare(self, labels: Labels) -> list[Block]:
        """Return the table of the experiments that the folder holds, or [] if there is none."""
        columns = ["experiment", "thesis", "here", "untrained", "difference"]
        if not self.controls:
            columns.remove("untrained")
        rows = Rows()
        missing = []
        for experiment, label in labels.items():
            source = self.results.source(experiment)
            measurement = self.results.measure(experiment)
            if measurement is not None:
                cells = self._cells(experiment, measurement) | {"experiment": label}
                rows.add([cells.get(column, "") for column in columns], source)
            if not self.results.has(source):
                missing.append(source)
        return rows.tables(columns, missing)

    def _cells(self, experiment: Experiment, measurement: Measurement) -> dict[str, Cell]:
        untrained = self.untrained(experiment)
        text = format_measurement(measurement)
        cells: dict[str, Cell] = {"here": text, "untrained": format_measurement(untrained)}
        if measurement.unit != "nats":
            cells["here"] = Number(text, self._bar(experiment, measurement))
        if experiment in self.figures:
            figure = self.figures[experiment]
            cells["thesis"] = format_measurement(Measurement(figure, measurement.unit))
            cells["difference"] = format_difference(measurement, figure)
        return cells

    def _bar(self, experiment: Experiment, measurement: Measurement) -> Bar:
        chance = self.results.chance if experiment.column == "acc1" else math.nan
        values = [measured.value for measured in self._measure_controls(experiment)]
        control = max(values, default=math.nan)  # the most accurate, as in the summary
        return Bar(measurement.value, measurement.low, measurement.high, chance, control)

    def untrained(self, experiment: Experiment) -> Measurement | None:
        """Return the control's number; of several controls, the mean with the range."""
        measured = self._measure_controls(experiment)
        if not measured:
            return None
        if len(measured) == 1:
            return measured[0]
        values = [measurement.value for measurement in measured]
        return Measurement(float(np.mean(values)), measured[0].unit, min(values), max(values))

    def _measure_controls(self, experiment: Experiment) -> list[Measurement]:
        """Return the number of each control that has it."""
        measured = [control.measure(experiment) for control in self.controls]
        return [measurement for measurement in measured if measurement is not None]

    def with_suffixes(self) -> dict[str, ResultsFolder]:
        """Return the results and the controls by what follows the name of a row."""
        folders = {"": self.results}
        for control in self.controls:
            suffix = ", untrained"
            if len(self.controls) > 1:
                suffix += f" {escape(control.embedding['model'].get('untrained', ''))}"
            folders[suffix] = control
        return folders

    def pictures(
        self, captions: dict[str, str], drawn_from: Sequence[str] | None = None
    ) -> list[Block]:
        """Return the pictures in the folder whose results are shown; * is any seed.

        `drawn_from` names the results of a picture. By default, the picture does:
        `img.svm.confusion.png` shows `img.svm`.
        """
        pictures: list[Block] = []
        for pattern, caption in captions.items():
            for path in sorted(self.results.path.glob(pattern)):
                names = [path.stem.rpartition(".")[0]] if drawn_from is None else drawn_from
                absent = [name for name in names if not self.results.is_shown(name)]
                for name in absent:  # damaged ones are noted already
                    reason = f"missing, so that {path.name} is left out, too"
                    self.results.leave_out(name, reason)
                if not absent:
                    pictures.append(Picture(path, caption))
        return pictures


def entropy_labels(number: str, sizes: Sequence[int]) -> Labels:
    """Return the rows of the mean entropy at a temperature of 1."""
    labels = {}
    for k in sizes:
        label = f"{number} mean entropy, {k} prompts (nats; at most ln {k} = {math.log(k):.4f})"
        labels[Experiment(f"generic{k}.logits.entropy", "mean_entropy")] = label
    return labels
