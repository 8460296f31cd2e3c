"""What a simple classifier reads from embeddings or logits."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Any

from clipkit.analysis.accuracy import accuracy_claims, accuracy_findings
from clipkit.analysis.layout import Columns, Layout, Row, make_cell, number
from clipkit.analysis.options import (
    Attribute,
    Cluster,
    Common,
    FitSplit,
    LabelledFile,
    PerClass,
    PerImage,
    Rows,
    Seeds,
    Table,
)
from clipkit.analysis.question import Analysis, Answer
from clipkit.analysis.sections import RIGHT
from clipkit.base import console
from clipkit.base.errors import UsageError
from clipkit.base.options import (
    OUTPUT_PANEL,
    ROWS_PANEL,
    SEED_FIELD,
    EvalSplit,
    Temperatures,
    choice,
    flag,
    option,
    parse_counts,
    parse_numbers,
    parse_seeds,
    parse_temperatures,
)
from clipkit.features.columns import (
    ACC1,
    ACC5,
    CHANCE,
    CLASS,
    CLASS_SCORE,
    CLASSIFIER,
    CLUSTERS,
    COUNT,
    DRAW,
    EVAL_SPLIT,
    F1,
    FIT_SPLIT,
    ID,
    LABEL,
    MAJORITY,
    MEAN_CONFIDENCE,
    MEAN_ENTROPY,
    MEAN_PER_CLASS_RECALL,
    NOTHING,
    PRECISION,
    PREDICTION,
    RECALL,
    RECALL_CHANCE,
    RUNNER_UP,
    RUNNER_UP_SCORE,
    SEED,
    STANDARDIZE,
    SUPPORT,
    TEMPERATURE,
    C,
    Column,
    K,
)
from clipkit.probes.classifiers import CLASSIFIERS, DEFAULT, names_taking

TAKING_K = ", ".join(names_taking("k"))
COMPARING_DIRECTIONS = ", ".join(
    one.name for one in CLASSIFIERS.values() if one.compares_directions
)


def probe(
    file: LabelledFile,
    classifier: Annotated[str, choice(CLASSIFIERS, "Classifier to fit.")] = DEFAULT,
    C: Annotated[
        list[str],
        option(
            "C[,C...]",
            "Inverse strength of regularisation; also a range LOW..HIGH:N of N values, which --val "
            "searches.",
            "--regularization",
            "-C",
            has_commas=True,
        ),
    ] = ["1"],
    k: Annotated[
        int | None,
        option("N", f"Neighbours that vote, for {TAKING_K} (default: 20).", "-k", min=1),
    ] = None,
    temperature: Temperatures = [],
    features: Annotated[
        str,
        choice(
            ("logits", "probs"), "For logits: use cosine / tau, or its softmax.", panel="Features"
        ),
    ] = "logits",
    standardize: Annotated[
        bool | None,
        flag(
            "--standardize/--no-standardize",
            "Scale each column to mean 0 and variance 1 (default: for embeddings, except "
            f"with {COMPARING_DIRECTIONS}).",
            panel="Features",
        ),
    ] = None,
    fit_split: FitSplit = "train",
    eval_split: EvalSplit = "test",
    val: Annotated[
        str | None,
        option(
            "FRACTION|SPLIT",
            "Choose C and tau on this fraction of the fit split, or on this split.",
            completes="splits",
            panel=ROWS_PANEL,
        ),
    ] = None,
    table: Table = None,
    attribute: Attribute = None,
    cluster: Cluster = None,
    common: Common = False,
    shots: Annotated[
        list[str],
        option(
            "N[,N...]",
            "Fit on N rows per class; several make a curve.",
            has_commas=True,
            panel=ROWS_PANEL,
        ),
    ] = [],
    repeat: Annotated[
        int,
        option(
            "N",
            "Draw the rows of --shots N times, with seeds that count up.",
            min=1,
            panel=ROWS_PANEL,
        ),
    ] = 1,
    seed: Seeds = 42,
    per_class: PerClass = False,
    keep: Annotated[
        bool,
        flag(
            "--keep",
            "Store the fitted probe in the output, for clipkit predict (needs -o).",
            member="kept",
            panel=OUTPUT_PANEL,
        ),
    ] = False,
    per_image: PerImage = False,
) -> Answer:
    """Fit a classifier on one split and score it on another, for every temperature and C.

    Without --val, every run is scored on the evaluation split, so the accuracy of the best run is
    optimistic. With --val, every run is scored on validation rows. Only the best is then fitted
    again and scored on the evaluation split. If that has no labels, a single run gives a row per
    image: the prediction, its score and the runner-up.

    Example: clipkit probe img.h5 txt.h5 -t 1,0.5,0.07,0.03 -o probe.h5
    """
    from clipkit.analysis.probe import evaluation
    from clipkit.analysis.relabeling import label_by_attribute
    from clipkit.analysis.row_clusters import count_by_cluster, read_clusters
    from clipkit.features.matching import join_named

    labels = table
    if cluster is not None and not attribute:
        labels = None  # the table has only the clusters
    source = label_by_attribute(file, labels, attribute, common=common)
    counts = parse_counts(shots, "shots")
    spec = evaluation.ProbeSpec(classifier, features, standardize, seed, counts, repeat, k)
    source, (fit, scored, validated) = join_named(source, [fit_split, eval_split, val])
    clusters = read_clusters(source, table, cluster, common=common)
    lists_images: bool | None = per_image
    if not per_class and not per_image:
        lists_images = None  # if there is no accuracy to print
    result, rankings = evaluation.evaluate(
        source,
        spec,
        parse_temperatures(temperature, source.logit_scale),
        _parse_regularization(C),
        fit,
        scored,
        validated,
        keep,
        lists_images,
    )
    result = count_by_cluster(result, source, clusters)
    return Rows(per_class, per_image).answer(result, rankings, bool(rankings))


def _check(report: Any, **values: Any) -> None:
    """Refuse options that no file can make right."""
    seeds = parse_seeds(values["seed"])
    per_class, per_image = values["per_class"], values["per_image"]
    Rows(per_class, per_image)  # refuses both
    if len(seeds) > 1 and (per_class or per_image):
        raise UsageError(f"expected one seed to print classes or images, got {len(seeds)}")
    if values["keep"] and report.output is None:
        raise UsageError("expected -o FILE for --keep, got none", "name the probe: -o probe.h5")
    counts = parse_counts(values["shots"], "shots")
    _check_draws(counts, values["repeat"], seeds)
    _parse_regularization(values["C"])
    classifier = values["classifier"]
    draws_rows = any((values["val"], counts, SEED_FIELD in values["file"]))
    if values["seed"] != ["42"] and classifier not in names_taking("seed") and not draws_rows:
        console.note(f"--seed has no effect on {classifier} without --val or --shots")


def _check_draws(counts: Sequence[int], repeat: int, seeds: Sequence[int]) -> None:
    """Refuse seeds that are so near that draws of one are draws of another one."""
    if counts and any(b - a < repeat for a, b in itertools.pairwise(seeds)):
        got = ",".join(map(str, seeds))
        raise UsageError(
            f"expected seeds at least {repeat} apart for --repeat {repeat}, got {got}",
            "draw n of a seed is the first draw of seed + n",
        )


def _parse_regularization(words: Sequence[str]) -> list[float] | str:
    """Parse the values of C, or return a range as it is."""
    if len(words) == 1 and ".." in words[0]:
        return words[0]
    for word in words:
        if ":" in word:
            ends = word.split(":")
            example = f"{ends[0]}..{ends[1]}:6" if all(ends[:2]) else "1e-3..1e2:6"
            hint = f"a range is LOW..HIGH:N, for N values: {example}"
            raise UsageError(f"C: expected numbers or a range, got {word!r}", hint)
    return parse_numbers(words, "C")


COLUMNS = (
    CLASSIFIER,
    C,
    TEMPERATURE,
    STANDARDIZE,
    K,
    DRAW,
    Column("fitted_per_class", COUNT, NOTHING),
    FIT_SPLIT,
    EVAL_SPLIT,
    SEED,
    CLASS,
    CLUSTERS,
    SUPPORT,
    ACC1,
    ACC5,
    MEAN_PER_CLASS_RECALL,
    RECALL_CHANCE,
    CHANCE,
    MAJORITY,
    PRECISION,
    RECALL,
    F1,
    MEAN_ENTROPY,
    MEAN_CONFIDENCE,
    ID,
    LABEL,
    PREDICTION,
    CLASS_SCORE,
    RUNNER_UP,
    RUNNER_UP_SCORE,
)


def _mean_of_draws(rows: Sequence[Row], columns: Columns) -> list[Row]:
    """Return the mean over the draws of --shots, with the range of their accuracies."""
    from clipkit.analysis.results import RUN_SETTINGS

    of_settings: dict[tuple[str, ...], list[Row]] = {}
    names = [name for name in RUN_SETTINGS if name in rows[0] and name != "draw"]
    for row in rows:
        key = tuple(str(row[name]) for name in names)  # as text, NaN is equal to itself
        of_settings.setdefault(key, []).append(row)
    if len(of_settings) == len(rows):
        return list(rows)
    means: list[Row] = []
    for draws in of_settings.values():
        cells: dict[str, Any] = {}
        for name, value in draws[0].items():
            values = [number(row, name) for row in draws]
            mean = statistics.fmean(values)
            if name == "draw":
                cells["draws"] = len(draws)
            elif name == "acc1":
                ends = {"acc1": mean, "acc1_low": min(values), "acc1_high": max(values)}
                cells["accuracy (range) %"] = make_cell(ends, columns["acc1"], columns)
            elif name in ("acc1_low", "acc1_high"):
                continue
            elif name in RUN_SETTINGS or math.isnan(values[0]):
                cells[name] = value
            else:
                cells[name] = mean
        means.append(cells)
    return means


ANALYSIS = Analysis(
    "probe",
    "What can a simple classifier read from the features?",
    probe,
    columns=COLUMNS,
    section=RIGHT,
    layout=Layout(needed="draw", arrange=_mean_of_draws),
    claims=accuracy_claims,
    findings=accuracy_findings,
    needs="acc1 acc1_low acc1_high",
    check=_check,
    null="labels",
)
