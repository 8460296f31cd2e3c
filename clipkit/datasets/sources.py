"""Where the named data sets come from: torchvision, scikit-learn, Debian, an unpacked archive, or clipkit itself.

Each function takes the folder of the files, or None for the default, and gives a `Dataset` in its published row order.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import os
import socket
import sys
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.datasets import images
from clipkit.datasets.dataset import Dataset, Drawn, Split, from_arrays, from_files, numbered
from clipkit.errors import ClipkitError

DEBIAN_FASHION_MNIST = Path(
    "/usr/share/datasets/fashion-mnist"
)  # of the package dataset-fashion-mnist
BROKEN = (
    OSError,
    RuntimeError,
    HTTPException,
    tarfile.TarError,
    EOFError,
    zlib.error,
)  # what downloading ends in
PATIENCE = 30  # seconds without a byte


def cache() -> Path:
    """Where data sets lie without a root: `datasets` in torch's cache.

    That is ``$TORCH_HOME/datasets``, else ``$XDG_CACHE_HOME/torch/datasets``, else ``~/.cache/torch/datasets``.
    """
    home = (
        os.environ.get("TORCH_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    )
    return Path(home).expanduser() / "datasets"


def cifar10(root: Path | None) -> Dataset:
    """CIFAR-10: 50,000 + 10,000 images, 32 px, 10 classes; ids are torchvision's row numbers."""
    return _cifar(
        "CIFAR10",
        "cifar-10-batches-py",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        root,
    )


def cifar100(root: Path | None) -> Dataset:
    """CIFAR-100 with its 100 fine classes, otherwise as CIFAR-10."""
    return _cifar(
        "CIFAR100",
        "cifar-100-python",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        root,
    )


def _cifar(kind: str, folder: str, url: str, root: Path | None) -> Dataset:
    train, test = _torchvision(kind, folder, url, root, {"train": True}, {"train": False})
    splits = {
        "train": from_arrays(train.data, train.targets),
        "test": from_arrays(test.data, test.targets),
    }
    return Dataset(kind.lower(), list(test.classes), splits)


def food101(root: Path | None) -> Dataset:
    """Food-101: 75,750 + 25,250 images of up to 512 px, 101 classes; ids are the files' paths in `images`."""
    url = "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"
    train, test = _torchvision(
        "Food101", "food-101", url, root, {"split": "train"}, {"split": "test"}
    )
    splits = {}
    for name, part in (("train", train), ("test", test)):
        files = [(f"{path.parent.name}/{path.name}", str(path)) for path in part._image_files]
        splits[name] = from_files(files, part._labels)
    return Dataset("food101", list(train.classes), splits)


def imagenette(root: Path | None) -> Dataset:
    """Imagenette at full size: 9,469 + 3,925 images, 10 classes; its validation images are the split `test`.

    A class is called by the first of torchvision's names for it. Ids are the files' paths in `train` and `val`.
    """
    url = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz"
    train, val = _torchvision(
        "Imagenette", "imagenette2", url, root, {"split": "train"}, {"split": "val"}
    )
    splits = {}
    for name, part in (("train", train), ("test", val)):
        files = [("/".join(Path(path).parts[-2:]), path) for path, _ in part._samples]
        splits[name] = from_files(files, [label for _, label in part._samples])
    return Dataset(
        "imagenette",
        [names[0] for names in train.classes],
        splits,
        {"official_splits": {"train": "train", "test": "val"}},
    )


def fashion_mnist(root: Path | None) -> Dataset:
    """Fashion-MNIST: 60,000 + 10,000 grey images, 28 px, 10 classes; ids are the row numbers.

    Its four IDX files, gzipped or not, may lie in `root`, in torchvision's ``FashionMNIST/raw`` below it, or, without a
    root, where Debian's package dataset-fashion-mnist puts them; else torchvision downloads them.
    """
    from torchvision.datasets import FashionMNIST

    home = root or cache()
    raw = home / "FashionMNIST" / "raw"
    folders = [raw, home] if root else [raw, DEBIAN_FASHION_MNIST]
    found = next(
        (folder for folder in folders if any(folder.glob("train-images-idx3-ubyte*"))), raw
    )
    if not found.exists():
        advice = (
            f"apt-get install dataset-fashion-mnist, or put its four files from elsewhere in {raw}"
        )
        _download("fashion-mnist", FashionMNIST, home, "FashionMNIST", advice)
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels, labels = (
            _idx(found, f"{prefix}-images-idx3-ubyte"),
            _idx(found, f"{prefix}-labels-idx1-ubyte"),
        )
        if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
            raise ClipkitError(
                f"{found}: images and labels must match; got {pixels.shape} and {labels.shape}"
            )
        splits[split] = from_arrays(pixels, labels)
    return Dataset("fashion-mnist", list(FashionMNIST.classes), splits)


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """The array in an IDX file: two zeros, the type (8: bytes), the number of axes, lengths as big-endian int32."""
    path = folder / name
    try:
        data = (
            path.read_bytes()
            if path.exists()
            else gzip.decompress((folder / f"{name}.gz").read_bytes())
        )
        shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
        if data[:3] != b"\0\0\x08":
            raise ValueError("it is not an IDX file of bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise ClipkitError(
            f"{path} must be a sound IDX file; {images.reason(error)}", "put it there again"
        ) from error


