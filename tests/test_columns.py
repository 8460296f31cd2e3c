"""The records of columns: what each depends on, and what follows from it."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import MODEL, fails_with, saved
from scipy.stats import binomtest
from shell import fails, ok
from sklearn.metrics import accuracy_score, recall_score

from clipkit import analysis
from clipkit.analysis.relabeling import use_groups
from clipkit.analysis.results import NONE
from clipkit.analysis.zeroshot import classification
from clipkit.base.views import of_command
from clipkit.features import FeatureFile, Split, read
from clipkit.features import columns as records
from clipkit.features.columns import (
    CHECKED_UNITS,
    LABELS,
    NOTHING,
    ROWS,
    SHARE,
    TEXT,
    Column,
    Unit,
    columns_of_command,
)
from clipkit.features.model import known_columns
from clipkit.report.same_images import Scored
from clipkit.statistics import metrics

COLUMNS, RECORDS, COMMANDS = records.all_columns(), records.records(), analysis.names()
CLASSES = [f"c{number}" for number in range(7)]
COLOURS = ["red", "green", "blue"]
WIDTH = 8
RECALL = "mean_per_class_recall"
UNTRAINED = {**MODEL, "untrained": 7}


# ---- A small world, with other labels or other rows ----------------------------------------------


def directions(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype("f4")


def texts_file(names: list[str], features: np.ndarray, model: dict[str, Any] = MODEL) -> Any:
    return FeatureFile(
        "texts",
        [{"command": "textembed", "model": model}],
        features=features.astype("f4"),
        texts=[f"a {name}" for name in names],
        class_index=np.arange(len(names)),
        class_names=names,
    )


def write_world(folder: Path, rows: int = 0, labels: int = 0) -> None:
    """Write images with their labels, prompts, captions, items and attributes.

    Another number of `rows` stands for other images, one of `labels` for other labels of them.
    """
    random = np.random.default_rng(rows)
    other = np.random.default_rng(100 + labels)  # for all that is said of rows
    drawn = np.random.default_rng(200 + labels)
    images = FeatureFile("images", [{"command": "embed", "model": MODEL}], class_names=CLASSES)
    control = FeatureFile("images", [{"command": "embed", "model": UNTRAINED}], class_names=CLASSES)
    unknown = FeatureFile("images", [{"command": "embed", "model": MODEL}])
    lines = ["id,colour,flag,size,patient"]
    twins = ["id,colour,twin"]
    kinds, rare = ["id,kind"], ["id,rare"]
    for name, count in (("train", 140 + 7 * rows), ("test", 105 + 7 * rows)):
        shown = random.integers(0, 7, count)
        features = directions(7, 1)[shown] + 0.8 * random.standard_normal((count, WIDTH))
        ids = [f"{name}-{row + 1000 * rows}.jpg" for row in range(count)]
        given = other.choice(7, count, p=np.array([2, 2, 2, 2, 2, 3, 3]) / 16) if labels else shown
        images.splits[name] = Split(features.astype("f4"), given, ids)
        noise = random.standard_normal((count, WIDTH)).astype("f4")
        control.splits[name] = Split(noise + 0.3 * features.astype("f4"), given, ids)
        unknown.splits[name] = Split(random.standard_normal((count, WIDTH)).astype("f4"), None, ids)
        colour = other.integers(0, 3, count) if labels else shown % 3
        flag = other.random(count) < 0.3 if labels else shown < 3
        size = other.random(count) + (0 if labels else shown)
        patient = random.integers(0, 30 + rows, count)
        split_at = 3 + 3 * labels  # which classes are of one kind
        kinds += [f"{row_id},{int(c >= split_at)}" for row_id, c in zip(ids, given, strict=True)]
        of_rare = (given == 6) + 2 * labels * (given == 5)  # two values, or three
        rare += [f"{row_id},{value}" for row_id, value in zip(ids, of_rare, strict=True)]
        for cells in zip(ids, colour, flag, size, patient, strict=True):
            row_id, number, is_one, how_large, who = cells
            lines.append(f"{row_id},{COLOURS[number]},{is_one:d},{how_large:.3f},{who}")
            twin = int(number)
            if labels or drawn.random() > 0.7:
                twin = drawn.integers(3)
            twins.append(f"{row_id},{COLOURS[number]},{twin}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "kinds.csv").write_text("\n".join(kinds) + "\n")
    (folder / "rare.csv").write_text("\n".join(rare) + "\n")
    (folder / "twins.csv").write_text("\n".join(twins) + "\n")
    saved(folder / "img.h5", images)
    biased = copy.deepcopy(images)
    biased.history[0]["model"] = {**MODEL, "logit_bias": -2.0}
    saved(folder / "biased.h5", biased)
    saved(folder / "ctl.h5", control)
    siblings = copy.deepcopy(images)
    siblings.splits["test"].cluster = np.arange(len(siblings.splits["test"])) // 2
    siblings.splits["train"].cluster = 1000 + np.arange(len(siblings.splits["train"])) // 2
    saved(folder / "siblings.h5", siblings)
    known = copy.deepcopy(images)
    if labels:  # some unknown images are called known
        known.splits["test"].features[:40] = unknown.splits["train"].features[:40]
        unknown.splits["train"].features[:40] = images.splits["test"].features[:40]
    saved(folder / "known.h5", known)
    saved(folder / "unknown.h5", unknown)
    prompts = directions(7, 1) + 0.5 * directions(7, 2)
    saved(folder / "txt.h5", texts_file(CLASSES, prompts))
    saved(folder / "ctl-txt.h5", texts_file(CLASSES, directions(7, 3), UNTRAINED))
    words = [f"colour: {colour}" for colour in COLOURS] + ["flag: 1"]
    of_colours = [directions(7, 1)[number::3].mean(axis=0) for number in range(3)]
    of_words = [2 * mean - sum(of_colours) for mean in of_colours]
    of_words.append(directions(7, 1)[:3].sum(axis=0))
    words += [f"other: {number}" for number in range(20)]  # for what is not the attribute's words
    of_words = np.vstack([of_words, directions(20, 9)])
    saved(folder / "words.h5", texts_file(words, of_words))
    write_captions(folder, images, labels)
    write_items(folder, images, labels)
    groups = [f"{prompt}\t{number // 4}" for number, prompt in enumerate(f"a {c}" for c in CLASSES)]
    (folder / "prompts.tsv").write_text("\n".join(groups) + "\n")


def write_captions(folder: Path, images: FeatureFile, labels: int) -> None:
    """Write two captions of each image; other labels give them to other images."""
    split = images.splits["test"]
    image_of = np.repeat(np.arange(len(split)), 2)
    features = split.features[image_of] + 3 * directions(len(image_of), len(split))
    if labels:  # one or three captions of an image
        image_of = np.sort(np.where(np.arange(len(image_of)) % 4, image_of, image_of + 1))
        image_of = np.random.default_rng(labels).permutation(image_of % len(split))
    for name, model in (("captions.h5", MODEL), ("ctl-captions.h5", UNTRAINED)):
        captions = texts_file(split.ids, features[: len(split)], model)
        captions.features = features + (model is UNTRAINED) * directions(len(features), 5)
        captions.texts = [f"caption {number}" for number in range(len(features))]
        captions.class_index = image_of
        saved(folder / name, captions)


def write_items(folder: Path, images: FeatureFile, labels: int) -> None:
    """Write items of one right and some wrong texts; other labels call another one right."""
    split = images.splits["test"]
    random = np.random.default_rng(len(split))
    lines = ["item,image,text,correct,category"]
    texts, features = [], []
    for row, image in enumerate(split.ids):
        kind = slice(*[(0, 2), (0, 3), (1, 3)][random.integers(3)])
        of_item = [f"a b {row}", f"b a {row}", f"c d {row}"][kind]
        right = len(of_item) - 1 if labels and row % 3 else 0
        for number, text in enumerate(of_item):
            lines.append(f"{row},{image},{text},{int(number == right)},k{row % 2}")
            features.append(split.features[row] * (number == 0) + directions(1, row + number)[0])
        texts += of_item
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    for name, model in (("items.h5", MODEL), ("ctl-items.h5", UNTRAINED)):
        file = texts_file(texts, np.array(features), model)
        file.texts = texts
        file.class_index = np.full(len(texts), -1)
        file.class_names = None
        saved(folder / name, file)


# What is made for the reports, by its name
STEPS = {
    "logits.h5": "logits img.h5 txt.h5",
    "biased-logits.h5": "logits biased.h5 txt.h5",
    "ctl-logits.h5": "logits ctl.h5 ctl-txt.h5",
    "known-logits.h5": "logits known.h5 txt.h5",
    "unknown-logits.h5": "logits unknown.h5 txt.h5",
    "z.h5": "zeroshot logits.h5",
    "clusters.h5": "cluster img.h5 -k 5",
    "siblings-z.h5": "zeroshot siblings.h5 txt.h5 --split test",
    "answers.h5": "zeroshot logits.h5 --threshold 0.5",
    "p.h5": "probe logits.h5 --classifier logreg --keep",
    "rare-p.h5": "probe img.h5 --classifier logreg --table rare.csv --attribute rare",
    "rare-c.h5": "probe ctl.h5 --classifier logreg --table rare.csv --attribute rare",
    "a.h5": "attributes img.h5 words.h5 --table table.csv --attribute flag --metric auroc",
    "ctl-a.h5": "attributes ctl.h5 --table table.csv --attribute flag --metric auroc",
}
ATTRIBUTES = "attributes img.h5 words.h5 --control ctl.h5 --table table.csv"
# The control twice, since several have a range
BY_PATIENT = " --table table.csv --cluster patient"
CONTROLS = 2 * " --control ctl.h5 --control-texts ctl-{}.h5"
OF_CLASSES = "recall_chance,majority,mean_per_class_recall_low,mean_per_class_recall_high"
# Reports that together have all columns, each with the columns that distinguish its rows
REPORTS = {
    "entropy logits.h5 -t 1,0.05": "split temperature",
    "entropy logits.h5 --per-image --split test": "",
    "entropy biased-logits.h5 -t 1 --link sigmoid": "split",
    "probe logits.h5 -t 1,0.05 --table table.csv --attribute colour --cluster patient": "",
    "probe img.h5 --classifier logreg --shots 2,4 --repeat 2": "",
    "probe img.h5 --classifier knn -k 5 --per-class": "class",
    "probe img.h5 --classifier logreg --table rare.csv --attribute rare": "",
    "zeroshot logits.h5": "",
    "zeroshot logits.h5 --threshold 0.5 --table table.csv --cluster patient": "",
    "zeroshot logits.h5 --columns model,dataset,prompts,shots,acc1": "",
    "zeroshot logits.h5 --per-image --split test": "",
    "zeroshot logits.h5 --per-image --top 3 --split test": "",
    f"zeroshot logits.h5 --columns {OF_CLASSES}": "",
    f"predict ../base/p.h5 logits.h5 --columns {OF_CLASSES}": "",
    "predict ../base/p.h5 logits.h5 --threshold 0.5": "",
    "cluster img.h5 -k 5 --seed 1,2": "",
    "calibrate logits.h5 -t 0.05": "",
    "retrieve img.h5 captions.h5 --gap" + CONTROLS.replace("{}", "captions"): "split k",
    "retrieve ctl.h5 ctl-captions.h5 --gap -k 1": "",
    "choose img.h5 items.h5 --items items.csv" + CONTROLS.replace("{}", "items"): "",
    "importance ../base/p.h5 logits.h5": "prompt",
    "importance ../base/p.h5 logits.h5 --groups prompts.tsv": "group",
    "importance p.h5 --weights 7": "class prompt",
    f"{ATTRIBUTES} --attribute colour": "",
    "attributes img.h5 words.h5 --control ctl.h5 --table twins.csv --attribute colour": "",
    "attributes img.h5 --control ctl.h5": "",
    f"{ATTRIBUTES} --attribute flag --metric auroc": "",
    "attributes img.h5 --table table.csv --attribute size --metric mae": "",
    "attributes img.h5 --table table.csv --attribute size --metric r2": "",
    "variance img.h5 --table table.csv --attribute colour --attribute flag --control ctl.h5": "",
    "variance img.h5 words.h5 --table table.csv --attribute colour": "prompt",
    "compare z.h5 p.h5": "",
    "compare z.h5 p.h5 answers.h5": "b",
    "compare rare-p.h5 rare-c.h5": "",
    "compare rare-p.h5 rare-c.h5 --leaderboard": "result",
    "compare z.h5 p.h5 answers.h5 --leaderboard": "result",
    "compare z.h5 p.h5 --table table.csv --cluster patient": "",
    "compare z.h5 p.h5 --table table.csv --attribute colour": "scope group",
    "compare a.h5 ctl-a.h5": "",
    "align img.h5 ctl.h5": "measure",
    "align img.h5 ctl.h5 --blind 5": "",
    "nearest logits.h5": "query rank",
    "nearest txt.h5 img.h5 -k 2": "query rank",
    "describe logits.h5 --top 7" + 2 * " --control ctl-logits.h5": "group prompt",
    "describe logits.h5 --result clusters.h5": "group prompt",
    "mistakes z.h5 --table kinds.csv": "attribute",
    "choose img.h5 items.h5 --items items.csv" + BY_PATIENT: "",
    "align img.h5 ctl.h5" + BY_PATIENT: "measure",
    "describe logits.h5 --top 7" + BY_PATIENT: "group prompt",
    "threshold logits.h5 --fpr 0.1" + BY_PATIENT: "prompt",
    "threshold logits.h5 --fpr 0.1": "prompt",
    "threshold known-logits.h5 --unknown unknown-logits.h5": "measure",
    "info --runs z.h5 answers.h5": "",
}
# Further reports, whose columns are known from those above
OTHERS = (
    "zeroshot logits.h5 --per-class",
    "predict p.h5 logits.h5 --per-class",
    "predict p.h5 siblings.h5 txt.h5 --split test",
    "mistakes siblings-z.h5 --table kinds.csv",
    "predict p.h5 logits.h5 --per-image --split test",
    "predict p.h5 logits.h5 --top 2 --split test",
    "probe img.h5 --classifier logreg --per-image",
    "retrieve img.h5 captions.h5 --table table.csv --cluster patient",
    "probe img.h5 --classifier knn --val 0.2 --seed 1,2",
)


CLAIMED = ("verdict", "because", "needs")


def report(line: str, folder: Path, keys: str) -> dict[str, list[Any]]:
    """Return the columns of a report, its rows in the order of some of them."""
    command, *words = line.split()
    rows = json.loads(ok(command, *words, "--format", "json").stdout)
    rows = [row for row in rows if not row.get("fitted")]  # its temperature is no setting
    for row in rows:
        claims = row.pop("claims", None)
        for name in CLAIMED if claims is not None else ():
            row[name] = [claim[name] for claim in claims]
    rows.sort(key=lambda row: [str(row[key]) for key in keys.split()])
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """All reports on the same images with the same labels, with other labels, on other images."""
    root = tmp_path_factory.mktemp("worlds")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for world, changes in {"base": {}, LABELS: {"labels": 1}, ROWS: {"rows": 1}}.items():
            folder = root / world
            folder.mkdir()
            patch.chdir(folder)
            write_world(folder, **changes)
            for name, line in STEPS.items():
                ok(*line.split(), "-o", name)
            found[world] = {line: report(line, folder, keys) for line, keys in REPORTS.items()}
        patch.chdir(root / "base")
        found["others"] = {line: report(line, root / "base", "") for line in OTHERS}
    return found


def changed(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> set[str]:
    """Return the columns that hold something else in some row that both reports have."""
    return {
        name
        for name, values in before.items()
        if any(one != other for one, other in zip(values, after[name], strict=False))
    }


@pytest.mark.long
def test_a_column_depends_on_what_changes_it(reports):
    """A wrong `depends_on` of any record, or a column that no report has, makes a difference."""
    measured = {name: NOTHING for columns in reports["base"].values() for name in columns}
    for world in (ROWS, LABELS):  # what depends on labels depends on rows, too
        for line, columns in reports["base"].items():
            measured |= dict.fromkeys(changed(columns, reports[world][line]), world)
    assert measured == {column.name: column.depends_on for column in COLUMNS}


@pytest.mark.long
def test_a_column_says_which_commands_print_it(reports):
    """Of a family, such as an estimate and its interval, a command need not print all."""
    printed: dict[str, set[str]] = {}
    for line, columns in (reports["base"] | reports["others"]).items():
        command = line.split()[0]
        if command != "info":  # it prints other commands' results
            printed.setdefault(command, set()).update(columns)
    for command, names in printed.items():
        assert names <= columns_of_command(command).keys()
        for record in RECORDS:
            family = {column.name for column in record.family()}
            assert (command in record.of.split()) <= bool(family & names), (command, record.name)


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("probe img.h5 --classifier logreg --columns accuracy", "acc1"),
        ("zeroshot logits.h5 --columns accuracy", "acc1"),
        ("choose img.h5 items.h5 --items items.csv --columns right", "accuracy"),
        ("choose img.h5 items.h5 --items items.csv --columns accuracy", "accuracy"),
    ],
)
def test_a_column_may_be_named_by_its_heading(line, column, world):
    ok(*STEPS["logits.h5"].split(), "-o", "logits.h5", "--force")
    assert list(json.loads(ok(*line.split(), "--format", "json").stdout)[0]) == [column]


def test_a_column_that_a_run_lacks_is_empty_and_a_table_that_leaves_it_out_says_so(world):
    printed = ok("probe", "img.h5", "--classifier=logreg", "--columns=acc1,mean_entropy")
    assert all(row.endswith("\t") for row in printed.stdout.splitlines()[1:])
    assert printed.stderr == ""
    columns = ["--columns=acc1,mean_entropy", "--format=table"]
    table = ok("probe", "img.h5", "--classifier=logreg", *columns)
    assert "no row has a value of mean_entropy" in table.stderr


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("probe img.h5 --columns acurracy", "did you mean accuracy?"),
        ("probe img.h5 --columns zzz", "known: C, acc1, "),
        ("choose img.h5 items.h5 --columns write", "did you mean right or items?"),
    ],
)
def test_an_unknown_column_is_refused_before_the_work(line, hint):
    """The files do not exist."""
    message = fails(*line.split(), "-o", "x.h5", exit_code=2)
    assert f"unknown column of {line.split()[0]} " in message
    assert f"hint: {hint}" in message


BETWEEN_CELLS = {"table": " {2,}", "markdown": r" *\| *", "latex": r" *& *| *\\\\"}


def shown_numbers(text: str, format: str) -> set[tuple[str, str]]:
    """Return the numbers of a printed table, each with the title of its column."""
    lines = [line for line in text.splitlines() if "dummy" in line or "0.5" in line]
    header, *body = [re.split(BETWEEN_CELLS[format], line.strip()) for line in lines]
    cells = [pair for line in body for pair in zip(header, line, strict=True)]
    return {(title, cell) for title, cell in cells if cell.startswith("0.5")}


@pytest.mark.parametrize("format", BETWEEN_CELLS)
def test_a_column_is_shown_in_the_unit_of_its_command(format, tmp_path, monkeypatch):
    """Every command has a column `dummy` with relatives, in a unit of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "99999")
    dummies = []
    for command in sorted(COMMANDS):
        unit = Unit(command, lambda value, command=command: f"{value:g}{command}")
        dummy = Column("dummy", unit, LABELS, has_interval=True, relatives="control", of=command)
        dummies += dummy.family()
    monkeypatch.setattr(records, "all_columns", lambda: (*COLUMNS, *dummies))
    names = list(dict.fromkeys(column.name for column in dummies))
    options = ("--columns", ",".join(names), "--format", format)
    of_all = set()
    for command in sorted(COMMANDS):
        runs = {name: np.array([0.5]) for name in names}
        saved(Path(f"{command}.h5"), FeatureFile("result", [{"command": command}], runs=runs))
        own = {(f"{name.replace('_', ' ')} ({command})", f"0.5{command}") for name in names}
        printed = ok("info", "--runs", f"{command}.h5", *options).stdout
        assert shown_numbers(printed, format) == own
        of_all |= own
    files = [f"{command}.h5" for command in sorted(COMMANDS)]
    assert shown_numbers(ok("info", "--runs", *files, *options).stdout, format) == of_all


