"""Data sets: folders in every layout, the named data sets, and draws from them."""

import gzip
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import fails_with, labels_of, red_values, write_images
from factories.miniatures import idx, write_cifar, write_tiny_imagenet
from hypothesis import given
from hypothesis import strategies as st

from clipkit import datasets, shapes
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.datasets import registry
from clipkit.datasets.dataset import CACHED_BLOCKS, Dataset, ImageDataset, RenderedImages
from clipkit.datasets.downloads import md5_of

# Folders


def test_a_folder_of_class_folders_is_one_labelled_split(tmp_path):
    write_images(tmp_path, "b c/1.png", "b/2.png", "b/10.png", "a/deep/x.png")
    data = datasets.load(tmp_path)
    assert (data.name, data.class_names) == (tmp_path.name, ["a", "b", "b c"])
    (split,) = data.splits.values()
    assert split.ids == ["a/deep/x.png", "b/10.png", "b/2.png", "b c/1.png"]
    assert labels_of(data) == {"all": [0, 1, 1, 2]}
    assert split.labels.dtype == np.int64
    assert red_values(split) == [3, 2, 1, 0]
    assert str(tmp_path.parent) not in json.dumps(data.details)


def test_splits_share_the_union_of_their_classes(tmp_path):
    names = ["train/a/1.png", "train/c/1.png", "val/c/1.png", "test/b/1.png"]
    write_images(tmp_path, *names, "extra/notes.png", "sample.png")
    data = datasets.load(str(tmp_path))
    assert data.class_names == ["a", "b", "c"]
    assert labels_of(data) == {"train": [0, 2], "val": [2], "test": [1]}
    assert data.splits["test"].ids == ["b/1.png"]
    assert list(datasets.load(tmp_path, splits=["test", "train"]).splits) == ["train", "test"]


def test_a_split_may_be_unlabelled(tmp_path):
    data = datasets.load(write_images(tmp_path, "train/x/1.png", "test/1.png"))
    assert data.splits["train"].labels.tolist() == [0]
    assert data.splits["test"].labels is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/notes.txt"], "expected images or class folders of images, got none"),
        (["a/1.png", "b/n.txt"], "/b: expected an image in every class folder, got none"),
        (["a/1.png", "loose.png"], "got both: loose.png and a/"),
        (["train/a/1.png", "test/a/n.txt"], "/test: expected images or class folders"),
    ],
)
def test_folders_with_other_content_are_refused(tmp_path, names, message):
    with fails_with(message):
        datasets.load(write_images(tmp_path, *names))


def test_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path, "car/1.png", "train/1.png")
    assert datasets.load(tmp_path).class_names == ["car", "train"]


def test_the_fingerprint_of_files_changes_with_their_size_and_time(tmp_path):
    write_images(tmp_path, "a/1.png", "a/2.png")
    source = datasets.load(tmp_path).splits["all"].source
    before = source.fingerprint()
    assert source.fingerprint() == before != source.take(np.array([0])).fingerprint()
    with (tmp_path / "a" / "2.png").open("ab") as file:
        file.write(b"more")
    changed = source.fingerprint()
    (tmp_path / "a" / "2.png").unlink()
    assert len({before, changed, source.fingerprint()}) == 3


def test_a_name_of_the_registry_comes_before_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "digits", "1.png")
    write_images(tmp_path / "pets", "1.png")
    assert datasets.load("digits").class_names == list("0123456789")
    assert datasets.load("digits/").splits["all"].ids == ["1.png"]
    assert datasets.load("pets").name == datasets.load("./pets").name == "pets"


