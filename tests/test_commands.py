"""Every command as a user runs it: on a path, on standard input, and in a real shell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from shell import clipkit, fails, ok, rows, shell

from clipkit import __version__
from clipkit.cli import COMMANDS
from clipkit.features import read, write

PROBE_COLUMNS = [
    "classifier",
    "C",
    "temperature",
    "standardize",
    "fit_split",
    "eval_split",
    "acc1",
    "mean_per_class_recall",
]
COLUMNS = {
    "entropy": ["split", "temperature", "mean_entropy", "max_entropy", "mean_confidence"],
    "probe": [*PROBE_COLUMNS, "mean_entropy", "mean_confidence"],
    "zeroshot": ["split", "acc1", "acc5", "mean_per_class_recall"],
    "cluster": ["split", "k", "purity", "nmi", "ari"],
    "info": ["field", "value"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    assert "Example: clipkit" in ok(command, "--help").stdout


def test_the_version_is_printed() -> None:
    assert ok("--version").stdout == f"clipkit {__version__}\n"


@pytest.mark.parametrize("command", COLUMNS)
def test_a_report_is_the_same_for_a_path_a_dash_and_a_pipe(
    command: str, class_logits_h5: Path
) -> None:
    report = ok(command, class_logits_h5).stdout
    data = class_logits_h5.read_bytes()
    assert ok(command, "-", stdin=data).stdout == report
    assert ok(command, stdin=data).stdout == report
    assert list(rows(report)[0]) == COLUMNS[command]


# -- embeddings ------------------------------------------------------------------------------------


def test_embed_keeps_rows_labels_and_ids_together(img_h5: Path) -> None:
    file = read(img_h5)
    assert file.kind == "images"
    assert list(file.splits) == ["test", "train"]
    assert file.class_names == [str(i) for i in range(10)]
    for split in file.splits.values():
        assert split.features.shape == (120, 16)
        assert np.bincount(split.labels).tolist() == [12] * 10
        assert len(set(split.ids)) == 120


def test_random_weights_depend_on_the_seed_only(
    img_h5: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    digests = []
    for name, seed in [("a", 7), ("b", 7), ("c", 8)]:
        options = ["--model", tiny_clip_dir, "--untrained", seed, "-o", tmp_path / name]
        ok("embed", "digits", "--limit", 20, *options)
        digests.append(read(tmp_path / name).digest)
    assert digests[0] == digests[1] != digests[2]
    weights = [read(path).history[0]["model"]["digest"] for path in (img_h5, tmp_path / "a")]
    assert weights[0] != weights[1]


def test_an_ensemble_normalises_averages_and_normalises(
    img_h5: Path, model_options: list[object], tmp_path: Path
) -> None:
    templates = ["a photo of a {}", "the digit {}"]
    (tmp_path / "both.txt").write_text("\n".join(templates))
    embeddings = []
    for number, template in enumerate([*templates, tmp_path / "both.txt"]):
        options = ["--template", template, *model_options, "-o", tmp_path / f"{number}.h5"]
        ok("textembed", "--classes", img_h5, *options)
        file = read(tmp_path / f"{number}.h5")
        embeddings.append(file.features)
    first, second, ensemble = embeddings
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)]
    mean = (unit[0] + unit[1]) / 2
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(ensemble, expected, atol=1e-6)
    assert file.class_index.tolist() == list(range(10))


# -- logits and their temperature ------------------------------------------------------------------


def test_logits_are_cosines_whatever_the_order_of_arguments(
    img_h5: Path, txt_h5: Path, logits_h5: Path, tmp_path: Path
) -> None:
    images, texts = read(img_h5), read(txt_h5)
    x, t = images.splits["test"].features, texts.features
    expected = x @ t.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    np.testing.assert_allclose(read(logits_h5).splits["test"].features, expected, atol=1e-6)
    ok("logits", img_h5, "-", "-o", tmp_path / "a.h5", stdin=txt_h5.read_bytes())
    ok("logits", "-", txt_h5, "-o", tmp_path / "b.h5", stdin=img_h5.read_bytes())
    for name in ("a.h5", "b.h5"):
        assert (tmp_path / name).read_bytes() == logits_h5.read_bytes()


def test_permuted_prompts_permute_logits(
    img_h5: Path,
    prompts_txt: Path,
    logits_h5: Path,
    model_options: list[object],
    tmp_path: Path,
) -> None:
    prompts = prompts_txt.read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(prompts))
    permuted = [prompts[i] for i in order]
    data = "\n".join(permuted).encode()
    ok("textembed", "-", *model_options, "-o", tmp_path / "t.h5", stdin=data)
    ok("logits", img_h5, tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    file = read(tmp_path / "l.h5")
    expected = read(logits_h5).splits["test"].features[:, order]
    np.testing.assert_allclose(file.splits["test"].features, expected, atol=1e-6)
    assert file.texts == permuted


def test_a_temperature_is_absolute(
    img_h5: Path, txt_h5: Path, logits_h5: Path, tmp_path: Path
) -> None:
    sharp_h5 = tmp_path / "sharp.h5"
    ok("logits", img_h5, txt_h5, "-t", "0.07", "-o", sharp_h5)
    assert read(sharp_h5).temperature == 0.07
    (flat,), (sharp,) = (
        rows(ok("probe", path, "-t", 0.05).stdout) for path in (logits_h5, sharp_h5)
    )
    for column in PROBE_COLUMNS:
        assert flat[column] == sharp[column]
    for column in ("mean_entropy", "mean_confidence"):
        assert float(flat[column]) == pytest.approx(float(sharp[column]), abs=1e-5)
    (default,) = rows(ok("probe", sharp_h5).stdout)
    assert default["temperature"] == "0.07"


@pytest.mark.parametrize("tau", ["0", "-1", "nan", "inf", "1e-400", "warm", ""])
def test_a_temperature_must_be_finite_and_positive(
    tau: str, logits_h5: Path, img_h5: Path, txt_h5: Path
) -> None:
    for words in (["entropy", logits_h5], ["probe", logits_h5], ["logits", img_h5, txt_h5]):
        line = fails(*words, f"--temperature={tau}", exit_code=2)
        assert f"temperature: expected a finite number above 0, got {tau!r}" in line


def test_entropy_is_that_of_the_softmax(logits_h5: Path) -> None:
    report = rows(ok("entropy", logits_h5, "-t", "1,0.07", "-t", "0.01").stdout)
    runs = [(split, tau) for split in ("test", "train") for tau in ("1", "0.07", "0.01")]
    assert [(row["split"], row["temperature"]) for row in report] == runs
    z = read(logits_h5).splits["test"].features.astype(np.float64) / 0.07
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1).mean()
    assert float(report[1]["mean_entropy"]) == pytest.approx(entropy, abs=1e-6)
    assert float(report[1]["mean_confidence"]) == pytest.approx(p.max(axis=1).mean(), abs=1e-6)
    assert float(report[1]["max_entropy"]) == pytest.approx(np.log(12))


# -- probes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classifier", ["svm", "logreg", "knn", pytest.param("mlp", marks=pytest.mark.long)]
)
def test_probe_of_logits_sweeps_temperatures(classifier: str, logits_h5: Path) -> None:
    report = rows(ok("probe", logits_h5, "--classifier", classifier, "-t", "1,0.01").stdout)
    assert [row["temperature"] for row in report] == ["1", "0.01"]
    for row in report:
        columns = ("classifier", "fit_split", "eval_split", "standardize")
        assert [row[name] for name in columns] == [classifier, "train", "test", "false"]
        assert 0 <= float(row["acc1"]) <= 1


def test_probe_of_embeddings_is_the_baseline_of_the_thesis(img_h5: Path) -> None:
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    (row,) = rows(ok("probe", img_h5).stdout)
    assert list(row) == PROBE_COLUMNS
    assert row["standardize"] == "true"
    train, test = (read(img_h5).splits[name] for name in ("train", "test"))
    scaler = StandardScaler().fit(train.features)
    svm = SVC(kernel="linear", C=1.0, random_state=42)
    svm.fit(scaler.transform(train.features), train.labels)
    expected = svm.score(scaler.transform(test.features), test.labels)
    assert float(row["acc1"]) == pytest.approx(expected, abs=1e-7)


def test_a_lower_temperature_acts_as_a_higher_c(logits_h5: Path, tmp_path: Path) -> None:
    ok("probe", logits_h5, "-t", "0.1", "-C", "2", "-o", tmp_path / "a.h5")
    ok("probe", logits_h5, "-t", "1", "-C", "200", "-o", tmp_path / "b.h5")
    a, b = (read(tmp_path / name).splits["test"].predicted for name in ("a.h5", "b.h5"))
    np.testing.assert_array_equal(a, b)


def test_probabilities_are_other_features_than_logits(logits_h5: Path) -> None:
    (probs,) = rows(ok("probe", logits_h5, "-t", "0.01", "--features", "probs").stdout)
    (logits,) = rows(ok("probe", logits_h5, "-t", "0.01").stdout)
    assert probs["acc1"] != logits["acc1"]
    assert probs["mean_entropy"] == logits["mean_entropy"]


def test_validation_selects_on_other_rows_than_it_scores(logits_h5: Path) -> None:
    report = rows(ok("probe", logits_h5, "--val", "0.25", "-C", "0.1,10", "-t", "1,0.05").stdout)
    *tried, chosen = report
    assert len(tried) == 4
    assert {(row["fit_split"], row["eval_split"]) for row in tried} == {("train-val", "val")}
    assert (chosen["fit_split"], chosen["eval_split"]) == ("train", "test")
    best = max(tried, key=lambda row: float(row["acc1"]))
    assert (chosen["C"], chosen["temperature"]) == (best["C"], best["temperature"])


def test_renamed_and_unused_classes_change_no_accuracy(img_h5: Path, tmp_path: Path) -> None:
    file = read(img_h5)
    for split in file.splits.values():
        split.labels = 2 * split.labels + 1
    file.class_names = [name for i in range(10) for name in (f"unused {i}", f"renamed {i}")]
    write(tmp_path / "renamed.h5", file)
    assert rows(ok("probe", tmp_path / "renamed.h5").stdout) == rows(ok("probe", img_h5).stdout)


# -- zeroshot, cluster and info --------------------------------------------------------------------


def test_zeroshot_predicts_the_class_of_the_most_similar_prompt(
    class_logits_h5: Path, zeroshot_h5: Path
) -> None:
    logits, result = read(class_logits_h5), read(zeroshot_h5)
    for row in rows(ok("zeroshot", class_logits_h5).stdout):
        split = logits.splits[row["split"]]
        predicted = split.features.argmax(axis=1)
        assert float(row["acc1"]) == pytest.approx((predicted == split.labels).mean())
        assert float(row["acc5"]) >= float(row["acc1"])
        np.testing.assert_array_equal(result.splits[row["split"]].predicted, predicted[None])


def test_class_prompts_in_another_order_are_matched_by_name(
    img_h5: Path, class_logits_h5: Path, model_options: list[object], tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{i}\n" for i in reversed(range(10))))
    ok("textembed", "--classes", names, *model_options, "-o", tmp_path / "t.h5")
    ok("logits", img_h5, tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    assert ok("zeroshot", tmp_path / "l.h5").stdout == ok("zeroshot", class_logits_h5).stdout


def test_cluster_makes_as_many_clusters_as_there_are_classes(img_h5: Path) -> None:
    (row,) = rows(ok("cluster", img_h5).stdout)
    assert (row["split"], row["k"]) == ("test", "10")
    assert 0.1 <= float(row["purity"]) <= 1


def test_info_of_a_file_names_its_content_and_history(logits_h5: Path) -> None:
    info = {row["field"]: row["value"] for row in rows(ok("info", logits_h5).stdout)}
    assert info["kind"] == "logits"
    assert info["test features"] == "120 x 12"
    commands = [field.split()[1] for field in info if re.fullmatch(r"\d \w+", field)]
    assert commands == ["embed", "textembed", "logits"]
    assert "limit 120" in info["1 embed dataset draw"]


def test_info_of_a_model_names_its_sizes(tiny_clip_dir: Path) -> None:
    info = {row["field"]: row["value"] for row in rows(ok("info", tiny_clip_dir).stdout)}
    assert int(info["dim"]) == 16
    assert float(info["temperature"]) == pytest.approx(1 / float(info["logit_scale"]))
    assert int(info["text context_length"]) == 77


@pytest.mark.parametrize("format", ["table", "tsv", "csv", "json"])
def test_every_format_holds_the_same_number(format: str, logits_h5: Path) -> None:
    text = ok("entropy", logits_h5, "--format", format).stdout
    exact = float(rows(ok("entropy", logits_h5).stdout)[0]["mean_confidence"])
    if format == "json":
        assert json.loads(text)[0]["mean_confidence"] == pytest.approx(exact)
    else:
        assert (f"{100 * exact:.2f}" if format == "table" else f"{exact:.8g}") in text


# -- a real shell ----------------------------------------------------------------------------------


@pytest.mark.long
def test_commands_form_pipes_in_a_real_shell(
    img_h5: Path, prompts_txt: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    textembed = f"clipkit textembed {prompts_txt} --model {tiny_clip_dir}"
    probe = "clipkit probe -t 0.5,0.07,0.03,0.02 < l.h5"
    logits = f"clipkit logits {img_h5} - | tee l.h5"
    run = shell(f"{textembed} | {logits} | clipkit entropy && {probe}", tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    entropy, report = run.stdout.split("classifier", 1)
    assert [row["split"] for row in rows(entropy)] == ["test", "train"]
    temperatures = [row["temperature"] for row in rows("classifier" + report)]
    assert temperatures == ["0.5", "0.07", "0.03", "0.02"]


@pytest.mark.long
def test_a_pipe_whose_first_command_fails_fails_as_a_whole(
    img_h5: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    textembed = f"clipkit textembed absent.txt --model {tiny_clip_dir}"
    run = shell(f"{textembed} | clipkit logits {img_h5} - | clipkit entropy", tmp_path)
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert len(lines) == 3
    assert sum("check whether the command before it failed" in line for line in lines) == 2
    assert any("absent.txt" in line for line in lines)


# -- refusals --------------------------------------------------------------------------------------


def test_features_of_different_models_are_refused(
    img_h5: Path, prompts_txt: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    options = ["--model", tiny_clip_dir, "--untrained", "1", "-o", tmp_path / "t.h5"]
    ok("textembed", prompts_txt, *options)
    line = fails("logits", img_h5, tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    assert "come from different models" in line
    assert not (tmp_path / "l.h5").exists()


def test_an_output_is_replaced_with_force_only(
    logits_h5: Path, img_h5: Path, txt_h5: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    out.write_text("precious")
    commands = [
        ["logits", img_h5, txt_h5],
        ["probe", logits_h5],
        ["entropy", logits_h5],
        ["embed", "digits"],
        ["textembed", "x"],
    ]
    for words in commands:
        assert "add --force to replace it" in fails(*words, "-o", out, exit_code=2)
        assert out.read_text() == "precious"
    ok("logits", img_h5, txt_h5, "-o", out, "--force")
    assert out.read_bytes() == logits_h5.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["embed", "cifar1"], "unknown data set 'cifar1'; hint: did you mean cifar10"),
        (["embed", "digits", "--model", "tinyy"], "tiny"),
        (["probe", "LOGITS", "--classifier", "svn"], "unknown classifier 'svn'"),
        (["probe", "LOGITS", "--eval-split", "dev"], "'dev'"),
        (["frobnicate"], "frobnicate"),
        (["embed"], "DATASET"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    words: list[str], part: str, logits_h5: Path
) -> None:
    result = clipkit(*[logits_h5 if word == "LOGITS" else word for word in words])
    assert result.exit_code in (1, 2)
    assert part in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_of_the_wrong_kind_is_refused(img_h5: Path, logits_h5: Path) -> None:
    assert "expected logits, got images" in fails("entropy", img_h5)
    assert "with: clipkit logits" in fails("probe", img_h5, "-t", "0.5", exit_code=2)
    assert "expected prompts of the images' classes, got none" in fails("zeroshot", logits_h5)
