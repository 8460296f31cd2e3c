"""Data sets: folders in every layout, torchvision's, Debian's, Tiny ImageNet's, and draws from them."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import pickle
import shutil
import socket
import tarfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipkit import datasets
from clipkit.datasets import sources
from clipkit.datasets.dataset import Arrays, Dataset, Drawn, Split
from clipkit.errors import ClipkitError, ImageError, UsageError


def grow(root: Path, *names: str) -> Path:
    """Image files of 4 x 4 pixels, each of its own colour."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(root / name, "PNG")
    return root


def red(split: Split) -> list[int]:
    return [split.image(i).getpixel((0, 0))[0] for i in range(len(split))]


# Folders


def test_class_folders(tmp_path):
    grow(tmp_path, "b c/1.png", "b/2.png", "b/10.png", "a/deep/x.png")
    data = datasets.load(tmp_path)
    assert data.name == tmp_path.name
    assert data.class_names == ["a", "b", "b c"]
    assert list(data.splits) == ["all"]
    rows = data.splits["all"]
    assert rows.ids == ["a/deep/x.png", "b/10.png", "b/2.png", "b c/1.png"]
    assert rows.labels.tolist() == [0, 1, 1, 2]
    assert rows.labels.dtype == np.int64
    assert red(rows) == [3, 2, 1, 0]
    assert str(tmp_path.parent) not in json.dumps(data.details)


def test_splits_share_the_union_of_their_classes(tmp_path):
    grow(
        tmp_path,
        "train/a/1.png",
        "train/c/1.png",
        "val/c/1.png",
        "test/b/1.png",
        "extra/notes.png",
        "sample.png",
    )
    data = datasets.load(str(tmp_path))
    assert data.class_names == ["a", "b", "c"]
    assert {name: split.labels.tolist() for name, split in data.splits.items()} == {
        "train": [0, 2],
        "val": [2],
        "test": [1],
    }
    assert data.splits["test"].ids == ["b/1.png"]
    assert list(datasets.load(tmp_path, splits=["test", "train"]).splits) == ["train", "test"]


def test_flat_folders_have_no_labels(tmp_path):
    grow(tmp_path / "flat", "b.png", "a.png")
    (tmp_path / "flat" / "notes").mkdir()
    data = datasets.load(tmp_path / "flat")
    assert data.class_names == []
    assert data.splits["all"].labels is None
    assert data.splits["all"].ids == ["a.png", "b.png"]
    grow(tmp_path / "kaggle", "train/x/1.png", "test/1.png")
    data = datasets.load(tmp_path / "kaggle")
    assert data.splits["train"].labels.tolist() == [0]
    assert data.splits["test"].labels is None


def test_a_class_may_be_called_train(tmp_path):
    grow(tmp_path, "car/1.png", "train/1.png")
    assert datasets.load(tmp_path).class_names == ["car", "train"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes.txt"], "must hold images or class folders of images; it holds none"),
        (["a/notes.txt"], "it holds none"),
        (["a/1.png", "b/notes.txt"], "every class folder must hold an image; .*/b holds none"),
        (["a/1.png", "loose.png"], "it holds both: loose.png and a/"),
        (["train/a/1.png", "test/a/notes.txt"], "test must hold images"),
    ],
)
def test_folders_that_hold_something_else(tmp_path, names, message):
    grow(tmp_path, *names)
    with pytest.raises(ClipkitError, match=message):
        datasets.load(tmp_path)


