"""Prompts that separate groups of images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from factories import (
    MODEL,
    check_means_of_controls,
    fails_with,
    refused,
    result_file,
    saved,
    untrained,
)
from scipy.stats import ttest_ind
from shell import clipkit, ok, rows

from clipkit.analysis import describe as describe_analysis
from clipkit.analysis.describe.description import describe
from clipkit.analysis.results import make_result
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, Split
from clipkit.statistics import claims
from clipkit.statistics.dependence import critical, p_of

LOGITS = {"temperature": 0.5, "logit_scale": 100.0}


def logits(seed: int = 0, n: int = 120, prompts: int = 4, shift: float = 0.0) -> FeatureFile:
    """Return logits of images in three classes; prompt 1 is shifted for the last one."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    cosines = generator.normal(0.2, 0.02, (n, prompts))
    cosines[labels == 2, 1] += shift
    file = FeatureFile("logits", [{"command": "embed", "model": MODEL}], **LOGITS)
    file.texts = [f"prompt {number}" for number in range(prompts)]
    file.class_index = np.full(prompts, -1)
    file.class_names = ["a", "b", "c"]
    stored = (cosines / 0.5).astype(np.float32)
    file.splits["test"] = Split(stored, labels, [f"{row}.png" for row in range(n)])
    return file


def result(
    file: FeatureFile, predicted: np.ndarray, command: str, order: np.ndarray
) -> FeatureFile:
    """Return a result with predictions for the images of a file, in another order."""
    split = file.splits["test"]
    history = [*file.history, {"command": command, "inputs": {"logits": file.digest}}]
    made = result_file([{"split": "test"}], split.labels[order], [predicted[order]], history)
    made.splits["test"].ids = [split.ids[row] for row in order]
    made.class_names = file.class_names
    return made


def largest(cosines: np.ndarray, codes: np.ndarray) -> float:
    """Return the largest |t| by SciPy."""
    values = [
        ttest_ind(cosines[codes == code], cosines[codes != code], equal_var=False).statistic
        for code in np.unique(codes)
    ]
    return float(np.abs(values).max())


def test_differences_and_t_are_those_of_scipy():
    file = logits(shift=0.03)
    cosines, labels = np.asarray(file.cosines("test"), np.float64), file.splits["test"].labels
    found = describe(file, top=4, permutations=1).rows()
    assert len(found) == 12
    for row in found:
        inside = labels == "abc".index(row["group"])
        column = cosines[:, file.texts.index(row["prompt"])]
        t = ttest_ind(column[inside], column[~inside], equal_var=False).statistic
        assert row["t"] == pytest.approx(t, rel=1e-6)
        assert row["difference"] == pytest.approx(column[inside].mean() - column[~inside].mean())
        assert row["rows"] == 40
    assert abs(found[0]["t"]) >= abs(found[1]["t"])


def test_the_largest_t_of_all_prompts_and_groups_is_compared_with_that_of_permuted_rows():
    file = logits()
    cosines, labels = np.asarray(file.cosines("test"), np.float64), file.splits["test"].labels
    generator = np.random.default_rng(5)
    by_chance = [largest(cosines, generator.permutation(labels)) for _ in range(50)]
    for row in describe(file, permutations=50, seed=5).rows():
        assert row["t_null95"] == pytest.approx(np.sort(by_chance)[-2], rel=1e-4)
        assert (row["p_adjusted"] <= 0.05) == (abs(row["t"]) > row["t_null95"] * (1 + 1e-5))
        exceeding = sum(value >= abs(row["t"]) for value in by_chance)
        assert row["p_adjusted"] == pytest.approx((exceeding + 1) / 51)


@pytest.mark.long
def test_a_planted_difference_is_found_and_few_where_there_is_none():
    best = describe(logits(shift=0.05), top=1).rows()[2]
    assert (best["group"], best["prompt"], best["p_adjusted"]) == ("c", "prompt 1", 1 / 301)
    smallest = []
    for seed in range(100):
        found = describe(logits(seed), permutations=99).runs["p_adjusted"]
        smallest.append(found.min() <= 0.05)
    assert np.mean(smallest) <= 0.11  # 0.05 + 2.7 standard errors


