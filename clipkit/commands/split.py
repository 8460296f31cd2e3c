"""`clipkit split`: divide a split of a feature file into train, test and validation rows."""

from __future__ import annotations

from typing import Annotated

from clipkit.analysis.options import Common, Seed, Table
from clipkit.base.options import ROWS_PANEL, attribute_option, flag, option, split_option
from clipkit.commands._options import FeatureInput, Force, Output


def split(
    file: FeatureInput = "-",
    test: Annotated[
        float | None,
        option("FRACTION", "Fraction of the rows for the split test.", member="fractions.test"),
    ] = None,
    val: Annotated[
        float | None,
        option("FRACTION", "Fraction of the rows for the split val.", member="fractions.val"),
    ] = None,
    source: Annotated[
        str | None,
        split_option(
            "Split to divide, or a,b or all (default: the only one, or else train).", "--from"
        ),
    ] = None,
    table: Table = None,
    attribute: Annotated[
        str | None,
        attribute_option(
            "Keep rows with the same value of this attribute together.", member="column"
        ),
    ] = None,
    group_folder: Annotated[
        bool,
        flag(
            "--group-folder",
            "Keep rows whose files share a folder together.",
            member="by_folder",
            panel=ROWS_PANEL,
        ),
    ] = False,
    common: Common = False,
    seed: Seed = 42,
    output: Output = "-",
    force: Force = False,
) -> None:
    """Divide a split of images or logits by a seeded draw, stratified by label.

    The rest is called train. Rows keep their ids and their order. Other splits are kept. A class of
    one row stays in train.

    Example: clipkit split all.h5 --test 0.2 --val 0.1 -o img.h5
    """
    from clipkit import features
    from clipkit.features import endings, splitting
    from clipkit.features.history import drop_none

    endings.check_feature_output(output, force=force, inputs=[file, table])
    fractions = drop_none({"test": test, "val": val})
    with features.open_file(file, kinds=["images", "logits"]) as undivided:
        divided = splitting.split(
            undivided,
            fractions,
            source=source,
            seed=seed,
            column=attribute,
            table=table,
            by_folder=group_folder,
            common=common,
        )
        features.write(output, divided, force=force)
