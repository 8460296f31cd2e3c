"""`clipkit report` on folders made by hand: the thesis's figures, what is left out, refusals."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import result_file, write_feature_file
from scipy.stats import binomtest
from shell import fails, ok, partly

from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, Split, read, row_ids, write
from clipkit.report import blocks, controls, of_folder, thesis
from clipkit.report.folder import ResultsFolder

Table = dict[str, dict[str, str]]  # first cell -> column -> cell
MODEL = {"name": thesis.MODEL, "digest": "sha256:12", "precision": "fp32", "device": "cpu"}
TEST_ROWS = {"images": 10_000, "rows": "cd"}
SPLITS = {"train": {"images": 50_000, "rows": "ab"}, "test": TEST_ROWS}
DATASET = {"name": "cifar100", "splits": SPLITS}
NAMES = ("ant", "bee|hive", "cat", "dog", "eel")
LABELS = np.arange(200) % 5
RUN = {
    "classifier": "svm",
    "C": 1.0,
    "temperature": np.nan,
    "standardize": True,
    "eval_split": "test",
    "acc1": 0.75,
}
BASELINE = "2.2 baseline: SVM on standardised image embeddings (%)"


def tables(text: str) -> Table:
    """Return every row of a page's tables by its first cell: column -> cell."""
    rows: Table = {}
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            header = []
        elif not header:
            header = cells
        elif not set("".join(cells)) <= set("-:"):
            row = rows.setdefault(cells[0], {})
            assert not row.keys() & set(header[1:])
            row |= dict(zip(header[1:], cells[1:], strict=True))
    return rows


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", cell)]


def write_results(folder: Path, names: Sequence[str] = NAMES, **entry: Any) -> Path:
    """Write a folder with chapter 2's baseline: 150 of 200 test rows are right.

    `model` and `dataset` change the history's entry of `embed`; other values are added to it.
    """
    folder.mkdir()
    model = MODEL | entry.pop("model", {})
    dataset = DATASET | entry.pop("dataset", {})
    history = [{"command": "embed", "clipkit": "0.1.0", "model": model, "dataset": dataset} | entry]
    split = Split(np.ones((200, 3), np.float32), LABELS, row_ids(200))
    splits = {"train": split, "test": split}
    images = FeatureFile("images", history, splits, class_names=list(names))
    write(str(folder / "img.h5"), images)
    write_baseline(folder)
    return folder


def write_baseline(folder: Path, *runs: dict[str, Any], **entry: Any) -> None:
    """Write img.svm.h5; `runs` and `entry` change its runs and its entry of the history."""
    images = read(folder / "img.h5")
    made = {"command": "probe", "features": "logits", "fit_split": "train"}
    made["inputs"] = {"features": images.digest}
    rows = [RUN | run for run in runs or [{}]]
    predicted = np.where(np.arange(200) < 150, LABELS, (LABELS + 1) % 5)
    history = [*images.history, made | entry]
    result = result_file(rows, LABELS, [predicted] * len(rows), history, images.class_names)
    write(folder / "img.svm.h5", result, force=True)


def test_the_thesis_figure_is_shown_for_its_own_model_and_data(tmp_path: Path) -> None:
    row = tables(ok("report", write_results(tmp_path / "r")).stdout)[BASELINE]
    low, high = binomtest(150, 200).proportion_ci(method="wilson")
    assert row == {
        "thesis": "78.01",
        "here": f"75.00 ({100 * low:.2f}–{100 * high:.2f})",
        "difference": "-3.01",
    }


