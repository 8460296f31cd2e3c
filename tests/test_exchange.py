"""Files of other tools come in with ids and labels, and results go out as other tools read them.

The files have the layouts of clip-retrieval 2.45, dinotool 0.4, datasets 5.2, CLIP_benchmark 1.6.
"""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import feature_file, labels_of, refused
from factories import saved as saved_file
from huggingface_hub import ModelCard
from safetensors.numpy import save_file
from shell import clipkit, fails, ok

from clipkit import embedding
from clipkit.features import Split, formats, read

RNG = np.random.default_rng(0)
WORDS = ["a cat", "a dog", "two cats"]


def clip_retrieval(folder, parts=11, rows=2):
    """Write embeddings as clip-retrieval does, for parts numbered without zeros; return them."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    features = RNG.normal(size=(parts, rows, 4)).astype("f2")
    for part, matrix in enumerate(features):
        np.save(folder / f"img_emb/img_emb_{part}.npy", matrix)
        np.save(folder / f"text_emb/text_emb_{part}.npy", -matrix)
        table = {
            "image_path": [f"/data/{part}-{row}.jpg" for row in range(rows)],
            "caption": [f"picture {part}-{row}" for row in range(rows)],
            "kind": ["cat", "dog"],
        }
        pq.write_table(pa.table(table), folder / f"metadata/metadata_{part}.parquet")
    return features.reshape(-1, 4)


def test_images_and_captions_of_clip_retrieval_come_in_the_order_of_their_numbers(tmp_path):
    features = clip_retrieval(tmp_path / "laion")
    ok("convert", tmp_path / "laion", tmp_path / "i.h5", "--label-column", "kind", "-m", "x")
    ok("convert", tmp_path / "laion/text_emb", tmp_path / "t.h5", "--model", "x")
    images, texts = read(tmp_path / "i.h5"), read(tmp_path / "t.h5")
    expected = [f"/data/{part}-{row}.jpg" for part in range(11) for row in range(2)]
    assert images.splits["all"].ids == texts.class_names == expected
    assert (images.class_names, labels_of(images)["all"]) == (["cat", "dog"], [0, 1] * 11)
    np.testing.assert_array_equal(images.splits["all"].features, features)
    np.testing.assert_array_equal(texts.features, -features)
    assert texts.texts[20:] == ["picture 10-0", "picture 10-1"]
    assert texts.class_index.tolist() == list(range(22))
    assert "text_retrieval" in ok("retrieve", tmp_path / "i.h5", tmp_path / "t.h5").stdout


@pytest.fixture(scope="module")
def captioned(img_h5, model_options, tmp_path_factory):
    """Five captions of each of some images: embedded here, and as other programs keep them."""
    folder = tmp_path_factory.mktemp("captioned")
    ids = read(img_h5).splits["test"].ids[:30]
    lines = [f"{row_id}\tphoto {number} of {row_id}" for row_id in ids for number in range(5)]
    (folder / "captions.tsv").write_text("\n".join(["image\tcaption", *lines, ""]))
    (folder / "other-order.tsv").write_text("\n".join(["image\tcaption", *lines[::-1], ""]))
    (folder / "fewer.tsv").write_text("\n".join(["image\tcaption", *lines[1:], ""]))
    captions_h5 = folder / "captions.h5"
    ok("textembed", "--captions", folder / "captions.tsv", *model_options, "-o", captions_h5)
    file = read(captions_h5)
    of_text = [row_id for row_id in ids for _ in range(5)]
    arrays = {"features": file.features, "texts": file.texts}
    np.savez(folder / "named.npz", **arrays, image_ids=of_text)
    np.savez(folder / "ids.npz", **arrays, ids=of_text)
    np.savez(folder / "both.npz", **arrays, image_ids=of_text, class_index=file.class_index)
    np.savez(folder / "alone.npz", features=file.features, image_ids=of_text)
    np.save(folder / "matrix.npy", file.features)
    columns = {"feature": list(file.features), "text": file.texts}
    pq.write_table(pa.table({**columns, "image_id": of_text}), folder / "named.parquet")
    pq.write_table(pa.table({**columns, "jpg": of_text}), folder / "jpg.parquet")
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "named.npz",
        "named.parquet",
        "jpg.parquet --id-column jpg",
        "matrix.npy --captions captions.tsv",
        "ids.npz --captions captions.tsv",
    ],
)
def test_captions_of_other_programs_are_those_that_textembed_makes(
    line, captioned, img_h5, model_options, monkeypatch
):
    monkeypatch.chdir(captioned)
    source, *options = line.split()
    ok("convert", source, "t.h5", *options, *model_options[:2], "--force")
    found, expected = read("t.h5"), read("captions.h5")
    assert (found.texts, found.class_names) == (expected.texts, expected.class_names)
    np.testing.assert_array_equal(found.class_index, expected.class_index)
    np.testing.assert_array_equal(found.features, expected.features)
    for command in ("retrieve", "align"):
        reports = [ok(command, img_h5, texts).stdout for texts in ("t.h5", "captions.h5")]
        assert reports[0].replace("\tt\t", "\tcaptions\t") == reports[1]


def test_imported_texts_of_items_are_chosen_among_as_embedded_ones(
    captioned, img_h5, model_options, monkeypatch
):
    monkeypatch.chdir(captioned)
    ids = read(img_h5).splits["test"].ids[:30]
    lines = ["item,image,text,correct"]
    for number, row_id in enumerate(ids):
        lines += [f"{number},{row_id},photo {n} of {row_id},{int(n == 0)}" for n in (0, 1)]
    (captioned / "items.csv").write_text("\n".join([*lines, ""]))
    ok("convert", "named.npz", "n.h5", *model_options[:2])
    reports = [
        ok("choose", img_h5, texts, "--items", "items.csv").stdout
        for texts in ("n.h5", "captions.h5")
    ]
    assert reports[0] == reports[1]
    assert "text_acc" in reports[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("both.npz", "expected image_ids or class_index, got both"),
        ("alone.npz", "expected texts beside image_ids, got none; hint: add the array texts"),
        ("named.npz --captions captions.tsv", "expected no extra image_ids"),
        ("ids.npz --captions fewer.tsv", "expected a caption for each of 150 texts, got 149"),
        ("ids.npz --captions other-order.tsv", "in row 0; hint: write the table in the order"),
        ("matrix.npy --captions fewer.tsv", "features 150, texts 149"),
        ("matrix.npy --captions photos.tar", "--captions: expected a table (.csv, "),
        ("matrix.npy --captions captions.tsv --prompts p.txt", "--prompts is not for texts of"),
        ("captions.h5 --captions captions.tsv", "--captions is for imports"),
    ],
)
def test_captions_that_do_not_fit_their_texts_are_refused(line, message, captioned, monkeypatch):
    monkeypatch.chdir(captioned)
    source, *options = line.split()
    output = "x.npz" if source.endswith(".h5") else "x.h5"
    run = clipkit("convert", source, output, *options)
    assert message in run.stderr
    assert run.exit_code in (1, 2)


def test_ids_beside_texts_are_dropped_with_the_name_that_they_need(captioned, monkeypatch):
    monkeypatch.chdir(captioned)
    stderr = ok("convert", "ids.npz", "dropped.h5").stderr
    assert "cannot hold them: ids; hint: " in stderr
    assert "call them image_ids" in stderr


def test_a_folder_of_clip_retrieval_that_is_not_whole_is_refused(tmp_path):
    clip_retrieval(tmp_path / "laion", parts=2)
    np.save(tmp_path / "laion/img_emb/img_emb_1.npy", np.ones((3, 4)))
    for source, message in (
        ("laion", "metadata_1.parquet: expected 3 rows, as its features have, got 2"),
        ("laion/metadata", "feature"),
    ):
        refused(clipkit("convert", tmp_path / source, tmp_path / "x.h5"), 1, message)
    np.save(tmp_path / "laion/img_emb/img_emb_1.npy", np.ones((2, 5)))
    run = clipkit("convert", tmp_path / "laion", tmp_path / "x.h5")
    refused(run, 1, "has size 4", "has size 5")
    words = (tmp_path / "laion", tmp_path / "x.h5", "--feature-column", "kind")
    refused(clipkit("convert", *words), 2, "--feature-column: no such column in")
    run = clipkit("convert", tmp_path / "lion", tmp_path / "x.h5")
    refused(run, 1, "lion: there is no such file or folder")
    (tmp_path / "laion/metadata/metadata_0.parquet").unlink()
    run = clipkit("convert", tmp_path / "laion/text_emb", tmp_path / "x.h5")
    refused(run, 1, "text_emb: expected the same parts as in", "got 2 and 1 files")


def wide(path, features, **index):
    """Write a column for each number, and then the table's index, as dinotool does."""
    path.parent.mkdir(exist_ok=True)
    columns = {f"feature_{i}": column for i, column in enumerate(features.T)}
    pq.write_table(pa.table({**columns, **index}), path)


