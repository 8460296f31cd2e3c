"""`embed --check`: what a trial of an encoder on eight images finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import clipkit, ok, rows

OWN = ("-m", "python:own.py:make", "--check")
GOOD = """
import numpy as np
class make:
    def image(self, images):
        return np.array([np.asarray(image).mean(axis=(0, 1)) for image in images], np.float16)
"""
# A change of the code above, the check that finds it, its result, and some words
FOUND = [
    ("", "", "buffer", "ok", "each call returns other memory"),
    ("", "", "values", "ok", "ndarray float16 (1, 3)"),
    ("", "", "prints", "ok", "nothing on standard output"),
    ("", "", "load", "note", "no digest of weights"),
    ("        return", "        print('a\\nb')\n        return", "prints", "note", "first: a"),
    ("import numpy as np", "import numpy as up", "encode", "wrong", "'np' is not"),
    ("class make", "import os; os.system('echo hi')\nclass make", "prints", "note", "first: hi"),
    ("class make", "class made", "load", "wrong", "unknown function of own.py 'make'"),
    ("        return", "        images = images[:1]\n        return", "batch", "wrong", "got the"),
    ("images], np.float16)", "images]) * 0", "numbers", "wrong", "8 of zeros"),
    ("images], np.float16)", "images]) * np.nan", "numbers", "wrong", "8 of 8 embeddings with NaN"),
    ("images], np.float16)", "images]) * 0 + 1", "different", "wrong", "1 different embeddings"),
    ("images], np.float16)", "images]) * len(images)", "batch", "wrong", "hint: encode images one"),
    ("(axis=(0, 1))", "(axis=(1, 2))", "encode", "wrong", "as at first, got"),
    ("images], np.float16)", "images], dtype=object)", "encode", "wrong", "ndarray of object"),
    ("        return", "        exit()\n        return", "encode", "wrong", "exit(None)"),
]
BUFFER = """
import numpy as np
buffer = np.zeros((8, 3), np.float32)
class make:
    def image(self, images):
        for row, image in enumerate(images):
            buffer[row] = np.asarray(image).mean(axis=(0, 1))
        return buffer[:len(images)]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(code, *words):
    """Try an encoder; return the rows by their checks, and the run."""
    Path("own.py").write_text(code)
    result = clipkit("embed", "shapes", *OWN, *words)
    return {row["check"]: row for row in rows(result.stdout)}, result


@pytest.mark.parametrize(("old", "new", "name", "result", "words"), FOUND)
def test_a_trial_finds_what_is_right_and_what_is_wrong(old, new, name, result, words):
    found, run = check(GOOD.replace(old, new))
    assert found[name]["result"] == result
    assert words in found[name]["found"]
    wrong = [row["check"] for row in found.values() if row["result"] == "wrong"]
    assert run.exit_code == (1 if wrong else 0)
    if wrong:
        assert run.stderr.endswith(f"expected no check to fail, got {', '.join(wrong)}\n")


def test_a_trial_finds_a_buffer_that_is_used_again_and_passes():
    found, run = check(BUFFER)
    assert (found["buffer"]["result"], run.exit_code) == ("note", 0)


def test_a_trial_writes_nothing_and_needs_no_output(folder):
    found, _ = check(GOOD, "-o", "own.py")
    assert found["width"]["found"] == "3"
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["own.py"]


def test_without_batches_none_is_tried():
    found, run = check(GOOD.replace("images], np.float16)", "images]) * len(images)"), "-b", 1)
    assert "batch" not in found
    assert run.exit_code == 0


def test_a_trial_takes_a_model_of_a_library_and_its_layers():
    printed = rows(ok("embed", "shapes", "--model", "tiny", "--layers", "0,1", "--check").stdout)
    assert [row["check"] for row in printed] == [
        *("load", "width", "numbers", "different", "batch", "time", "prints")
    ]
