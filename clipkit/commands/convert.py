"""`clipkit convert`: import and export features, and export predictions as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from clipkit.base import console, files, suggestions
from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.base.options import Near, flag, option
from clipkit.commands._options import OUTPUT, Force
from clipkit.features.endings import (
    FEATURE_ENDINGS,
    FOR_FEATURES,
    FOR_RESULTS,
    FOR_TABLES,
    PICKLE_HINT,
    PICKLES,
    READABLE,
    WITH_COLUMNS,
    WITH_THUMBNAILS,
    WRITABLE,
)

EVALUATIONS = (".json", ".md")
NUMBERS_OF_CSV = (
    "import numpy",
    'numpy.save({array}, numpy.loadtxt({source}, delimiter=",", skiprows=1))',
)
OF_TABLE = f"a {WITH_COLUMNS}"


def _refuse_output_option(_: typer.Context, is_given: bool) -> None:
    """Refuse the option that names the output of all other commands."""
    if is_given:
        lines = [suggestions.again({option: []}) for option in OUTPUT]
        line = next(filter(None, lines), "clipkit convert INPUT OUTPUT")
        hint = f"the output is the second argument: {line}"
        raise UsageError(f"No such option: {', '.join(OUTPUT)}", hint)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help=f"Feature file (.h5, or - for standard input), {', '.join(READABLE)}, or a folder "
            "of clip-retrieval or dinotool.",
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT",
            help=f"Feature file, {', '.join(FOR_FEATURES)}; of results, {', '.join(FOR_RESULTS)}, "
            ".json for CLIP_benchmark or .md for a model card (default: a feature file on standard "
            "output).",
        ),
    ] = "-",
    model: Annotated[
        str | None,
        option(
            "NAME",
            "Import: name of the model that made the features; clipkit logits needs it.",
            "--model",
            "-m",
            member="model.name",
            completes="models",
        ),
    ] = None,
    split: Annotated[
        str | None,
        option(
            "NAME",
            "Convert only this split. Imported rows without a split get this name, or 'all'.",
            completes="splits",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        option(
            "FILE",
            "Import: .npy file with the labels of the rows, as numbers or names.",
            is_file=True,
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        option(
            "FILE", "Import: file with the prompts that the rows embed, one per line.", is_file=True
        ),
    ] = None,
    classes: Annotated[
        str | None,
        option(
            "DATASET|FILE",
            "Import: file with the class of each prompt, one per line, or a data set or feature "
            "file with the classes; without --prompts, they are the prompts.",
            completes="datasets",
            kinds=("images", "logits", "result", "texts"),
        ),
    ] = None,
    captions: Annotated[
        str | None,
        option(
            "FILE",
            "Import: table of the texts in order, each with the id of its image, as for textembed "
            "--captions.",
            is_file=True,
        ),
    ] = None,
    feature_column: Annotated[
        str | None,
        option("NAME", f"Import: column of {OF_TABLE} with the features (default: the only one)."),
    ] = None,
    id_column: Annotated[
        str | None,
        option(
            "NAME",
            f"Import: column of {OF_TABLE} with the ids of the images "
            "(default: id, filename, ...).",
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        option("NAME", f"Import: column of {OF_TABLE} with the labels (default: label)."),
    ] = None,
    cluster_column: Annotated[
        str | None,
        option(
            "NAME",
            f"Import: column of {OF_TABLE} with what rows share that depend on each other, such as "
            "a patient (default: cluster).",
        ),
    ] = None,
    near: Near = None,
    table: Annotated[
        bool,
        flag("--runs", "Export the runs of a result instead of its predictions."),
    ] = False,
    thumbnails: Annotated[
        list[str],
        option(
            "DATASET",
            f"Export to {WITH_THUMBNAILS}: add small copies of the images of this data set; "
            "repeatable.",
            completes="datasets",
        ),
    ] = [],  # noqa: B006
    root: Annotated[
        str | None, option("FOLDER", "Folder that holds the data set of --thumbnails.")
    ] = None,
    force: Force = False,
    output_option: Annotated[
        bool, flag("--output -o", "", is_eager=True, is_hidden=True, check=_refuse_output_option)
    ] = False,
) -> None:
    """Import features from other tools, or export features and predictions.

    The endings of the file names choose the direction and the format. An .npz of images holds
    train_features, train_labels, train_ids, train_cluster (and so on for each split) and
    class_names. An .npz of
    texts holds features, texts and class_index, or for captions image_ids. A .parquet of images has
    the columns split, id, label, class_name and feature. A .parquet of texts has text, class_index
    or image_id, and feature. An .npy is one matrix. Labels, ids and class_index may be missing. A
    .safetensors file has the same names as an .npz. Of a folder of clip-retrieval, the images are
    imported, or with FOLDER/text_emb the captions, which belong to the images. Predictions that
    zeroshot, probe or cluster saved with -o become a .csv or .parquet with one row per image and
    run. With --runs, the runs themselves are exported, with the columns of their report. A .json is
    for the table of CLIP_benchmark; a .md is a model card with the accuracies. With --thumbnails, a
    .parquet of images also has a column image, in the form that Embedding Atlas and Hugging Face
    datasets read.

    Example: clipkit convert theirs.npz img.h5 --model ViT-B/32
    """
    from clipkit import features, models
    from clipkit.features import formats
    from clipkit.prompts.texts import read_with_digest

    is_export = _ending(source, READABLE) in FEATURE_ENDINGS
    _check_named(source, output, is_export=is_export)
    files.check_output(output, force=force, inputs=[source, labels, prompts, classes, captions])
    if root is not None and not thumbnails:
        raise UsageError("--root is for --thumbnails, which is not given")
    columns = {"feature": feature_column, "id": id_column, "label": label_column}
    columns["cluster"] = cluster_column
    if is_export == (_ending(output, (*WRITABLE, *EVALUATIONS)) in FEATURE_ENDINGS):
        raise UsageError(
            f"expected one feature file (.h5 or -), got {source} and {output}",
            "convert in two steps, through a feature file",
        )
    if is_export:
        of_imports = {"model": model, "labels": labels, "prompts": prompts, "classes": classes}
        of_imports["captions"] = captions
        of_imports |= {f"{name}-column": column for name, column in columns.items()}
        _refuse({**of_imports, "near": near}, f"is for imports, but {source} is a feature file")
        _export(source, output, split, table, thumbnails, root, force)
        return
    of_exports = {"runs": table, "thumbnails": thumbnails}
    _refuse(of_exports, f"is for exports, but {source} is no feature file")
    if model is not None:
        model = models.canonical_name(model)
    digests: dict[str, str] = {}
    texts = names = image_ids = None
    if captions is not None:
        _refuse({"prompts": prompts, "classes": classes}, "is not for texts of --captions")
        texts, image_ids = _read_captions(captions, digests)
    if prompts is not None:
        texts, digests["prompts"] = read_with_digest(prompts)
    if classes is not None:
        names = _read_classes(classes, digests)
    with console.stage("converting"):
        file = formats.import_file(
            source,
            split=split,
            model=model,
            labels=labels,
            texts=texts,
            classes=names,
            image_ids=image_ids,
            digests=digests,
            **columns,
        )
    if near is not None:
        from clipkit.embedding.copies import mark_near

        file = mark_near(file, near)
    with console.progress("converting", "rows") as report:
        features.write(output, formats.report_rows(file, report), force=force)


def _check_named(source: str, output: str, *, is_export: bool) -> None:
    """Refuse an output without an ending, which would say what to write."""
    ending = ".npz" if is_export else ".h5"
    convert = ("clipkit", "convert", suggestions.path(source))
    if is_export and output == "-":
        message = f"expected an output for {source}, got none"
        raise UsageError(
            message, suggestions.command(*convert, suggestions.path(f"{Path(source).stem}.npz"))
        )
    if not Path(output).suffix and not files.is_stream(output):
        stem = output.rstrip("/")
        place = f"{stem}/{Path(source).stem}" if Path(output).is_dir() else stem
        hint = suggestions.command(*convert, suggestions.path(place + ending))
        raise UsageError(f"expected an output with an ending, got {output}", hint)


def _read_classes(classes: str, digests: dict[str, str]) -> list[str]:
    """Return the class of each prompt; the digest of a text file is added to `digests`."""
    if Path(classes).suffix.lower() == ".txt":
        from clipkit.prompts import texts

        data = files.read_bytes(classes)
        digests["classes"] = files.digest(data)
        return texts.parse(data, classes).texts  # most classes have several prompts
    from clipkit.embedding.textembed import read_class_names

    read = read_class_names(classes)
    digests |= read.source.get("inputs", {})
    return read.names


def _read_captions(captions: str, digests: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return captions and the ids of their images; the digest of the table is added to `digests`.

    Captions beside images, in tars or Parquet files, are in no table that could be named.
    """
    from clipkit.datasets.captions import read_captions
    from clipkit.features.endings import CAPTION_TABLES

    if Path(captions).suffix.lower() not in CAPTION_TABLES and not files.is_stream(captions):
        expected = f"a table ({', '.join(CAPTION_TABLES)})"
        raise UsageError(f"--captions: expected {expected}, got {captions}")
    read = read_captions(captions)
    digests |= read.source["inputs"]
    return read.texts, read.ids


