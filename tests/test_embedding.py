"""Embedding: rows stay in order, interrupted runs continue, prompts and class names."""

import json
import os
import pickle
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from factories import contents, unchanged, write_feature_file
from factories.ray_fakes import write_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipkit import datasets, embedding, features, models
from clipkit.base.errors import ClipkitError, ImageError, UsageError
from clipkit.datasets import Dataset, ImageDataset
from clipkit.embedding import checkpoint
from clipkit.embedding.engines import LocalEngine, ShardImages
from clipkit.features import Split


@dataclass
class Numbers:
    """Images that are numbers; some of them cannot be used."""

    bad: set[int]

    def image(self, i):
        if i in self.bad:
            raise ImageError(f"{i} is bad")
        return i

    def fingerprint(self):
        return "unchanged"


def numbers(n, bad=frozenset(), labelled=True):
    labels = np.arange(n) % 7 if labelled else None
    return ImageDataset([f"{i}.png" for i in range(n)], labels, Numbers(bad))


class Double:
    """Encodes a number as itself and its double."""

    def __init__(self, name="double", stop_at=None):
        self.details = {"name": name, "device": "cpu", "precision": "fp32"}
        self.parts = {"config.json": f"sha256:{name}"}
        self.columns = {}
        self.stop_at = stop_at
        self.batches = []
        self.threads = set()

    def cleaned_by_ftfy(self, texts):
        return None

    def preprocess(self, images):
        self.threads.add(threading.get_ident())
        time.sleep(0.001 * (images[0] % 3))
        return np.array(images, np.float32)

    def encode_images(self, pixels):
        if self.stop_at is not None and pixels.max() >= self.stop_at:
            raise KeyboardInterrupt
        self.batches.append(len(pixels))
        return np.stack([pixels, 2 * pixels + 1], axis=1)

    def encode_texts(self, texts, *, progress, **_):
        progress(len(texts), len(texts))
        return np.array([[len(text), 1] for text in texts], np.float32)


@pytest.fixture
def shards_of_ten(monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 10)


def embed(folder, splits, encoder, **options):
    output = folder / "out.h5"
    options = {"batch_size": 4, "num_workers": 3, **options}
    dataset = Dataset("numbers", [], splits)
    skipped = embedding.embed_images(dataset, encoder, str(output), **options)
    assert list(contents(folder)) == ["out.h5"]
    file = features.read(output)
    assert file.history[0].get("skipped", []) == skipped
    return file


def interrupt(folder, splits, stop_at):
    """Run until the encoder meets a number; return the folder of shards."""
    with pytest.raises(KeyboardInterrupt):
        embed(folder, splits, Double(stop_at=stop_at))
    return folder / "out.h5.partial"


@pytest.mark.long
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(
    n=st.integers(1, 60),
    shard_rows=st.integers(1, 20),
    batch_size=st.integers(1, 25),
    num_workers=st.integers(1, 4),
    bad=st.sets(st.integers(0, 59), max_size=20),
    labelled=st.booleans(),
)
def test_rows_labels_and_ids_stay_aligned(
    n, shard_rows, batch_size, num_workers, bad, labelled, tmp_path_factory, monkeypatch
):
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", shard_rows)
    splits = {"test": numbers(n, bad, labelled), "train": numbers(3, set(), labelled)}
    good = [i for i in range(n) if i not in bad]
    folder = tmp_path_factory.mktemp("work")
    options = {"batch_size": batch_size, "num_workers": num_workers}
    if not good:
        with pytest.raises(ClipkitError, match="test: expected at least one usable image"):
            embed(folder, splits, Double(), **options)
        return
    file = embed(folder, splits, Double(), **options)
    test = file.splits["test"]
    assert test.ids == [f"{i}.png" for i in good]
    assert test.features.tolist() == [[i, 2 * i + 1] for i in good]
    labels = None if test.labels is None else test.labels.tolist()
    assert labels == ([i % 7 for i in good] if labelled else None)
    skipped = [image["id"] for image in file.history[0].get("skipped", [])]
    assert skipped == [f"{i}.png" for i in sorted(bad) if i < n]
    assert len(file.splits["train"]) == 3


def test_batches_do_not_cross_shards(tmp_path, shards_of_ten):
    encoder = Double()
    embed(tmp_path, {"all": numbers(25)}, encoder)
    assert encoder.batches == [4, 4, 2, 4, 4, 2, 4, 1]
    assert threading.get_ident() not in encoder.threads