def test_bad_images_keep_their_rows(tmp_path):
    grow(tmp_path, "a/1.png", "a/2.png", "a/3.png")
    (tmp_path / "a" / "2.png").write_bytes(b"")
    rows = datasets.load(tmp_path).splits["all"]
    assert len(rows) == 3
    with pytest.raises(ImageError, match=r"a/2\.png must be a sound image; the file is empty"):
        rows.image(1)
    assert rows.image(2).getpixel((0, 0)) == (2, 0, 0)


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grow(tmp_path / "digits", "1.png")
    grow(tmp_path / "pets", "1.png")
    (tmp_path / "photo.png").touch()
    assert datasets.load("digits").class_names == list("0123456789")
    assert datasets.load("digits/").splits["all"].ids == ["1.png"]
    assert datasets.load("pets").name == datasets.load("./pets").name == "pets"
    for name, error, message in [
        ("cifar1", UsageError, "unknown data set 'cifar1'"),
        ("", UsageError, "unknown data set ''"),
        ("no/such", ClipkitError, "no/such is not a folder"),
        ("photo.png", ClipkitError, "photo.png is not a folder"),
    ]:
        with pytest.raises(error, match=message):
            datasets.load(name)
    with pytest.raises(UsageError, match="a root goes with a named data set"):
        datasets.load("pets", root=tmp_path)
    with pytest.raises(UsageError, match="unknown split of digits 'tset'") as caught:
        datasets.load("digits", splits=["tset"])
    assert caught.value.hint == "did you mean test?"


def test_real_images(cifar10_root):
    data = datasets.load(cifar10_root, limit=300)
    assert data.class_names[:3] == ["airplane", "automobile", "bird"]
    for split in ("train", "test"):
        rows = data.splits[split]
        assert np.bincount(rows.labels).tolist() == [30] * 10
        assert rows.ids == sorted(rows.ids)
        with ThreadPoolExecutor(4) as pool:
            pictures = list(pool.map(rows.image, range(len(rows))))
        assert all(picture.mode == "RGB" and picture.size == (32, 32) for picture in pictures)
        with Image.open(cifar10_root / split / rows.ids[17]) as same:
            assert pictures[17].tobytes() == same.convert("RGB").tobytes()
        assert data.class_names[rows.labels[17]] == rows.ids[17].split("/")[0]


# Draws

labels_of = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def made(labels: list[int] | None, n: int | None = None) -> Dataset:
    n = n or len(labels)
    source = Arrays(np.arange(n, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2))
    rows = Split(
        [f"{i:03d}" for i in range(n)],
        None if labels is None else np.array(labels, np.int64),
        source,
    )
    return Dataset("made", list("abcde"), {"all": rows})


@given(labels_of, st.integers(1, 70), st.integers(1, 70))
def test_limits_are_balanced_nested_and_in_order(labels, small, large):
    small, large = sorted((small, large))
    less, more = (made(labels).draw_rows(limit, 42).splits["all"] for limit in (small, large))
    assert len(less) == min(small, len(labels))
    assert set(less.ids) <= set(more.ids)
    assert less.ids == sorted(less.ids)
    assert red(less) == [int(name) for name in less.ids]
    assert less.labels.tolist() == [labels[int(name)] for name in less.ids]
    sizes, drawn = np.bincount(labels, minlength=5), np.bincount(less.labels, minlength=5)
    for many in np.flatnonzero(
        drawn < sizes
    ):  # whoever could give more gives as many as anyone, but for one
        assert drawn[many] >= drawn.max() - 1


def test_draws_never_change():
    split = made([0, 0, 0, 0, 1, 1, 2, 1]).splits["all"]
    assert split.draw_order(42).tolist() == [1, 5, 6, 0, 7, 2, 4, 3]
    assert made(None, 8).splits["all"].draw_order(42).tolist() == [1, 5, 0, 7, 2, 4, 3, 6]
    assert made([0, 1, 2, 3, 4]).draw_classes(2, 42).class_names == ["b", "e"]


def test_which_class_gives_the_odd_row_is_drawn():
    one_each = made(list(range(5)))
    assert len({one_each.draw_rows(1, seed).splits["all"].ids[0] for seed in range(40)}) == 5


