"""Every command as a user runs it: on a path and on standard input."""

import json
import re

import numpy as np
import pytest
import scipy.special
import scipy.stats
import versions
from factories import random_features, unchanged, write_feature_file
from PIL import Image
from scipy.stats import binomtest
from shell import fails, ok, partly, rows
from sklearn.preprocessing import normalize

from clipkit.features import read, write

HUGE = "1" + 23 * "0"


@pytest.mark.parametrize(
    "words",
    [
        "embed shapes --limit 0 -1",
        "embed shapes --batch-size 0 -1",
        f"embed shapes --num-workers 0 -1 {2**31} {HUGE}",
        "embed shapes --max-classes -1 1",
        "embed shapes --downsample 0 -3",
        f"embed shapes --untrained -1 {2**63} {HUGE}",
        f"textembed p.txt --untrained -1 {2**63} {HUGE}",
        f"logits i.h5 --random 0 -1 {2**31} {HUGE}",
        f"split i.h5 --seed -1 {2**32} {HUGE}",
        f"compare i.h5 --seed -1 {2**32} {HUGE}",
        "calibrate i.h5 --bins 0",
        "probe i.h5 --repeat 0",
        "attributes i.h5 --random-sets -1",
        "variance i.h5 --null 0",
        "importance p.h5 i.h5 --repeat 0",
        "plot confusion i.h5 --run -1",
        "plot confusion i.h5 --dpi 5",
        "plot nearest i.h5 digits --count 0",
    ],
)
@versions.HELP
def test_a_whole_number_out_of_range_is_refused_in_one_line(words):
    option = next(word for word in words.split() if word.startswith("-"))
    command, _, numbers = words.partition(option)
    for number in (*numbers.split(), "1e300", "nan", "inf", ""):
        line = fails(*command.split(), f"{option}={number}", exit_code=2)
        assert f"{option}: expected a" in line
        assert "Input should" not in line


@pytest.mark.parametrize(
    "number", ["0", "-1", "1e-320", "1e300", HUGE, "nan", "inf", "", " ", "1,"]
)
@versions.HELP
def test_a_real_number_out_of_range_is_refused_in_one_line(number, logits_h5, img_h5, txt_h5):
    for words in (
        ["entropy", logits_h5, f"--temperature={number}"],
        ["logits", img_h5, txt_h5, f"--temperature={number}"],
        ["plot", "confidence", logits_h5, f"--temperature={number}"],
        ["probe", logits_h5, f"--temperature={number}"],
        ["calibrate", logits_h5, f"--temperature={number}"],
        ["probe", logits_h5, "-C", number],
    ):
        message = fails(*words, exit_code=2)
        assert "expected a number between 1e-12 and 1e+12, got " in message
    if number != "1e-320":  # a small fraction holds out a row of each class
        assert "expected a " in fails("probe", img_h5, f"--val={number}", exit_code=2)


