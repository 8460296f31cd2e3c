"""What pictures and reports read from results and logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import result_file
from sklearn.metrics import confusion_matrix

from clipkit import metrics, results
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile

LABELS = np.array([0, 0, 1, 1, 2, 2])
NAMES = ["cat", "dog", "owl"]
HALF_RIGHT = [0, 1, 1, 0, 2, 0]
SWEEP = [("svm", 1.0, 1.0, 0.5), ("svm", 1.0, 0.07, 1.0)]
CLUSTERS = result_file([], LABELS, [[3, 3, 0, 0, 1, 2]], [{"command": "cluster"}])


def probe_result(runs: list[tuple[str, float, float, float]], **entry: Any) -> FeatureFile:
    """Make a result of `probe` with (classifier, C, temperature, acc1) per run."""
    columns = ("classifier", "C", "temperature", "acc1")
    rows = [dict(zip(columns, run, strict=True)) | {"eval_split": "test"} for run in runs]
    rows = [row | {"mean_entropy": row["temperature"]} for row in rows]
    predicted = [HALF_RIGHT, *[LABELS] * (len(rows) - 1)]
    history = [{"command": "probe", "prompts": 32, **entry}]
    return result_file(rows, LABELS, predicted, history, NAMES)


def test_confusion_counts_are_scikit_learns_for_the_most_accurate_run_by_default() -> None:
    result = probe_result(SWEEP)
    counts = results.confusion_counts(result, run=0)
    np.testing.assert_array_equal(counts.counts, confusion_matrix(LABELS, HALF_RIGHT))
    assert counts.class_names == NAMES
    assert counts.label == "probe, svm, C 1, temperature 1, on test"
    best = results.confusion_counts(result)
    np.testing.assert_array_equal(best.counts, 2 * np.eye(3))
    assert best.label == "probe, svm, C 1, temperature 0.07, on test"


def test_classes_without_names_are_numbered() -> None:
    result = probe_result(SWEEP)
    result.class_names = None
    assert results.confusion_counts(result).class_names == ["0", "1", "2"]


def test_cluster_counts_have_as_many_columns_as_clusters() -> None:
    clusters = results.cluster_counts(CLUSTERS)
    np.testing.assert_array_equal(clusters.counts, [[0, 0, 0, 2], [2, 0, 0, 0], [0, 1, 1, 0]])
    assert clusters.class_names == ["0", "1", "2"]
    assert clusters.label == "k-means, k 4, on test"


def test_counts_are_limited_to_1000_classes() -> None:
    result = probe_result(SWEEP)
    result.class_names = None
    result.splits["test"].labels = LABELS + 1000
    with pytest.raises(ClipkitError, match="expected at most 1,000 classes"):
        results.confusion_counts(result)


def test_counts_of_groups_are_sums_over_their_classes(tmp_path: Path) -> None:
    path = tmp_path / "groups.tsv"
    path.write_text("owl\tbird\ncat\tpet\ndog\tpet\n")
    scored = results.predictions(probe_result(SWEEP), run=0)
    groups = results.read_groups(str(path), NAMES)
    grouped = results.count(results.group_classes(scored, groups))
    assert grouped.class_names == ["bird", "pet"]
    np.testing.assert_array_equal(grouped.counts, [[1, 1], [0, 4]])
    assert grouped.class_accuracy == 0.5  # that of the groups is 5 of 6
    assert results.count(scored).class_accuracy is None
    path.write_text("cat\tpet\n")
    with pytest.raises(ClipkitError, match="expected a group for every class, got none for 'dog'"):
        results.read_groups(str(path), NAMES)


def test_sweeps_are_split_by_classifier_and_c_and_have_wilsons_interval() -> None:
    rows = [*SWEEP, ("svm", 4.0, 1.0, 0.5), ("knn", np.nan, 1.0, 0.5), ("knn", np.nan, 0.5, 0.5)]
    sweeps = results.temperature_sweeps([probe_result(rows, features="probs")])
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
def test_sweeps_of_the_same_settings_are_told_apart_by_model_or_file(
    models: list[str], names: list[str], prefixes: list[str]
) -> None:
    files = []
    for model, name in zip(models, names, strict=True):
        file = probe_result(SWEEP)
        model, _, seed = model.partition(" ")
        if model:
            embedded = {"command": "embed", "model": {"name": model}}
            embedded["model"] |= {"untrained": 7} if seed else {}
            file.history = [embedded, *file.history]
        file.display_name = name
        files.append(file)
    labels = [sweep.label for sweep in results.temperature_sweeps(files)]
    assert labels == [f"{prefix}svm, C 1, test" for prefix in prefixes]
    files[0].runs["classifier"] = np.array(["knn", "knn"])
    labels = [sweep.label for sweep in results.temperature_sweeps(files)]
    assert labels == ["knn, C 1, test", "svm, C 1, test"]


def test_prompts_are_counted_only_if_results_agree() -> None:
    a, b = probe_result(SWEEP), probe_result(SWEEP, prompts=16)
    assert results.common_prompt_count([a, a]) == 32
    assert results.common_prompt_count([a, b]) is None


def test_a_grid_is_arranged_by_c_and_temperature() -> None:
    settings = [(4.0, 0.5), (1.0, 0.5), (4.0, 1.0), (1.0, 1.0)]
    runs = [("svm", C, tau, i / 10) for i, (C, tau) in enumerate(settings)]
    grid = results.accuracy_grid(probe_result(runs))
    assert (grid.Cs, grid.temperatures) == ([1, 4], [0.5, 1])
    np.testing.assert_array_equal(grid.values, [[0.1, 0.3], [0.0, 0.2]])
    assert grid.label == "svm on cosine / τ, scored on test"
