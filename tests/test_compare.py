"""`compare`: results on the same images, paired, by group, and the worst group with its null."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import random_features, result_file, split, write_feature_file
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm
from shell import fails, ok, rows
from sklearn.metrics import cohen_kappa_score

from clipkit.analysis.compare.comparison import compare, pair
from clipkit.base import tables
from clipkit.features import FeatureFile, read, write
from clipkit.features.columns import columns_of_command
from clipkit.plots.compare import read_comparison
from clipkit.statistics import dependence, metrics
from clipkit.statistics.claims import difference_sentence

RNG = np.random.default_rng(0)
RIGHT = RNG.random((3, 300)) < [[0.8], [0.7], [0.72]]  # of three results


def result(right: ArrayLike, name: str = "r", **changes: Any) -> FeatureFile:
    """Return a result of two classes that predicts the right one where `right` says so."""
    labels = np.arange(np.shape(right)[-1]) % 2
    predicted = np.where(np.atleast_2d(right), labels, 1 - labels)
    runs = [{"split": "test", "acc1": float(row.mean())} for row in np.atleast_2d(right)]
    file = result_file(runs, labels, predicted, [{"command": "zeroshot"}], ["cat", "dog"])
    file.display_name = f"{name}.h5"
    for key, value in changes.items():
        setattr(file.splits["test"], key, value)
    return file


def saved(folder: Path, **files: FeatureFile) -> list[Path]:
    for name, file in files.items():
        write(folder / f"{name}.h5", file)
    return [folder / f"{name}.h5" for name in files]


def test_several_pairs_fit_eighty_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    more = RIGHT[0] & RIGHT[1]
    files = saved(tmp_path, svm=result(RIGHT[0]), zeroshot=result(RIGHT[1]), logreg=result(more))
    lines = ok("compare", *files, "--format", "table").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "difference" in " ".join(lines)


@pytest.mark.parametrize("length", [28, 60])
def test_long_names_are_broken_in_a_table_of_several_pairs(tmp_path, monkeypatch, length):
    monkeypatch.setenv("COLUMNS", "80")
    names = [letter * length for letter in "abc"]
    more = [*RIGHT[:2], RIGHT[0] & RIGHT[1]]
    right = dict(zip(names, map(result, more), strict=True))
    files = saved(tmp_path, **right)
    lines = ok("compare", *files, "--format", "table").stdout.splitlines()
    assert max(map(len, lines[:-2])) <= 80  # below the table, a name is not broken
    assert "".join(lines).count("b") >= length


def test_a_table_is_followed_by_what_its_intervals_decide(tmp_path):
    files = saved(tmp_path, a=result(RIGHT[0]), b=result(RIGHT[1]))
    (row,) = compare(pair([read(path) for path in files])).rows()
    said = f"clipkit: {difference_sentence(row)}\n"
    assert ok("compare", *files, "--format", "table").stderr.endswith(said)
    assert said not in ok("compare", *files).stderr
    assert said not in ok("compare", files[0], "--format", "table").stderr


@pytest.fixture
def pair_of(tmp_path: Path) -> list[Path]:
    """Two results of the same images."""
    return saved(tmp_path, a=result(RIGHT[0]), b=result(RIGHT[1]))


def compared(*right: ArrayLike, **options: Any) -> list[dict[str, Any]]:
    files = [result(row, name) for row, name in zip(right, "abcdefg", strict=False)]
    return compare(pair(files), **options).rows()


def cells(both: int, only_a: int, only_b: int, neither: int) -> NDArray[np.bool_]:
    """Return what two results get right (2, N), from the numbers of their four cells."""
    pairs = [[True, True], [True, False], [False, True], [False, False]]
    return np.repeat(pairs, [both, only_a, only_b, neither], axis=0).T


@pytest.mark.parametrize(("b", "c"), [(121, 59), (0, 0), (1, 0), (0, 7), (5, 5), (85, 57)])
def test_p_is_that_of_mcnemars_exact_test(b, c):
    (row,), (exchanged,) = compared(*cells(300, b, c, 100)), compared(*cells(300, c, b, 100))
    assert (row["p"], row["only_a"]) == (exchanged["p"], exchanged["only_b"])
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert row["p"] == pytest.approx(expected, rel=1e-12)
    log10_p = dependence.paired_test_log10([1] * b + [-1] * c)
    assert log10_p == pytest.approx(math.log10(expected), abs=1e-12)
    assert (row["both"], row["only_a"], row["only_b"], row["neither"]) == (300, b, c, 100)
    assert row["rows"] == 400 + b + c
    assert row["difference"] == pytest.approx(row["acc_a"] - row["acc_b"], abs=1e-15)
    assert row["low"] <= row["difference"] <= row["high"]


def test_a_p_value_too_small_for_a_float_has_its_logarithm_and_is_not_0_in_a_table():
    (row,) = compared(*cells(both=10, only_a=1427, only_b=8, neither=5))
    expected = 2 * sum(math.comb(1435, i) for i in range(9))
    assert row["p"] == 0
    assert row["log10_p"] == pytest.approx(math.log10(expected) - 1435 * math.log10(2), rel=1e-12)
    headings = {name: column.heading for name, column in columns_of_command("compare").items()}
    (shown,) = [
        column for column in tables.columns_for_people([row], [headings]) if column.name == "p"
    ]
    assert shown.cells == ["< 1e-300"]


@pytest.mark.parametrize("cells", [(53, 16, 8, 9), (10, 0, 0, 0), (0, 1, 0, 0), (17, 3, 0, 0)])
def test_the_interval_is_walds_after_half_a_row_is_added_to_each_cell(cells):
    """Agresti and Min's (2005), by the covariance of the four shares of a multinomial."""
    _, only_a, only_b, _ = cells
    counts = np.array(cells) + 0.5
    shares = counts / counts.sum()
    contrast = np.array([0, 1, -1, 0])
    covariance = (np.diag(shares) - np.outer(shares, shares)) / counts.sum()
    half = norm.ppf(0.975) * np.sqrt(contrast @ covariance @ contrast)
    expected = np.clip(contrast @ shares + np.array([-half, half]), -1, 1)
    found = dependence.difference_interval(only_a, only_b, sum(cells))
    assert found == pytest.approx(tuple(expected), abs=1e-6)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_an_interval_holds_the_difference(only_a, only_b, others):
    n = max(1, only_a + only_b + others)
    low, high = dependence.difference_interval(only_a, only_b, n)
    assert low <= (only_a - only_b) / n <= high
    exchanged = dependence.difference_interval(only_b, only_a, n)
    assert exchanged == pytest.approx((-high, -low), abs=1e-15)


