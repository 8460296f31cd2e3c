"""The named data sets: from torchvision, scikit-learn, Debian, an unpacked archive or clipkit.

Each function takes the folder of the files, or None for the default, and returns a `Dataset` with
rows in their published order. `CLASS_NAMES` has the names of the classes, in the order of the
data, so that prompts for them need no download.
"""

from __future__ import annotations

import functools
import gzip
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.base import files, names
from clipkit.base.errors import ClipkitError, shorten
from clipkit.datasets import downloads, images
from clipkit.datasets.dataset import Dataset, ImageDataset, RenderedImages
from clipkit.datasets.downloads import Download
from clipkit.datasets.folders import IdAndPath, find_images
from clipkit.features.model import row_ids

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
FOOD101 = """
apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap
bread_pudding breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche
cheese_plate cheesecake chicken_curry chicken_quesadilla chicken_wings chocolate_cake
chocolate_mousse churros clam_chowder club_sandwich crab_cakes creme_brulee croque_madame cup_cakes
deviled_eggs donuts dumplings edamame eggs_benedict escargots falafel filet_mignon fish_and_chips
foie_gras french_fries french_onion_soup french_toast fried_calamari fried_rice frozen_yogurt
garlic_bread gnocchi greek_salad grilled_cheese_sandwich grilled_salmon guacamole gyoza hamburger
hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna lobster_bisque
lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings
oysters pad_thai paella pancakes panna_cotta peking_duck pho pizza pork_chop poutine prime_rib
pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa sashimi scallops seaweed_salad
shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak strawberry_shortcake
sushi tacos takoyaki tiramisu tuna_tartare waffles
"""
# the first name of each WordNet id, in the order of the ids
IMAGENETTE = (
    "tench,English springer,cassette player,chain saw,church,French horn,garbage truck,gas pump,"
    "golf ball,parachute"
)
FASHION_MNIST = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"

IDX_FILES = [
    f"{prefix}-{kind}-ubyte"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
TINY_IMAGENET = Download(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"
)
ANNOTATIONS = "val/val_annotations.txt"  # of Tiny ImageNet
FOLDERS = {  # that the published archives unpack
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "food101": "food-101",
    "imagenette": "imagenette2",
    "tiny-imagenet": "tiny-imagenet-200",
}


def cache_folder() -> Path:
    """Return the folder of data sets without a root: `datasets` in the cache of torch.

    That is ``$TORCH_HOME/datasets``, else ``$XDG_CACHE_HOME/torch/datasets``, else
    ``~/.cache/torch/datasets``. torch has a function for this, but importing torch takes seconds.
    """
    home = Path(os.environ.get("TORCH_HOME") or files.user_cache() / "torch")
    return home.expanduser() / "datasets"


def is_stored(name: str, root: Path | None) -> bool:
    """Return whether the files of a named data set are there, so that it needs no download."""
    if name == "fashion-mnist":
        folder = _idx_folder(root)
        return all(any(folder.glob(f"{file}*")) for file in IDX_FILES)
    return name not in FOLDERS or _folder(name, root).exists()


def _folder(name: str, root: Path | None) -> Path:
    """Return the folder of a data set, which may be missing: in `root`, or `root` itself."""
    home = root or cache_folder()
    is_top = name == "tiny-imagenet" and (home / "wnids.txt").exists()
    return home if is_top or home.name == FOLDERS[name] else home / FOLDERS[name]


def cifar10(root: Path | None) -> Dataset:
    """Load CIFAR-10: 50,000 + 10,000 images, 32 px, 10 classes. Ids are row numbers."""
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, root)