def test_a_run_that_continues_encodes_only_what_is_missing(tmp_path, shards_of_ten):
    splits = {"all": numbers(25, {3})}
    partial = interrupt(tmp_path, splits, stop_at=15)
    skipped = [{"split": "all", "id": "3.png", "reason": "3 is bad"}]
    (entry,) = features.read(partial / "00000.h5").history
    assert len(entry.pop("run")) == 64
    assert entry == {"command": "embed", "shard": 0, "skipped": skipped}
    encoder = Double()
    file = embed(tmp_path, splits, encoder)
    assert sum(encoder.batches) == 15
    assert len(file.splits["all"]) == 24
    assert file.history[0]["skipped"] == skipped


def test_a_shard_without_usable_images_does_not_change_the_result(tmp_path, shards_of_ten):
    splits = {"all": numbers(25, set(range(10)))}
    embed(tmp_path, splits, Double())
    expected = (tmp_path / "out.h5").read_bytes()
    (tmp_path / "out.h5").unlink()
    partial = interrupt(tmp_path, splits, stop_at=22)
    assert [path.name for path in sorted(partial.glob("*.h5"))] == ["00001.h5"]
    embed(tmp_path, splits, Double())
    assert (tmp_path / "out.h5").read_bytes() == expected


def test_a_checkpoint_with_another_manifest_is_refused_and_can_be_dropped(tmp_path):
    splits = {"all": numbers(25)}
    partial = interrupt(tmp_path, splits, stop_at=0)
    manifest = partial / "manifest.json"
    manifest.write_text(manifest.read_text().replace('shard":1024', 'shard":7'))
    for name in ("00000.json", "00000.h5"):
        (partial / name).write_text("of another run")
    message = "images per shard was 7, is 1024"
    with unchanged(tmp_path), pytest.raises(UsageError, match=message) as error:
        embed(tmp_path, splits, Double())
    assert "--restart" in str(error.value.hint)
    embed(tmp_path, splits, Double(), restart=True)


@pytest.mark.long
def test_a_run_may_have_more_than_99_999_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 1)
    split = numbers(100_002, labelled=False)
    folder = tmp_path / "partial"
    with checkpoint.open_whole(folder, {"all": split}, {}) as opened:
        for shard in opened.shards[99_998:]:
            row_id = split.ids[shard.rows[0]]
            opened.save(shard, Split(np.ones((1, 2), np.float32), ids=[row_id]), [])
    names = ["100000.h5", "100001.h5", "99998.h5", "99999.h5"]
    assert sorted(contents(folder)) == [*names, "lock", "manifest.json"]
    assert checkpoint.finished_shards(folder) == {99_998, 99_999, 100_000, 100_001}
    with checkpoint.open_whole(folder, {"all": split}, {}) as opened:
        assert [shard.number for shard in opened.pending()] == list(range(99_998))
        opened.shards = opened.shards[99_998:]
        ids = opened.join()["all"].ids
        assert ids == ["99998.png", "99999.png", "100000.png", "100001.png"]
        opened.remove()
    assert not folder.exists()


def test_a_lock_in_a_removed_folder_is_not_held(tmp_path):
    """Another process may finish and remove the folder between our opening and locking the file."""
    folder, splits = tmp_path / "out.h5.partial", {"all": numbers(3)}
    with checkpoint.open_whole(folder, splits, {}):
        (folder / "lock").rename(tmp_path / "removed")
        with checkpoint.open_whole(folder, splits, {}):  # a new lock, of a new run
            assert (folder / "lock").exists()


def make_link(path):
    path.symlink_to(path.parent.parent / "nowhere" / "lock")


def write_mine(path):
    path.write_text('{"mine": 1}')


OTHERS = (write_mine, Path.mkdir, os.mkfifo, make_link)


