"""The thesis's chapters: the experiments that a report compares, their controls and pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipkit import metrics, similarity
from clipkit.report.formatting import format_difference, format_measurement, table
from clipkit.report.results import Measurement, Results
from clipkit.report.thesis import SEED


@dataclass(frozen=True)
class Experiment:
    """A row of a comparison."""

    label: str
    measurement: Measurement | None  # None if the results folder does not hold it
    figure: str = ""  # name of the thesis's figure in `thesis.FIGURES`


ListExperiments = Callable[[Results], list[Experiment]]


@dataclass(frozen=True)
class Comparison:
    """What a report compares: results, the untrained control's, and figures by experiment."""

    results: Results
    control: Results | None
    figures: dict[str, float]

    def compare(self, list_experiments: ListExperiments) -> list[str]:
        """Return the table of the experiments with a measurement, or [] if there is none."""
        columns = ["experiment", "thesis", "here", "untrained", "difference"]
        controls = {}
        if self.control is None:
            columns.remove("untrained")
        else:
            for experiment in list_experiments(self.control):
                controls[experiment.label] = experiment.measurement
        rows = []
        for experiment in list_experiments(self.results):
            if experiment.measurement is not None:
                cells = self._cells(experiment, experiment.measurement)
                cells["untrained"] = format_measurement(controls.get(experiment.label))
                rows.append([cells[column] for column in columns])
        return [table(columns, rows)] if rows else []

    def _cells(self, experiment: Experiment, measurement: Measurement) -> dict[str, str]:
        cells = {"experiment": experiment.label, "thesis": "", "difference": ""}
        cells["here"] = format_measurement(measurement)
        if experiment.figure in self.figures:
            figure = self.figures[experiment.figure]
            cells["thesis"] = format_measurement(Measurement(figure, measurement.unit))
            cells["difference"] = format_difference(measurement, figure)
        return cells

    def pictures(self, captions: dict[str, str]) -> list[str]:
        """Return the pictures that the folder holds; in a file name, * stands for any seed."""
        pictures = []
        for pattern, caption in captions.items():
            paths = sorted(self.results.folder.glob(pattern))
            pictures += [f"![{caption}]({path.name})" for path in paths]
        return pictures


def chapter2(comparison: Comparison) -> list[str]:
    """Compare the baseline and zero-shot."""
    pictures = {
        "img.svm.confusion.png": "Confusion of the baseline",
        "img.svm.classes.png": "F1 of each class, baseline",
        "classes.logits.zeroshot.confusion.png": "Confusion of zero-shot",
        "classes.logits.zeroshot.classes.png": "F1 of each class, zero-shot",
    }
    return _section(
        "## Chapter 2. Baseline and zero-shot",
        comparison.compare(_baseline_and_zeroshot),
        _best_and_worst_classes(comparison.results),
        comparison.pictures(pictures),
    )


def _section(heading: str, tables: list[str], *blocks: list[str]) -> list[str]:
    """Return a heading and the blocks below it, or [] if there is no table."""
    return [heading, *itertools.chain(tables, *blocks)] if tables else []


def _baseline_and_zeroshot(results: Results) -> list[Experiment]:
    labels = {
        "img.svm": "2.2 baseline: SVM on standardised image embeddings (%)",
        "img.logreg": "2.2 logistic regression on the same (%)",
        "classes.logits.zeroshot": '2.3 zero-shot, "a photo of a {class}" (%)',
    }
    first_five = results.accuracy("classes.logits.zeroshot", "acc5")
    return [
        *_accuracies(results, labels),
        Experiment("2.3 zero-shot, class among the first five (%)", first_five),
    ]


def _accuracies(results: Results, labels: dict[str, str]) -> list[Experiment]:
    """Return the accuracy of each result (name -> label)."""
    return [Experiment(label, results.accuracy(name), name) for name, label in labels.items()]


