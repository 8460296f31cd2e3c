"""`compare`: results on the same images, paired, by group, and the worst group with its null."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import random_features, result_file, split, write_feature_file
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, false_discovery_control, norm
from shell import fails, ok, rows
from sklearn.metrics import cohen_kappa_score

from clipkit.analysis import metrics
from clipkit.analysis.comparison import compare, pair
from clipkit.base import tables
from clipkit.features import FeatureFile, read, write
from clipkit.plots.compare import read_comparison

GROUPS = Path(__file__).parents[1] / "prompts" / "groups"
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


def compared(*right: ArrayLike, **options: Any) -> list[dict[str, Any]]:
    files = [result(row, name) for row, name in zip(right, "abcdefg", strict=False)]
    return compare(pair(files), **options).rows()


def cells(both: int, only_a: int, only_b: int, neither: int) -> NDArray[np.bool_]:
    """Return what two results get right (2, N), from the numbers of their four cells."""
    pairs = [[True, True], [True, False], [False, True], [False, False]]
    return np.repeat(pairs, [both, only_a, only_b, neither], axis=0).T


# -- the numbers of a pair -------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "c"), [(121, 59), (0, 0), (1, 0), (0, 7), (5, 5), (85, 57)])
def test_p_is_that_of_mcnemars_exact_test(b: int, c: int) -> None:
    (row,) = compared(*cells(300, b, c, 100))
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert row["p"] == pytest.approx(expected, rel=1e-12)
    assert (row["both"], row["only_a"], row["only_b"], row["neither"]) == (300, b, c, 100)
    assert row["rows"] == 400 + b + c
    assert row["difference"] == pytest.approx(row["acc_a"] - row["acc_b"], abs=1e-15)


def test_p_of_121_against_59() -> None:
    (row,) = compared(*cells(300, 121, 59, 100))
    assert row["p"] == pytest.approx(4.43445e-6, rel=1e-6)


def test_a_result_against_itself_differs_in_nothing() -> None:
    (row,) = compared(RIGHT[0], RIGHT[0])
    assert (row["difference"], row["p"], row["kappa"]) == (0, 1, 1)
    assert row["high"] == -row["low"] == pytest.approx(1.959964 / 302)


@pytest.mark.parametrize("right", [RIGHT[:2], cells(9, 4, 4, 3)], ids=["different", "equal"])
def test_exchanging_two_results_flips_every_sign(right: NDArray[np.bool_]) -> None:
    (row,), (exchanged,) = compared(*right), compared(*right[::-1])
    assert row["difference"] == -exchanged["difference"]
    assert [row["low"], row["high"]] == pytest.approx([-exchanged["high"], -exchanged["low"]])
    assert (row["only_a"], row["p"], row["kappa"]) == (
        exchanged["only_b"],
        exchanged["p"],
        exchanged["kappa"],
    )


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    a, b = result(RIGHT[0]), result(RIGHT[1])
    shuffled = result(RIGHT[1])
    shuffled.splits["test"] = shuffled.splits["test"].take(RNG.permutation(300))
    paths = saved(tmp_path, a=a, b=b)
    (tmp_path / "other").mkdir()
    (other,) = saved(tmp_path / "other", b=shuffled)
    assert ok("compare", paths[0], other).stdout == ok("compare", *paths).stdout


@pytest.mark.long
def test_the_interval_is_that_of_a_bootstrap_over_rows_where_many_differ() -> None:
    a, b = RIGHT[:2].astype(int)
    drawn = np.random.default_rng(1).integers(0, 300, (20_000, 300))
    expected = np.percentile((a - b)[drawn].mean(axis=1), [2.5, 97.5])
    (row,) = compared(a > 0, b > 0)
    assert [row["low"], row["high"]] == pytest.approx(expected, abs=1.5 / 300)


def test_a_p_value_too_small_for_a_float_has_its_logarithm_and_is_not_0_in_a_table() -> None:
    right = cells(both=10, only_a=1427, only_b=8, neither=5).astype(bool)
    (row,) = compared(*right)
    expected = 2 * sum(math.comb(1435, i) for i in range(9))
    assert row["p"] == 0
    assert row["log10_p"] == pytest.approx(math.log10(expected) - 1435 * math.log10(2), rel=1e-12)
    (shown,) = [column for column in tables.columns_for_people([row]) if column.name == "p"]
    assert shown.cells == ["< 1e-300"]
    for counts in ((121, 59), (5, 4), (0, 0)):
        p = metrics.mcnemar(*counts)
        assert metrics.mcnemar_log10(*counts) == pytest.approx(math.log10(p), abs=1e-12)


def test_no_seed_changes_an_interval() -> None:
    assert compared(*RIGHT[:2], seed=1)[0] == compared(*RIGHT[:2], seed=2)[0]


@pytest.mark.parametrize("cells", [(53, 16, 8, 9), (10, 0, 0, 0), (0, 1, 0, 0), (17, 3, 0, 0)])
def test_the_interval_is_walds_after_half_a_row_is_added_to_each_cell(
    cells: tuple[int, int, int, int],
) -> None:
    """Agresti and Min's (2005), by the covariance of the four shares of a multinomial."""
    _, only_a, only_b, _ = cells
    counts = np.array(cells) + 0.5
    shares = counts / counts.sum()
    contrast = np.array([0, 1, -1, 0])
    covariance = (np.diag(shares) - np.outer(shares, shares)) / counts.sum()
    half = norm.ppf(0.975) * np.sqrt(contrast @ covariance @ contrast)
    expected = np.clip(contrast @ shares + np.array([-half, half]), -1, 1)
    low, high = metrics.difference_interval(only_a, only_b, sum(cells))
    assert (low, high) == pytest.approx(tuple(expected), abs=1e-6)
    assert low < (only_a - only_b) / sum(cells) < high or high == 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_an_interval_holds_the_difference(only_a: int, only_b: int, others: int) -> None:
    n = max(1, only_a + only_b + others)
    low, high = metrics.difference_interval(only_a, only_b, n)
    assert low <= (only_a - only_b) / n <= high
    exchanged = metrics.difference_interval(only_b, only_a, n)
    assert exchanged == pytest.approx((-high, -low), abs=1e-15)


