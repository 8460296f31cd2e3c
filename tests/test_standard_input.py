"""Any input of a command may be - once, and /dev/stdin means the same."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest
from shell import clipkit, fails, ok, shell
from test_columns import write_world

# A command line, and which of its words is read from standard input
LINES = [
    ("info img.h5", "img.h5"),
    ("zeroshot img.h5 txt.h5", "txt.h5"),
    ("attributes img.h5 words.h5 --table table.csv --attribute colour", "table.csv"),
    ("attributes img.h5 words.h5 --table table.tsv --attribute colour", "table.tsv"),
    ("attributes img.h5 words.h5 --table table.jsonl --attribute colour", "table.jsonl"),
    ("attributes img.h5 words.h5 --table table.parquet --attribute colour", "table.parquet"),
    ("probe img.h5 --table table.csv --attribute colour", "table.csv"),
    ("choose img.h5 items.h5 --items items.csv", "items.csv"),
    ("relabel img.h5 --table table.csv --attribute colour -o OUT", "table.csv"),
    ("split img.h5 --table table.csv --attribute patient --val 0.5 -o OUT", "table.csv"),
    ("textembed --captions captions.csv --model tiny -o OUT", "captions.csv"),
    ("textembed --items items.csv --model tiny -o OUT", "items.csv"),
    ("textembed --classes classes.txt --model tiny -o OUT", "classes.txt"),
    ("plot confusion z.h5 -o OUT.png", "z.h5"),
    ("plot z.h5 -o OUT.png", "z.h5"),
    ("plot -o OUT.png z.h5", "z.h5"),
    ("report z.h5", "z.h5"),
]
TWICE = [
    "zeroshot - -",
    "probe --table - --attribute colour",
    "probe - --table /dev/stdin --attribute colour",
    "concat - /dev/stdin -o no.h5",
    "info - -",
    "relabel --table - --attribute colour -o no.h5",
    "split - --table - --test 0.5 -o no.h5",
    "report - -",
    "report - --control=/dev/stdin",
    "textembed - - -o no.h5",
    "choose img.h5 - --items -",
    "plot confusion - --groups=-",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with files that belong together, and tables in all forms."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    (folder / "captions.csv").write_text("image,caption\na.jpg,a cat\nb.jpg,a dog\n")
    (folder / "classes.txt").write_text("cat\ndog\n")
    table = pyarrow.csv.read_csv(folder / "table.csv")
    pyarrow.parquet.write_table(table, folder / "table.parquet")
    lines = [json.dumps(row) for row in table.to_pylist()]
    (folder / "table.jsonl").write_text("\n".join(lines))
    (folder / "table.tsv").write_text((folder / "table.csv").read_text().replace(",", "\t"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ok("zeroshot", "img.h5", "txt.h5", "-o", "z.h5")
    return folder


@pytest.fixture
def here(world, monkeypatch):
    monkeypatch.chdir(world)


def run(line, output, stdin=None):
    """Run a line, and return what it prints and what it writes."""
    result = clipkit(*line.replace("OUT", output).split(), stdin=stdin)
    assert result.exit_code in (0, 3), result.stderr
    written = [path.read_bytes() for path in sorted(Path().glob(f"{output}*"))]
    for path in Path().glob(f"{output}*"):
        path.unlink()
    return result.stdout, written


@pytest.mark.parametrize("stream", ["-", "/dev/stdin"])
@pytest.mark.parametrize(("line", "name"), LINES)
def test_an_input_on_standard_input_is_the_file_itself(line, name, stream, here):
    expected = run(line, "first")
    words = [stream if word == name else word for word in line.split()]
    found, written = run(" ".join(words), "second", stdin=Path(name).read_bytes())
    if name == "z.h5" or "--items" in line or "--captions" in line:  # it has no name
        assert len(written) == len(expected[1])
        assert len(found.splitlines()) == len(expected[0].splitlines())
    else:
        assert (found, written) == expected


@pytest.mark.parametrize("line", TWICE)
def test_a_second_input_from_standard_input_is_refused_with_the_reason(line, here):
    message = fails(*line.split(), exit_code=2, stdin=b"")
    assert message.endswith(
        "expected only one file on standard input, got several; hint: it can be read once: save "
        "the others, and name their files\n"
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("cat z.h5 | clipkit plot - -o from-pipe.png", "from-pipe.png"),
        ("clipkit plot /dev/stdin -o from-file.svg < z.h5", "from-file.svg"),
        ("cat z.h5 | clipkit report - -o page.html", "page.html"),
        ("cat table.parquet | clipkit relabel img.h5 --table - --attribute colour -o r.h5", "r.h5"),
        ("clipkit relabel img.h5 --table <(cat table.csv) --attribute colour -o s.h5", "s.h5"),
    ],
)
def test_a_real_pipe_is_drawn_and_reported(line, written, world):
    result = shell(line, world)
    assert result.returncode == 0, result.stderr
    assert (world / written).stat().st_size > 1000
