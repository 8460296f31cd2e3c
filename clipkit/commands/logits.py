"""`clipkit logits`: similarities of images with prompts."""

from __future__ import annotations

from typing import Annotated

from clipkit.analysis.options import SEEDS
from clipkit.base.errors import UsageError
from clipkit.base.options import flag, option, parse_seeds, parse_temperatures, split_words
from clipkit.commands._options import Force, Images, Output, Report, Texts

MAX_DIRECTIONS = 2**16  # 256 MiB of float64 numbers for embeddings of 512 columns


def logits(
    images: Images,
    texts: Texts = "-",
    output: Output = "-",
    temperature: Annotated[
        str, option("TAU", "Divide the similarities by TAU.", "--temperature", "-t")
    ] = "1",
    random: Annotated[
        int | None,
        option(
            "K",
            "Use K random directions in place of TEXTS, as a control.",
            min=1,
            max=MAX_DIRECTIONS,
        ),
    ] = None,
    seed: Annotated[list[str], SEEDS] = ["42"],  # noqa: B006
    whiten: Annotated[
        bool,
        flag(
            "--whiten", "Replace the prompts by an orthonormal basis of their span, as a control."
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Compute the cosine similarity of every image with every prompt, divided by a temperature.

    Both sides are normalised and must come from the same model. Random directions are uniform on
    the sphere. Accuracy that a probe also reaches on K of them does not come from the prompts.
    Logits of --whiten hold the same information, without the prompts' spectrum. For a generative
    model, nothing is normalised: the products are its next-token logits for the answers.

    Example: clipkit logits img.h5 txt.h5 -o logits.h5
    """
    from clipkit import features
    from clipkit.base import console
    from clipkit.features import compatibility, similarity

    seeds = parse_seeds(seed)
    if random is None:
        if len(seeds) > 1:
            raise UsageError(f"expected --random for several seeds, got {len(seeds)}")
    elif texts != "-":
        raise UsageError(
            f"expected TEXTS or --random, got both ({texts} and {random})", "leave out one of them"
        )
    elif whiten:
        raise UsageError("expected --random or --whiten, got both")
    outputs = Report(output, force=force)
    outputs.check_output(images, texts if random is None else None, seeds=seeds)
    with features.open_file(images, kinds=["images"], swapped=(texts, ["texts"])) as image_file:
        text_file = image_file
        if random is None:
            text_file = features.read(texts, kinds=["texts"], swapped=(images, ["images"]))
        scale = compatibility.common_logit_scale(image_file, text_file)
        temperatures = parse_temperatures(split_words([temperature]), scale)
        if len(temperatures) != 1:
            raise UsageError(
                f"expected one temperature, got {len(temperatures)}",
                "entropy and probe accept several temperatures",
            )
        tau = temperatures[0]
        for number in seeds:
            if random is None:
                result = similarity.compute_logits(image_file, text_file, tau, whiten)
            else:
                result = similarity.compute_random_logits(image_file, random, number, tau)
            with console.progress("computing logits"):
                features.write(outputs.for_seed(number).output or "-", result, force=force)