@pytest.mark.parametrize(
    ("n", "p", "least"),
    [
        (20, (0.02, 0.02), 0.97),
        (50, (0.02, 0.02), 0.97),
        (50, (0.04, 0), 0.88),
        (50, (0.1, 0.02), 0.93),
    ],
)
def test_intervals_of_few_rows_that_differ_cover_the_difference(
    n: int, p: tuple[float, float], least: float
) -> None:
    counts = np.random.default_rng(0).multinomial(n, [*p, 1 - sum(p)], 1000)
    ends = np.array([metrics.difference_interval(a, b, n) for a, b, _ in counts])
    assert ((ends[:, 0] <= p[0] - p[1]) & (p[0] - p[1] <= ends[:, 1])).mean() >= least


def test_kappa_is_cohens_of_what_is_right() -> None:
    (row,) = compared(*RIGHT[:2])
    assert row["kappa"] == pytest.approx(cohen_kappa_score(*RIGHT[:2]), abs=1e-12)
    (row,) = compared([True, True], [True, True])
    assert np.isnan(row["kappa"])


def test_several_results_have_holms_correction() -> None:
    """Holm's is the closure of Bonferroni's: the largest of all sets of tests with this one."""
    p = np.array([0.01, 0.4, 0.012, 0.013, 0.9])
    sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size)]
    for i, corrected in enumerate(metrics.holm(p)):
        closure = [len(s) * p[list(s)].min() for s in sets if i in s]
        assert corrected == pytest.approx(min(1, max(closure)), abs=1e-15)
        assert corrected >= false_discovery_control(p)[i]
    several = compared(*RIGHT)
    assert [row["b"] for row in several] == ["b", "c"]
    assert [row["p_holm"] for row in several] == metrics.holm([r["p"] for r in several]).tolist()
    names = list(several[0])
    assert names[names.index("p") + 1 :] == ["log10_p", "p_holm", "kappa"]
    assert "p_holm" not in compared(*RIGHT[:2])[0]


