"""`clipkit entropy`: how flat the softmax over the prompts is."""

from __future__ import annotations

from clipkit.commands._options import (
    FeatureInput,
    Force,
    Format,
    ResultOutput,
    Temperatures,
    check_report_options,
    parse_temperatures,
    report_result,
)


def entropy(
    file: FeatureInput = "-",
    temperature: Temperatures = [],  # noqa: B006
    output: ResultOutput = None,
    format: Format = None,
    force: Force = False,
) -> None:
    """Report mean Shannon entropy (nats) and mean top-1 confidence of softmax(cosine / tau).

    `max_entropy` is ln K, the entropy of K equally likely prompts. Without -t, the command
    uses the file's temperature.

    Example: clipkit entropy logits.h5 -t 1,0.5,0.07,0.03
    """
    from clipkit import features, softmax

    check_report_options(output, format, force, file)
    with features.open_file(file, kinds=["logits"]) as logits:
        temperatures = parse_temperatures(temperature, logits.logit_scale)
        result = softmax.entropy_summary(logits, temperatures or [logits.temperature or 1.0])
    report_result(result, output, format, force)