@pytest.mark.parametrize(("permutations", "place"), [(300, 15), (99, 5), (19, 1)])
def test_t_is_above_its_null_exactly_if_p_is_at_most_5_percent(permutations, place):
    drawn = np.random.default_rng(0).random(permutations)
    assert critical(drawn) == np.sort(drawn)[-place]
    assert p_of(drawn, critical(drawn)) > 0.05
    assert p_of(drawn, np.nextafter(critical(drawn), 9)) <= 0.05
    assert np.isnan(critical(drawn[:18]))


def frames(seed: int, sizes: np.ndarray) -> FeatureFile:
    """Return logits of videos, of which all frames are alike and of one class at random."""
    generator = np.random.default_rng(seed)
    video = np.repeat(np.arange(len(sizes)), sizes)
    file = logits(seed, len(video))
    split = file.splits["test"]
    shown = generator.normal(0, 0.1, (len(sizes), 4))[video]
    split.features = (shown + generator.normal(0, 0.02, shown.shape)).astype(np.float32)
    split.labels = generator.integers(0, 2, len(sizes))[video]
    return file


def share_below_5_percent(worlds: int, kind: str, tmp_path: Path, videos: int = 24) -> np.ndarray:
    """Return how often some p is at most 5 % by row, and by video."""
    small = np.zeros(2)
    for seed in range(worlds):
        random = np.random.RandomState(seed)
        sizes = random.randint(1, 21, videos) if kind == "1 to 20" else np.full(videos, 6)
        if kind == "one large":
            sizes[0] = 6 * videos
        file = frames(seed, sizes)
        video = np.repeat(np.arange(videos), sizes)
        lines = [f"{row}.png,{number}\n" for row, number in enumerate(video)]
        (tmp_path / "t.csv").write_text("id,video\n" + "".join(lines))
        for number, options in enumerate(({}, {"table": str(tmp_path / "t.csv")})):
            cluster = "video" if options else None
            try:
                found = describe(file, permutations=99, seed=seed, cluster=cluster, **options)
            except ClipkitError:  # no class has enough images
                continue
            small[number] += found.runs["p_adjusted"].min() <= 0.05
    return small / worlds


@pytest.mark.long
def test_frames_of_a_video_are_permuted_together(tmp_path):
    by_row, by_video = share_below_5_percent(20, "equal", tmp_path)
    assert by_row >= 0.9
    assert by_video <= 0.2


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["equal", "1 to 20", "one large"])
def test_classes_drawn_by_video_are_described_in_5_percent_of_worlds(kind, tmp_path):
    least = 0 if kind == "one large" else 0.02  # t counts clusters: few decide
    assert least <= share_below_5_percent(400, kind, tmp_path)[1] <= 0.08


def test_groups_and_clusters_are_attributes_of_one_table(tmp_path):
    file = logits(shift=0.01)
    lines = [f"{row}.png,{row},{row % 2}\n" for row in range(120)]
    (tmp_path / "t.csv").write_text("id,alone,half\n" + "".join(lines))
    table = str(tmp_path / "t.csv")
    both = describe(file, table=table, column="half", cluster="alone")
    assert {row["group"] for row in both.rows()} == {"0", "1"}
    assert {row["clusters"] for row in both.rows()} == {120}
    assert both.history[-1]["cluster"] == "alone"