@pytest.mark.parametrize("index", ["filename", "frame_idx"])
def test_a_table_of_dinotool_comes_in_with_file_names_also_in_parts(tmp_path, index):
    features = RNG.normal(size=(12, 11)).astype("f4")
    ids = np.arange(12) if index == "frame_idx" else np.array([f"{i}.png" for i in range(12)])
    wide(tmp_path / "one.parquet", features, **{index: ids})
    for part in range(12):
        rows = slice(part, part + 1)
        path = tmp_path / f"many.parquet/part.{part}.parquet"
        wide(path, features[rows], **{index: ids[rows]})
    for name in ("one", "many"):
        ok("convert", tmp_path / f"{name}.parquet", tmp_path / f"{name}.h5")
        split = read(tmp_path / f"{name}.h5").splits["all"]
        assert split.ids == list(map(str, ids))
        np.testing.assert_array_equal(split.features, features)
    patches = {index: np.repeat(ids[:6], 2), "patch_idx": [0, 1] * 6}
    wide(tmp_path / "flat.parquet", features, **patches)
    run = clipkit("convert", tmp_path / "flat.parquet", tmp_path / "x.h5")
    refused(run, 1, f"{index}: expected a row for each image, got 2 rows for")
    wide(tmp_path / "mixed/test-0.parquet", features)
    wide(tmp_path / "mixed/train-0.parquet", features)
    run = clipkit("convert", tmp_path / "mixed", tmp_path / "x.h5")
    refused(
        run, 1, "expected the parts of one table, numbered, got test-N.parquet, train-N.parquet"
    )


