"""`clipkit importance`: measure which prompts a kept probe relies on."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.base.options import option
from clipkit.commands._options import MAX_SEED, FirstSplit, Report


def importance(
    report: Report,
    probe: Annotated[
        str, typer.Argument(metavar="PROBE", help="Probe on logits, from clipkit probe --keep.")
    ],
    file: Annotated[
        str,
        typer.Argument(metavar="LOGITS", help="Feature file of logits (default: standard input)."),
    ] = "-",
    split: FirstSplit = None,
    repeat: Annotated[
        int | None,
        option("N", "Permutations of the images for each prompt (default: 5).", min=1, max=1000),
    ] = None,
    groups: Annotated[
        str | None,
        option("FILE", "Permute groups of prompts; each line of FILE is: prompt TAB group."),
    ] = None,
    weights: Annotated[
        int | None,
        option("N", "List the N largest weights of each class instead, without LOGITS.", min=1),
    ] = None,
    seed: Annotated[
        int | None, option("N", "Random seed (default: 42).", min=0, max=MAX_SEED)
    ] = None,
) -> None:
    """Report for each prompt the accuracy that a probe loses if the prompt's cosines are permuted.

    Prompts are sorted by decreasing cost. If similar prompts can replace each other, each of them
    costs little. With --groups, prompts are permuted together.

    Example: clipkit probe logits.h5 --keep -o p.h5; clipkit importance p.h5 logits.h5
    """
    from clipkit import features
    from clipkit.analysis import importance
    from clipkit.base.errors import UsageError

    others = [value for value in (split, repeat, groups, seed) if value is not None]
    if weights is not None and (others or file != "-"):
        raise UsageError(
            "expected --weights without LOGITS, --split, --repeat, --groups and --seed"
        )
    report.check_output(probe, file if weights is None else None, groups)
    fitted = features.read(probe, kinds=["probe"], swapped=(file, ["logits"]))
    if weights is not None:
        result = importance.largest_weights(fitted, weights)
    else:
        result = importance.prompt_importance(
            fitted,
            features.read(file, kinds=["logits"]),
            split=split,
            repeat=repeat or importance.REPEAT,
            seed=importance.SEED if seed is None else seed,
            groups=groups,
        )
    report.show(result)
