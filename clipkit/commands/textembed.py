"""`clipkit textembed`: prompts -> embeddings. Together with `embed` the only command that runs a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit import console
from clipkit.commands._options import (
    DEFAULT_MODEL,
    Device,
    Force,
    Model,
    Output,
    Precision,
    Untrained,
)
from clipkit.errors import ClipkitError, UsageError

if TYPE_CHECKING:
    from clipkit.prompts import Prompts

THESIS_TEMPLATE = "a photo of a {}"


def textembed(
    prompts: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPTS]",
            help="A file of prompts, one a line; - or nothing is standard input.",
        ),
    ] = None,
    output: Output = "-",
    model: Model = DEFAULT_MODEL,
    untrained: Untrained = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="DATASET|FILE",
            help="One prompt a class: of a data set, a feature file, or a text file (name, or name TAB what to say).",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            metavar="TEXT|FILE",
            help="With --classes: 'a photo of a {}', or a file of such lines; repeatable, for an ensemble.",
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option("--root", metavar="FOLDER", help="Where the data set of --classes lies."),
    ] = None,
    readable: Annotated[
        bool,
        typer.Option(
            "--readable/--as-is", help="With --classes: underscores in class names become spaces."
        ),
    ] = False,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut prompts that are too long for the model.")
    ] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Scale each embedding to length 1.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    force: Force = False,
) -> None:
    """Embed prompts: a file of any texts, or one prompt for each class.

    Several templates make an ensemble: each class's embeddings are normalised, averaged and normalised again.

    Example: clipkit textembed --classes cifar100 --template "a photo of a {}" -o classes.h5
    """  # fmt: skip
    from clipkit import features, files, models, similarity
    from clipkit import prompts as room

    files.check_output(output, force=force)
    if (prompts is not None) and (classes is not None):
        raise UsageError("either PROMPTS or --classes makes the prompts; got both")
    if classes is None and (template or readable):
        raise UsageError("--template and --readable need --classes")
    names, said, index = None, [], None
    made: dict[str, Any] = {}
    if classes is None:
        found = _read(prompts or "-")
        texts, lines = found.texts, found.lines
    else:
        names, spoken, made = _class_names(classes, root)
        said = _templates(template)
        texts, index, _ = room.from_classes(
            [room.readable(name) if readable else name for name in spoken], said
        )
        lines = []
        made |= {"templates": said, "readable": readable}
    encoder = models.load(
        model, tower="text", device=device, precision=precision, untrained=untrained
    )
    if not truncate:
        _check_lengths(encoder, texts, lines, prompts or "standard input")
    with console.progress("embedding prompts", "prompts") as progress:
        rows = _encode(encoder, texts, truncate, progress)
    if len(said) > 1 and names is not None and index is not None:
        rows = similarity.ensemble(rows, index, len(names))  # (C, D)
        texts, index = [f"{name} ({len(said)} templates)" for name in spoken], index[:: len(said)]
    elif normalize:
        rows = similarity.normalize(rows)
    result = features.FeatureFile(
        "texts",
        features=rows,
        texts=texts,
        class_index=_index(index, len(texts)),
        class_names=names,
    )
    result.history = [
        features.history_entry(
            "textembed", model=encoder.details, normalize=normalize, truncate=truncate, **made
        )
    ]
    features.write(output, result, force=force)


def _read(source: str) -> Prompts:
    from clipkit import files, prompts

    found = prompts.parse(files.read_bytes(source), "standard input" if source == "-" else source)
    for warning in found.warnings():
        console.warn(warning)
    return found


def _templates(given: list[str] | None) -> list[str]:
    """Templates as given; a value without a placeholder that names a file stands for the file's lines."""
    from clipkit import files, prompts

    found: list[str] = []
    for value in given or [THESIS_TEMPLATE]:
        is_file = "{" not in value and Path(value).is_file()
        found += (
            prompts.parse_templates(files.read_bytes(value), value).texts if is_file else [value]
        )
    return found


def _class_names(source: str, root: str | None) -> tuple[list[str], list[str], dict[str, Any]]:
    """Class names, how each is said in a prompt, and where they are from: a feature file, a text file or a data set."""
    from clipkit import datasets, features

    path = Path(source)
    if path.is_file():
        with path.open("rb") as file:
            is_hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"
        if not is_hdf5:
            pairs = [line.partition("\t") for line in _read(source).texts]
            names = [name.strip() for name, _, _ in pairs]
            if len(set(names)) < len(names):
                raise ClipkitError(f"{source} must name each class once; a name is repeated")
            return (
                names,
                [said.strip() or name.strip() for name, _, said in pairs],
                {"classes": "file"},
            )
        with features.open_file(source) as found:
            if not found.class_names:
                raise ClipkitError(f"{source} must hold class names; it does not")
            return (
                found.class_names,
                found.class_names,
                {"classes": "feature file", "inputs": {"classes": found.digest}},
            )
    names = datasets.load(source, root=root).class_names
    if not names:
        raise ClipkitError(f"{source} must have classes; its images are not labelled")
    return names, names, {"classes": source}


def _check_lengths(encoder: Any, texts: list[str], lines: list[int], name: str) -> None:
    lengths = encoder.token_lengths(texts)
    over = [i for i, length in enumerate(lengths) if length > encoder.context_length]
    if over:
        where = f"line {lines[over[0]]} of {name}" if lines else f"the prompt {texts[over[0]]!r}"
        more = f" ({len(over) - 1} more are too long)" if len(over) > 1 else ""
        hint = "shorten it, or cut it with --truncate"
        raise ClipkitError(
            f"a prompt must have at most {encoder.context_length} tokens; {where} has {lengths[over[0]]}{more}",
            hint,
        )


def _encode(encoder: Any, texts: list[str], truncate: bool, progress: Any) -> Any:
    import numpy as np

    parts, step = [], 256
    for start in range(0, len(texts), step):
        parts.append(encoder.encode_texts(texts[start : start + step], truncate=truncate))
        progress(min(start + step, len(texts)), len(texts))
    return np.concatenate(parts)


def _index(index: Any, count: int) -> Any:
    import numpy as np

    return np.full(count, -1) if index is None else index
