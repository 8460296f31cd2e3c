"""`clipkit probe`: what a simple classifier reads from embeddings or logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipkit.commands._options import (
    FeatureInput,
    Force,
    Format,
    ResultOutput,
    Seed,
    Temperatures,
    check_report_options,
    parse_numbers,
    parse_temperatures,
    report_result,
)
from clipkit.errors import UsageError, unknown

if TYPE_CHECKING:
    from clipkit.features import FeatureFile


def probe(
    file: FeatureInput = "-",
    classifier: Annotated[
        str,
        typer.Option("--classifier", metavar="svm|logreg|mlp|knn", help="What reads the features."),
    ] = "svm",
    regularization: Annotated[
        list[str],
        typer.Option("-C", metavar="C[,C...]", help="Inverse strength of regularisation."),
    ] = ["1"],
    temperature: Temperatures = [],
    features: Annotated[
        str,
        typer.Option(
            "--features",
            metavar="logits|probs",
            help="Of a logits file: cosine / tau, or its softmax.",
        ),
    ] = "logits",
    standardize: Annotated[
        bool | None,
        typer.Option(
            "--standardize/--no-standardize",
            help="Zero mean and unit variance a column. By default for embeddings, not for logits or kNN.",
        ),
    ] = None,
    fit_split: Annotated[
        str, typer.Option("--fit-split", metavar="NAME", help="What is fitted on.")
    ] = "train",
    eval_split: Annotated[
        str, typer.Option("--eval-split", metavar="NAME", help="What is scored.")
    ] = "test",
    val: Annotated[
        str | None,
        typer.Option(
            "--val",
            metavar="FRACTION|SPLIT",
            help="Choose among several C and tau on this part of the fit split, or on this split.",
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots", metavar="N", min=1, help="Fit on N rows of every class of the fit split."
        ),
    ] = None,
    seed: Seed = 42,
    output: ResultOutput = None,
    format: Format = None,
    force: Force = False,
) -> None:
    """Fit a classifier on one split, score it on another. Lists of C and tau make a sweep.

    Without --val every member of a sweep is scored on the evaluation split, and picking the best of them is optimistic.
    With --val each is scored on held-out data, and the best is fitted again and scored once.

    Example: clipkit probe logits.h5 -t 1,0.5,0.07,0.03 -o probe.h5
    """  # fmt: skip
    from clipkit import evaluation
    from clipkit.features import FeatureFile, history_entry, read

    check_report_options(output, format, force)
    Cs = parse_numbers(regularization, "C")
    if features not in ("logits", "probs"):
        raise unknown("kind of features", features, ["logits", "probs"])
    source = read(file, kinds=["images", "logits"])
    taus = _taus(source, temperature, features)
    if standardize is None:
        standardize = source.kind == "images" and classifier != "knn"
    shown = "standard input" if file == "-" else file
    task = evaluation.Task(source, shown, classifier, features, standardize, seed, shots)
    rows, splits = evaluation.report(
        task, [(tau, C) for tau in taus for C in Cs], fit_split, eval_split, val
    )
    made = history_entry(
        "probe", classifier=classifier, C=Cs, temperature=taus, features=features, standardize=standardize,
        fit_split=fit_split, eval_split=eval_split, val=val, shots=shots, seed=seed,
        prompts=len(source.texts or []) or None, inputs={"features": source.digest},
    )  # fmt: skip
    result = FeatureFile("result", [*source.history, made], splits, class_names=source.class_names)
    result.set_rows(rows)
    report_result(result, output, format, force)


def _taus(source: FeatureFile, given: list[str], features: str) -> list[float | None]:
    """Temperatures of the sweep; [None] for embeddings, which have none."""
    if source.kind == "images":
        if given or features == "probs":
            raise UsageError(
                "temperatures and probabilities need logits; these are image embeddings",
                "make them with: clipkit logits",
            )
        return [None]
    return [*parse_temperatures(given, source.logit_scale)] or [source.temperature or 1.0]
