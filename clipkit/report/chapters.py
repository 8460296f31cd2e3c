"""The thesis's chapters: the experiments that a report compares, their controls and pictures."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipkit import metrics, similarity
from clipkit.comparison import compare_right
from clipkit.report import understanding
from clipkit.report.blocks import Bar, Block, Cell, Heading, Number, Picture, Table
from clipkit.report.claims import Run
from clipkit.report.differences import paired_differences
from clipkit.report.folder import AGREEMENT, Measurement, ResultsFolder
from clipkit.report.formatting import escape, format_difference, format_measurement
from clipkit.report.thesis import ENTROPY, SEED, SWEEP, Experiment
from clipkit.tables import distinct_names

ATTRIBUTES_CAPTION = "Recall of each attribute"
Labels = dict[Experiment, str]  # the rows of a table
Sourced = tuple[str, list[str]]  # a row behind the name of its result, "" if that is a control's


@dataclass(frozen=True)
class Comparison:
    """What a report compares: results, the untrained controls', and the thesis's figures."""

    results: ResultsFolder
    controls: Sequence[ResultsFolder]
    figures: dict[Experiment, float]

    def compare(self, labels: Labels) -> list[Block]:
        """Return the table of the experiments that the folder holds, or [] if there is none."""
        columns = ["experiment", "thesis", "here", "untrained", "difference"]
        if not self.controls:
            columns.remove("untrained")
        rows, sources = [], []
        for experiment, label in labels.items():
            measurement = self.results.measure(experiment)
            if measurement is not None:
                cells = self._cells(experiment, measurement) | {"experiment": label}
                rows.append([cells.get(column, "") for column in columns])
                sources.append(self.results.source(experiment))
        if not rows:
            return []
        names = [self.results.source(experiment) for experiment in labels]
        absent = [name for name in names if not self.results.has(name)]
        self.results.missing |= dict.fromkeys(absent)
        return [Table(columns, rows, sources=sources)]

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
                self.results.leave_out_picture(path.name, absent)
                if not absent:
                    pictures.append(Picture(path, caption))
        return pictures


def _section(
    level: int, heading: str, tables: Sequence[Block], *blocks: Sequence[Block]
) -> list[Block]:
    """Return a heading and the blocks below it, or [] if there is no table."""
    return [Heading(level, heading), *itertools.chain(tables, *blocks)] if tables else []


def _entropies(number: str, sizes: Sequence[int]) -> Labels:
    """Return the rows of the mean entropy at a temperature of 1."""
    labels = {}
    for k in sizes:
        label = f"{number} mean entropy, {k} prompts (nats; at most ln {k} = {math.log(k):.4f})"
        labels[Experiment(f"generic{k}.logits.entropy", "mean_entropy")] = label
    return labels


def chapter2(comparison: Comparison) -> list[Block]:
    """Compare the baseline and zero-shot."""
    zeroshot = "classes.logits.zeroshot"
    labels = {
        Experiment("img.svm"): "2.2 baseline: SVM on standardised image embeddings (%)",
        Experiment(
            "img.svm-c", temperature=None
        ): "2.2 the same, C chosen on a validation split (%)",
        Experiment("img.logreg"): "2.2 logistic regression on the same (%)",
        Experiment(zeroshot): '2.3 zero-shot, "a photo of a {class}" (%)',
        Experiment(zeroshot, "acc5"): "2.3 zero-shot, class among the first five (%)",
    }
    pictures = {
        "img.svm.confusion.png": "Confusion of the baseline",
        "img.svm.classes.png": "F1 of each class, baseline",
        f"{zeroshot}.confusion.png": "Confusion of zero-shot",
        f"{zeroshot}.classes.png": "F1 of each class, zero-shot",
    }
    return _section(
        2,
        "Chapter 2. Baseline and zero-shot",
        comparison.compare(labels),
        _baselines_on_the_same_images(comparison.results),
        _best_and_worst_classes(comparison.results),
        comparison.pictures(pictures),
    )


def _best_and_worst_classes(results: ResultsFolder) -> list[str]:
    """Return a sentence on the classes that the baseline tells apart best and worst."""
    runs = results.runs("img.svm")
    if not runs or not results.class_names:
        return []
    scored = results.predictions("img.svm", runs[0])
    f1 = metrics.f1_per_class(scored.labels, scored.predicted, len(scored.class_names))
    names = [escape(name) for name in distinct_names(scored.class_names)]
    present = np.isfinite(f1).sum()
    order = np.argsort(-f1, kind="stable")[:present].tolist()  # NaN sorts last
    phrases = [f"{names[c]} {f1[c]:.2f}" for c in order]
    best = ", ".join(phrases[:5])
    worst = ", ".join(phrases[:-6:-1])
    sentence = f"Baseline, F1 of the best classes: {best}; of the worst: {worst}"
    if present < len(f1):
        sentence += f"; classes without test images, left out: {len(f1) - present}"
    return [f"{sentence}."]


def chapter3(comparison: Comparison) -> list[Block]:
    """Compare class-agnostic prompts and the entropy of their logits."""
    labels = {
        Experiment("generic32.logits.svm"): "3.1 SVM on the cosines of 32 generic prompts (%)",
        Experiment("generic32.logits.logreg"): "3.1 logistic regression on the same (%)",
        Experiment("generic16.logits.svm"): "3.1 SVM, 16 targeted prompts (%)",
    }
    pictures = {
        "generic32.logits.entropy.png": "Entropy of the 32 prompts' softmax at three temperatures",
        "generic32.logits.confidence.png": "Confidence of the same",
        "generic32.logits.similarity.png": "Mean cosine of each class with each prompt",
        "generic32.logits.logits.png": "Mean cosines of the first five classes",
    }
    return _section(
        2,
        "Chapter 3. Class-agnostic prompts, and the entropy of their logits",
        comparison.compare(labels) + comparison.compare(_entropies("3.2", [32, 16])),
        comparison.pictures(pictures, [ENTROPY]),  # all are drawn from the logits
    )


def chapter4(comparison: Comparison) -> list[Block]:
    """Compare temperature, classifiers, prompt vocabularies and data sets of higher resolution."""
    classifiers = {"svm": "SVM", "logreg": "logistic regression", "mlp": "MLP, 256 hidden units"}
    labels = {
        Experiment(f"generic32.logits.{key}-val", temperature=None): f"4.2 {name} (%)"
        for key, name in classifiers.items()
    }
    return _section(
        2,
        "Chapter 4. Temperature, classifiers, prompt vocabularies, higher resolution",
        [
            *_temperature(comparison),
            *_section(
                3,
                "4.2 Classifiers: 32 generic prompts, each with its τ chosen on a validation split",
                comparison.compare(labels),
                paired_differences(
                    comparison.results,
                    "generic32.logits.svm-val",
                    "the SVM",
                    {f"generic32.logits.{key}-val": classifiers[key] for key in ("logreg", "mlp")},
                ),
                comparison.pictures(
                    {"classifiers.png": "Three classifiers against temperature"},
                    [experiment.name for experiment in labels],
                ),
            ),
            *_vocabularies(comparison),
            *_resolution(comparison),
        ],
    )


def _temperature(comparison: Comparison) -> list[Block]:
    best = "4.1 the best of these by test accuracy (%; the thesis's way, optimistic)"
    chosen = "4.1 τ chosen on a validation split (%)"
    accuracies = {
        Experiment(SWEEP, temperature=tau): f"4.1 SVM at τ {tau:g} (%)"
        for tau in comparison.results.temperatures(SWEEP)
    }
    accuracies[Experiment(SWEEP, temperature=None)] = best
    accuracies[Experiment("generic32.logits.svm-val", temperature=None)] = chosen
    softness = {}
    for quantity, unit in (("entropy", "nats"), ("confidence", "%")):
        for tau in comparison.results.temperatures(ENTROPY):
            label = f"4.1 mean {quantity} at τ {tau:g} ({unit})"
            softness[Experiment(ENTROPY, f"mean_{quantity}", tau)] = label
    picture = {f"{SWEEP}.temperature.png": "Accuracy and mean entropy against temperature"}
    return _section(
        3,
        "4.1 Temperature: 32 generic prompts, an SVM on cosine / τ",
        comparison.compare(accuracies),
        _best_against_the_next(comparison.results),
        comparison.compare(softness),
        comparison.pictures(picture),
        _regularisation_control(comparison),
    )


def _best_against_the_next(results: ResultsFolder) -> list[str]:
    """Return a sentence that compares the two best temperatures on the same images."""
    best = sorted(results.runs(SWEEP), key=lambda run: -run["acc1"])[:2]
    runs = {f"τ {run['temperature']:g}": (SWEEP, run) for run in best}
    compared = _compare_on_the_same_images(results, runs)
    return [f"{sentence} Both were picked by test accuracy." for sentence in compared]


def _baselines_on_the_same_images(results: ResultsFolder) -> list[str]:
    runs = {}
    for name in ("img.svm", "img.svm-c"):
        for run in results.runs(name)[:1]:
            runs[f"C {run['C']:g}"] = (name, run)
    return _compare_on_the_same_images(results, runs)


def _compare_on_the_same_images(
    results: ResultsFolder, runs: dict[str, tuple[str, Run]]
) -> list[str]:
    """Return a sentence with the paired difference of two runs, or [] if there are not two."""
    if len(runs) < 2:
        return []
    a, b = (results.predictions(name, run) for name, run in runs.values())
    if a.ids != b.ids:
        return []
    row = compare_right(a.predicted == a.labels, b.predicted == b.labels)
    first, second = runs
    return [
        f"On the same images, {row['only_a']} are right with {first} alone and {row['only_b']} "
        f"with {second} alone: a difference of {100 * row['difference']:+.2f} points "
        f"({100 * row['low']:+.2f} to {100 * row['high']:+.2f}; McNemar's exact test: "
        f"p = {row['p']:.2g})."
    ]


def _regularisation_control(comparison: Comparison) -> list[Block]:
    """Return the control that shows a temperature of cosines to be the regularisation of C."""
    grid = "generic32.logits.c-tau-grid"
    rows, sources = [], []
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
        sources.append(name)
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
        Table(header, rows, sources=sources),
        *comparison.pictures(pictures),
    ]


def _vocabularies(comparison: Comparison) -> list[Block]:
    results = comparison.results
    if max(results.prompt_set_sizes(), default=0) <= 32:  # chapter 3 alone
        return []
    sizes = [k for k in results.prompt_set_sizes() if k >= 32]
    labels = {Experiment(f"generic{k}.logits.svm"): f"4.3 SVM, {k} prompts, τ 1 (%)" for k in sizes}
    labels |= _entropies("4.3", sizes)
    ranks, fewshot = [], []
    for suffix, folder in comparison.with_suffixes().items():
        ranks += _ranks(folder, suffix)
        fewshot += _paired_fewshot(folder, suffix)
    sets = [f"generic{k}" for k in sizes]
    absent = [name for name in sets if results.prompt_features(name) is None]
    rank_header = [
        "prompts",
        "singular values",
        "effective rank",
        "of random directions",
        "SVM, τ 1 (%)",
        "random: mean",
        "random: lowest–highest",
    ]
    fewshot_header = [
        "few-shot",
        "as they are (%)",
        "whitened (%)",
        "random (%)",
        "random − as they are",
        "random − whitened",
    ]
    return [
        Heading(3, "4.3 Prompt vocabularies"),
        *comparison.compare(labels),
        *paired_differences(
            results,
            "generic32.logits.svm",
            "32 prompts",
            {f"generic{k}.logits.svm": f"{k} prompts" for k in sizes if k > 32},
        ),
        *_slip_of_the_thesis(comparison),
        "**Control: spectrum.** The cosines of K prompts are a linear map of the embedding, of "
        "rank K at most. The next table has the largest and the smallest singular value of each "
        "set's normalised directions, and the effective rank, which sums up the shape of the "
        "spectrum. Random directions of the same number carry no meaning.",
        *_sourced_table(rank_header, ranks),
        *_explain_fewshot(results),
        *_sourced_table(fewshot_header, fewshot),
        *_salad_sentence(results),
        *comparison.pictures({"spectrum.png": "Singular values of the prompt sets"}, absent),
    ]


def _sourced_table(header: Sequence[str], rows: Sequence[Sourced]) -> list[Block]:
    if not rows:
        return []
    sources, cells = zip(*rows, strict=True)
    return [Table(header, cells, sources=sources)]


def _slip_of_the_thesis(comparison: Comparison) -> list[str]:
    figure = comparison.figures.get(Experiment("generic205.logits.entropy", "mean_entropy"), 0.0)
    highest = np.log(205)
    if figure <= highest:
        return []
    return [
        f"The thesis's entropy of 205 prompts, {figure:.4f}, is a slip: no softmax over 205 "
        f"prompts has more than ln 205 = {highest:.4f}."
    ]


def _ranks(results: ResultsFolder, suffix: str) -> list[Sourced]:
    """Return the spectrum of each prompt set, and the accuracy of an SVM on it at τ 1."""
    rows = []
    for k in results.prompt_set_sizes():
        accuracy = results.measure(Experiment(f"generic{k}.logits.svm"))
        random_values = results.values_by_seed(f"random{k}-{{}}.svm", "acc1")
        prompts = results.prompt_features(f"generic{k}")
        if accuracy is None or not random_values or prompts is None:
            continue
        values = similarity.singular_values(prompts)
        random = similarity.random_directions(len(prompts), prompts.shape[1], SEED)
        by_chance = similarity.singular_values(random)
        percent = 100 * np.array(list(random_values.values()))
        cells = [
            f"{k}{suffix}",
            f"{values[0]:.3g} … {values[-1]:.2g}",
            f"{similarity.effective_rank(values):.1f}",
            f"{similarity.effective_rank(by_chance):.1f}",
            f"{100 * accuracy.value:.2f}",
            f"{percent.mean():.2f}",
            f"{percent.min():.2f}–{percent.max():.2f}",
        ]
        rows.append(("" if suffix else f"generic{k}.logits.svm", cells))
    return rows


def _explain_fewshot(results: ResultsFolder) -> list[str]:
    for k in results.prompt_set_sizes():
        name = f"generic{k}.logits.fewshot-{SEED}"
        if results.runs(name):
            splits = results.read(name).splits
            validated = sum(len(split) for name, split in splits.items() if name != "test")
            return [
                "The last table has logistic regression on 20 images per class, with τ chosen on "
                f"{validated:,} further labelled images. *Whitened* features are the cosines with "
                "an orthonormal basis of the prompts' span: the same information, without the "
                "prompts' spectrum. Every number is a mean over the seeds. A seed draws the images "
                "and the random directions, and the differences, in points, are taken seed by "
                "seed. Brackets hold the lowest and the highest. K random directions span the "
                "whole embedding once K reaches its width. A *salad* has the words of all prompts "
                "in a random order."
            ]
    return []


def _paired_fewshot(results: ResultsFolder, suffix: str) -> list[Sourced]:
    """Return few-shot accuracies of prompts, whitened and random, and their paired differences."""
    rows = []
    for k in results.prompt_set_sizes():
        patterns = (
            f"generic{k}.logits.fewshot-{{}}",
            f"generic{k}.whitened.fewshot-{{}}",
            f"random{k}-{{}}.fewshot",
        )
        by_seed = [results.values_by_seed(pattern, "acc1") for pattern in patterns]
        seeds = sorted(set(by_seed[0]).intersection(*by_seed[1:]))
        if seeds:
            prompts, whitened, random = (_percent(values, seeds) for values in by_seed)
            cells = [f"{values.mean():.2f}" for values in (prompts, whitened, random)]
            cells += [_mean_and_range(random - prompts), _mean_and_range(random - whitened)]
            source = "" if suffix else patterns[0].format(seeds[0])
            rows.append((source, [f"{k} prompts{suffix}", *cells]))
        rows += _salads(results, k, by_seed[-1], suffix)
    return rows


def _salads(results: ResultsFolder, k: int, random: dict[int, float], suffix: str) -> list[Sourced]:
    """Return the row of prompts whose words are in a random order, one order per seed."""
    accuracy = _salad_accuracies(results, k)
    seeds = sorted(accuracy.keys() & random.keys())
    if not seeds:
        return []
    salads, by_chance = _percent(accuracy, seeds), _percent(random, seeds)
    cells = [f"{salads.mean():.2f}", "", f"{by_chance.mean():.2f}"]
    source = "" if suffix else f"salad{k}-{seeds[0]}.logits.fewshot-{seeds[0]}"
    return [(source, [f"{k} salads{suffix}", *cells, _mean_and_range(by_chance - salads), ""])]


def _salad_accuracies(results: ResultsFolder, k: int) -> dict[int, float]:
    """Return the accuracy of each seed's salad."""
    accuracy = {}
    for seed in results.values_by_seed(f"generic{k}.logits.fewshot-{{}}", "acc1"):
        for run in results.runs(f"salad{k}-{seed}.logits.fewshot-{seed}")[:1]:
            accuracy[seed] = float(run["acc1"])
    return accuracy