@pytest.mark.parametrize(
    ("name", "options", "error", "message", "hint"),
    [
        ("cifar1", {}, UsageError, "unknown data set 'cifar1'", "did you mean cifar10 or"),
        ("", {}, UsageError, "unknown data set ''", "known: cifar10"),
        ("no/such", {}, ClipkitError, "cannot read no/such: there is no such folder", ""),
        ("no/b.h5", {}, ClipkitError, "cannot read no/b.h5: there is no such file or folder", ""),
        ("n.txt", {}, ClipkitError, "or a folder of images, got the file n.txt", ""),
        (".", {"label_column": "x"}, UsageError, "label-column: expected a man", "leave --lab"),
        (".", {"root": "x"}, UsageError, "root: expected a named data set", "leave --root out"),
        (".", {"classes": 1}, UsageError, "expected labels in all, got none", ""),
        ("digits", {"splits": ["tset"]}, UsageError, "split of digits 'tset'", "mean test?"),
        ("digits", {"limit": 0}, UsageError, "expected at least 1 row per split, got 0", ""),
        ("digits", {"classes": 0}, UsageError, "classes of digits: expected 1 to 10, got 0", ""),
    ],
)
def test_wrong_names_and_options_are_refused(
    tmp_path, monkeypatch, name, options, error, message, hint
):
    monkeypatch.chdir(write_images(tmp_path, "a.png", "n.txt"))
    with fails_with(message, error) as caught:
        datasets.load(name, **options)
    assert hint in (caught.value.hint or "")


# Draws

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def toy_dataset(labels):
    """Return a data set whose ids and red values are the row numbers."""
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    return Dataset("toy", list("abcde"), {"all": ImageDataset.from_array(pixels, labels)})


@given(LABELS, st.integers(1, 70), st.integers(1, 70))
def test_limits_are_balanced_nested_and_in_order(labels, a, b):
    small, large = sorted((a, b))
    fewer, more = (toy_dataset(labels).draw_rows(n, 42).splits["all"] for n in (small, large))
    assert len(fewer) == min(small, len(labels))
    assert set(fewer.ids) <= set(more.ids)
    assert fewer.ids == sorted(fewer.ids)
    assert red_values(fewer) == [int(name) for name in fewer.ids]
    assert fewer.labels.tolist() == [labels[int(name)] for name in fewer.ids]
    sizes, drawn = np.bincount(labels, minlength=5), np.bincount(fewer.labels, minlength=5)
    # a class with rows left has given as many as any other, or one fewer
    assert (drawn[drawn < sizes] >= drawn.max() - 1).all()


def test_rows_of_many_classes_are_drawn_in_one_pass():
    labels = np.arange(200_000)  # a pass over all rows for each class would take minutes
    drawn = ImageDataset(list(map(str, labels)), labels, None).draw_order(0)
    assert sorted(drawn) == labels.tolist()


def test_draws_never_change():
    split = toy_dataset([0, 0, 0, 0, 1, 1, 2, 1]).splits["all"]
    assert split.draw_order(42).tolist() == [1, 5, 6, 0, 7, 2, 4, 3]
    unlabelled = ImageDataset(split.ids, None, split.source)
    assert unlabelled.draw_order(42).tolist() == [1, 5, 0, 7, 2, 4, 3, 6]
    data = toy_dataset([0, 1, 2, 3, 4])
    assert data.draw_classes(2, 42).class_names == ["b", "e"]
    # every class may be the first to give a row
    assert len({data.draw_rows(1, seed).splits["all"].ids[0] for seed in range(40)}) == 5


@given(LABELS, st.integers(1, 5))
def test_drawn_classes_are_nested_and_renumbered_in_order(labels, classes):
    data = toy_dataset(labels).draw_classes(classes, 7)
    split = data.splits["all"]
    assert data.class_names == sorted(data.class_names)
    assert len(data.class_names) == classes
    old = ["abcde"[labels[int(name)]] for name in split.ids]
    assert [data.class_names[label] for label in split.labels] == old
    assert len(split) == sum("abcde"[label] in data.class_names for label in labels)
    assert set(data.class_names) <= set(toy_dataset(labels).draw_classes(5, 7).class_names)


def test_draws_are_recorded_in_the_details():
    data = datasets.load("digits", limit=10, classes=3, seed=1)
    assert data.details["name"] == "digits"
    assert data.details["draw"] == {"limit": 10, "classes": 3, "seed": 1}
    assert data.details["splits"]["test"]["images"] == 10
    assert json.loads(json.dumps(data.details)) == data.details
    other = datasets.load("digits", limit=10, classes=3, seed=2)
    assert other.details["splits"]["test"]["rows"] != data.details["splits"]["test"]["rows"]
    assert "draw" not in datasets.load("digits").details


# Data sets that need no file


