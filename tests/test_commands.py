"""Every command as a user runs it: on a path and on standard input."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats
from PIL import Image
from scipy.stats import binomtest
from shell import clipkit, fails, ok, partly, rows

from clipkit import __version__
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
INTERVAL = ["acc1_low", "acc1_high"]
COLUMNS = {
    "entropy": ["split", "temperature", "mean_entropy", "max_entropy", "mean_confidence"],
    "probe": [*PROBE_COLUMNS, "mean_entropy", "mean_confidence", *INTERVAL],
    "zeroshot": ["split", "acc1", "acc5", "mean_per_class_recall", *INTERVAL],
    "calibrate": [
        *("temperature", "fitted", "low", "high", "eval_split", "acc1", "mean_confidence"),
        *("nll", "information", "brier", "ece", "ece_null", "ece_null95"),
    ],
    "cluster": ["split", "k", "purity", "nmi", "ari", "ami", "purity_chance", "nmi_chance"],
    "info": ["field", "value"],
}


def test_the_version_is_printed():
    assert ok("--version").stdout == f"clipkit {__version__}\n"


@pytest.mark.parametrize("command", COLUMNS)
@pytest.mark.long
def test_a_report_is_the_same_for_a_path_a_dash_and_a_pipe(command, class_logits_h5):
    report = ok(command, class_logits_h5).stdout
    data = class_logits_h5.read_bytes()
    assert ok(command, "-", stdin=data).stdout == report
    assert ok(command, stdin=data).stdout == report
    assert list(rows(report)[0]) == COLUMNS[command]


HUGE = "1" + 23 * "0"


@pytest.mark.parametrize(
    "words",
    [
        *(
            ["embed", "shapes", f"--{name}={n}"]
            for name in ("limit", "batch-size")
            for n in (0, -1)
        ),
        *(["embed", "shapes", f"--num-workers={n}"] for n in (0, -1, 2**31, HUGE)),
        *(["embed", "shapes", f"--max-classes={n}"] for n in (-1, 1)),
        *(["embed", "shapes", f"--untrained={n}"] for n in (-1, 2**63, HUGE)),
        *(["textembed", "p.txt", f"--untrained={n}"] for n in (-1, 2**63, HUGE)),
        *(["logits", "i.h5", f"--random={n}"] for n in (0, -1, 2**31, HUGE)),
        *(["cluster", "i.h5", f"-k={n}"] for n in (-1, 0, 1)),
        *(
            [word, "i.h5", f"--seed={n}"]
            for word in ("split", "compare")
            for n in (-1, 2**32, HUGE)
        ),
        ["plot", "confusion", "i.h5", "--run=-1"],
    ],
)
@pytest.mark.parametrize("number", [None, "1e300", "nan", "inf", ""])
def test_a_whole_number_out_of_range_is_refused_in_one_line(words, number):
    if number is not None:  # no whole number at all
        option, _, _ = words[-1].partition("=")
        words = [*words[:-1], f"{option}={number}"]
    line = fails(*words, exit_code=2)
    assert f"{words[-1].partition('=')[0]}: expected a" in line
    assert "Input should" not in line


@pytest.mark.parametrize(
    "number", ["0", "-1", "1e-320", "1e300", HUGE, "nan", "inf", "", " ", "1,"]
)
@pytest.mark.long
def test_a_real_number_out_of_range_is_refused_in_one_line(number, logits_h5, img_h5, txt_h5):
    lines = [
        ["entropy", logits_h5, f"--temperature={number}"],
        ["logits", img_h5, txt_h5, f"--temperature={number}"],
        ["plot", "confidence", logits_h5, f"--temperature={number}"],
        ["probe", logits_h5, f"--temperature={number}"],
        ["probe", logits_h5, "-C", number],
    ]
    for words in lines:
        message = fails(*words, exit_code=2)
        assert "expected a number between 1e-12 and 1e+12, got " in message
    if number != "1e-320":  # a small fraction holds out a row of each class
        assert "expected a " in fails("probe", img_h5, f"--val={number}", exit_code=2)


def test_an_empty_name_of_a_split_is_no_split(logits_h5):
    assert "unknown split" in fails("plot", "confidence", logits_h5, "--split=", exit_code=2)


# -- embeddings ------------------------------------------------------------------------------------


def test_an_ensemble_normalises_averages_and_normalises(img_h5, model_options, tmp_path):
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


def test_logits_are_cosines_whatever_the_order_of_arguments(img_h5, txt_h5, logits_h5, tmp_path):
    images, texts = read(img_h5), read(txt_h5)
    x, t = images.splits["test"].features, texts.features
    expected = x @ t.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    np.testing.assert_allclose(read(logits_h5).splits["test"].features, expected, atol=1e-6)
    ok("logits", img_h5, "-", "-o", tmp_path / "a.h5", stdin=txt_h5.read_bytes())
    ok("logits", "-", txt_h5, "-o", tmp_path / "b.h5", stdin=img_h5.read_bytes())
    for name in ("a.h5", "b.h5"):
        assert (tmp_path / name).read_bytes() == logits_h5.read_bytes()


def test_a_temperature_is_absolute(img_h5, txt_h5, logits_h5, tmp_path):
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


def test_entropy_is_that_of_the_softmax(logits_h5):
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


def test_the_options_of_probe_reach_the_probe(logits_h5, tmp_path):
    options = ["--classifier", "logreg", "-C", "0.1,10", "-t", "1,0.05", "--features", "probs"]
    selection = ["--val", "0.25", "--shots", "3", "--seed", "7", "--standardize"]
    report = rows(ok("probe", logits_h5, *options, *selection, "-o", tmp_path / "p.h5").stdout)
    *tried, chosen = report
    points = [("1", "0.1"), ("1", "10"), ("0.05", "0.1"), ("0.05", "10")]
    assert [(row["temperature"], row["C"]) for row in tried] == points
    splits = {(row["fit_split"], row["eval_split"]) for row in tried}
    assert splits == {("train-val-3-shot", "val")}
    assert (chosen["fit_split"], chosen["eval_split"]) == ("train-3-shot", "test")
    entry = read(tmp_path / "p.h5").history[-1]
    expected = {"classifier": "logreg", "features": "probs", "standardize": True, "seed": 7}
    assert expected.items() <= entry.items()


# -- zeroshot and info -----------------------------------------------------------------------------


def test_class_prompts_in_another_order_are_matched_by_name(
    img_h5, class_logits_h5, model_options, tmp_path
):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{i}\n" for i in reversed(range(10))))
    ok("textembed", "--classes", names, *model_options, "-o", tmp_path / "t.h5")
    ok("logits", img_h5, tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    assert ok("zeroshot", tmp_path / "l.h5").stdout == ok("zeroshot", class_logits_h5).stdout


def test_info_of_a_file_names_its_content_and_history(logits_h5):
    info = {row["field"]: row["value"] for row in rows(ok("info", logits_h5).stdout)}
    assert info["kind"] == "logits"
    assert info["test features"] == "120 x 12"
    commands = [field.split()[1] for field in info if re.fullmatch(r"\d \w+", field)]
    assert commands == ["embed", "textembed", "logits"]
    assert "limit 120" in info["1 embed dataset draw"]


def test_info_of_a_model_names_its_sizes(tiny_clip_dir):
    info = {row["field"]: row["value"] for row in rows(ok("info", tiny_clip_dir).stdout)}
    assert int(info["dim"]) == 16
    assert float(info["temperature"]) == pytest.approx(1 / float(info["logit_scale"]))
    assert int(info["text context_length"]) == 77


@pytest.mark.parametrize("format", ["table", "tsv", "csv", "json"])
def test_every_format_holds_the_same_number(format, logits_h5):
    text = ok("entropy", logits_h5, "--format", format).stdout
    exact = float(rows(ok("entropy", logits_h5).stdout)[0]["mean_confidence"])
    if format == "json":
        assert json.loads(text)[0]["mean_confidence"] == pytest.approx(exact)
    else:
        assert (f"{100 * exact:.2f}" if format == "table" else f"{exact:.8g}") in text


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["info", ""], "an input"),
        (["entropy", ""], "an input"),
        (["logits", "IMAGES", "", "-o", "OUT"], "an input"),
        (["logits", "IMAGES", "TEXTS", "-o", ""], "an output"),
        (["embed", "digits", "--limit", "2", "-m", "", "-o", "OUT"], "a model"),
    ],
)
def test_an_empty_name_is_named(words, what, img_h5, txt_h5, tmp_path):
    paths = {"IMAGES": img_h5, "TEXTS": txt_h5, "OUT": tmp_path / "out.h5"}
    line = [paths.get(word, word) for word in words]
    assert f"expected the name of {what}, got ''" in fails(*line, exit_code=2)


# -- reports ---------------------------------------------------------------------------------------

REPORTS = {
    "entropy": ["-t", "1,0.07"],
    "probe": ["-t", "1,0.05", "--shots", "2,3"],
    "zeroshot": [],
    "calibrate": ["-t", "1"],
    "cluster": [],
    "compare": [],
}


@pytest.mark.parametrize("format", ["table", "tsv", "csv", "json"])
@pytest.mark.parametrize("command", REPORTS)
@pytest.mark.long
def test_a_saved_result_is_printed_again_byte_for_byte(
    command, format, class_logits_h5, zeroshot_h5, tmp_path
):
    source = zeroshot_h5 if command == "compare" else class_logits_h5
    saved = tmp_path / "r.h5"
    printed = ok(command, source, *REPORTS[command], "--format", format, "-o", saved).stdout
    assert ok("info", "--runs", saved, "--format", format).stdout == printed


@pytest.fixture(scope="module")
def zeroshot_h5(class_logits_h5, work):
    ok("zeroshot", class_logits_h5, "-o", work / "zeroshot.h5")
    return work / "zeroshot.h5"


@pytest.mark.parametrize("command", REPORTS)
@pytest.mark.long
def test_columns_are_chosen_and_ordered_by_name(command, class_logits_h5, zeroshot_h5):
    source = zeroshot_h5 if command == "compare" else class_logits_h5
    every = ok(command, source, *REPORTS[command]).stdout.splitlines()
    names = every[0].split("\t")
    chosen = f"model,{names[-1]},{names[0]},shots,{names[0]}"
    (header, first, *_) = ok(
        command, source, *REPORTS[command], "--columns", chosen
    ).stdout.splitlines()
    assert header == f"model\t{names[-1]}\t{names[0]}\tshots"
    values = dict(zip(names, every[1].split("\t"), strict=True))
    shots = "2" if command == "probe" else ""
    assert first.split("\t")[1:] == [values[names[-1]], values[names[0]], shots]
    assert first.split("\t")[0]  # the name of the model
    bare = ok(command, source, *REPORTS[command], "--no-header").stdout
    assert bare.splitlines() == every[1:]
    message = fails(command, source, "--columns", "acc2", exit_code=2)
    assert "unknown column 'acc2'; hint: did you mean acc5 or acc1" in message
    if command == "calibrate":
        return  # writes notes about the fit as well
    message = fails(command, source, "--columns", "id", exit_code=2)  # of another report
    assert f"unknown column 'id'; hint: known: {names[0]}, " in message
    assert message.endswith("model, dataset, prompts\n")


def test_rows_of_several_results_say_what_they_are_of(class_logits_h5, zeroshot_h5, img_h5, work):
    probe_h5 = work / "of-images.h5"
    ok("probe", img_h5, "-o", probe_h5)
    first, second, third = rows(ok("info", "--runs", probe_h5, zeroshot_h5).stdout)
    assert (first["prompts"], second["prompts"]) == ("", third["prompts"])
    assert second["prompts"]
    assert (first["acc5"], second["classifier"]) == ("", "")
    assert not {"file", "model", "dataset"} & first.keys()
    same = rows(ok("info", "--runs", zeroshot_h5, zeroshot_h5).stdout)
    assert [row["file"] for row in same] == [str(zeroshot_h5)] * 4
    named = ok("info", "--runs", probe_h5, "--columns", "file,dataset").stdout
    assert named == f"file\tdataset\n{probe_h5}\tdigits\n"
    assert "expected result, got images" in fails("info", "--runs", img_h5)


def test_info_describes_several_files_and_models(img_h5, txt_h5, tiny_clip_dir):
    report = rows(ok("info", img_h5, txt_h5, tiny_clip_dir).stdout)
    files = [row["value"] for row in report if row["field"] == "file"]
    assert files == [str(img_h5), str(txt_h5), str(tiny_clip_dir)]
    images, texts, model = json.loads(ok("info", *files, "--format", "json").stdout)
    assert images["splits"]["test"] == {
        **{"rows": 120, "features": [120, 16]},
        **{"predicted": None, "labels": True},
    }
    assert images["history"] == read(img_h5).history
    assert texts["texts"] == read(txt_h5).texts
    assert (texts["features"], model["dim"], model["kind"]) == ([12, 16], 16, None)


def test_info_describes_the_others_if_a_file_cannot_be_read(img_h5, tmp_path):
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(img_h5.read_bytes()[:-9])
    alone = rows(ok("info", img_h5).stdout)
    result = clipkit("info", damaged, img_h5, tmp_path / "none.h5")
    assert result.exit_code == 3
    assert rows(result.stdout) == [{"field": "file", "value": str(img_h5)}, *alone]
    first, second = result.stderr.splitlines()
    assert first.startswith(f"clipkit: warning: {damaged}: expected ")
    assert second == f"clipkit: warning: cannot read {tmp_path}/none.h5: there is no such file"


@pytest.mark.parametrize("command", ["probe", "zeroshot"])
def test_an_accuracy_has_wilsons_interval(command, class_logits_h5):
    for row in rows(ok(command, class_logits_h5).stdout):
        acc1, low, high = (float(row[name]) for name in ("acc1", "acc1_low", "acc1_high"))
        expected = binomtest(round(120 * acc1), 120).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_entropy_per_image_is_that_of_scipy(logits_h5):
    words = ("entropy", logits_h5, "-t", "1,0.07", "--split", "train")
    report = rows(ok(*words, "--per-image").stdout)
    logits = read(logits_h5)
    cosines = logits.splits["train"].features.astype(np.float64)
    assert [row["id"] for row in report] == 2 * logits.splits["train"].ids
    for number, tau in enumerate((1, 0.07)):
        of_tau = report[120 * number : 120 * (number + 1)]
        p = scipy.special.softmax(cosines / tau, axis=1)
        values = [[float(row[name]) for name in ("entropy", "confidence")] for row in of_tau]
        expected = np.stack([scipy.stats.entropy(p, axis=1), p.max(axis=1)], axis=1)
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        assert [row["prompt"] for row in of_tau] == [logits.texts[k] for k in cosines.argmax(1)]
    means = rows(ok(*words).stdout)
    assert {row["split"] for row in means} == {"train"}
    mean = np.mean([float(row["entropy"]) for row in report[:120]])
    assert float(means[0]["mean_entropy"]) == pytest.approx(mean, abs=1e-6)
    assert "unknown split" in fails("entropy", logits_h5, "--split", "tset", exit_code=2)


def test_classes_are_reported_by_probe_zeroshot_and_info(class_logits_h5, zeroshot_h5):
    of_probe = rows(ok("probe", class_logits_h5, "-t", "1,0.05", "--per-class").stdout)
    assert [row["temperature"] for row in of_probe] == ["1"] * 10 + ["0.05"] * 10
    of_zeroshot = ok("zeroshot", class_logits_h5, "--per-class").stdout
    assert list(rows(of_zeroshot)[0]) == ["split", "class", "precision", "recall", "f1", "support"]
    assert ok("info", zeroshot_h5, "--per-class").stdout == of_zeroshot


def test_columns_of_repeated_options_add_up(zeroshot_h5):
    words = ["info", "--runs", zeroshot_h5, "--columns", "acc1", "--columns", "split,acc1"]
    assert list(rows(ok(*words).stdout)[0]) == ["acc1", "split"]
    once = ok("info", "--runs", zeroshot_h5, "--columns", "split")
    assert list(rows(once.stdout)[0]) == ["split"]


def test_runs_are_printed_without_the_files_that_are_no_results(zeroshot_h5, img_h5, tmp_path):
    alone = ok("info", "--runs", zeroshot_h5).stdout
    done = partly("info", "--runs", img_h5, zeroshot_h5, tmp_path / "none.h5")
    assert done.stdout == alone
    first, second = done.stderr.splitlines()
    assert first.startswith(f"clipkit: warning: {img_h5}: expected result, got images; hint: ")
    assert second.startswith(f"clipkit: warning: cannot read {tmp_path}/none.h5: ")
    assert "expected result, got images" in fails("info", "--runs", img_h5, img_h5)


def test_skipped_images_are_described_in_plain_words(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    partly("embed", tmp_path, "-m", "tiny", "-o", tmp_path / "img.h5")
    text = ok("info", tmp_path / "img.h5").stdout
    assert "skipped [(id bad.png, reason cannot read " in text
    assert "{" not in text


def test_a_control_character_in_a_class_name_is_a_space_in_its_prompt(img_h5, tmp_path):
    images = read(img_h5)
    names = [*images.class_names]
    names[0] = "old%0A%09house"
    write(tmp_path / "img.h5", replace(images, class_names=names))
    words = ["--classes", tmp_path / "img.h5", "-m", "tiny", "-o", tmp_path / "txt.h5"]
    done = ok("textembed", *words)
    assert "are replaced by spaces in the prompts" in done.stderr
    texts = read(tmp_path / "txt.h5")
    assert texts.texts[0] == "a photo of a old house"
    assert texts.class_names == names
