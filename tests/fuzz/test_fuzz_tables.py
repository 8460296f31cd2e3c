"""Tables of captions and items hold what was written in them, or one line says why not."""

import csv
import io
import json

import pytest
from fuzz import content
from fuzz.commands import Runner, cases
from fuzz.damage import damaged
from hypothesis import note

from clipkit import embedding

pytestmark = pytest.mark.long

ENDINGS = (".csv", ".tsv", ".jsonl", ".json")
ODD = [None, 0, 1.5, True, [], {}, ["a", "b"], [None], "", "1", "0", "yes"]
WORDS = ["a dog", '"The Scream" by Munch', '5" disk', '"', "été", "a;b", "a, b", "犬 \u2028 x"]


@pytest.fixture(scope="module")
def runner(fork_server, tmp_path_factory):
    return Runner(fork_server, tmp_path_factory.mktemp("tables"))


def written(rows, ending):
    """Return rows, which have the same keys, as a file of this ending."""
    if ending == ".jsonl":
        return "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if ending == ".tsv":
        lines = [list(rows[0]), *(map(str, row.values()) for row in rows)]
        return "".join("\t".join(line) + "\n" for line in lines).encode()
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def coco(rows):
    images = [{"id": number, "file_name": row["image"]} for number, row in enumerate(rows)]
    notes = [{"image_id": number, "caption": row["caption"]} for number, row in enumerate(rows)]
    return json.dumps({"images": images, "annotations": notes}).encode()


@cases(100)
def test_captions_come_back_as_they_were_written(rng, tmp_path_factory):
    rows = [{"image": f"{n}.jpg", "caption": rng.choice(WORDS)} for n in range(rng.randrange(1, 9))]
    ending = rng.choice(ENDINGS)
    path = tmp_path_factory.getbasetemp() / f"captions{ending}"
    path.write_bytes(coco(rows) if ending == ".json" else written(rows, ending))
    found = embedding.read_captions(str(path))
    assert found.ids == [row["image"] for row in rows]
    assert found.texts == [" ".join(row["caption"].split()) for row in rows]


@cases(100)
def test_items_come_back_as_they_were_written(rng, tmp_path_factory):
    rows, expected = [], []
    for number in range(rng.randrange(1, 6)):
        texts = rng.sample(WORDS, rng.randrange(2, 5))
        expected.append([" ".join(text.split()) for text in texts])
        for place, text in enumerate(texts):
            row = {"item": number, "image": f"{number}.jpg", "text": text, "correct": 0}
            rows.append(row | {"correct": int(place == 0)})
    path = tmp_path_factory.getbasetemp() / f"items{rng.choice(ENDINGS[:3])}"
    path.write_bytes(written(rows, path.suffix))
    assert [item.texts for item in embedding.read_items(str(path)).items] == expected


@cases(20)
def test_a_changed_table_gives_a_file_or_one_line(rng, runner):
    """A cell, a key or the bytes are changed; what is said twice in a file is refused."""
    runner.clear()
    option = rng.choice(("--captions", "--items"))
    keys = {"--captions": ("image", "caption"), "--items": ("item", "image", "text", "correct")}
    rows = []
    for number in range(4):
        row = {"item": number // 2, "image": "a", "caption": "a dog", "text": f"text {number % 2}"}
        rows.append({key: (row | {"correct": int(number % 2 == 0)})[key] for key in keys[option]})
    for _ in range(rng.choice((0, 1, 2))):
        rng.choice(rows)[rng.choice(keys[option])] = rng.choice((*content.TEXTS, *ODD))
    path = runner.folder / f"table{rng.choice(ENDINGS[:3])}"
    data = written(rows, path.suffix)
    if rng.random() < 0.5:
        data = damaged(data, rng)
    path.write_bytes(data)
    note(repr(data[:500]))
    line = ("textembed", option, path.name, "--model", "tiny", "-o", "out.h5")
    ended, problem = runner.judge(*line)
    assert not problem
    assert ended.exit_code in (0, 1)
    path.unlink()
