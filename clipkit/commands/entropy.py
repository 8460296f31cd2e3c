"""`clipkit entropy`: how flat the softmax over the prompts is."""

from __future__ import annotations

from typing import Annotated

from clipkit.base.options import OUTPUT_PANEL, Temperatures, choice, flag, parse_temperatures
from clipkit.commands._options import FeatureInput, Report, Splits
from clipkit.statistics.links import LINKS

DESCRIPTIONS = ", or from ".join(link.description for link in LINKS.values())


def entropy(
    report: Report,
    file: FeatureInput = "-",
    temperature: Temperatures = [],  # noqa: B006
    link: Annotated[
        str | None,
        choice(
            LINKS,
            f"Take probabilities from {DESCRIPTIONS} "
            "(default: softmax; with -t model, the model's own).",
        ),
    ] = None,
    split: Splits = None,
    per_image: Annotated[
        bool,
        flag(
            "--per-image", "Print a row per image, with its likeliest prompt.", panel=OUTPUT_PANEL
        ),
    ] = False,
) -> None:
    """Report mean Shannon entropy (nats) and mean top-1 confidence of softmax(cosine / tau).

    `max_entropy` is ln K, the entropy of K equally likely prompts. Without -t, the command
    uses the file's temperature. With --link sigmoid, for SigLIP, the entropy is the mean of the
    prompts' binary entropies, at most ln 2. A saved result holds the means, also with --per-image.

    Example: clipkit entropy logits.h5 -t 1,0.5,0.07,0.03
    """
    from clipkit import features
    from clipkit.analysis import flatness

    report.check_output(file)
    with features.open_file(file, kinds=["logits"]) as logits:
        temperatures = parse_temperatures(temperature, logits.logit_scale)
        taus = temperatures or [logits.default_temperature]
        link = link or flatness.choose_link(logits, temperature)
        result = flatness.entropy_summary(logits, taus, link, split)
        rows = flatness.entropy_per_image(logits, taus, link, split) if per_image else None
    report.show(result, rows)