def _salad_sentence(results: ResultsFolder) -> list[str]:
    """Return what the sentences of the 32 prompts add to their words."""
    prompts = results.values_by_seed("generic32.logits.fewshot-{}", "acc1")
    salads = _salad_accuracies(results, 32)
    if not salads:
        return []
    differences = 100 * np.array([prompts[seed] - salads[seed] for seed in salads])
    points = _mean_and_range(differences)
    return [f"The 32 prompts minus their salads, seed by seed: {points} points."]


def _percent(by_seed: Mapping[int, float], seeds: Iterable[int]) -> NDArray[np.float64]:
    return 100 * np.array([by_seed[seed] for seed in seeds])


def _mean_and_range(values: NDArray[np.float64]) -> str:
    return f"{values.mean():+.2f} ({values.min():+.2f} to {values.max():+.2f})"


def _resolution(comparison: Comparison) -> list[Block]:
    if not comparison.results.has("food32.logits.svm"):
        return []
    labels = {}
    for key, prompts in (("generic32", "32 generic prompts"), ("food32", "32 food prompts")):
        labels[Experiment(f"{key}.logits.svm")] = f"4.4 SVM, {prompts} (%)"
        entropy = Experiment(f"{key}.logits.entropy", "mean_entropy")
        labels[entropy] = f"4.4 entropy, {prompts} (nats)"
    dataset = comparison.results.embedding["dataset"]["name"]
    return [Heading(3, f"4.4 Higher resolution: {escape(dataset)}"), *comparison.compare(labels)]