@given(labels_of, st.integers(1, 5))
def test_classes_are_renumbered_in_order(labels, classes):
    data = made(labels).draw_classes(classes, 7)
    rows = data.splits["all"]
    assert data.class_names == sorted(data.class_names)
    assert len(data.class_names) == classes
    assert [data.class_names[label] for label in rows.labels] == [
        "abcde"[labels[int(name)]] for name in rows.ids
    ]
    assert len(rows) == sum("abcde"[label] in data.class_names for label in labels)
    assert set(data.class_names) <= set(made(labels).draw_classes(5, 7).class_names)


def test_draws_are_recorded_and_checked(tmp_path):
    data = datasets.load("digits", limit=10, classes=3, seed=1)
    assert data.details["name"] == "digits"
    assert data.details["draw"] == {"limit": 10, "classes": 3, "seed": 1}
    assert data.details["splits"]["test"]["images"] == 10
    assert json.loads(json.dumps(data.details)) == data.details
    other = datasets.load("digits", limit=10, classes=3, seed=2)
    assert other.details["splits"]["test"]["rows"] != data.details["splits"]["test"]["rows"]
    assert "draw" not in datasets.load("digits").details
    for options, message in [
        ({"limit": 0}, "at least 1 row a split; got 0"),
        ({"classes": 0}, "must be 1 to 10, as many as digits has; got 0"),
        ({"classes": 11}, "got 11"),
    ]:
        with pytest.raises(UsageError, match=message):
            datasets.load("digits", **options)
    with pytest.raises(UsageError, match=r"all of .* has no labels"):
        datasets.load(grow(tmp_path, "1.png"), classes=1)


# Named data sets


def test_digits():
    from sklearn.datasets import load_digits

    data, bunch = datasets.load("digits"), load_digits()
    rows = {name: np.array(split.ids, dtype=int) for name, split in data.splits.items()}
    assert {name: len(numbers) for name, numbers in rows.items()} == {"train": 1347, "test": 450}
    assert sorted([*rows["train"], *rows["test"]]) == list(range(1797))
    for name, split in data.splits.items():
        assert (split.labels == bunch.target[rows[name]]).all()
        assert (np.diff(rows[name]) > 0).all()
    share = np.bincount(data.splits["test"].labels) / np.bincount(bunch.target)
    assert ((share > 0.24) & (share < 0.26)).all()
    image = np.asarray(data.splits["test"].image(5))
    assert image.shape == (8, 8, 3)
    assert np.abs(image[..., 1] - bunch.images[rows["test"][5]] * 255 / 16).max() <= 0.5


def test_shapes_are_drawn_as_the_world_draws_them():
    from clipkit import shapes

    data = datasets.load("shapes", limit=200)
    assert data.class_names == list(shapes.CLASS_NAMES)
    test = data.splits["test"]
    assert np.bincount(test.labels).tolist() == [2] * 100
    assert (test.labels == shapes.labels("test", 5000, 0)[[int(name) for name in test.ids]]).all()
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(test.image, range(200)))
    for i in (0, 63, 64, 199):
        alone = shapes.render([int(test.ids[i])], split="test", seed=data.details["seed"], size=64)[
            0
        ]
        assert (np.asarray(drawn[i]) == alone).all()
    assert {name: len(split) for name, split in datasets.load("shapes").splits.items()} == {
        "train": 20_000,
        "test": 5_000,
    }


def test_drawn_images_are_drawn_once_and_not_kept_for_ever():
    calls = []

    def draw(numbers: np.ndarray) -> np.ndarray:
        calls.append(len(numbers))
        time.sleep(0.002)  # the others come for the same block meanwhile
        return np.broadcast_to(
            (numbers % 256).astype(np.uint8)[:, None, None, None], (len(numbers), 2, 2, 3)
        )

    source = Drawn(draw, np.arange(1000)).take(np.arange(0, 1000, 2))
    with ThreadPoolExecutor(8) as pool:
        pixels = [image.getpixel((0, 0))[0] for image in pool.map(source.image, range(500))]
    assert pixels == [number % 256 for number in range(0, 1000, 2)]
    assert calls == [64] * 7 + [52]
    source.image(499)
    source.image(0)
    assert len(calls) == 8
    many = Drawn(draw, np.arange(10_000))
    for i in range(0, 10_000, 64):
        many.image(i)
    assert len(many._blocks) == Drawn.kept


