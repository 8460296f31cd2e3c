"""Damaged and changed feature files through every command, and what the commands make of them."""

import contextlib
import csv
import json
import os
import re
import shlex

import numpy as np
import pytest
from fuzz import content, seeds
from fuzz.commands import CONTROL, Runner, cases
from fuzz.content import Content
from fuzz.damage import damaged
from hypothesis import note, reject
from PIL import Image

from clipkit.base.errors import ClipkitError
from clipkit.features import read

pytestmark = pytest.mark.long

# F is the changed file, S one of its splits; the other files are valid.
EVERY_KIND = """\
info F
convert F out.parquet
convert F out.npz --split S
convert F out.csv
textembed --classes F --template 'a {}' -o out.h5
report results --control base -o out.md
""".splitlines()
COMMANDS = {
    "images": """\
logits F generic32.h5 -o out.h5
logits F classes.h5 -t model -o out.h5
predict img.kept-knn.h5 F --per-image
probe F --keep -o out.h5
probe F --no-standardize -C 0.01,1 --format json
probe F --classifier logreg --val 0.2 -o out.h5
cluster F --split S -k 2 -o out.h5
""",
    "texts": """\
logits img.h5 F -o out.h5
logits F F -o out.h5
plot spectrum generic32.h5 F -o out.png
""",
    "logits": """\
entropy F -t 1,0.01 -o out.h5
zeroshot F -o out.h5
zeroshot F --per-image
probe F -t model --features probs -o out.h5
predict generic32.logits.kept.h5 F
plot entropy F -t 1,0.07 -o out.png
plot similarity F --centred -o out.png
""",
    "result": """\
convert F out.csv --split S
plot confusion F --split S --run 1 -o out.png
plot classes F -o out.png
plot temperature generic32.logits.sweep.h5 F -o out.png
""",
    "probe": """\
predict F img.h5 -o out.h5
predict F img.h5 --split test --top 2 --format json
plot confusion F -o out.png
""",
}
FILE = "changed.h5"


@pytest.fixture(scope="module")
def runner(fork_server, tmp_path_factory):
    return Runner(fork_server, tmp_path_factory.mktemp("changed-features"))


@pytest.fixture(scope="module")
def originals(runner):
    names = seeds.write_results(runner, seeds.RESULTS + seeds.MORE_RESULTS)
    (runner.folder / "base").mkdir()
    for name in names:
        os.link(runner.folder / name, runner.folder / "base" / name)
    return {name: Content.read(runner.folder / name) for name in names}


@pytest.mark.exhaustive
@cases(60)
def test_a_damaged_file_gives_the_same_data_or_one_line(rng, originals, runner):
    name = rng.choice(list(originals))
    folder = runner.folder
    path = folder / "tmp" / "damaged.h5"
    path.write_bytes(damaged((folder / name).read_bytes(), rng))
    with contextlib.suppress(ClipkitError):
        assert seeds.same(read(path), read(folder / name))
    path.unlink()


@pytest.mark.exhaustive
@cases(12)
def test_a_changed_file_gives_the_right_data_or_one_line(rng, originals, runner):
    name = rng.choice(list(originals))
    runner.clear()
    try:
        changed = content.mutate(originals[name], rng)
        changed.write(runner.folder / FILE)
    except content.IMPOSSIBLE:
        reject()
    note(name)
    kind = originals[name].attributes["kind"]
    info, problem = runner.judge("info", FILE, "--format", "json")
    assert not problem
    check_json(info)
    fill_results(runner.folder, name)
    split = rng.choice([*changed.splits(), "test"])
    for line in (rng.choice(COMMANDS[kind].splitlines()), rng.choice(EVERY_KIND)):
        words = [{"F": FILE, "S": split}.get(word, word) for word in shlex.split(line)]
        ended, problem = runner.judge(*words)
        written = sorted(path.name for path in runner.folder.glob("out.*"))
        assert not problem
        if ended.exit_code in (1, 2):
            assert not written
        elif info.exit_code:
            # NaN in features is met only by a command that reads them, and a report reads others
            assert "expected finite values" in info.stderr or words[0] == "report"
        else:
            check_report(words, ended, runner.folder)
            for output in written:
                check_output(words, output, runner)
        runner.clear()


def fill_results(folder, name):
    """Put the changed file in the place of the original, beside those of its prompt set."""
    (folder / "results").mkdir(exist_ok=True)
    for path in (folder / "results").iterdir():
        path.unlink()
    for path in (folder / "base").iterdir():
        source = folder / FILE if path.name == name else path
        os.link(source, folder / "results" / path.name)


def check_json(ended):
    def refuse(constant):
        raise ValueError(constant)

    if not ended.exit_code:
        json.loads(ended.stdout, parse_constant=refuse)


def check_report(words, ended, folder):
    if "json" in words:
        check_json(ended)
    if words[0] in ("report", "info"):
        page = folder / "out.md"
        text = page.read_text() if page.exists() else ended.stdout.decode()
        assert not CONTROL.search(text)
        assert not re.search(f"^{content.PLANTED}", text, re.M)


def check_output(words, name, runner):
    """Check a picture's size, a table's form, and that files hold what they were made of."""
    path = runner.folder / name
    source = read(runner.folder / FILE)
    if name == "out.png":
        with Image.open(path) as image:
            assert max(image.size) < 20_000
    elif name == "out.csv":
        with path.open(encoding="utf-8", newline="") as stream:
            assert len({len(row) for row in csv.reader(stream)}) == 1
    elif name == "out.h5":
        check_result(words, source, read(path), runner.folder)
    elif name in ("out.npz", "out.parquet") and not source.is_result:
        ended, problem = runner.judge("convert", name, "out.back.h5")
        assert not problem
        assert ended.exit_code == 0
        back = read(runner.folder / "out.back.h5")
        if "--split" in words:
            source.splits = {name: source.splits[name] for name in back.splits}
        back.history = source.history
        assert seeds.same(back, source)


def check_result(words, source, result, folder):
    """Compute anew what a result must be."""
    command = words[0]
    if command in ("predict", "textembed"):  # rows or classes of another file
        return
    for name in result.splits.keys() & source.splits.keys():
        split, other = result.splits[name], source.splits[name]
        if len(split) == len(other):
            assert split.ids == other.ids
            assert np.array_equal(split.labels, other.labels)
    if command == "logits" and source.kind == "images":
        texts = unit(read(folder / words[2]).features)
        for name, split in source.splits.items():
            got = np.asarray(result.splits[name].features, np.float64) * result.temperature
            assert np.allclose(got, unit(split.features) @ texts.T, rtol=1e-4, atol=1e-5)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
