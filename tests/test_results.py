"""What pictures and reports read from results and logits."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from factories import fails_with, feature_file, result_file
from sklearn.metrics import confusion_matrix

from clipkit.analysis import results
from clipkit.analysis.temperature_sweeps import common_prompt_count, temperature_sweeps
from clipkit.features.validation import validate
from clipkit.plots.logits import class_means, cosine_lines
from clipkit.plots.style import title_of
from clipkit.plots.temperature import draw_groups
from clipkit.statistics import metrics

LABELS = np.array([0, 0, 1, 1, 2, 2])
NAMES = ["cat", "dog", "owl"]
HALF_RIGHT = [0, 1, 1, 0, 2, 0]
SWEEP = [("svm", 1.0, 1.0, 0.5), ("svm", 1.0, 0.07, 1.0)]
CLUSTERS = result_file([], LABELS, [[3, 3, 0, 0, 1, 2]], [{"command": "cluster"}])


def probe_result(runs, **entry):
    """Make a result of `probe` with (classifier, C, temperature, acc1) per run."""
    columns = ("classifier", "C", "temperature", "acc1")
    rows = [dict(zip(columns, run, strict=True)) | {"eval_split": "test"} for run in runs]
    rows = [row | {"mean_entropy": row["temperature"]} for row in rows]
    predicted = [HALF_RIGHT, *[LABELS] * (len(rows) - 1)]
    history = [{"command": "probe", "prompts": 32, **entry}]
    return result_file(rows, LABELS, predicted, history, NAMES)


def confusion_counts(result, **options):
    return results.count(results.predictions(result, **options))


def test_confusion_counts_are_scikit_learns_for_the_most_accurate_run_by_default():
    result = probe_result(SWEEP)
    counts = confusion_counts(result, run=0)
    np.testing.assert_array_equal(counts.counts, confusion_matrix(LABELS, HALF_RIGHT))
    assert counts.class_names == NAMES
    assert counts.label == "probe, svm, C 1, temperature 1, on test"
    best = confusion_counts(result)
    np.testing.assert_array_equal(best.counts, 2 * np.eye(3))
    run = "probe, svm, C 1, temperature 0.07, on test"
    assert best.label == f"{run}, the most accurate of 2 runs"


def test_cluster_counts_have_as_many_columns_as_clusters():
    clusters = results.cluster_counts(CLUSTERS)
    np.testing.assert_array_equal(clusters.counts, [[0, 0, 0, 2], [2, 0, 0, 0], [0, 1, 1, 0]])
    assert clusters.class_names == ["0", "1", "2"]
    assert clusters.label == "k-means, k 4, on test"


def test_counts_are_limited_to_5000_classes():
    result = replace(probe_result(SWEEP), class_names=None)
    assert confusion_counts(result).class_names == ["0", "1", "2"]
    result.splits["test"].labels = LABELS + 4997
    assert len(confusion_counts(result).class_names) == 5000
    result.splits["test"].labels = LABELS + 4998
    with fails_with("expected at most 5,000 classes"):
        confusion_counts(result)


def test_counts_of_groups_are_sums_over_their_classes(tmp_path):
    path = tmp_path / "groups.tsv"
    path.write_text("owl\tbird\ncat\tpet\ndog\tpet\ncat\tpet\n")
    scored = results.predictions(probe_result(SWEEP), run=0)
    grouped = results.count(results.group_classes(scored, results.read_groups(str(path), NAMES)))
    assert grouped.class_names == ["bird", "pet"]
    np.testing.assert_array_equal(grouped.counts, [[1, 1], [0, 4]])
    assert grouped.class_accuracy == 0.5  # that of the groups is 5 of 6
    assert results.count(scored).class_accuracy is None
    for text, message in (
        ("cat\tpet\n", "expected a group for every class, got none for 'dog'"),
        ("cat\tpet\ndog\tpet\ncat\twild\n", "one group for every class, got 'pet' and 'wild' for "),
    ):
        path.write_text(text)
        with fails_with(message):
            results.read_groups(str(path), NAMES)


def test_sweeps_are_split_by_classifier_and_c_and_have_wilsons_interval():
    rows = [*SWEEP, ("svm", 4.0, 1.0, 0.5), ("knn", np.nan, 1.0, 0.5), ("knn", np.nan, 0.5, 0.5)]
    sweeps = temperature_sweeps([probe_result(rows, features="probs")])
    labels = ["svm, C 1, test (probs)", "svm, C 4, test (probs)", "knn, test (probs)"]
    assert [sweep.label for sweep in sweeps] == labels
    assert [sweep.tau.tolist() for sweep in sweeps] == [[0.07, 1], [1], [0.5, 1]]
    low, high = metrics.wilson(0.5, len(LABELS))
    assert (sweeps[0].low[1], sweeps[0].high[1]) == pytest.approx((100 * low, 100 * high))


@pytest.mark.parametrize(
    ("models", "names", "prefixes"),
    [
        (["org/a", "org/b"], ["a/probe.h5", "b/probe.h5"], ["a: ", "b: "]),
        (["org/a", "org/a 7"], ["a.h5", "b.h5"], ["a: ", "untrained a: "]),
        (["org/a", "org/a"], ["a.h5", "b.h5"], ["a: ", "b: "]),
        (["org/a", "org/a"], ["one/probe.h5", "two/probe.h5"], ["one/probe: ", "two/probe: "]),
        (["", ""], ["a.h5", "b.h5"], ["a: ", "b: "]),
        (["x" * 50 + "1", "x" * 50 + "2"], ["a.h5", "b.h5"], ["a: ", "b: "]),
        (["org/a", "org/a"], ["a.h5", "a.h5"], ["file 1: ", "file 2: "]),
    ],
)
def test_sweeps_of_the_same_settings_are_told_apart_by_model_or_file(models, names, prefixes):
    files = []
    for model, name in zip(models, names, strict=True):
        file = probe_result(SWEEP)
        model, _, seed = model.partition(" ")
        if model:
            details = {"name": model, "untrained": 7} if seed else {"name": model}
            file.history = [{"command": "embed", "model": details}, *file.history]
        file.display_name = name
        files.append(file)
    labels = [sweep.label for sweep in temperature_sweeps(files)]
    assert labels == [f"{prefix}svm, C 1, test" for prefix in prefixes]
    files[0].runs["classifier"] = np.array(["knn", "knn"])
    labels = [sweep.label for sweep in temperature_sweeps(files)]
    if models[0] == models[1]:  # the labels say enough
        prefixes = ["", ""]
    assert labels == [f"{prefixes[0]}knn, C 1, test", f"{prefixes[1]}svm, C 1, test"]


def test_a_page_begins_with_the_sweep_on_the_scored_images_not_with_one_to_choose_by():
    to_choose_by = probe_result(SWEEP, val="0.1", eval_split="all")  # its rows are of test
    scored = probe_result([("knn", np.nan, 1.0, 0.5), ("knn", np.nan, 0.5, 0.5)])
    scored.splits["test"].predicted[:] = HALF_RIGHT
    figure, _ = draw_groups([to_choose_by, scored])
    assert title_of(figure).startswith("knn, test: 50.0 % at each of 2 temperatures")


def test_each_c_of_a_grid_is_a_line_over_temperature():
    settings = [(4.0, 0.5), (1.0, 0.5), (4.0, 1.0), (1.0, 1.0)]
    runs = [("svm", C, tau, i / 10) for i, (C, tau) in enumerate(settings)]
    sweeps = temperature_sweeps([probe_result(runs)])
    assert [sweep.label for sweep in sweeps] == ["svm, C 4, test", "svm, C 1, test"]
    # By the predictions, of which those of the first run are half right
    for sweep, percent in zip(sweeps, ([50, 100], [100, 100]), strict=True):
        np.testing.assert_allclose(sweep.tau, [0.5, 1])
        np.testing.assert_allclose(sweep.percent, percent)


# -- files that keep to the format, but were made by somebody else ---------------------------------


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("classifier", [1, 2], "runs/classifier: "),
        ("eval_split", [0.5, 1], "runs/eval_split: "),
        ("C", ["1", "2"], "runs/C: expected numbers or whole numbers, got texts"),
        ("temperature", [0.0, 1.0], "runs/temperature: expected numbers between 1e-12 and 1e+12"),
        ("acc1", [75.0, 80.0], "runs/acc1: expected numbers between 0 and 1, got 75"),
        ("mean_entropy", [np.inf, 1.0], "between -1e+12 and 1e+12, got inf"),
    ],
)
def test_a_column_that_clipkit_knows_has_a_known_type(column, values, message):
    result = changed(**{column: values})
    with fails_with(message):
        validate(result)
    result.runs = {"mine": np.array(values), "C": np.array([1, 2]), "acc1": np.full(2, np.nan)}
    validate(result)


def without(*columns):
    result = probe_result(SWEEP)
    for column in columns:
        del result.runs[column]
    return result


def changed(**columns):
    result = probe_result(SWEEP)
    result.runs |= {name: np.array(values) for name, values in columns.items()}
    return result


MANY_RUNS = probe_result(SWEEP)
MANY_RUNS.runs = {name: np.resize(values, 10_001) for name, values in MANY_RUNS.runs.items()}


@pytest.mark.parametrize(
    ("view", "result", "message"),
    [
        (confusion_counts, changed(eval_split=["test", "val"]), "each of 1 runs on test"),
        (temperature_sweeps, changed(eval_split=["a", "a"]), "expected predictions of a"),
        (results.cluster_counts, replace(CLUSTERS, splits={}), "expected a split, got none"),
        (temperature_sweeps, without("acc1"), "expected a sweep over temperatures"),
        (temperature_sweeps, without("eval_split"), "expected a sweep over temperatures"),
        (temperature_sweeps, MANY_RUNS, "expected at most 10,000 runs, got 10,001"),
    ],
)
def test_a_result_without_the_columns_or_runs_of_a_picture_is_refused(view, result, message):
    with fails_with(message):
        view([result] if view is temperature_sweeps else result)


def test_predictions_without_columns_or_history_can_be_counted():
    result = probe_result(SWEEP)
    result.runs, result.history = {}, []
    assert confusion_counts(result, run=0).label == "an unknown command, on test"


@pytest.mark.parametrize("prompts", [None, "32", [32], {"n": 1}, 0, -3, 10**400, 3.5])
def test_prompts_are_counted_only_if_they_are_a_number_on_which_results_agree(prompts):
    assert common_prompt_count([probe_result(SWEEP)] * 2) == 32
    assert common_prompt_count([probe_result(SWEEP), probe_result(SWEEP, prompts=16)]) is None
    assert common_prompt_count([probe_result(SWEEP, prompts=prompts)]) is None


# -- classes -----------------------------------------------------------------------------------


def test_the_mean_cosines_of_a_class_are_those_of_its_images_and_nan_without_images():
    logits = feature_file("logits")
    split = logits.splits["train"]
    logits.splits["train"] = replace(split, labels=np.zeros_like(split.labels))
    means, names = class_means(logits, "train")
    assert names == logits.class_names
    np.testing.assert_allclose(means[0], logits.cosines("train").read().mean(axis=0), rtol=1e-6)
    assert np.isnan(means[1:]).all()


@pytest.mark.long
def test_a_label_without_a_name_allocates_no_matrix_of_all_classes():
    logits = feature_file("logits", datasets={"class_names": None})
    result = replace(probe_result(SWEEP), class_names=None)
    clusters = replace(CLUSTERS, splits=dict(CLUSTERS.splits), class_names=None)
    last = (1 << 18) - 1
    for file, split in ((result, "test"), (clusters, "test"), (logits, "train")):
        labels = np.array(file.splits[split].labels)
        labels[0] = last
        file.splits[split] = replace(file.splits[split], labels=labels)
    tracemalloc.start()
    for view in (
        lambda: confusion_counts(result),
        lambda: results.cluster_counts(clusters),
        lambda: class_means(logits, "train"),
    ):
        with fails_with("at most 5,000 classes"):
            view()
    cosine_lines(logits, "train")
    scored = results.predictions(result)
    f1 = metrics.f1_per_class(scored.labels, scored.predicted, len(scored.class_names))
    assert np.flatnonzero(np.isfinite(f1)).tolist() == [0, 1, 2, last]
    assert tracemalloc.get_traced_memory()[1] < 75e6
    tracemalloc.stop()


def test_two_classes_of_one_name_are_two_lines():
    names = ["crane", "crane"]
    logits = feature_file("logits", datasets={"class_names": names})
    cosines, labels = cosine_lines(logits, classes=["crane"])
    assert labels == ["mean of 0: crane", "mean of 1: crane"]
    split = logits.splits["test"]
    expected = [split.features[split.labels == c].mean(axis=0) for c in (0, 1)]
    np.testing.assert_allclose(cosines, expected, rtol=1e-6)