def test_digits_are_scikit_learns_with_a_stratified_quarter_as_test():
    from sklearn.datasets import load_digits

    data, bunch = datasets.load("digits"), load_digits()
    rows = {name: np.array(split.ids, dtype=int) for name, split in data.splits.items()}
    assert {name: len(ids) for name, ids in rows.items()} == {"train": 1347, "test": 450}
    assert sorted([*rows["train"], *rows["test"]]) == list(range(1797))
    for name, split in data.splits.items():
        assert (split.labels == bunch.target[rows[name]]).all()
        assert (np.diff(rows[name]) > 0).all()
    share = np.bincount(data.splits["test"].labels) / np.bincount(bunch.target)
    assert ((share > 0.24) & (share < 0.26)).all()
    image = np.asarray(data.splits["test"].image(5))
    assert image.shape == (8, 8, 3)
    assert np.abs(image[..., 1] - bunch.images[rows["test"][5]] * 255 / 16).max() <= 0.5


def test_shapes_are_rendered_the_same_in_threads_and_alone():
    data = datasets.load("shapes", limit=200)
    assert data.class_names == list(shapes.CLASS_NAMES)
    test = data.splits["test"]
    rows = [int(name) for name in test.ids]
    assert np.bincount(test.labels).tolist() == [2] * 100
    assert (test.labels == shapes.labels(rows, split="test", seed=0)).all()
    with ThreadPoolExecutor(8) as pool:
        rendered = list(pool.map(test.image, range(200)))
    for i in (0, 63, 64, 199):
        alone = shapes.render([rows[i]], split="test", seed=data.details["seed"], size=64)[0]
        assert (np.asarray(rendered[i]) == alone).all()
    full = datasets.load("shapes").splits
    assert (len(full["train"]), len(full["test"])) == (20_000, 5_000)


def test_blocks_are_rendered_once_and_few_are_cached():
    calls = []

    def render(indices):
        calls.append(len(indices))
        time.sleep(0.002)  # other threads ask for the same block meanwhile
        colours = (indices % 256).astype(np.uint8)[:, None, None, None]
        return np.broadcast_to(colours, (len(indices), 2, 2, 3))

    source = RenderedImages(render, np.arange(1000)).take(np.arange(0, 1000, 2))
    with ThreadPoolExecutor(8) as pool:
        pixels = [image.getpixel((0, 0))[0] for image in pool.map(source.image, range(500))]
    assert pixels == [index % 256 for index in range(0, 1000, 2)]
    assert calls == [64] * 7 + [52]
    for row in (499, 0):  # the last is cached, and the first no more
        source.image(row)
    assert len(calls) == 8
    many = RenderedImages(render, np.arange(64 * (CACHED_BLOCKS + 1)))
    for block in [*range(CACHED_BLOCKS + 1)] * 2:
        many.image(64 * block)
    assert len(calls) == 8 + 2 * (CACHED_BLOCKS + 1)


# Data sets that are downloaded

DOWNLOADED = [name for name, data in registry.REGISTRY.items() if data.files]


def _package_fashion_mnist(monkeypatch, folder):
    """Put Debian's package of Fashion-MNIST into another folder."""
    moved = replace(registry.REGISTRY["fashion-mnist"], packaged=folder)
    monkeypatch.setitem(registry.REGISTRY, "fashion-mnist", moved)


def _publish(monkeypatch, name, folder):
    """Let the files in a folder be those that are published for a data set."""
    known = registry.REGISTRY[name]
    md5s = {url: md5_of(folder / url.rpartition("/")[2]) for url in known.files}
    monkeypatch.setitem(registry.REGISTRY, name, replace(known, files=md5s))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Take away the network, Debian's package and the cache; return the folder of the cache."""

    def refuse(*args, **options):
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    _package_fashion_mnist(monkeypatch, tmp_path / "absent")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "datasets"


@pytest.mark.parametrize("name", DOWNLOADED)
def test_without_a_network_the_error_says_what_to_do(offline, tmp_path, name, capfd):
    for root, home in ((None, offline), (tmp_path / "mine", tmp_path / "mine")):
        with fails_with(f"cannot download {name} to {home}") as caught:
            datasets.load(name, root=root)
        assert str(home) in caught.value.hint
        assert not [path for path in home.rglob("*") if path.is_file()]
    output, lines = capfd.readouterr()
    assert output == ""
    assert re.fullmatch(r"(clipkit: downloading http\S+ to \S+\n){2}", lines)


