"""`clipkit plot`: a sub-app with one command per picture."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from clipkit.base.errors import UsageError, unknown
from clipkit.commands import _completion as completion
from clipkit.commands._help import PlainHelp
from clipkit.commands._options import (
    OUTPUT,
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clipkit.analysis.results import Predictions

SHEET_IMAGES = 40


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
        """Move the picture to the front of the arguments."""
        if args and args[0].startswith("-"):
            place = self._find_picture(args)
            args = [*args[place : place + 1], *args[:place], *args[place + 1 :]]
        return super().parse_args(ctx, args)

    def _find_picture(self, args: list[str]) -> int:
        """Return the place of the first word that is a picture, and not the value of an option."""
        with_value = options_with_value(self)
        for place, (before, word) in enumerate(itertools.pairwise(args), start=1):
            if word in self.commands and before not in with_value:
                return place
        return 0

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names."""
        if args[0] not in self.commands and not ctx.resilient_parsing:  # parsed for completion
            raise unknown("plot", args[0], self.commands)
        return super().resolve_command(ctx, args)


plot = typer.Typer(
    cls=PlotGroup,
    no_args_is_help=True,
    subcommand_metavar="PICTURE [ARGS]...",
    help="""Draw what a feature file holds.

    Example: clipkit plot temperature probe.h5 -o tau.png
    """,
)


