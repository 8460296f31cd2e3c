"""Inputs and options that several questions take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from clipkit.analysis.question import Answer, FeatureFile, Input
from clipkit.base.errors import UsageError
from clipkit.base.options import (
    CONTROLS_PANEL,
    MAX_SEED,
    OUTPUT_PANEL,
    ROWS_PANEL,
    SEED_FIELD,
    attribute_option,
    flag,
    option,
    split_option,
)

if TYPE_CHECKING:
    from clipkit.analysis.controls import Control
    from clipkit.analysis.ranking import Ranking

LogitsFile = Annotated[
    FeatureFile,
    Input(
        "FILE",
        "Feature file (default: standard input).",
        ("logits",),
        is_piped=True,
        is_streamed=True,
    ),
]
Images = Annotated[
    FeatureFile,
    Input("IMAGES", "Feature file of images, or - for standard input.", ("images",)),
]
StreamedImages = Annotated[
    FeatureFile,
    Input(
        "IMAGES",
        "Feature file of images (default: standard input).",
        ("images",),
        is_piped=True,
        is_streamed=True,
    ),
]
Texts = Annotated[
    FeatureFile,
    Input("TEXTS", "Feature file of texts (default: standard input).", ("texts",), is_piped=True),
]
LabelledFile = Annotated[
    FeatureFile,
    Input(
        "FILE",
        "Feature file of images or logits (default: standard input).",
        ("images", "logits"),
        is_piped=True,
        is_streamed=True,
    ),
]
Splits = Annotated[
    list[str] | None,
    split_option("Use only this split, or a,b or all as one; repeatable (default: each)."),
]
SameRows = Annotated[
    bool,
    flag(
        "--same-rows", "Match the row numbers of different imports without ids.", panel=ROWS_PANEL
    ),
]
FirstSplit = Annotated[
    str | None, split_option("Split to use, or a,b or all (default: test, else the first).")
]
FitSplit = Annotated[str, split_option("Split to fit on.")]
Common = Annotated[
    bool,
    flag(
        "--common/--strict", "Leave out rows without a partner, or refuse them.", panel=ROWS_PANEL
    ),
]
PerClass = Annotated[
    bool,
    flag(
        "--per-class", "Print precision, recall and F1 per class of each run.", panel=OUTPUT_PANEL
    ),
]
PerImage = Annotated[
    bool,
    flag("--per-image", "Print a row per image: prediction, score, runner-up.", panel=OUTPUT_PANEL),
]
Top = Annotated[
    int,
    option("K", "Print K rows per image: its most probable classes.", min=1, panel=OUTPUT_PANEL),
]
Cut = Annotated[
    str | None,
    option(
        "SCORE|RESULT",
        "Predict 'none of these' unless the highest cosine is above SCORE, or above the cut of its "
        "class in a result of clipkit threshold.",
        "--threshold",
        kinds=("result",),
    ),
]
Scores = Annotated[
    bool,
    flag("--scores", "Print a row per image, with the scores of all classes.", panel=OUTPUT_PANEL),
]
Seed = Annotated[int, option("N", "Random seed.", min=0, max=MAX_SEED)]
SEEDS = option(
    "N[,N...]",
    f"Random seed; for several, {SEED_FIELD} in a file's name stands for each.",
    sweeps=True,
    has_commas=True,
)
Seeds = Annotated[int, SEEDS]
TABLE = option(
    "TABLE|DATASET",
    "Attributes of the images: a .csv, .tsv, .jsonl or .parquet file, or shapes.",
    "--table",
    is_file=True,
    member="attributes",
    completes=("shapes",),
    panel=ROWS_PANEL,
)
Table = Annotated[str | None, TABLE]
Attribute = Annotated[
    str | None,
    attribute_option("Use this attribute of TABLE as labels; A*B combines two.", member="column"),
]
Cluster = Annotated[
    str | None,
    attribute_option("Count images with the same value of this attribute of TABLE as one draw."),
]
Attributes = Annotated[
    list[str],
    attribute_option(
        "Use only these attributes; A*B is an interaction; repeatable.",
        "--attribute",
        metavar="NAME[,NAME...]",
        has_commas=True,
        member="column",
    ),
]
ControlTexts = Annotated[
    list[FeatureFile],
    option(
        "TEXTS",
        "The same texts by the model of --control; one for each, in the same order.",
        "--control-texts",
        kinds=("texts",),
        panel=CONTROLS_PANEL,
    ),
]
ItemTables = Annotated[
    list[str] | None,
    option(
        "TABLE",
        "Images with right and wrong texts: a table (.csv, .tsv, .jsonl), a file of SugarCrepe, "
        "ARO or Winoground, a folder of these, or shapes; repeatable.",
        "--items",
        is_file=True,
        completes=("shapes",),
    ),
]
Controls = Annotated[
    list[FeatureFile],
    option(
        "IMAGES",
        "The same images, embedded by an untrained control; repeatable.",
        kinds=("images",),
        panel=CONTROLS_PANEL,
    ),
]


@dataclass(frozen=True)
class Rows:
    """Options that choose between rows of runs, of classes and of images."""

    per_class: PerClass = False
    per_image: PerImage = False
    top: Top = 1
    scores: Scores = False

    def __post_init__(self) -> None:
        """Refuse rows of classes together with an option that prints rows of images."""
        if self.per_class and self._asks_for_images:
            raise UsageError(
                "expected rows of classes or of images, got --per-class and an option for images",
                "leave out --per-class, or --per-image, --top and --scores",
            )

    @property
    def _asks_for_images(self) -> bool:
        return self.per_image or self.top > 1 or self.scores

    def are_images(self, file: FeatureFile, splits: Collection[str]) -> bool:
        """Return whether to print rows of images: as asked for, or since no split has labels."""
        from clipkit.base import console

        if self._asks_for_images:
            return True
        without = [name for name in splits if file.splits[name].labels is None]
        if without and len(without) < len(splits):
            names = ", ".join(without)
            console.note(f"{names} has no labels: print its predictions with --per-image")
        return len(without) == len(splits) and not self.per_class

    def answer(
        self, result: FeatureFile, rankings: Mapping[str, Ranking], are_images: bool
    ) -> Answer:
        """Return an answer with the rows that are asked for."""
        from clipkit.analysis.ranking import image_rows
        from clipkit.analysis.results import per_class_rows

        if are_images:
            return Answer(result, image_rows(result, rankings, self.top))
        if self.per_class:
            return Answer(result, per_class_rows(result))
        return Answer(result)


def check_controls(control: Sequence[Any], control_texts: Sequence[Any], **_: Any) -> None:
    """Refuse images of controls without their texts."""
    if len(control) != len(control_texts):
        got = f"got {len(control)} and {len(control_texts)}"
        raise UsageError(
            f"expected as many --control-texts as --control, {got}",
            "embed the texts with the same --untrained as the images of each control",
        )


def pair_controls(images: list[FeatureFile], texts: list[FeatureFile]) -> list[Control]:
    """Return untrained models, with the images and the texts of each."""
    from clipkit.analysis.controls import Control

    check_controls(images, texts)
    return [Control(*files) for files in zip(images, texts, strict=True)]


def read_cut(value: str | float | FeatureFile | None) -> float | FeatureFile | None:
    """Return the value of --threshold: a number, or a result, which may have to be read."""
    from clipkit.features.arguments import as_file
    from clipkit.features.model import FeatureFile

    if value is None or isinstance(value, FeatureFile):
        return value
    try:
        number = float(value)
    except ValueError:
        return as_file(str(value), "threshold", "result")
    if math.isnan(number):
        raise UsageError(f"threshold: expected a number, got {value!r}")
    return number