@pytest.mark.parametrize("command", [*sorted(COMMANDS), "another program"])
def test_a_new_column_is_shown_everywhere(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "999")
    dummy = Column("dummy", SHARE, LABELS, has_interval=True, of=command)
    monkeypatch.setattr(records, "all_columns", lambda: (*COLUMNS, *dummy.family()))
    question = of_command(command)
    values = dict.fromkeys(question.layout.needed.split() if question else (), 0.5)
    values |= {"dummy": 0.25, "dummy_low": 0.125, "dummy_high": 0.375}
    result = FeatureFile("result", [{"command": command}])
    result.set_rows([{**values, "split": "test"}])
    saved(Path("r.h5"), result)
    printed = ok("info", "--runs", "r.h5", "--format", "json").stdout
    assert json.loads(printed)[0]["dummy_high"] == 0.375
    assert "0.25\t0.125\t0.375" in ok("info", "--runs", "r.h5", "--format", "tsv").stdout
    shown = [ok("info", "--runs", "r.h5", "--format", name).stdout for name in BETWEEN_CELLS]
    shown += [ok("report", "r.h5").stdout, read("r.h5")._repr_html_()]
    ok("report", "r.h5", "-o", "page.html")
    shown.append(Path("page.html").read_text())
    for text in shown:
        assert re.search(r"dummy \\?%", text)
        assert re.search(r"25\.00 (& )?\(12\.50–?(--)?37\.50\)", text)
        assert "dummy low" not in text