def test_clusters_of_images_are_described_without_a_test(tmp_path, capsys):
    file = logits(shift=0.05)
    labels = file.splits["test"].labels
    made = result(file, labels, "cluster", np.arange(120))
    found = describe(file, result=made, top=1)
    assert "no p and no null of t: the groups are made from these" in capsys.readouterr().err
    for name in ("p_adjusted", "p_min", "t_null95"):
        assert np.isnan(found.runs[name]).all()
    assert set(found.runs["untested"]) == {"the groups are made from these images"}
    page = " ".join(ok("report", saved(tmp_path / "d.h5", found)).stdout.split())
    assert "the groups are made from these images" in page
    files = [saved(tmp_path / "l.h5", file), saved(tmp_path / "r.h5", made)]
    table = ok("describe", files[0], "--result", files[1], "--format", "table").stdout
    assert "the groups are made from these images" in " ".join(table.split())
    table = ok("describe", files[0], "--format", "table").stdout
    assert re.search(r"<=\s1/301", table)


def test_equal_t_of_permuted_rows_count_although_their_sums_round_otherwise():
    file = logits(n=300)
    split = file.splits["test"]
    split.labels = np.repeat([0, 1], [12, 288])
    is_odd = np.random.default_rng(2).random((300, 4)) < 0.03  # most orders have no odd one in 12
    split.features = (0.4 + 0.02 * is_odd).astype(np.float32)
    assert describe(file, top=1).runs["p_adjusted"].min() > 0.5


def test_classes_of_one_name_are_left_out_one_by_one():
    file = logits()
    file.class_names = ["a", "a", "c"]
    file.splits["test"].labels = np.repeat([0, 1, 2], [5, 55, 60])
    assert [row["group"] for row in describe(file, top=1).rows()] == ["a", "c"]


def test_errors_on_fitted_images_are_warned_of(capsys):
    file = logits()
    made = result(file, np.arange(120) % 2, "probe", np.arange(120))
    caveat = {"kind": "fitted", "split": "test", "count": 50, "rows": 120}
    made.history[-1]["caveats"] = [caveat]
    found = describe(file, result=made)
    assert "50 of 120 images of test were also fitted" in capsys.readouterr().err
    assert found.history[-1]["caveats"] == [caveat]


@pytest.mark.parametrize("command", ["zeroshot", "cluster"])
def test_the_groups_are_the_errors_or_the_clusters_of_a_result_by_id(command):
    file = logits(shift=0.05)
    labels = file.splits["test"].labels
    predicted = np.where(labels == 2, 0, labels)  # the last class is confused with the first
    made = result(file, predicted, command, np.arange(120)[::-1])
    found = describe(file, result=made, top=1).rows()
    names = {"zeroshot": ["errors"], "cluster": ["cluster 0", "cluster 1"]}[command]
    assert [row["group"] for row in found] == names
    assert {row["prompt"] for row in found} == {"prompt 1"}
    assert found[0]["difference"] > 0
    made.splits["test"].ids = [f"other {row}" for row in range(120)]
    with fails_with("120 of 120 images of test of the file have no image in"):
        describe(file, result=made)


def test_images_without_a_value_are_in_no_group_and_groups_of_few_images_are_left_out(capsys):
    file = logits(shift=0.05)
    labels = file.splits["test"].labels.copy()
    labels[:9] = 3
    labels[9:30] = -1
    file.splits["test"].labels = labels
    file.class_names = ["a", "b", "c", "d"]
    found = describe(file, top=1).rows()
    assert [(row["group"], row["rows"]) for row in found] == [("a", 30), ("b", 30), ("c", 30)]
    assert "left out d: fewer than 10 images" in capsys.readouterr().err
    cosines = np.asarray(file.cosines("test"), np.float64)[:, 1]
    mean = cosines[labels == 2].mean() - cosines[(labels >= 0) & (labels != 2)].mean()
    assert found[2]["difference"] == pytest.approx(mean)
    file.splits["test"].labels = np.zeros(120, int)
    with fails_with("expected a group of at least 10 images and as many others"):
        describe(file)


