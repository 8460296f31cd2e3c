"""The Makefile's chapters, run as a user runs them: what is made, what is kept, what is refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kitchen import Kitchen, Make, environment
from test_report import tables

from clipkit.report import chapters, results, thesis

ROOT = Path(__file__).parents[1]


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("clipkit ")]


def states(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def same_files(folder: Path, ran: Path) -> None:
    for path in folder.glob("*.h5"):
        assert path.read_bytes() == (ran / path.name).read_bytes(), path.name


def test_the_thesis_as_a_dry_run_reads_like_its_method(make: Make, tmp_path: Path) -> None:
    variables = {
        "DATASET": "",
        "MODEL": "openai/clip-vit-base-patch32",
        "LIMIT": "",
        "PRECISION": "",
        "SEEDS": "42",
    }
    text = make("-n", "thesis", out=tmp_path, **variables).stdout
    assert not list(tmp_path.iterdir())
    lines = commands(text)
    assert all(
        line.startswith(("clipkit ", "mkdir -p ", "echo ", "make")) for line in text.splitlines()
    )
    embedded = [line.split()[2] for line in lines if line.startswith("clipkit embed")]
    assert embedded == ["cifar10", "cifar100", "imagenette", "tiny-imagenet", "food101"]
    assert [line for line in lines if "--classes 100" in line] == [
        line for line in lines if "embed tiny-i" in line
    ]
    outputs = [line.split(" -o ")[1].split()[0] for line in lines]
    assert len(set(outputs)) == len(outputs)
    assert sum(line.startswith("clipkit report") for line in lines) == 5
    baseline = f"clipkit probe {tmp_path}/clip-vit-base-patch32-cifar100/img.h5 -f -o"
    assert sum(line.startswith(baseline) for line in lines) == 1


def test_variables_reach_the_commands(make: Make, tmp_path: Path) -> None:
    given = {"ROOT": "/data", "LIMIT": 50, "PRECISION": "bf16", "DEVICE": "cuda:1", "UNTRAINED": 3}
    lines = commands(make("-n", "chapter3", out=tmp_path, **given).stdout)
    images = [line for line in lines if line.startswith("clipkit embed")]
    assert len(images) == 2
    assert all("--root /data --limit 50 " in line for line in images)
    assert ["--untrained 3" in line for line in images].count(True) == 1
    loading = [line for line in lines if re.match("clipkit (text)?embed", line)]
    assert all("--precision bf16 --device cuda:1" in line for line in loading)


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("openai/clip-vit-base-patch32", "clip-vit-base-patch32-photos"),
        ("ViT-B/32", "ViT-B-32-photos"),
        ("ViT-L-14/openai", "ViT-L-14-photos"),
        ("/models/mine/", "mine-photos"),
    ],
)
def test_a_folder_is_called_after_model_and_data(
    model: str, folder: str, make: Make, tmp_path: Path
) -> None:
    text = make("-n", "chapter5", out=tmp_path, MODEL=model, DATASET="/data/photos/").stdout
    assert f"clipkit report {tmp_path}/{folder} " in text


def test_one_data_set_leaves_the_others_out_and_says_so(make: Make, tmp_path: Path) -> None:
    text = make("-n", "chapter4", out=tmp_path).stdout
    assert "higher resolution: skipped, since digits is none of" in text
    text = make("-n", "chapter4", out=tmp_path, DATASET="food101").stdout
    assert "skipped" not in text
    assert "prompts/food32.txt" in text


def test_a_second_run_does_nothing(ran: Path, make: Make) -> None:
    before = states(ran)
    done = make("thesis", out=ran.parent)
    assert commands(done.stdout) == []
    assert states(ran) == before


def test_jobs_and_order_change_no_file(ran: Path, make: Make, tmp_path: Path) -> None:
    folder = tmp_path / ran.name
    make("chapter5", out=tmp_path)
    assert "Chapter 2" not in (folder / "report.md").read_text()
    make("chapter2", out=tmp_path)
    assert "Chapter 2" in (folder / "report.md").read_text()
    assert "Chapter 5" in (folder / "report.md").read_text()
    same_files(folder, ran)


def test_what_is_gone_is_made_again_and_nothing_else(ran: Path, make: Make) -> None:
    kept = (ran / "generic16.logits.svm.h5").read_bytes()
    (ran / "generic16.logits.svm.h5").unlink()
    made = commands(make("thesis", out=ran.parent).stdout)
    assert [line.split()[1] for line in made] == ["probe", "report"]
    assert (ran / "generic16.logits.svm.h5").read_bytes() == kept
    (ran / "img.h5").rename(ran / "elsewhere")  # the large files may go when the results are there
    assert commands(make("thesis", out=ran.parent).stdout) == []
    (ran / "elsewhere").rename(ran / "img.h5")


def test_a_changed_prompt_file_is_embedded_again_with_what_follows(
    ran: Path, make: Make, tmp_path: Path
) -> None:
    lines = commands(make("-n", "thesis", "-W", "prompts/generic415.txt", out=ran.parent).stdout)
    assert sum("generic415" in line for line in lines) > 4
    assert not any("generic32.logits" in line or "clipkit embed" in line for line in lines)


def test_other_settings_are_refused(ran: Path, make: Make) -> None:
    done = make("chapter2", out=ran.parent, LIMIT=50, check=False)
    assert done.returncode == 2
    assert "LIMIT=60 PRECISION=fp32, not MODEL=" in done.stderr
    assert commands(done.stdout) == []
    assert make("-n", "help", out=ran.parent, LIMIT=50).returncode == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"DATSET": "shapes"}, "no variable is called DATSET; there are MODEL DATASET"),
        ({"RESULTS": "my results"}, "RESULTS must hold no space; got my results"),
        ({"DATASET": "my photos"}, "DATASET must hold no space; got my photos"),
    ],
)
def test_wrong_words_are_refused(
    wrong: dict[str, str], message: str, make: Make, tmp_path: Path
) -> None:
    done = make("-n", "chapter2", out=tmp_path, check=False, **wrong)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_failed_first_try_may_be_corrected(make: Make, tmp_path: Path) -> None:
    assert make("chapter5", out=tmp_path, LIMIT="many", check=False).returncode == 2
    assert "clipkit embed digits --limit 60" in make("-n", "chapter5", out=tmp_path).stdout


def test_a_folder_with_and_without_its_slash_is_one(ran: Path, make: Make) -> None:
    model = make("-n", "help", out=ran.parent).args
    (model,) = [word.removeprefix("MODEL=") for word in model if word.startswith("MODEL=")]
    assert commands(make("-n", "thesis", out=ran.parent, MODEL=f"{model}/").stdout) == []


def test_a_report_has_the_twin_that_is_asked_for(ran: Path, make: Make, tmp_path: Path) -> None:
    folder = tmp_path / ran.name
    shutil.copytree(ran, folder)
    shutil.copytree(twin := ran.with_name("tiny-clip-untrained7-digits"), tmp_path / twin.name)
    assert commands(make("-n", "chapter2", out=tmp_path, UNTRAINED=7).stdout) == []
    report = (folder / "report.md").read_text()
    (folder / "report.md").write_text(
        report.replace("seed 7", "seed 8")
    )  # as another UNTRAINED has left it
    make("chapter2", out=tmp_path, UNTRAINED=7)
    assert (folder / "report.md").read_text() == report


def test_a_twin_of_another_data_set_or_without_embeddings_is_none(
    ran: Path, make: Make, tmp_path: Path
) -> None:
    shutil.copytree(ran, tmp_path / ran.name)
    for name in ("tiny-clip-untrained7-my-digits", "tiny-clip-untrained8-digits"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings").write_text(
            "MODEL=tiny DATASET=my-digits LIMIT= PRECISION=\n"
        )
    (tmp_path / "tiny-clip-untrained7-my-digits" / "img.h5").touch()
    assert commands(make("-n", "thesis", out=tmp_path).stdout) == []


def test_a_report_is_made_of_whole_results(ran: Path, make: Make, tmp_path: Path) -> None:
    shutil.copytree(ran, tmp_path / ran.name)
    for name in ("report.md", "img.h5", "generic16.h5"):
        (tmp_path / ran.name / name).unlink()
    lines = commands(make("-n", "chapter4", out=tmp_path).stdout)
    assert [line.split()[1] for line in lines if "-o " in line][:2] == ["embed", "textembed"]


def test_the_environment_is_made_once(make: Make, tmp_path: Path) -> None:
    """By the first make, before those of the data sets want it."""
    python, venv = tmp_path / "python", tmp_path / "venv"
    pip = (
        f"printf '#!/bin/sh\\nsleep 0.3\\n' > {venv}/bin/pip; cp {venv}/bin/pip {venv}/bin/clipkit"
    )
    python.write_text(
        f"#!/bin/sh\necho $* >> {tmp_path}/log\nmkdir -p {venv}/bin; {pip}; chmod +x {venv}/bin/*\n"
    )
    python.chmod(0o755)
    where = {"VENV": venv, "INSTALLED": venv / ".installed", "PYTHON": python}
    make("-j2", "-k", "chapter2", out=tmp_path, DATASET="", check=False, **where)
    assert (tmp_path / "log").read_text() == f"-m venv {venv}\n"


def test_an_interrupted_run_goes_on_where_it_was(
    ran: Path, make: Make, kitchen: Kitchen, tmp_path: Path
) -> None:
    line = make("-n", "chapter3", out=tmp_path).args
    line.remove("-n")
    running = subprocess.Popen(
        line,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    folder = tmp_path / ran.name
    while not (folder / "generic16.logits.h5").exists():
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGTERM)  # SIGINT is ignored where tests run in the background
    assert running.wait() != 0
    assert not (folder / "report.md").exists()
    kept = states(folder)
    assert {"img.h5", "generic16.h5"} <= set(kept)
    assert not [name for name in kept if name.startswith(".")]
    make("chapter3", out=tmp_path)
    assert kept.items() <= states(folder).items()
    same_files(folder, ran)


@pytest.mark.parametrize("command", ["probe", "zeroshot", "report"])
def test_a_failed_command_leaves_no_target(
    command: str, ran: Path, make: Make, kitchen: Kitchen, tmp_path: Path
) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    script, real = tmp_path / "venv" / "bin" / "clipkit", kitchen.venv / "bin" / "clipkit"
    fails = f'if [ "$1" = {command} ]; then echo half > "${{@: -1}}"; exit 1; fi'
    script.write_text(f'#!/bin/bash\n{fails}\nexec {real} "$@"\n')
    script.chmod(0o755)
    done = make("chapter2", out=tmp_path, VENV=tmp_path / "venv", check=False)
    assert done.returncode == 2
    folder = tmp_path / ran.name
    target = {
        "probe": "img.svm.h5",
        "zeroshot": "classes.logits.zeroshot.h5",
        "report": "report.md",
    }[command]
    assert (folder / "img.h5").exists()
    assert not (folder / target).exists()
    make("chapter2", out=tmp_path)
    assert (folder / "report.md").exists()
    same_files(folder, ran)


def test_skipped_images_do_not_stop_a_chapter(make: Make, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for c in range(2):
            (tmp_path / "data" / split / f"class {c}").mkdir(parents=True)
            for i in range(6):
                picture = Image.new("RGB", (8, 8), (120 * c, 30 * i, 40))
                picture.save(tmp_path / "data" / split / f"class {c}" / f"{i}.png")
    (tmp_path / "data" / "train" / "class 0" / "bad.png").write_bytes(b"no picture")
    make("chapter2", out=tmp_path / "out", DATASET=tmp_path / "data")
    report = tables((tmp_path / "out" / "tiny-clip-data" / "report.md").read_text())
    assert report["skipped images"][""] == "1"


def test_every_figure_of_the_thesis_is_compared(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure whose experiment no chapter names would never be shown."""
    asked: set[str] = set()

    def compare(run: chapters.Run, rows: list[chapters.Row]) -> list[str]:
        asked.update(row.thesis for row in rows)
        return ["a table"]

    monkeypatch.setattr(chapters.Run, "compare", compare)
    here = results.Results(ran)
    monkeypatch.setattr(here, "file", lambda name: here._file(name.replace("food", "generic")))
    for chapter in (chapters.chapter2, chapters.chapter3, chapters.chapter4, chapters.chapter5):
        chapter(chapters.Run(here, None, {}))
    assert {key for figures in thesis.FIGURES.values() for key in figures} <= asked