@pytest.mark.parametrize("format", ["table", "markdown", "latex"])
def test_the_numbers_of_an_attribute_have_the_unit_of_its_metric(format, world, monkeypatch):
    monkeypatch.setenv("COLUMNS", "999")
    line = "attributes img.h5 --table table.csv --attribute size" + 2 * " --control ctl.h5"
    columns = "random,probe,control,control_low,control_high,gain,null,null5,null95"
    options = ("--columns", columns, "--format", format)
    ok(*line.split(), "--metric", "r2", "-o", "share.h5")
    printed = ok(*line.split(), "--metric", "mae", *options, "-o", "error.h5").stdout
    assert "control low" in printed
    assert "%" not in printed
    assert ok("info", "--runs", "error.h5", *options).stdout == printed
    share = ok("info", "--runs", "share.h5", *options).stdout
    assert share.count("%") == 7  # all but the two of errors
    both = ok("info", "--runs", "error.h5", "share.h5", *options).stdout
    assert both.count("control low") == 2  # in both units
    assert both.count("%") == 7


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_two_columns_of_a_command_are_called_the_same(command):
    printed = [column for column in COLUMNS if not column.of or command in column.of.split()]
    titles = [column.heading.title for column in printed]
    assert len({column.name for column in printed}) == len(set(titles)) == len(titles)