def tiny_imagenet(root: Path | None) -> Dataset:
    """Tiny ImageNet in its official layout: 100,000 + 10,000 images, 64 px, 200 classes.

    `root` holds ``wnids.txt`` or ``tiny-imagenet-200/wnids.txt``. The labelled validation images are the split `test`,
    as in the literature (the official test images have no labels). Classes are in the order of their WordNet ids, each
    called by the first of its names in ``words.txt``. Ids are the files' paths in `train` and `val`.
    """
    home = root or cache()
    top = home if (home / "wnids.txt").exists() else home / "tiny-imagenet-200"
    wnids, words, notes = (
        _lines(top, name) for name in ("wnids.txt", "words.txt", "val/val_annotations.txt")
    )
    number = {wnid: i for i, wnid in enumerate(sorted(filter(None, wnids)))}
    train, val = {}, {}
    for wnid, i in number.items():
        for file, path in images.find(str(top / "train" / wnid / "images")):
            train[f"{wnid}/images/{file}", path] = i
    for line, note in enumerate(notes, start=1):
        file, wnid, *_ = *note.split("\t"), ""
        row = f"images/{images.escape(file)}", str(top / "val" / "images" / file)
        if wnid not in number or "/" in file or row in val:
            message = f"{top}/val/val_annotations.txt, line {line}: must hold a new file name and a class of wnids.txt"
            raise ClipkitError(message, "unpack tiny-imagenet-200.zip again")
        val[row] = number[wnid]
    names = dict(line.split("\t", 1) for line in words if "\t" in line)
    splits = {
        "train": from_files(list(train), list(train.values())),
        "test": from_files(sorted(val), [val[row] for row in sorted(val)]),
    }
    return Dataset(
        "tiny-imagenet",
        [names.get(wnid, wnid).split(",")[0] for wnid in number],
        splits,
        {"official_splits": {"train": "train", "test": "val"}},
    )


def _lines(top: Path, name: str) -> list[str]:
    try:
        return (top / name).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        message = f"tiny-imagenet must lie unpacked in {top}; {name} cannot be read: {images.reason(error)}"
        hint = f"unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip in {top.parent}, or give its place with --root"
        raise ClipkitError(message, hint) from error


def digits(root: Path | None) -> Dataset:
    """scikit-learn's digits: 1,797 grey images, 8 px, 10 classes; a stratified quarter (seed 42) is `test`.

    The grey levels 0..16 become 0..255. Ids are scikit-learn's row numbers.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    whole = from_arrays(pixels, bunch.target)
    train, test = train_test_split(np.arange(len(whole)), stratify=bunch.target, random_state=42)
    splits = {"train": whole.take(np.sort(train)), "test": whole.take(np.sort(test))}
    return Dataset("digits", [str(name) for name in bunch.target_names], splits)


def shapes(root: Path | None) -> Dataset:
    """The rendered data set that comes with clipkit: 20,000 + 5,000 images, 64 px, 100 classes; ids are row numbers."""
    from clipkit import shapes as world

    splits = {}
    for split, n in (("train", 20_000), ("test", 5_000)):
        draw = functools.partial(world.render, split=split, seed=0, size=64)
        labels = np.asarray(world.labels(split, n, 0), dtype=np.int64)
        splits[split] = Split(numbered(n), labels, Drawn(draw, np.arange(n)))
    return Dataset("shapes", list(world.CLASS_NAMES), splits, {"size": 64, "seed": 0})


def _torchvision(
    kind: str, folder: str, url: str, root: Path | None, *options: dict[str, Any]
) -> list[Any]:
    """Torchvision's data set of that kind, once for each of the options, its files downloaded where they are absent."""
    from torchvision import datasets

    home = root or cache()
    if home.name == folder:  # the unpacked folder itself is a root, too
        home = home.parent
    make = getattr(datasets, kind)
    if not (home / folder).exists():
        advice = (
            f"get {url} elsewhere and put it in {home}, or name a folder that has it with --root"
        )
        _download(kind.lower(), make, home, folder, advice)
    try:
        return [make(home, **option) for option in options]
    except (*BROKEN, KeyError, ValueError) as error:
        message = f"{home / folder} must hold {kind.lower()} as torchvision unpacks it; {images.reason(error)}"
        raise ClipkitError(message, "remove that folder to get it anew") from error


def _download(name: str, make: Any, home: Path, folder: str, advice: str) -> None:
    """Have torchvision download into a scratch folder and move what it unpacked to `home/folder`: all of it or nothing.

    An archive that already lies in `home` is used. (Torchvision alone takes half an unpacked archive for a whole one.)
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=home) as scratch, _polite():
            for archive in home.glob("*.t*gz"):
                (Path(scratch) / archive.name).symlink_to(archive.resolve())
            make(scratch, download=True)
            (Path(scratch) / folder).rename(home / folder)
    except BROKEN as error:
        if not (home / folder).exists():  # another process may have been faster
            message = f"{name} must be in {home} or be downloaded; downloading failed: {images.reason(error)}"
            raise ClipkitError(message, advice) from error


@contextlib.contextmanager
def _polite() -> Iterator[None]:
    """Torchvision's messages and bar go to a terminal's stderr only, and a silent host is not waited for."""
    out = sys.stderr if sys.stderr.isatty() else io.StringIO()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)
