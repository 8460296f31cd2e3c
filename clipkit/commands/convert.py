"""`clipkit convert`: features to and from other tools, predictions to a table."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit import console
from clipkit.commands._options import Force
from clipkit.errors import ClipkitError, UsageError, unknown

if TYPE_CHECKING:
    from clipkit.features import FeatureFile
    from clipkit.features.formats import Found

OURS = (".h5", ".hdf5")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A feature file (.h5, or - for standard input), .npz, .npy or .parquet.",
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="[OUTPUT]",
            help="The same; .csv for results. A feature file on standard output if left out.",
        ),
    ] = "-",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Bringing in: whose features these are, for clipkit logits.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="Only this split. Rows that name none are called this, or 'all'.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="Bringing in: labels of the rows, an .npy of numbers or names.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Bringing in: rows are these prompts' embeddings, one a line.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Bring other tools' features in, and take features and predictions out. The endings say from what to what.

    An .npz holds train_features, train_labels, train_ids (and so on for each split) and class_names; of prompts:
    features, texts, class_index. A .parquet has the columns split, id, label, class_name, feature; of prompts: text,
    class_index, feature. An .npy is one matrix. Labels, ids and class_index may be missing. Predictions that zeroshot,
    probe or cluster kept with -o become a .csv or .parquet with a row for each image and run.

    Example: clipkit convert img.h5 img.npz; clipkit convert theirs.npz img.h5 --model ViT-B/32
    """
    from clipkit import files
    from clipkit.features import formats

    files.check_output(output, force=force)
    theirs, ours = _ending(source, formats.READ), _ending(output, formats.WRITTEN)
    if (theirs in OURS) == (ours in OURS):
        got = "both are" if theirs in OURS else "neither is"
        raise UsageError(
            f"either INPUT or OUTPUT must be a feature file (.h5 or -); {got}",
            "convert through a feature file",
        )
    beside = {
        name: value
        for name, value in {"labels": labels, "prompts": prompts}.items()
        if value is not None
    }
    if theirs not in OURS:
        _in(source, theirs, output, split, model, beside, force)
    elif model is not None or beside:
        option = "model" if model is not None else next(iter(beside))
        raise UsageError(f"--{option} is for bringing features in; {source} is a feature file")
    else:
        _out(source, output, ours, split, force)


def _ending(name: str, known: tuple[str, ...]) -> str:
    ending = OURS[0] if name == "-" else Path(name).suffix.lower()
    if ending not in (*OURS, *known):
        raise unknown("ending", ending or name, [*OURS, *known])
    return ending


def _out(source: str, output: str, ending: str, split: str | None, force: bool) -> None:
    """Write a feature file's content as another tool reads it."""
    from clipkit import features, files
    from clipkit.features import formats

    with features.open_file(source) as file, console.progress("converting", "rows") as progress:
        if split is not None:
            if split not in file.splits:
                raise unknown(
                    f"split of {'standard input' if source == '-' else source}", split, file.splits
                )
            file.splits = {split: file.splits[split]}
        datasets = _watched(file.datasets(), progress)
        with files.atomic_write(output, force=force) as temporary:
            formats.write(
                temporary, ending, datasets, {**file.attributes(), "history": file.history}
            )


def _in(
    source: str,
    ending: str,
    output: str,
    split: str | None,
    model: str | None,
    beside: dict[str, str],
    force: bool,
) -> None:
    """Make a feature file of another tool's."""
    from clipkit import features, files, models
    from clipkit.features import formats
    from clipkit.features import validate as check

    with contextlib.ExitStack() as stack, console.progress("converting", "rows") as progress:
        path = stack.enter_context(files.spool_input(source))
        given: dict[str, Any] = {
            name: stack.enter_context(files.spool_input(value)) for name, value in beside.items()
        }
        inputs = {name: _digest(where) for name, where in {"features": path, **given}.items()}
        if "prompts" in given:
            given["texts"] = _prompts(given.pop("prompts"), beside["prompts"])
        with formats.opened(path, ending, shown=source, split=split, given=given) as found:
            if found.unused:
                console.warn(
                    f"{source}: left out, having no place in a feature file: {', '.join(found.unused)}"
                )
            file = _file(found, progress)
            known = file.model()
            if known and model:
                raise UsageError(
                    f"--model is for features that do not say whose they are; {source} says {known.get('name')}"
                )
            of = (
                {"name": models.ALIASES.get(model, model.removeprefix("hf-hub:"))}
                if model
                else None
            )
            file.history = [
                *file.history,
                features.history_entry(
                    "convert", source=ending, split=split, model=of, inputs=inputs
                ),
            ]
            file.display_name = source
            check(file)
            features.write(output, file, force=force)


def _prompts(path: Path, shown: str) -> list[str]:
    from clipkit import files, prompts

    found = prompts.parse(files.read_bytes(str(path)), shown)
    for warning in found.warnings():
        console.warn(warning)
    return found.texts


def _file(found: Found, progress: Callable[[int, int], None]) -> FeatureFile:
    """A feature file of what was found, its features still to be read block by block."""
    from clipkit import features

    file = features.FeatureFile(found.kind)
    for name, value in {**found.about, **_watched(found.arrays, progress)}.items():
        split, _, key = name.rpartition("/")
        setattr(file.splits.setdefault(split, features.Split()) if split else file, key, value)
    return file


def _watched(arrays: dict[str, Any], progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The same arrays; their matrices tell how many rows were read."""
    from clipkit import features

    total = sum(value.shape[0] for value in arrays.values() if hasattr(value, "iter_blocks"))
    done = 0

    def blocks(matrix: Any) -> Iterator[Any]:
        nonlocal done
        for block in matrix.iter_blocks():
            yield block
            done += len(block)
            progress(done, total)

    return {
        name: features.BlockMatrix(value.shape, functools.partial(blocks, value))
        if hasattr(value, "iter_blocks")
        else value
        for name, value in arrays.items()
    }


def _digest(path: Path) -> str:
    """SHA-256 over a file's bytes."""
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise ClipkitError(f"the input must be readable; {path}: {error.strerror}") from error
