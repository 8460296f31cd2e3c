"""Hostile inputs: names that write on the terminal, models that run code, image bombs."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from canary import Canary
from factories import content, feature_file, refused, unchanged, write_feature_file, write_images
from factories.clips import edit_json, tiny_clip
from fuzz import seeds
from PIL import Image
from rich.progress import Progress
from shell import clipkit, fails, ok, partly

from clipkit import models
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, read, write

pytestmark = pytest.mark.long

ESCAPED = "a\\n\\x1b[31m\\u202ered\\u2028.h5"


@pytest.fixture
def model(tmp_path):
    return tiny_clip(tmp_path / "model")


# names and texts


def test_a_file_name_cannot_write_on_the_terminal(tmp_path):
    path = tmp_path / "a\n\x1b[31m\u202ered\u2028.h5"
    assert ESCAPED in refused(clipkit("entropy", path), 1, "no such file")
    path.write_bytes(b"text")
    assert ESCAPED in refused(clipkit("entropy", path), 1, "got text")


def test_a_file_name_need_not_be_utf8(tmp_path):
    images, output = (tmp_path / os.fsdecode(name) for name in (b"\xff.h5", b"out\xff.h5"))
    write_feature_file(images)
    ok("logits", images, write_feature_file(tmp_path / "txt.h5", "texts"), "-o", output)
    assert read(output).kind == "logits"


def test_texts_from_a_file_cannot_write_on_the_terminal(tmp_path):
    evil = write_feature_file(
        tmp_path / "x.h5",
        attributes={"history": json.dumps([{"command": "embed\x1b[2J", "note": "\x9b31m"}])},
        datasets={"class_names": ["\x1b]0;title\x07", "a\tb"]},
    )
    for format in ("tsv", "csv", "table"):
        for words in ((), ("-v",)):
            shown = ok("info", evil, "--format", format, *words).stdout
            assert not {"\x1b", "\x07", "\x9b"} & set(shown)


def test_a_progress_bar_escapes_its_description(monkeypatch):
    descriptions = []
    add_task = Progress.add_task

    def spy(self, description, **options):
        descriptions.append(description)
        return add_task(self, description, **options)

    monkeypatch.setattr(Progress, "add_task", spy)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with console.progress("embedding {0} [/x] [red]\n") as update:
        update(1, 2)
    assert descriptions == ["embedding {0} [/x] [red]\\n"]


# models


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "got only pytorch_model.bin, a pickle, which can run code"),
        ("model.bin", "got only model.bin, a pickle, which can run code"),
        ("model.safetensors", "expected a complete safetensors file"),
        ("model.safetensors.index.json", "expected valid JSON"),
    ],
)
def test_a_pickle_checkpoint_is_not_loaded(name, message, tmp_path, model):
    canary, prompts = tmp_path / "canary", tmp_path / "prompts.txt"
    prompts.write_text("a dot\n")
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps({"logit_scale": Canary(canary)}))
    embed = ("textembed", prompts, "--model", model, "-o", tmp_path / "txt.h5")
    with unchanged(tmp_path):
        for command in (embed, ("info", model)):
            refused(clipkit(*command), 1, message)
    ok(*embed, "--untrained", 0)
    assert not canary.exists()
    pickle.loads((model / name).read_bytes())
    assert canary.exists()  # the pickle would have run


def test_a_model_that_brings_code(tmp_path, model):
    canary = tmp_path / "canary"
    (model / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    kinds = ["Config", "Model", "ImageProcessor", "FeatureExtractor", "Processor"]
    auto_map = {f"Auto{kind}": "evil.Evil" for kind in kinds}
    auto_map["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
    for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        edit_json(model / file, lambda content: content.update(auto_map=auto_map))
    for tower in ("image", "text"):
        models.load(str(model), tower=tower)
        models.load(str(model), tower=tower, untrained=0)
    models.describe_model(str(model))
    assert not canary.exists()
    for file, key in (
        ("preprocessor_config.json", "image_processor_type"),
        ("tokenizer_config.json", "tokenizer_class"),
        ("config.json", "model_type"),
    ):
        edit_json(model / file, lambda content, key=key: content.update({key: "Evil"}))
        for tower in ("image", "text"):
            with contextlib.suppress(ClipkitError):
                models.load(str(model), tower=tower)
    refused(clipkit("info", model), 1, "got model_type 'Evil'")
    assert not canary.exists()


# images


def test_bad_pictures_are_skipped_and_named_and_rows_stay_aligned(tmp_path, model):
    folder = tmp_path / "pics"
    valid = [f"{name}/{i}.png" for name in "ab" for i in range(3)]
    write_images(folder, *valid)
    Image.new("RGB", (40, 40), "red").save(folder / "b/wrong.jpg", format="PNG")
    valid.append("b/wrong.jpg")  # the content counts
    png = (folder / "a/0.png").read_bytes()
    bad = {
        "a/bomb.png": b"",
        "a/cut.png": png[: len(png) // 2],
        "a/empty.jpg": b"",
        "b/text.png": b"a text",
        "b/\x1b[31m.png": b"x",
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    Image.new("1", (20_000, 20_000)).save(folder / "a/bomb.png")  # would be 1.2 GB in memory

    embed = ("embed", folder, "-m", model, "--precision", "fp32", "-b", 2, "-o", tmp_path / "o.h5")
    assert "a/bomb.png: " in fails(*embed, "--strict")
    assert not (tmp_path / "o.h5").exists()
    stderr = partly(*embed).stderr
    assert "Traceback" not in stderr
    assert "\x1b" not in stderr
    assert stderr.endswith("warning: 5 images skipped, 7 embedded; the file lists them\n")
    file = read(tmp_path / "o.h5")
    split = file.splits["all"]
    assert split.ids == valid
    assert [file.class_names[label] for label in split.labels] == [name[0] for name in valid]
    skipped = {image["id"] for image in file.history[0]["skipped"]}
    assert skipped == {name.replace("\x1b", "%1B") for name in bad}

    for name in bad:
        (folder / name).unlink()
    ok(*embed, "--force")
    alone = read(tmp_path / "o.h5").splits["all"]
    assert alone.ids == valid
    assert abs(alone.features - split.features).max() < 1e-5


# a file that crashes HDF5, which is staged: what bytes do that depends on its version


def test_a_crash_of_hdf5_loses_nothing(tmp_path):
    write_feature_file(tmp_path / "logits.h5", "logits")
    (tmp_path / "out.h5").write_bytes(b"earlier")
    crash = "import os, h5py; from clipkit import cli\n"
    crash += "h5py.File = lambda *_, **__: os.abort()\ncli.main()"
    line = [sys.executable, "-c", crash, "entropy", "logits.h5", "-o", "out.h5", "--force"]
    with unchanged(tmp_path):
        ended = subprocess.run(line, cwd=tmp_path, capture_output=True)
    assert ended.returncode == -signal.SIGABRT


# files that unpack to much more than their size


def repeated(text, rows):
    """Return a column that stores a text once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "i4")), pa.array([text]))


