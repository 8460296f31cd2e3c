"""`clipkit plot`: a sub-app with one command per picture.

A command holds the options of its picture alone; `picture` adds those that all have. What reads and
draws is the picture's module in `clipkit.plots`, which `--help` does not load.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.commands import _completion as completion
from clipkit.commands._help import PlainHelp
from clipkit.commands._options import (
    OUTPUT,
    EvalSplit,
    FeatureInput,
    Force,
    LabelColumn,
    PathColumn,
    SplitColumn,
    Temperatures,
    check_output,
    option,
    options_with_value,
    parse_temperatures,
    split_option,
    split_words,
)

SHEET_IMAGES = 40
# What made a file, or its kind -> its pictures, the default first
PICTURES_OF = {
    "probe": ["confusion", "classes", "temperature", "shots", "layers"],
    **{name: ["confusion", "classes"] for name in ("zeroshot", "predict")},
    "cluster": ["clusters"],
    "logits": [
        "entropy",
        "confidence",
        "reliability",
        "logits",
        "similarity",
        "nearest",
        "threshold",
    ],
    "texts": ["spectrum"],
    **{name: [name] for name in ("attributes", "choose", "compare", "importance")},
    **{name: [name] for name in ("retrieve", "variance")},
}
Drawn = tuple[Any, str]  # a figure, and what it is of


def _check_picture(ctx: typer.Context, output: str) -> str | None:
    """Refuse an output that cannot be a picture, before the command does any work."""
    from clipkit import plots

    if output != "-":
        plots.format_of(output)
    return check_output(ctx, output)


def _check_size(size: str | None) -> str | None:
    """Refuse a size that is not two numbers, before the command does any work."""
    if size is not None:
        _parse_size(size)
    return size


def _parse_size(size: str) -> tuple[float, float]:
    """Parse `7x5`, a width and a height in inches."""
    from clipkit import plots

    width, _, height = size.lower().replace("×", "x").partition("x")
    try:
        inches = float(width), float(height)
    except ValueError:
        raise UsageError(f"size: expected WxH in inches, got {size!r}", "--size 7x5") from None
    return plots.check_size(inches)


FeatureInputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE", help="Feature files (default: standard input)."),
]
PictureOutput = Annotated[
    str,
    option(
        "FILE",
        "A .png, .jpg, .webp, .svg or .pdf file, or - for PNG on standard output.",
        *OUTPUT,
        callback=_check_picture,
    ),
]
Split = Annotated[str | None, split_option("Split to draw (default: test, else the first).")]
Run = Annotated[
    int | None, option("N", "Number of the run, from 0 (default: the most accurate).", min=0)
]
Groups = Annotated[
    str | None, option("FILE", "Draw groups of classes; each line of FILE is: class TAB group.")
]
Title = Annotated[str | None, option("TEXT", "Title of the picture.")]
Root = Annotated[str | None, option("FOLDER", "Folder that holds the data set.")]
Dpi = Annotated[
    float | None,
    option(
        "N",
        "Dots per inch of a .png, .jpg or .webp, 20 to 1200 (default: 200, less if large).",
        min=20,
        max=1200,
    ),
]
Size = Annotated[
    str | None,
    option(
        "WxH",
        "Width and height in inches, 2x2 to 40x40 (default: what the picture needs).",
        callback=_check_size,
    ),
]


class PlotGroup(PlainHelp, TyperGroup):
    """Accept options before the picture, and suggest similar names if there is no such picture."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the picture to the front of the arguments, or find the one of a file."""
        if args and args[0].startswith("-"):
            place = self._find_picture(args)
            args = [*args[place : place + 1], *args[:place], *args[place + 1 :]]
        if args and args[0] not in self.commands and Path(args[0]).is_file():
            args = [_default_picture(args[0]), *args]
        return super().parse_args(ctx, args)

    def _find_picture(self, args: list[str]) -> int:
        """Return the place of the first picture or file that is not the value of an option."""
        with_value = options_with_value(self)
        for place, (before, word) in enumerate(itertools.pairwise(args), start=1):
            if before not in with_value and (word in self.commands or Path(word).is_file()):
                return place
        return 0

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names."""
        if args[0].endswith(".h5"):  # files that exist were given their picture before
            raise ClipkitError(f"cannot read {args[0]}: there is no such file")
        if args[0] not in self.commands and not ctx.resilient_parsing:  # parsed for completion
            raise unknown("plot", args[0], self.commands)
        return super().resolve_command(ctx, args)


def _default_picture(path: str) -> str:
    """Return the picture that a file is for, and say how to draw its others."""
    from clipkit import features
    from clipkit.analysis.results import newest_entry
    from clipkit.base import console

    with features.open_file(path) as file:
        maker = newest_entry(file)["command"]
    pictures = PICTURES_OF.get(file.kind) or PICTURES_OF.get(maker)
    if pictures is None and file.kind != "images":
        hint = "clipkit report shows its table; clipkit plot --help lists all pictures"
        raise UsageError(f"{path}: a result of {maker} has no picture of its own", hint)
    first, *others = pictures or ["images"]
    if others:
        console.note(f"drawing {first}; also: clipkit plot {'|'.join(others)} {path}")
    return first


plot = typer.Typer(
    cls=PlotGroup,
    no_args_is_help=True,
    subcommand_metavar="PICTURE [ARGS]...",
    help="""Draw what a feature file holds: the named picture, or the one that the file is for.

    Example: clipkit plot temperature probe.h5 -o tau.png
    """,
)


def picture(draw: Callable[..., Drawn]) -> Callable[..., Drawn]:
    """Make a command of a function that draws: add the options of `_save`.

    `--output` stands behind the arguments, and the others at the end.
    """
    output, *others = [*inspect.signature(_save, eval_str=True).parameters.values()][2:]
    own = [*inspect.signature(draw, eval_str=True).parameters.values()]
    arguments = [parameter for parameter in own if parameter.name in ("file", "dataset")]
    options = own[len(arguments) :]

    @functools.wraps(draw)
    def command(**values: Any) -> None:
        settings = {parameter.name: values.pop(parameter.name) for parameter in (output, *others)}
        _save(*draw(**values), **settings)

    parameters = [*arguments, output, *options, *others]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    plot.command()(command)
    return draw


def _save(
    figure: Any,
    source: str,
    output: PictureOutput = "-",
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Write a figure with the source of its data, as the options of all pictures say."""
    from clipkit import plots
    from clipkit.base import console, files

    plots.finish(figure, source, None if size is None else _parse_size(size), title)
    if size is not None and plots.overlapping_texts(figure):
        console.warn(f"texts overlap at a size of {size}; hint: choose a larger --size")
    format = "png" if output == "-" else plots.format_of(output)
    with files.atomic_write(output, force=force) as path:
        plots.save(figure, path, format, dpi=dpi)


