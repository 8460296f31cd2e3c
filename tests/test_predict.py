"""A kept probe predicts what the sweep reported, on other files and from other processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import MODEL, unchanged
from numpy.typing import NDArray
from shell import fails, ok, rows, shell
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from clipkit.analysis import evaluation, prediction, probes, results
from clipkit.analysis.probes import FittedProbe, sweeps
from clipkit.analysis.probes import svm as svm_module
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, Split, read, write

SETTINGS = {
    "svm": {"C": (0.01, 1, 100), "scales": (1, 14.3)},
    "logreg": {"C": (0.01, 1, 100), "scales": (1, 14.3)},
    "mlp": {"C": (1,), "scales": (1, 14.3)},
    "knn": {"C": (1,), "scales": (1, 14.3)},
}


@pytest.fixture(autouse=True, scope="module")
def short_training() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "STEPS", 100)
        yield


def world(
    classes: int, rows: int = 240, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw noisy rows of classes with ids 3, 5, 7, ... that overlap a little."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(rows) % classes)
    means = np.random.default_rng(99).standard_normal((classes, 12))
    X = 0.3 + 0.1 * (means[numbers] + rng.standard_normal((rows, 12)))
    return X.astype(np.float32), 3 + 2 * numbers


def reread(fitted: FittedProbe) -> FittedProbe:
    """Return the probe that another process would make of its arrays."""
    arrays: Mapping[str, Any] = {
        name: value if isinstance(value, list) else value.copy()
        for name, value in fitted.to_arrays().items()
    }
    return FittedProbe.from_arrays(arrays)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("classifier", SETTINGS)
@pytest.mark.long
def test_a_kept_probe_predicts_what_its_sweep_predicted(
    classifier: str, standardize: bool, classes: int
) -> None:
    X, y = world(classes)
    X_eval, _ = world(classes, 101, seed=1)
    options: dict[str, Any] = {"classifier": classifier, "standardize": standardize}
    runs = probes.sweep(X, y, X_eval, keep=True, **SETTINGS[classifier], **options)
    for run in runs:
        assert run.fitted
        fitted = reread(run.fitted)
        np.testing.assert_array_equal(fitted.predict(X_eval), run.predicted)
        scores = fitted.scores(X_eval)
        np.testing.assert_array_equal(fitted.classes[scores.argmax(axis=1)], run.predicted)
        confidences = fitted.confidences(scores)
        np.testing.assert_array_equal(confidences.argmax(axis=1), scores.argmax(axis=1))
        assert fitted.width == 12


def test_a_sweep_that_keeps_nothing_has_no_fitted_probes() -> None:
    X, y = world(3)
    assert probes.sweep(X, y, X)[0].fitted is None


def test_hyperplanes_that_are_fitted_pair_by_pair_are_kept_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(svm_module, "NORMALS", 10)
    X, y = world(14)
    X_eval, _ = world(14, 50, seed=1)
    for run in probes.sweep(X, y, X_eval, C=(0.1, 10), keep=True):
        assert run.fitted
        np.testing.assert_array_equal(reread(run.fitted).predict(X_eval), run.predicted)


def test_logits_and_probabilities_of_logreg_are_scikit_learns() -> None:
    X, y = world(4)
    (run,) = probes.sweep(X, y, X, classifier="logreg", C=(3.0,), keep=True)
    assert run.fitted
    reference = LogisticRegression(C=3.0, tol=1e-8, max_iter=10_000).fit(X, y)
    probabilities = run.fitted.confidences(run.fitted.scores(X))
    np.testing.assert_allclose(probabilities, reference.predict_proba(X), atol=3e-3)
    np.testing.assert_allclose(
        run.fitted.weights(), reference.coef_, atol=0.02 * np.abs(reference.coef_).max()
    )


def test_margins_of_two_classes_are_those_of_an_svm() -> None:
    X, y = world(2)
    (run,) = probes.sweep(X, y, X, C=(3.0,), keep=True)
    assert run.fitted
    reference = SVC(kernel="linear", C=3.0).fit(X, y)
    margins = run.fitted.scores(X)
    np.testing.assert_allclose(margins[:, 1], reference.decision_function(X), atol=5e-3)
    np.testing.assert_allclose(margins[:, 0], -margins[:, 1])
    np.testing.assert_allclose(run.fitted.weights()[1], reference.coef_[0], atol=5e-3)


# files

CLASSES = ["ant", "bee", "cat", "dog"]


def images(seed: int = 0, **fields: Any) -> FeatureFile:
    """Return embeddings (D = 12) of four classes, with the splits train and test."""
    file = FeatureFile("images", [{"command": "embed", "model": MODEL}], class_names=CLASSES)
    for number, name in enumerate(("train", "test")):
        X, y = world(4, 120, seed=2 * seed + number)
        ids = [f"{name}/{row}.png" for row in range(len(X))]
        file.splits[name] = Split(X, (y - 3) // 2, ids)
    return replace(file, **fields)


def logits(temperature: float = 1.0, **fields: Any) -> FeatureFile:
    """Return logits of twelve prompts, whose cosines are the columns of `images`."""
    file = images(kind="logits", temperature=temperature, logit_scale=100.0)
    file.texts = [f"prompt {number}" for number in range(12)]
    file.class_index = np.full(12, -1)
    for split in file.splits.values():
        split.features = split.features / np.float32(temperature)
    return replace(file, **fields)


def without_labels(file: FeatureFile, *names: str) -> FeatureFile:
    splits = {
        name: replace(split, labels=None) if name in names else split
        for name, split in file.splits.items()
    }
    return replace(file, splits=splits)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("originals")
    write(made / "img.h5", images())
    write(made / "logits.h5", logits())
    ok("probe", made / "img.h5", "--keep", "-o", made / "p.h5")
    ok("probe", made / "logits.h5", "-t", 0.07, "--keep", "-o", made / "pl.h5")
    return made


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    """A folder with img.h5, logits.h5 and the probes p.h5 and pl.h5 that were fitted on them."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    return tmp_path


