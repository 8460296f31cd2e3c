"""Few-shot curves: nested draws, and between which of them zero-shot classification lies."""

import numpy as np
import pytest
from factories import feature_file, result_file, saved
from shell import ok, rows

from clipkit.analysis.held_out import few_shot
from clipkit.analysis.probe.evaluation import ProbeSpec, evaluate_grid
from clipkit.features import Split, row_ids
from clipkit.plots.shots import shot_curves, zeroshot_line


def images(n=40, classes=4, seed=0):
    """Return two splits whose rows lie around one of several directions."""
    rng = np.random.default_rng(seed)
    file = feature_file(datasets={"class_names": None})
    for name in ("train", "test"):
        y = np.arange(n) % classes
        X = np.eye(classes)[y] + 0.5 * rng.standard_normal((n, classes))
        file.splits[name] = Split(X.astype("f4"), y, row_ids(n))
    return file


def test_more_shots_add_rows_to_those_of_fewer():
    labels = np.arange(40) % 4
    draws = [set(few_shot(labels, shots, seed=3).tolist()) for shots in (1, 2, 4, 8)]
    assert draws[0] < draws[1] < draws[2] < draws[3]


def test_every_number_of_shots_is_drawn_as_often_as_asked():
    file, spec = images(), ProbeSpec("logreg", seed=5, shots=[1, 2], repeat=3)
    result = evaluate_grid(file, spec)
    assert result.runs["shots"].tolist() == [1, 1, 1, 2, 2, 2]
    assert result.runs["draw"].tolist() == [0, 1, 2] * 2
    assert (result.history[-1]["shots"], result.history[-1]["repeat"]) == ([1, 2], 3)
    alone = evaluate_grid(file, ProbeSpec("logreg", seed=7, shots=[2])).splits["test"].predicted
    np.testing.assert_array_equal(result.splits["test"].predicted[5], alone[0])


def test_every_draw_chooses_its_own_setting_on_the_same_validation_rows():
    spec = ProbeSpec("logreg", shots=[1, 2], repeat=2)
    result = evaluate_grid(images(), spec, Cs=[0.1, 1], val=0.25)
    assert result.runs["eval_split"].tolist() == ["val", "val", "test"] * 4
    assert result.splits["val"].predicted.shape == (8, 8)
    assert result.splits["test"].predicted.shape == (4, 40)
    for run in result.runs_on("val"):
        assert run["fit_split"] == f"train-val-{run['shots']}-shot"


def test_shuffled_labels_stay_at_chance_with_any_number_of_shots(tmp_path):
    source = saved(tmp_path / "img.h5", images(400))
    shuffled = ok("relabel", source, "--shuffle").stdout_bytes
    report = rows(ok("probe", "--shots", "1,4,16", "--repeat", 5, stdin=shuffled).stdout)
    assert [row["shots"] for row in report] == ["1"] * 5 + ["4"] * 5 + ["16"] * 5
    accuracies = np.reshape([float(row["acc1"]) for row in report], (3, 5)).mean(axis=1)
    assert accuracies == pytest.approx([0.25] * 3, abs=0.05)


def right(share, n):
    """Return predictions of the class 0 in a share of n rows."""
    return (np.arange(n) >= round(share * n)).astype(int)


def curve_and_line(accuracy, *, n=1000, ids=None, had=None, cluster=None):
    """Return a curve of 50, 60 and 80 %, and what is said of a zero-shot accuracy beside it."""
    history = [{"command": "probe", "classifier": "svm"}]
    setting = {"classifier": "svm", "C": 1.0, "temperature": np.nan, "eval_split": "test"}
    draws = [(1, 0, 0.4), (1, 1, 0.6), (2, 0, 0.6), (2, 1, 0.6), (4, 0, 0.7), (4, 1, 0.9)]
    runs = [{**setting, "shots": s, "draw": draw, "acc1": acc1} for s, draw, acc1 in draws]
    for run in runs if had else ():
        run["fitted_per_class"] = float(min(run["shots"], had))
    predicted = np.stack([right(acc1, n) for *_, acc1 in draws])
    probe = result_file(runs, [0] * n, predicted, history)
    row, ids = {"split": "test", "acc1": accuracy}, ids or n
    zeroshot = result_file([row], [0] * ids, [right(accuracy, ids)], [{"command": "zeroshot"}])
    zeroshot.splits["test"].cluster = cluster
    (curve,) = shot_curves([probe])
    return curve, zeroshot_line(zeroshot, probe, curve)[1]


def test_rows_of_a_cluster_decide_together():
    two = np.arange(1000) // 500
    assert curve_and_line(0.95, cluster=two)[1].endswith(": not decided at 1, 2 and 4")


def test_a_curve_has_the_mean_and_the_range_of_the_draws():
    curve, _ = curve_and_line(0.5)
    assert curve.shots == [1, 2, 4]
    assert curve.mean == pytest.approx([0.5, 0.6, 0.8])
    assert (curve.low, curve.high) == ([0.4, 0.6, 0.7], [0.6, 0.6, 0.9])


@pytest.mark.parametrize(
    ("accuracy", "sentence"),
    [
        (0.3, "below 1 labelled images per class"),
        (0.5, "below 2 labelled images per class, not decided at 1"),  # between the draws
        (0.6, "below 4 labelled images per class, not decided at 1 and 2"),  # equal to one of them
        (0.65, "above 2 and below 4 labelled images per class"),
        (0.8, "above 2 labelled images per class, not decided at 4"),
        (0.95, "above 4 labelled images per class"),
    ],
)
def test_zeroshot_is_above_probes_on_as_many_images_as_every_draw_decides(accuracy, sentence):
    found = curve_and_line(accuracy)[1]
    assert found == f"Zero-shot, {100 * accuracy:.1f} % of 1,000: {sentence}"


def test_few_scored_images_decide_little():
    assert curve_and_line(0.7, n=10)[1] == "Zero-shot, 70.0 % of 10: not decided at 1, 2 and 4"


def test_a_run_with_fewer_images_than_asked_stands_at_what_it_had():
    curve, _ = curve_and_line(0.5, had=3)
    assert curve.shots == [1, 2, 3]


def test_zeroshot_on_other_images_is_refused():
    with pytest.raises(Exception, match="expected zero-shot predictions of the images of"):
        curve_and_line(0.5, ids=3)


def test_a_table_has_the_mean_and_the_range_of_the_draws_and_files_have_each(tmp_path):
    source = saved(tmp_path / "img.h5", images(80))
    command = ("probe", source, "--classifier", "logreg", "--shots", "1,4", "--repeat", 3)
    accuracies = np.reshape([float(row["acc1"]) for row in rows(ok(*command).stdout)], (2, 3))
    table = ok(*command, "--format", "table").stdout
    for shots, of_draws in zip((1, 4), 100 * accuracies, strict=True):
        low, mean, high = (
            f"{value:.2f}" for value in (of_draws.min(), of_draws.mean(), of_draws.max())
        )
        (line,) = [line for line in table.splitlines() if f"train-{shots}-shot" in line]
        assert f" {mean} ({low}–{high}) " in line
    assert "draws 3" in table.splitlines()[-1]