@pytest.mark.parametrize(
    "entry",
    [
        {"model": {"name": "tiny"}},
        {"model": {"untrained": 7}},
        {"dataset": {"name": "shapes"}},
        {"dataset": {"splits": SPLITS | {"train": {"images": 500, "rows": "ab"}}}},
        {"dataset": {"splits": {"test": TEST_ROWS}}},
        {"skipped": ["1.jpg"]},
    ],
)
@pytest.mark.long
def test_no_figure_is_shown_for_another_model_or_other_rows(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    row = tables(ok("report", write_results(tmp_path / "r", **entry)).stdout)[BASELINE]
    assert (row["thesis"], row["difference"]) == ("", "")
    assert row["here"].startswith("75.00 (")


def test_a_report_begins_with_what_ran(tmp_path: Path) -> None:
    entry = {"model": {"untrained": 7}, "dataset": {"draw": {"limit": 9, "seed": 42}}}
    folder = write_results(tmp_path / "r", **entry, skipped=["1.jpg", "2.jpg"])
    text = ok("report", folder).stdout
    heading = "# openai/clip-vit-base-patch32, untrained (seed 7) on cifar100"
    assert text.startswith(f"{heading}\n\n| what ran")
    provenance = {key: cells[""] for key, cells in tables(text).items() if "" in cells}
    assert f"numpy {np.__version__}" in provenance.pop("reported by")
    assert provenance == {
        "model": "openai/clip-vit-base-patch32, untrained (seed 7)",
        "weights": "sha256:12",
        "precision": "fp32 on cpu",
        "data set": "cifar100: 200 train + 200 test images, 5 classes",
        "draw": "limit 9, seed 42",
        "skipped images": "2",
        "rows of train": "sha256:ab",
        "rows of test": "sha256:cd",
        "results not made": "img.svm-c.h5, img.logreg.h5, classes.logits.zeroshot.h5",
        "embedded by": "clipkit 0.1.0",
    }


@pytest.mark.long
def test_the_untrained_control_has_a_column(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "a")
    control = write_results(tmp_path / "b", model={"untrained": 3, "digest": "sha256:34"})
    rows = tables(ok("report", folder, "--untrained", control).stdout)
    assert list(rows[BASELINE]) == ["thesis", "here", "untrained", "difference"]
    assert rows[BASELINE]["untrained"] == rows[BASELINE]["here"]
    assert rows["untrained control"][""].endswith("untrained (seed 3)")
    assert rows["the control's weights"][""] == "sha256:34"
    (control / "img.svm.h5").unlink()
    rows = tables(ok("report", folder, "--untrained", control).stdout)
    assert rows[BASELINE]["untrained"] == ""


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "control: expected results of an untrained model, got those of a trained one; hint: "),
        (
            {"model": {"untrained": 3}, "dataset": {"splits": SPLITS | {"test": {"rows": "xy"}}}},
            "control: expected a control on the images of ",
        ),
        (
            {"model": {"untrained": 3, "name": "tiny"}},
            f"control: expected an untrained {thesis.MODEL} with the same features, got tiny",
        ),
        ({"model": {"untrained": 3, "layer": 4}}, "with the same features, got "),
    ],
)
def test_a_folder_that_is_no_control_is_refused(
    entry: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_results(tmp_path / "r")
    control = write_results(tmp_path / "control", **entry)
    assert message in fails("report", folder, "--untrained", control)


def test_a_control_made_in_another_way_is_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    control = write_results(tmp_path / "c", model={"untrained": 3})
    write_baseline(control, {"acc1": 0.75}, val="val")
    done = partly("report", folder, "--untrained", control)
    assert tables(done.stdout)[BASELINE]["untrained"] == ""
    reason = "expected the settings and prompts of r/img.svm.h5, got others"
    assert f"left out c/img.svm.h5: {reason}" in done.stderr


def test_a_control_needs_no_entropy_at_further_temperatures() -> None:
    entries = [{"command": "entropy", "temperature": taus} for taus in ([1.0], [1.0, 0.005])]
    assert len({controls.settings(FeatureFile("result", [entry])) for entry in entries}) == 1


def test_bars_and_summary_have_the_best_of_several_controls(tmp_path: Path) -> None:
    folders = [write_results(tmp_path / "r")]
    for seed, right in ((1, 20), (2, 60)):
        control = write_results(tmp_path / f"{seed}", model={"untrained": seed})
        predicted = np.where(np.arange(200) < right, LABELS, (LABELS + 1) % 5)
        result = read(control / "img.svm.h5")
        result.splits["test"].predicted = predicted[None]
        result.set_rows([RUN | {"acc1": right / 200}])
        write(control / "img.svm.h5", result, force=True)
        folders.append(control)
    page = of_folder(folders[0], folders[1:])
    fact = page.summary[1]
    assert "the best untrained control (30.00" in fact.text
    row = next(block for block in page.blocks if isinstance(block, blocks.Table)).rows[0]
    (number,) = [cell for cell in row if isinstance(cell, blocks.Number)]
    assert number.bar.control == fact.bar.control == pytest.approx(0.3)
    assert "20.00 (10.00–30.00)" in row


@pytest.mark.parametrize("state", ["missing", "damaged"])
@pytest.mark.parametrize(
    ("picture", "result"),
    [
        ("attributes.png", "img.attributes"),
        ("variance.png", "img.variance"),
        ("shots.png", "img.shots"),
        ("reliability.png", "classes.logits.calibrate"),
        ("img.svm.confusion.png", "img.svm"),
        ("classes.logits.zeroshot.classes.png", "classes.logits.zeroshot"),
    ],
)
def test_a_picture_without_its_result_is_left_out(
    picture: str, result: str, state: str, tmp_path: Path
) -> None:
    folder = write_results(tmp_path / "r")
    write_layers(folder)  # so that there is something else to show
    (folder / picture).touch()
    path = folder / f"{result}.h5"
    path.unlink(missing_ok=True)
    if state == "damaged":
        path.write_bytes(b"no feature file")
    page = of_folder(folder)
    pictures = [block.path for block in page.blocks if isinstance(block, blocks.Picture)]
    assert not pictures
    assert page.lead is None
    expected = f"missing, so that {picture} is left out, too" if state == "missing" else "got text"
    (reason,) = [line for line in page.left_out if line.startswith(f"r/{path.name}")]
    assert expected in reason.replace("\\", "")


def test_a_picture_of_layers_is_left_out_if_one_is_damaged(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    write_layers(folder)
    (folder / "layers.png").touch()
    assert "](layers.png)" in ok("report", folder).stdout
    (folder / "img.l0.svm.h5").write_bytes(b"no feature file")
    text = partly("report", folder).stdout
    assert "## Layers" in text
    assert "](layers.png)" not in text


def write_layers(folder: Path) -> None:
    """Write the results of two layers, beside the baseline."""
    baseline = read(folder / "img.svm.h5")
    for layer in range(2):
        history = [dict(entry) for entry in baseline.history]
        history[0]["model"] = MODEL | {"layer": layer, "layers": 2, "pool": "cls", "norm": False}
        write(folder / f"img.l{layer}.svm.h5", replace(baseline, history=history))


@pytest.mark.parametrize("val", [None, 0.1])
def test_a_control_may_have_tried_fewer_temperatures(val: float | None) -> None:
    entry = {"command": "probe", "classifier": "svm", "val": val}
    files = [
        FeatureFile("result", [{**entry, "temperature": temperatures}], {})
        for temperatures in ([1.0, 0.07, 0.005], [1.0, 0.07])
    ]
    assert controls.settings(files[0]) == controls.settings(files[1])


def test_files_that_no_chapter_asks_for_and_missing_results_are_named(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    (folder / "foo.h5").write_text("no feature file")
    shutil.copy(folder / "img.svm.h5", folder / "zs.h5")
    shutil.copy(folder / "img.h5", folder / "copy.h5")  # no result: it may serve anything
    done = partly("report", folder)
    assert "left out r/foo.h5: expected a feature file, got text" in done.stderr
    assert "left out r/zs.h5: its name is not that of a chapter's result" in done.stderr
    text = " ".join(done.stdout.split())
    lacking = "| results not made | img.svm-c.h5, img.logreg.h5, classes.logits.zeroshot.h5"
    assert lacking in text.replace("\\", "")
    assert "copy.h5" not in text


def test_a_folder_of_results_with_names_of_their_own_is_reported_by_their_histories(
    tmp_path: Path,
) -> None:
    folder = write_results(tmp_path / "r")
    (folder / "img.svm.h5").rename(folder / "mine.h5")
    rows = tables(ok("report", folder).stdout)
    assert rows["mine.h5"]["accuracy (%)"].startswith("75.00 (")
    assert rows["img.h5"]["kind"] == "images"


@pytest.mark.parametrize(
    ("run", "entry", "reason"),
    [
        ({"classifier": "knn"}, {}, "expected a test run with classifier svm, got knn"),
        ({"C": 0.01}, {}, "expected a test run with C 1, got 0.01"),
        ({"standardize": False}, {}, "expected a test run with standardize 1, got 0"),
        ({"temperature": 0.5}, {}, "expected a test run with temperature 1, got 0.5"),
        ({}, {"shots": 5}, "expected probe with shots None, got 5"),
        ({}, {"fit_split": "test"}, "expected probe with fit_split train, got test"),
        ({"eval_split": "val"}, {}, "expected a run on the split test, got none"),
        ({}, {"command": "zeroshot"}, "expected a result of probe, got one of zeroshot"),
        (
            {},
            {"inputs": {"features": "sha256:0"}},
            "expected a result made from img.h5, got one made",
        ),
        ({}, {"inputs": None}, "expected a result made from img.h5, got one made"),
    ],
)
@pytest.mark.long
def test_a_result_that_is_not_what_its_name_says_is_left_out_with_the_reason(
    run: dict[str, Any], entry: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = write_results(tmp_path / "r")
    (folder / "img.svm.confusion.png").touch()
    write_baseline(folder, run, **entry)
    result = partly("report", folder)
    assert BASELINE not in tables(result.stdout)
    assert "F1 of" not in result.stdout
    assert "![" not in result.stdout
    (note,) = [line for line in result.stdout.splitlines() if line.startswith("- r/img.svm.h5: ")]
    assert reason in note
    assert result.stderr == f"clipkit: warning: left out {note.removeprefix('- ')}\n"


def test_the_baseline_is_the_run_at_c_1_wherever_it_stands_in_a_sweep(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    write_baseline(folder, {"C": 0.01, "acc1": 0.9}, {"acc1": 0.75}, {"C": 100.0, "acc1": 0.8})
    assert tables(ok("report", folder).stdout)[BASELINE]["here"].startswith("75.00 (")


def test_classes_without_test_images_are_counted_and_not_among_the_worst(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r", [*NAMES, "fox", "gnu"])
    text = " ".join(ok("report", folder).stdout.split())
    worst = "of the worst: eel 0.75, dog 0.75, cat 0.75, bee\\|hive 0.75, ant 0.75"
    assert f"{worst}; classes without test images, left out: 2." in text


def test_only_results_and_pictures_in_the_folder_are_shown(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    (folder / "img.svm.confusion.png").touch()
    text = ok("report", folder).stdout
    assert re.findall(r"!\[.*\]\((.*)\)", text) == ["img.svm.confusion.png"]
    assert "F1 of the best classes: " in text
    assert "Chapter 3" not in text


def test_the_columns_of_a_table_line_up_and_prose_is_wrapped(tmp_path: Path) -> None:
    for block in ok("report", write_results(tmp_path / "r")).stdout.split("\n\n"):
        widths = [len(line) for line in block.splitlines()]
        if block.startswith("|"):
            assert len(set(widths)) == 1
        else:
            assert max(widths) <= 100


@pytest.mark.long
def test_an_existing_page_is_replaced_only_by_force(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    page = folder / "report.md"
    ok("report", folder, "-o", page)
    assert page.read_text() == ok("report", folder).stdout
    fails("report", folder, "-o", page, exit_code=2)
    ok("report", folder, "-o", page, "--force")


def test_a_folder_without_embedded_images_is_refused(tmp_path: Path) -> None:
    line = fails("report", tmp_path)
    assert f"{tmp_path}: expected a results folder with img.h5, got none" in line
    assert "make chapter2" in line
    write_feature_file(tmp_path / "img.h5", attributes={"history": [{"command": "convert"}]})
    assert "img.h5: expected a file that clipkit embed made, got one of convert" in fails(
        "report", tmp_path
    )
    (tmp_path / "img.h5").write_text("no feature file")
    fails("report", tmp_path)
    assert "expected the name of a folder, got ''" in fails("report", "", exit_code=2)


# -- folders that somebody else filled -------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"model": {"digest": None}}, "expected model.digest, a text, got none"),
        ({"model": {"device": 5}}, "expected model.device, a text, got a number"),
        ({"dataset": {"name": ["cifar10"]}}, "expected dataset.name, a text, got a list"),
        ({"dataset": {"splits": [1]}}, "expected dataset.splits, an object, got a list"),
        ({"dataset": {"splits": {"a": 1}}}, "expected dataset.splits.a.rows, a text"),
        ({"dataset": {"draw": "all"}}, "expected dataset.draw, an object, got a text"),
        ({"skipped": 3}, "expected skipped, a list, got a number"),
        ({"clipkit": 1}, "expected clipkit, a text, got a number"),
    ],
)
@pytest.mark.long
def test_images_whose_history_does_not_say_how_they_were_made_are_refused(
    entry: dict[str, Any], message: str, tmp_path: Path
) -> None:
    line = fails("report", write_results(tmp_path / "r", **entry))
    assert f"img.h5: history, embed: {message}" in line


def _drop_columns(result: FeatureFile) -> None:
    del result.runs["acc1"], result.runs["C"]


def _drop_labels(result: FeatureFile) -> None:
    result.splits["test"].labels = None


def _drop_predictions(result: FeatureFile) -> None:
    result.splits = {"val": result.splits["test"]}


def _add_predictions(result: FeatureFile) -> None:
    split = result.splits["test"]
    split.predicted = np.tile(split.predicted, (3, 1))


def _not_a_number(result: FeatureFile) -> None:
    result.runs["acc1"] = np.array([np.nan])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_drop_columns, "expected the columns classifier, C, standardize, eval_split, acc1, got"),
        (_drop_labels, "expected labels in test, got none"),
        (_drop_predictions, "expected predictions of test, got none"),
        (_add_predictions, "expected a row of predictions for each of 1 runs on test, got 3"),
        (_not_a_number, "expected numbers in the column acc1, got NaN"),
    ],
)
@pytest.mark.long
def test_a_result_that_lacks_what_a_report_needs_is_left_out_with_the_reason(
    change: Callable[[FeatureFile], None], reason: str, tmp_path: Path
) -> None:
    folder = write_results(tmp_path / "r")
    result = read(folder / "img.svm.h5")
    change(result)
    write(folder / "img.svm.h5", result, force=True)
    report = partly("report", folder)
    assert f"- r/img.svm.h5: {reason}" in report.stdout
    assert f"clipkit: warning: left out r/img.svm.h5: {reason}" in report.stderr


@pytest.mark.parametrize("kind", ["images", "damaged"])
def test_a_file_that_is_no_result_is_left_out_with_the_reason(kind: str, tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    if kind == "images":
        write_feature_file(folder / "img.svm.h5")
    else:
        content = (folder / "img.svm.h5").read_bytes()
        (folder / "img.svm.h5").write_bytes(content[:-9])
    assert "- r/img.svm.h5: expected" in partly("report", folder).stdout


HOSTILE = "<img src=x>\n# head\x1b[31m [l](http://a.b) |cell| $x$ `code` *b* _i_ \u202e"


def test_names_make_no_markdown(tmp_path: Path) -> None:
    names = [f"{HOSTILE}{i}" for i in range(3)] + ["---", "# 1"]
    folder = write_results(
        tmp_path / "r",
        names,
        model={"name": HOSTILE, "digest": HOSTILE, "device": HOSTILE, "untrained": HOSTILE},
        dataset={
            "name": HOSTILE,
            "splits": {HOSTILE: {"rows": HOSTILE}},
            "draw": {HOSTILE: HOSTILE},
        },
        clipkit=HOSTILE,
    )
    report = ok("report", folder)
    page = report.stdout
    assert not set("\x1b\u202e") & set(page)
    unescaped = re.sub(r"\\[^\w\s]", "", page)
    for character in "<>[]`*$":
        assert character not in unescaped
    assert "://" not in unescaped
    heading, *rest = [line for line in page.splitlines() if re.match(" {0,3}#", line)]
    assert heading.startswith("# \\<img src=x\\> \\# head")
    assert all(line.startswith(("## Chapter", "### ")) for line in rest)
    assert not re.search(r"^\s*(-+|=+)\s*$", page, re.MULTILINE)
    assert len({line.count("|") - line.count(r"\|") for line in page.splitlines()[2:9]}) == 1


def test_two_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = ["crane", "bee", "crane", "dog", "eel"]
    text = " ".join(ok("report", write_results(tmp_path / "r", names)).stdout.split())
    assert "the best classes: 0: crane 0.75, bee 0.75, 2: crane 0.75" in text


def test_a_file_that_is_replaced_while_the_report_is_made_is_refused(tmp_path: Path) -> None:
    results = ResultsFolder(write_results(tmp_path / "results"))
    results._digest("img.svm")
    result = read(tmp_path / "results" / "img.svm.h5")
    result.history.append({"command": "another"})
    write(tmp_path / "results" / "img.svm.h5", result, force=True)
    with pytest.raises(ClipkitError, match=r"svm\.h5: it was replaced while the report was made"):
        results.read("img.svm")


def test_layers_of_other_data_are_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "r")
    baseline = read(folder / "img.svm.h5")
    for layer, dataset in enumerate(("cifar100", "cifar100", "cifar10")):
        history = [dict(entry) for entry in baseline.history]
        history[0]["model"] = MODEL | {"layer": layer, "layers": 2, "pool": "cls", "norm": False}
        history[0]["dataset"] = DATASET | {"name": dataset}
        result = replace(baseline, history=history)
        write(folder / f"img.l{layer}.svm.h5", result)
    (folder / "layers.png").touch()
    (folder / "img.l1.colour.svm.h5").write_bytes(b"no feature file")
    done = partly("report", folder)
    assert "left out r/img.l1.colour.svm.h5: " in done.stderr
    assert "left out r/img.l*.svm.h5: " in done.stderr
    assert "img.l2.svm.h5: expected results on cifar100, got one on cifar10" in done.stderr
    assert "## Layers" not in done.stdout
    assert "layers.png" not in done.stdout

    (folder / "img.l2.svm.h5").unlink()
    rows = tables(partly("report", folder).stdout)
    assert rows["0"]["accuracy (%)"] == rows["embedding"]["accuracy (%)"] == "75.00"