def test_one_result_has_its_accuracy_and_wilsons_interval(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, a=result(cells(50, 0, 0, 50)[0]))
    (row,) = rows(ok("compare", path).stdout)
    assert list(row) == ["a", "split", "rows", "acc_a", "low", "high"]
    interval = binomtest(50, 100).proportion_ci(method="wilson")
    assert float(row["low"]) == pytest.approx(interval.low, abs=1e-6)
    assert float(row["high"]) == pytest.approx(interval.high, abs=1e-6)


# -- groups ----------------------------------------------------------------------------------------


def table(folder: Path, values: ArrayLike) -> Path:
    """Write the attribute `size` of the rows of `result`, and a second attribute."""
    path = folder / "table.csv"
    width = len(str(np.size(values) - 1))
    lines = [f"{row:0{width}d},{value},x" for row, value in enumerate(np.asarray(values).tolist())]
    path.write_text("\n".join(["id,size,other", *lines]) + "\n")
    return path


def test_groups_have_the_numbers_of_their_own_rows(tmp_path: Path) -> None:
    values = np.array(["small", "", "large"] * 100)
    paths = saved(tmp_path, a=result(RIGHT[0]), b=result(RIGHT[1]))
    by = ("--table", table(tmp_path, values), "--attribute", "size")
    report = rows(ok("compare", *paths, *by).stdout)
    scopes = ["all", "group", "group", "worst", "worst"]
    assert [row["scope"] for row in report] == scopes
    assert [row["group"] for row in report[:3]] == ["", "large", "small"]
    (overall,) = rows(ok("compare", *paths).stdout)
    assert {name: report[0][name] for name in overall} == overall
    for row in report[1:3]:
        members = values == row["group"]
        (alone,) = compared(*RIGHT[:2, members])
        for name in ("rows", "acc_a", "acc_b", "low", "high", "only_a", "p", "kappa"):
            assert float(row[name]) == pytest.approx(alone[name], rel=1e-7)
    for row, name, right in zip(report[3:], "ab", RIGHT, strict=False):
        assert row[name] == name
        assert float(row[f"acc_{name}"]) == right[values == row["group"]].mean()
        assert float(row[f"acc_{name}"]) == min(
            right[values == group].mean() for group in ("small", "large")
        )
        assert row["p"] == row["low"] == ""


def test_groups_of_classes(tmp_path: Path) -> None:
    paths = saved(tmp_path, a=result(RIGHT[0]), b=result(RIGHT[1]))
    (tmp_path / "g.tsv").write_text("cat\tpet\ndog\tpet\n")
    report = rows(ok("compare", *paths, "--groups", tmp_path / "g.tsv").stdout)
    assert [(row["group"], row["rows"]) for row in report[1:]] == [("pet", "300")] * 3
    assert report[2]["acc_a"] == report[2]["null"] == report[2]["null5"]  # nothing to permute


def test_groups_may_be_called_as_the_rows_about_all_groups_are(tmp_path: Path) -> None:
    paths = saved(tmp_path, a=result(RIGHT[0]), b=result(RIGHT[1]))
    by = ("--table", table(tmp_path, ["worst", "all", "group"] * 100), "--attribute", "size")
    report = rows(ok("compare", *paths, *by, "-o", tmp_path / "c.h5").stdout)
    groups = [row["group"] for row in report if row["scope"] == "group"]
    assert groups == ["all", "group", "worst"]
    drawn = read_comparison(read(tmp_path / "c.h5"))
    assert drawn.groups == groups
    assert drawn.accuracy.shape == (2, 3, 3)


