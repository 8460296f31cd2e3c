"""`clipkit textembed`: text embeddings of prompts or class names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit.analysis.options import ItemTables
from clipkit.base import console, suggestions
from clipkit.base.errors import UsageError
from clipkit.base.files import STREAM
from clipkit.base.options import LAYERS_PANEL, OUTPUT_PANEL, flag, option
from clipkit.commands import _completion as completion
from clipkit.commands._options import (
    OUTPUT,
    Device,
    Force,
    Model,
    run_values,
)
from clipkit.models.options import DEFAULT


def textembed(
    ctx: typer.Context,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPTS",
            help="Files with one prompt per line, .json or .csv files, or bundled sets such as "
            "generic32 (default: standard input).",
            autocompletion=completion.prompt_sets,
        ),
    ] = None,
    output: Annotated[
        str,
        option(
            "FILE",
            "Output file, or - for standard output; {name} is the name of the prompts.",
            *OUTPUT,
            panel=OUTPUT_PANEL,
        ),
    ] = "-",
    model: Model = DEFAULT,
    layer: Annotated[
        int | None,
        option(
            "L",
            "Write a hidden state of the token that the model pools: 0 is the input of the first "
            "layer, -1 the output of the last.",
            member="model.layer",
            panel=LAYERS_PANEL,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        option(
            "DATASET|FILE",
            "Make one prompt per class of a data set, a feature file (and use its model), a .json "
            "or .csv file, or a text file with one name per line (or name, tab, wording).",
            completes="class_sources",
            kinds=("images", "logits", "result", "texts"),
        ),
    ] = None,
    captions: Annotated[
        list[str] | None,
        option(
            "FILE",
            "Embed the captions of images: a table (.csv, .tsv, .jsonl) with the columns image and "
            "caption, COCO's captions (.json), the tars or Parquet files of the images "
            "(repeatable), or shapes.",
            is_file=True,
        ),
    ] = None,
    items: ItemTables = None,
    split: Annotated[
        str | None,
        option(
            "NAME",
            "With --captions: split of the data set (default: test, else the first).",
            completes="splits",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        option(
            "TEXT|FILE",
            "With --classes: a template such as 'a photo of a {}', or a file of templates; "
            "repeatable, for an ensemble. clipkit list templates names bundled ones.",
            completes="templates",
            member="templates",
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
    device: Device = "auto",
    force: Force = False,
    **settings: Any,
) -> None:
    """Embed prompts of files, one prompt per class, captions of images, or texts of items.

    Several templates, or several descriptions of a class, make an ensemble: each class's
    embeddings are normalised, averaged and normalised again.

    Example: clipkit textembed --classes cifar100 --template "a photo of a {}" -o txt.h5
    """
    from clipkit import features, models
    from clipkit.base import files
    from clipkit.datasets.captions import read_captions
    from clipkit.datasets.items import read_items
    from clipkit.embedding import textembed as embedding
    from clipkit.features import endings

    kinds = [prompts, classes and [classes], captions, items]
    given = [names for names in kinds if names]
    if len(given) > 1:
        hint = "embed each into a file of its own"
        if classes and prompts and not Path(prompts[0]).exists():
            hint = "write names of classes to a file, one a line: --classes FILE"
        message = "expected one of PROMPTS, --classes, --captions and --items, got more"
        raise UsageError(message, hint)
    inputs = [files.STREAM]
    if given:
        inputs = given[0]
    templates = template or []
    if layer is None and settings["norm"]:
        raise UsageError("expected --layer with --norm, got none")
    of_classes = {"--template": templates, "--readable": readable, "--root": root}
    typed = [option for option, value in of_classes.items() if value not in ([], False, None)]
    if classes is None and typed:
        names = suggestions.command(*(prompts or ["FILE"])[:1])
        hint = f"prompts are embedded as they are; of names of classes: --classes {names}"
        raise UsageError(f"expected --classes with {' and '.join(typed)}, got none", hint)
    if (captions or items) and column is not None:
        raise UsageError("expected no --column with --captions or --items", "name it caption")
    if not captions and split is not None:
        raise UsageError("expected --captions with --split, got none")
    models.check_name(model)
    named = inputs if prompts else inputs[:1]  # tables of captions or of items make one file
    outputs = embedding.name_outputs(named, output)
    for name in outputs:
        endings.check_feature_output(name, force=force, inputs=[*inputs, *templates])
    options = models.RunOptions(
        device=device,
        clean=clean,
        layers=None if layer is None else [layer],
        **run_values(settings),
    )
    if models.is_python(model) and STREAM in outputs:
        console.reserve_stdout()
    texts: list[embedding.Texts]
    if captions:
        texts = [read_captions(captions, split)]
    elif items:
        texts = [read_items(items)]
    elif classes is None:
        texts = [embedding.read_prompts(source, column) for source in inputs]
    else:
        class_names = embedding.read_class_names(classes, root, column)
        kind = class_names.source["classes"]
        is_keyed = any(value.lower().endswith(".json") for value in templates)
        if column is not None and kind != "file" and not is_keyed:
            raise UsageError(f"expected a table or .json file with --column, got {classes}")
        texts = [class_names]
    # the model is loaded after the texts are read, so that errors in them appear at once
    results = embedding.embed_all(
        texts,
        model,
        options,
        follows_file=_is_default(ctx, "model"),
        templates=templates,
        readable=readable,
        normalize=settings["normalize"],
        truncate=truncate,
    )
    for name, result in zip(outputs, results, strict=True):
        features.write(name, result, force=force)


def _is_default(ctx: typer.Context, name: str) -> bool:
    """Whether neither the command line nor the environment sets an option."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"