def _best_and_worst_classes(results: Results) -> list[str]:
    """Return a sentence on the classes that the baseline tells apart best and worst."""
    names = results.class_names
    if not results.has("img.svm") or not names:
        return []
    test = results.read("img.svm").splits.get("test")
    if test is None or test.labels is None or test.predicted is None:
        return []
    f1 = metrics.f1_per_class(metrics.confusion(test.labels, test.predicted[0], len(names)))
    order = np.argsort(-f1, kind="stable").tolist()
    phrases = [f"{names[c]} {f1[c]:.2f}" for c in order]
    best = ", ".join(phrases[:5])
    worst = ", ".join(phrases[:-6:-1])
    return [f"Baseline, F1 of the best classes: {best}; of the worst: {worst}."]


def chapter3(comparison: Comparison) -> list[str]:
    """Compare class-agnostic prompts and the entropy of their logits."""
    pictures = {
        "generic32.logits.entropy.png": "Entropy of the 32 prompts' softmax at three temperatures",
        "generic32.logits.confidence.png": "Confidence of the same",
        "generic32.logits.similarity.png": "Mean cosine of each class with each prompt",
        "generic32.logits.logits.png": "Mean cosines of the first five classes",
    }
    return _section(
        "## Chapter 3. Class-agnostic prompts, and the entropy of their logits",
        comparison.compare(_generic_prompts) + comparison.compare(_entropy_of_generic),
        comparison.pictures(pictures),
    )


def _generic_prompts(results: Results) -> list[Experiment]:
    labels = {
        "generic32.logits.svm": "3.1 SVM on the cosines of 32 generic prompts (%)",
        "generic32.logits.logreg": "3.1 logistic regression on the same (%)",
        "generic16.logits.svm": "3.1 SVM, 16 targeted prompts (%)",
    }
    return _accuracies(results, labels)


def _entropy_of_generic(results: Results) -> list[Experiment]:
    return _entropies(results, "3.2", [32, 16])


def _entropies(results: Results, number: str, sizes: list[int]) -> list[Experiment]:
    experiments = []
    for k in sizes:
        name = f"generic{k}.logits.entropy"
        label = f"{number} mean entropy, {k} prompts (nats; at most ln {k} = {np.log(k):.4f})"
        experiments.append(Experiment(label, results.mean(name, "mean_entropy"), name))
    return experiments


def chapter4(comparison: Comparison) -> list[str]:
    """Compare temperatures, classifiers, prompt vocabularies and data sets of higher resolution."""
    sections = (_temperature, _classifiers, _vocabularies, _resolution)
    return _section(
        "## Chapter 4. Temperature, classifiers, prompt vocabularies, higher resolution",
        list(itertools.chain.from_iterable(section(comparison) for section in sections)),
    )


def _temperature(comparison: Comparison) -> list[str]:
    picture = {
        "generic32.logits.sweep.temperature.png": "Accuracy and mean entropy against temperature"
    }
    return _section(
        "### 4.1 Temperature: 32 generic prompts, an SVM on cosine / τ",
        comparison.compare(_accuracy_by_temperature),
        comparison.compare(_entropy_by_temperature),
        comparison.pictures(picture),
        _regularisation_control(comparison),
    )


def _accuracy_by_temperature(results: Results) -> list[Experiment]:
    sweep = "generic32.logits.sweep"
    experiments = []
    for tau in results.temperatures(sweep):
        accuracy = results.accuracy(sweep, temperature=tau)
        experiments.append(Experiment(f"4.1 SVM at τ {tau:g} (%)", accuracy, f"svm at {tau:g}"))
    best = "4.1 the best of these by test accuracy (%; the thesis's way, optimistic)"
    experiments.append(Experiment(best, results.best_accuracy(sweep), "best svm"))
    chosen = results.best_accuracy("generic32.logits.svm-val")
    experiments.append(Experiment("4.1 τ chosen on a validation split (%)", chosen))
    return experiments