PARTS = [  # the names of parts, and what is refused of them; None of parts that are read
    (("part.0", "part.2"), "got part.2.parquet after part.0.parquet; hint: bring the missing part"),
    (("part.1", "part.01"), "numbers follow each other, got "),
    (("0-0", "0-1", "1-0"), None),
    (("0-0", "2-0"), "got 2-0.parquet after 0-0.parquet"),
    (("x-00000-of-00003", "x-00001-of-00003"), "got 2 files, the last of them x-00001-of-00003"),
    (("y2023", "y2024"), None),
]


@pytest.mark.parametrize(("names", "message"), PARTS)
def test_parts_with_a_gap_are_refused(names, message, tmp_path):
    for name in names:
        wide(tmp_path / f"parts/{name}.parquet", np.ones((2, 3), "f4"))
    run = ("convert", tmp_path / "parts", tmp_path / "a.h5")
    if message is None:
        ok(*run)
    else:
        assert message in fails(*run)


@pytest.mark.parametrize("names", [["part.1"], ["part.1", "part.2"], ["x-00001-of-00001"]])
def test_a_first_part_with_another_number_than_0_is_named(names, tmp_path):
    for name in names:
        wide(tmp_path / f"parts/{name}.parquet", np.ones((2, 3), "f4"))
    said = "the parts begin with part.1.parquet; check that none is missing"
    assert (said in ok("convert", tmp_path / "parts", tmp_path / "a.h5").stderr) == (
        "part.1" in names
    )


