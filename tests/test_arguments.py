"""Library functions take paths and single values, and refuse a wrong argument by its name."""

from __future__ import annotations

import copy
import inspect
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from factories import feature_file, random_features, saved, write_feature_file
from PIL import Image

import clipkit
from clipkit import embedding, plots, report
from clipkit.analysis import for_people, relabeling, row_clusters
from clipkit.analysis.align import alignment
from clipkit.analysis.attributes import recalls
from clipkit.analysis.calibrate import calibration
from clipkit.analysis.choose import choices
from clipkit.analysis.compare import comparison, leaderboard
from clipkit.analysis.nearest import neighbours
from clipkit.analysis.predict import prediction
from clipkit.analysis.probe import evaluation
from clipkit.analysis.retrieve import retrieval
from clipkit.analysis.threshold import thresholds
from clipkit.analysis.zeroshot import classification
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features import (
    FeatureFile,
    Split,
    annotations,
    concatenation,
    for_notebooks,
    formats,
    overview,
    similarity,
    splitting,
)
from clipkit.features.arguments import checked
from clipkit.features.model import row_ids

MODEL = {"name": "a", "digest": "sha256:1", "logit_scale": 100.0}
N = 40
SPLITS = ("train", "test")
IDS = [f"{name}{row}" for name in SPLITS for row in range(N)]
COLOURS = [("red", "blue")[row // 3 % 2] for row in range(2 * N)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make images, their captions and logits, and write them, tables, results and a probe."""
    folder = tmp_path_factory.mktemp("made")
    history = [{"command": "embed", "model": MODEL}]
    images = FeatureFile("images", history, class_names=["cat", "dog"])
    for seed, name in enumerate(SPLITS):
        ids = [f"{name}{row}" for row in range(N)]
        images.splits[name] = Split(random_features(N, 8, seed), np.arange(N) % 2, ids)
    texts = FeatureFile("texts", history, features=random_features(N, 8, 5))
    texts.texts = [f"text {row}" for row in range(N)]
    texts.class_index, texts.class_names = np.arange(N), images["test"].ids
    classes = FeatureFile("texts", history, features=random_features(2, 8, 6))
    classes.texts, classes.class_names = ["a cat", "a dog"], ["cat", "dog"]
    classes.class_index = np.arange(2)
    logits = similarity.compute_logits(images, classes)
    for name, file in (("images", images), ("texts", texts), ("logits", logits)):
        saved(folder / f"{name}.h5", file)
        file.display_name = f"{name}.h5"
    lines = [f"{row_id},{colour}" for row_id, colour in zip(IDS, COLOURS, strict=True)]
    (folder / "table.csv").write_text("\n".join(["id,colour", *lines]))
    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "a.png")
    (folder / "items.csv").write_text(ITEMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        clipkit.write("a.h5", classification.evaluate("logits.h5"))
        clipkit.write("probe.h5", evaluation.evaluate("logits.h5", keep=True).result)
    return folder, {"images": images, "texts": texts, "logits": logits.in_memory()}


@pytest.fixture
def files(made, tmp_path, monkeypatch):
    """Return images, their captions and logits, which are also in files of the current folder."""
    folder, files = made
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return copy.deepcopy(files)


def test_one_value_gives_what_a_list_of_it_gives(files):
    images, texts, logits = files["images"], files["texts"], files["logits"]
    of_list = clipkit.retrieve(images, texts, k=[5]).rows()
    np.testing.assert_equal(clipkit.retrieve(images, texts, k=5).rows(), of_list)
    of_list = clipkit.entropy(logits, temperature=np.array([0.5]), split=("test",)).rows()
    np.testing.assert_equal(clipkit.entropy(logits, temperature=0.5, split="test").rows(), of_list)
    yielded = clipkit.entropy(logits, temperature=(t for t in [0.5]), split=iter(["test"]))
    np.testing.assert_equal(yielded.rows(), of_list)


ITEMS = """\
item,image,text,correct
0,test0,text 0,1
0,test0,text 1,0
1,test1,text 2,1
1,test1,text 3,0
"""


class Frame:
    """What a DataFrame of pandas and one of polars have in common, and the index of the first."""

    def __init__(self, index=None, **columns):
        self.columns, self._columns = list(columns), columns
        if index is not None:
            self.index = index

    def __getitem__(self, name):
        return self._columns[name]


class Natural(NamedTuple):
    """What a notebook has at hand; files of these names lie in the current folder, too."""

    images: FeatureFile
    texts: FeatureFile
    logits: FeatureFile
    X: np.ndarray  # (N, D)
    Y: np.ndarray
    cosines: np.ndarray  # (N, K)
    colour: list[str]  # of N rows
    ids: list[str]  # of all images
    colours: list[str]

    def table(self):
        return {"id": self.ids, "colour": self.colours}


@pytest.fixture
def natural(files):
    """Return them with arrays and lists."""
    X, Y = random_features(N, 8, 11), random_features(N, 8, 12)
    cosines = np.asarray(similarity.compute_logits(X, Y[:3])["all"].features)
    return Natural(**files, X=X, Y=Y, cosines=cosines, colour=COLOURS[:N], ids=IDS, colours=COLOURS)


# Each works: what it returns has rows, or is of a type.
WORKING = {
    "align, arrays": lambda n: clipkit.align([n.X, n.Y], k=3),
    "align, one after another": lambda n: clipkit.align(n.X, n.Y, k=3),
    "align, tensors": lambda n: clipkit.align([torch.tensor(n.X).requires_grad_(), n.Y], k=3),
    "align, array of images and of texts": lambda n: clipkit.align((n.X, n.Y), k=np.int64(3)),
    "align, path and file": lambda n: clipkit.align(["images.h5", n.texts], k=3),
    "retrieve, arrays": lambda n: clipkit.retrieve(n.X, n.Y, k=[1, 3]),
    "retrieve, path and file": lambda n: clipkit.retrieve(
        Path("images.h5"), n.texts, k=range(1, 3)
    ),
    "nearest, array": lambda n: clipkit.nearest(n.X, k=2),
    "nearest, two arrays": lambda n: clipkit.nearest(n.X, n.Y, k=2),
    "logits, arrays": lambda n: similarity.compute_logits(
        n.X, n.Y[:3], temperature=np.float32(0.5)
    ),
    "random logits, array": lambda n: similarity.compute_random_logits(n.X, 4),
    "entropy, array": lambda n: clipkit.entropy(n.cosines, temperature=0.07),
    "entropy, float16": lambda n: clipkit.entropy(
        n.cosines.astype(np.float16), temperature=[1, 0.07]
    ),
    "zeroshot, one split": lambda n: clipkit.zeroshot("logits.h5", split="test"),
    "zeroshot, array": lambda n: clipkit.zeroshot(
        clipkit.from_array(
            n.cosines[:, :2], "logits", labels=n.colour, class_names=sorted(set(n.colour))
        )
    ),
    "cluster, array": lambda n: clipkit.cluster(n.X, k=3),
    "cluster, path": lambda n: clipkit.cluster("images.h5", k=np.arange(2, 4)),
    "calibrate": lambda n: clipkit.calibrate("logits.h5", temperature=0.07),
    "reliability": lambda n: calibration.reliability("logits.h5", "test", 0.07),
    "threshold": lambda n: clipkit.threshold(
        "logits.h5", fpr=0.25, table=n.table(), cluster="colour"
    ),
    "threshold, arrays": lambda n: clipkit.threshold(n.X, unknown=n.Y, eval_split="all"),
    "probe, path": lambda n: clipkit.probe("logits.h5", temperature=0.5, C=1),
    "probe, labelled array": lambda n: clipkit.probe(
        clipkit.from_array(n.X, labels=n.colour), fit_split="all", eval_split="all", val=0.5
    ),
    "probe, a share and words": lambda n: clipkit.probe(
        "logits.h5", temperature=[1, np.float32(0.5)], C=range(1, 3), val=0.25
    ),
    "probe, None": lambda n: clipkit.probe("logits.h5", temperature=None, shots=None),
    "zeroshot, number": lambda n: clipkit.zeroshot("logits.h5", threshold=0.1),
    "zeroshot, result": lambda n: clipkit.zeroshot(
        "logits.h5", threshold=clipkit.threshold("logits.h5", fpr=0.5)
    ),
    "predict": lambda n: clipkit.predict("probe.h5", "logits.h5", split="test"),
    "importance": lambda n: clipkit.importance("probe.h5", "logits.h5"),
    "weights": lambda n: clipkit.importance("probe.h5", weights=1),
    "attributes, dict": lambda n: clipkit.attributes("images.h5", table=n.table()),
    "attributes, array": lambda n: clipkit.attributes(n.X, table={"colour": n.colour}),
    "attributes, DataFrame": lambda n: clipkit.attributes(
        "images.h5", table=Frame(n.ids, colour=np.array(n.colours)), attribute="colour"
    ),
    "attributes, polars": lambda n: clipkit.attributes(n.X, table=Frame(colour=n.colour)),
    "attributes, path": lambda n: clipkit.attributes("images.h5", table=Path("table.csv")),
    "variance, array": lambda n: clipkit.variance(
        n.X, table={"colour": n.colour}, attribute="colour"
    ),
    "describe": lambda n: clipkit.describe("logits.h5", table=n.table()),
    "describe, array": lambda n: clipkit.describe(n.cosines, table={"colour": n.colour}),
    "relabel, dict": lambda n: relabeling.relabel("images.h5", n.table()),
    "split": lambda n: splitting.split("images.h5", {"val": 0.5}),
    "split, by a dict": lambda n: splitting.split(
        "images.h5", {"val": 0.5}, column="colour", table=n.table()
    ),
    "concat, one file": lambda n: concatenation.concat("images.h5", splits="all"),
    "concat, arrays": lambda n: concatenation.concat([n.X, n.Y], prefix=True),
    "compare, paths": lambda n: clipkit.compare("a.h5", "probe.h5"),
    "compare, by a dict": lambda n: clipkit.compare("a.h5", table=n.table()),
    "leaderboard": lambda n: leaderboard.leaderboard(["a.h5", "probe.h5"]),
    "table for a paper": lambda n: for_people.as_table("a.h5", "latex"),
    "picture": lambda n: plots.draw("a.h5", title="Zero-shot").axes,
    "pictures of arrays": lambda n: plots.draw([n.X, n.Y], "spectrum").axes,
    "pair": lambda n: comparison.pair(["a.h5", "probe.h5"], runs=0).right,
    "choose": lambda n: clipkit.choose("images.h5", "texts.h5", "items.csv"),
    "splits": lambda n: for_notebooks.choose_splits("images.h5", "test")[1],
    "split of an array": lambda n: for_notebooks.choose_split(n.X),
    "annotations": lambda n: (
        for_notebooks.read_annotations("images.h5", n.table(), "colour").attributes
    ),
    "clusters": lambda n: (
        row_clusters.read_clusters(n.X, {"colour": n.colour}, "colour").attributes
    ),
    "overview": lambda n: overview.overview("images.h5"),
    "export an array": lambda n: formats.export_file("x.npz", n.X) or Path("x.npz").read_bytes(),
    "embed, folder": lambda n: embedding.embed("pictures", "d.h5", model="tiny") or "d.h5",
    "report, one file": lambda n: report.of_files("a.h5").questions,
    "report, folder": lambda n: report.of_folder(".").questions,
}


@pytest.mark.parametrize("call", WORKING)
def test_a_natural_call_works(call, natural):
    assert len(WORKING[call](natural))


def test_rows_that_are_asked_for_are_returned_in_place_of_a_result(natural):
    logits = natural.logits
    rows = clipkit.zeroshot(logits, split="test", per_image=True)
    assert [row["id"] for row in rows] == logits["test"].ids
    predicted = clipkit.zeroshot(logits, split="test")["test"].predicted[0]
    assert [row["prediction"] for row in rows] == [logits.class_names[row] for row in predicted]
    assert [row["class"] for row in clipkit.probe(logits, per_class=True)] == ["cat", "dog"]
    assert len(clipkit.zeroshot(logits, split="test", top=2)) == 2 * N
    assert len(clipkit.entropy(logits, temperature=1, split="test", per_image=True)) == N
    assert len(clipkit.compare("a.h5", "a.h5", leaderboard=True)) == 2
    assert set(clipkit.compare("a.h5", "a.h5", ids="neither")) < set(logits["test"].ids)
    assert clipkit.probe(logits, keep=True, per_image=True).kind == "probe"


def test_a_question_shows_plain_types_and_explains_its_parameters():
    signature = inspect.signature(clipkit.zeroshot)
    assert str(signature.parameters["split"]) == "split: list[str] | None = None"
    assert signature.parameters["file"].annotation is FeatureFile
    assert list(signature.parameters)[-4:] == ["per_class", "per_image", "top", "scores"]
    assert "\ntop : K\n    Print K rows per image" in clipkit.zeroshot.__doc__
    assert clipkit.zeroshot is clipkit.zeroshot


def test_an_array_gives_what_its_feature_file_gives(natural):
    def as_file(rows):
        return FeatureFile("images", [history], {"all": Split(rows, ids=row_ids(N))})

    history = {"command": "convert", "model": {"name": "array"}}
    by_array = alignment.align([natural.X, natural.Y], k=3).rows()
    by_file = alignment.align([as_file(natural.X), as_file(natural.Y)], k=3).rows()
    assert [row["similarity"] for row in by_array] == [row["similarity"] for row in by_file]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (natural.X, natural.Y)]
    np.testing.assert_allclose(
        similarity.compute_logits(natural.X, natural.Y)["all"].features,
        unit[0] @ unit[1].T,
        atol=1e-6,
    )
    found = retrieval.retrieve(natural.X, natural.Y, k=1)
    right = (unit[1] @ unit[0].T).argmax(axis=1) == np.arange(N)
    assert found.runs_on("image_retrieval")[0]["recall"] == right.mean()


def test_what_no_annotation_names_stays_as_it_is():
    @checked
    def function(anything: Any, *more: int, few: int = 1, **settings: Any):
        return anything, more, few, settings

    assert function(None, "b", few=2, a=1) == (None, ("b",), 2, {"a": 1})
    with pytest.raises(UsageError, match="few: expected a whole number, got 'c'"):
        function(3, few="c")


def test_labels_of_an_array_are_numbers_or_names():
    X = random_features(4, 8, 1)
    named = clipkit.from_array(X, labels=["dog", "cat", "dog", "cat"])
    assert named.class_names == ["cat", "dog"]
    assert named["all"].labels.tolist() == [1, 0, 1, 0]
    numbered = clipkit.from_array(X, labels=[1, 0, 1, 0], ids=list("abcd"), split="test")
    assert (numbered["test"].labels.tolist(), numbered["test"].ids) == ([1, 0, 1, 0], list("abcd"))
    objects = clipkit.from_array(X, labels=np.array([10, 2, 10, 2], object))
    assert objects["all"].labels.tolist() == [10, 2, 10, 2]
    unordered = clipkit.from_array(X[:, :2] / 9, "logits", labels=["b", "a", "b", "a"])
    assert set(unordered.class_index) == {-1}  # nothing says which prompt is of which class
    texts = clipkit.from_array(X, "texts", labels=["d", "a", "a", "d"], texts=list("wxyz"))
    images = clipkit.from_array(X, ids=["a", "d", "e", "f"])
    assert retrieval.pair(images, texts, "all").image_of.tolist() == [1, 0, 0, 1]
    for name, arguments in [
        ("labels", {"labels": [0.5] * 4}),
        ("labels", {"labels": ["cat"] * 4, "class_names": ["dog"]}),
        ("labels", {"labels": [0]}),
        ("texts", {"texts": list("wxyz")}),
        ("kind", {"kind": "result"}),
        ("ids", {"kind": "texts", "ids": list("abcd")}),
    ]:
        with pytest.raises(ClipkitError, match=name):
            clipkit.from_array(X, **arguments)


def values_of(file, table):
    """Return the values that a table has for the rows of each split, by attribute."""
    found = {}
    for attribute in annotations.read_annotations(file, table).attributes:
        names = [*attribute.values, None]
        for split, codes in attribute.codes.items():
            found.setdefault(attribute.name, {})[split] = [names[code] for code in codes]
    return found


CELLS = {
    "size": [1, 2.0, None, float("nan"), np.int64(3), np.float64("nan")],
    "tags": [["a"], ["a", "b"], [], ["b"], np.array(["a"]), ("b",)],
    "flag": [True, False, np.True_, "NA", True, False],
}
LINES = """\
{"id": "0", "size": 1, "tags": ["a"], "flag": true}
{"id": "1", "size": 2, "tags": ["a", "b"], "flag": false}
{"id": "2", "tags": [], "flag": true}
{"id": "3", "tags": ["b"]}
{"id": "4", "size": 3, "tags": ["a"], "flag": true}
{"id": "5", "tags": ["b"], "flag": false}
"""


@pytest.mark.parametrize(
    "table", [CELLS, {"id": range(6), **CELLS}, Frame(**CELLS), Frame(list("012345"), **CELLS)]
)
def test_a_table_in_memory_gives_what_its_file_gives(table, tmp_path):
    (tmp_path / "table.jsonl").write_text(LINES)
    images = clipkit.from_array(random_features(6, 8, 1))
    found = values_of(images, table)
    assert list(found) == ["size", "tags: a", "tags: b", "flag"]
    assert found == values_of(images, tmp_path / "table.jsonl")


def test_a_dataframe_of_pandas_is_a_table(natural):
    pandas = pytest.importorskip("pandas", reason="clipkit does not need pandas")
    frame = pandas.DataFrame({"colour": natural.colours}, index=natural.ids)
    assert values_of(natural.images, frame) == values_of(natural.images, natural.table())


FROM_ARRAY = "clipkit.from_array(features, labels=..., ids=..., class_names=..., model=...)"
AS_LIST = "give several files as a list: align([a, b])"
REFUSED = [
    (lambda n: comparison.pair([]), "results: expected a result or several, got none"),
    (
        lambda n: retrieval.retrieve(3, n.texts),
        "images: expected a feature file, its path or an a",
    ),
    (
        lambda n: retrieval.retrieve(None, n.texts),
        "images: expected a feature file, its path or an ",
    ),
    (
        lambda n: retrieval.retrieve(n.X, n.Y[:9]),
        "texts: expected a text for each of 40 images",
    ),
    (lambda n: retrieval.retrieve(n.images, n.texts, k="5"), "k: expected a whole number"),
    (lambda n: retrieval.retrieve(n.images, n.texts, k=[1.5]), "k: expected a whole numb"),
    (lambda n: retrieval.retrieve(n.images, n.texts, gap=1), "gap: expected True or Fal"),
    (lambda n: retrieval.retrieve(n.X), "retrieve: missing a required argument: 'texts'"),
    (lambda n: neighbours.nearest(n.X, n=3), "nearest: got an unexpected keyword argument 'n'"),
    (
        lambda n: alignment.align("images.h5", "texts.h5"),
        "files: expected two or more of images",
    ),
    (
        lambda n: alignment.align([n.X, n.Y[:9]]),
        "files[1]: expected the all images of files[0]",
    ),
    (
        lambda n: alignment.align([n.images, 1]),
        "files[1]: expected a feature file, its path or",
    ),
    (lambda n: neighbours.nearest(n.images, k=True), "k: expected a whole number, got True"),
    (lambda n: neighbours.nearest(n.images, k=None), "k: expected a whole number, got None"),
    (lambda n: neighbours.nearest(n.X[0]), "file: expected an array of numbers (N, D), got"),
    (lambda n: neighbours.nearest(n.X * np.nan), "file: expected finite values, got NaN"),
    (lambda n: neighbours.nearest(n.X.astype(str)), "file: expected an array of numbers (N,"),
    (lambda n: thresholds.choose(n.logits, fpr="1%"), "fpr: expected a number, or several"),
    (lambda n: classification.evaluate(n.logits, 0), "splits: expected a text, or several, got 0"),
    (
        lambda n: classification.evaluate(n.cosines),
        "logits: expected prompts of the images' classes",
    ),
    (
        lambda n: clipkit.zeroshot(n.logits, split=True),
        "split: expected a text, or several, got True",
    ),
    (lambda n: clipkit.zeroshot(n.logits, top=0), "top: expected at least 1, got 0"),
    (lambda n: clipkit.zeroshot(n.logits, threshold=n.logits), "logits.h5: expected result, got"),
    (lambda n: clipkit.zeroshot("logits.h5", per_class=True, top=2), "expected rows of classes or"),
    (lambda n: clipkit.align(None), "files: expected a feature file, its path or an array of"),
    (lambda n: clipkit.align([n.X, n.Y], k=0), "k: expected at least 1, got 0"),
    (lambda n: clipkit.align([n.X, n.Y], seed=-1), "seed: expected at least 0, got -1"),
    (lambda n: clipkit.align([n.X, n.Y], seed=2**32), "seed: expected at most 4294967295"),
    (lambda n: clipkit.nearest(n.X, k=None), "k: expected a whole number, got None"),
    (lambda n: clipkit.cluster(n.images, k="three"), "-k: expected whole numbers between 2 and"),
    (lambda n: clipkit.retrieve(n.images), "retrieve: missing a required argument: 'texts'"),
    (lambda n: clipkit.entropy(n.cosines * 99, temperature=1), "logits: expected cosines between"),
    (lambda n: evaluation.evaluate(n.logits, "svm"), "spec: expected a ProbeSpec, got 'svm'"),
    (lambda n: evaluation.evaluate(n.logits, Cs=None), "Cs: expected a value, got None"),
    (lambda n: prediction.predict(n.X, n.images), "probe: expected a feature file or its path"),
    (
        lambda n: recalls.measure(n.images, table={"id": []}),
        "table: expected as many values",
    ),
    (
        lambda n: recalls.measure(n.images, table=[1]),
        "table: expected a file of attributes, a",
    ),
    (
        lambda n: recalls.measure(n.images, table=n.images),
        "table: expected a file of attrib",
    ),
    (
        lambda n: recalls.measure(n.images, table={"id": n.ids, "colour": "red"}),
        "table: expected a list of values in colour, got 'red'",
    ),
    (
        lambda n: recalls.measure(n.images, table={"colour": n.colour}),
        "80 of 80 images of images.h5 have no line in table.",
    ),
    (lambda n: recalls.measure(n.images, controls=3), "controls: expected files of untr"),
    (
        lambda n: recalls.measure(n.images, controls=[3]),
        "control 1: expected a feature file",
    ),
    (lambda n: comparison.compare(3), "results: expected a feature file, its path or"),
    (lambda n: comparison.compare("a.h5", by=3), "by: expected a file of attributes, a dict"),
    (lambda n: splitting.split(n.images, 0.2), "fractions: expected a dict of numbers, such"),
    (lambda n: concatenation.concat(n.X), "files: expected two or more, got 1"),
    (lambda n: choices.choose(n.images, n.texts, 3), "items: expected a text, or several"),
    (lambda n: clipkit.load_dataset(3), "name: expected a text, or several, got 3"),
    (lambda n: clipkit.load_dataset("shapes", limit="9"), "limit: expected a whole number, got"),
    (lambda n: embedding.read_prompts(["a.txt"]), "source: expected a text, got ['a.txt']"),
    (lambda n: embedding.read_captions(3), "names: expected a text, or several, got 3"),
    (lambda n: embedding.embed_texts(3, None), "encoder: expected a value, got None"),
    (lambda n: embedding.embed_queries(3, n.texts), "texts: expected a text, or several, got 3"),
    (lambda n: for_people.as_table("a.h5", "pdf"), "unknown format 'pdf'"),
    (lambda n: plots.draw(3), "files: expected a feature file, its path or an array of"),
    (lambda n: report.of_files(3), "paths: expected a text, or several, got 3"),
]
HINTED = [
    (
        lambda n: clipkit.zeroshot(n.logits, splits="test"),
        "zeroshot: got an unexpected keyword argument 'splits'",
        "it takes file, texts, split, table, attribute, ",
    ),
    (
        lambda n: leaderboard.leaderboard(
            ["a.h5", "probe.h5"], comparison.compare(["probe.h5", "a.h5"])
        ),
        "compared: expected the comparison of these results in this order",
        "leave it out",
    ),
    (
        lambda n: clipkit.from_array(n.X[:3], labels=["cat", None, "dog"]),
        "labels: expected a label for every row, got None for row 1",
        "leave out rows",
    ),
    (
        lambda n: leaderboard.leaderboard("probe.h5", "probe.h5"),
        "compared: expected a result of compare, got one of probe",
        "give several results as a list: leaderboard([a, b])",
    ),
    (
        lambda n: comparison.compare("a.h5", "probe.h5"),
        "compare: too many positional arguments",
        "give several files as a list: compare([a, b])",
    ),
    (
        lambda n: similarity.compute_logits(n.X, "texts.h5"),
        "images and texts.h5 come from",
        FROM_ARRAY,
    ),
    (
        lambda n: clipkit.write("x.h5", n.X),
        "file: expected a feature file, got array",
        "clipkit.from_array(features)",
    ),
    (lambda n: alignment.align(n.images, n.texts), "split: expected a text, got FeatureF", AS_LIST),
    (lambda n: alignment.align(n.X, n.Y), "split: expected a text, got array([[", AS_LIST),
    (lambda n: evaluation.evaluate(n.X), "file: all: expected labels, got none", FROM_ARRAY),
    (lambda n: recalls.measure(n.X), "images: expected labels, got none", FROM_ARRAY),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_a_wrong_argument_is_refused_in_one_line_that_names_it(call, message, natural):
    with pytest.raises(ClipkitError) as raised:
        call(natural)
    assert raised.value.message.startswith(message)
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 180


@pytest.mark.parametrize(("call", "message", "hint"), HINTED)
def test_what_an_array_lacks_is_said_with_how_to_give_it(call, message, hint, natural):
    with pytest.raises(ClipkitError) as raised:
        call(natural)
    assert raised.value.message.startswith(message)
    assert hint in raised.value.hint


def test_a_file_of_another_kind_or_none_is_refused_by_its_path_or_content(tmp_path):
    texts = write_feature_file(tmp_path / "texts.h5", "texts")
    for file, name in ((feature_file("texts"), "the file"), (texts, texts)):
        with pytest.raises(ClipkitError) as raised:
            classification.evaluate(file)
        assert raised.value.message == f"{name}: expected logits, got texts"
    with pytest.raises(ClipkitError, match="there is no such file"):
        classification.evaluate(tmp_path / "none.h5")
