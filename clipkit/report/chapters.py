"""The thesis's chapters: which numbers a report compares, which controls stand beside them, which pictures it shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipkit import metrics
from clipkit.report.markdown import difference, number, table
from clipkit.report.results import (
    SEEDS,
    Getter,
    Results,
    Value,
    accuracy,
    best,
    mean,
    over_seeds,
    spectrum,
    spread,
)

TAUS = (1, 0.5, 0.07, 0.05, 0.03, 0.02)
SETS = (16, 32, 99, 205, 415)
CHOSEN = ("temperature",)  # on a validation split
RANKS = [
    "prompts",
    "singular values",
    "effective rank (random)",
    "SVM, τ 1 (%)",
    "random, SVM, τ 1 (%)",
]
RANKS += ["logistic regression (%)", "random, logistic regression (%)"]


@dataclass(frozen=True)
class Row:
    """An experiment: what it is called, where its number is, and the thesis's name for it."""

    experiment: str
    get: Getter
    thesis: str = ""
    unit: str = "%"


@dataclass(frozen=True)
class Run:
    """What is compared: a run, its untrained twin, and the thesis's figures."""

    here: Results
    twin: Results | None
    thesis: dict[str, float]

    def compare(self, rows: list[Row]) -> list[str]:
        """A table of those rows whose number is here; nothing if there is none."""
        found = []
        for row in rows:
            here, thesis = row.get(self.here), self.thesis.get(row.thesis)
            if here is None:
                continue
            cells = [row.experiment, number(None if thesis is None else Value(thesis), row.unit)]
            cells.append(number(here, row.unit))
            if self.twin is not None:
                cells.append(number(row.get(self.twin), row.unit))
            found.append([*cells, difference(here, thesis, row.unit)])
        head = [
            "experiment",
            "thesis",
            "here",
            *(["untrained"] if self.twin is not None else []),
            "difference",
        ]
        return [table(head, found)] if found else []

    def pictures(self, *shown: tuple[str, str]) -> list[str]:
        """The pictures (file, caption) that are here."""
        return [
            f"![{caption}]({name})"
            for name, caption in shown
            if (self.here.folder / name).is_file()
        ]


def chapter2(run: Run) -> list[str]:
    """Baseline and zero-shot."""
    compared = run.compare(
        [
            Row(
                "2.2 baseline: SVM on standardised image embeddings (%)",
                accuracy("img.svm"),
                "img.svm",
            ),
            Row("2.2 logistic regression on the same (%)", accuracy("img.logreg")),
            Row(
                '2.3 zero-shot, "a photo of a {class}" (%)',
                accuracy("classes.logits.zeroshot"),
                "zeroshot",
            ),
            Row(
                "2.3 zero-shot, class among the first five (%)",
                accuracy("classes.logits.zeroshot", column="acc5"),
            ),
        ]
    )
    return compared and [
        "## Chapter 2. Baseline and zero-shot",
        *compared,
        *_extremes(run.here),
        *run.pictures(
            ("img.svm.confusion.png", "Confusion of the baseline"),
            ("img.svm.classes.png", "F1 of each class, baseline"),
            ("classes.logits.zeroshot.confusion.png", "Confusion of zero-shot"),
            ("classes.logits.zeroshot.classes.png", "F1 of each class, zero-shot"),
        ),
    ]


def _extremes(here: Results) -> list[str]:
    """The classes that the baseline tells apart best and worst."""
    found = here.predicted("img.svm")
    if found is None or not here.class_names:
        return []
    f1 = metrics.per_class(metrics.confusion(*found, len(here.class_names))).f1
    order = np.argsort(-f1, kind="stable").tolist()
    best, worst = (
        [f"{here.class_names[i]} {f1[i]:.2f}" for i in part] for part in (order[:5], order[:-6:-1])
    )
    return [
        f"Baseline, F1 of the best classes: {', '.join(best)}; of the worst: {', '.join(worst)}."
    ]