def test_a_name_that_is_checked_in_files_means_the_same_in_all_commands():
    named = [column for column in COLUMNS if column.name in CHECKED_UNITS]
    assert all(column.unit is CHECKED_UNITS[column.name] for column in named)


def test_the_documentation_of_the_format_lists_the_columns_that_are_checked():
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    table = page.split("| column | value |")[1].split("\n\n")[0]
    listed = re.findall("`([^`]+)`", table)
    assert sorted(listed) == sorted(CHECKED_UNITS)


# ---- What follows from labels and predictions ----------------------------------------------------


def wilson(hits: np.ndarray) -> tuple[float, float]:
    if not len(hits):
        return np.nan, np.nan
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return interval.low, interval.high


def reference(labels: np.ndarray, predicted: np.ndarray, class_names: list[str]) -> dict[str, Any]:
    """Return, by scikit-learn and SciPy, what follows from the predictions of a run."""
    right = labels == predicted
    has_answer = np.array(class_names)[predicted] != NONE
    recall = recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    found = {"acc1": accuracy_score(labels, predicted), "mean_per_class_recall": recall}
    found["acc1_low"], found["acc1_high"] = wilson(right)
    found["coverage"] = has_answer.mean()
    found["coverage_low"], found["coverage_high"] = wilson(has_answer)
    found["acc1_answered"] = right[has_answer].mean()
    found["acc1_answered_low"], found["acc1_answered_high"] = wilson(right[has_answer])
    return found


