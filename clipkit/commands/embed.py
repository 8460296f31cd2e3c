"""`clipkit embed`: image embeddings of a data set."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.files import STREAM
from clipkit.base.options import (
    DATA_PANEL,
    GENERATIVE_PANEL,
    RUNNING_PANEL,
    ClusterColumn,
    LabelColumn,
    Near,
    PathColumn,
    SplitColumn,
    choice,
    flag,
    option,
)
from clipkit.commands import _completion as completion
from clipkit.commands._options import (
    OUTPUT,
    SKIPPED,
    Device,
    Force,
    Model,
    parse_fractions,
    run_values,
)
from clipkit.datasets.registry import REGISTRY
from clipkit.models.options import DEFAULT

if TYPE_CHECKING:
    from clipkit.embedding.checkpoint import Part
    from clipkit.models.options import RunOptions
    from clipkit.models.trial import Finding

MAX_WORKERS = 256  # each holds a batch of images in memory


def embed(
    dataset: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET",
            help="Images and folders; a manifest (.csv, .tsv, .parquet, .jsonl); tars or Parquet "
            "files with images, also at a URL; - for a list of paths on standard input; or a data "
            f"set: {', '.join(REGISTRY)}.",
            autocompletion=completion.datasets,
        ),
    ],
    output: Annotated[
        str,
        option(
            "FILE",
            "Output file, or - for standard output; {layer} is the number of the layer.",
            *OUTPUT,
        ),
    ] = "-",
    model: Model = DEFAULT,
    choices: Annotated[
        str | None,
        option(
            "DATASET|FILE",
            "With --ask: list these class names behind the question, with letters as answers.",
            is_file=True,
            completes="datasets",
            panel=GENERATIVE_PANEL,
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        option("NAME", "Embed only this split; repeatable.", completes="splits"),
    ] = None,
    root: Annotated[
        str | None,
        option("FOLDER", "Folder that holds the data set, or to download it to.", panel=DATA_PANEL),
    ] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    cluster: ClusterColumn = None,
    near: Near = None,
    no_near: Annotated[
        bool,
        flag(
            "--no-near",
            "Do not write equal images as clusters, which count once.",
            panel=DATA_PANEL,
        ),
    ] = False,
    limit: Annotated[
        int | None,
        option(
            "N",
            "Select N images per split, deterministically and balanced by class.",
            "--limit",
            member="dataset.draw.limit",
            min=1,
        ),
    ] = None,
    classes: Annotated[
        int | None,
        option(
            "N",
            "Select N of the data set's classes, deterministically.",
            "--max-classes",
            member="dataset.draw.classes",
            min=2,
            panel=DATA_PANEL,
        ),
    ] = None,
    split_off: Annotated[
        list[str],
        option(
            "NAME=FRACTION",
            "Split off this fraction of the images, stratified by label; repeatable.",
            member="dataset.split_off.fractions",
            has_commas=True,
        ),
    ] = [],  # noqa: B006
    device: Device = "auto",
    batch_size: Annotated[
        int,
        option(
            "N",
            "Number of images to encode at once.",
            "--batch-size",
            "-b",
            member=None,
            min=1,
        ),
    ] = 64,
    num_workers: Annotated[
        int | None,
        option(
            "N",
            "Number of threads that decode and resize images.",
            "--num-workers",
            min=1,
            max=MAX_WORKERS,
            panel=RUNNING_PANEL,
        ),
    ] = None,
    strict: Annotated[
        bool, flag("--strict", "Stop at the first image that cannot be used.", panel=RUNNING_PANEL)
    ] = False,
    restart: Annotated[
        bool,
        flag(
            "--restart", "Start over instead of continuing an interrupted run.", panel=RUNNING_PANEL
        ),
    ] = False,
    force: Force = False,
    part: Annotated[
        str | None,
        option(
            "I/N",
            "Encode part I of a run that N processes share; the last publishes the file.",
            panel=RUNNING_PANEL,
        ),
    ] = None,
    engine: Annotated[
        str,
        choice(
            ("local", "ray"),
            "Encode in this process, or on the machines of a Ray cluster.",
            panel=RUNNING_PANEL,
        ),
    ] = "local",
    replicas: Annotated[
        int | None,
        option(
            "N",
            "With --engine ray: copies of the model (default: one per GPU, or per machine).",
            "--replicas",
            min=1,
            panel=RUNNING_PANEL,
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        option(
            "N",
            "Images that an error or an interrupt may lose: whole batches, at most 1,024 "
            "(default). The file is the same.",
            "--shard-size",
            member=None,
            min=1,
            panel=RUNNING_PANEL,
        ),
    ] = None,
    check: Annotated[
        bool,
        flag(
            "--check",
            "Try the model on eight images, print what is found, and write nothing.",
            member=None,
            panel=RUNNING_PANEL,
        ),
    ] = False,
    **settings: Any,
) -> int:
    """Embed the images of a data set, or write the hidden states of layers.

    If a run is interrupted, the same command continues it. Features are the model's projected image
    embeddings, not normalised by default; with --ask what a generative model holds when it is asked
    a question. Images that cannot be used are skipped and listed, and the exit code is then 3.

    Example: clipkit embed cifar100 -o img.h5
    """
    from clipkit import datasets, models
    from clipkit.embedding import checkpoint, pipeline, textembed

    share = None if part is None else checkpoint.Part.parse(part)
    listed: tuple[str, ...] = ()
    if settings["ask"] is not None and choices is not None:
        names = textembed.read_class_names(choices)
        settings["ask"], listed = textembed.list_choices(settings["ask"], names)
    options = models.RunOptions(
        device=device,
        choices=listed,
        batch_size=batch_size,
        num_workers=num_workers,
        **run_values(settings),
    )
    if models.is_python(model) and output == STREAM:
        console.reserve_stdout()
    options.check()
    if choices is not None and options.ask is None:
        raise UsageError("expected --ask with --choices, got none")
    if engine == "local" and replicas is not None:
        raise UsageError("expected --engine ray with --replicas, got --engine local")
    if engine == "ray" and part is not None:
        raise UsageError(
            "expected --part or --engine ray, got both",
            "Ray shares the shards among its replicas: leave --part out",
        )
    if engine == "local":  # the machines of a cluster may have folders that this one lacks
        models.check_name(model)
    if not check:
        _check_outputs(output, options, force, dataset, share)
    with console.stage("reading the data set"):
        data = datasets.load(
            dataset,
            root=root,
            path_column=path_column,
            label_column=label_column,
            split_column=split_column,
            cluster=cluster,
            splits=split,
            limit=limit,
            classes=classes,
        )
        if split_off:
            data = data.split_off(parse_fractions(split_off))
        data = data.change(settings)
    if check:
        from clipkit.embedding import trial

        _print_findings(model, trial.try_encoder(data, model=model, options=options))
        return 0
    skipped = pipeline.embed(
        data,
        output,
        model=model,
        options=options,
        engine=engine,
        replicas=replicas,
        normalize=settings["normalize"],
        strict=strict,
        restart=restart,
        force=force,
        part=share,
        shard_size=shard_size,
        near=near,
        no_near=no_near,
    )
    if not skipped:
        return 0
    for image in skipped:
        console.warn(f"skipped {image['split']}/{image['id']}: {image['reason']}")
    text = f"{console.count(len(skipped), 'image')} skipped"
    if share is None:
        count = sum(map(len, data.splits.values()))
        text += f", {count - len(skipped)} embedded; the file lists them"
    console.warn(text)
    return SKIPPED


def _print_findings(model: str, findings: list[Finding]) -> None:
    """Print what a trial of a model found; raise an error if something is wrong."""
    from clipkit.base import tables

    rows = [finding._asdict() for finding in findings]
    with contextlib.redirect_stdout(console.data()):
        tables.emit(rows, tables.View())
    wrong = [finding.check for finding in findings if finding.result == "wrong"]
    if wrong:
        raise ClipkitError(f"{model}: expected no check to fail, got {', '.join(wrong)}")


def _check_outputs(
    output: str, options: RunOptions, force: bool, inputs: list[str], part: Part | None
) -> None:
    """Refuse the outputs that are known before the model tells its number of layers."""
    from clipkit.embedding import pipeline

    layers = options.layers or []
    numbers = [0, 1] if isinstance(layers, str) else layers  # "all" has at least these
    names = pipeline.name_layer_outputs(output, numbers)
    # the model has to tell which layer a negative number is
    known = [name for layer, name in names.items() if name == output or (layer or 0) >= 0]
    pipeline.check_outputs(output, known, force=force, inputs=inputs, part=part)
