"""What is not decided names the command line that decides it, made of what was typed."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest
from shell import PROGRAMS, ok

import clipkit
from clipkit.analysis.for_people import as_table

ASK = ["attributes", "--table", "shapes", "--attribute", "pattern", "--format", "table"]
IN_WORDS = "hint: embed the same images with --untrained 7 to make one\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in a folder whose name must be quoted."""
    path = tmp_path_factory.mktemp("my images")
    ok("embed", "shapes", "--limit", "200", "--model", "tiny", "-o", path / "img.h5")
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def hint_of(stderr):
    """Return the hint of the last line, which says what is not decided."""
    line = stderr.splitlines()[-1]
    assert "(there is no untrained control)" in line
    return line.partition("; hint: ")[2]


def run(line):
    """Run a line in a shell, as a user who pastes it does."""
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        line, shell=True, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )


@pytest.mark.exhaustive
def test_the_hint_of_a_missing_control_runs_and_decides(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ok(*ASK, folder / "img.h5", "-o", "a b.h5")
    hint = hint_of(asked.stderr)
    typed = shlex.join(map(str, [*ASK, folder / "img.h5", "-o", "a b.h5"]))
    control = shlex.quote(str(folder / "control.h5"))
    assert hint.endswith(f" && clipkit {typed} --control {control} --force")
    done = run(hint)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "clipkit: learned: pattern"
    # now that a control lies there, the hint only asks again
    assert hint_of(ok(*ASK, folder / "img.h5").stderr).startswith("clipkit attributes ")


def test_what_came_through_a_pipe_or_was_imported_is_said_in_words(folder, here):
    piped = ok(*ASK, "-", stdin=(folder / "img.h5").read_bytes())
    assert piped.stderr.endswith(IN_WORDS)
    ok("split", "img.h5", "--val", "0.2", "--from", "train", "-o", "split.h5")
    assert ok(*ASK, "split.h5").stderr.endswith(IN_WORDS)


def test_python_and_saved_results_say_it_in_words(folder, here):
    result = clipkit.attributes("img.h5", table="shapes", attribute="pattern")
    assert IN_WORDS.strip() in as_table(result).replace("\\", "")
    ok(*ASK, "img.h5", "-o", "saved.h5", "--force")
    assert IN_WORDS.strip() in ok("info", "--runs", "saved.h5", "--format", "table").stderr