def test_the_null_of_the_worst_group_is_that_of_permuted_rows() -> None:
    codes = np.repeat([0, 1, 2, 3], [150, 80, 60, 10])
    rng = np.random.default_rng(2)
    lowest = []
    for _ in range(4000):
        right = np.bincount(codes, weights=rng.permutation(RIGHT[0]))
        lowest.append((right / [150, 80, 60, 10]).min())
    null = metrics.worst_group_null(np.array([150, 80, 60, 10]), int(RIGHT[0].sum()))
    assert len(null) == 1000
    for q in (5, 50, 95):
        assert np.percentile(null, q) == pytest.approx(np.percentile(lowest, q), abs=0.025)


def test_one_group_in_twenty_that_says_nothing_is_below_the_5_percent() -> None:
    rng = np.random.default_rng(3)
    right = rng.random(900) < 0.7
    null5 = np.percentile(metrics.worst_group_null(np.full(6, 150), int(right.sum())), 5)
    drawn = [rng.permutation(right).reshape(6, 150).mean(axis=1).min() for _ in range(2000)]
    assert 0.015 < np.mean(np.array(drawn) < null5) < 0.085


def test_a_group_of_one_row_and_a_group_that_is_absent(tmp_path: Path) -> None:
    values = ["one", *["many"] * 299]
    paths = saved(tmp_path, a=result(RIGHT[0]))
    report = rows(
        ok("compare", *paths, "--table", table(tmp_path, values), "--attribute", "size").stdout
    )
    assert [row["rows"] for row in report[:3]] == ["300", "299", "1"]
    absent = result(RIGHT[0])
    absent.class_names = ["cat", "dog", "fox"]
    (path,) = saved(tmp_path, absent=absent)
    line = ("--table", table(tmp_path, values), "--attribute", "class")
    report = rows(ok("compare", path, *line).stdout)
    assert [row["group"] for row in report[:-1]] == ["", "cat", "dog"]


# -- which rows and which run ----------------------------------------------------------------------


@pytest.mark.parametrize(("which", "column"), [("only-a", 1), ("only-b", 2), ("neither", 3)])
def test_ids_are_listed_one_a_line(which: str, column: int, tmp_path: Path) -> None:
    paths = saved(tmp_path, a=result(RIGHT[0]), b=result(RIGHT[1]))
    a, b = RIGHT[:2]
    expected = [a & b, a & ~b, b & ~a, ~a & ~b][column]
    listed = ok("compare", *paths, "--list", which)
    assert listed.stdout == "".join(f"{row:03d}\n" for row in np.flatnonzero(expected))
    assert not listed.stderr


def test_common_rows_are_compared_and_counted(tmp_path: Path) -> None:
    fewer = result(RIGHT[1])
    fewer.splits["test"] = fewer.splits["test"].take(range(100, 300))
    paths = saved(tmp_path, a=result(RIGHT[0]), b=fewer)
    hint = "got 100 that another lacks, for example '000'; hint: compare the images that all have"
    assert hint in fails("compare", *paths)
    run = ok("compare", *paths, "--common", "-o", tmp_path / "c.h5")
    assert read(tmp_path / "c.h5").history[-1]["common"]
    assert "200 images of test are in all results" in run.stderr
    (row,) = rows(run.stdout)
    assert int(row["only_a"]) == (RIGHT[0] & ~RIGHT[1])[100:].sum()


def test_classes_are_compared_by_name(tmp_path: Path) -> None:
    other = result(RIGHT[1])
    other.class_names = ["dog", "cat"]
    test = other.splits["test"]
    test.labels, test.predicted = 1 - np.asarray(test.labels), 1 - np.asarray(test.predicted)
    paths = saved(tmp_path, a=result(RIGHT[0]), b=result(RIGHT[1]), c=other)
    first, second = rows(ok("compare", *paths).stdout)
    assert first["only_a"] == second["only_a"]


