"""`clipkit textembed`: text embeddings of prompts or class names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipkit.commands import _completion as completion
from clipkit.commands._options import (
    DEFAULT_MODEL,
    Device,
    Force,
    Model,
    Output,
    Precision,
    Untrained,
    option,
)
from clipkit.errors import UsageError

if TYPE_CHECKING:
    from clipkit.models import Encoder


def textembed(
    prompts: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPTS]", help="File with one prompt per line (default: standard input)."
        ),
    ] = None,
    output: Output = "-",
    model: Model = DEFAULT_MODEL,
    untrained: Untrained = None,
    classes: Annotated[
        str | None,
        option(
            "DATASET|FILE",
            "Make one prompt per class of a data set, a feature file, or a text file with one "
            "name per line (or name, tab, wording).",
            autocompletion=completion.datasets,
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        option(
            "TEXT|FILE",
            "With --classes: a template such as 'a photo of a {}', or a file of templates; "
            "repeatable, for an ensemble.",
        ),
    ] = None,
    root: Annotated[
        str | None, option("FOLDER", "With --classes: folder that holds the data set.")
    ] = None,
    readable: Annotated[
        bool,
        typer.Option(
            "--readable/--as-is", help="With --classes: turn underscores in names into spaces."
        ),
    ] = False,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Truncate prompts that are too long for the model.")
    ] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Scale each embedding to length 1.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    force: Force = False,
) -> None:
    """Embed prompts: the lines of a file, or one prompt per class.

    Several templates make an ensemble: each class's embeddings are normalised, averaged and
    normalised again.

    Example: clipkit textembed --classes cifar100 --template "a photo of a {}" -o classes.h5
    """
    from clipkit import embedding, features, files

    inputs = [prompts, classes, *(template or [])]
    files.check_feature_output(output, force=force, inputs=inputs)
    if prompts is not None and classes is not None:
        raise UsageError("expected PROMPTS or --classes, got both")
    if classes is None and (template or readable):
        raise UsageError("expected --classes with --template or --readable, got none")
    if classes is None:
        texts = embedding.read_prompts(prompts or "-")
        encoder = _load(model, untrained, device, precision)
        result = embedding.embed_texts(texts, encoder, normalize=normalize, truncate=truncate)
    else:
        class_names = embedding.read_class_names(classes, root)
        templates = embedding.read_templates(template or [embedding.DEFAULT_TEMPLATE])
        encoder = _load(model, untrained, device, precision)
        result = embedding.embed_classes(
            class_names,
            encoder,
            templates=templates,
            readable=readable,
            normalize=normalize,
            truncate=truncate,
        )
    features.write(output, result, force=force)


def _load(model: str, untrained: int | None, device: str, precision: str) -> Encoder:
    """Load the text tower after the prompts, so that errors in prompts appear at once."""
    from clipkit import models

    return models.load(model, tower="text", device=device, precision=precision, untrained=untrained)