def chapter6(comparison: Comparison) -> list[Block]:
    """Show the recall and variance of each attribute, paired comparisons, and calibration."""
    results = comparison.results
    explained = (
        "The table has the mean recall per value of each attribute, in percent. *Zeroshot* is by "
        "words alone. The other columns are of probes: *names* on the cosines with the words, "
        "*random* on as many random directions, *probe* on the whole embedding, and *control* on "
        "the untrained control. *Reach* is (zeroshot − chance) / (probe − chance). Brackets have "
        "a 95 % interval over test images or, for random directions and controls, the range."
    )
    shares = (
        "The share is the part of the variance of the embeddings that an attribute explains, in "
        "percent (adjusted R²). *Unique* is what the regression on all attributes loses without "
        "this one. 95 % of unrelated attributes have a share below *null*."
    )
    blocks = [
        *_with_text(explained, understanding.attributes(results)),
        *comparison.pictures({"attributes.png": ATTRIBUTES_CAPTION}, ["img.attributes"]),
        *_with_text(shares, understanding.variance(results)),
        *comparison.pictures(
            {"variance.png": "Share of the variance that attributes explain"}, ["img.variance"]
        ),
        *paired_differences(results, understanding.ZEROSHOT, "zero-shot", understanding.PROBES),
        *understanding.calibration(comparison.with_suffixes()),
        *comparison.pictures(
            {"reliability.png": "Accuracy against confidence"}, ["classes.logits.calibrate"]
        ),
        *understanding.shots(comparison.with_suffixes()),
        *comparison.pictures(
            {"shots.png": "Accuracy against labelled images per class"}, ["img.shots"]
        ),
    ]
    return _section(2, "Chapter 6. What it understands", blocks)


