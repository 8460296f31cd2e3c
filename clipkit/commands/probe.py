"""`clipkit probe`: fit and score a simple classifier on embeddings or logits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from clipkit.base import console
from clipkit.base.errors import UsageError
from clipkit.base.options import (
    OUTPUT_PANEL,
    ROWS_PANEL,
    EvalSplit,
    Temperatures,
    choice,
    flag,
    option,
    parse_numbers,
    parse_temperatures,
)
from clipkit.commands._options import (
    SEED,
    Attribute,
    Cluster,
    Common,
    FeatureInput,
    FitSplit,
    PerClass,
    PerImage,
    Report,
    Rows,
    Seeds,
    Table,
    open_labelled,
    parse_counts,
    parse_seeds,
)
from clipkit.probes.classifiers import CLASSIFIERS, DEFAULT, names_taking

TAKING_K = ", ".join(names_taking("k"))
COMPARING_DIRECTIONS = ", ".join(
    one.name for one in CLASSIFIERS.values() if one.compares_directions
)
if TYPE_CHECKING:
    from clipkit.features.model import FeatureFile


def probe(
    report: Report,
    file: FeatureInput = "-",
    classifier: Annotated[str, choice(CLASSIFIERS, "Classifier to fit.")] = DEFAULT,
    regularization: Annotated[
        list[str],
        option(
            "C[,C...]",
            "Inverse strength of regularisation; also a range LOW..HIGH:N of N values, which --val "
            "searches.",
            "--regularization",
            "-C",
            has_commas=True,
        ),
    ] = ["1"],  # noqa: B006
    k: Annotated[
        int | None,
        option("N", f"Neighbours that vote, for {TAKING_K} (default: 20).", "-k", min=1),
    ] = None,
    temperature: Temperatures = [],  # noqa: B006
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
    ] = [],  # noqa: B006
    repeat: Annotated[
        int,
        option(
            "N",
            "Draw the rows of --shots N times, with seeds that count up.",
            min=1,
            panel=ROWS_PANEL,
        ),
    ] = 1,
    seed: Seeds = ["42"],  # noqa: B006
    per_class: PerClass = False,
    keep: Annotated[
        bool,
        flag(
            "--keep",
            "Store the fitted probe in the output, for clipkit predict (needs -o).",
            panel=OUTPUT_PANEL,
        ),
    ] = False,
    per_image: PerImage = False,
) -> None:
    """Fit a classifier on one split and score it on another, for every temperature and C.

    Without --val, every run is scored on the evaluation split, so the accuracy of the best run is
    optimistic. With --val, every run is scored on validation rows. Only the best is then fitted
    again and scored on the evaluation split. If that has no labels, a single run gives a row per
    image: the prediction, its score and the runner-up.

    Example: clipkit probe logits.h5 -t 1,0.5,0.07,0.03 -o probe.h5
    """
    seeds = parse_seeds(seed)
    report.check_output(file, table, seeds=seeds)
    prints_rows = per_class or per_image
    Rows(per_class, per_image)  # refuses both
    if len(seeds) > 1 and prints_rows:
        raise UsageError(f"expected one seed to print classes or images, got {len(seeds)}")
    if keep and report.output is None:
        raise UsageError("expected -o FILE for --keep, got none", "name the probe: -o probe.h5")
    counts = _parse_shots(shots, repeat, seeds)
    Cs = _parse_regularization(regularization)
    draws_rows = any((val, counts, SEED in file))
    if seed != ["42"] and classifier not in names_taking("seed") and not draws_rows:
        console.note(f"--seed has no effect on {classifier} without --val or --shots")
    from clipkit.analysis import evaluation, row_clusters  # slow to load
    from clipkit.features.matching import join_named

    spec = evaluation.ProbeSpec(classifier, features, standardize, seeds[0], counts, repeat, k)
    lists_images: bool | None = per_image
    if len(seeds) == 1 and not prints_rows:
        lists_images = None  # if there is no accuracy to print

    def evaluate(number: int, source: FeatureFile) -> evaluation.Evaluation:
        taus = parse_temperatures(temperature, source.logit_scale)
        source, (fit, scored, validated) = join_named(source, [fit_split, eval_split, val])
        clusters = row_clusters.read_clusters(source, table, cluster, common=common)
        result, rankings = evaluation.evaluate(
            source,
            replace(spec, seed=number),
            taus,
            Cs,
            fit,
            scored,
            validated,
            keep,
            lists_images,
        )
        result = row_clusters.count_by_cluster(result, source, clusters)
        return evaluation.Evaluation(result, rankings)

    labels = table
    if cluster is not None and not attribute:
        labels = None  # the table has only the clusters
    evaluations = itertools.starmap(
        evaluate, open_labelled(file, seeds, labels, attribute, common=common)
    )
    if len(seeds) > 1:
        report.show_seeds(seeds, (one.result for one in evaluations))
        return
    ((result, rankings),) = evaluations
    report = report.for_seed(seeds[0])
    if rankings:
        report.show_images(result, rankings, 1)
    else:
        report.show(result, per_class=per_class)


def _parse_shots(shots: list[str], repeat: int, seeds: Sequence[int]) -> list[int]:
    """Parse the rows per class; each draw of a seed must differ from those of the others."""
    counts = parse_counts(shots, "shots")
    if counts and any(b - a < repeat for a, b in itertools.pairwise(seeds)):
        got = ",".join(map(str, seeds))
        raise UsageError(
            f"expected seeds at least {repeat} apart for --repeat {repeat}, got {got}",
            "draw n of a seed is the first draw of seed + n",
        )
    return counts


def _parse_regularization(words: list[str]) -> list[float] | str:
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
