"""`compare --leaderboard`, and tables in Markdown and LaTeX: the right numbers, ready to paste."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from factories import result_file, saved
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from shell import fails, ok, rows

from clipkit.analysis.compare import comparison
from clipkit.analysis.compare.leaderboard import leaderboard
from clipkit.analysis.for_people import as_table, findings
from clipkit.features import FeatureFile, read
from clipkit.statistics import claims

N = 600
RNG = np.random.default_rng(5)
FIRST = RNG.random(N) < 0.7
BETTER = np.where(RNG.random(N) < 0.1, True, FIRST)
EQUAL = RNG.random(N) < 0.7
WORSE = RNG.random(N) < 0.5
RIGHT = {"svm": FIRST, "fine_tuned": BETTER, "other": EQUAL, "zeroshot": WORSE}


def result(name: str, right: NDArray[np.bool_], **entry: Any) -> FeatureFile:
    """Return a result of three classes of equal size."""
    labels = np.resize([0, 2, 1], len(right))
    predicted = np.where(right, labels, (labels + 1) % 3)[None]
    runs = [{"split": "test", "acc1": float(right.mean())}]
    model = {"name": f"org/{name}", "digest": "sha256:1"}
    history = [{"command": "embed", "model": model}, {"command": "zeroshot", **entry}]
    file = result_file(runs, labels, predicted, history, ["cat", "dog", "fox"])
    file.display_name = f"{name}.h5"
    return file


def board(files: list[FeatureFile], **options: Any) -> FeatureFile:
    paired = comparison.pair(files, **options)
    return leaderboard(paired, comparison.compare(paired))


def rows_of(right: dict[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    return board([result(name, of_result) for name, of_result in right.items()]).rows()


def test_p_is_corrected_for_the_pairs_of_the_table_and_for_no_groups(tmp_path):
    (tmp_path / "groups.tsv").write_text("cat\tpet\ndog\tpet\nfox\twild\n")
    paired = comparison.pair([result(name, right) for name, right in RIGHT.items()])
    compared = comparison.compare(paired, groups=str(tmp_path / "groups.tsv"))
    assert {row["scope"] for row in compared.rows()} > {"group"}
    for row, plain in zip(leaderboard(paired, compared).rows(), rows_of(RIGHT), strict=True):
        assert row["p_holm"] == pytest.approx(plain["p_holm"], nan_ok=True)


def test_each_row_has_the_numbers_of_its_result_computed_again():
    found = rows_of(RIGHT)
    assert [row["result"] for row in found] == list(RIGHT)
    assert [row["model"] for row in found] == list(RIGHT)
    z = norm.ppf(0.975)
    p_values = []
    for row, right in zip(found, RIGHT.values(), strict=True):
        assert (row["split"], row["rows"], row["settings"]) == ("test", N, "zeroshot")
        of_row = result("x", right).splits["test"]
        permuted = of_row.labels[:, None] == of_row.predicted[0]  # every prediction for every row
        assert row["chance"] == pytest.approx(permuted.mean())
        assert row["acc1"] == right.mean()
        interval = binomtest(int(right.sum()), N).proportion_ci(method="wilson")
        assert (row["acc1_low"], row["acc1_high"]) == pytest.approx(tuple(interval), abs=1e-6)
        gained, lost = int((right & ~FIRST).sum()), int((FIRST & ~right).sum())
        if right is FIRST:
            assert np.isnan([row["to_first"], row["to_first_low"], row["p_holm"]]).all()
            continue
        assert row["to_first"] == pytest.approx(right.mean() - FIRST.mean(), abs=1e-12)
        share = (gained - lost) / (N + 2)  # Agresti and Min 2005
        half = z * np.sqrt((gained + lost + 1) / (N + 2) - share**2) / np.sqrt(N + 2)
        limits = (row["to_first_low"], row["to_first_high"])
        assert limits == pytest.approx((share - half, share + half), abs=1e-6)
        p_values.append(binomtest(gained, gained + lost).pvalue)
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(np.arange(len(order), 0, -1) * np.array(p_values)[order])
    corrected = np.array([row["p_holm"] for row in found[1:]])
    np.testing.assert_allclose(corrected[order], np.minimum(steps, 1), rtol=1e-9)


def test_a_verdict_is_that_of_the_paired_test_where_the_intervals_overlap():
    first, better, equal, worse = rows_of(RIGHT)
    verdict = [row["verdict"] for row in (first, better, equal, worse)]
    assert verdict == ["", claims.ABOVE, claims.NOT_DECIDED, claims.BELOW]
    assert better["acc1_low"] < first["acc1_high"]  # they overlap, and it is decided all the same


@pytest.mark.long
def test_a_verdict_is_said_by_the_sentence_about_the_same_pair():
    said = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        right = {"a": rng.random(80) < 0.6}
        right |= {name: rng.random(80) < share for name, share in (("b", 0.8), ("c", 0.5))}
        files = [result(name, of_result) for name, of_result in right.items()]
        pairs = comparison.compare(comparison.pair(files)).rows()
        for pair, row in zip(pairs, board(files).rows()[1:], strict=True):
            verdict = row["verdict"]
            mirrored = {claims.ABOVE: claims.BELOW, claims.BELOW: claims.ABOVE}
            assert mirrored.get(verdict, verdict) in claims.difference_sentence(pair)
            said.add(verdict)
    assert said == {claims.ABOVE, claims.BELOW, claims.NOT_DECIDED}


def test_rows_that_depend_on_each_other_count_once():
    alone = rows_of(RIGHT)
    files = [result(name, np.repeat(right, 2)) for name, right in RIGHT.items()]
    for file in files:
        labels = np.repeat(np.resize([0, 2, 1], N), 2)
        right = file.splits["test"].predicted == file.splits["test"].labels
        file.splits["test"].labels = labels
        file.splits["test"].predicted = np.where(right, labels, (labels + 1) % 3)
        file.splits["test"].cluster = np.repeat(np.arange(N), 2)
    twice = board(files)
    for once, row in zip(alone, twice.rows(), strict=True):
        assert (row["rows"], row["clusters"]) == (2 * N, N)
        same = [name for name in once if isinstance(once[name], float)]
        assert [row[name] for name in same] == pytest.approx(
            [once[name] for name in same], rel=1e-9, nan_ok=True
        )


def test_a_result_that_is_not_tested_has_no_interval_and_its_note_says_why():
    caveat = {"kind": "fitted", "split": "test", "count": 300, "rows": N}
    fitted = result("fitted", BETTER, caveats=[caveat])
    made = board([result("svm", FIRST), fitted, result("zeroshot", WORSE)])
    first, of_fitted, worse = made.rows()
    empty = ("acc1_low", "acc1_high", "to_first_low", "to_first_high", "p_holm")
    assert np.isnan([of_fitted[name] for name in empty]).all()
    assert (of_fitted["acc1"], of_fitted["verdict"]) == (BETTER.mean(), claims.NOT_DECIDED)
    gained, decided = int((WORSE & ~FIRST).sum()), int((WORSE ^ FIRST).sum())
    assert worse["p_holm"] == pytest.approx(binomtest(gained, decided).pvalue, rel=1e-9)
    said, why = findings(made)
    assert "comparisons" not in said  # one is tested
    assert why.startswith("fitted: 300 of 600 images of test were also fitted")
    assert f"{100 * BETTER.mean():.2f} |" in as_table(made)  # without brackets
    assert first["acc1_low"] > 0


def test_a_single_result_is_a_leaderboard_without_verdicts():
    made = board([result("svm", FIRST)])
    (row,) = made.rows()
    assert (row["acc1"], row["verdict"]) == (FIRST.mean(), "")
    assert findings(made) == []
    assert "difference" not in as_table(made)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return [saved(folder / f"{name}.h5", result(name, right)) for name, right in RIGHT.items()]


def test_the_command_prints_what_the_function_returns(files, tmp_path):
    made = board([read(path) for path in files])
    output = tmp_path / "compared.h5"
    printed = ok("compare", *files, "--leaderboard", "-o", output).stdout
    for text, row in zip(rows(printed), made.rows(), strict=True):
        assert text["verdict"] == row["verdict"]
        for name in ("acc1", "to_first", "to_first_low", "p_holm"):
            number = float(text[name] or "nan")
            assert number == pytest.approx(row[name], rel=1e-7, nan_ok=True)
    assert "acc_a" in read(output).runs  # which `plot compare` draws
    for format in ("markdown", "latex"):
        command = ok("compare", *files, "--leaderboard", "--format", format)
        assert command.stdout == as_table(made, format)
        assert findings(made)[0] not in command.stderr
    command = ok("compare", *files, "--leaderboard", "--format", "table")
    assert command.stderr.endswith(f"\nclipkit: {findings(made)[0]}\n")


def test_a_table_in_latex_has_as_many_cells_in_each_row_as_columns(files):
    text = ok("compare", *files, "--leaderboard", "--format", "latex").stdout
    kinds = re.search(r"begin{tabular}{(.*)}\n", text)[1].replace("@{ }", "")
    assert kinds == "llrlrlrl"
    header, *lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert header.count("&") + 1 == len(kinds) - header.count(r"\multicolumn{2}")
    assert {line.count("&") + 1 for line in lines} == {len(kinds)}
    assert lines[1].startswith(r"fine\_tuned & fine\_tuned & ")
    low, high = (100 * rows_of(RIGHT)[3][f"to_first_{end}"] for end in ("low", "high"))
    assert f"($-${-low:.2f} to $-${-high:.2f})" in lines[3]
    assert r"\par\smallskip{\footnotesize In all rows: settings zeroshot, split test, " in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("format", ["markdown", "latex"])
def test_rows_alone_continue_a_table_and_named_columns_all_stand_in_it(files, format):
    words = ("compare", *files, "--leaderboard", "--format", format)
    whole, alone = ok(*words).stdout, ok(*words, "--no-header").stdout
    assert alone in whole
    assert len(alone.splitlines()) == len(files)
    named = ok(*words, "--columns", "result,split,acc1").stdout
    assert len(re.findall("[|&] test", named)) == len(files)
    assert "In all rows" not in named


@pytest.mark.parametrize("words", ["--groups g.tsv", "--list neither", "--table t.csv"])
def test_a_leaderboard_is_of_all_images(files, words):
    message = fails("compare", *files, "--leaderboard", *words.split(), exit_code=2)
    assert "expected --leaderboard without --attribute, --groups, --list" in message
