"""The thesis's chapters: the experiments that a report compares, their controls and pictures."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from clipkit.analysis import metrics
from clipkit.analysis.comparison import compare_right
from clipkit.base.names import distinct_names
from clipkit.report import understanding
from clipkit.report.blocks import Block, Heading, Rows
from clipkit.report.claims import Run
from clipkit.report.differences import paired_differences
from clipkit.report.experiments import Comparison, entropy_labels
from clipkit.report.folder import AGREEMENT, ResultsFolder
from clipkit.report.formatting import escape
from clipkit.report.thesis import ENTROPY, SWEEP, Experiment
from clipkit.report.vocabularies import vocabularies

ATTRIBUTES_CAPTION = "Recall of each attribute"


def _section(
    level: int, heading: str, tables: Sequence[Block], *blocks: Sequence[Block]
) -> list[Block]:
    """Return a heading and the blocks below it, or [] if there is no table."""
    return [Heading(level, heading), *itertools.chain(tables, *blocks)] if tables else []


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
        comparison.compare(labels) + comparison.compare(entropy_labels("3.2", [32, 16])),
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
            *vocabularies(comparison),
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
            if not results.untestable(name, run):
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
    rows = Rows()
    for features, name in (("cosine / τ", grid), ("softmax(cosine / τ)", f"{grid}-probs")):
        by_ratio = defaultdict(list)
        for run in comparison.results.runs(name):
            by_ratio[f"{run['C'] / run['temperature'] ** 2:.6g}"].append(run["acc1"])
        if by_ratio:
            difference = max(max(group) - min(group) for group in by_ratio.values())
            accuracies = [*itertools.chain.from_iterable(by_ratio.values())]
            span = f"{100 * min(accuracies):.2f}–{100 * max(accuracies):.2f}"
            rows.add([features, span, f"{100 * difference:.2f}"], name)
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
        *rows.tables(header),
        *comparison.pictures(pictures),
    ]


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
