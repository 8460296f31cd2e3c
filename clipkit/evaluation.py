"""A grid of C and temperature over a feature file: which rows are fitted on, which are held out, which are scored."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipkit import console, metrics, probes, softmax
from clipkit.errors import ClipkitError, UsageError
from clipkit.features import FeatureFile, Split
from clipkit.probes import Run

Grid = list[tuple[float | None, float]]  # (tau, C); tau is None for embeddings


@dataclass(frozen=True)
class Part:
    """Rows of a split: all, or some of them under a name of their own."""

    split: str
    rows: Any = None
    name: str = ""

    def take(self, array: Any) -> Any:
        """This part of an array whose first axis is the split's rows."""
        return array if self.rows is None else array[self.rows]


@dataclass(frozen=True)
class Task:
    """Features, and how they are read: everything but which rows."""

    source: FeatureFile
    shown: str
    classifier: str
    features: str
    standardize: bool
    seed: int
    shots: int | None = None  # rows of each class that are fitted on; None: all

    def part(self, name: str) -> Part:
        """A whole split, which must be there and labelled."""
        if name not in self.source.splits:
            there = ", ".join(self.source.splits)
            hint = "choose with --fit-split and --eval-split, or hold rows out with --val 0.2"
            raise ClipkitError(f"{self.shown} must have a split {name!r}; it has {there}", hint)
        if self.source.splits[name].labels is None:
            raise ClipkitError(
                f"{self.shown} must have labels to probe {name}; its images are not labelled",
                "embed a folder of class folders",
            )
        return Part(name, name=name)

    def few(self, part: Part) -> Part:
        """The rows of a part that are fitted on: `shots` of each class, or all."""
        if self.shots is None:
            return part
        drawn = metrics.few_shot(self.labels(part), self.shots, self.seed)
        rows = drawn if part.rows is None else part.rows[drawn]
        return Part(part.split, rows, f"{part.name}-{self.shots}-shot")

    def labels(self, part: Part) -> Any:
        """Labels (N) of a part."""
        return part.take(self.source.splits[part.split].labels)

    def cosines(self, part: Part) -> Any:
        """Cosines (N, K) of a part of logits, embeddings (N, D) of a part of images."""
        return part.take(self.source.splits[part.split].features) * np.float32(
            self.source.temperature or 1
        )

    def run(self, fit: Part, scored: Part, grid: Grid) -> list[Run]:
        """Fit on one part and predict another, for every (tau, C) of a grid."""
        x, y, z = self.cosines(fit), self.labels(fit), self.cosines(scored)
        taus, Cs = (
            list(dict.fromkeys(tau or 1.0 for tau, _ in grid)),
            list(dict.fromkeys(C for _, C in grid)),
        )
        self._warn_of_unseen(fit, scored)
        with console.progress(f"fitting {self.classifier}", "steps") as progress:
            sweep = functools.partial(
                probes.sweep,
                classifier=self.classifier,
                C=Cs,
                standardize=self.standardize,
                seed=self.seed,
                progress=progress,
            )
            if self.features == "logits":
                return sweep(x, y, {scored.name: z}, scales=[1 / tau for tau in taus])
            runs: list[Run] = []
            for tau in taus:
                runs += sweep(softmax.softmax(x, tau), y, {scored.name: softmax.softmax(z, tau)})
            return runs

    def _warn_of_unseen(self, fit: Part, scored: Part) -> None:
        unseen = metrics.unseen(self.labels(fit), self.labels(scored))
        if len(unseen):
            first = self.source.class_names[unseen[0]] if self.source.class_names else unseen[0]
            many = (
                f"{len(unseen)} classes of {scored.name} do not occur in {fit.name} ({first}, say)"
            )
            console.warn(f"{many}: all their rows count as wrong")

    def rows(self, fit: Part, scored: Part, grid: Grid, runs: list[Run]) -> list[dict[str, Any]]:
        """The report's rows."""
        truth, found = self.labels(scored), []
        flatness = self._flatness(scored, list(dict.fromkeys(tau for tau, _ in grid)))
        for (tau, _), run in zip(grid, runs, strict=True):
            predicted = run.predicted[scored.name]
            row = {
                "classifier": self.classifier,
                "C": run.C,
                "temperature": tau,
                "standardize": self.standardize,
                "fit_split": fit.name,
                "eval_split": scored.name,
                "acc1": metrics.accuracy(truth, predicted),
                "mean_per_class_recall": metrics.mean_per_class_recall(truth, predicted),
            }
            found.append(row | flatness.get(tau, {}))
        if not all(run.converged for run in runs):
            console.warn(
                f"{self.classifier} stopped before it converged in {sum(not run.converged for run in runs)} runs"
            )
        return found

    def _flatness(
        self, part: Part, taus: list[float | None]
    ) -> dict[float | None, dict[str, float]]:
        """Mean entropy (nats) and confidence of logits at each temperature."""
        if self.source.kind == "images":
            return {}
        given = [tau for tau in taus if tau]
        pairs = softmax.mean_entropy_and_confidence(self.cosines(part), given)
        return {
            tau: {"mean_entropy": entropy, "mean_confidence": confidence}
            for tau, (entropy, confidence) in zip(given, pairs, strict=True)
        }


def report(
    task: Task, grid: Grid, fit_split: str, eval_split: str, val: str | None
) -> tuple[list[dict[str, Any]], dict[str, Split]]:
    """The report's rows and the predictions behind them.

    Without `val`, every member of the grid is scored on `eval_split`. With it, every member is scored on held-out rows,
    and the best of them (the first of equals), fitted again on all of `fit_split`, on `eval_split`.
    """
    fit = task.part(fit_split)
    if val is None:
        scored = task.part(eval_split)
        fit = task.few(fit)
        stages = [(fit, scored, grid, task.run(fit, scored, grid))]
    else:
        lesser, held = _held_out(task, fit, val)
        lesser, fit = task.few(lesser), task.few(fit)
        tried = task.run(lesser, held, grid)
        stages = [(lesser, held, grid, tried)]
        if eval_split in task.source.splits and eval_split not in (held.name, fit_split):
            accuracies = [
                metrics.accuracy(task.labels(held), run.predicted[held.name]) for run in tried
            ]
            best, scored = [grid[int(np.argmax(accuracies))]], task.part(eval_split)
            stages.append((fit, scored, best, task.run(fit, scored, best)))
    rows = [row for stage in stages for row in task.rows(*stage)]
    splits = {}
    for _, scored, _, runs in stages:
        source = task.source.splits[scored.split]
        ids = source.ids if scored.rows is None else [source.ids[i] for i in scored.rows]
        splits[scored.name] = Split(
            labels=task.labels(scored),
            ids=ids,
            predicted=np.stack([run.predicted[scored.name] for run in runs]),
        )
    return rows, splits


def _held_out(task: Task, fit: Part, val: str) -> tuple[Part, Part]:
    """What is fitted on and what is held out: a split named `val`, or a fraction of the fit split, class by class."""
    if val in task.source.splits:
        return fit, task.part(val)
    try:
        fraction = float(val)
    except ValueError:
        there = ", ".join(task.source.splits)
        raise UsageError(
            f"--val must be a fraction such as 0.1, or one of the splits {there}; got {val!r}"
        ) from None
    kept, aside = metrics.split_off(task.labels(fit), fraction, task.seed)
    return Part(fit.split, kept, f"{fit.name}-val"), Part(fit.split, aside, "val")