def chapter3(run: Run) -> list[str]:
    """Class-agnostic prompts and the entropy of their logits."""
    read = run.compare(
        [
            Row(
                "3.1 SVM on the cosines of 32 generic prompts (%)",
                accuracy("generic32.logits.svm"),
                "generic32.svm",
            ),
            Row(
                "3.1 logistic regression on the same (%)",
                accuracy("generic32.logits.logreg"),
                "generic32.logreg",
            ),
            Row("3.1 SVM, 16 targeted prompts (%)", accuracy("generic16.logits.svm")),
        ]
    )
    flat = run.compare(
        [
            Row(
                f"3.2 mean entropy, {k} prompts (nats; at most ln {k} = {np.log(k):.4f})",
                mean(f"generic{k}.logits.entropy", "mean_entropy", 1),
                f"generic{k}.entropy",
                "nats",
            )
            for k in (32, 16)
        ]
    )
    return (read or flat) and [
        "## Chapter 3. Class-agnostic prompts, and the entropy of their logits",
        *read,
        *flat,
        *run.pictures(
            (
                "generic32.logits.entropy.png",
                "Entropy of the 32 prompts' softmax at three temperatures",
            ),
            ("generic32.logits.confidence.png", "Confidence of the same"),
            ("generic32.logits.similarity.png", "Mean cosine of each class with each prompt"),
            ("generic32.logits.logits.png", "Mean cosines of the first five classes"),
        ),
    ]


def chapter4(run: Run) -> list[str]:
    """Temperature, classifiers, prompt vocabularies, higher resolution."""
    parts = [*_temperature(run), *_classifiers(run), *_vocabularies(run), *_resolution(run)]
    return parts and [
        "## Chapter 4. Temperature, classifiers, prompt vocabularies, higher resolution",
        *parts,
    ]


def _temperature(run: Run) -> list[str]:
    sweep = "generic32.logits.sweep"
    swept = [
        Row(f"4.1 SVM at τ {tau} (%)", accuracy(sweep, temperature=tau), f"svm at {tau}")
        for tau in TAUS
    ]
    swept += [
        Row(
            "4.1 the best of these by test accuracy (%; the thesis's way, optimistic)",
            best(sweep),
            "best svm",
        ),
        Row(
            "4.1 τ chosen on a validation split (%)",
            accuracy("generic32.logits.svm-val", told=CHOSEN),
        ),
    ]
    compared = run.compare(swept)
    if not compared:
        return []
    of = "generic32.logits.entropy"
    flat = [
        Row(
            f"4.1 mean entropy at τ {t} (nats)",
            mean(of, "mean_entropy", t),
            f"entropy at {t}",
            "nats",
        )
        for t in TAUS
    ]
    flat += [Row(f"4.1 mean confidence at τ {t} (%)", mean(of, "mean_confidence", t)) for t in TAUS]
    return [
        "### 4.1 Temperature: 32 generic prompts, an SVM on cosine / τ",
        *compared,
        *run.compare(flat),
        *run.pictures(
            (
                "generic32.logits.sweep.temperature.png",
                "Accuracy and mean entropy against temperature",
            )
        ),
        *_trade(run),
    ]


def _trade(run: Run) -> list[str]:
    """Control: temperature is regularisation."""
    rows = []
    for name, features in (("trade", "cosine / τ"), ("trade-probs", "softmax(cosine / τ)")):
        found = spread(run.here, f"generic32.logits.{name}")
        if found is not None:
            low, high, across = found
            rows.append([features, f"{100 * low:.2f}–{100 * high:.2f}", f"{100 * across:.2f}"])
    if not rows:
        return []
    return [
        "**Control: temperature is regularisation.** An SVM on cosine / τ with C solves the problem of τ = 1 with "
        "C / τ². A grid of (τ, C), fitted on at most 20 images a class, is therefore constant along C / τ²; clipkit "
        "relies on it and solves each value once, so that the first difference is 0 by construction. With the "
        "softmax's probabilities as features, which τ bends, there is no such law.",
        table(
            [
                "features of the SVM",
                "accuracy over the grid (%)",
                "largest difference at one C / τ² (points)",
            ],
            rows,
        ),
        *run.pictures(
            ("generic32.logits.trade.grid.png", "Accuracy over (τ, C), cosines as features"),
            (
                "generic32.logits.trade-probs.grid.png",
                "Accuracy over (τ, C), probabilities as features",
            ),
        ),
    ]


def _classifiers(run: Run) -> list[str]:
    names = {"svm": "SVM", "logreg": "logistic regression", "mlp": "MLP, 256 hidden units"}
    compared = run.compare(
        [
            Row(f"4.2 {name} (%)", accuracy(f"generic32.logits.{key}-val", told=CHOSEN))
            for key, name in names.items()
        ]
    )
    return compared and [
        "### 4.2 Classifiers: 32 generic prompts, each with its τ chosen on a validation split",
        *compared,
        *run.pictures(("classifiers.png", "Three classifiers against temperature")),
    ]