def check_scores(result: FeatureFile) -> None:
    """Check all columns that depend on labels; what does not follow from predictions is unknown."""
    columns = known_columns(result)
    for split, scored in result.splits.items():
        for row, predicted in zip(result.runs_on(split), scored.predicted, strict=True):
            known = reference(scored.labels, predicted, result.class_names)
            if "clusters" in row:  # the limits are wider, for fewer effective rows
                limits = [name for name in row if columns[name].is_limit]
                assert all(np.isfinite(row[name]) for name in limits)
                row = {name: row[name] for name in row if name not in limits}
                known = {name: known[name] for name in known if name not in limits}
            of_labels = {name: row[name] for name in row if columns[name].depends_on == LABELS}
            expected = {name: known.get(name, np.nan) for name in of_labels}
            assert of_labels == pytest.approx(expected, nan_ok=True)


def test_a_further_accuracy_is_in_the_reports_in_its_order(world, monkeypatch):
    monkeypatch.setattr(metrics, "TOPS", (1, 3, 5))
    acc3 = replace(columns_of_command("zeroshot")["acc5"], name="acc3", title="top 3")
    monkeypatch.setattr(records, "all_columns", lambda: (*COLUMNS, acc3))
    for line in ("zeroshot logits.h5", "probe logits.h5 --classifier logreg"):
        names = ok(*line.split()).stdout.splitlines()[0].split("\t")
        first = names.index("acc1")
        assert names[first : first + 5] == ["acc1", "chance", "acc3", "acc5", RECALL]
    few = read("logits.h5")
    few.class_index, few.class_names = few.class_index // 2, CLASSES[:4]
    few.splits = {"test": Split(few.splits["test"].features)}
    (row,) = classification.evaluate(few).rows()
    assert list(row) == ["split", "acc1", "acc3", "acc5", RECALL, "acc1_low", "acc1_high"]