def test_a_part_that_is_no_file_is_refused_and_a_link_is_named(tmp_path):
    folder = tmp_path / "parts"
    wide(folder / "part.0.parquet", np.ones((2, 3), "f4"))
    (folder / "part.1.parquet").symlink_to("part.0.parquet")
    run = ("convert", folder, tmp_path / "a.h5", "--force")
    assert "parts: 1 part of 2 is a link, the first leads to " in ok(*run).stderr
    (folder / "part.2.parquet").symlink_to("nothing")
    assert "part.2.parquet: expected a file, got a folder, FIFO" in fails(*run)
    (folder / "part.2.parquet").unlink()
    os.mkfifo(folder / "part.2.parquet")
    assert "part.2.parquet: expected a file, got a folder, FIFO" in fails(*run)


def test_a_tensor_that_is_called_like_the_metadata_is_refused_in_one_line(tmp_path):
    tensors = {"features": np.ones((2, 3), "f4"), "clipkit": np.ones(4)}
    save_file(tensors, tmp_path / "a.safetensors")
    line = fails("convert", tmp_path / "a.safetensors", tmp_path / "a.h5")
    assert "clipkit: expected the JSON that clipkit convert writes" in line


def test_parts_of_a_table_share_their_class_names(tmp_path):
    columns = {"filename": ["0.png", "1.png"], "feature": [[1.0, 2], [3, 4]], "split": ["a", "b"]}
    (tmp_path / "parts").mkdir()
    for part in range(2):
        columns["filename"] = [f"{part}{row}.png" for row in range(2)]
        table = pa.table(
            {**columns, "label": [0, part], "class_name": ["cat", ["cat", "dog"][part]]}
        )
        pq.write_table(table, tmp_path / f"parts/part-{part}.parquet")
    ok("convert", tmp_path / "parts", tmp_path / "a.h5")
    file = read(tmp_path / "a.h5")
    assert (file.class_names, labels_of(file)) == (["cat", "dog"], {"a": [0, 0], "b": [0, 1]})
    assert file.history[0]["source"] == ".parquet"
    pq.write_table(table.drop_columns(["split"]), tmp_path / "parts/part-2.parquet")
    run = clipkit("convert", tmp_path / "parts", tmp_path / "x.h5")
    refused(run, 1, "part-2.parquet: expected the columns and class names of part-0.parquet")


def test_any_column_of_lists_is_taken_and_options_choose_among_several(tmp_path):
    table = {"emb": [[1.0, 2], [3, 4]], "path": ["a", "b"], "species": ["cat", "dog"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    ok("convert", tmp_path / "a.parquet", tmp_path / "a.h5", "--label-column", "species")
    file = read(tmp_path / "a.h5")
    assert (file.splits["all"].ids, labels_of(file)["all"]) == (["a", "b"], [0, 1])
    pq.write_table(pa.table({**table, "other": [[0.0], [1.0]]}), tmp_path / "a.parquet")
    run = clipkit("convert", tmp_path / "a.parquet", tmp_path / "x.h5")
    refused(run, 2, "expected one column of features, got emb, other; hint: choose one with --feat")
    chosen = {"--feature-column": "other", "--id-column": "species"}
    words = [word for pair in chosen.items() for word in pair]
    ok("convert", tmp_path / "a.parquet", tmp_path / "a.h5", "--force", *words)
    split = read(tmp_path / "a.h5").splits["all"]
    assert (split.ids, split.features.tolist()) == (["cat", "dog"], [[0], [1]])
    run = clipkit("convert", tmp_path / "a.parquet", tmp_path / "x.h5", "--feature-column", "nme")
    refused(run, 2, "unknown column of")


def test_safetensors_come_in_and_pickles_are_refused_with_what_to_do(tmp_path):
    arrays = {"train_features": np.eye(3, dtype="f2"), "train_labels": np.array([0, 1, 0])}
    save_file(arrays, tmp_path / "a.safetensors")
    ok("convert", tmp_path / "a.safetensors", tmp_path / "a.h5")
    file = read(tmp_path / "a.h5")
    assert labels_of(file) == {"train": [0, 1, 0]}
    np.testing.assert_array_equal(file.splits["train"].features, np.eye(3))
    # bfloat16, which NumPy has not: 1 and -2 begin with 0x3F80 and 0xC000
    data = np.array([0x3F80, 0xC000], "<u2").tobytes()
    head = json.dumps({"vectors": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]}})
    content = len(head).to_bytes(8, "little") + head.encode() + data
    (tmp_path / "b.safetensors").write_bytes(content)
    assert formats.import_file(tmp_path / "b.safetensors").splits["all"].features.tolist() == [
        [1, -2]
    ]
    (tmp_path / "c.safetensors").write_bytes(content[:-1])
    refused(clipkit("convert", tmp_path / "c.safetensors", tmp_path / "x.h5"), 1, "cannot read")
    (tmp_path / "f.pt").write_bytes(b"\x80")
    run = clipkit("convert", tmp_path / "f.pt", tmp_path / "x.h5")
    refused(run, 2, "expected no pickle", "runs the code in it", "numpy.savez(")


