"""`clipkit plot`: a sub-app with one command per picture of `clipkit.plots`.

A picture's record holds its own options; this module adds those that all pictures have. The
pictures are imported when a command line names `plot`, and matplotlib when one is drawn.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.analysis.question import TEXTS, WITH_TEXTS
from clipkit.base import files, suggestions
from clipkit.base.errors import InputError, UsageError, unknown
from clipkit.base.options import OUTPUT_PANEL, option, options_of
from clipkit.commands import _completion as completion
from clipkit.commands._command import ClipkitCommand, CommandGroup
from clipkit.commands._options import OUTPUT, FeatureInput, Force, check_output
from clipkit.datasets.registry import REGISTRY

if TYPE_CHECKING:
    from clipkit.features.model import FeatureFile
    from clipkit.plots.picture import Picture


def _check_picture(ctx: typer.Context, output: str) -> str | None:
    """Refuse an output that cannot be a picture, before the command does any work."""
    from clipkit.plots import style

    if output != "-":
        style.format_of(output)
    return check_output(ctx, output)


def _check_size(_: typer.Context, size: str | None) -> str | None:
    """Refuse a size that is not two numbers, before the command does any work."""
    if size is not None:
        _parse_size(size)
    return size


def _parse_size(size: str) -> tuple[float, float]:
    """Parse `7x5`, a width and a height in inches."""
    from clipkit.plots import style

    width, _, height = size.lower().replace("×", "x").partition("x")
    try:
        inches = float(width), float(height)
    except ValueError:
        raise UsageError(f"size: expected WxH in inches, got {size!r}", "--size 7x5") from None
    return style.check_size(inches)


FeatureInputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE", help="Feature files (default: standard input)."),
]
LogitsInput = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Feature file of logits, or of images; that of their texts then follows.",
    ),
]
DatasetInput = Annotated[
    list[str],
    typer.Argument(
        metavar="DATASET",
        help="Data set, as given to clipkit embed.",
        autocompletion=completion.datasets,
    ),
]


TextsInput = Annotated[str | None, typer.Argument(metavar=WITH_TEXTS.metavar, help=WITH_TEXTS.help)]


def _save(
    figure: Any,
    source: str,
    output: Annotated[
        str,
        option(
            "FILE",
            "A .png, .jpg, .webp, .svg or .pdf file, or - for PNG on standard output.",
            *OUTPUT,
            check=_check_picture,
            panel=OUTPUT_PANEL,
        ),
    ] = "-",
    title: Annotated[
        str | None, option("TEXT", "Title of the picture.", panel=OUTPUT_PANEL)
    ] = None,
    size: Annotated[
        str | None,
        option(
            "WxH",
            "Width and height in inches, 2x2 to 40x40 (default: what the picture needs).",
            check=_check_size,
            panel=OUTPUT_PANEL,
        ),
    ] = None,
    dpi: Annotated[
        float | None,
        option(
            "N",
            "Dots per inch of a .png, .jpg or .webp, 20 to 1200 (default: 200, less if large).",
            min=20,
            max=1200,
            panel=OUTPUT_PANEL,
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Write a figure with the source of its data, as the options of all pictures say."""
    from clipkit.base import console
    from clipkit.plots import style

    style.finish(figure, source, None if size is None else _parse_size(size), title)
    if size is not None and style.overlapping_texts(figure):
        console.warn(f"texts overlap at a size of {size}; hint: choose a larger --size")
    format = "png" if output == "-" else style.format_of(output)
    with files.atomic_write(output, force=force) as path:
        style.save(figure, path, format, dpi=dpi)


