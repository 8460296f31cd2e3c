"""`clipkit textembed`: text embeddings of prompts or class names."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from clipkit.base.errors import UsageError
from clipkit.base.options import flag, option, split_option
from clipkit.commands._options import (
    DEFAULT_MODEL,
    OUTPUT,
    Ask,
    Device,
    Force,
    ItemTables,
    Model,
    Norm,
    Precision,
    Untrained,
)


def textembed(
    ctx: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPTS",
            help="Files with one prompt per line, .json or .csv files, or bundled sets such as "
            "generic32 (default: standard input).",
        ),
    ] = None,
    output: Annotated[
        str,
        option(
            "FILE",
            "Output file, or - for standard output; {name} is the name of the prompts.",
            *OUTPUT,
        ),
    ] = "-",
    model: Model = DEFAULT_MODEL,
    untrained: Untrained = None,
    layer: Annotated[
        int | None,
        option(
            "L",
            "Write a hidden state of the token that the model pools: 0 is the input of the first "
            "layer, -1 the output of the last.",
        ),
    ] = None,
    norm: Norm = False,
    ask: Ask = None,
    classes: Annotated[
        str | None,
        option(
            "DATASET|FILE",
            "Make one prompt per class of a data set, a feature file (and use its model), a .json "
            "or .csv file, or a text file with one name per line (or name, tab, wording).",
            completes="datasets",
            is_file=True,
        ),
    ] = None,
    captions: Annotated[
        list[str] | None,
        option(
            "FILE",
            "Embed the captions of images: a table (.csv, .tsv, .jsonl) with the columns image and "
            "caption, COCO's captions (.json), the tars or Parquet files of the images "
            "(repeatable), or shapes.",
        ),
    ] = None,
    items: ItemTables = None,
    split: Annotated[
        str | None,
        split_option("With --captions: split of the data set (default: test, else the first)."),
    ] = None,
    template: Annotated[
        list[str] | None,
        option(
            "TEXT|FILE",
            "With --classes: a template such as 'a photo of a {}', or a file of templates; "
            "repeatable, for an ensemble.",
        ),
    ] = None,
    column: Annotated[
        str | None,
        option(
            "NAME",
            "Column of a .csv or .tsv file (default: prompt, text, class, name or the only one); "
            "data set of .json files of CLIP_benchmark.",
        ),
    ] = None,
    root: Annotated[
        str | None, option("FOLDER", "With --classes: folder that holds the data set.")
    ] = None,
    readable: Annotated[
        bool,
        flag("--readable/--as-is", "With --classes: turn underscores in names into spaces."),
    ] = False,
    truncate: Annotated[
        bool, flag("--truncate", "Truncate prompts that are too long for the model.")
    ] = False,
    clean: Annotated[
        bool,
        flag(
            "--clean/--no-clean",
            "For CLIP: clean prompts by ftfy, if it is installed, as OpenAI's code does. For "
            "SigLIP 2: lowercase prompts and remove punctuation, as in training.",
        ),
    ] = True,
    normalize: Annotated[
        bool, flag("--normalize/--no-normalize", "Scale each embedding to length 1.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    force: Force = False,
) -> None:
    """Embed prompts of files, one prompt per class, captions of images, or texts of items.

    Several templates, or several descriptions of a class, make an ensemble: each class's
    embeddings are normalised, averaged and normalised again.

    Example: clipkit textembed --classes cifar100 --template "a photo of a {}" -o classes.h5
    """
    from clipkit import embedding, features, models
    from clipkit.base import files

    sources = prompts or []
    if len([given for given in (sources, classes, captions, items) if given]) > 1:
        raise UsageError("expected one of PROMPTS, --classes, --captions and --items, got more")
    if layer is None and norm:
        raise UsageError("expected --layer with --norm, got none")
    if classes is None and (template or readable or root is not None):
        raise UsageError("expected --classes with --template, --readable or --root, got none")
    _check_captions(captions, items, split, column)
    sources = sources or captions or items or [classes or files.STREAM]
    models.check_name(model)
    outputs = embedding.name_outputs(sources[:1] if captions or items else sources, output)
    for name in outputs:
        files.check_feature_output(name, force=force, inputs=[*sources, *(template or [])])
    options = models.RunOptions(
        device=device,
        precision=precision,
        untrained=untrained,
        clean=clean,
        layers=None if layer is None else [layer],
        norm=norm,
        ask=ask,
    )
    # the model is loaded after the prompts, so that errors in prompts appear at once
    if captions:
        pairs = embedding.read_captions(captions, split)
        encoder = models.load(model, tower="text", options=options)
        results = [embedding.embed_captions(pairs, encoder, normalize=normalize, truncate=truncate)]
    elif items:
        table = embedding.read_items(items)
        encoder = models.load(model, tower="text", options=options)
        results = [embedding.embed_items(table, encoder, normalize=normalize, truncate=truncate)]
    elif classes is None:
        texts = [embedding.read_prompts(source, column) for source in sources]
        encoder = models.load(model, tower="text", options=options)
        results = [
            embedding.embed_texts(file, encoder, normalize=normalize, truncate=truncate)
            for file in texts
        ]
    else:
        class_names = embedding.read_class_names(classes, root, column)
        _check_column(column, str(class_names.source["classes"]), classes, template)
        templates = embedding.read_templates(template or [], class_names.dataset) or None
        if _is_default(ctx, "model"):
            model, untrained = embedding.choose_model(class_names, classes, model, untrained)
            options = replace(options, untrained=untrained)
        class_names, options = embedding.follow_question(class_names, model, options)
        encoder = models.load(model, tower="text", options=options)
        result = embedding.embed_classes(
            class_names,
            encoder,
            templates=templates,
            readable=readable,
            normalize=normalize,
            truncate=truncate,
        )
        results = [result]
    for name, result in zip(outputs, results, strict=True):
        features.write(name, result, force=force)


def _check_captions(
    captions: list[str] | None, items: list[str] | None, split: str | None, column: str | None
) -> None:
    if (captions or items) and column is not None:
        raise UsageError("expected no --column with --captions or --items", "name it caption")
    if not captions and split is not None:
        raise UsageError("expected --captions with --split, got none")


def _check_column(column: str | None, kind: str, classes: str, template: list[str] | None) -> None:
    """Refuse the name of a column, or data set, of which there is no table and no .json file."""
    is_keyed = any(value.lower().endswith(".json") for value in template or [])
    if column is not None and kind != "file" and not is_keyed:
        raise UsageError(f"expected a table or .json file with --column, got {classes}")


def _is_default(ctx: typer.Context, name: str) -> bool:
    """Whether neither the command line nor the environment sets an option."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"