def _entropy_by_temperature(results: Results) -> list[Experiment]:
    name = "generic32.logits.entropy"
    experiments = []
    for quantity, unit in (("entropy", "nats"), ("confidence", "%")):
        for tau in results.temperatures(name):
            mean = results.mean(name, f"mean_{quantity}", tau)
            label = f"4.1 mean {quantity} at τ {tau:g} ({unit})"
            experiments.append(Experiment(label, mean, f"{quantity} at {tau:g}"))
    return experiments


def _regularisation_control(comparison: Comparison) -> list[str]:
    """Return the control that shows a temperature of cosines to be the regularisation of C."""
    grid = "generic32.logits.c-tau-grid"
    rows = []
    for features, name in (("cosine / τ", grid), ("softmax(cosine / τ)", f"{grid}-probs")):
        runs = comparison.results.runs(name)
        if not runs:
            continue
        accuracies = [run["acc1"] for run in runs]
        by_ratio: dict[str, list[float]] = {}
        for run in runs:
            ratio = f"{run['C'] / run['temperature'] ** 2:.6g}"
            by_ratio.setdefault(ratio, []).append(run["acc1"])
        difference = max(max(group) - min(group) for group in by_ratio.values())
        span = f"{100 * min(accuracies):.2f}–{100 * max(accuracies):.2f}"
        rows.append([features, span, f"{100 * difference:.2f}"])
    if not rows:
        return []
    difference_at = "largest difference at one C / τ² (points)"
    header = ["features of the SVM", "accuracy over the grid (%)", difference_at]
    pictures = {
        f"{grid}.grid.png": "Accuracy over (τ, C), cosines as features",
        f"{grid}-probs.grid.png": "Accuracy over (τ, C), probabilities as features",
    }
    return [
        "**Control: temperature is regularisation.** An SVM on cosine / τ with C solves the same "
        "problem as one on the cosines with C / τ². A grid over (τ, C) is therefore constant along "
        "C / τ². clipkit fits each value of C / τ² only once, so the first difference is 0 by "
        "construction. τ does more than scale the probabilities of the softmax, so no such law "
        "holds with them as features. Both grids are fitted on at most 20 images per class.",
        table(header, rows),
        *comparison.pictures(pictures),
    ]


def _classifiers(comparison: Comparison) -> list[str]:
    return _section(
        "### 4.2 Classifiers: 32 generic prompts, each with its τ chosen on a validation split",
        comparison.compare(_accuracy_by_classifier),
        comparison.pictures({"classifiers.png": "Three classifiers against temperature"}),
    )


def _accuracy_by_classifier(results: Results) -> list[Experiment]:
    names = {"svm": "SVM", "logreg": "logistic regression", "mlp": "MLP, 256 hidden units"}
    return [
        Experiment(f"4.2 {name} (%)", results.best_accuracy(f"generic32.logits.{key}-val"))
        for key, name in names.items()
    ]


def _vocabularies(comparison: Comparison) -> list[str]:
    results, control = comparison.results, comparison.control
    if max(results.prompt_set_sizes(), default=0) <= 32:  # chapter 3 alone
        return []
    ranks = _ranks(results)
    if control is not None:
        ranks += _ranks(control, ", untrained")
    header = [
        "prompts",
        "singular values",
        "effective rank (random)",
        "SVM, τ 1 (%)",
        "random, SVM, τ 1 (%)",
        "logistic regression (%)",
        "random, logistic regression (%)",
    ]
    return [
        "### 4.3 Prompt vocabularies",
        *comparison.compare(_accuracy_by_vocabulary),
        "**Control: rank.** The cosines of K prompts are a linear map of the embedding, of rank K "
        "at most. The table has the largest and the smallest singular value of each set's "
        "normalised directions, and their effective rank. Every set is compared with as many "
        "random directions, which carry no meaning: by effective rank, by an SVM at τ 1 (random: "
        "mean, lowest and highest of the seeds), and by logistic regression (random: first seed). "
        "Logistic regression is fitted on at most 20 images per class with τ chosen on a "
        "validation split, so that the scale of the cosines holds neither back. K random "
        "directions span the whole embedding once K reaches its width.",
        *([table(header, ranks)] if ranks else []),
        *comparison.pictures({"spectrum.png": "Singular values of the prompt sets"}),
    ]