# features -> the file, the options that choose them, and C
KINDS = {
    "embeddings": (images(), [], "1"),
    "logits": (logits(), ["-t", "0.07"], "100"),
    "logits at another tau": (logits(), ["-t", "0.5"], "0.01"),
    "probs": (logits(), ["-t", "0.02", "--features", "probs"], "1"),
}


@pytest.mark.long
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("standardize", ["--standardize", "--no-standardize"])
@pytest.mark.parametrize("classifier", SETTINGS)
def test_predict_gives_each_image_the_class_that_probe_gave_it(
    classifier: str, standardize: str, source: str, tmp_path: Path
) -> None:
    file, words, C = KINDS[source]
    write(tmp_path / "x.h5", file)
    if classifier not in ("knn", "mlp"):
        words = [*words, "-C", C]
    options = ["--classifier", classifier, standardize, *words, "--keep"]
    report = ok("probe", tmp_path / "x.h5", *options, "-o", tmp_path / "p.h5")
    expected = read(tmp_path / "p.h5").splits["test"].predicted
    assert expected is not None
    options = ["--split", "test", "-o", tmp_path / "out.h5"]
    predicted = ok("predict", tmp_path / "p.h5", tmp_path / "x.h5", *options)
    again = read(tmp_path / "out.h5").splits["test"].predicted
    np.testing.assert_array_equal(again, expected)
    assert rows(predicted.stdout)[0]["acc1"] == rows(report.stdout)[0]["acc1"]


@pytest.mark.parametrize("temperature", [0.01, 0.07, 4.0])
@pytest.mark.long
def test_the_temperature_of_the_logits_does_not_matter(folder: Path, temperature: float) -> None:
    write(folder / "other.h5", logits(temperature))
    a = ok("predict", folder / "pl.h5", folder / "logits.h5").stdout
    assert ok("predict", folder / "pl.h5", folder / "other.h5").stdout == a