def test_a_run_of_a_sweep_is_chosen_by_number(tmp_path: Path) -> None:
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
def test_a_result_of_another_program_may_lack_the_split_of_its_runs(tmp_path: Path) -> None:
    path = write_feature_file(tmp_path / "other.h5", "result")
    (row,) = rows(ok("compare", path, "--run", 1).stdout)
    assert float(row["acc_a"]) == 0.5
    ok("plot", "confusion", path, "-o", tmp_path / "confusion.png")


def test_the_run_that_validation_chose_is_taken(tmp_path: Path) -> None:
    many = split("train", 60) | split("test", 60)
    for seed, name in enumerate(("train", "test")):
        many[f"{name}/features"] = random_features(60, 3, seed) / 10
    logits = write_feature_file(tmp_path / "logits.h5", "logits", datasets=many)
    ok("probe", logits, "-t", "1,0.1", "--val", 0.25, "-o", tmp_path / "val.h5")
    ok("probe", logits, "-t", "1", "-o", tmp_path / "one.h5")
    run = ok("compare", tmp_path / "val.h5", tmp_path / "one.h5")
    assert "(chosen on val among 2)" in run.stderr
    assert "expected one run on val, got 2" in fails(
        "compare", tmp_path / "val.h5", "--split", "val", exit_code=2
    )


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("a cluster", 1, "cluster.h5: expected predicted classes, got a result of cluster"),
        ("entropy", 1, "expected predicted classes, got a result of entropy"),
        ("a logits", 1, "expected result, got logits"),
        ("a unlabelled", 1, "unlabelled.h5: expected labels in test, got none"),
        ("a labels", 1, "a.h5 and labels.h5: expected the same labels, got 1 that differ: '003'"),
        ("a twice", 1, "twice.h5: test: expected different ids, got 299 in 300 rows"),
        ("a others", 1, "got 300 that another lacks, for example '000'"),
        ("a others --common", 1, "got 300 that another lacks, for example '000'"),
        ("a b --split train", 2, "unknown split of"),
        ("a b --run 1", 2, "run: expected 0 on test, got 1"),
        ("sweep b --run 2", 2, "run: expected 0 to 1 on test, got 2"),
        ("sweep b --run 0 --run 1 --run 2", 2, "run: expected one, or one for each of 2"),
        ("a b --attribute size", 2, "expected --table for --attribute, got none"),
        ("a b --table t.csv --groups g.tsv", 2, "expected --table or --groups, got both"),
        ("a b --table t.csv", 2, "expected one attribute, got size, other; hint: choose with"),
        ("a b --table t.csv --attribute sise", 2, "'sise'; hint: did you mean size?"),
        ("a b --table t.csv --attribute size", 1, "expected rows with a value of size, got none"),
        ("a b --groups g.tsv", 1, "expected a group for every class, got none for 'dog'"),
        ("a b --list only", 2, "unknown list 'only'; hint: did you mean only-b or only-a?"),
        ("a --list neither", 2, "expected two results to list ids of, got 1"),
        ("a b --list neither --format csv", 2, "expected --list without"),
        ("", 2, "Missing argument 'A'"),
    ],
)  # fmt: skip
@pytest.mark.long
def test_what_cannot_be_compared_is_refused_in_one_line(
    words: str, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [f"{row:03d}" for row in range(300)]
    labels = np.arange(300) % 2
    labels[3] = 0
    saved(
        tmp_path,
        a=result(RIGHT[0]),
        b=result(RIGHT[1]),
        sweep=result(RIGHT[:2]),
        unlabelled=result(RIGHT[0], labels=None),
        labels=result(RIGHT[0], labels=labels),
        twice=result(RIGHT[0], ids=["299", *ids[1:]]),
        others=result(RIGHT[0], ids=[f"x{row_id}" for row_id in ids]),
    )
    logits = write_feature_file(tmp_path / "logits.h5", "logits")
    ok("cluster", logits, "-k", 2, "-o", "cluster.h5")
    ok("entropy", logits, "-o", "entropy.h5")
    table(tmp_path, [""] * 300).rename(tmp_path / "t.csv")
    (tmp_path / "g.tsv").write_text("cat\tpet\n")
    line = [f"{word}.h5" if (tmp_path / f"{word}.h5").exists() else word for word in words.split()]
    assert message in fails("compare", *line, exit_code=code)


# -- the bundled data set --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def results_of_shapes(world: Path) -> Path:
    """Two probes and zero-shot classification by one template and by sixteen."""
    ok("probe", world / "img.h5", "-o", world / "svm.h5")
    ok("probe", world / "img.h5", "--classifier", "logreg", "-o", world / "logreg.h5")
    templates = {"one": "a photo of a {}", "sixteen": GROUPS.parent / "templates/small-images.txt"}
    for name, template in templates.items():
        words = ok("textembed", "--classes", world / "img.h5", "-m", "tiny", "--template", template)
        logits = ok("logits", world / "img.h5", "-", stdin=words.stdout_bytes)
        ok("zeroshot", "-o", world / f"{name}.h5", stdin=logits.stdout_bytes)
    return world


def report(folder: Path, *words: object) -> list[dict[str, str]]:
    line = [folder / f"{word}.h5" if (folder / f"{word}.h5").exists() else word for word in words]
    return rows(ok("compare", *line).stdout)


@pytest.mark.long
def test_a_paired_test_sees_what_two_intervals_do_not(results_of_shapes: Path) -> None:
    (templates,) = report(results_of_shapes, "sixteen", "one")
    assert float(templates["difference"]) == pytest.approx(-0.014, abs=0.006)
    assert float(templates["high"]) < 0.001
    assert float(templates["p"]) < 0.06
    a, b = float(templates["acc_a"]), float(templates["acc_b"])
    unpaired = (a - b) / np.sqrt((a * (1 - a) + b * (1 - b)) / 2000)
    assert abs(unpaired) < 1.3
    (probes,) = report(results_of_shapes, "logreg", "svm")
    assert float(probes["difference"]) == pytest.approx(0.032, abs=0.01)
    assert float(probes["p"]) < 1e-3


@pytest.mark.long
def test_which_patterns_the_words_miss(results_of_shapes: Path) -> None:
    groups = report(results_of_shapes, "svm", "one", "--table", "shapes", "--attribute", "pattern")
    accuracies = {r["group"]: (float(r["acc_a"]), float(r["acc_b"])) for r in groups[1:6]}
    expected = {
        "banded": (0.79, 0.22),
        "checkered": (0.68, 0.70),
        "dotted": (0.62, 0.74),
        "solid": (0.74, 0.87),
        "striped": (0.76, 0.72),
    }
    for pattern, pair_of in expected.items():
        assert accuracies[pattern] == pytest.approx(pair_of, abs=0.03)
    by_class = GROUPS / "shapes-patterns.tsv"
    assert report(results_of_shapes, "svm", "one", "--groups", by_class) == groups


@pytest.mark.long
@pytest.mark.parametrize(
    ("column", "group", "accuracy", "is_real"),
    [("background", None, None, False), ("size", "small", 0.5, True), ("grey", None, 0.455, True)],
)
def test_a_worst_group_is_real_if_its_null_is_not_as_bad(
    column: str, group: str | None, accuracy: float | None, is_real: bool, results_of_shapes: Path
) -> None:
    _, *groups, worst = report(results_of_shapes, "one", "--table", "shapes", "--attribute", column)
    lowest = min(groups, key=lambda row: float(row["acc_a"]))
    assert worst["acc_a"] == lowest["acc_a"]
    assert group in (None, lowest["group"])
    if accuracy is not None:
        assert float(worst["acc_a"]) == pytest.approx(accuracy, abs=0.03)
    if is_real:
        assert float(worst["acc_a"]) < float(worst["null5"]) - 0.05
    else:
        assert float(worst["acc_a"]) > float(worst["null5"]) - 0.01


def test_standard_input_is_not_compared_with_itself() -> None:
    assert "expected only one file on standard input" in fails("compare", "-", "-", exit_code=2)