@pytest.fixture
def alone(monkeypatch, tmp_path) -> Path:
    """A machine without a network, Debian's package or a cache; gives the folder of the cache."""

    def refuse(*args: object, **options: object) -> None:
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(sources, "DEBIAN_FASHION_MNIST", tmp_path / "absent")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "datasets"


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "food101", "imagenette", "fashion-mnist", "tiny-imagenet"]
)
def test_without_a_network_the_error_says_what_to_do(alone, tmp_path, name, capfd):
    for root, home in ((None, alone), (tmp_path / "mine", tmp_path / "mine")):
        with pytest.raises(ClipkitError) as caught:
            datasets.load(name, root=root)
        assert caught.value.message.startswith(f"{name} must ")
        assert str(home) in caught.value.message
        assert "\n" not in caught.value.message
        assert str(home) in caught.value.hint
        if name != "tiny-imagenet":
            assert "Name or service not known" in caught.value.message
        assert not home.exists() or not list(home.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_silent_host_is_not_waited_for(alone, monkeypatch, tmp_path):
    waits = []

    def time_out(*args: object, **options: object) -> None:
        waits.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", time_out)
    with pytest.raises(ClipkitError, match="downloading failed: timed out"):
        datasets.load("imagenette", root=tmp_path / "root")
    assert set(waits) == {sources.PATIENCE}
    assert socket.getdefaulttimeout() is None


def test_the_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "/t")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert sources.cache() == Path("/t/datasets")
    monkeypatch.delenv("TORCH_HOME")
    assert sources.cache() == Path("/x/torch/datasets")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert sources.cache() == Path.home() / ".cache" / "torch" / "datasets"