def test_accuracies_are_columns_in_the_order_of_their_records():
    records = [record.name for record in analysis.find("probe").columns]
    places = [records.index(name) for name in (*metrics.accuracy_names(), RECALL)]
    assert places == sorted(places)


RESULTS = [
    "zeroshot logits.h5 --threshold 0.5",
    "zeroshot logits.h5",
    "zeroshot logits.h5 --threshold 0.5 --table table.csv --cluster patient",
    "probe img.h5 --classifier logreg --keep",
    "probe logits.h5 -t 1,0.05 -C 1,10",
    "probe logits.h5 --classifier logreg --shots 2,4",
    "probe logits.h5 --features probs --val 0.2 -t 1,0.05",
    "predict p.h5 logits.h5",
    "predict p.h5 logits.h5 --threshold 0.5",
]


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    """A folder with the files of a small world, and groups of its classes."""
    folder = tmp_path_factory.mktemp("small")
    write_world(folder)
    lines = [f"{name}\t{'even' if number % 2 else 'odd'}" for number, name in enumerate(CLASSES)]
    (folder / "g.tsv").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("logits.h5", "p.h5"):
            ok(*STEPS[name].split(), "-o", name)
    return folder


@pytest.fixture
def world(small_world, tmp_path, monkeypatch):
    """Copy the small world into the current folder."""
    monkeypatch.chdir(shutil.copytree(small_world, tmp_path / "world"))


