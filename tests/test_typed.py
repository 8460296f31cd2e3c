"""What people type first, by the habits of other tools: refusals have hints that can be followed.

`typed.txt` has a command line a line. They were written before the hints were read.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shell import clipkit, ok

LINES = Path(__file__).with_name("typed.txt").read_text(encoding="utf-8").splitlines()
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|'<|\.\.\.")  # a name that a person fills in
COMMAND = re.compile(r"\bclipkit [a-z].*")
END = re.compile(r"; | which |, or ")  # of a command in a hint
SHAPES = ("embed", "shapes", "--model", "tiny", "--limit", "100")
MADE = (
    "textembed --classes img.h5 -o classes.h5 --template 'a photo of a {}'",
    "textembed generic16 --model tiny -o generic.h5",
    "textembed --captions shapes --model tiny -o captions.h5",
    "textembed --classes words.tsv --template {} --model tiny -o words.h5",
    "logits img.h5 classes.h5 -o logits.h5",
    "logits img.h5 generic.h5 -o glogits.h5",
    "entropy logits.h5 -o entropy.h5",
    "probe img.h5 --keep -o probe.h5",
    "zeroshot logits.h5 -o zeroshot.h5",
    "cluster img.h5 -o cluster.h5",
    "embed photos --model tiny --split-off test=0.34 -o photos.h5",
    "convert wide.npy wide.h5",
)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with files of each kind, of clipkit and of others."""
    folder = tmp_path_factory.mktemp("typed")
    random = np.random.default_rng(0)
    table = ["filename,colour,size"]
    for name in ("cat", "dog", "ship", "truck"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(1, 7):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            file = f"{name}/{name}000{number}.jpg"
            Image.fromarray(pixels).save(folder / "photos" / file)
            table.append(f"{file},{('red', 'blue')[number % 2]},{number}")
    words = "".join(f"colour: {name}\ta {name} object\n" for name in ("red", "blue", "green"))
    for name, text in {
        "table.csv": "\n".join([*table, ""]),
        "words.tsv": words,
        "names.txt": "cat\ndog\nship\ntruck\n",
        "prompts.txt": "a small thing\na big thing\n",
        "prompts.json": '["a photo of a cat", "a photo of a dog"]',
        "prompts.csv": "prompt\na photo of a cat\na photo of a dog\n",
        "features.csv": "f0,f1\n1,2\n3,4\n",
    }.items():
        (folder / name).write_text(text)
    shutil.copy(folder / "photos/cat/cat0001.jpg", folder / "cat.jpg")
    np.save(folder / "features.npy", random.normal(size=(400, 64)).astype("f4"))
    np.save(folder / "wide.npy", random.normal(size=(40, 512)).astype("f4"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ok(*SHAPES, "-o", "img.h5")
        ok(*SHAPES, "--untrained", "1", "-o", "control.h5")
        for line in MADE:
            ok(*shlex.split(line))
    (folder / "results").mkdir()
    for name in ("entropy", "probe", "zeroshot", "cluster"):
        shutil.copy(folder / f"{name}.h5", folder / "results")
    return folder


@pytest.fixture
def here(material, tmp_path, monkeypatch):
    """A copy of the folder, in which a line may write."""
    shutil.copytree(material, tmp_path / "here", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "here")


def said(words):
    """Run a command; return the last line of an error, or "" if there was none."""
    result = clipkit(*words, stdin=b"")
    if result.exit_code in (0, 3):
        return ""
    assert result.exit_code in (1, 2), result.stderr
    return result.stderr.splitlines()[-1]


def followed(words, message):
    """Return the command lines that a hint says."""
    hint = message.partition("; hint: ")[2]
    meant = re.search(r"did you mean (.*?)( or .*)?\?", hint)
    wrong = re.search(r"unknown .*? '(.*?)';|No such option: (\S+);", message)
    if "swap the two" in hint:
        names = [place for place, word in enumerate(words) if word.endswith(".h5")][:2]
        first, second = names
        changed = list(words)
        changed[first], changed[second] = words[second], words[first]
        return [changed]
    if meant and wrong:
        typed = wrong[1] or wrong[2]
        place = next(i for i, word in enumerate(words) if word.partition("=")[0] == typed)
        return [[*words[:place], *shlex.split(meant[1]), *words[place + 1 :]]]
    command = COMMAND.search(hint)
    if command is None:
        return []
    line = END.split(command[0])[0]
    if PLACEHOLDER.search(line) or "|" in line or "example" in hint:
        return []
    return [shlex.split(line)[1:]]


def check(line):
    """Demand a hint of an error, and that the hint leads on."""
    words = shlex.split(line)[1:]
    message = said(words)
    if not message:
        return
    assert "; hint: " in message, message
    assert not re.search(r"hint: see clipkit .*--help", message), message
    for other in followed(words, message):
        assert said(other) != message, other


@pytest.mark.parametrize("line", LINES[::16])
def test_what_people_type_first_has_a_hint_also_in_an_empty_folder(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(line)


@pytest.mark.long
@pytest.mark.parametrize("line", LINES)
def test_each_line_that_people_type_works_or_has_a_hint_that_leads_on(line, here):
    check(line)
