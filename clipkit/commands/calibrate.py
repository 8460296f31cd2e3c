"""`clipkit calibrate`: fit the temperature of the softmax over classes, and score it."""

from __future__ import annotations

from typing import Annotated

from clipkit.commands._options import (
    FeatureInput,
    Force,
    Format,
    NoHeader,
    ReportColumns,
    ResultOutput,
    Seed,
    Temperatures,
    check_result_output,
    option,
    parse_temperatures,
    report_result,
    split_option,
)


def calibrate(
    file: FeatureInput = "-",
    temperature: Temperatures = [],  # noqa: B006
    fit_split: Annotated[str, split_option("Split to fit the temperature on.")] = "train",
    eval_split: Annotated[str, split_option("Split to score.")] = "test",
    val: Annotated[
        float | None,
        option(
            "FRACTION", "If both splits are the same, hold out this fraction of its rows to score."
        ),
    ] = None,
    bins: Annotated[int, option("N", "Bins of the calibration error.", min=1)] = 15,
    seed: Seed = 42,
    output: ResultOutput = None,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
    force: Force = False,
) -> None:
    """Fit the temperature of the softmax over the classes, and score the probabilities.

    The last row shows the fitted temperature with its 95 % interval. The others show the
    temperatures of -t (default: the file's). `information` is the entropy of the labels - NLL, in
    nats. `ece` is the expected calibration error. `ece_null` and `ece_null95` are its mean and 95 %
    quantile for a calibrated model with the same confidences.

    Example: clipkit calibrate class-logits.h5 -t 1,model
    """
    from clipkit.analysis import calibration
    from clipkit.base.tables import View
    from clipkit.features import open_file

    check_result_output(output, force, file)
    with open_file(file, kinds=["logits"]) as logits:
        temperatures = parse_temperatures(temperature, logits.logit_scale)
        result = calibration.calibrate(logits, temperatures, fit_split, eval_split, val, bins, seed)
    report_result(result, output, View(format, columns, no_header), force)
