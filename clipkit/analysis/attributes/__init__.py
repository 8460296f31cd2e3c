"""Which attributes of the images are learned, and which of these words reach."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from clipkit.analysis.layout import Layout
from clipkit.analysis.options import (
    Attributes,
    Common,
    Controls,
    FitSplit,
    Seed,
    StreamedImages,
    Table,
)
from clipkit.analysis.question import UNDERSTAND, Analysis, Claim, FeatureFile, Input
from clipkit.base.errors import UsageError, unknown
from clipkit.base.options import CONTROLS_PANEL, EvalSplit, option
from clipkit.features.columns import (
    ATTRIBUTE,
    COUNT,
    HIGHER,
    LABELS,
    METRIC,
    NUMBER,
    ROW_COUNT,
    SHARE,
    TEXT,
    VALUES,
    Column,
    P,
)

WORDS = Input("WORDS", "Feature file of texts with classes 'attribute: value'.", ("texts",))


def _check_metric(_: Any, metric: str) -> str:
    """Refuse an unknown metric, before the command does any work."""
    from clipkit.statistics.score_metrics import METRICS

    several = [word for word in metric.split(",") if word in METRICS]
    if len(several) > 1:
        lines = " and ".join(f"--metric {word}" for word in several)
        raise UsageError(f"expected one --metric, got {metric}", f"run it with {lines}")
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return metric


def attributes(
    images: StreamedImages,
    words: Annotated[FeatureFile | None, WORDS] = None,
    table: Table = None,
    attribute: Attributes = [],
    control: Controls = [],
    metric: Annotated[
        str,
        option(
            "METRIC",
            "recall of categories, auroc or ap of columns of 0 and 1; r2, mae, spearman or "
            "kendalltau of numbers.",
            completes="metrics",
            check=_check_metric,
        ),
    ] = "recall",
    random: Annotated[
        int,
        option(
            "N",
            "Number of sets of random directions.",
            "--random-sets",
            min=0,
            max=1000,
            panel=CONTROLS_PANEL,
        ),
    ] = 5,
    C: Annotated[
        float,
        option(
            "C",
            "Inverse strength of the probe's regularisation.",
            "--regularization",
            "-C",
        ),
    ] = 1.0,
    fit_split: FitSplit = "train",
    eval_split: EvalSplit = "test",
    common: Common = False,
    seed: Seed = 42,
) -> FeatureFile:
    """Report for each attribute whether a probe recognises it, and whether words do.

    The columns are mean recalls per value. `zeroshot` uses WORDS alone. The others are of probes:
    `names` on the similarities with WORDS, `random` on as many random directions, `probe` on the
    whole embedding, `control` on each --control. `reach` is (zeroshot - chance) / (probe - chance).

    Example: clipkit attributes img.h5 words.h5 --table shapes --control control.h5
    """
    from clipkit.analysis.attributes import recalls
    from clipkit.base.matrices import BlockMatrix

    return recalls.measure(
        images.map_features(BlockMatrix.read_if_small),
        words,
        table=table,
        columns=attribute,
        controls=control,
        metric=metric,
        random=random,
        C=C,
        fit_split=fit_split,
        eval_split=eval_split,
        common=common,
        seed=seed,
    )


# A share; beside null5, which metrics of numbers have, it is a number
_score = partial(Column, unit=SHARE, depends_on=LABELS, decimals=1, number_with="null5")

COLUMNS = (
    ATTRIBUTE,
    METRIC,
    VALUES,
    ROW_COUNT,
    Column("positives", COUNT, LABELS),
    _score("chance"),
    Column("null", NUMBER, LABELS),
    Column("null5", NUMBER, LABELS),
    _score("null95"),
    _score("zeroshot", has_interval=True, reference="chance"),
    _score("other_words", beside="other_words95"),
    _score("other_words95"),
    Column("other_words_p", P, LABELS),
    _score("names", reference="chance"),
    _score("random", has_interval=True, reference="chance"),
    _score("probe", has_interval=True, reference="chance", control="control"),
    _score("control", has_interval=True, is_relative=True),
    Column("reach", NUMBER, LABELS, better=HIGHER, decimals=2, has_interval=True),
    _score("gain", has_interval=True),
    _score("given", has_interval=True, reference="chance"),
    Column("given_name", TEXT, LABELS),
    _score("zeroshot_given", has_interval=True, reference="chance"),
    Column("zeroshot_given_name", TEXT, LABELS),
    Column("half_group", TEXT, LABELS),
)


EXPLANATION = (
    "The mean recall per value. *Zeroshot* is by words alone, and *other words* is by other texts. "
    "The others are of probes: *names* on the similarities with the words, *random* on as many "
    "random directions, *probe* on the embedding, *control* on the untrained control's. *Reach* "
    "is (zeroshot − chance) / (probe − chance). Brackets have a 95 % interval over test images or, "
    "for random directions and controls, the range."
)


def _explain(result: FeatureFile) -> str:
    """Say what the columns are; a generative model says its answer itself."""
    from clipkit.analysis.results import newest_entry
    from clipkit.statistics.score_metrics import METRICS

    text = EXPLANATION
    metric = METRICS.get(str(newest_entry(result).get("metric")))
    if metric:
        text = text.replace("mean recall per value", metric.title)
    if result.is_dot_product:
        text = text.replace("is by words alone", "is what the model says: its most probable answer")
    return text


def _claim(result: FeatureFile) -> list[Claim]:
    from clipkit.statistics.claims import attribute_claim

    unit = "" if "null5" in result.runs else "%"
    is_said = result.is_dot_product
    rows = enumerate(result.rows())
    return [attribute_claim(row, run, is_said, unit) for run, row in rows]


def _find(result: FeatureFile) -> list[str]:
    """Name the attributes of each group, and say what keeps the others from being decided."""
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import attribute_names

    groups = attribute_names(claims_of(result))
    return [f"{group}: {names}" for group, names in groups.items()]


LAYOUT = Layout(
    needed="reach",
    columns="attribute metric values positives rows chance null zeroshot other_words names random "
    "probe control reach",
    hidden="null5 null95 gain other_words_p given given_name zeroshot_given zeroshot_given_name "
    "half_group",
    titles={"other_words": "other words"},
)


ANALYSIS = Analysis(
    "attributes",
    "Which attributes are learned, and which of these do words reach?",
    attributes,
    columns=COLUMNS,
    layout=LAYOUT,
    needs="attribute values rows chance zeroshot names random probe control reach reach_low "
    "reach_high",
    claims=_claim,
    findings=_find,
    explanation=_explain,
    panel=UNDERSTAND,
    null="attributes",
)