@pytest.mark.parametrize("options", ["", "--shuffle"])
@pytest.mark.parametrize("line", RESULTS)
def test_groups_change_what_depends_on_labels_and_nothing_else(line, options, world):
    ok(*line.split(), "-o", "r.h5")
    ok("relabel", "r.h5", "--groups", "g.tsv", *options.split(), "-o", "grouped.h5")
    before, after = read("r.h5"), read("grouped.h5")
    check_scores(after)
    assert set(before.runs) == set(after.runs)
    known = known_columns(before)
    for name in before.runs:
        if known[name].depends_on != LABELS:
            np.testing.assert_array_equal(after.runs[name], before.runs[name])
    answers = {name for name in before.class_names if name == NONE}
    assert set(after.class_names) == {"even", "odd", *answers}
    for split in before.splits:
        old, new = before.splits[split], after.splits[split]
        is_none = np.array(before.class_names)[old.predicted] == NONE
        np.testing.assert_array_equal(np.array(after.class_names)[new.predicted] == NONE, is_none)


def every_column(labels: np.ndarray, predicted: np.ndarray) -> FeatureFile:
    """Return another program's result with predicted classes that has every column."""
    result = FeatureFile("result", [{"command": "other"}], class_names=[*CLASSES, NONE])
    ids = [f"{row}.jpg" for row in range(len(labels))]
    result.splits["test"] = Split(labels=labels, ids=ids, predicted=predicted[None])
    result.runs = {
        name: np.array(["test"] if column.unit is TEXT else [0.1234])
        for name, column in columns_of_command("other").items()
        if name not in ("eval_split", "clusters")
    }
    return result


