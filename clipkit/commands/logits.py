"""`clipkit logits`: cosine similarities of images with prompts."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import Force, Output, Seed, parse_temperatures
from clipkit.errors import UsageError


def logits(
    images: Annotated[
        str,
        typer.Argument(metavar="IMAGES", help="Feature file of images, or - for standard input."),
    ],
    texts: Annotated[
        str,
        typer.Argument(metavar="[TEXTS]", help="Feature file of texts (default: standard input)."),
    ] = "-",
    output: Output = "-",
    temperature: Annotated[
        str, typer.Option("--temperature", "-t", metavar="TAU", help="Divide the cosines by TAU.")
    ] = "1",
    random: Annotated[
        int | None,
        typer.Option(
            "--random",
            metavar="K",
            min=1,
            help="Use K random directions in place of TEXTS, as a control.",
        ),
    ] = None,
    seed: Seed = 42,
    force: Force = False,
) -> None:
    """Compute the cosine similarity of every image with every prompt, divided by a temperature.

    Both sides are normalised and must come from the same model. Random directions are uniform on
    the sphere. Accuracy that a probe also reaches on K of them does not come from the prompts.

    Example: clipkit logits img.h5 txt.h5 -o logits.h5
    """
    from clipkit import features, files, similarity

    if random is not None and texts != "-":
        raise UsageError(f"expected TEXTS or --random, got both ({texts} and {random})")
    if images == texts == "-" and random is None:
        raise UsageError("expected only one of IMAGES and TEXTS on standard input, got both")
    files.check_feature_output(output, force=force, inputs=[images, texts])
    with features.open_file(images, kinds=["images"]) as image_file:
        if random is not None:
            scale = similarity.common_logit_scale(image_file, image_file)
            tau = _parse_temperature(temperature, scale)
            result = similarity.compute_random_logits(image_file, random, seed, tau)
        else:
            text_file = features.read(texts, kinds=["texts"])
            scale = similarity.common_logit_scale(image_file, text_file)
            tau = _parse_temperature(temperature, scale)
            result = similarity.compute_logits(image_file, text_file, tau)
        features.write(output, result, force=force)


def _parse_temperature(value: str, logit_scale: float | None) -> float:
    temperatures = parse_temperatures([value], logit_scale)
    if len(temperatures) != 1:
        raise UsageError(
            f"expected one temperature, got {len(temperatures)}",
            "entropy and probe accept several temperatures",
        )
    return temperatures[0]