def test_a_control_has_the_same_prompts_and_no_difference(tmp_path):
    control = logits(seed=1)
    control.history = [{"command": "embed", "model": {**MODEL, "untrained": 7}}]
    files = [saved(tmp_path / name, file) for name, file in (
        ("logits.h5", logits(shift=0.05)), ("control.h5", control)
    )]  # fmt: skip
    found = rows(ok("describe", files[0], "--control", files[1], "--format", "tsv").stdout)
    best = next(row for row in found if row["group"] == "c")
    assert float(best["t"]) > 5 > abs(float(best["t_control"]))
    control.texts = ["other", *control.texts[1:]]
    saved(files[1], control)
    refused(clipkit("describe", files[0], "--control", files[1]), 1, "different prompts")
    table = make_result(control.history, [{"x": 1.0}])
    refused(clipkit("describe", files[0], "--result", saved(files[1], table)), 1, "predictions")


def test_several_controls_have_a_mean_and_a_range():
    file = logits(shift=0.05)
    controls = untrained(file, seed=3) + untrained(file, seed=4)
    check_means_of_controls(lambda files: describe(file, controls=files), controls)
    inputs = describe(file, controls=controls).history[-1]["inputs"]
    assert list(inputs) == ["logits", "control 1", "control 2"]


@pytest.mark.parametrize("words", [("--run", 0), ("--result", "r.h5", "--table", "shapes")])
def test_groups_are_given_once(words, tmp_path):
    file = saved(tmp_path / "logits.h5", logits())
    refused(clipkit("describe", file, *words), 2, "expected")


def test_the_verdict_holds_each_group_against_the_other_images(tmp_path):
    columns = "group,prompt,verdict,because,needs"
    path = saved(tmp_path / "there.h5", logits(shift=0.05))
    found = rows(ok("describe", path, "--top", "1", "--columns", columns).stdout)
    assert found[2]["prompt"] == "prompt 1"
    assert (found[2]["verdict"], found[2]["because"]) == ("above the other images", "")
    table = ok("describe", path, "--top", "1", "--format", "table").stderr
    assert "clipkit: c, prompt 1: t " in table
    assert "on 40 rows, above the other images (0.00)" in table
    path = saved(tmp_path / "not.h5", logits())
    for row in rows(ok("describe", path, "--top", "1", "--columns", columns).stdout):
        assert row["verdict"].startswith("not decided")
        assert row["because"].endswith("of permutations reach it")
        assert float(row["needs"]) > 40


def test_the_verdict_holds_a_prompt_against_the_control_too():
    file = logits(shift=0.05)
    (control,) = untrained(file)
    found = describe_analysis.ANALYSIS.claims(describe(file, controls=[control], top=1))
    of_c = {claim.against.name: claim.verdict for claim in found if claim.subject[0] == "c"}
    assert of_c == {claims.OTHER_IMAGES: claims.ABOVE, claims.CONTROL: claims.ABOVE}
    control.splits["test"].features = file.splits["test"].features * np.float32(0.5)
    found = describe_analysis.ANALYSIS.claims(describe(file, controls=[control], top=1))
    (of_control,) = [claim for claim in found[-2:] if claim.against.name == claims.CONTROL]
    assert of_control.verdict == claims.NOT_DECIDED


def test_of_many_groups_those_that_differ_are_counted():
    file = logits(n=200, shift=0.05)
    split = file.splits["test"]
    split.labels = np.where(split.labels == 2, 2, np.arange(200) % 5 + 3) - 2
    file.class_names = list("abcdef")
    found = describe(file, top=2)
    (sentence,) = describe_analysis.ANALYSIS.findings(found)
    assert "of 6 groups differ from the other images in a prompt; not decided: " in sentence


def test_clusters_of_images_have_no_verdict_and_the_reason(capsys):
    file = logits(shift=0.05)
    made = result(file, file.splits["test"].labels, "cluster", np.arange(120))
    found = describe(file, result=made, top=1)
    for claim in describe_analysis.ANALYSIS.claims(found):
        assert claim.verdict == claims.NOT_DECIDED
        assert claim.because == "the groups are made from these images"
    assert describe_analysis.ANALYSIS.findings(found) == []
