"""`clipkit threshold`: the cosine above which an image and a prompt match."""

from __future__ import annotations

import math
from typing import Annotated

from clipkit.base.errors import UsageError
from clipkit.base.options import EvalSplit, flag, option, parse_numbers, split_option
from clipkit.commands._options import Cluster, FeatureInput, Report, Seed, Table


def threshold(
    report: Report,
    file: FeatureInput = "-",
    fpr: Annotated[
        list[str],
        option("P[,P...]", "False-positive rate on the fitted split; or a list.", has_commas=True),
    ] = ["0.01"],  # noqa: B006
    at: Annotated[
        list[str],
        option("COSINE[,...]", "Score these thresholds, in place of --fpr.", has_commas=True),
    ] = [],  # noqa: B006
    standardize: Annotated[
        bool, flag("--standardize", "Standardise the cosines of each prompt first.")
    ] = False,
    unknown: Annotated[
        str | None,
        option(
            "LOGITS|IMAGES",
            "Images of none of the classes: report how well they are separated. FILE is of the "
            "same kind.",
            is_file=True,
        ),
    ] = None,
    fit_split: Annotated[str, split_option("Split to choose thresholds on.")] = "train",
    eval_split: EvalSplit = "test",
    seed: Seed = 42,
    table: Table = None,
    cluster: Cluster = None,
) -> None:
    """Report the cosine above which an image and a prompt match, at a false-positive rate.

    A prompt matches the images of its class. The first row is for all prompts together, and each
    further row for one prompt. `tpr` and `fpr` are of the scored split. With --unknown, the rows
    are of thresholds that keep 95 % of the known images.

    Example: clipkit threshold class-logits.h5 --fpr 0.01,0.05
    """
    from clipkit import features
    from clipkit.analysis import thresholds

    report.check_output(file, unknown, table)
    kinds = ["logits"] if unknown is None else ["logits", "images"]
    logits = features.read(file, kinds=kinds)
    splits = {"fit_split": fit_split, "eval_split": eval_split}
    if unknown is not None:
        if at or standardize or cluster or table:
            raise UsageError(
                "expected --unknown without --at, --standardize, --table and --cluster"
            )
        others = features.read(unknown, kinds=[logits.kind])
        report.show(thresholds.detect(logits, others, **splits, seed=seed))
        return
    result = thresholds.choose(
        logits,
        fpr=parse_numbers(fpr, "fpr"),
        at=_parse_cosines(at),
        standardize=standardize,
        **splits,
        seed=seed,
        table=table,
        cluster=cluster,
    )
    report.show(result)


def _parse_cosines(words: list[str]) -> list[float]:
    """Parse numbers, which may be negative."""
    numbers = []
    for word in words:
        try:
            numbers.append(float(word))
        except ValueError:
            raise UsageError(f"at: expected a number, got {word!r}") from None
        if math.isnan(numbers[-1]):
            raise UsageError(f"at: expected a number, got {word!r}")
    return numbers