@plot.command()
def confusion(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Split = None,
    run: Run = None,
    groups: Groups = None,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the confusion matrix of a probe or of zero-shot classification.

    Example: clipkit plot confusion zeroshot.h5 -o confusion.png
    """
    from clipkit import plots
    from clipkit.analysis import results

    scored, source = _read_predictions(file, split, run, groups)
    matrix = results.count(scored)
    of = "" if groups is None else " of groups"
    title = title or f"Confusion{of} ({matrix.label})"
    figure = plots.confusion(
        matrix.counts, matrix.class_names, class_accuracy=matrix.class_accuracy, title=title
    )
    _save(figure, source, output, force, size, dpi)


@plot.command()
def classes(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Split = None,
    run: Run = None,
    groups: Groups = None,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the best and the worst F1 per class of a probe or of zero-shot classification.

    Example: clipkit plot classes zeroshot.h5 -o classes.png
    """
    from clipkit.plots import panels

    scored, source = _read_predictions(file, split, run, groups)
    figure = panels.draw_classes(scored, "class" if groups is None else "group", title)
    _save(figure, source, output, force, size, dpi)


@plot.command()
def clusters(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Split = None,
    run: Annotated[int, option("N", "Number of the run, from 0.", min=0)] = 0,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the percentage of each class in each cluster, with clusters matched to classes.

    Example: clipkit plot clusters clusters.h5 -o clusters.png
    """
    from clipkit import features, plots
    from clipkit.analysis import results

    result = features.read(file, kinds=["result"])
    matrix = results.cluster_counts(result, split, run)
    title = title or f"Clusters ({matrix.label})"
    figure = plots.clusters(matrix.counts, matrix.class_names, title=title)
    source = results.source_label(result, results.choose_split(result, split))
    _save(figure, source, output, force, size, dpi)


@plot.command()
def compare(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the accuracies of compared results, and their differences with paired intervals.

    Example: clipkit plot compare compare.h5 -o compare.png
    """
    from clipkit import features, plots
    from clipkit.plots import panels

    arranged = panels.comparison_panels(features.read(file, kinds=["result"]))
    figure = plots.compare(
        arranged.accuracy,
        arranged.difference,
        arranged.names,
        groups=arranged.groups,
        null5=arranged.null5,
        title=title or arranged.label,
    )
    _save(figure, arranged.source, output, force, size, dpi)


@plot.command()
def temperature(
    file: FeatureInputs = None,
    output: PictureOutput = "-",
    split: Annotated[
        str | None, split_option("Split to draw (default: all with several runs).")
    ] = None,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw accuracy and mean entropy against temperature, for one or several sweeps.

    Example: clipkit plot temperature probe.h5 -o tau.png
    """
    from clipkit import features, plots
    from clipkit.analysis import results
    from clipkit.plots import panels

    sweeps = features.read_all(file or ["-"], kinds=["result"])
    curves = panels.temperature_sweeps(sweeps, split)
    title = title or "Accuracy and entropy against temperature"
    figure = plots.temperature(curves, panels.common_prompt_count(sweeps), title=title)
    source = results.sources_label(sweeps, panels.sweep_splits(sweeps, split))
    _save(figure, source, output, force, size, dpi)


@plot.command()
def grid(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Annotated[
        str | None, split_option("Split to draw (default: the one with the most runs).")
    ] = None,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw accuracy over temperature and C, with lines along which C / tau^2 is constant.

    Example: clipkit plot grid grid.h5 -o grid.png
    """
    from clipkit import features, plots
    from clipkit.analysis import results
    from clipkit.plots import panels

    result = features.read(file, kinds=["result"])
    accuracies = panels.accuracy_grid(result, split)
    figure = plots.grid(
        accuracies.values, accuracies.Cs, accuracies.temperatures, title=title or accuracies.label
    )
    source = results.source_label(result, accuracies.split)
    _save(figure, source, output, force, size, dpi)


@plot.command()
def entropy(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Split = None,
    temperature: Temperatures = [],  # noqa: B006
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the distribution, over images, of the entropy of the softmax over prompts.

    Example: clipkit plot entropy logits.h5 -t 1,0.07,0.02 -o entropy.png
    """
    from clipkit import features
    from clipkit.plots import panels

    with features.open_file(file, kinds=["logits"]) as logits:
        temperatures = parse_temperatures(temperature, logits.logit_scale)
        figure, source = panels.draw_softmax(logits, "entropy", temperatures, split, title)
    _save(figure, source, output, force, size, dpi)


@plot.command()
def confidence(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Split = None,
    temperature: Temperatures = [],  # noqa: B006
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the distribution, over images, of the largest softmax probability.

    Example: clipkit plot confidence logits.h5 -t 1,0.07,0.02 -o confidence.png
    """
    from clipkit import features
    from clipkit.plots import panels

    with features.open_file(file, kinds=["logits"]) as logits:
        temperatures = parse_temperatures(temperature, logits.logit_scale)
        figure, source = panels.draw_softmax(logits, "confidence", temperatures, split, title)
    _save(figure, source, output, force, size, dpi)


@plot.command()
def reliability(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Split = None,
    temperature: Annotated[
        list[str],
        option(
            "TAU[,TAU...]",
            "Divide the cosines by TAU; 'model' is the temperature that the model learned, "
            "'fitted' the one that is fitted on train.",
            "--temperature",
            "-t",
        ),
    ] = [],  # noqa: B006
    bins: Annotated[int, option("N", "Points, each of as many images.", min=1)] = 15,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw accuracy against confidence, with what a calibrated model would show.

    Example: clipkit plot reliability class-logits.h5 -t model,0.0318 -o reliability.png
    """
    from clipkit import features, plots
    from clipkit.analysis import calibration, results
    from clipkit.plots import panels

    with features.open_file(file, kinds=["logits"]) as logits:
        name = results.choose_split(logits, split)
        words, notes = split_words(temperature), {}
        if "fitted" in words:
            fitted = calibration.fitted_on_train(logits, name)
            words = [repr(fitted) if word == "fitted" else word for word in words]
            notes[fitted] = "fitted on train"
        temperatures = parse_temperatures(words, logits.logit_scale)
        temperatures = temperatures or [logits.default_temperature]
        diagrams = calibration.reliability(logits, name, temperatures, bins)
        source = panels.counted_source(logits, name)
    title = title or "Accuracy against confidence"
    _save(plots.reliability(diagrams, notes=notes, title=title), source, output, force, size, dpi)


@plot.command()
def logits(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Split = None,
    class_: Annotated[
        list[str], option("NAME", "Draw the mean of this class; repeatable.", "--class")
    ] = [],  # noqa: B006
    image: Annotated[list[str], option("ID", "Draw this image; repeatable.")] = [],  # noqa: B006
    prompt: Annotated[
        list[str], option("TEXT", "Draw this prompt (default: all, at most 40); repeatable.")
    ] = [],  # noqa: B006
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the cosine of images or class means with prompts, as dots (default: five classes).

    Example: clipkit plot logits logits.h5 --class cat --class dog -o cosines.png
    """
    from clipkit import features, plots
    from clipkit.analysis import results
    from clipkit.plots import panels

    logits_file = features.read(file, kinds=["logits"])
    cosines, labels = panels.cosine_lines(logits_file, split, image, class_)
    columns = panels.choose_prompts(logits_file, prompt)
    texts = [(logits_file.texts or [])[column] for column in columns]
    title = title or "Cosine with prompts"
    figure = plots.logits(cosines[:, columns], labels, texts, title=title)
    source = results.source_label(logits_file, results.choose_split(logits_file, split))
    _save(figure, source, output, force, size, dpi)


@plot.command()
def similarity(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    split: Split = None,
    centred: Annotated[
        bool, typer.Option("--centred", help="Subtract each prompt's mean.")
    ] = False,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the mean cosine of each class with each prompt.

    Example: clipkit plot similarity logits.h5 --centred -o similarity.png
    """
    from clipkit import features, plots
    from clipkit.analysis import results
    from clipkit.plots import panels

    logits_file = features.read(file, kinds=["logits"])
    means, names = panels.class_means(logits_file, split)
    title = title or "Mean cosine of each class with each prompt"
    figure = plots.similarity(means, names, logits_file.texts or [], centred=centred, title=title)
    source = results.source_label(logits_file, results.choose_split(logits_file, split))
    _save(figure, source, output, force, size, dpi)


@plot.command()
def spectrum(
    file: FeatureInputs = None,
    output: PictureOutput = "-",
    title: Title = "Singular values of the prompts' directions",
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the singular values of prompt sets with their effective ranks.

    Example: clipkit plot spectrum txt.h5 -o spectrum.png
    """
    from clipkit import features, plots
    from clipkit.analysis import results, similarity
    from clipkit.plots import panels

    texts = features.read_all(file or ["-"], kinds=["texts"])
    values = panels.prompt_spectra(texts)
    ranks = {name: similarity.effective_rank(sigma) for name, sigma in values.items()}
    figure = plots.spectrum(values, ranks, title=title)
    _save(figure, results.sources_label(texts), output, force, size, dpi)


@plot.command()
def attributes(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the recall of each attribute by words, probes, random directions and controls.

    Example: clipkit plot attributes attributes.h5 -o attributes.png
    """
    from clipkit import features
    from clipkit.plots import panels

    figure, source = panels.draw_attributes(features.read(file, kinds=["result"]), title)
    _save(figure, source, output, force, size, dpi)


@plot.command()
def importance(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the accuracy that permuting each prompt costs a probe, for the 30 largest costs.

    Example: clipkit plot importance importance.h5 -o importance.png
    """
    from clipkit import features, plots
    from clipkit.analysis import results
    from clipkit.plots import panels

    result = features.read(file, kinds=["result"])
    columns = panels.prompt_costs(result)
    source = results.source_label(result, str(columns["split"][0]))
    figure = plots.importance(
        columns["name"].tolist(),
        plots.Dots(columns["cost"], columns["low"], columns["high"]),
        noun="group" if "group" in result.runs else "prompt",
        title=title or f"What the probe relies on (accuracy {100 * columns['acc1'][0]:.1f} %)",
    )
    _save(figure, source, output, force, size, dpi)


@plot.command()
def shots(
    file: FeatureInputs = None,
    output: PictureOutput = "-",
    zeroshot: Annotated[
        str | None, option("FILE", "Result of zeroshot, to draw as a line.")
    ] = None,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the accuracy of few-shot probes against the labelled images per class.

    Example: clipkit plot shots shots.h5 --zeroshot zeroshot.h5 -o shots.png
    """
    from clipkit import features, plots
    from clipkit.analysis import results
    from clipkit.plots import panels

    probes = features.read_all(file or ["-"], kinds=["result"])
    curves = panels.shot_curves(probes)
    splits = [str(probe.runs["eval_split"][-1]) for probe in probes]
    source = results.sources_label(probes, splits)
    line = None
    if zeroshot is not None:
        named = features.read(zeroshot, kinds=["result"])
        line = panels.zeroshot_line(named, probes[0], curves[0])
    title = title or "Labelled images per class"
    _save(plots.shots(curves, line, title=title), source, output, force, size, dpi)


@plot.command()
def layers(
    file: FeatureInputs = None,
    output: PictureOutput = "-",
    split: Split = None,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the accuracy of probes by layer, with untrained controls and the models' embeddings.

    From results of attributes, draw their recall by layer.

    Example: clipkit plot layers img.l*.svm.h5 img.svm.h5 -o layers.png
    """
    from clipkit import features, plots
    from clipkit.plots import layer_curves

    probes = features.read_all(file or ["-"], kinds=["result"])
    curves, source = layer_curves.layer_curves(probes, split)
    if layer_curves.holds_attributes(probes[0]):
        ylabel, title = "mean recall per value (%)", title or "Recall by layer"
    else:
        ylabel, title = "accuracy (%)", title or "Accuracy by layer"
    _save(plots.layers(curves, ylabel=ylabel, title=title), source, output, force, size, dpi)


@plot.command()
def variance(
    file: FeatureInput = "-",
    output: PictureOutput = "-",
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the share of variance, of embeddings or of prompts' cosines, that attributes explain.

    Example: clipkit plot variance variance.h5 -o variance.png
    """
    from clipkit import features
    from clipkit.plots import panels

    figure, source = panels.draw_variance(features.read(file, kinds=["result"]), title)
    _save(figure, source, output, force, size, dpi)


@plot.command()
def images(
    dataset: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET",
            help="Data set, as for clipkit embed.",
            autocompletion=completion.datasets,
        ),
    ],
    output: PictureOutput = "-",
    split: Split = None,
    root: Annotated[str | None, option("FOLDER", "Folder that holds the data set.")] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw a contact sheet of 40 images of a data set, balanced by class.

    Example: clipkit plot images shapes -o sheet.png
    """
    from clipkit import datasets
    from clipkit.plots import panels

    splits = None if split is None else [split]
    data = datasets.load(
        dataset,
        root=root,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        splits=splits,
        limit=SHEET_IMAGES,
    )
    figure, source = panels.draw_contact_sheet(data, title)
    _save(figure, source, output, force, size, dpi)


def _embedded_column(what: str) -> Any:
    return option(
        "NAME", f"Column of a manifest {what} (default: the one that clipkit embed read)."
    )


@plot.command()
def nearest(
    file: Annotated[str, typer.Argument(metavar="LOGITS", help="Feature file of logits.")],
    dataset: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET",
            help="Data set of the images, as given to clipkit embed.",
            autocompletion=completion.datasets,
        ),
    ],
    output: PictureOutput = "-",
    prompt: Annotated[
        list[str], option("TEXT", "Draw the images of this prompt; repeatable.")
    ] = [],  # noqa: B006
    class_: Annotated[
        list[str], option("NAME", "Draw those of this class's prompts; repeatable.", "--class")
    ] = [],  # noqa: B006
    count: Annotated[
        int, option("N", "Number of images on each side.", "--count", min=1, max=20)
    ] = 4,
    split: Split = None,
    root: Annotated[str | None, option("FOLDER", "Folder that holds the data set.")] = None,
    path_column: Annotated[str | None, _embedded_column("that names the image files")] = None,
    label_column: Annotated[str | None, _embedded_column("with the labels")] = None,
    split_column: Annotated[str | None, _embedded_column("with the splits")] = None,
    title: Title = None,
    size: Size = None,
    dpi: Dpi = None,
    force: Force = False,
) -> None:
    """Draw the images that are most and least similar to prompts (default: the first four).

    Example: clipkit plot nearest logits.h5 shapes --prompt "a noisy image" -o nearest.png
    """
    from clipkit import features
    from clipkit.analysis import results
    from clipkit.datasets.matching import load_images
    from clipkit.plots import panels

    logits_file = features.read(file, kinds=["logits"])
    name = results.choose_split(logits_file, split)
    nearest = panels.nearest_images(logits_file, name, prompt, class_, count)
    data = load_images(
        logits_file,
        dataset,
        root=root,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
    )
    figure = panels.draw_nearest(logits_file, name, nearest, data, title)
    _save(figure, results.source_label(logits_file, name), output, force, size, dpi)


def _read_predictions(
    file: str, split: str | None, run: int | None, groups: str | None
) -> tuple[Predictions, str]:
    """Read the predictions of a run, by groups if a file names them, and their source."""
    from clipkit import features
    from clipkit.analysis import results

    result = features.read(file, kinds=["result"])
    scored = results.predictions(result, split, run)
    source = results.source_label(result, results.choose_split(result, split))
    if groups is not None:
        scored = results.group_classes(scored, results.read_groups(groups, scored.class_names))
    return scored, source


def _save(
    figure: Figure, source: str, output: str, force: bool, size: str | None, dpi: float | None
) -> None:
    """Write a figure with the source of its data, in the size and resolution of the options."""
    from clipkit import plots
    from clipkit.base import console, files

    plots.finish(figure, source, None if size is None else _parse_size(size))
    if size is not None and plots.overlapping_texts(figure):
        console.warn(f"texts overlap at a size of {size}; hint: choose a larger --size")
    format = "png" if output == "-" else plots.format_of(output)
    with files.atomic_write(output, force=force) as path:
        plots.save(figure, path, format, dpi=dpi)