def _read(file: str, kind: str) -> Any:
    from clipkit import features

    return features.read(file, kinds=[kind])


def _read_all(paths: list[str] | None, *kinds: str) -> Any:
    from clipkit import features

    return features.read_all(paths or ["-"], kinds=kinds)


@picture
def confusion(
    file: FeatureInput = "-", split: Split = None, run: Run = None, groups: Groups = None
) -> Drawn:
    """Draw the confusion matrix of a probe or of zero-shot classification.

    Example: clipkit plot confusion zeroshot.h5 -o confusion.png
    """
    from clipkit.plots.confusion import draw_confusion

    return draw_confusion(_read(file, "result"), split, run, groups)


@picture
def classes(
    file: FeatureInput = "-", split: Split = None, run: Run = None, groups: Groups = None
) -> Drawn:
    """Draw the best and the worst F1 per class of a probe or of zero-shot classification.

    Example: clipkit plot classes zeroshot.h5 -o classes.png
    """
    from clipkit.plots.confusion import draw_classes

    return draw_classes(_read(file, "result"), split, run, groups)


@picture
def clusters(
    file: FeatureInput = "-",
    split: Split = None,
    run: Annotated[int, option("N", "Number of the run, from 0.", min=0)] = 0,
) -> Drawn:
    """Draw the percentage of each class in each cluster, with clusters matched to classes.

    Example: clipkit plot clusters clusters.h5 -o clusters.png
    """
    from clipkit.plots.confusion import draw_clusters

    return draw_clusters(_read(file, "result"), split, run)


@picture
def compare(file: FeatureInput = "-") -> Drawn:
    """Draw the accuracies of compared results, and their differences with paired intervals.

    Example: clipkit plot compare compare.h5 -o compare.png
    """
    from clipkit.plots.compare import draw_comparison

    return draw_comparison(_read(file, "result"))


@picture
def retrieve(file: FeatureInput = "-") -> Drawn:
    """Draw recall against k of image-text retrieval, with the control and chance.

    Example: clipkit plot retrieve retrieve.h5 -o retrieve.png
    """
    from clipkit.plots.retrieval import draw_retrieval

    return draw_retrieval(_read(file, "result"))


@picture
def choose(file: FeatureInput = "-") -> Drawn:
    """Draw the accuracy of choices by category, with the nulls and the control.

    Example: clipkit plot choose choose.h5 -o choose.png
    """
    from clipkit.plots.attributes import draw_choices

    return draw_choices(_read(file, "result"))