def test_what_unpacks_to_much_more_than_its_size_is_refused_in_little_memory(fork_server, tmp_path):
    """The texts would take 400 MB in each of two copies; a run has that beyond what is loaded."""
    zeros, names = np.zeros((2500, 2500), "f4"), np.zeros(200_000, "U20")
    np.savez_compressed(tmp_path / "features.npz", **{f"s{i}_features": zeros for i in range(3)})
    np.savez_compressed(tmp_path / "ids.npz", **{f"s{i}_ids": names for i in range(2)})
    one_each = pa.array(np.ones((4000, 1)).tolist())
    nulls = pa.nulls(3_000_000, pa.list_(pa.float32()))
    two = {"feature": [[1.0], [2.0]], "class_name": ["a", "b"]}
    many = {"feature": np.ones((5000, 1)).tolist(), "split": [f"s{i}" for i in range(5000)]}
    for name, columns in {
        "text": {"feature": one_each, "id": repeated("x" * 10**5, 4000)},
        "split": {"feature": one_each, "split": repeated("x" * 10**5, 4000)},
        "rows": {"feature": nulls, "label": np.zeros(3_000_000, int)},
        "label": {"label": [0, 2**62], **two},
        "splits": many,
    }.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    unpack = "expected to unpack to at most"
    for name, message in {
        "features.npz": f"features: {unpack} 64 MiB or 100 times the file's",
        "ids.npz": f"arrays other than features: {unpack} 16 MiB or 10 times the file's",
        "text.parquet": f"texts: {unpack} 16 MiB or 10 times the file's",
        "split.parquet": f"texts: {unpack} 16 MiB or 10 times the file's",
        "rows.parquet": f"columns other than feature: {unpack} 16 MiB",
        "label.parquet": "expected labels below 1,048,576, got 4611686018427387904",
        "splits.parquet": "expected at most 4,096 splits, got 5,000",
    }.items():
        run = fork_server.run(tmp_path, "convert", name, "x.h5", memory=800 << 20)
        refused(run, 1, f"{name}: {message}")


def test_one_long_prompt_does_not_take_its_room_for_each_short_one(tmp_path):
    """A file pads each text to the longest: these would take 2 GB."""
    texts = ["a dog"] * 2000 + ["x" * 1_000_000]
    file = FeatureFile("texts", features=np.ones((2001, 2), "f4"), texts=texts)
    file.class_index = np.full(2001, -1)
    message = "2,001 texts of 1,000,000 bytes are 2,001,000,000 bytes"
    with unchanged(tmp_path), pytest.raises(ClipkitError, match=message) as caught:
        write(tmp_path / "x.h5", file)
    assert caught.value.hint == "shorten the longest text"


SHORT = np.array([b"%02d" % (row % 100) for row in range(30_000)])
ONES = np.ones((len(SHORT), 1), "<f4")
NESTED = '[{"command":"x","y":[' + "[]," * 30_000 + "0]}]"


@pytest.mark.parametrize(
    ("kind", "attributes", "datasets"),
    [
        ("images", {}, {"a/features": ONES, "a/ids": SHORT}),
        ("images", {}, {"a/features": ONES[:1], "a/ids": SHORT[:1], "class_names": SHORT}),
        ("result", {}, {"runs/x": SHORT}),
        ("images", {"history": NESTED}, {"a/features": ONES[:1], "a/ids": SHORT[:1]}),
    ],
    ids=["rows", "class names", "runs", "history"],
)
def test_reading_a_feature_file_takes_at_most_forty_times_its_size(
    tmp_path, kind, attributes, datasets
):
    """Short texts and nested lists cost Python the most per byte."""
    datasets = {**dict.fromkeys(content(kind)[1]), **datasets}  # and nothing else
    path = write_feature_file(tmp_path / "x.h5", kind, attributes=attributes, datasets=datasets)
    tracemalloc.start()
    try:
        read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * path.stat().st_size + (2 << 20)


# fuzzing: the quick part of `make fuzz`


def test_the_fuzzer_would_notice_other_data(tmp_path):
    a, b = feature_file(), feature_file()
    assert seeds.same(a, b)
    b.splits["test"].features[0, 0] += 1
    assert not seeds.same(a, b)
    with pytest.raises(ClipkitError):
        read(tmp_path / "no.h5")
