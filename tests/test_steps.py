"""What a result leaves open: the line says what would decide it, and whoever types that gets on.

Of ordinary runs on 48 scored images, each says what it decides or what would decide it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest
from shell import PROGRAMS, ok
from test_vocabulary import FOR_DECIDED, REPLACED

import clipkit as in_python

LIMIT = 48  # images per split
NOT_DECIDED = "not decided"
# What keeps a claim open without a step: a tie, or a number that nobody knows
NO_STEP = "even 100 times as many rows may not decide"
DECIDES = re.compile(
    rf"above|below|miscalibrated|understood|learned|there without|{NOT_DECIDED}|explain more|"
    r"costs accuracy|at each of",
    re.I,
)
STEP = re.compile(rf"would decide|; hint: |permutations reach it|{NO_STEP}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A few images, texts and results, in a folder whose name must be quoted."""
    path = tmp_path_factory.mktemp("few images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("CLIPKIT_MODEL", "tiny")
        ok("embed", "shapes", "--limit", LIMIT, "-o", "img.h5")
        ok("embed", "shapes", "--limit", LIMIT, "--untrained", 7, "-o", "untrained.h5")
        ok("textembed", "--classes", "img.h5", "-o", "classes.h5")
        ok("textembed", "generic16", "-o", "texts.h5")
        ok("textembed", "--items", "shapes", "-o", "items.h5")
        test = in_python.read("img.h5")["test"]
        names = in_python.read("img.h5").class_names
        lines = [
            f"{one},a {names[label]}" for one, label in zip(test.ids, test.labels, strict=True)
        ]
        (path / "captions.csv").write_text("\n".join(["image,caption", *lines]))
        ok("textembed", "--captions", "captions.csv", "-o", "captions.h5")
        colours = [
            "red",
            "orange",
            "yellow",
            "green",
            "blue",
            "purple",
            "pink",
            "brown",
            "black",
            "white",
        ]
        lines = [f"colour: {colour}\ta {colour} thing" for colour in colours]
        (path / "colours.tsv").write_text("\n".join(["class\ttext", *lines]))
        ok("textembed", "--classes", "colours.tsv", "-o", "colours.h5")
        ok("logits", "img.h5", "texts.h5", "-o", "logits.h5")
        ok("logits", "img.h5", "classes.h5", "-o", "of-classes.h5")
        ok("probe", "logits.h5", "--keep", "-o", "probe.h5")
        ok("zeroshot", "img.h5", "classes.h5", "-o", "zeroshot.h5")
        ok("probe", "img.h5", "-o", "of-images.h5")
    return path


@pytest.fixture
def here(folder, monkeypatch, tmp_path):
    """A new folder with these files."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPKIT_MODEL", "tiny")


def said(stderr):
    """Return the lines that say what was found, without warnings and progress."""
    lines = [line.removeprefix("clipkit: ") for line in stderr.splitlines()]
    return [line for line in lines if not line.startswith("warning") and DECIDES.search(line)]


ORDINARY = """
probe img.h5
probe img.h5 -C 0.01,1,100
probe img.h5 --classifier knn
probe img.h5 --table shapes --attribute x
probe logits.h5
probe img.h5 --shots 1,2
probe img.h5 --per-class
zeroshot img.h5 classes.h5
zeroshot img.h5 classes.h5 --per-image
predict probe.h5 logits.h5
calibrate img.h5 classes.h5
threshold img.h5 classes.h5
cluster img.h5 --table shapes --attribute pattern
cluster img.h5 --table shapes --attribute x
nearest img.h5
nearest img.h5 classes.h5
variance img.h5 --table shapes
variance img.h5 texts.h5 --table shapes
importance probe.h5 logits.h5
importance probe.h5 logits.h5 --top 3
attributes img.h5 --table shapes --attribute pattern,colour,x
attributes img.h5 colours.h5 --table shapes --attribute colour --control untrained.h5
attributes img.h5 --table shapes --control untrained.h5
describe img.h5 texts.h5 --table shapes --attribute size
describe img.h5 texts.h5 --result zeroshot.h5
compare zeroshot.h5 of-images.h5
compare --leaderboard zeroshot.h5 of-images.h5
mistakes zeroshot.h5 --table shapes
retrieve img.h5 captions.h5
choose img.h5 items.h5 --items shapes
align img.h5 untrained.h5
""".strip().splitlines()


@pytest.mark.exhaustive
@pytest.mark.parametrize("line", ORDINARY)
def test_an_ordinary_run_says_what_it_decides_or_what_would_decide_it(line, here):
    lines = said(ok(*shlex.split(line), "--format", "table").stderr)
    assert lines
    for text in lines:
        assert not FOR_DECIDED.search(text), text
        assert [word for word in REPLACED if re.search(rf"\b{word}\b", text, re.I)] == []
        if NOT_DECIDED in text:
            assert STEP.search(text), text


# A question that few images leave open, and what the step makes of it
FOLLOWED = [
    "calibrate img.h5 classes.h5 -o 'a b.h5'",
    "probe img.h5 --table shapes --attribute x",
    "describe img.h5 texts.h5 --table shapes --attribute size --top 1",
    "calibrate of-classes.h5",
    "describe img.h5 texts.h5 --result zeroshot.h5",
    "attributes img.h5 --table shapes --attribute colour --control untrained.h5",
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("line", FOLLOWED)
def test_the_step_of_an_open_question_runs_and_decides_or_asks_another(line, here):
    asked = said(ok(*shlex.split(line), "--format", "table").stderr)
    (hint,) = [text.partition("; hint: ")[2] for text in asked if "; hint: " in text]
    assert re.search(rf" && clipkit {line.split()[0]} more[\w-]*\.h5 ", hint)
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(hint, shell=True, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said(done.stderr) != asked
    assert "-o more.h5" not in done.stderr  # which is there
