"""`clipkit report` on any files: what stands together, what is compared, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import result_file, write_feature_file
from shell import fails, ok, rows
from test_report import DATASET, LABELS, MODEL, RUN, tables

from clipkit.features import FeatureFile, Split, history_entry, write

HOSTILE = "<b>|x|`$*_[a](b)\x1b\n"


def write_result(
    path: Path, right: int, seed: int = 0, runs: int = 1, labels: Any = LABELS, **model: Any
) -> Path:
    """Write a result of a probe with `right` of 200 test rows right."""
    dataset = model.pop("dataset", DATASET)
    embed = {"command": "embed", "model": MODEL | model, "dataset": dataset}
    probe = {"command": "probe", "classifier": "svm", "C": [1.0], "seed": 42}
    wrong = np.random.default_rng(seed).permutation(200)[right:]
    predicted = np.array(labels)
    predicted[wrong] = (predicted[wrong] + 1) % 5
    result = result_file([RUN] * runs, labels, [predicted] * runs, [embed, probe], list("abcde"))
    write(str(path), result)
    return path


def test_results_on_the_same_images_stand_in_one_table_and_are_compared_in_pairs(tmp_path):
    a, b = write_result(tmp_path / "a.h5", 150), write_result(tmp_path / "b.h5", 120, seed=1)
    other = write_result(tmp_path / "c.h5", 90, dataset=DATASET | {"name": "x", "splits": {}})
    text = ok("report", a, b, other).stdout
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## cifar100, test: 200 images, 5 classes",
        "## x, test: 200 images, 5 classes",
    ]
    (compared,) = rows(ok("compare", a, b).stdout)
    difference = -100 * float(compared["difference"])
    row = text[text.index("against a.h5") :].splitlines()[2].split("|")
    assert row[1].strip() == "b.h5"
    assert row[2].strip().startswith(f"{difference:+.2f} (")
    assert [int(cell) for cell in row[3:5]] == [int(compared["only_b"]), int(compared["only_a"])]


@pytest.mark.parametrize("what", ["labels", "rows", "ids"])
def test_results_on_other_images_are_never_compared(tmp_path, what):
    a = write_result(tmp_path / "a.h5", 150)
    changed: dict[str, Any] = {}
    if what == "labels":
        changed["labels"] = (LABELS + 1) % 5
    elif what == "rows":
        changed["dataset"] = DATASET | {"splits": {"test": {"images": 200, "rows": "other"}}}
    b = write_result(tmp_path / "b.h5", 120, **changed)
    if what == "ids":
        file = FeatureFile("result", [history_entry("probe")], class_names=list("abcde"))
        ids = [f"{i}.png" for i in range(200)]
        file.splits["test"] = Split(labels=LABELS, ids=ids, predicted=LABELS[None])
        file.set_rows([RUN])
        write(str(b), file, force=True)
    text = ok("report", a, b).stdout
    assert text.count("## ") == 2
    assert "McNemar" not in text


def test_the_main_result_is_the_one_with_a_control_and_is_compared_with_it(tmp_path):
    files = [
        write_result(tmp_path / "a.h5", 160, name="another"),
        write_result(tmp_path / "b.h5", 150),
        write_result(tmp_path / "c.h5", 40, seed=1, untrained=7),
    ]
    ok("report", *files, "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text().replace("\xa0", " ")
    assert "75.00 %</strong> of 200 images are classified correctly by probe (b.h5)" in page
    assert "It is above the untrained control (20.00 %)" in page


def test_a_result_of_several_runs_is_shown_and_not_compared(tmp_path):
    files = [write_result(tmp_path / "a.h5", 150), write_result(tmp_path / "b.h5", 99, runs=3)]
    text = ok("report", *files).stdout
    assert text.count("| b.h5 ") == 3
    assert "several runs are not among the paired differences: b.h5" in " ".join(text.split())
    assert "McNemar" not in text


def test_bad_files_are_named_and_the_rest_is_shown(tmp_path):
    good = write_result(tmp_path / "good.h5", 150)
    (tmp_path / "cut.h5").write_bytes(good.read_bytes()[:-9])
    (tmp_path / "text.h5").write_text("no feature file")
    names = ["cut.h5", "text.h5", "missing.h5"]
    bad = [tmp_path / name for name in names]
    result = ok("report", *bad, good)
    assert "75.00 (" in tables(result.stdout)["good.h5"]["accuracy (%)"]
    for name, line in zip(names, result.stderr.splitlines(), strict=True):
        assert line.startswith(f"clipkit: warning: left out {name}: ")
        assert f"- {line.removeprefix('clipkit: warning: left out ')}"[:40] in result.stdout
    line = fails("report", *bad)
    assert all(name in line for name in names)


def test_other_results_and_feature_files_are_shown_by_their_history(tmp_path):
    images = write_feature_file(tmp_path / "x.h5")
    entropy = FeatureFile("result", [history_entry("entropy")])
    entropy.set_rows([{"split": "test", "temperature": 1.0, "mean_entropy": 0.5}])
    strange = FeatureFile("result", [history_entry(HOSTILE)])
    strange.set_rows([{"prompt": HOSTILE, "value": np.nan}])
    write(str(tmp_path / "y.h5"), entropy)
    write(str(tmp_path / "z.h5"), strange)
    text = ok("report", images, tmp_path / "y.h5", tmp_path / "z.h5").stdout
    found = tables(text)
    assert found["y.h5"]["mean_entropy (nats)"] == "0.5000"
    assert found["x.h5"]["kind"] == "images"
    assert r"\<b\>" in text
    assert "<b>" not in text


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    a = write_result(tmp_path / "a.h5", 150)
    assert "including the folder" in fails("report", a, tmp_path, exit_code=2)
    assert "expected a results folder with --untrained, got files" in fails(
        "report", a, "--untrained", tmp_path, exit_code=2
    )
    page = a.rename(tmp_path / "a.html")
    assert "is an input" in fails("report", page, "-f", "-o", page, exit_code=2)
    page.rename(a)
    for name in ("x.pdf", "x.html.gz"):
        message = f"{name}: expected a page that ends in .html or .md"
        assert message in fails("report", a, "-o", tmp_path / name, exit_code=2)
    assert "--album is for --images" in fails("report", a, "--album", 5, exit_code=2)


def test_files_of_one_name_have_the_folders_that_tell_them_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    files = [write_result(tmp_path / name / "x.h5", 150, seed=ord(name)) for name in "ab"]
    files.append(write_result(tmp_path / "y.h5", 90))
    text = ok("report", *files).stdout
    assert {"a/x.h5", "b/x.h5", "y.h5"} <= tables(text).keys()
    assert str(tmp_path) not in text


def test_numbers_with_a_sign_are_plain_text_and_costs_are_in_points(tmp_path):
    importance = FeatureFile("result", [history_entry("importance")])
    shares = {"acc1": 0.5, "cost": -0.01, "low": -0.02, "high": 0.04, "changed": 0.25}
    importance.set_rows([{"split": "test", "prompt": "- a", **shares}])
    entropy = FeatureFile("result", [history_entry("entropy")])
    entropy.set_rows([{"split": "test", "change": -0.5}])
    write(str(tmp_path / "x.h5"), importance)
    write(str(tmp_path / "y.h5"), entropy)
    text = ok("report", tmp_path / "x.h5", tmp_path / "y.h5").stdout
    found = tables(text)
    assert found["x.h5"]["acc1 %"] == "50.00"
    assert found["x.h5"]["cost (points)"] == "-1.00 (-2.00 to +4.00)"
    assert found["x.h5"]["changed %"] == "25.00"
    assert found["x.h5"]["prompt"] == r"\- a"
    assert found["y.h5"]["change"] == "-0.5"