def test_kappa_is_cohens_of_what_is_right():
    (row,) = compared(*RIGHT[:2])
    assert row["kappa"] == pytest.approx(cohen_kappa_score(*RIGHT[:2]), abs=1e-12)
    (row,) = compared([True, True], [True, True])
    assert np.isnan(row["kappa"])


def test_several_results_have_holms_correction():
    """Holm's is the closure of Bonferroni's: the largest of all sets of tests with this one."""
    p = np.array([0.01, 0.4, 0.012, 0.013, 0.9])
    sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size)]
    for i, corrected in enumerate(metrics.holm(p)):
        closure = [len(s) * p[list(s)].min() for s in sets if i in s]
        assert corrected == pytest.approx(min(1, max(closure)), abs=1e-15)
    several = compared(*RIGHT)
    assert [row["b"] for row in several] == ["b", "c"]
    assert [row["p_holm"] for row in several] == metrics.holm([r["p"] for r in several]).tolist()
    names = list(several[0])
    assert names[names.index("p") + 1 :] == ["log10_p", "p_holm", "kappa"]
    assert "p_holm" not in compared(*RIGHT[:2])[0]


def test_one_result_has_its_accuracy_and_wilsons_interval(pair_of):
    (row,) = rows(ok("compare", pair_of[0]).stdout)
    assert list(row) == ["a", "split", "rows", "acc_a", "low", "high"]
    interval = binomtest(int(RIGHT[0].sum()), 300).proportion_ci(method="wilson")
    assert (float(row["low"]), float(row["high"])) == pytest.approx(interval, abs=1e-6)


def table(folder: Path, values: Sequence[str]) -> list[object]:
    """Write attributes of the rows of `result`; return the options that choose `size`."""
    lines = [f"{row:03d},{value},x" for row, value in enumerate(values)]
    (folder / "t.csv").write_text("\n".join(["id,size,other", *lines]) + "\n")
    return ["--table", folder / "t.csv", "--attribute", "size"]