class PlotGroup(CommandGroup):
    """Accept options before the picture, and suggest similar names if there is no such picture."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the pictures."""
        from clipkit.plots import PICTURES

        return list(PICTURES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a picture, or None."""
        return _command(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the picture to the front of the arguments, or find the one of a file."""
        if len(args) > 1 and args[0].startswith("-"):
            place = self._find_picture(ctx, args)
            args = [*args[place : place + 1], *args[:place], *args[place + 1 :]]
        pictures = self.list_commands(ctx)
        if args and args[0] not in pictures and _is_input(args[0]):
            if args[0] == files.STREAM:
                ctx.with_resource(files.held_input())  # the picture reads it again
            args = [_first_picture(args[0]), *args]
        return super().parse_args(ctx, args)

    def _find_picture(self, ctx: Any, args: list[str]) -> int:
        """Return the place of the first picture or file that is not the value of an option."""
        pictures = self.list_commands(ctx)
        with_value: set[str] = set()
        for command in [self, *self.commands.values()]:
            for parameter in command.params:
                if parameter.param_type_name == "option" and not parameter.is_flag:
                    with_value.update(parameter.opts)
        for place, (before, word) in enumerate(itertools.pairwise(args), start=1):
            if before not in with_value and (word in pictures or _is_input(word)):
                return place
        return 0

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names."""
        if args[0].endswith(".h5"):  # files that exist were given their picture before
            raise files.missing(str(args[0]))
        pictures = self.list_commands(ctx)
        if args[0] not in pictures and not ctx.resilient_parsing:  # parsed for completion
            if Path(args[0]).is_dir() or args[0] in REGISTRY:
                message = f"expected a picture or a feature file, got {args[0]}"
                hint = f"to draw its images: clipkit plot images {suggestions.command(args[0])}"
                raise UsageError(message, hint)
            raise unknown("plot", args[0], pictures)
        return super().resolve_command(ctx, args)


def _is_input(word: str) -> bool:
    return word == files.STREAM or Path(word).is_file()


def _first_picture(path: str) -> str:
    """Return the picture that a file is for, and say how to draw its others."""
    from clipkit import features, plots
    from clipkit.base import console

    with features.open_file(path) as file:
        first, *others = plots.choose_pictures(file)
    quoted = suggestions.command(suggestions.path(path))
    lines = []
    names = [picture.name for picture in others if not picture.needs_images]
    if names:
        lines.append(f"clipkit plot {'|'.join(names)} {quoted}")
    for picture in others:
        if picture.needs_images:
            argument = f" {quoted}" if picture.kinds else ""
            lines.append(f"clipkit plot {picture.name}{argument} DATASET")
    if lines:
        console.note(f"drawing {first.name}; also: {', or '.join(lines)}")
    return first.name


plot = typer.Typer(
    cls=PlotGroup,
    subcommand_metavar="PICTURE [ARGS]...",
    help="""Draw what a feature file holds: the named picture, or the one that the file is for.

    Example: clipkit plot temperature probe.h5 -o tau.png
    """,
)


@functools.cache
def _command(name: str) -> ClipkitCommand:
    """Return the command of a picture."""
    from clipkit.plots import PICTURES

    return ClipkitCommand(name, _function_of(PICTURES[name]), "Pictures")


def _function_of(picture: Picture) -> Callable[..., None]:
    """Return what a command does: its inputs and options, and the options of `_save`."""
    output, *others = [*inspect.signature(_save, eval_str=True).parameters.values()][2:]
    own = options_of(picture.draw)
    parameters = inspect.signature(picture.draw, eval_str=True).parameters
    options = [parameters[name] for name in own]

    def command(**values: Any) -> None:
        settings = {name: values[name] for name in own}
        with _open_inputs(picture, values) as inputs:
            figure, source = picture.draw(*inputs, **settings)
        _save(figure, source, **{option.name: values[option.name] for option in (output, *others)})

    signature = inspect.Signature([*_arguments(picture), output, *options, *others])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__doc__ = f"{inspect.getdoc(picture.draw)}\n\nExample: {picture.example}"
    return command


def _arguments(picture: Picture) -> list[inspect.Parameter]:
    """Return the parameters for the files and the data set of a picture."""
    if picture.needs_images and picture.kinds:
        return [_argument("file", LogitsInput), _argument("dataset", DatasetInput)]
    if picture.needs_images:
        return [_argument("dataset", DatasetInput)]
    if picture.draws_several:
        return [_argument("file", FeatureInputs, None)]
    if picture.pairs:
        return [_argument("file", FeatureInput, "-"), _argument(TEXTS, TextsInput, None)]
    return [_argument("file", FeatureInput, "-")]


def _argument(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


@contextlib.contextmanager
def _open_inputs(picture: Picture, values: dict[str, Any]) -> Iterator[list[Any]]:
    """Open what a picture draws: files, a data set, or both.

    If it is drawn of results and gets none, name the commands that make them.
    """
    from clipkit import features
    from clipkit.features import similarity

    texts = values.get(TEXTS)
    if picture.pairs and picture.needs_images:
        texts, values["dataset"] = _texts_before(values["dataset"], values["file"])
    inputs: list[Any] = []
    files: list[FeatureFile] = []
    try:
        with contextlib.ExitStack() as opened:
            if picture.draws_several:
                paths = values["file"] or ["-"]
                files = features.read_all(paths, kinds=picture.kinds)
                inputs.append(files)
            elif picture.pairs and texts is not None:
                images = values["file"]
                source = features.open_file(images, kinds=["images"], swapped=(texts, ["texts"]))
                image_file = opened.enter_context(source)
                text_file = features.read(texts, kinds=["texts"], swapped=(images, ["images"]))
                files = [similarity.pair(image_file, text_file)]
                inputs += files
            elif picture.kinds:
                other = values.get("dataset", [None])[0]
                source = features.open_file(
                    values["file"], kinds=picture.kinds, swapped=(other, ())
                )
                files = [opened.enter_context(source)]
                inputs += files
            for file in files:
                picture.check(file)
            if picture.needs_images:
                inputs.append(values["dataset"])
            yield inputs
    except InputError as error:
        if picture.kinds == ("result",) and picture.of:
            error.hint = f"make one by {' or '.join(picture.of)} with -o"
        raise


def _texts_before(words: list[str], images: str) -> tuple[str | None, list[str]]:
    """Return the feature file of texts that stands before a data set, or None, and the data set."""
    first, *dataset = words
    swapped = not dataset and not images.endswith(".h5") and images != "-"
    if swapped or not first.endswith(".h5"):
        return None, words
    if not dataset:
        hint = f"name the images: {suggestions.again({first: [first, 'DATASET']})}"
        raise UsageError(f"expected a data set, got {first} alone", hint)
    return first, dataset