def test_the_published_files_are_those_that_torchvision_checks():
    from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST, Food101, Imagenette

    mirror = FashionMNIST.mirrors[0]
    of_torchvision = {
        "cifar10": {CIFAR10.url: CIFAR10.tgz_md5},
        "cifar100": {CIFAR100.url: CIFAR100.tgz_md5},
        "food101": {Food101._URL: Food101._MD5},
        "imagenette": dict([Imagenette._ARCHIVES["full"]]),
        "fashion-mnist": {f"{mirror}{file}": md5 for file, md5 in FashionMNIST.resources},
    }
    assert {"tiny-imagenet", *of_torchvision} == set(DOWNLOADED)  # torchvision lacks this one
    for name, published in of_torchvision.items():
        assert registry.REGISTRY[name].files == published


def test_the_documentation_and_the_makefile_say_the_sizes_of_all_downloads():
    sizes = {data.name: data.size for data in registry.REGISTRY.values() if data.files}
    root = Path(__file__).parents[1]
    said = {}
    for place in ("docs/commands/embed.md", "Makefile"):
        text = " ".join((root / place).read_text().split())
        said[place] = dict(re.findall(r"`?([\w-]+)`? \(?([\d.]+ [MG]B)\b", text))
    assert said["docs/commands/embed.md"].items() >= sizes.items()
    assert said["Makefile"].items() <= sizes.items()
    assert len(said["Makefile"]) == 5  # those of the thesis


def test_the_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "/t")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    for name, expected in (
        ("TORCH_HOME", Path("/t/datasets")),
        ("XDG_CACHE_HOME", Path("/x/torch/datasets")),
        ("OTHER", Path.home() / ".cache" / "torch" / "datasets"),
    ):
        assert registry.cache_folder() == expected
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("kind", "name"), [("CIFAR10", "cifar-10-batches-py"), ("CIFAR100", "cifar-100-python")]
)
def test_cifar_is_read_by_torchvision(offline, tmp_path, monkeypatch, kind, name):
    folder = tmp_path / "root" / name
    pixels = write_cifar(folder, kind, monkeypatch)
    for root in (folder.parent, folder):
        data = datasets.load(kind.lower(), root=root)
        assert data.class_names == ["aquarium_fish", "bear"]
        assert labels_of(data) == {"train": [1, 0], "test": [1]}
        image = np.asarray(data.splits["train"].image(1))
        assert (image == pixels[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    (folder / "one").write_bytes(b"other")
    with fails_with(f"cannot read {kind.lower()} in {folder}: ") as caught:
        datasets.load(kind.lower(), root=folder.parent)
    assert caught.value.hint == "remove that folder to download it again"


def test_food101_is_read_by_torchvision(offline, tmp_path):
    root = tmp_path / "food-101"
    write_images(root / "images", "waffles/1.jpg", "waffles/2.jpg", "apple_pie/7.jpg")
    (root / "meta").mkdir()
    for name, content in {
        "train": {"apple_pie": ["apple_pie/7"], "waffles": ["waffles/2"]},
        "test": {"apple_pie": [], "waffles": ["waffles/1"]},
    }.items():
        (root / "meta" / f"{name}.json").write_text(json.dumps(content))
    data = datasets.load("food101", root=tmp_path)
    assert data.class_names == ["apple_pie", "waffles"]
    assert data.splits["train"].ids == ["apple_pie/7.jpg", "waffles/2.jpg"]
    assert red_values(data.splits["train"]) == [2, 1]
    assert labels_of(data) == {"train": [0, 1], "test": [1]}


def test_imagenette_is_read_by_torchvision(offline, tmp_path):
    root = tmp_path / "imagenette2"
    for split in ("train", "val"):
        write_images(root / split, "n03000684/b.JPEG", "n01440764/a.JPEG")
    data = datasets.load("imagenette", root=tmp_path)
    assert (list(data.splits), data.class_names) == (["train", "test"], ["tench", "chain saw"])
    assert data.splits["test"].ids == ["n01440764/a.JPEG", "n03000684/b.JPEG"]
    assert red_values(data.splits["test"]) == [1, 0]
    shutil.rmtree(root / "val")
    with fails_with(f"cannot read imagenette in {root}: "):
        datasets.load("imagenette", root=tmp_path)


@pytest.mark.parametrize(
    ("layout", "suffix"), [("root", ".gz"), ("Debian", ".gz"), ("torchvision", "")]
)
def test_fashion_mnist_is_read_from_idx_files(offline, tmp_path, monkeypatch, layout, suffix):
    root = None if layout == "Debian" else tmp_path
    folder = tmp_path / "FashionMNIST" / "raw" if layout == "torchvision" else tmp_path
    _package_fashion_mnist(monkeypatch, folder)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)

    def write(name, data):
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix else data)

    for prefix in ("train", "t10k"):
        write(f"{prefix}-images-idx3-ubyte", idx(pixels))
        write(f"{prefix}-labels-idx1-ubyte", idx(np.array([9, 0], np.uint8)))
    if layout == "root":
        _publish(monkeypatch, "fashion-mnist", folder)
    data = datasets.load("fashion-mnist", root=root)
    assert data.class_names[0] == "T-shirt/top"
    assert labels_of(data) == {"train": [9, 0], "test": [9, 0]}
    assert (np.asarray(data.splits["test"].image(1)) == pixels[1][..., None]).all()
    for content, message in {
        b"": "expected an IDX file of bytes, got other content",
        b"\0\0\x08\x01\0\0\0\x02\x01": "cannot reshape",
        b"\0\0\x0d\x01\0\0\0\0": "expected an IDX file of bytes, got other content",
        idx(np.zeros(3, np.uint8)): "expected a label for each train image, got shapes",
    }.items():
        write("train-labels-idx1-ubyte", content)
        if layout == "root":
            _publish(monkeypatch, "fashion-mnist", folder)
        with fails_with(message):
            datasets.load("fashion-mnist", root=root)


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_another_data_set_whose_files_are_called_the_same_is_refused(offline, tmp_path, suffix):
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for url in registry.REGISTRY["fashion-mnist"].files:
        name = url.rpartition("/")[2].removesuffix(".gz")
        data = idx(np.zeros((2, 28, 28) if "images" in name else 2, np.uint8))
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    with fails_with("expected the published file of fashion-mnist, got another") as caught:
        datasets.load("fashion-mnist", root=folder)
    assert "the folder that holds FashionMNIST/raw with --root" in caught.value.hint