def test_groups_have_the_numbers_of_their_own_rows(pair_of, tmp_path):
    values = np.array(["small", "", "large"] * 100)
    ended = ok("compare", *pair_of, *table(tmp_path, values))
    assert "p is not corrected for the 3 comparisons" in ended.stderr
    report = rows(ended.stdout)
    assert [row["scope"] for row in report] == ["all", "group", "group", "worst", "worst"]
    assert [row["group"] for row in report[:3]] == ["", "large", "small"]
    (overall,) = rows(ok("compare", *pair_of).stdout)
    assert {name: report[0][name] for name in overall} == overall
    for row in report[1:3]:
        (alone,) = compared(*RIGHT[:2, values == row["group"]])
        for name in ("rows", "acc_a", "acc_b", "low", "high", "only_a", "p", "kappa"):
            assert float(row[name]) == pytest.approx(alone[name], rel=1e-7)
    for row, name, right in zip(report[3:], "ab", RIGHT, strict=False):
        accuracies = {group: right[values == group].mean() for group in ("small", "large")}
        assert row["group"] == min(accuracies, key=accuracies.get)
        assert (row[name], float(row[f"acc_{name}"])) == (name, min(accuracies.values()))
        assert row["p"] == row["low"] == ""


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_table_of_groups_fits_80_columns_without_a_broken_difference(
    count, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    right = {"svm": RIGHT[0], "logreg": RIGHT[1], "control": RIGHT[0] & False, "shot": RIGHT[2]}
    files = {name: result(right[name], name) for name in list(right)[:count]}
    by = table(tmp_path, ["checkered", "banded", "dotted"] * 100)
    paths = saved(tmp_path, **files)
    lines = ok("compare", *paths, *by, "--format", "table").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("worst of" in line for line in lines) == count
    pairs = [line for line in lines if re.search(r"\+[0-9.]+ \(\S+ to \S+\)|-[0-9.]+ \(", line)]
    assert len(pairs) == 4 * (count - 1)
    assert (lines[-1] == "  In all rows: a svm, b logreg") == (count == 2)


def test_groups_may_be_called_as_the_rows_about_all_groups_are(pair_of, tmp_path):
    by = table(tmp_path, ["worst", "all", "group"] * 100)
    report = rows(ok("compare", *pair_of, *by, "-o", tmp_path / "c.h5").stdout)
    groups = [row["group"] for row in report if row["scope"] == "group"]
    drawn = read_comparison(read(tmp_path / "c.h5"))
    assert groups == drawn.groups == ["all", "group", "worst"]
    assert drawn.accuracy.shape == (2, 3, 3)


def test_the_null_of_the_worst_group_is_that_of_permuted_rows():
    sizes = np.array([150, 80, 60, 10])
    rng = np.random.default_rng(2)
    groups = np.repeat([0, 1, 2, 3], sizes)
    lowest = [
        (np.bincount(groups, weights=rng.permutation(RIGHT[0])) / sizes).min() for _ in range(4000)
    ]
    null = dependence.worst_group_null(sizes, int(RIGHT[0].sum()))
    assert len(null) == 1000
    quantiles = (5, 50, 95)
    assert np.percentile(null, quantiles) == pytest.approx(
        np.percentile(lowest, quantiles), abs=0.025
    )


def test_a_group_of_one_row_and_a_group_that_is_absent(tmp_path):
    file = result(RIGHT[0])
    file.class_names = ["cat", "dog", "fox"]
    (path,) = saved(tmp_path, a=file)
    by = table(tmp_path, ["one", *["many"] * 299])
    assert [r["rows"] for r in rows(ok("compare", path, *by).stdout)[:3]] == ["300", "299", "1"]
    report = rows(ok("compare", path, *by[:3], "class").stdout)
    assert [row["group"] for row in report[:-1]] == ["", "cat", "dog"]


@pytest.mark.parametrize(("which", "column"), [("only-a", 1), ("only-b", 2), ("neither", 3)])
def test_ids_are_listed_one_a_line(which, column, pair_of):
    a, b = RIGHT[:2]
    expected = [a & b, a & ~b, b & ~a, ~a & ~b][column]
    listed = ok("compare", *pair_of, "--list", which)
    assert listed.stdout == "".join(f"{row:03d}\n" for row in np.flatnonzero(expected))


def test_common_rows_are_compared_by_id_and_counted(pair_of, tmp_path):
    fewer = result(RIGHT[1])
    fewer.splits["test"] = fewer.splits["test"].take(RNG.permutation(range(100, 300)))
    paths = [pair_of[0], *saved(tmp_path, fewer=fewer)]
    assert "hint: --common leaves them out" in fails("compare", *paths)
    run = ok("compare", *paths, "--common", "-o", tmp_path / "c.h5")
    assert read(tmp_path / "c.h5").history[-1]["common"]
    assert f"left out 100 of 300 images of test of {paths[0]} without image in" in run.stderr
    (row,) = rows(run.stdout)
    assert int(row["only_a"]) == (RIGHT[0] & ~RIGHT[1])[100:].sum()


def test_classes_are_compared_by_name(pair_of, tmp_path):
    other = result(RIGHT[1])
    other.class_names = ["dog", "cat"]
    test = other.splits["test"]
    test.labels, test.predicted = 1 - test.labels, 1 - test.predicted
    first, second = rows(ok("compare", *pair_of, *saved(tmp_path, c=other)).stdout)
    assert first["only_a"] == second["only_a"]


def test_a_run_of_a_sweep_is_chosen_by_number(tmp_path):
    paths = saved(tmp_path, sweep=result(RIGHT[:2]), b=result(RIGHT[2]))
    refusal = fails("compare", *paths, exit_code=2)
    assert "expected one run on test, got 2; hint: choose with --run 0 to 1" in refusal
    run = ok("compare", *paths, "--run", 1, "-o", tmp_path / "c.h5")
    assert float(rows(run.stdout)[0]["acc_a"]) == pytest.approx(RIGHT[1].mean())
    assert "(run 1 of 2, chosen by number)" in run.stderr
    assert read(tmp_path / "c.h5").history[-1]["runs"][0].endswith("chosen by number)")
    (row,) = rows(ok("compare", paths[0], paths[0], "--run", 0, "--run", 1).stdout)
    assert (row["a"], row["b"]) == ("sweep run 0", "sweep run 1")
    assert float(row["acc_b"]) == pytest.approx(RIGHT[1].mean())


@pytest.mark.long
def test_a_result_of_another_program_may_lack_the_split_of_its_runs(tmp_path):
    path = write_feature_file(tmp_path / "other.h5", "result")
    (row,) = rows(ok("compare", path, "--run", 1).stdout)
    assert float(row["acc_a"]) == 0.5
    ok("plot", "confusion", path, "-o", tmp_path / "confusion.png")


def test_the_run_that_validation_chose_is_taken(tmp_path):
    many = split("train", 60) | split("test", 60)
    for seed, name in enumerate(("train", "test")):
        many[f"{name}/features"] = random_features(60, 3, seed) / 10
    logits = write_feature_file(tmp_path / "logits.h5", "logits", datasets=many)
    ok("probe", logits, "-t", "1,0.1", "--val", 0.25, "-o", tmp_path / "val.h5")
    assert "(chosen on val among 2)" in ok("compare", tmp_path / "val.h5").stderr
    refusal = fails("compare", tmp_path / "val.h5", "--split", "val", exit_code=2)
    assert "expected one run on val, got 2" in refusal


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("a cluster", 1, "cluster.h5"),
        ("a unlabelled", 1, "unlabelled.h5"),
        ("a labels", 1, "labels.h5: expected the same labels, got 1 that differ: '003'"),
        ("a twice", 1, "twice.h5: test: expected different ids, got 299 in 300 rows"),
        ("a others --common", 1, "hint: embed the same images for test of "),
        ("a b --split train", 2, "unknown split of"),
        ("sweep b --run 2", 2, "run: expected 0 to 1 on test, got 2"),
        ("sweep b --run 0 --run 1 --run 2", 2, "run: expected one, or one for each of 2"),
        ("a b --table t.csv --groups g.tsv", 2, "expected --table or --groups, got both"),
        ("a b --table t.csv", 2, "expected one attribute, got size, other; hint: choose with"),
        ("a b --table t.csv --attribute size", 1, "expected rows with a value of size, got none"),
        ("a b --groups g.tsv", 1, "g.tsv"),
        ("a b --list only", 2, "unknown list 'only'; hint: did you mean only-b or only-a?"),
        ("a --list neither", 2, "expected two results to list ids of, got 1"),
        ("a b --list neither --format csv", 2, "expected --list without"),
    ],
)  # fmt: skip
@pytest.mark.long
def test_what_cannot_be_compared_is_refused_in_one_line(words, code, message, tmp_path, pair_of):
    ids = [f"{row:03d}" for row in range(300)]
    labels = np.where(np.arange(300) == 3, 0, np.arange(300) % 2)
    changes = {
        "unlabelled": {"labels": None},
        "labels": {"labels": labels},
        "twice": {"ids": ["299", *ids[1:]]},
        "others": {"ids": [f"x{row_id}" for row_id in ids]},
    }
    files = {name: result(RIGHT[0], **change) for name, change in changes.items()}
    saved(tmp_path, sweep=result(RIGHT[:2]), **files)
    logits = write_feature_file(tmp_path / "logits.h5", "logits")
    ok("cluster", logits, "-k", 2, "-o", tmp_path / "cluster.h5")
    table(tmp_path, [""] * 300)
    (tmp_path / "g.tsv").write_text("cat\tpet\n")
    paths = {path.name.removesuffix(".h5"): path for path in tmp_path.iterdir()}
    assert message in fails("compare", *[paths.get(w, w) for w in words.split()], exit_code=code)
