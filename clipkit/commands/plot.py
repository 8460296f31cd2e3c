"""`clipkit plot`: the pictures of a feature file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.commands import _sweep_plots
from clipkit.commands._options import Force, Temperatures, parse_temperatures
from clipkit.errors import ClipkitError, UsageError, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clipkit.features import FeatureFile, Split


MOST_CLASSES = 5000
SHEET, THUMB = 40, 96  # images of a contact sheet, and their pixels
SEVERAL = {"temperature", "spectrum"}  # plots that put several files into one picture


@dataclass(frozen=True)
class Wish:
    """What of the files is to be drawn."""

    shown: list[str]
    split: str | None
    run: int | None
    class_names: list[str]
    images: list[str]
    temperature: list[str]
    centred: bool
    groups: str | None
    title: str | None


def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="confusion, classes, clusters, temperature, grid (of results); entropy, confidence, logits, "
            "similarity (of logits); spectrum (of texts); images (of a data set).",
        ),
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Feature files; standard input if left out."),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The picture: .png, .svg or .pdf; - is a PNG on standard output.",
        ),
    ] = "-",
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="Which split: test, if there is one; temperature shows all.",
        ),
    ] = None,
    run: Annotated[
        int | None,
        typer.Option(
            "--run", min=0, help="Which run of a result, from 0: the most accurate by default."
        ),
    ] = None,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class", metavar="NAME", help="With logits: the mean of this class; repeatable."
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="ID", help="With logits: this image; repeatable."),
    ] = None,
    temperature: Temperatures = [],
    centred: Annotated[
        bool,
        typer.Option("--centred", help="With similarity: each prompt's difference from its mean."),
    ] = False,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            metavar="FILE",
            help="With confusion and classes: lines of class TAB group, to draw groups.",
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="Above the picture.")
    ] = None,
    force: Force = False,
) -> None:
    """Draw what a feature file holds, for people to look at.

    Example: clipkit plot temperature probe.h5 -o tau.png
    """  # fmt: skip
    from clipkit import features, plots
    from clipkit import files as streams

    if kind not in PLOTS:
        raise unknown("plot", kind, PLOTS)
    format = "png" if output == "-" else plots.format_of(output)
    streams.check_output(output, force=force)
    sources = files or ["-"]
    needs, draw = PLOTS[kind]
    if len(sources) > 1 and kind not in SEVERAL:
        raise UsageError(f"{kind} draws one file; got {len(sources)}")
    loaded = [features.read(source, kinds=[needs]) for source in sources if needs != "data set"]
    wish = Wish(sources, split, run, class_ or [], image or [], temperature, centred, groups, title)
    figure = draw(loaded, wish)
    with streams.atomic_write(output, force=force) as path:
        plots.save(figure, path, format)


def _split(file: FeatureFile, wish: Wish) -> tuple[str, Split]:
    name = wish.split or ("test" if "test" in file.splits else next(iter(file.splits), ""))
    if name not in file.splits:
        raise unknown(f"split of {wish.shown[0]}", name, file.splits)
    return name, file.splits[name]


def _labelled(file: FeatureFile, wish: Wish) -> tuple[str, Any, Any]:
    """A split's name, its labels (N) and the predictions or clusters of its runs (R, N); a run wished for is one."""
    name, split = _split(file, wish)
    if split.labels is None or split.predicted is None:
        raise ClipkitError(
            f"{wish.shown[0]} must hold labels to compare with; its images are not labelled"
        )
    if wish.run is not None and wish.run >= len(split.predicted):
        raise UsageError(
            f"--run must be below {len(split.predicted)}, the runs on {name}; got {wish.run}"
        )
    return name, split.labels, split.predicted


def _predictions(file: FeatureFile, wish: Wish) -> tuple[Any, list[str], str]:
    """Counts (C, C) of one run, the classes' names and the run's name."""
    from clipkit import metrics

    maker = file.history[-1]["command"] if file.history else ""
    if not file.splits or maker == "cluster":
        hint = "keep them with: clipkit probe -o, or clipkit zeroshot -o"
        raise ClipkitError(
            f"{wish.shown[0]} must hold predicted classes; it holds {maker or 'none'}", hint
        )
    name, labels, predicted = _labelled(file, wish)
    run = int((predicted == labels).mean(axis=1).argmax()) if wish.run is None else wish.run
    n = int(max(labels.max(), predicted.max())) + 1
    if n > MOST_CLASSES:
        raise ClipkitError(
            f"{wish.shown[0]} must have at most {MOST_CLASSES:,} classes to be drawn; it has {n:,}"
        )
    names = file.class_names or [str(i) for i in range(n)]
    counts = metrics.confusion(labels, predicted[run], len(names))
    if wish.groups is not None:
        counts, names = _grouped(counts, names, wish.groups)
    return counts, names, f"{maker}, {_run_name(file, name, run)}"


def _grouped(counts: Any, names: list[str], file: str) -> tuple[Any, list[str]]:
    """Counts (G, G) of groups of classes, from those of classes and a file of class TAB group."""
    import numpy as np

    from clipkit import files, prompts

    pairs = [text.partition("\t") for text in prompts.parse(files.read_bytes(file), file).texts]
    group_of = {name.strip(): group.strip() for name, _, group in pairs}
    missing = [name for name in names if not group_of.get(name)]
    if missing:
        raise ClipkitError(
            f"{file} must give every class a group; {missing[0]!r} has none",
            "write a line: class TAB group",
        )
    groups = sorted({group_of[name] for name in names})
    member = np.array(
        [[group_of[name] == group for name in names] for group in groups], dtype=np.int64
    )  # (G, C)
    return member @ counts @ member.T, groups


