"""What `make thesis` says of its time before it begins: docs/costs.awk and docs/costs.tsv."""

import re
import subprocess
from pathlib import Path

import pytest

from clipkit.shapes import DEFAULT_SPLITS

DOCS = Path(__file__).parents[1] / "docs"
TABLE = [line.split("\t") for line in (DOCS / "costs.tsv").read_text().splitlines()]
SVM = "clipkit probe r/img.h5 -f -o r/img.svm.h5"
CLUSTER = "clipkit cluster r/img.h5 --seed 42,1 -f -o 'r/img.cluster-{seed}.h5'"
SMALL = """\
command	what	12000	60000
a loop	the loop that compares machines	0.5	0.5
clipkit embed 	the embedding
clipkit probe 	SVM	10	50
clipkit cluster 	k-means	4	100
"""


def sentence(tmp_path, *lines, **values):
    """Return what is said of these lines of a dry run with a table of three kinds."""
    (tmp_path / "costs.tsv").write_text(SMALL)
    values = {"images": 60_000, "loop": 0.5, "cores": 1, "jobs": 1, **values}
    command = ["awk", *(f"-v{name}={value}" for name, value in values.items())]
    command += ["-f", DOCS / "costs.awk", tmp_path / "costs.tsv", "-"]
    stdin = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("values", "time"),
    [
        ({}, "50 seconds on this machine"),
        ({"images": 12_000}, "10 seconds on this machine"),
        ({"images": 120_000}, "100 seconds on this machine"),
        ({"limit": 6000}, "10 seconds on this machine"),
        ({"limit": 90_000}, "50 seconds on this machine"),
        ({"images": ""}, "50 seconds on this machine with 60000 images"),
        ({"images": "", "limit": 6000}, "10 seconds on this machine"),
        ({"loop": 2}, "200 seconds on this machine"),
        ({"cores": 4, "jobs": 2}, "25 seconds on this machine"),
        ({"cores": 1, "jobs": 2}, "50 seconds on this machine"),
    ],
)
def test_the_time_follows_images_machine_and_cores(values, time, tmp_path):
    minutes = re.sub("200 seconds", "3 minutes", time)
    said = sentence(tmp_path, f"model\tchapter2\t{SVM}", **values)
    assert said == f"model=1 # 1 steps, about {minutes}\n"


def test_each_seed_takes_its_time_and_the_dear_chapter_is_seen(tmp_path):
    lines = [
        "7\tchapter2\tmkdir -p c",
        "7\tchapter2\tclipkit embed photos -o c/img.h5",
        f"7\tchapter5\t{CLUSTER}",
        f"model\tchapter2\t{SVM}",
        f"model\tchapter5\t{SVM}",  # of two chapters
        f"model\tchapter5\t{CLUSTER} \\",
        "model\tchapter5\t  --verbose",
        "model\tchapter5\tmake: Nothing to be done for 'results'.",
    ]
    said = sentence(tmp_path, *lines, images=60_000)
    folders, said = said.rstrip("\n").split("# ")
    assert set(folders.split()) == {"7=3", "model=2"}
    minutes = "about 8 minutes on this machine after the embedding: chapter5 7, chapter2 1"
    assert said == f"5 steps, {minutes}"


def test_nothing_is_said_of_no_steps(tmp_path):
    assert sentence(tmp_path) == ""


def test_every_command_of_the_chapters_has_a_cost(make, tmp_path):
    goals = ["thesis", "chapter7", "layers", "resolution"]
    variables = {"DATASET": "food101", "UNTRAINED": 7, "CAPTIONS": "c.tsv", "ITEMS": "i.tsv"}
    text = make("-n", *goals, out=tmp_path, **variables).stdout
    used = set()
    for line in text.splitlines():
        matching = [row for row in TABLE[2:] if re.search(row[0], line)]
        assert matching or not line.startswith("clipkit "), line
        used |= {row[1] for row in matching[:1]}
    assert used == {row[1] for row in TABLE[2:]}


def test_costs_grow_with_the_images():
    assert TABLE[0] == ["command", "what", "12000", "60000"]
    for _, what, few, many in TABLE[1:]:
        unmeasured = what in ("the embedding", "the probes of layers")
        assert unmeasured == (many == "")
        assert unmeasured or 0 < float(few) <= 1.1 * float(many)


def test_the_makefile_knows_how_many_images_shapes_has():
    (count,) = re.findall(r"\bshapes=(\d+)", (DOCS.parent / "Makefile").read_text())
    assert int(count) == sum(DEFAULT_SPLITS.values())