@picture
def temperature(
    file: FeatureInputs = None,
    split: Annotated[
        str | None, split_option("Split to draw (default: all with several runs).")
    ] = None,
) -> Drawn:
    """Draw accuracy and mean entropy against temperature, for one or several sweeps.

    Example: clipkit plot temperature probe.h5 -o tau.png
    """
    from clipkit.plots.temperature import draw_sweeps

    return draw_sweeps(_read_all(file, "result"), split)


@picture
def entropy(
    file: FeatureInput = "-",
    split: Split = None,
    temperature: Temperatures = [],  # noqa: B006
) -> Drawn:
    """Draw the distribution, over images, of the entropy of the softmax over prompts.

    Example: clipkit plot entropy logits.h5 -t 1,0.07,0.02 -o entropy.png
    """
    return _draw_softmax(file, "entropy", temperature, split)


@picture
def confidence(
    file: FeatureInput = "-",
    split: Split = None,
    temperature: Temperatures = [],  # noqa: B006
) -> Drawn:
    """Draw the distribution, over images, of the largest softmax probability.

    Example: clipkit plot confidence logits.h5 -t 1,0.07,0.02 -o confidence.png
    """
    return _draw_softmax(file, "confidence", temperature, split)


def _draw_softmax(
    file: str,
    statistic: Literal["entropy", "confidence"],
    temperature: list[str],
    split: str | None,
) -> Drawn:
    from clipkit import features
    from clipkit.plots.entropy import draw_softmax

    with features.open_file(file, kinds=["logits"]) as logits:
        temperatures = parse_temperatures(temperature, logits.logit_scale)
        return draw_softmax(logits, statistic, temperatures, split)


@picture
def reliability(
    file: FeatureInput = "-",
    split: Split = None,
    temperature: Annotated[
        list[str],
        option(
            "TAU[,TAU...]",
            "Divide the similarities by TAU; 'model' is the temperature that the model learned, "
            "'fitted' the one that is fitted on train.",
            "--temperature",
            "-t",
        ),
    ] = [],  # noqa: B006
    bins: Annotated[int, option("N", "Points, each of as many images.", min=1)] = 15,
) -> Drawn:
    """Draw accuracy against confidence, with what a calibrated model would show.

    Example: clipkit plot reliability class-logits.h5 -t model,0.0318 -o reliability.png
    """
    from clipkit import features
    from clipkit.analysis import calibration, results
    from clipkit.plots.reliability import draw_reliability

    with features.open_file(file, kinds=["logits"]) as logits:
        name = results.choose_split(logits, split)
        words, notes = split_words(temperature), {}
        if "fitted" in words:
            fitted = calibration.fitted_on_train(logits, name)
            words = [repr(fitted) if word == "fitted" else word for word in words]
            notes[fitted] = "fitted on train"
        temperatures = parse_temperatures(words, logits.logit_scale)
        return draw_reliability(logits, name, temperatures, bins, notes)


@picture
def threshold(
    file: FeatureInput = "-",
    fpr: Annotated[float, option("P", "False-positive rate on the fitted split.")] = 0.01,
    fit_split: Annotated[str, split_option("Split to choose the threshold on.")] = "train",
    eval_split: EvalSplit = "test",
) -> Drawn:
    """Draw the cosines of matching and of other pairs, with the threshold between them.

    Example: clipkit plot threshold class-logits.h5 -o threshold.png
    """
    from clipkit.plots.thresholds import draw_threshold

    return draw_threshold(_read(file, "logits"), fpr, fit_split, eval_split)


@picture
def logits(
    file: FeatureInput = "-",
    split: Split = None,
    class_: Annotated[
        list[str], option("NAME", "Draw the mean of this class; repeatable.", "--class")
    ] = [],  # noqa: B006
    image: Annotated[list[str], option("ID", "Draw this image; repeatable.")] = [],  # noqa: B006
    prompt: Annotated[
        list[str], option("TEXT", "Draw this prompt (default: all, at most 40); repeatable.")
    ] = [],  # noqa: B006
) -> Drawn:
    """Draw the cosine of images or class means with prompts, as dots (default: five classes).

    Example: clipkit plot logits logits.h5 --class cat --class dog -o cosines.png
    """
    from clipkit.plots.logits import draw_cosines

    return draw_cosines(_read(file, "logits"), split, image, class_, prompt)


@picture
def similarity(
    file: FeatureInput = "-",
    split: Split = None,
    centred: Annotated[
        bool, typer.Option("--centred", help="Subtract each prompt's mean.")
    ] = False,
) -> Drawn:
    """Draw the mean cosine of each class with each prompt.

    Example: clipkit plot similarity logits.h5 --centred -o similarity.png
    """
    from clipkit.plots.logits import draw_similarity

    return draw_similarity(_read(file, "logits"), split, centred)