def _run_name(file: FeatureFile, split: str, run: int) -> str:
    """What sets a run apart: its classifier, C and temperature."""
    import numpy as np

    column = "eval_split" if "eval_split" in file.runs else "split"
    row = int(np.flatnonzero(file.runs[column] == split)[run])
    values = {
        key: file.runs[key][row] for key in ("classifier", "C", "temperature") if key in file.runs
    }
    known = [
        f"{value}" if key == "classifier" else f"{key} {value:g}"
        for key, value in values.items()
        if value == value
    ]
    return ", ".join([*known, f"on {split}"])


def _confusion(files: list[FeatureFile], wish: Wish) -> Figure:
    from clipkit import plots

    counts, names, run = _predictions(files[0], wish)
    return plots.confusion(counts, names, title=wish.title or f"Confusion ({run})")


def _classes(files: list[FeatureFile], wish: Wish) -> Figure:
    from clipkit import metrics, plots

    counts, names, run = _predictions(files[0], wish)
    scores = metrics.per_class(counts)
    return plots.classes(
        scores.f1,
        names,
        support=counts.sum(axis=1),
        title=wish.title or f"F1 of each class ({run})",
    )


def _clusters(files: list[FeatureFile], wish: Wish) -> Figure:
    from clipkit import metrics, plots

    (file,) = files
    if not file.history or file.history[-1]["command"] != "cluster":
        hint = "keep them with: clipkit cluster img.h5 -o clusters.h5"
        raise ClipkitError(f"{wish.shown[0]} must hold clusters; it does not", hint)
    name, labels, runs = _labelled(file, wish)
    assigned = runs[wish.run or 0]
    k, n = int(assigned.max()) + 1, len(file.class_names or range(int(labels.max()) + 1))
    if max(n, k) > MOST_CLASSES:
        raise ClipkitError(
            f"{wish.shown[0]} must have at most {MOST_CLASSES:,} clusters and classes to be drawn"
        )
    counts = metrics.confusion(labels, assigned, max(n, k))[:n, :k]
    names = file.class_names or [str(i) for i in range(n)]
    return plots.clusters(
        counts, names, title=wish.title or f"Clusters (k-means, k {k}, on {name})"
    )


def _distribution(name: str) -> Callable[[list[FeatureFile], Wish], Figure]:
    def draw(files: list[FeatureFile], wish: Wish) -> Figure:
        from clipkit import plots, softmax

        (file,) = files
        split, part = _split(file, wish)
        written_at = file.temperature or 1.0
        taus = parse_temperatures(wish.temperature, file.logit_scale) or [written_at]
        values = {tau: getattr(softmax, name)(part.features * written_at, tau) for tau in taus}
        title = wish.title or f"{len(part)} images of {split}"
        return getattr(plots, name)(values, part.features.shape[1], title=title)  # type: ignore[no-any-return]

    return draw


def _class_means(file: FeatureFile, wish: Wish) -> tuple[Any, list[str]]:
    """Mean cosine of each class with each prompt (C, K), and the classes' names."""
    from clipkit import similarity

    name, part = _split(file, wish)
    if part.labels is None:
        raise ClipkitError(
            f"{wish.shown[0]} must have labels to average over classes; {name} has none"
        )
    names = file.class_names or [str(i) for i in range(int(part.labels.max()) + 1)]
    return similarity.class_means(
        part.features * (file.temperature or 1.0), part.labels, len(names)
    ), names


def _similarity(files: list[FeatureFile], wish: Wish) -> Figure:
    from clipkit import plots

    means, names = _class_means(files[0], wish)
    return plots.similarity(
        means, names, files[0].texts or [], centred=wish.centred, title=wish.title
    )


def _logits(files: list[FeatureFile], wish: Wish) -> Figure:
    import numpy as np

    from clipkit import plots

    (file,) = files
    rows, labels = [], []
    name, part = _split(file, wish)
    for image in wish.images:
        if image not in part.ids:
            raise unknown(f"image of {name}", image, part.ids[:10_000])
        rows.append(part.features[part.ids.index(image)] * (file.temperature or 1.0))
        labels.append(image)
    if wish.class_names or not wish.images:
        means, names = _class_means(file, wish)
        for wanted in wish.class_names or names[:5]:
            if wanted not in names:
                raise unknown("class", wanted, names)
            rows.append(means[names.index(wanted)])
            labels.append(f"mean of {wanted}")
    return plots.logits(np.stack(rows), labels, file.texts or [], title=wish.title)


def _images(files: list[FeatureFile], wish: Wish) -> Figure:
    """A class-balanced draw of a data set's images."""
    import numpy as np

    from clipkit import datasets, plots

    data = datasets.load(wish.shown[0], splits=[wish.split] if wish.split else None, limit=SHEET)
    name = "test" if "test" in data.splits else next(iter(data.splits))
    split = data.splits[name]
    images = np.stack(
        [np.asarray(split.image(i).resize((THUMB, THUMB))) for i in range(len(split))]
    )  # (N, H, W, 3)
    titles = None if split.labels is None else [data.class_names[label] for label in split.labels]
    return plots.contact_sheet(
        images, titles, 8, title=wish.title or f"{len(split)} images of {data.name}, {name}"
    )


PLOTS: dict[str, tuple[str, Callable[[list[FeatureFile], Wish], Figure]]] = {
    "confusion": ("result", _confusion),
    "classes": ("result", _classes),
    "clusters": ("result", _clusters),
    "temperature": ("result", _sweep_plots.temperature),
    "grid": ("result", _sweep_plots.grid),
    "entropy": ("logits", _distribution("entropy")),
    "confidence": ("logits", _distribution("confidence")),
    "logits": ("logits", _logits),
    "similarity": ("logits", _similarity),
    "spectrum": ("texts", _sweep_plots.spectrum),
    "images": ("data set", _images),
}