@pytest.mark.parametrize(
    ("name", "fill", "content"),
    [
        ("00000.h5", Path.touch, "00000.h5 and no manifest.json"),
        ("00000.json", Path.touch, "00000.json and no manifest.json"),
        (".mine.tmp", Path.touch, ".mine.tmp and no manifest.json"),
        ("notes", Path.mkdir, "notes and no manifest.json"),
        ("manifest.json", lambda path: path.write_text("[1]"), "another manifest.json"),
        *(("manifest.json", fill, "another manifest.json") for fill in OTHERS),
        *(("lock", fill, "a lock that is not a file of clipkit's") for fill in OTHERS),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_of_somebody_else_is_refused_and_stays_as_it_is(
    name, fill, content, restart, tmp_path
):
    partial = tmp_path / "out.h5.partial"
    partial.mkdir()
    fill(partial / name)
    with unchanged(tmp_path), pytest.raises(UsageError) as error:
        embed(tmp_path, {"all": numbers(3)}, Double(), restart=restart)
    message = f"{partial}: expected shards of an earlier run or an empty folder, got {content}"
    assert error.value.message == message
    assert [path.name for path in partial.iterdir()] == [name]


def test_a_fifo_in_place_of_a_shard_is_refused(tmp_path, shards_of_ten):
    splits = {"all": numbers(25)}
    partial = interrupt(tmp_path, splits, stop_at=15)
    os.mkfifo(partial / "00001.h5")
    with pytest.raises(UsageError, match=r"got 00001\.h5 that is not a file; hint"):
        embed(tmp_path, splits, Double())


def test_an_error_in_a_thread_is_the_one_that_is_raised(tmp_path):
    class Breaks(Double):
        def preprocess(self, images):
            raise ValueError("no pixels")

    with pytest.raises(ValueError, match="no pixels"):
        embed(tmp_path, {"all": numbers(30)}, Breaks())


def test_an_embedding_that_is_not_finite_names_its_image(tmp_path):
    class Overflows(Double):
        def encode_images(self, pixels):
            return np.where(pixels[:, None] == 2, np.inf, 1)

    with pytest.raises(ClipkitError, match=r"^2\.png: expected a finite embedding, got NaN or Inf"):
        embed(tmp_path, {"all": numbers(5)}, Overflows())


def test_embeddings_that_cannot_be_written_to_are_scaled_in_a_copy(tmp_path):
    class ReadOnly(Double):
        def encode_images(self, pixels):
            embeddings = super().encode_images(pixels)
            embeddings.flags.writeable = False  # as Ray's are
            return embeddings

    file = embed(tmp_path, {"all": numbers(5)}, ReadOnly(), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(file.splits["all"].features, axis=1), 1, rtol=1e-6)


def test_prompts_belong_to_no_class():
    file = embedding.embed_texts(["a", "bcd"], Double())
    assert file.features[:, 0].tolist() == [1, 3]
    assert file.class_index.tolist() == [-1, -1]


def test_classes_are_embedded_with_their_wordings():
    encoder = Double()
    classes = embedding.ClassNames(["a_b", "c"], ["a_b", "sea"], {"classes": "file"})
    one = embedding.embed_classes(classes, encoder, readable=True)
    assert (one.texts, one.class_names) == (["a photo of a a b", "a photo of a sea"], ["a_b", "c"])
    ensemble = embedding.embed_classes(classes, encoder, templates=["{}", "a {}"])
    assert ensemble.texts == ["a_b (2 templates)", "sea (2 templates)"]
    np.testing.assert_allclose(np.linalg.norm(ensemble.features, axis=1), 1)


@pytest.mark.parametrize(
    ("names", "source", "details", "attributes"),
    [
        (["colour: red", "colour: blue"], "file", {}, "colour"),
        ([*(f"a: {i}" for i in range(19)), *(f"b: {i}" for i in range(20))], "file", {}, "b"),
        ([*(f"a: {i}" for i in range(20)), *(f"b: {i}" for i in range(20))], "file", {}, ""),
        (["cat", "dog"], "file", {}, ""),  # no attribute: value
        (["Mission: Impossible"], "films", {}, ""),  # classes of a data set
        (["colour: red"], "file", {"similarity": "dot product"}, ""),
        (["colour: red"], "file", {"layer": 1}, ""),
    ],
)
def test_words_of_attributes_with_few_other_texts_get_neutral_ones(
    capsys, names, source, details, attributes
):
    encoder = Double()
    encoder.details |= details
    file = embedding.embed_classes(
        embedding.ClassNames(names, source={"classes": source}), encoder, templates=["the {}"]
    )
    noted = capsys.readouterr().err
    assert (file.texts, len(file.features)) == ([f"the {name}" for name in names], len(names))
    if not attributes:
        assert file.other_texts is file.other_features is None
        assert "neutral" not in noted
        return
    assert f"the bundled list neutral, too: the words for {attributes} have fewer than" in noted
    assert file.other_texts[:2] == ["the bowl of tomato soup", "the slice of buttered toast"]
    assert file.other_features.shape == (200, 2)
    assert file.history[-1]["others"] == "neutral"


def test_neutral_texts_fill_the_templates_of_the_words():
    classes = embedding.ClassNames(["colour: red"], source={"classes": "file"})
    one, both = (
        embedding.embed_classes(classes, Double(), templates=templates)
        for templates in (["a photo of {}"], ["a photo of {}", "an {}"])
    )
    assert one.other_texts[0] == "a photo of a bowl of tomato soup"
    assert both.other_texts[0] == "a bowl of tomato soup"
    lengths = np.array([len("a photo of a bowl of tomato soup"), len("an bowl of tomato soup")])
    rows = np.stack([lengths, [1, 1]], axis=1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for file, row in ((one, rows[0]), (both, rows.mean(axis=0))):
        np.testing.assert_allclose(file.other_features[0], row / np.linalg.norm(row), rtol=1e-6)


def test_a_prompt_that_is_too_long_is_named():
    encoder = models.load("tiny", tower="text", device="cpu")
    longest = "a " * 30_000_000  # it would make the tokenizer abort the process
    for text in (longest, [longest]):
        with pytest.raises(ClipkitError, match="expected at most 10,000 characters, got 60,000,00"):
            embedding.embed_texts(text, encoder, truncate=True)
    texts = ["short", "a " * 76, "a " * 77]
    message = rf"^'{texts[1]}': expected at most 77 tokens, got 78 \(2 prompts are too long\)"
    with pytest.raises(ClipkitError, match=message):
        embedding.embed_texts(texts, encoder)
    embedding.embed_texts(texts, encoder, truncate=True)


def test_a_text_file_gives_class_names_and_wordings(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("cat\tbig cat\ndog\n")
    classes = embedding.read_class_names(str(tmp_path / "names.txt"))
    assert (classes.names, classes.wordings) == (["cat", "dog"], ["big cat", "dog"])
    assert capsys.readouterr().err == ""


def test_two_classes_of_one_name_stay_apart_and_equal_prompts_are_warned_about(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("crane\ncock\ncrane\n")
    write_feature_file(tmp_path / "img.h5", datasets={"class_names": ["crane", "crane"]})
    index = {"0": ["n02012849", "crane"], "1": ["n03126707", "crane"]}
    (tmp_path / "class_index.json").write_text(json.dumps(index))
    warning = "2 classes are called 'crane': their prompts are the same; hint: give them "
    for file, column, names, hint in (
        ("names.txt", None, ["crane", "cock", "crane"], warning),
        ("img.h5", None, ["crane", "crane"], f"{warning}different"),
        ("class_index.json", "wnid", ["n02012849", "n03126707"], f"{warning}other"),
    ):
        options = {"column": column} if column else {}
        assert embedding.read_class_names(str(tmp_path / file), **options).names == names
        assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nameless.h5", "nameless.h5: expected class names, got none"),
        ("missing.txt", "cannot read missing.txt: there is no such file or folder"),
        ("flat/missing.h5", "cannot read flat/missing.h5: there is no such file or folder"),
        ("./flat", "./flat: expected class names, but its images are not labelled"),
    ],
)
def test_a_source_without_class_names_is_refused(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_feature_file(tmp_path / "nameless.h5", datasets={"class_names": None})
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.png").touch()
    with pytest.raises(ClipkitError) as error:
        embedding.read_class_names(source)
    assert error.value.message == message


# engines


@pytest.mark.long
def test_a_shard_alone_has_the_embeddings_that_it_has_among_others():
    encoder = models.load("tiny", tower="image")
    digits = datasets.load("digits", splits=["test"], limit=40).splits["test"]

    def encode(num_workers, *shards):
        tasks = [ShardImages(n, "test", digits, rows) for n, rows in enumerate(shards)]
        return list(LocalEngine(encoder, 4, num_workers).encode(tasks, lambda *_: None))

    shards = [range(0, 15), range(15, 30), range(30, 40)]
    together = encode(3, *shards)
    backwards = encode(1, *reversed(shards))
    for rows, *found in zip(shards, together, reversed(backwards), strict=True):
        (alone,) = encode(2, rows)
        for one in (alone, *found):
            assert one.rows == list(rows)
            assert one.embeddings.tobytes() == alone.embeddings.tobytes()


@pytest.mark.parametrize("form", ["rendered", "array", "files", "tar", "parquet"])
@pytest.mark.long
def test_rows_travel_to_another_process_and_no_others_do(form, tmp_path):
    rendered = datasets.load("shapes", splits=["test"], limit=300).splits["test"]
    images = rendered
    if form == "array":
        pixels = np.stack([np.asarray(rendered.image(row)) for row in range(300)])
        images = ImageDataset.from_array(pixels, np.zeros(300))
    elif form != "rendered":
        images = write_images([rendered.image(row) for row in range(300)], tmp_path, form)
    images.image(0)  # what was read must not travel
    rows = np.arange(150, 160)
    message = pickle.dumps(images.take(rows))
    most = 10 * 200 + 4000  # bytes: an id, a path or offsets for each row
    if form == "array":
        most += images.source.take(rows).pixels.nbytes
    assert len(message) < most
    taken = pickle.loads(message)
    assert taken.source.fingerprint() == images.source.take(rows).fingerprint()
    assert np.array_equal(taken.image(3), images.image(153))


def test_two_layers_do_not_write_one_file(tmp_path):
    output = str(tmp_path / "o{layer}.h5")
    names = [str(tmp_path / "o0.h5"), str(tmp_path / "o1.h5")]
    (tmp_path / "o0.h5").write_bytes(b"")
    embedding.check_outputs(output, names, force=True)
    (tmp_path / "o1.h5").symlink_to("o0.h5")
    with pytest.raises(UsageError, match="expected a file for each layer"):
        embedding.check_outputs(output, names, force=True)
