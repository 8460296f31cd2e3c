"""`clipkit relabel`: replace the labels of a feature file."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.analysis.options import Attribute, Common, Seed, Table
from clipkit.base.options import flag, option
from clipkit.commands._options import FeatureInput, Force, Output


def relabel(
    file: FeatureInput = "-",
    named_table: Annotated[str | None, typer.Argument(metavar="", hidden=True)] = None,
    table: Table = None,
    attribute: Attribute = None,
    common: Common = False,
    groups: Annotated[
        str | None,
        option(
            "FILE",
            "Use groups of classes as labels; each line of FILE is: class TAB group.",
            is_file=True,
        ),
    ] = None,
    shuffle: Annotated[
        bool,
        flag(
            "--shuffle",
            "As a control, permute the labels over the rows or, with --groups, the groups "
            "over the classes.",
        ),
    ] = False,
    seed: Seed = 42,
    output: Output = "-",
    force: Force = False,
) -> None:
    """Replace the labels of images, logits or a result, and keep the features.

    If a cell of TABLE is empty, its row is left out. With --groups, the accuracies of a result are
    computed again.

    Example: clipkit relabel img.h5 --table shapes --attribute colour | clipkit probe
    """
    from clipkit import features
    from clipkit.analysis import relabeling
    from clipkit.features import endings

    table = table or named_table
    endings.check_feature_output(output, force=force, inputs=[file, table, groups])
    with features.open_file(file, kinds=["images", "logits", "result"]) as source:
        relabeled = relabeling.relabel(
            source,
            table,
            column=attribute,
            groups=groups,
            shuffle=shuffle,
            seed=seed,
            common=common,
        )
        features.write(output, relabeled, force=force)
