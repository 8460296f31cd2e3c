"""Above which cosine an image and a prompt match."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from clipkit.analysis.layout import number
from clipkit.analysis.options import Cluster, Common, Seed, Table
from clipkit.analysis.question import Analysis, FeatureFile, Input
from clipkit.analysis.sections import PROBABILITIES
from clipkit.base.errors import UsageError
from clipkit.base.options import EvalSplit, flag, option, parse_numbers, split_option
from clipkit.features.columns import (
    CLUSTERS,
    COUNT,
    HIGHER,
    LABELS,
    LOWER,
    MEASURE,
    NOTHING,
    NUMBER,
    OTHER,
    PROMPT,
    ROWS,
    SHARE,
    Column,
)

if TYPE_CHECKING:
    from clipkit.analysis.shuffling import Shuffle
    from clipkit.statistics.claims import Claim

ENDS = ("", "_low", "_high")
FILE = Input("FILE", "Feature file (default: standard input).", ("logits", "images"), is_piped=True)


def threshold(
    file: Annotated[FeatureFile, FILE],
    fpr: Annotated[
        list[str],
        option(
            "P[,P...]",
            "False-positive rate on the fitted split; or a list (default: 0.01).",
            has_commas=True,
        ),
    ] = [],
    at: Annotated[
        list[str],
        option("COSINE[,...]", "Score these thresholds, in place of --fpr.", has_commas=True),
    ] = [],
    standardize: Annotated[
        bool, flag("--standardize", "Standardise the cosines of each prompt first.")
    ] = False,
    unknown: Annotated[
        FeatureFile | None,
        option(
            "LOGITS|IMAGES",
            "Images of none of the classes: report how well they are separated. FILE is of the "
            "same kind.",
            kinds=("logits", "images"),
        ),
    ] = None,
    fit_split: Annotated[str, split_option("Split to choose thresholds on.")] = "train",
    eval_split: EvalSplit = "test",
    seed: Seed = 42,
    table: Table = None,
    cluster: Cluster = None,
    common: Common = False,
) -> FeatureFile:
    """Report the cosine above which an image and a prompt match, at a false-positive rate.

    A prompt matches the images of its class. The first row is for all prompts together, and each
    further row for one prompt. `tpr` and `fpr` are of the scored split. With --unknown, the rows
    are of thresholds that keep 95 % of the known images.

    Example: clipkit threshold img.h5 classes.h5 --fpr 0.01,0.05
    """
    from clipkit.analysis.threshold import thresholds
    from clipkit.features.hdf5 import check_kind

    shares, cosines = _parse_shares(fpr or ["0.01"]), _parse_cosines(at)
    if fpr and (at or unknown is not None):
        other = "--at" if at else "--unknown"
        hint = "--unknown keeps 95 % of the known images" if unknown else "leave out one of them"
        raise UsageError(f"expected --fpr or {other}, got both", hint)
    if unknown is not None and any((at, standardize, cluster, table)):
        raise UsageError("expected --unknown without --at, --standardize, --table and --cluster")
    splits = {"fit_split": fit_split, "eval_split": eval_split}
    if unknown is not None:
        check_kind(unknown, [file.kind])
        return thresholds.detect(file, unknown, **splits, seed=seed)
    check_kind(file, ["logits"])
    return thresholds.choose(
        file,
        fpr=shares,
        at=cosines,
        standardize=standardize,
        **splits,
        seed=seed,
        table=table,
        cluster=cluster,
        common=common,
    )


def _parse_shares(words: list[str]) -> list[float]:
    """Parse numbers between 0 and 1."""
    shares = parse_numbers(words, "fpr")
    for share in shares:
        if share >= 1:
            hint = f"write a share: {share / 100:g}" if share < 100 else None
            raise UsageError(f"fpr: expected a share between 0 and 1, got {share:g}", hint)
    return shares


def _parse_cosines(words: list[str]) -> list[float]:
    """Parse numbers, which may be negative."""
    numbers = []
    for word in words:
        try:
            numbers.append(float(word))
        except ValueError:
            raise UsageError(f"at: expected a number, got {word!r}") from None
        if not math.isfinite(numbers[-1]):
            raise UsageError(f"at: expected a number, got {word!r}")
    return numbers


def _check(fpr: list[str], at: list[str], **_: Any) -> None:
    """Refuse shares and cosines that are none."""
    _parse_shares(fpr)
    _parse_cosines(at)


COLUMNS = (
    MEASURE,
    PROMPT,
    CLUSTERS,
    Column("known", COUNT, ROWS),
    Column("unknown", COUNT, ROWS),
    Column("matching", COUNT, LABELS),
    OTHER,
    Column("threshold", NUMBER, LABELS),
    Column("fpr_asked", SHARE, NOTHING),
    Column(
        "tpr",
        SHARE,
        LABELS,
        better=HIGHER,
        decimals=1,
        small_decimals=2,
        has_interval=True,
    ),
    Column(
        "fpr",
        SHARE,
        LABELS,
        better=LOWER,
        decimals=1,
        small_decimals=2,
        has_interval=True,
    ),
    Column(
        "auroc",
        SHARE,
        LABELS,
        better=HIGHER,
        decimals=1,
        small_decimals=2,
        has_interval=True,
    ),
)

EXPLANATION = (
    "*tpr* and *fpr* are shares above the threshold on the scored split: of the matching pairs of "
    "an image and a prompt and of the other pairs, or of the known and of the unknown images."
)


def _claim(result: FeatureFile) -> list[Claim]:
    """Hold matching pairs above a threshold against the others, or an AUROC against chance."""
    from clipkit.statistics.claims import CHANCE, Claim, Reference

    claims = []
    for run, row in enumerate(result.rows()):
        if math.isnan(number(row, "tpr")) or math.isnan(number(row, "tpr_low")):
            continue  # no pair matches, or the images were fitted
        if "measure" in row:
            subject = f"AUROC of known images by {row['measure']}:"
            n = row["known"] + row["unknown"]
            value, low, high = (number(row, f"auroc{end}") for end in ENDS)
            claims.append(Claim(subject, value, low, high, Reference(CHANCE, 0.5), n, "", run))
            continue
        subject = f"matching pairs of {row['prompt']} above {row['threshold']:.4g}:"
        value, low, high = (number(row, f"tpr{end}") for end in ENDS)
        fpr, least, most = (number(row, f"fpr{end}") for end in ENDS)
        others = Reference("other pairs", fpr, least, most)
        claims.append(Claim(subject, value, low, high, others, row["matching"], run=run))
    return claims


def _find(result: FeatureFile) -> list[str]:
    """Say what holds for all prompts together, or for each measure."""
    from clipkit.analysis.threshold.thresholds import ALL
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import sentences

    rows = result.rows()
    return sentences([one for one in claims_of(result) if rows[one.run].get("prompt", ALL) == ALL])


def _shuffle(values: Mapping[str, Any], shuffle: Shuffle) -> dict[str, Any]:
    """Shuffle labels or, beside unknown images, which images are known."""
    if values["unknown"] is None:
        return shuffle.values({"file": values["file"]})
    known, unknown = shuffle.exchange(values["file"], values["unknown"])
    return {"file": known, "unknown": unknown}


ANALYSIS = Analysis(
    "threshold",
    "Above which cosine do an image and a prompt match?",
    threshold,
    columns=COLUMNS,
    section=PROBABILITIES,
    check=_check,
    claims=_claim,
    findings=_find,
    needs="threshold tpr tpr_low tpr_high fpr fpr_low fpr_high",
    topic="Matches",
    explanation=EXPLANATION,
    null=_shuffle,
)