def cifar(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A miniature in the layout of torchvision's class, which is told its checksums; gives its training pixels."""
    import torchvision

    made = getattr(torchvision.datasets, kind)
    key, names = (
        ("labels", "label_names") if kind == "CIFAR10" else ("fine_labels", "fine_label_names")
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    folder.mkdir(parents=True)
    files = {"one": {"data": pixels[:2], key: [1, 0]}, "two": {"data": pixels[2:], key: [1]}}
    files["meta"] = {names: ["aquarium_fish", "bear"]}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in files}
    monkeypatch.setattr(made, "base_folder", folder.name)
    monkeypatch.setattr(made, "train_list", [["one", sums["one"]]])
    monkeypatch.setattr(made, "test_list", [["two", sums["two"]]])
    monkeypatch.setattr(made, "meta", {"filename": "meta", "key": names, "md5": sums["meta"]})
    return pixels


@pytest.mark.parametrize(
    ("kind", "folder"), [("CIFAR10", "cifar-10-batches-py"), ("CIFAR100", "cifar-100-python")]
)
def test_cifar_by_torchvision(alone, tmp_path, monkeypatch, kind, folder):
    pixels = cifar(tmp_path / "root" / folder, kind, monkeypatch)
    for root in (tmp_path / "root", tmp_path / "root" / folder):
        data = datasets.load(kind.lower(), root=root)
        assert data.class_names == ["aquarium_fish", "bear"]
        assert data.splits["train"].ids == ["0", "1"]
        assert data.splits["train"].labels.tolist() == [1, 0]
        image = np.asarray(data.splits["train"].image(1))
        assert (image == pixels[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()
        assert data.splits["test"].labels.tolist() == [1]
    (tmp_path / "root" / folder / "one").write_bytes(b"other")
    with pytest.raises(
        ClipkitError, match=r"must hold cifar100? as torchvision unpacks it"
    ) as caught:
        datasets.load(kind.lower(), root=tmp_path / "root")
    assert "remove that folder" in caught.value.hint


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A web server on this machine over the folder `host`; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    (tmp_path / "host").mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "host")
    ) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_downloads_appear_whole_or_not_at_all(tmp_path, monkeypatch, host, capfd):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "scratch" / "cifar-10-batches-py"
    cifar(folder, "CIFAR10", monkeypatch)
    archive = tmp_path / "host" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    whole = archive.read_bytes()
    monkeypatch.setattr(CIFAR10, "url", f"{host}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(whole).hexdigest())
    root = tmp_path / "root"

    archive.write_bytes(whole[:-10])
    with pytest.raises(ClipkitError, match="downloading failed: File not found or corrupted"):
        datasets.load("cifar10", root=root)
    assert list(root.iterdir()) == []

    archive.write_bytes(whole)
    assert len(datasets.load("cifar10", root=root).splits["train"]) == 2
    assert [path.name for path in root.iterdir()] == [folder.name]

    shutil.rmtree(root / folder.name)
    archive.rename(root / archive.name)  # what the error advises: the archive, brought by hand
    assert len(datasets.load("cifar10", root=root).splits["train"]) == 2
    assert capfd.readouterr() == ("", "")


def test_food101_by_torchvision(alone, tmp_path):
    root = tmp_path / "food-101"
    grow(root / "images", "waffles/1.jpg", "waffles/2.jpg", "apple_pie/7.jpg")
    (root / "meta").mkdir()
    (root / "meta" / "train.json").write_text(
        '{"apple_pie": ["apple_pie/7"], "waffles": ["waffles/2"]}'
    )
    (root / "meta" / "test.json").write_text('{"apple_pie": [], "waffles": ["waffles/1"]}')
    data = datasets.load("food101", root=tmp_path)
    assert data.class_names == ["apple_pie", "waffles"]
    assert data.splits["train"].ids == ["apple_pie/7.jpg", "waffles/2.jpg"]
    assert data.splits["train"].labels.tolist() == [0, 1]
    assert red(data.splits["train"]) == [2, 1]
    assert data.splits["test"].labels.tolist() == [1]


def test_imagenette_by_torchvision(alone, tmp_path):
    root = tmp_path / "imagenette2"
    for split in ("train", "val"):
        grow(root / split, "n03000684/b.JPEG", "n01440764/a.JPEG")
    data = datasets.load("imagenette", root=tmp_path)
    assert data.class_names == ["tench", "chain saw"]
    assert list(data.splits) == ["train", "test"]
    assert data.splits["test"].ids == ["n01440764/a.JPEG", "n03000684/b.JPEG"]
    assert red(data.splits["test"]) == [1, 0]
    shutil.rmtree(root / "val")
    with pytest.raises(ClipkitError, match="must hold imagenette as torchvision unpacks it"):
        datasets.load("imagenette", root=tmp_path)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def test_fashion_mnist_from_idx_files(alone, tmp_path):
    pixels = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    mine, torchs = tmp_path / "mine", tmp_path / "torchs" / "FashionMNIST" / "raw"
    for folder, pack, ending in ((mine, gzip.compress, ".gz"), (torchs, bytes, "")):
        folder.mkdir(parents=True)
        for prefix in ("train", "t10k"):
            (folder / f"{prefix}-images-idx3-ubyte{ending}").write_bytes(pack(idx(pixels)))
            (folder / f"{prefix}-labels-idx1-ubyte{ending}").write_bytes(
                pack(idx(np.array([9, 0], np.uint8)))
            )
    for root in (mine, tmp_path / "torchs"):
        data = datasets.load("fashion-mnist", root=root)
        assert data.class_names[0] == "T-shirt/top"
        assert data.splits["train"].labels.tolist() == [9, 0]
        assert (np.asarray(data.splits["test"].image(1)) == pixels[1][..., None]).all()
    for damage in (
        b"",
        b"\0\0\x08\x01\0\0\0\x02\x01",
        b"\0\0\x0d\x01\0\0\0\0",
        idx(np.zeros(3, np.uint8)),
    ):
        (torchs / "train-labels-idx1-ubyte").write_bytes(damage)
        with pytest.raises(ClipkitError, match=r"must be a sound IDX file|must match"):
            datasets.load("fashion-mnist", root=tmp_path / "torchs")


@pytest.mark.skipif(
    not sources.DEBIAN_FASHION_MNIST.exists(),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_fashion_mnist_from_debian(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    data = datasets.load("fashion-mnist", limit=100)
    assert np.bincount(data.splits["train"].labels).tolist() == [10] * 10
    assert data.splits["test"].image(0).size == (28, 28)
    whole = datasets.load("fashion-mnist", root=sources.DEBIAN_FASHION_MNIST)
    assert {name: len(split) for name, split in whole.splits.items()} == {
        "train": 60_000,
        "test": 10_000,
    }
    assert whole.splits["train"].labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert set(data.splits["test"].ids) < set(whole.splits["test"].ids)


def tiny_imagenet(top: Path) -> Path:
    grow(
        top / "train",
        "n2/images/n2_1.JPEG",
        "n2/images/n2_0.JPEG",
        "n1/images/n1_0.JPEG",
        "n3/images/n3_0.JPEG",
    )
    grow(top / "val" / "images", "val_1.JPEG", "val_0.JPEG")
    (top / "wnids.txt").write_text("n2\nn1\nn3\n")
    (top / "words.txt").write_text(
        "n0\tentity\nn1\tgoldfish, Carassius auratus\nn2\tEuropean fire salamander\nn3\tcat\n"
    )
    (top / "val" / "val_annotations.txt").write_text(
        "val_1.JPEG\tn1\t0\t0\t63\t63\nval_0.JPEG\tn3\t1\t1\t2\t2\n"
    )
    return top


def test_tiny_imagenet_in_its_official_layout(tmp_path):
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    for root in (tmp_path, tmp_path / "tiny-imagenet-200"):
        data = datasets.load("tiny-imagenet", root=root)
        assert data.class_names == ["goldfish", "European fire salamander", "cat"]
        train, test = data.splits["train"], data.splits["test"]
        assert train.ids == [
            "n1/images/n1_0.JPEG",
            "n2/images/n2_0.JPEG",
            "n2/images/n2_1.JPEG",
            "n3/images/n3_0.JPEG",
        ]
        assert train.labels.tolist() == [0, 1, 1, 2]
        assert red(train) == [2, 1, 0, 3]
        assert test.ids == ["images/val_0.JPEG", "images/val_1.JPEG"]
        assert test.labels.tolist() == [2, 0]
        assert red(test) == [1, 0]
    drawn = datasets.load("tiny-imagenet", root=tmp_path, classes=2)
    again = datasets.load("tiny-imagenet", root=tmp_path, classes=2)
    assert len(drawn.class_names) == 2
    assert drawn.class_names == again.class_names
    assert drawn.details == again.details
    assert drawn.splits["train"].labels.max() == 1


@pytest.mark.parametrize(
    "line", ["val_2.JPEG", "val_2.JPEG\tn9", "../../x.JPEG\tn1", "val_1.JPEG\tn1", ""]
)
def test_tiny_imagenet_with_bad_annotations(tmp_path, line):
    with (tiny_imagenet(tmp_path) / "val" / "val_annotations.txt").open("a") as notes:
        notes.write(f"{line}\n")
    with pytest.raises(ClipkitError, match=r"val_annotations.txt, line 3"):
        datasets.load("tiny-imagenet", root=tmp_path)


def test_every_registered_name_is_documented():
    names = [
        "cifar10",
        "cifar100",
        "food101",
        "imagenette",
        "tiny-imagenet",
        "fashion-mnist",
        "digits",
        "shapes",
    ]
    assert list(datasets.REGISTRY) == names
    for source in datasets.REGISTRY.values():
        assert source.__doc__