def test_the_page_on_the_thesis_has_the_numbers_of_today(make: Make, tmp_path: Path) -> None:
    """Chapter 3 on a small draw of shapes, run again; `make thesis-page` brings the page up to date."""
    sys.path.insert(0, str(ROOT / "docs"))
    import thesis as docs

    make(
        "chapter3",
        "-j2",
        out=tmp_path / "small",
        MODEL="tiny",
        DATASET="shapes",
        LIMIT=500,
        UNTRAINED=7,
    )
    report = (tmp_path / "small" / "tiny-shapes" / "report.md").read_text()
    page = docs.PAGE.read_text()
    (shown,) = [match[0] for match in docs.BLOCK.finditer(page) if match[2] == "small/tiny-shapes"]
    told, found = tables(shown), tables(docs.section(report, "Chapter 3"))
    assert list(told) == list(found)
    for label, cells in told.items():
        assert list(cells) == list(found[label])
        for column, cell in cells.items():
            a, b = (
                [float(x) for x in re.findall(r"\d+\.\d+", text)]
                for text in (cell, found[label][column])
            )
            assert a == pytest.approx(b, abs=0.002 if "nats" in label else 1.0), (label, column)
    for name in docs.PICTURE.findall(page):
        assert (docs.PAGE.parent / "images" / "thesis" / name).exists()


def test_a_section_of_a_report_is_what_stands_under_its_heading() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import thesis as docs

    table = "| a | b | c |\n|---|---|---|\n| 1 |   | 3 |"
    report = f"# a\n\nx\n\n## Chapter 2. b\n\none\n\n![p](q)\n\n{table}\n\n### 4.1 c\n\ntwo\n"
    assert docs.section(report, "Chapter 2") == "one\n\n| a | c |\n|---|---|\n| 1 | 3 |"
    page = "<!-- results f: 4.1 -->\nold\n<!-- end -->\n"
    assert docs.BLOCK.sub(lambda m: f"{m[2]}|{m[3]}", page) == "f|4.1\n"