@pytest.mark.parametrize(
    "line",
    [
        "entropy LOGITS",
        "zeroshot LOGITS",
        "cluster LOGITS",
        "variance IMAGES",
        "importance PROBE LOGITS",
        "predict PROBE LOGITS",
        "plot confidence LOGITS",
        "plot nearest LOGITS digits",
    ],
)
def test_a_split_that_a_file_lacks_is_refused_with_those_that_it_has(line, logits_h5, img_h5, work):
    if "PROBE" in line:
        ok("probe", logits_h5, "--keep", "-o", work / "kept.h5", "--force")
    paths = {"LOGITS": logits_h5, "IMAGES": img_h5, "PROBE": work / "kept.h5"}
    words = [paths.get(word, word) for word in line.split()]
    for name in ("tset", ""):
        message = fails(*words, f"--split={name}", exit_code=2)
        assert "unknown split of" in message
        assert re.search("known: ((all|test|train)(, )?){3}", message)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Feature files by the words of a line: some belong together, the others do not."""
    folder = tmp_path_factory.mktemp("inputs")
    other_ids = {f"{name}/ids": [f"{name}{row}" for row in range(6)] for name in ("train", "test")}
    unlabelled = {"test/labels": None}
    of_other = {"history": [{"command": "embed", "model": {"name": "other"}}]}
    others = {"train/features": random_features(seed=5), "test/features": random_features(seed=6)}
    made = {
        "IMAGES": ("images", {}),
        "TRAINED": ("images", {"datasets": others}),
        "SILENT": ("images", {"attributes": {"history": [{"command": "convert"}]}}),
        "OTHER": ("images", {"datasets": other_ids}),
        "UNLABELLED": ("images", {"datasets": unlabelled | {"train/labels": None}}),
        "TEXTS": ("texts", {}),
        "TEXTS_OF_OTHER": ("texts", {"attributes": of_other}),
        "LOGITS": ("logits", {}),
        "LOGITS_OF_OTHER": ("logits", {"attributes": of_other}),
        "UNLABELLED_LOGITS": ("logits", {"datasets": unlabelled}),
        "OTHER_CLASSES": ("logits", {"datasets": {"class_names": ["hen", "owl"]}}),
    }
    files = {}
    for word, (kind, changes) in made.items():
        files[word] = write_feature_file(folder / f"{word}.h5", kind, **changes)
    for word, source, *options in (
        ("PROBE", "LOGITS"),
        ("IMAGE_PROBE", "IMAGES"),
        ("KNN", "LOGITS", "--classifier", "knn"),
    ):
        files[word] = folder / f"{word}.h5"
        ok("probe", files[source], "--keep", *options, "-o", files[word])
    return files | {"NEW": folder / "new.h5"}


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("attributes IMAGES --attribute b", 2, "unknown attribute of"),
        ("attributes IMAGES --control OTHER", 1, "expected the train images of"),
        (
            "attributes IMAGES --control TRAINED",
            1,
            "untrained model's embeddings, got those of m",
        ),
        ("attributes IMAGES --control IMAGES", 1, "got those of"),
        ("attributes IMAGES TEXTS_OF_OTHER", 1, "come from different models"),
        ("variance IMAGES --table gone.csv", 1, "cannot read gone.csv"),
        ("variance IMAGES TEXTS --control IMAGES", 2, "expected TEXTS or --control, got both"),
        ("variance IMAGES --control OTHER", 1, "expected the test images of"),
        ("variance IMAGES --control TRAINED", 1, "untrained model's embeddings, got those of m"),
        ("variance IMAGES --control SILENT", 1, "got those of"),
        ("variance IMAGES TEXTS_OF_OTHER", 1, "come from different models"),
        ("variance UNLABELLED", 1, "expected labels, got none; hint: name a table"),
        ("importance PROBE IMAGES", 1, "expected logits, got images"),
        ("importance PROBE LOGITS_OF_OTHER", 1, "come from different models"),
        ("importance PROBE OTHER_CLASSES", 1, "hint: fit the probe on the same classes"),
        ("importance PROBE UNLABELLED_LOGITS", 1, "expected labels in test, got none"),
        ("importance IMAGE_PROBE LOGITS", 1, "a probe of logits, got one of image embeddings"),
        ("importance KNN --weights 1", 2, "expected a linear probe"),
        ("importance PROBE LOGITS --weights 3", 2, "expected --weights without LOGITS"),
        ("importance PROBE --split test --weights 3", 2, "expected --weights without LOGITS"),
        ("importance PROBE --repeat 3 --weights 3", 2, "expected --weights without LOGITS"),
        ("importance PROBE --groups g.tsv --weights 3", 2, "expected --weights without LOGITS"),
        ("importance PROBE --seed 1 --weights 3", 2, "expected --weights without LOGITS"),
        ("calibrate LOGITS --eval-split train", 2, "expected different splits to fit and to score"),
        ("calibrate LOGITS --fit-split test", 2, "got test twice; hint: hold rows out"),
        ("calibrate LOGITS --val 0.2", 2, "got train to fit and test to score; hint: leave out"),
        ("calibrate LOGITS --eval-split tset", 1, "expected a split 'tset', got "),
        ("calibrate UNLABELLED_LOGITS", 1, "test: "),
        ("predict PROBE IMAGES", 1, "expected logits, as the probe was fitted on, got images"),
        ("predict IMAGES IMAGES", 1, "expected probe, got images; hint: make one with: "),
        ("probe LOGITS --keep -o NEW -C 1,10", 2, "expected one run to keep or to print by image"),
        ("probe LOGITS --keep -o NEW --shots 1 --repeat 3", 2, "expected one few-shot draw to"),
        ("probe LOGITS --keep", 2, "expected -o FILE for --keep"),
        ("probe LOGITS --val 0.2 --eval-split train --per-image", 2, "expected a split with"),
        ("probe LOGITS --per-class --per-image", 2, "expected rows of classes or of images"),
        ("probe LOGITS --repeat 2", 2, "expected --shots for --repeat, got none"),
        ("probe LOGITS --shots 1,two", 2, "shots: expected whole numbers between 1 and"),
        ("probe LOGITS --shots 0", 2, "got '0'"),
        ("cluster LOGITS -k 1", 2, "-k: expected whole numbers between 2 and"),
        (f"probe LOGITS --shots {'1' * 5000}", 2, "shots: expected whole numbers"),
        (
            "probe IMAGES --shots 1 --repeat 2 --seed 1,2 -o p-{seed}.h5",
            2,
            "seeds at least 2 apart",
        ),
        ("entropy LOGITS --link sigmoid", 2, "expected a model with a logit_bias"),
        ("entropy LOGITS --link logistic", 2, "unknown link 'logistic'"),
        ("plot nearest LOGITS digits --prompt abc", 2, "unknown prompt of"),
        ("plot nearest LOGITS digits --class 9", 2, "unknown class"),
    ],
)
def test_what_does_not_belong_together_is_refused(line, code, message, inputs):
    words = [inputs.get(word, word) for word in line.split()]
    with unchanged(inputs["NEW"].parent):
        assert message in fails(*words, exit_code=code)


@pytest.mark.parametrize(
    "line", ["compare - -", "predict - -", "importance - -", "variance - --control -"]
)
def test_standard_input_is_read_once(line):
    line = (*line.split(), "-o", "no.h5")
    assert "expected only one file on standard input" in fails(*line, exit_code=2)


def test_logits_are_cosines_whatever_the_order_of_arguments(img_h5, txt_h5, logits_h5, tmp_path):
    images, texts = read(img_h5), read(txt_h5)
    expected = normalize(images.splits["test"].features) @ normalize(texts.features).T
    np.testing.assert_allclose(read(logits_h5).splits["test"].features, expected, atol=1e-6)
    ok("logits", img_h5, "-", "-o", tmp_path / "a.h5", stdin=txt_h5.read_bytes())
    ok("logits", "-", txt_h5, "-o", tmp_path / "b.h5", stdin=img_h5.read_bytes())
    for name in ("a.h5", "b.h5"):
        assert (tmp_path / name).read_bytes() == logits_h5.read_bytes()


def test_a_temperature_is_absolute(img_h5, txt_h5, logits_h5, tmp_path):
    sharp_h5 = tmp_path / "sharp.h5"
    ok("logits", img_h5, txt_h5, "-t", "0.07", "-o", sharp_h5)
    assert read(sharp_h5).temperature == 0.07
    (flat,), (sharp,), (default,) = (
        rows(ok("probe", *words).stdout)
        for words in ([logits_h5, "-t", 0.05], [sharp_h5, "-t", 0.05], [sharp_h5])
    )
    for column in ("mean_entropy", "mean_confidence"):
        assert float(flat.pop(column)) == pytest.approx(float(sharp.pop(column)), abs=1e-5)
    assert flat == sharp
    assert default["temperature"] == "0.07"


def test_entropy_is_that_of_scipy_per_image_and_on_average(logits_h5):
    words = ("entropy", logits_h5, "-t", "1", "-t", "0.07,0.01")
    means = {(row["split"], row["temperature"]): row for row in rows(ok(*words).stdout)}
    assert list(means) == [(name, t) for name in ("test", "train") for t in ("1", "0.07", "0.01")]
    assert float(means["test", "1"]["max_entropy"]) == pytest.approx(np.log(12))
    report = rows(ok(*words, "--split", "train", "--per-image").stdout)
    logits = read(logits_h5)
    train = logits.splits["train"]
    prompts = [logits.texts[k] for k in train.features.argmax(axis=1)]
    for number, tau in enumerate(("1", "0.07")):
        of_tau = report[120 * number : 120 * (number + 1)]
        p = scipy.special.softmax(train.features.astype(np.float64) / float(tau), axis=1)
        expected = np.stack([scipy.stats.entropy(p, axis=1), p.max(axis=1)], axis=1)
        found = [[float(row[name]) for name in ("entropy", "confidence")] for row in of_tau]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        found = [float(means["train", tau][name]) for name in ("mean_entropy", "mean_confidence")]
        assert found == pytest.approx(expected.mean(axis=0), abs=1e-6)
        assert [(r["id"], r["prompt"]) for r in of_tau] == [*zip(train.ids, prompts, strict=True)]


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


@pytest.mark.parametrize(
    ("options", "is_noted"),
    [("--seed 7", True), ("--seed 42", False), ("--seed 7 --val 0.25", False)],
)
def test_a_seed_that_draws_nothing_is_noted(options, is_noted, logits_h5):
    text = "clipkit: --seed has no effect on svm without --val or --shots\n"
    assert (text in ok("probe", logits_h5, *options.split()).stderr) == is_noted


def test_info_of_a_file_names_its_content_and_history(logits_h5):
    info = {row["field"]: row["value"] for row in rows(ok("info", logits_h5, "-v").stdout)}
    assert info["kind"] == "logits"
    assert info["test features"] == "120 x 12"
    commands = [field.split()[1] for field in info if re.fullmatch(r"\d \w+", field)]
    assert commands == ["embed", "textembed", "logits"]
    assert "limit 120" in info["1 embed dataset draw"]
    assert info["digest"] == read(logits_h5).digest


def test_info_of_a_file_has_ten_lines(img_h5, txt_h5, logits_h5, zeroshot_h5):
    for path in (img_h5, txt_h5, logits_h5, zeroshot_h5):
        assert len(ok("info", path).stdout.splitlines()) <= 10
    info = {row["field"]: row["value"] for row in rows(ok("info", logits_h5).stdout)}
    assert info["splits"] == "test 120 x 12, train 120 x 12"
    assert info["made by"] == "embed, textembed, logits"
    assert read(logits_h5).digest.startswith(info["digest"])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("info EMPTY", "an input"),
        ("logits IMAGES EMPTY -o OUT", "an input"),
        ("logits IMAGES TEXTS -o EMPTY", "an output"),
        ("embed digits --limit 2 -m EMPTY -o OUT", "a model"),
    ],
)
def test_an_empty_name_is_named(line, what, img_h5, txt_h5, tmp_path):
    words = {"IMAGES": img_h5, "TEXTS": txt_h5, "OUT": tmp_path / "out.h5", "EMPTY": ""}
    line = [words.get(word, word) for word in line.split()]
    assert f"expected the name of {what}, got ''" in fails(*line, exit_code=2)


REPORTS = {
    "entropy": ["-t", "1,0.07"],
    "probe": ["-t", "1,0.05", "--shots", "2,3"],
    "zeroshot": [],
    "calibrate": ["-t", "1"],
    "cluster": [],
    "compare": [],
}


@pytest.fixture
def line(request, class_logits_h5, zeroshot_h5):
    """A command line that prints a report."""
    source = zeroshot_h5 if request.param == "compare" else class_logits_h5
    return (request.param, source, *REPORTS[request.param])


@pytest.mark.parametrize("format", ["table", "tsv", "csv", "json"])
@pytest.mark.parametrize("line", ["probe"], indirect=True)
@pytest.mark.long
def test_a_saved_result_is_printed_again_byte_for_byte(line, format, tmp_path):
    printed = ok(*line, "--format", format, "-o", tmp_path / "r.h5").stdout
    assert ok("info", "--runs", tmp_path / "r.h5", "--format", format).stdout == printed


@pytest.fixture(scope="module")
def zeroshot_h5(class_logits_h5, work):
    ok("zeroshot", class_logits_h5, "-o", work / "zeroshot.h5")
    return work / "zeroshot.h5"


@pytest.mark.parametrize("line", REPORTS, indirect=True)
def test_columns_are_chosen_and_ordered_by_name(line):
    header, *lines = ok(*line).stdout.splitlines()
    names = header.split("\t")
    chosen = ("--columns", f"model,{names[-1]}", "--columns", f"{names[0]},shots,{names[0]}")
    row = rows(ok(*line, *chosen).stdout)[0]
    assert list(row) == ["model", names[-1], names[0], "shots"]
    values = dict(zip(names, lines[0].split("\t"), strict=True))
    assert (row[names[-1]], row[names[0]]) == (values[names[-1]], values[names[0]])
    assert row["shots"] == ("2" if line[0] == "probe" else "")
    assert row["model"]
    assert ok(*line, "--no-header").stdout.splitlines() == lines
    message = fails(*line, "--columns", "acc2", exit_code=2)
    assert f"unknown column of {line[0]} 'acc2'; hint: " in message


def test_rows_of_several_results_say_what_they_are_of(class_logits_h5, zeroshot_h5, img_h5, work):
    probe_h5 = work / "of-images.h5"
    ok("probe", img_h5, "-o", probe_h5)
    first, second, third = rows(ok("info", "--runs", probe_h5, zeroshot_h5).stdout)
    assert (first["prompts"], second["prompts"]) == ("", third["prompts"])
    assert second["prompts"]
    assert (first["acc5"], second["classifier"]) == ("", "")
    assert not {"model", "dataset"} & first.keys()
    assert first["file"] == str(probe_h5)
    same = rows(ok("info", "--runs", zeroshot_h5, zeroshot_h5).stdout)
    assert [row["file"] for row in same] == [str(zeroshot_h5)] * 4
    named = ok("info", "--runs", probe_h5, "--columns", "file,dataset").stdout
    assert named == f"file\tdataset\n{probe_h5}\tdigits\n"


def test_info_describes_several_files_and_models(img_h5, txt_h5, tiny_clip_dir):
    report = rows(ok("info", img_h5, txt_h5, tiny_clip_dir).stdout)
    files = [row["value"] for row in report if row["field"] == "file"]
    assert files == [str(img_h5), str(txt_h5), str(tiny_clip_dir)]
    images, texts, model = json.loads(ok("info", *files, "--format", "json").stdout)
    expected = {"rows": 120, "features": [120, 16], "predicted": None, "labels": True}
    expected["clusters"] = None
    assert images["splits"]["test"] == expected
    assert images["history"] == read(img_h5).history
    assert texts["texts"] == read(txt_h5).texts
    assert (texts["features"], model["dim"], model["kind"]) == ([12, 16], 16, None)
    assert model["temperature"] == pytest.approx(1 / model["logit_scale"])
    assert model["text"]["context_length"] == 77


def test_info_describes_the_others_if_a_file_cannot_be_read(zeroshot_h5, img_h5, tmp_path):
    damaged, missing = tmp_path / "damaged.h5", tmp_path / "none.h5"
    damaged.write_bytes(zeroshot_h5.read_bytes()[:-9])
    for options, wrong in (((), damaged), (("--runs",), img_h5)):
        alone = ok("info", *options, zeroshot_h5).stdout
        done = partly("info", *options, wrong, zeroshot_h5, missing)
        assert done.stdout.endswith(alone.partition("\n")[2])
        first, second = done.stderr.splitlines()
        assert first.startswith(f"clipkit: warning: {wrong}: expected ")
        expected = f"clipkit: warning: cannot read {missing}: there is no such file"
        assert second == f"{expected}; hint: its folder has damaged.h5"
    assert "expected result, got images" in fails("info", "--runs", img_h5, img_h5)


@pytest.mark.parametrize("command", ["probe", "zeroshot"])
def test_an_accuracy_has_wilsons_interval(command, class_logits_h5):
    for row in rows(ok(command, class_logits_h5).stdout):
        acc1, low, high = (float(row[name]) for name in ("acc1", "acc1_low", "acc1_high"))
        expected = binomtest(round(120 * acc1), 120).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_classes_are_reported_by_probe_zeroshot_and_info(class_logits_h5, zeroshot_h5):
    of_probe = rows(ok("probe", class_logits_h5, "-t", "1,0.05", "--per-class").stdout)
    assert [row["temperature"] for row in of_probe] == ["1"] * 10 + ["0.05"] * 10
    of_zeroshot = ok("zeroshot", class_logits_h5, "--per-class").stdout
    assert list(rows(of_zeroshot)[0]) == ["split", "class", "precision", "recall", "f1", "support"]
    assert ok("info", zeroshot_h5, "--per-class").stdout == of_zeroshot


@pytest.mark.long
def test_skipped_images_are_described_in_plain_words(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    partly("embed", tmp_path, "-m", "tiny", "-o", tmp_path / "img.h5")
    assert "skipped\t1 image\n" in ok("info", tmp_path / "img.h5").stdout
    text = ok("info", tmp_path / "img.h5", "-v").stdout
    assert "skipped [(id bad.png, reason cannot read " in text
    assert "{" not in text


def test_a_control_character_in_a_class_name_is_a_space_in_its_prompt(img_h5, tmp_path):
    images = read(img_h5)
    images.class_names[0] = "old%0A%09house"
    write(tmp_path / "img.h5", images)
    words = ["--classes", tmp_path / "img.h5", "-m", "tiny", "-o", tmp_path / "txt.h5"]
    assert "are replaced by spaces in the prompts" in ok("textembed", *words).stderr
    texts = read(tmp_path / "txt.h5")
    assert texts.texts[0] == "a photo of a old house"
    assert texts.class_names == images.class_names