@pytest.mark.long
def test_keeping_changes_neither_the_report_nor_what_is_stored_without_it(folder: Path) -> None:
    plain = ok("probe", folder / "img.h5", "-o", folder / "r.h5")
    kept = ok("probe", folder / "img.h5", "--keep", "-o", folder / "again.h5")
    assert plain.stdout == kept.stdout
    assert (folder / "again.h5").read_bytes() == (folder / "p.h5").read_bytes()
    result, probe = read(folder / "r.h5"), read(folder / "p.h5")
    assert (result.kind, result.attributes()["version"]) == ("result", 1)
    assert (probe.kind, probe.attributes()["version"]) == ("probe", 2)
    assert results.as_result(probe).digest == result.digest


@pytest.mark.long
def test_after_validation_the_best_run_is_kept_as_it_was_fitted_again(folder: Path) -> None:
    options = ("-C", "0.001,1", "--classifier", "logreg", "--val", "0.2")
    report = ok("probe", folder / "img.h5", *options, "--keep", "-o", folder / "best.h5")
    *_, final = rows(report.stdout)
    kept = read(folder / "best.h5")
    assert kept.history[-1]["kept"] == {"C": float(final["C"]), "fit_split": "train"}
    predicted = ok("predict", folder / "best.h5", folder / "img.h5", "--split", "test")
    assert rows(predicted.stdout)[0]["acc1"] == final["acc1"]


def test_without_an_evaluation_split_the_best_run_is_fitted_again_on_all_rows(
    folder: Path,
) -> None:
    file = images()
    del file.splits["test"]
    kept = evaluation.evaluate_grid(file, Cs=[0.01, 1], val=0.2, keep=True)
    assert [row["eval_split"] for row in kept.rows()] == ["val", "val"]
    assert kept.history[-1]["kept"]["fit_split"] == "train"
    C = kept.history[-1]["kept"]["C"]
    expected = evaluation.evaluate_grid(images(), Cs=[C]).splits["test"].predicted
    result = prediction.predict(kept, images(), ["test"]).result
    np.testing.assert_array_equal(result.splits["test"].predicted, expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-C", "1,10"], "expected one run to keep or to print by image, got 2; hint: choose the"),
        (["--shots", "1,2"], "expected one few-shot draw to keep or to print by image, got 2"),
        (["--shots", "1", "--repeat", "3"], "expected one few-shot draw to keep or to print by im"),
    ],
)
def test_only_one_run_is_kept(folder: Path, words: list[str], message: str) -> None:
    with unchanged(folder):
        out = ("--keep", "-o", folder / "new.h5")
        assert message in fails("probe", folder / "img.h5", *words, *out, exit_code=2)


def test_keep_needs_an_output(folder: Path) -> None:
    assert "expected -o FILE for --keep" in fails("probe", folder / "img.h5", "--keep", exit_code=2)


def test_an_svm_whose_hyperplanes_fill_the_memory_is_not_kept(monkeypatch: Any) -> None:
    monkeypatch.setattr(evaluation, "MAX_KEPT", 77)
    with pytest.raises(ClipkitError, match="expected at most 77 numbers to keep, got 78 in the"):
        evaluation.evaluate_grid(images(), keep=True)


def other_model(**changes: Any) -> list[dict[str, Any]]:
    return [{"command": "embed", "model": {**MODEL, **changes}}]


