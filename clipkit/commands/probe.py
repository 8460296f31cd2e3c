"""`clipkit probe`: fit and score a simple classifier on embeddings or logits."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.base.errors import UsageError
from clipkit.commands import _completion as completion
from clipkit.commands._options import (
    Attribute,
    FeatureInput,
    Force,
    Format,
    NoHeader,
    PerClass,
    PerImage,
    ReportColumns,
    ResultOutput,
    Seed,
    Table,
    Temperatures,
    check_result_output,
    check_row_options,
    option,
    parse_counts,
    parse_numbers,
    parse_temperatures,
    report_images,
    report_result,
    split_option,
)


def probe(
    file: FeatureInput = "-",
    classifier: Annotated[str, option("svm|logreg|mlp|knn", "Classifier to fit.")] = "svm",
    regularization: Annotated[
        list[str], option("C[,C...]", "Inverse strength of regularisation.", "-C")
    ] = ["1"],  # noqa: B006
    temperature: Temperatures = [],  # noqa: B006
    features: Annotated[
        str, option("logits|probs", "For logits: use cosine / tau, or its softmax.")
    ] = "logits",
    standardize: Annotated[
        bool | None,
        typer.Option(
            "--standardize/--no-standardize",
            help="Scale each column to mean 0 and variance 1 (default: for embeddings, except "
            "with knn).",
        ),
    ] = None,
    fit_split: Annotated[str, split_option("Split to fit on.")] = "train",
    eval_split: Annotated[str, split_option("Split to score.")] = "test",
    val: Annotated[
        str | None,
        option(
            "FRACTION|SPLIT",
            "Choose C and tau on this fraction of the fit split, or on this split.",
            autocompletion=completion.splits,
        ),
    ] = None,
    table: Table = None,
    attribute: Attribute = None,
    shots: Annotated[
        list[str], option("N[,N...]", "Fit on N rows per class; several make a curve.")
    ] = [],  # noqa: B006
    repeat: Annotated[
        int, option("N", "Draw the rows of --shots N times, with seeds that count up.", min=1)
    ] = 1,
    seed: Seed = 42,
    per_class: PerClass = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Store the fitted probe in the output, for clipkit predict (needs -o)."
        ),
    ] = False,
    per_image: PerImage = False,
    output: ResultOutput = None,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
    force: Force = False,
) -> None:
    """Fit a classifier on one split and score it on another, for every temperature and C.

    Without --val, every run is scored on the evaluation split, so the accuracy of the best run is
    optimistic. With --val, every run is scored on validation rows. Only the best is then fitted
    again and scored on the evaluation split. If that has no labels, a single run gives a row per
    image: the prediction, its score and the runner-up.

    Example: clipkit probe logits.h5 -t 1,0.5,0.07,0.03 -o probe.h5
    """
    check_result_output(output, force, file, table)
    check_row_options(per_class, per_image)
    if keep and output is None:
        raise UsageError("expected -o FILE for --keep, got none", "name the probe: -o probe.h5")
    counts = parse_counts(shots, "shots")
    Cs = parse_numbers(regularization, "C")
    from clipkit.analysis import evaluation, relabeling  # loads scikit-learn
    from clipkit.analysis.results import per_class_rows
    from clipkit.base.tables import View
    from clipkit.features import open_file

    spec = evaluation.ProbeSpec(classifier, features, standardize, seed, counts, repeat)
    view = View(format, columns, no_header)
    # by default, images are listed if there is no accuracy to print
    lists_images = per_image if per_class or per_image else None
    with open_file(file, kinds=["images", "logits"]) as source:
        temperatures = parse_temperatures(temperature, source.logit_scale)
        labelled = relabeling.label_by_attribute(source, table, attribute)
        result, rankings = evaluation.evaluate(
            labelled, spec, temperatures, Cs, fit_split, eval_split, val, keep, lists_images
        )
    if rankings:
        report_images(result, rankings, 1, output, view, force)
    else:
        rows = per_class_rows(result) if per_class else None
        report_result(result, output, view, force, rows)
