"""`clipkit textembed`: text embeddings of prompts or class names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.base.errors import UsageError
from clipkit.base.options import flag, option
from clipkit.commands._options import (
    DEFAULT_MODEL,
    OUTPUT,
    AsEmbedding,
    Ask,
    Device,
    Force,
    ItemTables,
    Model,
    Norm,
    Precision,
    Untrained,
)

if TYPE_CHECKING:
    from clipkit.features.model import FeatureFile
    from clipkit.models import RunOptions


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
    as_embedding: AsEmbedding = False,
    classes: Annotated[
        str | None,
        option(
            "DATASET|FILE",
            "Make one prompt per class of a data set, a feature file (and use its model), a .json "
            "or .csv file, or a text file with one name per line (or name, tab, wording).",
            completes="datasets",
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
            is_table=True,
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
    from clipkit.features import endings

    inputs = _choose_inputs(prompts, classes, captions, items)
    templates = template or []
    if layer is None and norm:
        raise UsageError("expected --layer with --norm, got none")
    _check_classes(classes, templates, readable, root)
    _check_captions(captions, items, split, column)
    models.check_name(model)
    named = inputs if prompts else inputs[:1]  # tables of captions or of items make one file
    outputs = embedding.name_outputs(named, output)
    for name in outputs:
        endings.check_feature_output(name, force=force, inputs=[*inputs, *templates])
    options = models.RunOptions(
        device=device,
        precision=precision,
        untrained=untrained,
        clean=clean,
        layers=None if layer is None else [layer],
        norm=norm,
        ask=ask,
        as_embedding=as_embedding,
    )
    run = _Run(model, options, normalize, truncate)
    if captions:
        results = [run.embed_captions(captions, split)]
    elif items:
        results = [run.embed_items(items)]
    elif classes is None:
        results = run.embed_prompts(inputs, column)
    else:
        run = replace(run, follows_classes=_is_default(ctx, "model"))
        results = [run.embed_classes(classes, root, column, templates, readable)]
    for name, result in zip(outputs, results, strict=True):
        features.write(name, result, force=force)


def _choose_inputs(
    prompts: list[str] | None,
    classes: str | None,
    captions: list[str] | None,
    items: list[str] | None,
) -> list[str]:
    """Return the names of what is embedded: of one kind, by default standard input."""
    from clipkit.base import files

    kinds = [prompts, classes and [classes], captions, items]
    given = [names for names in kinds if names]
    if len(given) > 1:
        raise UsageError("expected one of PROMPTS, --classes, --captions and --items, got more")
    return given[0] if given else [files.STREAM]


@dataclass(frozen=True)
class _Run:
    """The model that embeds texts, and what becomes of them.

    It is loaded after the texts are read, so that errors in them appear at once.
    """

    model: str
    options: RunOptions
    normalize: bool
    truncate: bool
    follows_classes: bool = False  # whether a feature file with the classes names the model

    def _load(self) -> Any:
        from clipkit import models

        return models.load(self.model, tower="text", options=self.options)

    @property
    def _settings(self) -> dict[str, bool]:
        return {"normalize": self.normalize, "truncate": self.truncate}

    def embed_captions(self, captions: list[str], split: str | None) -> FeatureFile:
        """Embed the captions of images."""
        from clipkit import embedding

        pairs = embedding.read_captions(captions, split)
        return embedding.embed_captions(pairs, self._load(), **self._settings)

    def embed_items(self, items: list[str]) -> FeatureFile:
        """Embed the texts of items."""
        from clipkit import embedding

        table = embedding.read_items(items)
        return embedding.embed_items(table, self._load(), **self._settings)

    def embed_prompts(self, sources: list[str], column: str | None) -> list[FeatureFile]:
        """Embed the prompts of each file."""
        from clipkit import embedding

        texts = [embedding.read_prompts(source, column) for source in sources]
        encoder = self._load()
        return [embedding.embed_texts(file, encoder, **self._settings) for file in texts]

    def embed_classes(
        self,
        classes: str,
        root: str | None,
        column: str | None,
        template: list[str],
        readable: bool,
    ) -> FeatureFile:
        """Embed a prompt, or an ensemble of prompts, for each class."""
        from clipkit import embedding

        class_names = embedding.read_class_names(classes, root, column)
        _check_column(column, str(class_names.source["classes"]), classes, template)
        templates = embedding.read_templates(template, class_names.dataset) or None
        model, options = self.model, self.options
        if self.follows_classes:
            model, seed = embedding.choose_model(
                class_names.model, classes, model, options.untrained
            )
            options = replace(options, untrained=seed)
        class_names, options = embedding.follow_question(class_names, model, options)
        encoder = replace(self, model=model, options=options)._load()
        return embedding.embed_classes(
            class_names, encoder, templates=templates, readable=readable, **self._settings
        )


def _check_classes(
    classes: str | None, templates: list[str], readable: bool, root: str | None
) -> None:
    if classes is None and (templates or readable or root is not None):
        raise UsageError("expected --classes with --template, --readable or --root, got none")


def _check_captions(
    captions: list[str] | None, items: list[str] | None, split: str | None, column: str | None
) -> None:
    if (captions or items) and column is not None:
        raise UsageError("expected no --column with --captions or --items", "name it caption")
    if not captions and split is not None:
        raise UsageError("expected --captions with --split, got none")


def _check_column(column: str | None, kind: str, classes: str, template: list[str]) -> None:
    """Refuse the name of a column, or data set, of which there is no table and no .json file."""
    is_keyed = any(value.lower().endswith(".json") for value in template)
    if column is not None and kind != "file" and not is_keyed:
        raise UsageError(f"expected a table or .json file with --column, got {classes}")


def _is_default(ctx: typer.Context, name: str) -> bool:
    """Whether neither the command line nor the environment sets an option."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"