def test_every_column_stays_or_is_computed_again_or_unknown():
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 7, 50), random.integers(0, 8, 50)
    before = every_column(labels, predicted)
    groups = ["x", "y", "x", "y", "x", "y", "x", NONE]
    after = use_groups(before, groups)
    named = {name: np.array(groups)[codes] for name, codes in (("l", labels), ("p", predicted))}
    names = sorted(set(groups))
    codes = {name: np.array([names.index(one) for one in values]) for name, values in named.items()}
    expected = reference(codes["l"], codes["p"], names)
    for name, column in columns_of_command("other").items():
        if name not in before.runs:
            continue
        (value,) = after.runs[name]
        if column.depends_on != LABELS:
            assert value == before.runs[name][0], name
        elif name in expected:
            assert value == pytest.approx(expected[name]), name
        else:
            assert value == "" if column.unit is TEXT else np.isnan(value), name


def test_on_some_of_the_images_what_depends_on_rows_is_unknown():
    random = np.random.default_rng(0)
    whole = every_column(random.integers(0, 7, 50), random.integers(0, 8, 50))
    part = replace(whole, splits={"test": whole.splits["test"].take(range(20))})
    taken = Scored.read("whole.h5", whole).take_images_of(Scored.read("part.h5", part))
    (row,) = taken.runs
    for name, column in columns_of_command("other").items():
        if name in whole.runs:
            is_kept = row[name] == whole.runs[name][0]
            assert is_kept == (column.depends_on == NOTHING), name
    assert len(taken.ids) == 20


@pytest.mark.parametrize("command", ["cluster", "retrieve", "choose", "attributes"])
def test_results_without_predicted_classes_have_no_groups(command):
    result = every_column(np.arange(7), np.arange(7))
    result.history = [{"command": command}]
    with fails_with("expected a result with predicted classes, got none"):
        use_groups(result, ["x"] * 8)
