"""Every command as a user runs it: from a path, from standard input, in a real shell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from shell import clipkit, ok, rows, shell

from clipkit.cli import COMMANDS
from clipkit.features import read, write

PROBE = [
    "classifier",
    "C",
    "temperature",
    "standardize",
    "fit_split",
    "eval_split",
    "acc1",
    "mean_per_class_recall",
]


def refused(*words: object, stdin: bytes | None = None, code: int = 1) -> str:
    """Run a command that must be refused, and return its only line."""
    result = clipkit(*words, stdin=stdin)
    assert result.exit_code == code, (result.exit_code, result.stderr)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("clipkit")
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    text = ok(command, "--help").stdout
    assert "Example: clipkit" in text


def test_version() -> None:
    assert re.fullmatch(r"clipkit \d+\.\d+\.\d+\n", ok("--version").stdout)


def test_embed_keeps_rows_labels_and_ids_together(img_h5: Path) -> None:
    file = read(img_h5)
    assert file.kind == "images"
    assert {name: len(split) for name, split in file.splits.items()} == {"train": 120, "test": 120}
    assert file.class_names == [str(i) for i in range(10)]
    for split in file.splits.values():
        assert split.features.shape == (120, 16)
        assert np.bincount(split.labels).tolist() == [12] * 10
        assert len(set(split.ids)) == 120


def test_embed_of_an_untrained_model_is_the_same_again_and_another_than_the_stored(
    img_h5: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    made = []
    for name, seed in [("a", 7), ("b", 7), ("c", 8)]:
        ok(
            "embed",
            "digits",
            "--limit",
            20,
            "--model",
            tiny_clip_dir,
            "--untrained",
            seed,
            "-o",
            tmp_path / name,
        )
        made.append(read(tmp_path / name))
    assert made[0].digest == made[1].digest != made[2].digest
    assert made[0].history[0]["model"]["digest"] != read(img_h5).history[0]["model"]["digest"]


def test_logits_are_cosines_of_both_orders_of_arguments_of_a_pipe(
    img_h5: Path, txt_h5: Path, logits_h5: Path, tmp_path: Path
) -> None:
    images, texts = read(img_h5), read(txt_h5)
    x, t = images.splits["test"].features, texts.features
    expected = x @ t.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(t, axis=1)
    np.testing.assert_allclose(read(logits_h5).splits["test"].features, expected, atol=1e-6)
    ok("logits", img_h5, "-", "-o", tmp_path / "a.h5", stdin=txt_h5.read_bytes())
    ok("logits", "-", txt_h5, "-o", tmp_path / "b.h5", stdin=img_h5.read_bytes())
    assert (
        (tmp_path / "a.h5").read_bytes()
        == (tmp_path / "b.h5").read_bytes()
        == logits_h5.read_bytes()
    )


def test_permuted_prompts_permute_logits(
    img_h5: Path, prompts_txt: Path, logits_h5: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    lines = prompts_txt.read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(lines))
    piped = ok(
        "textembed",
        "-",
        "-m",
        tiny_clip_dir,
        "--precision",
        "fp32",
        "-o",
        tmp_path / "t.h5",
        stdin="\n".join(lines[i] for i in order).encode(),
    )
    assert piped.stdout == ""
    ok("logits", img_h5, tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    ours = read(tmp_path / "l.h5")
    np.testing.assert_allclose(
        ours.splits["test"].features,
        read(logits_h5).splits["test"].features[:, order],
        atol=1e-6,
    )
    assert ours.texts == [lines[i] for i in order]


@pytest.mark.parametrize("how", ["path", "-", "stdin"])
def test_entropy(how: str, logits_h5: Path) -> None:
    words = {"path": [logits_h5], "-": ["-"], "stdin": []}[how]
    result = ok(
        "entropy",
        *words,
        "-t",
        "1,0.07",
        "-t",
        "0.01",
        stdin=None if how == "path" else logits_h5.read_bytes(),
    )
    found = rows(result.stdout)
    assert list(found[0]) == [
        "split",
        "temperature",
        "mean_entropy",
        "max_entropy",
        "mean_confidence",
    ]
    assert [(row["split"], row["temperature"]) for row in found] == [
        (s, t) for s in ("test", "train") for t in ("1", "0.07", "0.01")
    ]
    z = read(logits_h5).splits["test"].features.astype(np.float64) / 0.07
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert float(found[1]["mean_entropy"]) == pytest.approx(
        -(p * np.log(p)).sum(axis=1).mean(), abs=1e-6
    )
    assert float(found[1]["mean_confidence"]) == pytest.approx(p.max(axis=1).mean(), abs=1e-6)
    assert float(found[1]["max_entropy"]) == pytest.approx(np.log(12))


@pytest.mark.parametrize("how", ["path", "stdin"])
@pytest.mark.parametrize("classifier", ["svm", "logreg", "mlp", "knn"])
def test_probe_of_logits(classifier: str, how: str, logits_h5: Path) -> None:
    words = [logits_h5] if how == "path" else []
    result = ok(
        "probe",
        *words,
        "--classifier",
        classifier,
        "-t",
        "1,0.01",
        stdin=None if words else logits_h5.read_bytes(),
    )
    found = rows(result.stdout)
    assert list(found[0]) == [*PROBE, "mean_entropy", "mean_confidence"]
    assert [row["temperature"] for row in found] == ["1", "0.01"]
    assert {(row["fit_split"], row["eval_split"], row["standardize"]) for row in found} == {
        ("train", "test", "false")
    }
    assert all(0 <= float(row["acc1"]) <= 1 for row in found)


def test_probe_of_embeddings_is_the_thesis_baseline(img_h5: Path) -> None:
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    (row,) = rows(ok("probe", img_h5).stdout)
    assert list(row) == PROBE
    splits = read(img_h5).splits
    scaler = StandardScaler().fit(splits["train"].features)
    svm = SVC(kernel="linear", C=1.0, random_state=42).fit(
        scaler.transform(splits["train"].features), splits["train"].labels
    )
    expected = svm.score(scaler.transform(splits["test"].features), splits["test"].labels)
    assert float(row["acc1"]) == pytest.approx(expected, abs=1e-7)
    assert row["standardize"] == "true"


def test_temperature_and_c_trade(logits_h5: Path, tmp_path: Path) -> None:
    ok("probe", logits_h5, "-t", "0.1", "-C", "2", "-o", tmp_path / "a.h5")
    ok("probe", logits_h5, "-t", "1", "-C", "200", "-o", tmp_path / "b.h5")
    a, b = (read(tmp_path / name).splits["test"].predicted for name in ("a.h5", "b.h5"))
    np.testing.assert_array_equal(a, b)


def test_a_temperature_is_absolute(
    img_h5: Path, txt_h5: Path, logits_h5: Path, tmp_path: Path
) -> None:
    ok("logits", img_h5, txt_h5, "-t", "0.07", "-o", tmp_path / "sharp.h5")
    assert read(tmp_path / "sharp.h5").temperature == 0.07
    flat, sharp = (
        rows(ok("probe", file, "-t", "0.05").stdout) for file in (logits_h5, tmp_path / "sharp.h5")
    )
    assert flat == [
        {
            **row,
            "mean_entropy": flat[0]["mean_entropy"],
            "mean_confidence": flat[0]["mean_confidence"],
        }
        for row in sharp
    ]
    assert float(flat[0]["mean_entropy"]) == pytest.approx(
        float(sharp[0]["mean_entropy"]), abs=1e-5
    )
    (own,) = rows(ok("probe", tmp_path / "sharp.h5").stdout)
    assert own["temperature"] == "0.07"


def test_probabilities_as_features_are_another_thing_than_logits(logits_h5: Path) -> None:
    (probs,) = rows(ok("probe", logits_h5, "-t", "0.01", "--features", "probs").stdout)
    (logits,) = rows(ok("probe", logits_h5, "-t", "0.01").stdout)
    assert probs["acc1"] != logits["acc1"]
    assert probs["mean_entropy"] == logits["mean_entropy"]


def test_validation_chooses_on_held_out_rows_and_scores_once(logits_h5: Path) -> None:
    found = rows(ok("probe", logits_h5, "--val", "0.25", "-C", "0.1,10", "-t", "1,0.05").stdout)
    tried, chosen = found[:-1], found[-1]
    assert len(tried) == 4
    assert {(row["fit_split"], row["eval_split"]) for row in tried} == {("train-val", "val")}
    assert (chosen["fit_split"], chosen["eval_split"]) == ("train", "test")
    best = max(tried, key=lambda row: float(row["acc1"]))
    assert (chosen["C"], chosen["temperature"]) == (best["C"], best["temperature"])


def test_renamed_classes_keep_their_accuracy(img_h5: Path, tmp_path: Path) -> None:
    file = read(img_h5)
    for split in file.splits.values():
        split.labels = 2 * split.labels + 1
    file.class_names = [name for i in range(10) for name in (f"unused {i}", f"renamed {i}")]
    write(tmp_path / "renamed.h5", file)
    assert rows(ok("probe", tmp_path / "renamed.h5").stdout) == rows(ok("probe", img_h5).stdout)


@pytest.mark.parametrize("how", ["path", "stdin"])
def test_zeroshot(how: str, class_logits_h5: Path, zeroshot_h5: Path) -> None:
    words = [class_logits_h5] if how == "path" else []
    found = rows(
        ok("zeroshot", *words, stdin=None if words else class_logits_h5.read_bytes()).stdout
    )
    assert list(found[0]) == ["split", "acc1", "acc5", "mean_per_class_recall"]
    logits, result = read(class_logits_h5), read(zeroshot_h5)
    for row in found:
        split = logits.splits[row["split"]]
        best = split.features.argmax(axis=1)
        assert float(row["acc1"]) == pytest.approx((best == split.labels).mean())
        assert float(row["acc5"]) >= float(row["acc1"])
        np.testing.assert_array_equal(result.splits[row["split"]].predicted, best[None])


def test_prompts_of_classes_in_another_order_are_matched_by_name(
    img_h5: Path, class_logits_h5: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("".join(f"{i}\n" for i in reversed(range(10))))
    ok(
        "textembed",
        "--classes",
        tmp_path / "names.txt",
        "-m",
        tiny_clip_dir,
        "--precision",
        "fp32",
        "-o",
        tmp_path / "t.h5",
    )
    ok("logits", img_h5, tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    assert ok("zeroshot", tmp_path / "l.h5").stdout == ok("zeroshot", class_logits_h5).stdout


def test_an_ensemble_normalises_averages_and_normalises(
    img_h5: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    said = ["a photo of a {}", "the digit {}"]
    parts = []
    for i, template in enumerate(said):
        ok(
            "textembed",
            "--classes",
            img_h5,
            "--template",
            template,
            "-m",
            tiny_clip_dir,
            "--precision",
            "fp32",
            "-o",
            tmp_path / f"{i}.h5",
        )
        rows_of = read(tmp_path / f"{i}.h5").features
        parts.append(rows_of / np.linalg.norm(rows_of, axis=1, keepdims=True))
    (tmp_path / "both.txt").write_text("\n".join(said))
    ok(
        "textembed",
        "--classes",
        img_h5,
        "--template",
        tmp_path / "both.txt",
        "-m",
        tiny_clip_dir,
        "--precision",
        "fp32",
        "-o",
        tmp_path / "e.h5",
    )
    mean = np.mean(parts, axis=0)
    file = read(tmp_path / "e.h5")
    np.testing.assert_allclose(
        file.features, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6
    )
    assert file.class_index.tolist() == list(range(10))


@pytest.mark.parametrize("how", ["path", "stdin"])
def test_cluster(how: str, img_h5: Path) -> None:
    words = [img_h5] if how == "path" else []
    (row,) = rows(ok("cluster", *words, stdin=None if words else img_h5.read_bytes()).stdout)
    assert list(row) == ["split", "k", "purity", "nmi", "ari"]
    assert (row["split"], row["k"]) == ("test", "10")
    assert 0.1 <= float(row["purity"]) <= 1


@pytest.mark.parametrize("how", ["path", "stdin"])
def test_info_of_a_file(how: str, logits_h5: Path) -> None:
    words = [logits_h5] if how == "path" else []
    found = {
        row["field"]: row["value"]
        for row in rows(ok("info", *words, stdin=None if words else logits_h5.read_bytes()).stdout)
    }
    assert found["kind"] == "logits"
    assert found["test features"] == "120 x 12"
    assert [field.split()[1] for field in found if re.fullmatch(r"\d \w+", field)] == [
        "embed",
        "textembed",
        "logits",
    ]
    assert "limit 120" in found["1 embed dataset draw"]


def test_info_of_a_model(tiny_clip_dir: Path) -> None:
    found = {row["field"]: row["value"] for row in rows(ok("info", tiny_clip_dir).stdout)}
    assert int(found["dim"]) == 16
    assert float(found["temperature"]) == pytest.approx(1 / float(found["logit_scale"]))
    assert int(found["text context_length"]) == 77


@pytest.mark.parametrize("format", ["table", "tsv", "csv", "json"])
def test_formats_tell_the_same(format: str, logits_h5: Path) -> None:
    text = ok("entropy", logits_h5, "--format", format).stdout
    exact = float(rows(ok("entropy", logits_h5).stdout)[0]["mean_confidence"])
    if format == "json":
        assert json.loads(text)[0]["mean_confidence"] == pytest.approx(exact)
    else:
        assert (f"{100 * exact:.2f}" if format == "table" else f"{exact:.8g}") in text


def test_pipes_in_a_real_shell(
    img_h5: Path, prompts_txt: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    pipe = f"clipkit textembed {prompts_txt} --model {tiny_clip_dir} | clipkit logits {img_h5} -"
    run = shell(
        f"{pipe} | tee l.h5 | clipkit entropy && clipkit probe -t 0.5,0.07,0.03,0.02 < l.h5",
        tmp_path,
    )
    assert run.returncode == 0, run.stderr
    entropy, probe = run.stdout.split("classifier", 1)
    assert [row["split"] for row in rows(entropy)] == ["test", "train"]
    assert [row["temperature"] for row in rows("classifier" + probe)] == [
        "0.5",
        "0.07",
        "0.03",
        "0.02",
    ]
    assert run.stderr == ""


def test_a_failed_pipe_fails_as_a_whole(img_h5: Path, tiny_clip_dir: Path, tmp_path: Path) -> None:
    run = shell(
        f"clipkit textembed absent.txt --model {tiny_clip_dir} | clipkit logits {img_h5} - | clipkit entropy",
        tmp_path,
    )
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert sum("did the command before it fail?" in line for line in lines) == 2
    assert any("absent.txt" in line for line in lines)
    assert len(lines) == 3


def test_features_of_two_models_are_refused(
    img_h5: Path, prompts_txt: Path, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    ok(
        "textembed",
        prompts_txt,
        "--model",
        tiny_clip_dir,
        "--untrained",
        "1",
        "-o",
        tmp_path / "t.h5",
    )
    line = refused("logits", img_h5, tmp_path / "t.h5", "-o", tmp_path / "l.h5")
    assert "must come from one model" in line
    assert not (tmp_path / "l.h5").exists()


@pytest.mark.parametrize("tau", ["0", "-1", "nan", "inf", "1e-400", "warm", ""])
def test_a_temperature_that_is_none_is_a_usage_error(
    tau: str, logits_h5: Path, img_h5: Path, txt_h5: Path
) -> None:
    for words in (["entropy", logits_h5], ["probe", logits_h5], ["logits", img_h5, txt_h5]):
        assert "temperature must be a finite number above 0" in refused(
            *words, f"--temperature={tau}", code=2
        )


def test_an_output_is_not_replaced_unless_forced(
    logits_h5: Path, img_h5: Path, txt_h5: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    out.write_text("precious")
    for words in (
        ["logits", img_h5, txt_h5],
        ["probe", logits_h5],
        ["entropy", logits_h5],
        ["embed", "digits"],
        ["textembed", "x"],
    ):
        assert "--force" in refused(*words, "-o", out, code=2)
        assert out.read_text() == "precious"
    ok("logits", img_h5, txt_h5, "-o", out, "--force")
    assert out.read_bytes() == logits_h5.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["embed", "cifar1"], "unknown data set 'cifar1'; hint: did you mean cifar10"),
        (["embed", "digits", "--model", "tinyy"], "tiny"),
        (["frobnicate"], "frobnicate"),
        (["embed"], "DATASET"),
    ],
)
def test_unknown_names_meet_the_nearest(words: list[str], line: str) -> None:
    result = clipkit(*words)
    assert result.exit_code in (1, 2)
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_kinds_that_do_not_fit_are_named(img_h5: Path, logits_h5: Path, probe_h5: Path) -> None:
    assert "must hold logits; it holds images" in refused("entropy", img_h5)
    assert "need logits" in refused("probe", img_h5, "-t", "0.5", code=2)
    assert "belong to the images' classes" in refused("zeroshot", logits_h5)
    assert "'dev'" in refused("probe", logits_h5, "--eval-split", "dev")
    assert "unknown classifier" in refused("probe", logits_h5, "--classifier", "svn", code=2)
