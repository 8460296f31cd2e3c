"""The Makefile's chapters, run as a user runs them: what is made, kept, made again and refused."""

import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from factories.results import NAME, numbers, tables
from PIL import Image
from shell import environment, shell

from clipkit.analysis.results import per_class_rows
from clipkit.features import read

ROOT = Path(__file__).parents[1]
CONTROL = "tiny-clip-untrained7-digits"


def lines_of(text):
    """Return the lines of a session, each with those that continue it."""
    return re.sub(r"\\\n  (  )?", "", text).splitlines()


def commands(text):
    """Return the lines that run clipkit, some of them for every seed or layer."""
    return [line for line in lines_of(text) if re.search(r"\bclipkit ", line)]


def verbs(text):
    """Return the last command of each line."""
    return [re.findall(r"\bclipkit (\w+)", line)[-1] for line in commands(text)]


def states(folder):
    """Return what changes when a file is written again."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def assert_same_files(folder, expected):
    for path in folder.glob("*.h5"):
        assert path.read_bytes() == (expected / path.name).read_bytes(), path.name


def stand_in(folder, script):
    """Return an environment below the folder whose clipkit is a script of bash."""
    program = folder / "venv" / "bin" / "clipkit"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    return folder / "venv"


@pytest.fixture
def results_copy(thesis_results, tmp_path):
    """A copy of the results that a test may change; its parent holds nothing else."""
    return Path(shutil.copytree(thesis_results, tmp_path / "copy" / thesis_results.name))


def test_a_dry_run_of_the_thesis_reads_like_its_method(make, tmp_path):
    variables = {"DATASET": "", "MODEL": NAME, "LIMIT": "", "PRECISION": "", "SEEDS": "42"}
    text = make("-n", "thesis", out=tmp_path, **variables).stdout
    assert not list(tmp_path.iterdir())
    for line in lines_of(text):
        starts = ("clipkit ", "mkdir -p ", "echo ", "for ", "rm ", "make", "missing=; make", "# ")
        assert line.startswith(starts)
        assert "  " not in line
    lines = commands(text)
    embedded = [line.split()[2] for line in lines if line.startswith("clipkit embed")]
    assert embedded == ["cifar10", "cifar100", "imagenette", "tiny-imagenet", "food101"]
    with_classes = [line for line in lines if "--max-classes 100" in line]
    assert with_classes == [line for line in lines if "embed tiny-imagenet" in line]
    outputs = [line.split(" -o ")[1].split()[0] for line in lines]
    assert len(set(outputs)) == len(outputs)
    assert verbs(text).count("report") == 2 * 5  # as Markdown and as HTML
    baseline = f"clipkit probe {tmp_path}/clip-vit-base-patch32-cifar100/img.h5 -f -o"
    assert sum(line.startswith(baseline) for line in lines) == 1


def test_a_run_says_how_many_steps_there_are_and_numbers_them(make, tmp_path):
    venv = stand_in(tmp_path, 'for word; do output=$word; done\ntouch "$output"')
    variables = {"VENV": venv, "UNTRAINED": 7}
    dry = make("-n", "chapter2", out=tmp_path, **variables).stdout
    assert "[" not in dry
    done = make("chapter2", out=tmp_path, **variables)
    steps = re.findall(r"^\[(\S+) (\d+)/(\d+)\]\n(?:clipkit|mkdir|echo|Open)", done.stdout, re.M)
    total = len(re.findall(r"^(?:clipkit|mkdir|echo) ", dry, re.M))
    said = rf"# {total} steps, about \d+ (seconds|minutes) on this machine after the embedding"
    assert re.fullmatch(said, done.stdout.splitlines()[0])
    for folder in (CONTROL, "tiny-clip-digits"):
        own = [(int(number), int(of)) for name, number, of in steps if name == folder]
        assert own == [(i + 1, len(own)) for i in range(len(own))]
    assert len(steps) == total
    assert " steps" not in make("chapter2", out=tmp_path, **variables).stdout


@pytest.mark.parametrize(("jobs", "at_a_time"), [([], 1), (["-j1"], 0), (["-j3"], 0)])
def test_two_commands_run_at_a_time_unless_j_says_otherwise(jobs, at_a_time, make, tmp_path):
    text = make("-n", "chapter2", *jobs, out=tmp_path).stdout
    assert len(re.findall(r"^make.* -j2 ", text, re.M)) == at_a_time


@pytest.mark.skipif(not shutil.which("flock"), reason="flock is not installed")
def test_two_makes_at_once_take_turns_in_a_folder(make, tmp_path):
    log, go = tmp_path / "log", tmp_path / "go"
    wait = f"for i in {{1..100}}; do [ -e {go} ] || sleep 0.1; done"
    last = "for word; do output=$word; done"
    check = "if [ $1 = list ]; then exit; fi"  # whether the data set is known
    venv = stand_in(tmp_path, f'{check}\n{last}\necho "$output" >> {log}\n{wait}\ntouch "$output"')
    variables = {"out": tmp_path / "r", "VENV": venv}
    line = [word for word in make("-n", "chapter2", **variables).args if word != "-n"]
    start = functools.partial(
        subprocess.Popen, line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    with start() as first:
        while not log.exists():
            assert first.poll() is None
            time.sleep(0.01)
        with start() as second:
            try:
                assert any("waiting for another make" in text for text in second.stdout)
            finally:
                go.touch()
            first.communicate()
            second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    made = log.read_text().splitlines()
    assert len(made) == len(set(made)) > 5


def test_variables_reach_the_commands(make, tmp_path):
    variables = {"ROOT": "/data", "LIMIT": 50, "PRECISION": "bf16", "DEVICE": "cuda:1"}
    lines = commands(make("-n", "chapter3", out=tmp_path, UNTRAINED=3, **variables).stdout)
    embed = [line for line in lines if line.startswith("clipkit embed")]
    assert len(embed) == 2
    assert all("--root /data --limit 50 " in line for line in embed)
    assert sum("--untrained 3" in line for line in embed) == 1
    with_model = [line for line in lines if re.match("clipkit (text)?embed", line)]
    assert all("--precision bf16 --device cuda:1" in line for line in with_model)


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("openai/clip-vit-base-patch32", "clip-vit-base-patch32-photos"),
        ("ViT-B/32", "ViT-B-32-photos"),
        ("ViT-L-14/openai", "ViT-L-14-photos"),
        ("/models/mine/", "mine-photos"),
    ],
)
def test_a_folder_is_named_after_model_and_data(model, folder, make, tmp_path):
    text = make("-n", "chapter5", out=tmp_path, MODEL=model, DATASET="/data/photos/").stdout
    assert f"clipkit report {tmp_path}/{folder} " in text


@pytest.mark.parametrize(("dataset", "is_skipped"), [("digits", True), ("food101", False)])
def test_higher_resolution_is_skipped_for_other_data_sets(dataset, is_skipped, make, tmp_path):
    text = make("-n", "chapter4", out=tmp_path, DATASET=dataset).stdout
    assert ("higher resolution: skipped, since digits is none of" in text) == is_skipped
    assert ("prompts/food32.txt" in text) != is_skipped


@pytest.mark.exhaustive
def test_neither_jobs_nor_order_change_a_file(thesis_results, make, tmp_path):
    folder = tmp_path / thesis_results.name
    make("chapter5", out=tmp_path)
    assert "img.svm.h5" not in (folder / "report.md").read_text()
    make("chapter2", out=tmp_path)
    for name in ("img.svm.h5", "img.cluster-42.h5"):
        assert name in (folder / "report.md").read_text()
    assert_same_files(folder, thesis_results)


@pytest.mark.exhaustive
def test_a_missing_result_is_made_again_and_nothing_else(
    thesis_results, results_copy, make, tiny_clip_dir
):
    out = results_copy.parent
    (results_copy / "generic16.logits.svm.h5").unlink()
    same_model = f"{tiny_clip_dir}/"
    made = verbs(make("thesis", out=out, MODEL=same_model).stdout)
    assert made == ["probe", "report", "report"]
    for seed in (42, 1):  # one command makes the results of all seeds
        (results_copy / f"img.cluster-{seed}.h5").unlink()
    assert verbs(make("thesis", out=out).stdout) == ["cluster", "plot", "report", "report"]
    assert_same_files(results_copy, thesis_results)
    for name in ("img.h5", "generic16.h5", "generic32.logits.h5"):  # only results need them
        (results_copy / name).unlink()
    assert commands(make("thesis", out=out).stdout) == []


@pytest.mark.exhaustive
def test_a_changed_prompt_file_is_embedded_again_with_what_follows(results_copy, make):
    os.utime(results_copy / "generic415.h5", (0, 0))  # the prompts are newer
    lines = commands(make("-n", "thesis", out=results_copy.parent).stdout)
    assert sum("generic415" in line for line in lines) > 4
    assert not any("generic32.logits" in line or "clipkit embed" in line for line in lines)


@pytest.mark.exhaustive
def test_other_settings_are_refused(thesis_results, make):
    out = thesis_results.parent
    done = make("chapter2", out=out, LIMIT=50, check=False)
    assert done.returncode == 2
    assert re.search(
        "tiny-clip-digits/settings: expected MODEL=.* LIMIT=50 PRECISION=fp32, "
        "got MODEL=.* LIMIT=60 PRECISION=fp32; hint: remove the folder",
        done.stderr,
    )
    assert commands(done.stdout) == []
    assert make("-n", "help", out=out, LIMIT=50).returncode == 0


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DATSET": "shapes"}, "unknown variable DATSET; known: MODEL DATASET"),
        ({"RESULTS": "my results"}, "RESULTS: expected no space, got my results"),
        ({"DATASET": "my photos"}, "DATASET: expected no space, got my photos"),
    ],
)
def test_unknown_variables_and_spaces_are_refused(variables, message, make, tmp_path):
    done = make("-n", "chapter2", out=tmp_path, check=False, **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.exhaustive
def test_settings_may_be_corrected_until_there_are_embeddings_or_layers(make, tmp_path):
    assert make("chapter5", out=tmp_path, LIMIT="many", check=False).returncode == 2
    assert "clipkit embed digits --limit 60" in make("-n", "chapter5", out=tmp_path).stdout
    (tmp_path / "tiny-clip-digits" / "img.l0.h5").touch()
    done = make("-n", "chapter5", out=tmp_path, check=False)
    assert "tiny-clip-digits/settings: expected MODEL=" in done.stderr


@pytest.mark.exhaustive
def test_a_report_of_another_control_is_made_again(thesis_results, results_copy, make):
    out = results_copy.parent
    shutil.copytree(thesis_results.with_name(CONTROL), out / CONTROL)
    page = results_copy / "report.md"
    assert "untrained7" not in page.read_text()
    assert verbs(make("chapter2", out=out, UNTRAINED=7).stdout) == ["report", "report"]
    assert "untrained7" in page.read_text()
    assert commands(make("-n", "chapter2", out=out, UNTRAINED=7).stdout) == []
    (out / CONTROL / "img.svm.h5").touch()
    assert verbs(make("-n", "chapter2", out=out, UNTRAINED=7).stdout) == ["report", "report"]
    assert verbs(make("chapter2", out=out).stdout) == ["report", "report"]
    assert "untrained7" not in page.read_text()


def test_every_chapter_has_a_control_unless_it_is_asked_for_none(make, tmp_path):
    for untrained, seeds in ((None, ["7"]), ("", []), ("7,8,9", ["7", "8", "9"])):
        text = make("-n", "chapter6", out=tmp_path, UNTRAINED=untrained).stdout
        reports = [line for line in commands(text) if line.startswith("clipkit report")]
        assert [re.search(r"report(\.\w+)", line)[1] for line in reports] == [".md", ".html"]
        folders = [f"{tmp_path}/tiny-clip-untrained{seed}-digits" for seed in seeds]
        for report in reports:
            assert re.findall(r"--control (\S+)", report) == folders
        for verb in ("attributes", "variance"):
            (line,) = [line for line in commands(text) if line.startswith(f"clipkit {verb}")]
            assert re.findall(r"--control (\S+)", line) == [f"{path}/img.h5" for path in folders]


def test_the_thesis_is_repeated_in_float32_unless_a_precision_is_given(make, tmp_path):
    clip, said = "openai/clip-vit-base-patch32", f"model={NAME} dataset=cifar100"
    for variables, precision in (
        ({"MODEL": clip, "DATASET": "cifar10"}, " --precision fp32 "),
        ({"MODEL": "tiny", "DATASET": "photos", "SAME_AS": said}, " --precision fp32 "),
        ({"MODEL": clip, "DATASET": "cifar10", "PRECISION": "bf16"}, " --precision bf16 "),
        ({"MODEL": clip, "DATASET": "photos"}, ""),
        ({"MODEL": "tiny", "DATASET": "cifar10"}, ""),
    ):
        variables = {"PRECISION": None, **variables}
        lines = commands(make("-n", "chapter2", out=tmp_path, **variables).stdout)
        (embed,) = [line for line in lines if line.startswith("clipkit embed")]
        assert precision in embed
        assert ("--precision" in embed) == bool(precision)
        reports = [line for line in lines if line.startswith("clipkit report")]
        same_as = f" --same-as model={clip} --same-as dataset=cifar100 "
        assert all((same_as in line) == ("SAME_AS" in variables) for line in reports)


def test_own_prompts_go_through_the_chapters(make, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.txt").write_text("a cat\n\na dog\nred\n")
    variables = {"PROMPTS": f"{tmp_path}/own/", "SETS": "generic32 mine"}
    lines = commands(make("-n", "thesis", out=tmp_path / "r", **variables).stdout)
    folder = f"{tmp_path}/r/tiny-clip-digits"
    sources = [line.split()[2] for line in lines if line.startswith("clipkit textembed")]
    assert f"{tmp_path}/own/mine.txt" in sources
    assert "prompts/generic32.txt" in sources
    assert not any("generic16" in line or "generic415" in line for line in lines)
    of_mine = [line for line in lines if f"{folder}/mine." in line]
    found = {re.findall(r"clipkit (\w+)", line)[0] for line in of_mine}
    assert {"textembed", "logits", "probe", "entropy", "cluster", "plot"} <= found
    assert any(f"logits {folder}/img.h5 --random 3 " in line for line in lines)
    (tmp_path / "own" / "generic32.txt").write_text("a bird\n")
    text = make("-n", "chapter3", out=tmp_path / "r", **variables).stdout
    assert f"textembed {tmp_path}/own/generic32.txt " in text
    done = make("-n", "chapter3", out=tmp_path / "r", SETS="nothing", check=False)
    assert "SETS: expected a file prompts/nothing.txt, got none" in done.stderr


def test_resolution_probes_the_same_images_at_several_sizes_with_a_control(make, tmp_path):
    for dataset, sizes in (("shapes", ["16", "32"]), ("digits", ["32", "64", "128"])):
        variables = {"DATASET": dataset, "UNTRAINED": 7}
        lines = commands(make("-n", "resolution", out=tmp_path, **variables).stdout)
        embed = [line for line in lines if line.startswith("clipkit embed")]
        assert len(embed) == 2 * (len(sizes) + 1)
        trained = [line for line in embed if "--untrained" not in line]
        assert re.findall(r"--downsample (\d+) ", " ".join(trained)) == sizes
        assert verbs("\n".join(lines)).count("probe") == 4 * (len(sizes) + 1)
        compared = [line for line in lines if line.startswith("clipkit compare")]
        assert all(line.count(".svm.h5") == len(sizes) + 1 for line in compared)
        drawn = [line for line in lines if line.startswith("clipkit plot")]
        assert [line.split()[2] for line in drawn] == ["compare", "compare"]


def test_without_a_data_set_resolution_runs_on_the_high_resolution_ones(make, tmp_path):
    text = make("-n", "resolution", out=tmp_path, DATASET="", UNTRAINED="").stdout
    embedded = [line.split()[2] for line in commands(text) if "--downsample 32" in line]
    assert embedded == ["imagenette", "tiny-imagenet", "food101"]


def test_help_lists_every_target_that_a_user_may_name():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"thesis", "layers", "resolution", "tour", "demo"} <= listed
    phony = re.findall(r"^\.PHONY: ([a-z].*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {name for line in phony for name in line.split() if name.isalpha()}
    assert named <= listed | {"trained"}


@pytest.mark.exhaustive
def test_resolution_ends_with_a_picture_and_paired_differences(make, tmp_path):
    variables = {"MODEL": "tiny", "DATASET": "shapes", "LIMIT": 200, "UNTRAINED": 7}
    make("resolution", out=tmp_path, **variables)
    folder = tmp_path / "tiny-shapes"
    page = (folder / "report.md").read_text()
    for name in ("embeddings.sizes", "generic32.sizes"):
        assert f"]({name}.png)" in page
    table = tables(page.partition("## shapes, test")[2].partition("Paired differences from")[0])
    assert table["px16.svm.h5"]["model"] == "tiny at 16 px"
    assert table["px16.svm.h5"]["untrained control (%)"]
    runs = read(folder / "embeddings.sizes.h5").rows()
    assert [run["b"] for run in runs] == ["px16.svm", "px32.svm"]
    assert all(run["low"] <= run["difference"] <= run["high"] for run in runs)


def test_a_table_and_words_reach_chapter_6(make, tmp_path):
    (tmp_path / "t.csv").touch()
    (tmp_path / "w.tsv").touch()
    variables = {"TABLE": tmp_path / "t.csv", "WORDS": tmp_path / "w.tsv"}
    lines = commands(make("-n", "chapter6", out=tmp_path / "r", **variables).stdout)
    (words,) = [line for line in lines if "w.tsv" in line]
    assert words.startswith(f'clipkit textembed --classes {tmp_path}/w.tsv --template "{{}}" ')
    with_table = [line for line in lines if f"--table {tmp_path}/t.csv" in line]
    assert [line.split()[1] for line in with_table] == ["attributes", "variance"]
    assert sum("--table" in line for line in lines) == 2
    bundled = commands(make("-n", "chapter6", out=tmp_path, DATASET="shapes").stdout)
    assert sum("--table shapes" in line for line in bundled) == 2


def test_captions_and_items_reach_chapter_7_with_all_controls(make, tmp_path):
    (tmp_path / "c.tsv").touch()
    variables = {"CAPTIONS": tmp_path / "c.tsv", "ITEMS": tmp_path / "items", "UNTRAINED": "7,8"}
    lines = commands(make("-n", "chapter7", out=tmp_path, **variables).stdout)
    texts = [line for line in lines if line.startswith("clipkit textembed")]
    assert sum(f"--captions {tmp_path}/c.tsv" in line for line in texts) == 3  # and the controls'
    assert sum(f"--items {tmp_path}/items" in line for line in texts) == 3
    folders = [f"{tmp_path}/{CONTROL.replace('7', seed)}" for seed in "78"]
    for verb, file in (("retrieve", "captions"), ("choose", "items")):
        line = [line for line in lines if line.startswith(f"clipkit {verb}")][-1]
        for folder in folders:
            assert f"--control {folder}/img.h5 --control-texts {folder}/{file}.h5" in line
    done = make("-n", "chapter7", out=tmp_path, check=False)
    assert "expected CAPTIONS=... or ITEMS=..., got none" in done.stderr


def test_layers_are_probed_for_the_class_and_for_attributes_of_the_table(make, tmp_path):
    (tmp_path / "t.csv").touch()
    variables = {"TABLE": tmp_path / "t.csv", "ATTRIBUTES": "sex age"}
    for dataset, attributes in (("digits", []), ("shapes", ["outline", "pattern", "colour"])):
        lines = commands(make("-n", "layers", out=tmp_path / "r", DATASET=dataset).stdout)
        assert re.findall(r" --attribute (\w+)", "\n".join(lines)) == attributes
    lines = commands(make("-n", "layers", out=tmp_path / "r", UNTRAINED=7, **variables).stdout)
    probes = [line for line in lines if " --attribute " in line]
    assert len(probes) == 4
    for line in probes:
        assert re.match(r"for file in \S+/img\.h5 \S+/img\.l\*\[0-9\]\.h5; do clipkit probe ", line)
        assert f" --table {tmp_path}/t.csv --attribute " in line
    embed = [line for line in lines if line.startswith("clipkit embed")]
    assert len(embed) == 4
    assert sum("--layers all" in line for line in embed) == 2
    assert sum("--untrained 7" in line for line in embed) == 2
    (plot,) = [line for line in lines if line.startswith("clipkit plot layers")]
    folders = [tmp_path / "r" / name for name in ("tiny-clip-digits", CONTROL)]
    for folder in folders:
        for name in ("img.svm", "img.l*[0-9].svm", "img.age.svm", "img.l*.age.svm"):
            assert f" {folder}/{name}.h5 " in plot


@pytest.mark.exhaustive
def test_layers_are_embedded_in_one_pass_and_probed(make, tmp_path):
    text = make("layers", "-j2", out=tmp_path, UNTRAINED=7).stdout
    folder, control = tmp_path / "tiny-clip-digits", tmp_path / CONTROL
    history = read(folder / "img.l0.h5").history
    names = [f"img.l{layer}" for layer in range(history[0]["model"]["layers"] + 1)]
    assert len(names) > 1
    assert verbs(text).count("embed") == 4  # embeddings and layers, with and without training
    for path in (folder, control):
        assert {file.stem for file in path.glob("img.l*[0-9].h5")} == set(names)
        assert {file.stem for file in path.glob("img.l*.svm.h5")} == {f"{n}.svm" for n in names}
    report = (folder / "report.md").read_text()
    assert "![layers](layers.png)" in report
    rows = tables(report.partition("hidden states after each")[2].split("\n\n")[1])
    assert list(rows) == [*map(str, range(len(names))), "embedding"]
    for path, column in ((folder, "accuracy (%)"), (control, "accuracy, untrained (%)")):
        for row, name in zip(rows.values(), [*names, "img"], strict=True):
            (run,) = read(path / f"{name}.svm.h5").rows()
            assert row[column] == f"{100 * run['acc1']:.2f}"

    assert commands(make("layers", out=tmp_path, UNTRAINED=7).stdout) == []
    (control / "layers.class.stamp").unlink()
    done = make("layers", out=tmp_path, UNTRAINED=7)
    assert verbs(done.stdout) == ["probe", "plot", "report", "report"]


@pytest.mark.exhaustive
def test_the_environment_is_made_once_for_all_data_sets(make, tmp_path):
    python, venv, log = tmp_path / "python", tmp_path / "venv", tmp_path / "log"
    python.write_text(
        f"""#!/bin/sh
        echo $* >> {log}
        mkdir -p {venv}/bin
        printf '#!/bin/sh\\nsleep 0.3\\n' | tee {venv}/bin/pip > {venv}/bin/clipkit
        chmod +x {venv}/bin/*
        """
    )
    python.chmod(0o755)
    variables = {"VENV": venv, "INSTALLED": venv / ".installed", "PYTHON": python, "DATASET": ""}
    make("-j2", "-k", "chapter2", out=tmp_path, check=False, **variables)
    assert log.read_text() == f"-m venv {venv}\n"


@pytest.mark.exhaustive
def test_one_data_set_that_fails_does_not_stop_the_others(make, fork_server, tmp_path):
    log = tmp_path / "log"
    fail = 'case "$*" in *cifar100*|*tiny-imagenet*) exit 1;; esac'
    venv = stand_in(tmp_path, f'echo "$*" >> {log}\n{fail}')
    done = make("thesis", out=tmp_path, DATASET="", VENV=venv, check=False)
    assert done.returncode == 2
    names = ["cifar10", "cifar100", "imagenette", "tiny-imagenet", "food101"]
    commands = [line.split("/")[-2] for line in log.read_text().splitlines() if "/" in line]
    tried = [name for folder in commands for name in names if folder.endswith(f"-{name}")]
    assert list(dict.fromkeys(tried)) == names
    missing = "missing: cifar100 tiny-imagenet; hint: the same command continues with them"
    assert done.stderr.splitlines()[-2] == missing
    assert "# data sets are downloaded unless they are there: cifar10 170 MB, " in done.stdout


def write_photos(photos):
    """Write ten dark and ten light images of noise."""
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        folder = photos / name
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 100, (8, 8, 3), dtype=np.uint8) + 155 * (name == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


@pytest.mark.exhaustive
def test_a_chapter_with_feature_files_and_without_images_ends_without_the_album(make, tmp_path):
    write_photos(tmp_path / "photos")
    there, here = tmp_path / "there", tmp_path / "here"
    variables = {"DATASET": tmp_path / "photos", "LIMIT": "", "UNTRAINED": 7}
    make("chapter2", out=there, **variables)
    shutil.rmtree(tmp_path / "photos")
    for folder in there.iterdir():  # copied from another machine
        (here / folder.name).mkdir(parents=True)
        shutil.copy(folder / "img.h5", here / folder.name)
    shutil.copy(there / "tiny-clip-photos" / "settings", here / "tiny-clip-photos")
    done = make("chapter2", "chapter3", "chapter5", out=here, **variables)
    assert "embed" not in verbs(done.stdout)
    warning = "left out the album: the images of photos are not on this machine"
    assert done.stderr.count(f"clipkit: warning: {warning}") == 1
    page = (here / "tiny-clip-photos" / "report.html").read_text()
    assert "img.svm.h5" in page
    assert 'id="album"' not in page
    assert commands(make("chapter2", "chapter3", out=here, **variables).stdout) == []
    shutil.rmtree(here / "tiny-clip-photos")
    (here / "tiny-clip-photos").mkdir()
    shutil.copy(there / "tiny-clip-photos" / "img.h5", here / "tiny-clip-photos")
    done = make("chapter5", out=here, **variables)  # whose results predict no classes
    assert "embed" not in verbs(done.stdout)
    assert (here / "tiny-clip-photos" / "report.html").exists()


@pytest.mark.exhaustive
def test_an_interrupted_run_continues_where_it_stopped(thesis_results, make, tmp_path):
    line = make("-n", "chapter3", out=tmp_path).args
    line.remove("-n")
    null = subprocess.DEVNULL
    running = subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=null, stderr=null, start_new_session=True
    )
    folder = tmp_path / thesis_results.name
    while not (folder / "generic16.logits.h5").exists():
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGTERM)  # SIGINT is ignored where tests run in the background
    assert running.wait() != 0
    assert not (folder / "report.md").exists()
    before = states(folder)
    assert {"img.h5", "generic16.h5"} <= set(before)
    assert not [name for name in before if name.startswith(".")]
    make("chapter3", out=tmp_path)
    assert before.items() <= states(folder).items()
    assert_same_files(folder, thesis_results)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("command", "target"), [("probe", "img.svm.h5"), ("report", "report.md")])
def test_a_failed_command_leaves_no_target(
    command, target, thesis_results, make, fork_server, tmp_path
):
    fail = f'if [ "$1" = {command} ]; then echo half > "${{@: -1}}"; exit 1; fi'
    venv = stand_in(tmp_path, f'{fail}\nexec {fork_server.venv}/bin/clipkit "$@"')
    done = make("chapter2", out=tmp_path, VENV=venv, check=False)
    assert done.returncode == 2
    folder = tmp_path / thesis_results.name
    assert (folder / "img.h5").exists()
    assert not (folder / target).exists()
    make("chapter2", out=tmp_path)
    assert (folder / "report.md").exists()
    assert_same_files(folder, thesis_results)


@pytest.mark.exhaustive
def test_skipped_images_do_not_stop_a_chapter(make, tmp_path):
    for split in ("train", "test"):
        write_photos(tmp_path / "data" / split)
    (tmp_path / "data" / "train" / "dark" / "bad.png").write_bytes(b"no picture")
    make("chapter2", out=tmp_path / "out", DATASET=tmp_path / "data")
    report = tables((tmp_path / "out" / "tiny-clip-data" / "report.md").read_text())
    assert report["skipped images"][""] == "1"


@pytest.mark.exhaustive
def test_chapters_of_a_folder_without_splits_score_the_same_fifth_of_its_images(make, tmp_path):
    write_photos(tmp_path / "photos")
    photos = {"DATASET": f"{tmp_path}/photos/", "LIMIT": "", "out": tmp_path / "results"}
    done = make("chapter2", **photos)
    assert "photos: all: 20 rows -> train 16, test 4" in done.stderr
    assert "warning" not in done.stderr
    out = tmp_path / "results" / "tiny-clip-photos"
    svm, zeroshot = read(out / "img.svm.h5"), read(out / "classes.logits.zeroshot.h5")
    assert svm.splits["test"].ids == zeroshot.splits["test"].ids
    text = (out / "report.md").read_text()
    assert numbers(tables(text)["img.svm.h5"]["accuracy (%)"])[0] == 100
    assert "left out" not in text


@pytest.mark.exhaustive
def test_cifar100_has_the_f1_of_classes_and_superclasses_and_their_confusions(make, tmp_path):
    lines = (ROOT / "prompts" / "groups" / "cifar100-superclasses.tsv").read_text().splitlines()
    rng = np.random.default_rng(0)
    for split, name in itertools.product(
        ("train", "test"), (line.split("\t")[0] for line in lines)
    ):
        folder = tmp_path / "cifar100" / split / name
        folder.mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    figures = tmp_path / "figures.tsv"  # those of another model
    figures.write_text(re.sub(r"model=\S+ ", "", (ROOT / "docs" / "thesis.tsv").read_text()))
    variables = {"DATASET": tmp_path / "cifar100", "EXPECTED": figures, "LIMIT": ""}
    make("chapter2", "chapter3", out=tmp_path / "results", **variables)
    out = tmp_path / "results" / "tiny-clip-cifar100"
    for name in ("img.svm", "classes.logits.zeroshot", "generic32.logits.svm"):
        assert (out / f"{name}.superclasses.png").exists()
        assert (out / f"{name}.confusion.png").exists()
    text = (out / "report.md").read_text().partition("## Published figures")[2]
    found = tables(text.partition("\n## ")[0])
    f1 = {row["class"]: 100 * row["f1"] for row in per_class_rows(read(out / "img.svm.h5"))}
    one = found["seal, in the thesis at most 60"]
    assert numbers(one["measured"])[0] == pytest.approx(f1["seal"], abs=0.006)
    assert not {"published", "in the interval"} & one.keys()  # no row has one
    people = np.mean([f1[name] for name in ("baby", "boy", "girl", "man", "woman")])
    assert numbers(found["people"]["measured"])[0] == pytest.approx(people, abs=0.006)


def test_only_a_folder_without_a_test_split_is_split(make, tmp_path):
    for name in ("photos/cat", "split/train", "split/test"):
        (tmp_path / name).mkdir(parents=True)
    for dataset, is_split in ((tmp_path / "photos", 1), (tmp_path / "split", 0), ("digits", 0)):
        text = make("-n", "chapter2", out=tmp_path / "out", DATASET=dataset).stdout
        assert text.count("--split-off test=0.2") == is_split


def test_a_data_set_that_is_missing_is_refused_before_a_plan_is_made():
    if not (ROOT / ".venv" / "bin" / "clipkit").exists():
        pytest.skip("make would first install clipkit into .venv")
    made = shell("unset MAKEFLAGS MAKELEVEL; make chapter2 DATASET=missing", ROOT)
    assert made.returncode == 2
    assert "no data set is called so; known: cifar10 " in made.stderr
    assert "minutes" not in made.stdout