def _export(
    source: str,
    output: str,
    split: str | None,
    table: bool,
    thumbnails: list[str],
    root: str | None,
    force: bool,
) -> None:
    from clipkit import features
    from clipkit.features import formats

    if Path(output).suffix.lower() in EVALUATIONS:
        from clipkit.report import leaderboards

        of_tables = {"runs": table, "thumbnails": thumbnails}
        _refuse(of_tables, f"is for {FOR_TABLES}, but the output is {output}")
        leaderboards.write(output, features.read(source), split=split, force=force)
        return
    from clipkit.analysis import results

    with features.open_file(source) as file:
        for caveat in results.caveats(file) if file.is_result else []:
            console.warn(f"{source}: {results.describe_caveat(caveat)}")
        small = None
        if table:
            file, split = formats.only_runs(file, split), None
        if thumbnails:
            from clipkit.datasets import matching

            small = matching.read_thumbnails(file, thumbnails, root=root, split=split)
        formats.export_file(output, file, split=split, thumbnails=small, force=force)
    if thumbnails:
        console.note(f"{output} has {Path(output).stat().st_size / 1e6:,.1f} MB")


def _refuse(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that are given."""
    for name, value in options.items():
        if value not in (None, False, []):
            raise UsageError(f"--{name} {reason}")


def _ending(name: str, known: tuple[str, ...]) -> str:
    """Return the ending of a file that can be converted; "" for a folder."""
    if Path(name).is_dir():
        return ""
    ending = ".h5" if name == "-" else Path(name).suffix.lower()
    if ending in PICKLES and known == READABLE:
        raise UsageError(f"expected no pickle, got {name}", PICKLE_HINT)
    if not ending and known == READABLE and not Path(name).exists():
        raise ClipkitError(f"cannot read {name}: there is no such file or folder")
    if ending == ".csv" and known == READABLE:
        array = Path(name).with_suffix(".npy")
        save = suggestions.python(NUMBERS_OF_CSV, source=name, array=str(array))
        imported = suggestions.command("clipkit", "convert", array, array.with_suffix(".h5"))
        hint = f"if it holds numbers below a header: {suggestions.then(save, imported)}"
        raise UsageError(f"unknown ending {ending!r}", hint)
    if ending not in (*FEATURE_ENDINGS, *known):
        raise unknown("ending", ending or name, [*FEATURE_ENDINGS, *known])
    return ending
