"""The contract of questions: what each keeps to, whoever wrote it, and how that is checked.

A question is asked about small files that `clipkit.commands.samples` makes. Its record says which
kinds of files it takes. The first samples of these kinds that it accepts are its samples.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import html
import inspect
import io
import itertools
import json
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from clipkit import features
from clipkit.analysis import for_people
from clipkit.analysis.question import TEXTS, Analysis, Answer, Input, record_of
from clipkit.base import tables
from clipkit.base.errors import ClipkitError
from clipkit.base.options import expand_groups, is_list, options_of
from clipkit.commands._command import ClipkitCommand
from clipkit.commands._options import Report
from clipkit.commands.analysis import command_of
from clipkit.commands.samples import Samples
from clipkit.features import FeatureFile
from clipkit.features.columns import COUNT, LABELS, NOTHING, TEXT, Column, P
from clipkit.features.model import known_columns

Row = Mapping[str, Any]
MakePages = Callable[[Path], Sequence[str]]
# The samples of each kind, the likeliest first, and a second file of the kind
SAMPLES = {
    "images": ("images",),
    "texts": ("class_texts", "captions", "attribute_texts"),
    "logits": ("logits",),
    "result": ("result",),
    "probe": ("probe",),
}
SECOND = {"images": "other_images", "result": "other_result"}
# Options that a question may need; their samples have the same names
NEEDED: tuple[tuple[str, ...], ...] = ((), ("items",), ("table",))
# A table escapes what is invisible: names in a table and names elsewhere would differ
MARKUP = "=<script>{}</script>| \\b & %" + "é" * 200
HOSTILE = ("\t\n" + MARKUP, MARKUP)
PARTNERS = {"other_images", "other_result", "captions", "table"}  # of images, by their ids
COPIES = 3  # of an image
NARROW = 80  # columns of a terminal
TOLERANCE = 1e-6
SEEDS = (1, 2)  # beside the default
OWN_PICTURE = "picture question"  # the view of a picture that one's own question declares


def check(analysis: Analysis, make_pages: MakePages) -> list[str]:
    """Return the promises that a question breaks, each as a sentence; none if it keeps all.

    `make_pages` returns the page of a report on the result in a file, in HTML and in Markdown.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(analysis, Path(folder), make_pages)
        try:
            assert trial.recipe
        except Exception as error:  # whatever the code of a question raises
            return [f"expected an answer, got {type(error).__name__}: {error}"]
        broken = PROMISES[0].broken(trial)
        if broken:  # there is nothing to try the others on
            return broken
        return [text for promise in PROMISES[1:] for text in promise.broken(trial)]


class Promise(NamedTuple):
    """What every question keeps to, and a function that yields how one breaks it."""

    name: str
    find: Callable[[Trial], Iterator[str]]

    def broken(self, trial: Trial) -> list[str]:
        """Return how a question breaks the promise, in sentences."""
        try:
            return [f"{self.name}: {text}" for text in self.find(trial)]
        except Exception as error:  # whatever the code of a question raises
            return [f"{self.name}: expected an answer, got {type(error).__name__}: {error}"]