def _accuracy_by_vocabulary(results: Results) -> list[Experiment]:
    sizes = [k for k in results.prompt_set_sizes() if k >= 32]
    labels = {f"generic{k}.logits.svm": f"4.3 SVM, {k} prompts, τ 1 (%)" for k in sizes}
    return _accuracies(results, labels) + _entropies(results, "4.3", sizes)


def _ranks(results: Results, suffix: str = "") -> list[list[str]]:
    """Return the rank, and the accuracies next to random ones, of each set that has them all."""
    rows = []
    for k in results.prompt_set_sizes():
        accuracies = [
            results.accuracy(f"generic{k}.logits.svm"),
            results.random_accuracy(k),
            results.best_accuracy(f"generic{k}.logits.fewshot"),
            results.random_fewshot_accuracy(k),
        ]
        if None in accuracies or not results.has(f"generic{k}"):
            continue
        prompts = results.read(f"generic{k}").features
        values = similarity.singular_values(prompts)
        rank = similarity.effective_rank(values)
        random = similarity.random_directions(len(prompts), prompts.shape[1], SEED)
        random_rank = similarity.effective_rank(similarity.singular_values(random))
        rows.append(
            [
                f"{k}{suffix}",
                f"{values[0]:.3g} … {values[-1]:.2g}",
                f"{rank:.1f} ({random_rank:.1f})",
                *map(format_measurement, accuracies),
            ]
        )
    return rows


def _resolution(comparison: Comparison) -> list[str]:
    if not comparison.results.has("food32.logits.svm"):
        return []
    dataset = comparison.results.embedding["dataset"]["name"]
    heading = f"### 4.4 Higher resolution: {dataset}"
    return [heading, *comparison.compare(_generic_and_food_prompts)]


def _generic_and_food_prompts(results: Results) -> list[Experiment]:
    experiments = []
    for key, prompts in (("generic32", "32 generic prompts"), ("food32", "32 food prompts")):
        experiments += _accuracies(results, {f"{key}.logits.svm": f"4.4 SVM, {prompts} (%)"})
        name = f"{key}.logits.entropy"
        entropy = results.mean(name, "mean_entropy")
        experiments.append(Experiment(f"4.4 entropy, {prompts} (nats)", entropy, name))
    return experiments


CLUSTERED = {
    "img": "image embeddings",
    "generic32.logits": "32 prompts",
    "generic415.logits": "415 prompts",
}


def chapter5(comparison: Comparison) -> list[str]:
    """Compare clusters with classes."""
    pictures = {
        f"{key}.cluster-*.clusters.png": f"Classes in the clusters of {features}"
        for key, features in CLUSTERED.items()
    }
    method = (
        "k-means on the test split, with as many clusters as classes and the best of ten starts. "
        "The number is that of the first seed (the thesis's is 42). The lowest and the highest of "
        "all seeds follow. A random partition has an ARI of 0, but not a purity of 0."
    )
    compared = comparison.compare(_cluster_metrics)
    heading = "## Chapter 5. Clustering"
    return _section(heading, compared and [method, *compared], comparison.pictures(pictures))


def _cluster_metrics(results: Results) -> list[Experiment]:
    experiments = []
    for metric, name in (("purity", "purity"), ("nmi", "NMI"), ("ari", "ARI")):
        for key, features in CLUSTERED.items():
            agreement = results.cluster_agreement(key, metric)
            experiments.append(Experiment(f"5 {name}, {features}", agreement, f"{key} {metric}"))
    return experiments


CHAPTERS = (chapter2, chapter3, chapter4, chapter5)
