"""`clipkit entropy`: how flat the softmax over the prompts is."""

from __future__ import annotations

from clipkit.commands import (
    FeatureInput,
    Force,
    Format,
    ResultOutput,
    Temperatures,
    check_format,
    entry,
    finish,
    temperatures,
)


def entropy(
    file: FeatureInput = "-",
    temperature: Temperatures = [],
    output: ResultOutput = None,
    format: Format = None,
    force: Force = False,
) -> None:
    """Mean Shannon entropy (nats) and mean top-1 confidence of softmax(cosine / tau) over the prompts.

    `max_entropy` is ln K, reached when all K prompts are equally likely. Without -t, the file's own temperature.

    Example: clipkit entropy logits.h5 -t 1,0.5,0.07,0.03
    """
    from clipkit import files, scores, store

    check_format(format)
    if output is not None:
        files.check_output(output, force=force)
    with store.opened(file, kinds=["logits"]) as logits:
        taus = temperatures(temperature, logits.logit_scale) or [logits.temperature or 1.0]
        written_at = logits.temperature or 1.0
        rows = []
        for name, split in logits.splits.items():
            cosines = (block * written_at for block in split.features.blocks())
            rows += [{"split": name, **row} for row in scores.flatness(cosines, taus)]
        result = store.FeatureFile(
            "result",
            history=[
                *logits.history,
                entry("entropy", temperature=taus, inputs={"logits": logits.digest}),
            ],
        )
    finish(rows, result, output, force, format)
