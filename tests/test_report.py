"""`clipkit report` on folders made by hand: the thesis's figures, what is left out, refusals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import result_file, write_feature_file
from scipy.stats import binomtest
from shell import fails, ok

from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile, Split, read, row_ids, write
from clipkit.report import thesis
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
            assert cells[0] not in rows
            rows[cells[0]] = dict(zip(header[1:], cells[1:], strict=True))
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
        "embedded by": "clipkit 0.1.0",
    }


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
def test_a_result_that_is_not_what_its_name_says_is_left_out_with_the_reason(
    run: dict[str, Any], entry: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = write_results(tmp_path / "r")
    (folder / "img.svm.confusion.png").touch()
    write_baseline(folder, run, **entry)
    result = ok("report", folder)
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
    worst = "of the worst: eel 0.75, dog 0.75, cat 0.75, bee|hive 0.75, ant 0.75"
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


def test_a_file_that_is_replaced_while_the_report_is_made_is_refused(tmp_path: Path) -> None:
    results = ResultsFolder(write_results(tmp_path / "results"))
    images = read(tmp_path / "results" / "img.h5")
    images.history.append({"command": "another"})
    write(tmp_path / "results" / "img.h5", images, force=True)
    with pytest.raises(ClipkitError, match=r"img\.h5: it was replaced while the report was made"):
        results.read("img")