def test_imported_prompts_with_classes_score_as_the_original(tmp_path):
    images = saved_file(tmp_path / "i.h5", feature_file("images"))
    texts = feature_file("texts")
    texts.texts, texts.class_names, texts.class_index = WORDS, ["cat", "dog"], np.array([0, 1, 0])
    saved_file(tmp_path / "t.h5", texts)
    np.save(tmp_path / "t.npy", texts.features)
    (tmp_path / "p.txt").write_text("\n".join(WORDS))
    (tmp_path / "c.txt").write_text("cat\ndog\ncat\n")
    words = ("--prompts", tmp_path / "p.txt", "--classes", tmp_path / "c.txt", "--model", "m")
    ok("convert", tmp_path / "t.npy", tmp_path / "again.h5", *words)
    tables = [
        ok("zeroshot", stdin=ok("logits", images, tmp_path / name).stdout_bytes).stdout
        for name in ("t.h5", "again.h5")
    ]
    assert tables[0] == tables[1]
    np.save(tmp_path / "two.npy", texts.features[:2])
    ok("convert", tmp_path / "two.npy", tmp_path / "two.h5", "--classes", images)
    file = read(tmp_path / "two.h5")
    assert (file.texts, file.class_index.tolist()) == (["cat", "dog"], [0, 1])
    (tmp_path / "c.txt").write_text("crane\nfox\ncrane\n")  # two of ImageNet's have this name
    ok("convert", tmp_path / "t.npy", tmp_path / "names.h5", "--classes", tmp_path / "c.txt")
    file = read(tmp_path / "names.h5")
    assert (file.class_names, file.class_index.tolist()) == (["crane", "fox", "crane"], [0, 1, 2])


def test_a_parquet_tells_datasets_of_images_and_class_names_which_come_back(tmp_path):
    source = saved_file(tmp_path / "i.h5", feature_file("images"))
    ok("convert", source, tmp_path / "i.parquet")
    table = pq.read_table(tmp_path / "i.parquet")
    types = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert types["label"] == {"names": ["cat", "dog"], "_type": "ClassLabel"}
    assert types["feature"]["length"] == table.schema.field("feature").type.list_size
    theirs = table.drop_columns(["class_name", "split"])
    metadata = {b"huggingface": table.schema.metadata[b"huggingface"]}
    pq.write_table(theirs.replace_schema_metadata(metadata), tmp_path / "theirs.parquet")
    assert formats.import_file(tmp_path / "theirs.parquet").class_names == ["cat", "dog"]


def evaluation(command, runs, model="openai/clip-vit-base-patch32", **more):
    file = feature_file("result")
    entry = {"command": "embed", "model": {"name": model}, "dataset": {"name": "cifar10"}}
    file.history = [entry, {"command": command, "splits": ["test"], **more}]
    file.set_rows(runs)
    predicted = np.zeros((len(runs), 1), int)
    one_row = Split(ids=["a"], labels=np.array([0]), predicted=predicted)
    file.splits = {row.get("eval_split", row.get("split")): one_row for row in runs}
    return file