def cifar100(root: Path | None) -> Dataset:
    """Load CIFAR-100 with its 100 fine classes, otherwise as CIFAR-10."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, root)


def _cifar(kind: Any, root: Path | None) -> Dataset:
    options = {"train": {"train": True}, "test": {"train": False}}
    archive = Download(kind.url, kind.tgz_md5)
    parts = _load_torchvision(kind, archive, root, options)
    splits = {}
    for name, part in parts.items():
        splits[name] = ImageDataset.from_array(part.data, part.targets)
    return Dataset(kind.__name__.lower(), list(parts["test"].classes), splits)


def food101(root: Path | None) -> Dataset:
    """Load Food-101: 75,750 + 25,250 images of up to 512 px, 101 classes.

    Ids are the paths of the files in `images`.
    """
    from torchvision.datasets import Food101

    archive = Download(Food101._URL, Food101._MD5)
    options = {"train": {"split": "train"}, "test": {"split": "test"}}
    parts = _load_torchvision(Food101, archive, root, options)
    splits = {}
    for name, part in parts.items():
        files = [(f"{path.parent.name}/{path.name}", str(path)) for path in part._image_files]
        splits[name] = ImageDataset.from_files(files, part._labels)
    return Dataset("food101", list(parts["train"].classes), splits)


def imagenette(root: Path | None) -> Dataset:
    """Load Imagenette at full size: 9,469 + 3,925 images, 10 classes.

    The split `test` holds its validation images. Each class has the first of torchvision's names
    for it. Ids are the paths of the files in `train` and `val`.
    """
    from torchvision.datasets import Imagenette

    archive = Download(*Imagenette._ARCHIVES["full"])
    options = {"train": {"split": "train"}, "test": {"split": "val"}}
    parts = _load_torchvision(Imagenette, archive, root, options)
    splits = {}
    for name, part in parts.items():
        files = [("/".join(Path(path).parts[-2:]), path) for path, _ in part._samples]
        splits[name] = ImageDataset.from_files(files, [label for _, label in part._samples])
    class_names = [names[0] for names in parts["train"].classes]
    details = {"official_splits": {"train": "train", "test": "val"}}
    return Dataset("imagenette", class_names, splits, details)


def fashion_mnist(root: Path | None) -> Dataset:
    """Load Fashion-MNIST: 60,000 + 10,000 grey images, 28 px, 10 classes. Ids are row numbers.

    Its four IDX files, gzipped or not, are read from `root` or, without a root, from Debian's
    package dataset-fashion-mnist. If there are none, they are read from torchvision's
    ``FashionMNIST/raw`` in `root`, to which they are downloaded.
    """
    from torchvision.datasets import FashionMNIST

    folder = _idx_folder(root)
    for name, md5 in FashionMNIST.resources:
        if not (folder / name.removesuffix(".gz")).exists():
            file = Download(f"{FashionMNIST.mirrors[0]}{name}", md5)
            downloads.provide("fashion-mnist", file, folder / name)
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels = _read_idx(folder, f"{prefix}-images-idx3-ubyte")
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte")
        if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
            raise ClipkitError(
                f"{folder}: expected a label for each {split} image, "
                f"got shapes {pixels.shape} and {labels.shape}"
            )
        splits[split] = ImageDataset.from_array(pixels, labels)
    return Dataset("fashion-mnist", list(FashionMNIST.classes), splits)


def _idx_folder(root: Path | None) -> Path:
    """Return the folder that has the files of Fashion-MNIST, or else torchvision's folder."""
    folder = root or DEBIAN_FASHION_MNIST
    if any(folder.glob("train-images-idx3-ubyte*")):
        return folder
    return (root or cache_folder()) / "FashionMNIST" / "raw"


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read an IDX file, gzipped or not. (torchvision's reader takes no gzipped files.)

    The file holds two zeros, the type (8: bytes), the number of axes, the lengths as big-endian
    int32, and the values.
    """
    path = folder / name
    try:
        if path.exists():
            data = path.read_bytes()
        else:
            data = gzip.decompress((folder / f"{name}.gz").read_bytes())
        if data[:3] != b"\0\0\x08":
            raise ValueError("expected an IDX file of bytes, got other content")
        shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise ClipkitError(
            f"cannot read {path}: {images.reason(error)}", "replace the file"
        ) from error


def tiny_imagenet(root: Path | None) -> Dataset:
    """Load Tiny ImageNet in its official layout: 100,000 + 10,000 images, 64 px, 200 classes.

    `root` holds ``wnids.txt``, or ``tiny-imagenet-200/``, which is downloaded if it is absent. The
    split `test` holds the labelled validation images, as in the literature: the official test
    images have no labels. Classes are in the order of their WordNet ids, and each has the first of
    its names in ``words.txt``. Ids are the paths of the files in `train` and `val`.
    """
    top = _folder("tiny-imagenet", root)
    downloads.provide("tiny-imagenet", TINY_IMAGENET, top)
    wnids = sorted(set(_read_lines(top, "wnids.txt")) - {""})
    names = dict(line.split("\t", 1) for line in _read_lines(top, "words.txt") if "\t" in line)
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    train_files: list[IdAndPath] = []
    train_labels: list[int] = []
    for wnid, label in label_of.items():
        files = find_images(str(top / "train" / wnid / "images"), prefix=f"{wnid}/images/")
        train_files += files
        train_labels += [label] * len(files)
    val_labels = _read_annotations(top, label_of)
    val_files = sorted(val_labels)
    splits = {
        "train": ImageDataset.from_files(train_files, train_labels),
        "test": ImageDataset.from_files(val_files, [val_labels[file] for file in val_files]),
    }
    class_names = [names.get(wnid, wnid).split(",")[0] for wnid in wnids]
    details = {"official_splits": {"train": "train", "test": "val"}}
    return Dataset("tiny-imagenet", class_names, splits, details)


def _read_annotations(top: Path, label_of: Mapping[str, int]) -> dict[IdAndPath, int]:
    """Return the label of each validation image. A line holds a file name, a class and a box."""
    labels: dict[IdAndPath, int] = {}
    for number, line in enumerate(_read_lines(top, ANNOTATIONS), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        file = (f"images/{names.escape(name)}", str(top / "val" / "images" / name))
        if wnid not in label_of or "/" in name or file in labels:
            raise ClipkitError(
                f"{top / ANNOTATIONS}, line {number}: "
                f"expected a new file name and a class of wnids.txt, got {shorten(line, 80)!r}",
                f"remove {top} to download it again",
            )
        labels[file] = label_of[wnid]
    return labels


def _read_lines(top: Path, name: str) -> list[str]:
    try:
        return (top / name).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ClipkitError(
            f"tiny-imagenet: cannot read {top / name}: {images.reason(error)}",
            f"remove {top} to download it again, or name another folder with --root",
        ) from error


def digits(root: Path | None) -> Dataset:
    """Load scikit-learn's digits: 1,797 grey images, 8 px, 10 classes. Ids are its row numbers.

    A stratified quarter (seed 42) is the split `test`. Grey levels 0..16 become 0..255.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    whole = ImageDataset.from_array(pixels, bunch.target)
    train, test = train_test_split(np.arange(len(whole)), stratify=bunch.target, random_state=42)
    splits = {"train": whole.take(np.sort(train)), "test": whole.take(np.sort(test))}
    return Dataset("digits", [str(name) for name in bunch.target_names], splits)


def shapes(root: Path | None) -> Dataset:
    """Render `shapes`, bundled with clipkit: 20,000 + 5,000 images, 64 px, 100 classes.

    Ids are row numbers.
    """
    from clipkit import shapes

    seed, size = 0, shapes.DEFAULT_SIZE
    splits = {}
    for split, n in shapes.DEFAULT_SPLITS.items():
        render = functools.partial(shapes.render, split=split, seed=seed, size=size)
        labels = shapes.labels(np.arange(n), split=split, seed=seed)
        splits[split] = ImageDataset(row_ids(n), labels, RenderedImages(render, np.arange(n)))
    return Dataset("shapes", list(shapes.CLASS_NAMES), splits, {"size": size, "seed": seed})


def _load_torchvision(
    kind: Any, archive: Download, root: Path | None, options: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Load each split of a data set of torchvision, which is downloaded if it is absent.

    `kind` is a class of torchvision. `root` holds the folder of the data set or is that folder.
    `options` select each split. torchvision's own download starts over after an interruption, and
    takes a half unpacked archive for a complete one.
    """
    name = kind.__name__.lower()
    folder = _folder(name, root)
    downloads.provide(name, archive, folder)
    try:
        return {split: kind(folder.parent, **selection) for split, selection in options.items()}
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ClipkitError(
            f"cannot read {name} in {folder}: {images.reason(error)}",
            "remove that folder to download it again",
        ) from error


REGISTRY: dict[str, Callable[[Path | None], Dataset]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "food101": food101,
    "imagenette": imagenette,
    "tiny-imagenet": tiny_imagenet,
    "fashion-mnist": fashion_mnist,
    "digits": digits,
    "shapes": shapes,
}


def _shape_names() -> list[str]:
    from clipkit import shapes

    return list(shapes.CLASS_NAMES)


# Tiny ImageNet is absent: its names are read from words.txt of the data.
CLASS_NAMES: dict[str, Callable[[], list[str]]] = {
    "cifar10": CIFAR10.split,
    "cifar100": CIFAR100.split,
    "food101": FOOD101.split,
    "imagenette": lambda: IMAGENETTE.split(","),
    "fashion-mnist": lambda: FASHION_MNIST.split(","),
    "digits": lambda: [str(digit) for digit in range(10)],
    "shapes": _shape_names,
}