def test_idx_files_have_the_classes_of_their_record(tmp_path, monkeypatch, capfd):
    """They are not taken for cells without a value, as `na` would be in a folder."""
    known = registry.REGISTRY["fashion-mnist"]
    other = replace(known, name="kmnist", class_names="o na".split, folder="KMNIST/raw")
    monkeypatch.setitem(registry.REGISTRY, "kmnist", other)
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 4, 4), np.uint8)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(2, dtype=np.uint8)))
    for root in (tmp_path, folder):
        data = datasets.load("kmnist", root=root)
        assert (data.name, data.class_names) == ("kmnist", ["o", "na"])
    assert capfd.readouterr().err == ""


def test_tiny_imagenet_is_read_in_its_official_layout(tmp_path):
    top = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    for root in (tmp_path, top):
        data = datasets.load("tiny-imagenet", root=root)
        assert data.class_names == ["goldfish", "European fire salamander", "cat"]
        assert labels_of(data) == {"train": [0, 1, 1, 2], "test": [2, 0]}
        train, test = data.splits["train"], data.splits["test"]
        names = ["n1/images/n1", "n2/images/a", "n2/images/n2", "n3/images/n3"]
        assert train.ids == [f"{name}.JPEG" for name in names]
        assert test.ids == ["images/val_0.JPEG", "images/val_1.JPEG"]
        assert (red_values(train), red_values(test)) == ([1, 3, 0, 2], [1, 0])
    drawn, again = (datasets.load("tiny-imagenet", root=top, classes=2) for _ in range(2))
    assert len(drawn.class_names) == 2
    assert drawn.details == again.details
    assert drawn.splits["train"].labels.max() == 1


def test_annotations_of_tiny_imagenet_are_checked(tmp_path):
    annotations = write_tiny_imagenet(tmp_path) / "val" / "val_annotations.txt"
    valid = annotations.read_text()
    for line in ("val_2.JPEG", "val_2.JPEG\tn9", "../../x.JPEG\tn1", "val_1.JPEG\tn1", ""):
        annotations.write_text(f"{valid}{line}\n")
        with fails_with("val_annotations.txt, line 3: expected a new file"):
            datasets.load("tiny-imagenet", root=tmp_path)