PROBE = {"classifier": "svm", "C": 1.0, "eval_split": "test", "acc1": 0.5}
RESULTS = {
    "zeroshot": (
        [{"split": "test", "acc1": 0.25, "acc5": None, "mean_per_class_recall": 0.5}],
        "zeroshot_classification",
        {"acc1": 0.25, "mean_per_class_recall": 0.5},
    ),
    "probe": ([PROBE], "linear_probe", {"lp_acc1": 0.5, "fewshot_k": -1}),
    "retrieve": (
        [{"split": "image_retrieval", "k": 5, "recall": 0.75}],
        "zeroshot_retrieval",
        {"image_retrieval_recall@5": 0.75},
    ),
    "choose": (
        [
            {"split": "text_acc", "category": c, "accuracy": a}
            for c, a in (("all", 1.0), ("b", 0.0))
        ],
        "image_caption_selection",
        {"text_acc": 1.0},
    ),
}


@pytest.mark.parametrize("command", RESULTS)
def test_a_result_is_a_row_of_clip_benchmark_and_an_entry_of_a_model_card(tmp_path, command):
    runs, task, metrics = RESULTS[command]
    source = saved_file(tmp_path / "r.h5", evaluation(command, runs))
    ok("convert", source, tmp_path / "r.json")
    if command in ("retrieve", "choose"):
        run = clipkit("convert", source, tmp_path / "s.json", "--split", "test")
        refused(run, 2, f"--split: expected a result of zeroshot or probe, got {command}")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content.pop("metrics") == metrics
    assert content == {
        **{"dataset": "cifar10", "model": "ViT-B-32", "pretrained": "openai", "task": task},
        **{"language": "en", "split": "test"},
    }
    ok("convert", source, tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md").data
    numbers = {entry.metric_name: entry.metric_value for entry in card.eval_results}
    assert numbers == {name: number for name, number in metrics.items() if name != "fewshot_k"}
    assert {entry.dataset_name for entry in card.eval_results} == {"cifar10"}


def test_results_that_no_leaderboard_knows_are_refused(tmp_path):
    for command, runs, message in (
        ("probe", [PROBE, {**PROBE, "C": 2.0}], "expected one run on test, got 2"),
        ("probe", [{**PROBE, "classifier": "knn"}], "expected a probe by svm or logreg"),
        ("cluster", [{"split": "test", "k": 2}], "expected a result of zeroshot, probe, retrieve"),
    ):
        source = saved_file(tmp_path / "r.h5", evaluation(command, runs))
        refused(clipkit("convert", source, tmp_path / "r.json"), 2, message)
        source.unlink()


def test_class_names_and_templates_may_be_keyed_by_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"pets": ["Abyssinian", "Beagle"], "imagenet1k": ["tench"]}
    templates = {"pets": ["a {c}, a pet.", "one {c}"], "cifar10": ["a {c}."]}
    for name, content in (("names", names), ("templates", templates)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    words = ("--template", "templates.json", "--model", "tiny", "-o", "t.h5")
    ok("textembed", "--classes", "names.json", "--column", "pets", *words)
    file = read("t.h5")
    assert (file.class_names, file.history[0]["templates"]) == (names["pets"], templates["pets"])
    classes = embedding.read_class_names("cifar10")
    assert embedding.read_templates(["templates.json"], classes.dataset) == ["a {c}."]
    for options, message in (
        (["names.json"], "expected the classes of one data set, got 2 data sets; hint: name the"),
        (["names.json", "--column", "pts"], "unknown data set of names.json 'pts'; hint: did you"),
        (["shapes", *words], "unknown data set of templates.json 'shapes'"),
        (["names.txt", *words], "templates.json: expected classes of a data set, by which to"),
        (
            ["shapes", "--column", "pets"],
            "expected a table or .json file with --column, got",
        ),
    ):
        run = clipkit("textembed", "--classes", *options, "--model", "tiny", "-o", "x.h5")
        refused(run, 2, message)