def entry(command: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return a history with settings of the prompts."""
    first = {"command": "embed", "model": MODEL}
    return [first, {"command": command, **parameters}]


def narrow() -> FeatureFile:
    file = images()
    for split in file.splits.values():
        split.features = split.features[:, :8]
    return file


PROMPTS = [f"prompt {number}" for number in range(12)]
REFUSED = [
    ("p.h5", images(history=other_model(digest="sha256:9")), "come from different models (m sha2"),
    ("p.h5", images(history=[]), "expected the name of its model in the history, got none"),
    ("p.h5", images(history=other_model(untrained=1)), "come from different models"),
    ("p.h5", narrow(), "expected 12 columns, got 8"),
    ("p.h5", logits(), "expected images, as the probe was fitted on, got logits"),
    ("pl.h5", images(), "expected logits, as the probe was fitted on, got images"),
    ("pl.h5", logits(texts=PROMPTS[::-1]), "prompt 1: expected 'prompt 0', got 'prompt 11'"),
    ("p.h5", images(class_names=None), "expected class names in both, got none in"),
    ("p.h5", images(class_names=["x", "x", "y", "z"]), "expected each class name once, got 'x' 2"),
    (
        "img.h5",
        images(),
        "img.h5: expected probe, got images; hint: name the probe first, and then",
    ),
]


@pytest.mark.parametrize(("probe", "file", "message"), REFUSED, ids=[row[2] for row in REFUSED])
@pytest.mark.long
def test_a_file_that_the_probe_cannot_read_is_refused(
    folder: Path, probe: str, file: FeatureFile, message: str
) -> None:
    write(folder / "new.h5", file)
    with unchanged(folder):
        words = ("predict", folder / probe, folder / "new.h5", "-o", folder / "out.h5")
        assert message in fails(*words)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            entry("textembed", templates=["a {}"]),
            entry("textembed", templates=["b {}"]),
            "['a {}']",
        ),
        (entry("logits", random=12, seed=1), entry("logits", random=12, seed=2), "seed of logits"),
        (entry("logits", whiten=True), entry("logits"), "expected whiten of logits to be True"),
        (
            entry("logits", whiten=True, inputs={"texts": "sha256:1"}),
            entry("logits", whiten=True, inputs={"texts": "sha256:2"}),
            "have the directions of different prompts",
        ),
        (
            entry("textembed", classes="file", inputs={"classes": "sha256:1"}),
            entry("textembed", classes="file", inputs={"classes": "sha256:2"}),
            "have prompts of different files of classes",
        ),
    ],
)
def test_prompts_of_equal_texts_but_other_embeddings_are_refused(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], message: str
) -> None:
    probe = evaluation.evaluate_grid(logits(history=ours), keep=True)
    with pytest.raises(ClipkitError) as caught:
        prediction.predict(probe, logits(history=theirs))
    assert message in caught.value.message


def test_embeddings_of_another_length_are_refused() -> None:
    raw = [{"command": "embed", "model": MODEL, "normalize": False}]
    unit = [{"command": "embed", "model": MODEL, "normalize": True}]
    probe = evaluation.evaluate_grid(images(history=raw), keep=True)
    with pytest.raises(ClipkitError, match="expected normalize of embed to be False, got True"):
        prediction.predict(probe, images(history=unit))


@pytest.mark.parametrize(
    ("name", "value"), [("rms", np.array([1e-300])), ("hyperplanes", np.full((6, 13), 1e38, "f4"))]
)
def test_scores_that_overflow_are_refused(name: str, value: Any) -> None:
    probe = evaluation.evaluate_grid(images(), keep=True)
    probe.fitted[name] = value
    with pytest.raises(ClipkitError, match="test: expected finite scores, got NaN or Inf"):
        prediction.predict(probe, images(), ["test"])


@pytest.mark.long
def test_classes_are_matched_by_name(folder: Path) -> None:
    file = images()
    order = [2, 0, 3, 1]  # the old number of each class
    names = [CLASSES[number] for number in order]
    for split in file.splits.values():
        split.labels = np.argsort(order)[split.labels]
    write(folder / "new.h5", replace(file, class_names=names))
    expected = ok("predict", folder / "p.h5", folder / "img.h5").stdout
    assert ok("predict", folder / "p.h5", folder / "new.h5").stdout == expected
    words = ("predict", folder / "p.h5", "--per-image")
    assert ok(*words, folder / "new.h5").stdout == ok(*words, folder / "img.h5").stdout


@pytest.mark.long
def test_images_of_unknown_classes_are_warned_about_and_count_as_wrong(folder: Path) -> None:
    write(folder / "new.h5", images(class_names=["ant", "bee", "cow", "dog"]))
    run = ok("predict", folder / "p.h5", folder / "new.h5", "--split", "test", "--per-image")
    assert (
        "p.h5 does not know 1 of the classes of test (for example cow), so that 30 rows can only"
        in run.stderr
    )
    images_of_cows = [row for row in rows(run.stdout) if row["label"] == "cow"]
    assert len(images_of_cows) == 30
    assert {row["prediction"] for row in rows(run.stdout)} == set(CLASSES)
    report = rows(ok("predict", folder / "p.h5", folder / "new.h5").stdout)
    assert 0.5 < float(report[0]["acc1"]) < 0.75


def test_the_split_that_was_fitted_is_warned_about(folder: Path) -> None:
    warning = "images of train were also fitted: the accuracy on them says nothing about other"
    assert warning in ok("predict", folder / "p.h5", folder / "img.h5").stderr
    assert warning in ok("predict", folder / "pl.h5", folder / "logits.h5").stderr
    assert not ok("predict", folder / "p.h5", folder / "img.h5", "--split", "test").stderr
    write(folder / "new.h5", images(seed=1))
    assert not ok("predict", folder / "p.h5", folder / "new.h5").stderr


@pytest.mark.long
def test_unlabelled_images_give_a_row_per_image(folder: Path) -> None:
    file = without_labels(images(class_names=None), "train", "test")
    write(folder / "new.h5", file)
    report = rows(ok("predict", folder / "p.h5", folder / "new.h5").stdout)
    assert list(report[0]) == ["split", "id", "prediction", "score", "runner_up", "runner_up_score"]
    assert [row["id"] for row in report] == [*file.splits["test"].ids, *file.splits["train"].ids]
    assert all(row["prediction"] in CLASSES for row in report)
    assert all(float(row["score"]) >= float(row["runner_up_score"]) for row in report)


@pytest.mark.parametrize("classifier", ["logreg", "mlp", "knn"])
@pytest.mark.long
def test_scores_are_probabilities_of_all_classes(folder: Path, classifier: str) -> None:
    options = ("--classifier", classifier, "--keep", "-o", folder / "q.h5")
    ok("probe", folder / "img.h5", *options)
    report = rows(ok("predict", folder / "q.h5", folder / "img.h5", "--scores").stdout)
    for row in report:
        scores = {name: float(row[f"score_{name}"]) for name in CLASSES}
        assert sum(scores.values()) == pytest.approx(1)
        assert max(scores, key=lambda name: scores[name]) == row["prediction"]
        assert row["score"] == row[f"score_{row['prediction']}"]


@pytest.mark.long
def test_top_gives_a_row_for_each_of_the_best_classes(folder: Path) -> None:
    words = ("predict", folder / "p.h5", folder / "img.h5", "--split", "test")
    plain = rows(ok(*words, "--per-image").stdout)
    ranked = rows(ok(*words, "--top", "3").stdout)
    assert len(ranked) == 3 * len(plain)
    assert [row["rank"] for row in ranked[:4]] == ["1", "2", "3", "1"]
    assert [row["prediction"] for row in ranked[::3]] == [row["prediction"] for row in plain]
    assert [row["prediction"] for row in ranked[1::3]] == [row["runner_up"] for row in plain]
    assert len(rows(ok(*words, "--top", "99").stdout)) == 4 * len(plain)


@pytest.mark.long
def test_zeroshot_prints_unlabelled_images_with_their_cosines(tmp_path: Path) -> None:
    index = np.arange(12) % 4
    file = without_labels(logits(0.5, class_index=index), "train", "test")
    write(tmp_path / "x.h5", file)
    report = rows(ok("zeroshot", tmp_path / "x.h5", "--split", "test").stdout)
    cosines = file.cosines("test").read()
    best = cosines.argmax(axis=1)
    assert [row["prediction"] for row in report] == [CLASSES[k] for k in index[best]]
    np.testing.assert_allclose([float(row["score"]) for row in report], cosines.max(axis=1), 1e-6)
    write(tmp_path / "y.h5", logits(class_index=index))
    assert "acc1" in rows(ok("zeroshot", tmp_path / "y.h5").stdout)[0]
    assert "label" in rows(ok("zeroshot", tmp_path / "y.h5", "--per-image").stdout)[0]


@pytest.mark.long
def test_probe_predicts_an_unlabelled_split(folder: Path) -> None:
    write(folder / "semi.h5", without_labels(images(), "test"))
    labelled = ok("predict", folder / "p.h5", folder / "img.h5", "--split", "test", "--per-image")
    run = ok("probe", folder / "semi.h5", "-o", folder / "r.h5")
    expected = [row["prediction"] for row in rows(labelled.stdout)]
    assert [row["prediction"] for row in rows(run.stdout)] == expected
    result = read(folder / "r.h5")
    assert result.kind == "result"
    assert np.isnan(result.runs["acc1"]).all()
    assert [CLASSES[number] for number in result.splits["test"].predicted[0]] == expected


@pytest.mark.long
def test_several_runs_on_an_unlabelled_split_give_their_report(folder: Path) -> None:
    write(folder / "semi.h5", without_labels(images(), "test"))
    several = ok("probe", folder / "semi.h5", "-C", "0.1,1")
    assert [row["acc1"] for row in rows(several.stdout)] == ["", ""]
    assert "test has no labels: --per-image prints its predictions" in several.stderr
    chosen = ok("probe", folder / "semi.h5", "-C", "0.1,1", "--val", "0.2")
    assert [bool(row["acc1"]) for row in rows(chosen.stdout)] == [True, True, False]
    listed = ok("probe", folder / "semi.h5", "-C", "0.1,1", "--val", "0.2", "--per-image")
    assert len(rows(listed.stdout)) == 120


def test_rows_of_images_have_the_columns_that_are_asked_for(folder: Path) -> None:
    ok("probe", folder / "img.h5", "--shots", 4, "--keep", "-o", folder / "few.h5")
    columns = ("--columns", "id,prediction,model,shots")
    for command in ("predict", folder / "few.h5"), ("probe", "--shots", 4):
        run = ok(*command, folder / "img.h5", "--per-image", *columns)
        row = rows(run.stdout)[0]
        assert list(row) == ["id", "prediction", "model", "shots"]
        assert (row["model"], row["shots"]) == (MODEL["name"], "4")
    predicted = folder / "predicted.h5"
    words = ("predict", folder / "few.h5", folder / "img.h5", "-o", predicted)
    report = ok(*words, "--columns", "acc1,shots")
    (folder / "groups.tsv").write_text("".join(f"{name}\tanimal\n" for name in CLASSES))
    ok("relabel", predicted, "--groups", folder / "groups.tsv", "-o", folder / "grouped.h5")
    grouped = ok("info", "--runs", folder / "grouped.h5", "--columns", "acc1,shots")
    assert {row["shots"] for row in rows(grouped.stdout)} == {"4"}
    assert {row["shots"] for row in rows(report.stdout)} == {"4"}


def test_rows_are_of_classes_or_of_images(folder: Path) -> None:
    write(folder / "zs.h5", logits(class_index=np.arange(12) % 4))
    write(folder / "new.h5", without_labels(images(), "test"))
    write(folder / "zs-new.h5", without_labels(logits(class_index=np.arange(12) % 4), "test"))
    for command, labelled, unlabelled in (
        (("probe",), "img.h5", "new.h5"),
        (("predict", folder / "p.h5"), "img.h5", "new.h5"),
        (("zeroshot",), "zs.h5", "zs-new.h5"),
    ):
        words = (*command, folder / labelled, "--per-class", "--per-image")
        assert "expected rows of classes or of images" in fails(*words, exit_code=2)
        splits = () if command == ("probe",) else ("--split", "test")
        message = fails(*command, folder / unlabelled, "--per-class", *splits, exit_code=1)
        assert f"{unlabelled}: expected labels in test, got none" in message


def test_rows_that_are_held_out_are_not_listed(folder: Path) -> None:
    options = ("--val", "0.2", "--eval-split", "train", "--per-image")
    message = fails("probe", folder / "img.h5", *options, exit_code=2)
    assert "expected a split with predictions to print, got rows that are held out" in message


@pytest.mark.long
def test_a_probe_is_read_like_a_result(folder: Path) -> None:
    probe = folder / "p.h5"
    ok("predict", probe, folder / "img.h5", "-o", folder / "out.h5")
    for number, name in enumerate(("p.h5", "out.h5")):
        ok("info", folder / name)
        ok("convert", folder / name, folder / f"{number}.csv")
        ok("convert", folder / name, folder / f"{number}.parquet")
        ok("convert", folder / name, folder / f"runs-{number}.csv", "--runs")
        ok("plot", "confusion", folder / name, "-o", folder / f"{number}.png")
    assert rows(ok("compare", probe, folder / "out.h5").stdout)[0]["difference"] == "0"
    (folder / "groups.tsv").write_text("".join(f"{name}\tanimal\n" for name in CLASSES))
    ok("relabel", probe, "--groups", folder / "groups.tsv", "-o", folder / "grouped.h5")
    assert read(folder / "grouped.h5").kind == "result"


@pytest.mark.long
def test_probe_and_predict_work_in_pipes(folder: Path) -> None:
    expected = ok("predict", folder / "p.h5", folder / "img.h5", "--split", "test").stdout
    lines = (
        "cat img.h5 | clipkit -q predict p.h5 --split test",
        "clipkit -q predict <(clipkit -q probe img.h5 --keep -o -) img.h5 --split test",
        "clipkit -q probe img.h5 --keep -o - | clipkit -q predict - img.h5 --split test",
    )
    for line in lines:
        run = shell(line, folder)
        assert (run.returncode, run.stdout, run.stderr) == (0, expected, "")
    run = shell("clipkit -q predict p.h5 img.h5 --split test --per-image | head -n 1", folder)
    assert (run.returncode, run.stderr) == (0, "")
    assert "only one file on standard input" in fails("predict", "-", "-", exit_code=2)


@pytest.mark.long
def test_a_long_list_of_images_is_printed_in_chunks(folder: Path) -> None:
    rng = np.random.default_rng(0)
    file = without_labels(images(), "train", "test")
    X = rng.standard_normal((4001, 12)).astype("<f4")
    file.splits = {"all": Split(X, None, [f"{row}.png" for row in range(4001)])}
    write(folder / "new.h5", file)
    words = ("predict", folder / "p.h5", folder / "new.h5")
    lines = ok(*words).stdout.splitlines()
    assert len(lines) == 4002
    assert len(set(lines)) == 4002
    csv = ok(*words, "--format", "csv").stdout.replace(",", "\t")
    assert csv.splitlines() == lines
    assert [row["id"] for row in json.loads(ok(*words, "--format", "json").stdout)] == (
        file.splits["all"].ids
    )
    table = ok(*words, "--format", "table")
    assert table.stdout.splitlines() == lines
    assert "more than 2,000 rows: printed as TSV" in table.stderr