@picture
def spectrum(file: FeatureInputs = None, split: Split = None) -> Drawn:
    """Draw the singular values of prompt sets, or of images, with their effective ranks.

    Images stand beside a Gaussian sample of as many vectors, whose directions are all alike.

    Example: clipkit plot spectrum txt.h5 -o spectrum.png
    """
    from clipkit.plots.spectrum import draw_spectra

    return draw_spectra(_read_all(file, "texts", "images"), split)


@picture
def attributes(file: FeatureInput = "-") -> Drawn:
    """Draw the recall of each attribute by words, probes, random directions and controls.

    Example: clipkit plot attributes attributes.h5 -o attributes.png
    """
    from clipkit.plots.attributes import draw_attributes

    return draw_attributes(_read(file, "result"))


@picture
def importance(file: FeatureInput = "-") -> Drawn:
    """Draw the accuracy that permuting each prompt costs a probe, for the 30 largest costs.

    Example: clipkit plot importance importance.h5 -o importance.png
    """
    from clipkit.plots.attributes import draw_importance

    return draw_importance(_read(file, "result"))


@picture
def shots(
    file: FeatureInputs = None,
    zeroshot: Annotated[
        str | None, option("FILE", "Result of zeroshot, to draw as a line.")
    ] = None,
) -> Drawn:
    """Draw the accuracy of few-shot probes against the labelled images per class.

    Example: clipkit plot shots shots.h5 --zeroshot zeroshot.h5 -o shots.png
    """
    from clipkit.plots.shots import draw_shots

    probes = _read_all(file, "result")
    named = None if zeroshot is None else _read(zeroshot, "result")
    return draw_shots(probes, named)


@picture
def layers(file: FeatureInputs = None, split: Split = None) -> Drawn:
    """Draw the accuracy of probes by layer, with untrained controls and the models' embeddings.

    From results of attributes, draw their recall by layer.

    Example: clipkit plot layers img.l*.svm.h5 img.svm.h5 -o layers.png
    """
    from clipkit.plots.layer_curves import draw_layers

    return draw_layers(_read_all(file, "result"), split)


@picture
def variance(file: FeatureInput = "-") -> Drawn:
    """Draw the share of variance, of embeddings or of prompts' cosines, that attributes explain.

    Example: clipkit plot variance variance.h5 -o variance.png
    """
    from clipkit.plots.variance import draw_variance

    return draw_variance(_read(file, "result"))


def _dataset(help: str) -> Any:
    return typer.Argument(metavar="DATASET", help=help, autocompletion=completion.datasets)


@picture
def images(
    dataset: Annotated[list[str], _dataset("Data set, as for clipkit embed.")],
    split: Split = None,
    root: Root = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
) -> Drawn:
    """Draw a contact sheet of 40 images of a data set, balanced by class.

    Example: clipkit plot images shapes -o sheet.png
    """
    from clipkit import datasets
    from clipkit.plots.images import draw_contact_sheet

    data = datasets.load(
        dataset,
        root=root,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        splits=None if split is None else [split],
        limit=SHEET_IMAGES,
    )
    return draw_contact_sheet(data)


def _embedded_column(what: str) -> Any:
    return option(
        "NAME", f"Column of a manifest {what} (default: the one that clipkit embed read)."
    )


@picture
def nearest(
    file: Annotated[str, typer.Argument(metavar="LOGITS", help="Feature file of logits.")],
    dataset: Annotated[list[str], _dataset("Data set of the images, as given to clipkit embed.")],
    prompt: Annotated[
        list[str], option("TEXT", "Draw the images of this prompt; repeatable.")
    ] = [],  # noqa: B006
    class_: Annotated[
        list[str], option("NAME", "Draw the images of this class's prompts; repeatable.", "--class")
    ] = [],  # noqa: B006
    count: Annotated[
        int, option("N", "Number of images on each side.", "--count", min=1, max=20)
    ] = 4,
    split: Split = None,
    root: Root = None,
    path_column: Annotated[str | None, _embedded_column("that names the image files")] = None,
    label_column: Annotated[str | None, _embedded_column("with the labels")] = None,
    split_column: Annotated[str | None, _embedded_column("with the splits")] = None,
) -> Drawn:
    """Draw the images that are most and least similar to prompts (default: the first four).

    Example: clipkit plot nearest logits.h5 shapes --prompt "a noisy image" -o nearest.png
    """
    from clipkit.analysis import results
    from clipkit.datasets.matching import load_images
    from clipkit.plots.images import draw_nearest, nearest_images

    logits_file = _read(file, "logits")
    name = results.choose_split(logits_file, split)
    found = nearest_images(logits_file, name, prompt, class_, count)
    data = load_images(
        logits_file,
        dataset,
        root=root,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
    )
    return draw_nearest(logits_file, name, found, data)