@dataclass(frozen=True)
class Trial:
    """A question, the folder for its samples, and what makes the page of a report."""

    analysis: Analysis
    folder: Path
    make_pages: MakePages

    @functools.cached_property
    def samples(self) -> Samples:
        """The samples that others are compared with."""
        return Samples(self.folder / "samples")

    def changed(self, name: str, **fields: Any) -> Samples:
        """Return samples that differ from the first."""
        return Samples(self.folder / name, **fields)

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """The name of a sample, or of several, for each parameter that needs one.

        Raises
        ------
        ClipkitError
            If the question accepts no samples.
        """
        names = list(self.analysis.files)
        choices = [self._choices(name) for name in names]
        refusal = "it takes no file"
        for needed in NEEDED:
            if not self.analysis.parameters.keys() >= set(needed):
                continue
            for chosen in itertools.product(*choices):
                recipe = dict(zip(names, chosen, strict=True)) | {name: name for name in needed}
                recipe = {name: sample for name, sample in recipe.items() if sample is not None}
                try:
                    self.ask(self.samples, recipe)
                except ClipkitError as error:
                    refusal = str(error)
                    continue
                return recipe
        raise ClipkitError(f"it accepts no samples of its kinds; the last refusal: {refusal}")

    def _choices(self, name: str) -> list[Any]:
        """Return the samples that may stand for a file, or lists of them; None leaves it out."""
        parameter, record = self.analysis.parameters[name], self.analysis.files[name]
        is_optional = parameter.default is not parameter.empty
        if not isinstance(record, Input):
            return [None] if is_optional else [SAMPLES[kind][0] for kind in record.kinds]
        choices: list[Any] = []
        for kind in record.kinds or tuple(SAMPLES):
            if is_list(get_args(parameter.annotation)[0]):
                second = SECOND.get(kind, SAMPLES[kind][-1])
                choices += [(second,), (SAMPLES[kind][0], second)]
            else:
                choices += SAMPLES[kind]
        return [*choices, None] if is_optional else choices

    @property
    def names(self) -> set[str]:
        """The names of all samples of the recipe."""
        found: set[str] = set()
        for sample in self.recipe.values():
            found.update(sample if isinstance(sample, tuple) else [sample])
        return found

    def ask(self, samples: Samples, recipe: Mapping[str, Any], **options: Any) -> FeatureFile:
        """Return the result of the question about samples; messages are not shown."""
        arguments: dict[str, Any] = {}
        for parameter, names in recipe.items():
            if isinstance(names, tuple):
                arguments[parameter] = [getattr(samples, name) for name in names]
            else:
                arguments[parameter] = getattr(samples, names)
        with contextlib.redirect_stderr(io.StringIO()):
            result = self.analysis.function(**arguments, **options)
        if not isinstance(result, FeatureFile):
            raise TypeError(f"expected a result, got {type(result).__name__}")
        return result

    @functools.cached_property
    def result(self) -> FeatureFile:
        """The result that others are compared with."""
        return self.ask(self.samples, self.recipe)

    @functools.cached_property
    def known(self) -> dict[str, Column]:
        """The known columns of the result."""
        return known_columns(self.result)

    @functools.cached_property
    def drawn(self) -> set[str]:
        """The columns that change with the seed: they may also change with the order of rows."""
        names: set[str] = set()
        if "seed" not in self.analysis.parameters:
            return names
        rows = sorted(self.result.rows(), key=_texts)
        for seed in SEEDS:
            others = sorted(self.ask(self.samples, self.recipe, seed=seed).rows(), key=_texts)
            if len(others) != len(rows):
                return set(self.result.runs)
            for row, other in zip(rows, others, strict=True):
                names |= {name for name in row if not _is_same(row[name], other[name])}
        return names

    def takes(self, *names: str) -> bool:
        """Whether the question has parameters of these names."""
        return self.analysis.parameters.keys() >= set(names)

    def is_refused(self, samples: Samples, recipe: Mapping[str, Any], **options: Any) -> bool:
        """Whether samples are refused in one line."""
        try:
            self.ask(samples, recipe, **options)
        except ClipkitError as error:
            return "\n" not in str(error)
        return False