def _vocabularies(run: Run) -> list[str]:
    larger = SETS[2:]
    rows = [
        Row(f"4.3 SVM, {k} prompts, τ 1 (%)", accuracy(f"generic{k}.logits.svm"), f"generic{k}.svm")
        for k in SETS[1:]
    ]
    rows += [
        Row(
            f"4.3 mean entropy, {k} prompts (nats; at most ln {k} = {np.log(k):.4f})",
            mean(f"generic{k}.logits.entropy", "mean_entropy", 1),
            f"generic{k}.entropy",
            "nats",
        )
        for k in SETS[1:]
    ]
    if all(run.here.file(f"generic{k}.logits.svm") is None for k in larger):
        return []
    ranks = _ranks(run.here) + (_ranks(run.twin, ", untrained") if run.twin is not None else [])
    return [
        "### 4.3 Prompt vocabularies",
        *run.compare(rows),
        "**Control: rank.** The cosines of K prompts are a linear map of the embedding, of rank K at most. Beside "
        "each set stand the singular values of its normalised directions (largest … smallest), its effective rank "
        "beside that of as many random directions, which say nothing, and the accuracy of both: of an SVM at τ 1 "
        "(random: mean, lowest and highest of the seeds), and of logistic regression on at most 20 images a class "
        "with τ chosen on a validation split, where scale holds neither back (random: seed 42). K random directions "
        "span the whole embedding once K is its width.",
        *([table(RANKS, ranks)] if ranks else []),
        *run.pictures(("spectrum.png", "Singular values of the prompt sets")),
    ]


def _ranks(results: Results, who: str = "") -> list[list[str]]:
    """Of each prompt set for which all is there: its spectrum, and what its cosines and random ones give."""
    rows = []
    for k in SETS:
        getters = [
            accuracy(f"generic{k}.logits.svm"),
            over_seeds(f"random{k}-{{}}.svm", "acc1", middle=True, eval_split="test"),
            accuracy(f"generic{k}.logits.few", told=CHOSEN),
            accuracy(f"random{k}-42.few", told=CHOSEN),
        ]
        accuracies = [get(results) for get in getters]
        found = spectrum(results, f"generic{k}")
        if found is None or None in accuracies:
            continue
        values, rank, of_random = found
        singular = f"{values[0]:.3g} … {values[-1]:.2g}"
        rows.append(
            [
                f"{k}{who}",
                singular,
                f"{rank:.1f} ({of_random:.1f})",
                *(number(value, "%") for value in accuracies),
            ]
        )
    return rows


def _resolution(run: Run) -> list[str]:
    name = run.here.embedded["dataset"]["name"]
    rows = []
    for key, what in (("generic32", "32 generic prompts"), ("food32", "32 food prompts")):
        rows += [
            Row(f"4.4 SVM, {what} (%)", accuracy(f"{key}.logits.svm"), f"{key}.svm"),
            Row(
                f"4.4 entropy, {what} (nats)",
                mean(f"{key}.logits.entropy", "mean_entropy", 1),
                f"{key}.entropy",
                "nats",
            ),
        ]
    if run.here.file("food32.logits.svm") is None:
        return []
    return [f"### 4.4 Higher resolution: {name}", *run.compare(rows)]


def chapter5(run: Run) -> list[str]:
    """Clustering."""
    sources = {
        "img": "image embeddings",
        "generic32.logits": "32 prompts",
        "generic415.logits": "415 prompts",
    }
    rows = [
        Row(f"5 {column}, {what}", over_seeds(f"{key}.cluster-{{}}", metric), f"{key} {metric}", "")
        for metric, column in (("purity", "purity"), ("nmi", "NMI"), ("ari", "ARI"))
        for key, what in sources.items()
    ]
    compared = run.compare(rows)
    return compared and [
        "## Chapter 5. Clustering",
        "k-means with as many clusters as classes on the test split, the best of ten starts: of seed 42 (the "
        "thesis's), with the lowest and highest of the seeds. ARI is 0 for chance; purity is not.",
        *compared,
        *run.pictures(
            *(
                (f"{key}.cluster-{SEEDS[0]}.clusters.png", f"Classes in the clusters of {what}")
                for key, what in sources.items()
            )
        ),
    ]