def _with_text(text: str, blocks: Sequence[Block]) -> list[Block]:
    return [text, *blocks] if blocks else []


def chapter5(comparison: Comparison) -> list[Block]:
    """Compare clusters with classes."""
    clustered = {
        "img": "image embeddings",
        "generic32.logits": "32 prompts",
        "generic415.logits": "415 prompts",
    }
    labels = {}
    for column, metric in AGREEMENT.items():
        for key, features in clustered.items():
            labels[Experiment(key, column)] = f"5 {metric}, {features}"
    pictures = {
        f"{key}.cluster-*.clusters.png": f"Classes in the clusters of {features}"
        for key, features in clustered.items()
    }
    method = (
        "k-means on the test split, with as many clusters as classes and the best of ten starts. "
        "The number is that of the first seed (the thesis's is 42). The lowest and the highest of "
        "all seeds follow. Purity and NMI are above 0 by chance. The lines below them show their "
        "means over permuted labels, for which AMI and ARI are 0 on average."
    )
    tables = _with_text(method, comparison.compare(labels))
    return _section(2, "Chapter 5. Clustering", tables, comparison.pictures(pictures))


def layers(comparison: Comparison) -> list[Block]:
    """Show the accuracy of probes by layer."""
    explained = (
        "Where in the network does the class arise, and where an attribute? The table has the "
        "accuracy of an SVM on the hidden states after each layer. Layer 0 is the input of the "
        "first layer, and the last row is the embedding. Of several controls, it has the mean. The "
        "picture has the intervals, and chance: the share of the most frequent class."
    )
    blocks = _with_text(explained, understanding.layers(comparison.results, comparison.controls))
    damaged = [name for name in comparison.results.left_out if re.match(r"img\.l\d", name)]
    drawn_from = damaged if blocks else ["img.l*.svm"]
    pictures = comparison.pictures({"layers.png": "Accuracy by layer"}, drawn_from)
    return _section(2, "Layers", blocks, pictures)


CHAPTERS = (chapter2, chapter3, chapter4, chapter5, chapter6, layers)