def _is_same(value: Any, other: Any) -> bool:
    if not isinstance(value, float | int) or not isinstance(other, float | int):
        return bool(value == other)
    if math.isnan(value) or math.isnan(other):
        return math.isnan(value) and math.isnan(other)
    return math.isclose(value, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _texts(row: Row) -> list[str]:
    return [value for value in row.values() if isinstance(value, str)]


def _differences(
    expected: Sequence[Row], rows: Sequence[Row], without: Iterable[str] = ()
) -> Iterator[str]:
    """Yield the columns whose values differ, in whichever order the rows are."""
    if len(rows) != len(expected):
        yield f"expected {len(expected)} rows, got {len(rows)}"
        return
    names = [name for name in expected[0] if name not in set(without)]
    if set(rows[0]) != set(expected[0]):
        yield f"expected the columns {', '.join(expected[0])}, got {', '.join(rows[0])}"
        return

    def place(row: Row) -> list[str]:
        texts = [row[name] for name in names if isinstance(row[name], str)]
        numbers = [row[name] for name in names if isinstance(row[name], float | int)]
        return texts + [f"{number:.4g}" for number in numbers]

    pairs = list(zip(sorted(expected, key=place), sorted(rows, key=place), strict=True))
    for name in names:
        for row, other in pairs:
            if not _is_same(row[name], other[name]):
                yield f"expected {name} {row[name]}, got {other[name]}"
                break


def _gives_a_result(trial: Trial) -> Iterator[str]:
    """Yield how its result does not name it, or has no row."""
    result, name = trial.result, trial.analysis.name
    if result.history[-1]["command"] not in (name, "run"):
        yield f"expected the history of {name}, got {result.history[-1]['command']}"
    if not result.rows():
        yield "expected a row, got none"


def _knows_its_columns(trial: Trial) -> Iterator[str]:
    """Yield its columns that have no record, and so no unit."""
    for name in trial.result.runs:
        if name not in trial.known:
            yield f"expected a Column, got none for {name}"


def _survives_a_file(trial: Trial) -> Iterator[str]:
    """Yield what of its result changes if it is written and read."""
    path = str(trial.folder / "result.h5")
    features.write(path, trial.result, force=True)
    read = features.read(path)
    yield from _differences(trial.result.rows(), read.rows())
    if read.digest != trial.result.digest:
        yield f"expected the digest {trial.result.digest}, got {read.digest}"
    for format in tables.FORMATS:
        if printed(read, format) != printed(trial.result, format):
            yield f"expected the same in the format {format}, got another"


def _is_the_same_again(trial: Trial) -> Iterator[str]:
    """Yield what changes if it is asked again with the same seed."""
    again = trial.ask(trial.changed("again"), trial.recipe)
    yield from _differences(trial.result.rows(), again.rows())


def _ignores_the_order(trial: Trial) -> Iterator[str]:
    """Yield what changes with the order of the images, and not with the seed."""
    shuffled = trial.ask(trial.changed("shuffled", is_shuffled=True), trial.recipe)
    yield from _differences(trial.result.rows(), shuffled.rows(), trial.drawn)


def _counts_copies_once(trial: Trial) -> Iterator[str]:
    """Yield estimates that change, and an interval that shrinks, if each image has copies.

    An image and its copies are a cluster, as the file says, or a table.
    """
    alone = trial.ask(trial.changed("alone", is_clustered=True), trial.recipe)
    copied = trial.ask(trial.changed("clusters", copies=COPIES, is_clustered=True), trial.recipe)
    yield from _differences_of_copies(trial, alone.rows(), copied.rows())
    if not trial.takes("table", "cluster"):
        return
    recipe = {**trial.recipe, "table": "table"}
    alone = trial.ask(trial.samples, recipe, cluster="scene")
    copied = trial.ask(trial.changed("copied", copies=COPIES), recipe, cluster="scene")
    yield from _differences_of_copies(trial, alone.rows(), copied.rows())


def _differences_of_copies(
    trial: Trial, alone: Sequence[Row], copied: Sequence[Row]
) -> Iterator[str]:
    """Yield what changes with copies of the images, other than counts and p."""
    if len(copied) == COPIES * len(alone):
        return  # it lists images, and so the copies
    copied = [{name: row[name] for name in alone[0]} for row in copied]
    uncertain = {name for name in trial.known if trial.known[name].unit in (COUNT, P)}
    limits = {name for name in trial.known if trial.known[name].is_limit} | {"low", "high"}
    yield from _differences(alone, copied, uncertain | limits | trial.drawn)
    if len(alone) != len(copied):
        return
    for row, other in zip(alone, copied, strict=True):
        for low in limits & row.keys():
            high = re.sub("low$", "high", low)
            if high == low:
                continue
            width, width_of_copies = row[high] - row[low], other[high] - other[low]
            if width_of_copies < width * (1 - TOLERANCE) - TOLERANCE:
                yield f"expected {low} to {high} as wide as {width}, got {width_of_copies}"
                return


def _ignores_single_clusters(trial: Trial) -> Iterator[str]:
    """Yield what differs if each image is a cluster."""
    result = trial.ask(trial.changed("clustered", is_clustered=True), trial.recipe)
    rows = [{name: row[name] for name in trial.result.runs} for row in result.rows()]
    yield from _differences(trial.result.rows(), rows)
    if not trial.takes("table", "cluster"):
        return
    recipe = {**trial.recipe, "table": "table"}
    alone = trial.ask(trial.samples, recipe, cluster="scene").rows()
    rows = [{name: row[name] for name in trial.result.runs} for row in alone]
    yield from _differences(trial.result.rows(), rows)


def _refuses_other_kinds(trial: Trial) -> Iterator[str]:
    """Yield the files of other kinds that it does not refuse in one line."""
    for name, record in trial.analysis.files.items():
        if not record.kinds or name not in trial.recipe:
            continue
        for kind in SAMPLES.keys() - set(record.kinds):
            if kind == "probe" and "result" in record.kinds:
                continue  # a probe is a result, too
            wrong: Any = SAMPLES[kind][0]
            if isinstance(trial.recipe[name], tuple):
                wrong = (wrong,)
            if not trial.is_refused(trial.samples, {**trial.recipe, name: wrong}):
                yield f"expected {name} of the kind {kind} to be refused in one line"


def _has_swapped_files_swapped(trial: Trial) -> Iterator[str]:
    """Yield two files that it does not advise to swap if they stand in each other's place."""
    paths, files = _paths(trial), trial.analysis.files
    for first, second in itertools.combinations(paths.keys() & files.keys(), 2):
        kinds = {*files[first].kinds, *files[second].kinds}
        are_lists = isinstance(paths[first], list) or isinstance(paths[second], list)
        if are_lists or len(kinds) < len(files[first].kinds) + len(files[second].kinds):
            continue  # one of them may stand for the other
        try:
            _command_rows(trial, {**paths, first: paths[second], second: paths[first]})
        except ClipkitError as error:
            if "swap the two" in str(error) and "\n" not in str(error):
                continue
        yield f"expected advice to swap {first} and {second}"


def _knows_what_labels_give(trial: Trial) -> Iterator[str]:
    """Yield numbers that depend on labels and are there without them."""
    samples = trial.changed("unlabelled", is_labelled=False)
    try:
        rows = trial.ask(samples, trial.recipe).rows()
    except ClipkitError:
        return
    before = trial.result.rows()
    if not list(_differences(before, rows)):
        return  # it uses no labels
    for row in rows:
        for name, value in row.items():
            known = trial.known.get(name)
            is_number = isinstance(value, float)
            if known and known.depends_on == LABELS and is_number and not math.isnan(value):
                yield f"expected no {name} without labels, got {value}"
                return


def _joins_splits(trial: Trial) -> Iterator[str]:
    """Yield what differs between `--split a,b` and a split that holds the rows of both."""
    first = next(iter(trial.analysis.files.values()))
    if not trial.takes("split") or first.kinds == ("result",):  # whose runs are of one split each
        return
    takes_list = is_list(get_args(trial.analysis.parameters["split"].annotation)[0])
    names, joined = "train,test", "both"
    if takes_list:
        names, joined = [names], [joined]  # type: ignore[assignment]
    rows = trial.ask(trial.samples, trial.recipe, split=names).rows()
    expected = trial.ask(trial.changed("joined", is_joined=True), trial.recipe, split=joined)
    yield from _differences(expected.rows(), rows, {"split", *trial.drawn})


def _leaves_out_or_refuses(trial: Trial) -> Iterator[str]:
    """Yield how a row without a partner is not left out, or not refused in one line."""
    if not trial.takes("common"):
        return
    recipe, options = dict(trial.recipe), {}
    leaves_out = True
    if not trial.names & PARTNERS:
        if not trial.takes("table"):
            return
        recipe["table"] = "table"
        if trial.takes("cluster"):
            options = {"cluster": "scene"}
            leaves_out = False  # an image that the table lacks is a cluster alone
        elif trial.takes("attribute"):
            options = {"attribute": "colour"}
    partial = trial.changed("partial", is_partial=True)
    if "items" in trial.names:  # which name an image that is not there
        partial, leaves_out = trial.changed("absent", is_small=True), False
    small = trial.changed("small", is_partial=True, is_small=True)
    rows = trial.ask(partial, recipe, common=True, **options).rows()
    if leaves_out:
        expected = trial.ask(small, recipe, common=True, **options).rows()
        yield from _differences(expected, rows, trial.drawn)
    if not trial.is_refused(partial, recipe, common=False, **options):
        yield "expected a row without a partner to be refused in one line by --strict"


def _survives_hostile_names(trial: Trial) -> Iterator[str]:
    """Yield what breaks by names with tabs, line breaks and tags, or by very long ones."""
    for number, name in enumerate(HOSTILE):
        samples = trial.changed(f"hostile-{number}", rename=name.format)
        try:
            result = trial.ask(samples, trial.recipe)
        except ClipkitError as error:
            if "\n" in str(error):
                yield f"expected one line, got {str(error)!r}"
            continue
        yield from _machine_problems(result)
        yield from _markup_problems(trial, result)
        return
    yield "expected some unusual names to be accepted"


def _prints_every_column(trial: Trial) -> Iterator[str]:
    """Yield the columns that a format, a page or a notebook lacks.

    Machine formats have all columns, and the others those that people are shown.
    """
    result = trial.result
    yield from _machine_problems(result)
    headings = [for_people.headings(result)]
    columns = tables.columns_for_people(for_people.rows_for_people(result), headings)
    titles = {column.name.removesuffix(" %") for column in columns}
    known = trial.known.values()
    settings = {column.heading.title for column in known if column.depends_on == NOTHING}
    page, _ = _pages(trial, result)
    texts = {format: printed(result, format) for format in ("table", "markdown", "latex")}
    if max(map(len, texts["table"].splitlines())) > NARROW:
        yield f"the table is wider than {NARROW} columns"
    texts |= {"page": page, "notebook": str(result._repr_html_())}
    for format, text in texts.items():
        expected = titles if format in tables.FORMATS else titles - settings  # a page words those
        for title in sorted(expected):
            words = title.replace("_", " ").split()  # LaTeX escapes some characters between words
            if not all(word in text for word in words):
                yield f"{format} lacks the column {title!r}"


def _machine_problems(result: FeatureFile) -> Iterator[str]:
    """Yield the machine formats with other rows or columns than the result's."""
    rows = for_people.rows_with_chance(result)
    names = list(rows[0])
    lines = {
        "tsv": [line.split("\t") for line in printed(result, "tsv").split("\n")[:-1]],
        "csv": list(csv.reader(io.StringIO(printed(result, "csv")))),
        "json": [names],
    }
    for row in json.loads(printed(result, "json")):
        lines["json"].append([name for name in row if name != "claims"])
    for format, (header, *others) in lines.items():
        widths = {len(cells) for cells in others}
        if header != names or len(others) != len(rows) or widths != {len(names)}:
            yield f"{format} has other columns or rows than {', '.join(names)}"


def _markup_problems(trial: Trial, result: FeatureFile) -> Iterator[str]:
    """Yield the languages in which a name became markup."""
    for format in ("table", "latex"):
        printed(result, format)
    lines = printed(result, "markdown").splitlines()
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
    if len(cells) > 1:
        yield f"markdown has rows of {min(cells)} and of {max(cells)} cells"
    texts = {"page": _pages(trial, result)[0], "notebook": str(result._repr_html_())}
    for format, text in texts.items():
        if "=<script>" in text:
            yield f"{format} has a name as a tag"


def _pages(trial: Trial, result: FeatureFile) -> Sequence[str]:
    """Return the page of a report on a result, in HTML and in Markdown."""
    path = trial.folder / "of-page.h5"
    features.write(str(path), result, force=True)
    with contextlib.redirect_stderr(io.StringIO()):
        return trial.make_pages(path)


def _says_its_claims(trial: Trial) -> Iterator[str]:
    """Yield the views that do not say what a result found, nor the verdicts of its claims.

    A page and a picture may word a sentence otherwise, but the verdicts stand there. A picture of
    one's own question has its first sentence as the title.
    """
    from clipkit.analysis.verdicts import claims_of, verdict_of
    from clipkit.statistics.claims import ABOVE, BELOW

    result = trial.result
    made, found = claims_of(result), for_people.findings(result)
    if made and not found:
        yield "expected a sentence of its claims, got none"
    verdicts = set()
    for claim in made:
        decided = claim.verdict in (ABOVE, BELOW)
        verdicts.add(_words(verdict_of(claim) if decided else claim.verdict))
    for view, text in _views(trial).items():
        says = _words(text)
        has_verdicts = bool(verdicts) and all(verdict in says for verdict in verdicts)
        for sentence in found[:1] if view == OWN_PICTURE else found:
            if _words(sentence) not in says and not has_verdicts:
                yield f"the {view} does not say {sentence!r}"


def _views(trial: Trial) -> dict[str, str]:
    """Return what people read of a result, by where they do."""
    from clipkit import plots
    from clipkit.commands.info import info
    from clipkit.plots import style

    result, notes, of_info = trial.result, io.StringIO(), io.StringIO()
    page, markdown = _pages(trial, result)
    with contextlib.redirect_stderr(of_info), contextlib.redirect_stdout(io.StringIO()):
        info([str(trial.folder / "of-page.h5")], runs=True, format="table")
    views = {
        "terminal": printed(result, "table", notes) + notes.getvalue(),
        "table for a paper": for_people.as_table(result),
        "page": page,
        "report.md": markdown,
        "notebook": str(result._repr_html_()),
        "report of info": of_info.getvalue(),
    }
    for picture in plots.pictures_of(result)[:1]:
        figure, source = picture.draw_file(result)
        style.finish(figure, source)
        views[f"picture {picture.name}"] = "\n".join(style.texts_of(figure))
    return views


def _words(text: str) -> str:
    """Return the words and numbers of a text without markup, in lower case."""
    plain = html.unescape(re.sub(r"<[^>]*>", "", text))
    return " ".join(re.findall(r"[\w.]+", plain.lower()))


def printed(result: FeatureFile, format: str, notes: io.StringIO | None = None) -> str:
    """Return what the command prints of a result on 80 columns; its notes are added to `notes`."""
    out, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(NARROW)
    notes = notes or io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(notes):
            Report(format=format).show(Answer(result))
    finally:
        del os.environ["COLUMNS"]
        if width is not None:
            os.environ["COLUMNS"] = width
    return out.getvalue()


def _has_an_example(trial: Trial) -> Iterator[str]:
    """Yield what is wrong with the command line at the end of its help."""
    name, doc = trial.analysis.name, inspect.getdoc(trial.analysis.measure) or ""
    _, _, example = doc.partition("\n\nExample: ")
    words = shlex.split(example)
    names = [name, "run"]  # `clipkit run FILE.py` asks a question of one's own
    if words[:1] != ["clipkit"] or not set(names).intersection(words):
        yield f"expected a last paragraph 'Example: clipkit {name} ...', got {example.strip()!r}"
        return
    start = words.index(name if name in words else "run")
    options = options_of(expand_groups(command_of(trial.analysis))).values()
    known = {part for option in options for full in option.names for part in full.split("/")}
    for word in itertools.takewhile(lambda word: word != "|", words[start:]):
        if word.startswith("-") and word != "-" and word not in known:
            yield f"expected the options of {name} in its example, got {word}"


def _answers_paths(trial: Trial) -> Iterator[str]:
    """Yield what differs if the function is given the names of files."""
    with contextlib.redirect_stderr(io.StringIO()):
        result = trial.analysis.function(**_paths(trial))
    yield from _differences(trial.result.rows(), result.rows(), _names_of_files(trial))


def _answers_on_the_command_line(trial: Trial) -> Iterator[str]:
    """Yield what differs if the command is given files, or one of them on standard input."""
    paths = _paths(trial)
    expected = json.loads(printed(trial.result, "json"))
    yield from _differences(expected, _command_rows(trial, paths), _names_of_files(trial))
    for name, record in trial.analysis.files.items():
        if name in paths and isinstance(record, Input) and record.is_piped:
            rows = _command_rows(trial, {**paths, name: "-"}, Path(paths[name]).read_bytes())
            yield from _differences(expected, rows, _names_of_files(trial))


def _takes_images_and_texts(trial: Trial) -> Iterator[str]:
    """Yield what differs if logits are given as images and texts."""
    logits = trial.analysis.pairing
    if not logits:
        return
    pair = {**trial.recipe, logits: "images", TEXTS: "class_texts"}
    try:
        expected = trial.ask(trial.samples, {**trial.recipe, logits: "logits"})
    except ClipkitError:
        return
    result = trial.ask(trial.samples, pair)
    yield from _differences(expected.rows(), result.rows(), _names_of_files(trial))
    if result.history != expected.history:
        yield "expected the history of a result on logits"
    printed_rows = json.loads(printed(expected, "json"))
    paths = _paths(trial, pair)
    piped = Path(paths[TEXTS]).read_bytes()
    for names, stdin in ((paths, b""), ({**paths, TEXTS: "-"}, piped)):
        rows = _command_rows(trial, names, stdin)
        yield from _differences(printed_rows, rows, _names_of_files(trial))


def _paths(trial: Trial, recipe: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the samples, and return their paths by the parameters of the question."""
    paths: dict[str, Any] = {}
    for parameter, names in (recipe or trial.recipe).items():
        found = []
        for name in names if isinstance(names, tuple) else (names,):
            sample = getattr(trial.samples, name)
            if isinstance(sample, FeatureFile):
                found.append(trial.folder / f"{name}.h5")
                features.write(found[-1], sample, force=True)
            else:
                found.append(sample)
        paths[parameter] = found if isinstance(names, tuple) else found[0]
    return paths


def _names_of_files(trial: Trial) -> set[str]:
    """Return the columns that may name a file, which has no name in memory."""
    return {"claims", *(name for name in trial.known if trial.known[name].unit is TEXT)}


def _command_rows(trial: Trial, paths: Mapping[str, Any], piped: bytes = b"") -> list[Row]:
    """Return the rows that the command prints of files."""
    words = ["--format", "json"]
    for name, parameter in trial.analysis.arguments.items():
        if name in paths:
            if not isinstance(record_of(parameter), Input):
                words.append(f"--{name.replace('_', '-')}")
            words += map(str, paths[name] if isinstance(paths[name], list) else [paths[name]])
    command = ClipkitCommand(trial.analysis.name, command_of(trial.analysis))
    context = command.make_context(trial.analysis.name, words)
    out, stdin = io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(piped))
    try:
        with context, contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            command.callback(**context.params)  # type: ignore[misc]  # there is one
    finally:
        sys.stdin = stdin
    rows: list[Row] = json.loads(out.getvalue())
    return rows


PROMISES = (
    Promise("gives a result", _gives_a_result),
    Promise("knows its columns", _knows_its_columns),
    Promise("survives a file", _survives_a_file),
    Promise("is the same again", _is_the_same_again),
    Promise("ignores the order of rows", _ignores_the_order),
    Promise("ignores clusters of one image", _ignores_single_clusters),
    Promise("counts copies once", _counts_copies_once),
    Promise("refuses files of other kinds", _refuses_other_kinds),
    Promise("has swapped files swapped", _has_swapped_files_swapped),
    Promise("leaves empty what needs labels", _knows_what_labels_give),
    Promise("joins splits", _joins_splits),
    Promise("leaves out or refuses rows without a partner", _leaves_out_or_refuses),
    Promise("survives hostile names", _survives_hostile_names),
    Promise("shows every column in every format", _prints_every_column),
    Promise("says its claims", _says_its_claims),
    Promise("has an example", _has_an_example),
    Promise("answers paths", _answers_paths),
    Promise("answers on the command line", _answers_on_the_command_line),
    Promise("takes images and texts as logits", _takes_images_and_texts),
)
