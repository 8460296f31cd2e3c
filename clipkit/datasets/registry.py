"""The named data sets: from torchvision, scikit-learn, Debian, an unpacked archive or clipkit.

Each is one record, `DataSet`, of `REGISTRY`; to add one, add its record. Commands offer and
complete the names, so importing this module loads no heavy library: readers import what they use.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.base import files, names
from clipkit.base.errors import ClipkitError, shorten

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clipkit.datasets.dataset import Dataset, ImageDataset
    from clipkit.datasets.folders import IdAndPath

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

ANNOTATIONS = "val/val_annotations.txt"  # of Tiny ImageNet
SHAPES_SEED = 0
ARCHIVES = (".zip", ".tgz", ".tar.gz")
# The published validation images are the split `test`, as in the literature: their test images
# have no labels, or there are none.
VAL_IS_TEST = {"official_splits": {"train": "train", "test": "val"}}


def cache_folder() -> Path:
    """Return the folder of data sets without a root: `datasets` in the cache of torch.

    That is ``$TORCH_HOME/datasets``, else ``$XDG_CACHE_HOME/torch/datasets``, else
    ``~/.cache/torch/datasets``. torch has a function for this, but importing torch takes seconds.
    """
    home = os.environ.get("TORCH_HOME") or files.user_cache() / "torch"
    return files.expand_user(home) / "datasets"


@dataclass(frozen=True)
class DataSet:
    """A named data set: how it is read, what its classes are called, and what it downloads.

    Parameters
    ----------
    name : str
    read : function from a name and a folder to a `Dataset`
        Its rows are in their published order.
    class_names : function to a list of str, optional
        The names of the classes in the order of the data, so that prompts for them need no
        download. Without it, they are read from the data.
    files : dict of str to str
        The MD5 checksum of each published file, by URL. None where nothing is downloaded.
    size : str
        The size of these files.
    folder : str
        The folder that the archive unpacks, or that holds the files.
    mark : str
        A pattern of a file in that folder. A root that has such a file is that folder, if the
        published files in it have their checksums.
    packaged : Path, optional
        The folder of a package of the system, which is read without a root.
    captions : function from images and their split to a list for each image, optional
    """

    name: str
    read: Callable[[str, Path], Dataset]
    class_names: Callable[[], list[str]] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    size: str = ""
    folder: str = ""
    mark: str = ""
    packaged: Path | None = None
    captions: Callable[[ImageDataset, str], Sequence[Any]] | None = None

    def load(self, root: Path | None = None) -> Dataset:
        """Read the data set, and download what is absent to its folder in `root`."""
        folder = self.find_folder(root)
        for url, path in self._targets(folder).items():
            if not _is_there(path):
                from clipkit.datasets import downloads

                downloads.provide(self.name, downloads.Download(url, self.files[url]), path)
        has_mark_alone = folder == root and not self._has_name(folder)
        if has_mark_alone and folder != self.packaged:
            self._check_published(folder)
        return self.read(self.name, folder)

    def is_stored(self, root: Path | None = None) -> bool:
        """Return whether the files are there, so that nothing is downloaded."""
        return all(map(_is_there, self._targets(self.find_folder(root)).values()))

    def find_folder(self, root: Path | None = None) -> Path:
        """Return the folder of the data set, which may be missing: in `root`, or `root` itself."""
        place = root or self.packaged or cache_folder()
        if self._has_name(place) or (self.mark and any(place.glob(self.mark))):
            return place
        return (root or cache_folder()) / self.folder

    def _has_name(self, place: Path) -> bool:
        """Return whether a path ends with the folder that the archive unpacks."""
        return place.absolute().as_posix().endswith(f"/{self.folder}")

    def _check_published(self, folder: Path) -> None:
        """Refuse the files of another data set, which may be called the same."""
        from clipkit.datasets import downloads

        for url, path in self._targets(folder).items():
            if path == folder:  # what an archive unpacks has no checksum
                continue
            if not path.exists() or downloads.md5_of(path) != self.files[url]:
                raise ClipkitError(
                    f"{path}: expected the published file of {self.name}, got another or none",
                    f"name the folder that holds {self.folder} with --root",
                )

    def _targets(self, folder: Path) -> dict[str, Path]:
        """Return what each URL becomes: the folder, if it is an archive, or a file in it."""
        targets = {}
        for url in self.files:
            file = url.rpartition("/")[2]
            targets[url] = folder if file.endswith(ARCHIVES) else folder / file
        return targets


def _is_there(path: Path) -> bool:
    """Return whether a folder or file exists; a file may also have been decompressed."""
    return path.exists() or path.with_name(path.name.removesuffix(".gz")).exists()


def _torchvision(
    kind: str,
    splits: Mapping[str, Mapping[str, Any]],
    images_of: Callable[[Any], ImageDataset],
    details: Mapping[str, Any] | None = None,
) -> Callable[[str, Path], Dataset]:
    """Return the function that reads a data set by its class in torchvision.

    The class takes `splits` as the options of each split; `images_of` gets what it returns.
    Its own `download` is not used: it takes a half unpacked archive for a complete one.
    """

    def read(name: str, folder: Path) -> Dataset:
        from torchvision import datasets

        from clipkit.datasets.dataset import Dataset
        from clipkit.datasets.images import reason

        load = getattr(datasets, kind)
        try:
            parts = {split: load(folder.parent, **options) for split, options in splits.items()}
        except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
            raise ClipkitError(
                f"cannot read {name} in {folder}: {reason(error)}",
                "remove that folder to download it again",
            ) from error
        class_names = []
        for class_name in parts["train"].classes:  # several names of a class are a tuple
            class_names.append(class_name if isinstance(class_name, str) else class_name[0])
        images = {split: images_of(part) for split, part in parts.items()}
        return Dataset(name, class_names, images, dict(details or {}))

    return read


def _arrays_of_cifar(part: Any) -> ImageDataset:
    from clipkit.datasets.dataset import ImageDataset

    return ImageDataset.from_array(part.data, part.targets)


def _files_of_food101(part: Any) -> ImageDataset:
    from clipkit.datasets.dataset import ImageDataset

    paths = [(f"{path.parent.name}/{path.name}", str(path)) for path in part._image_files]
    return ImageDataset.from_files(paths, part._labels)


def _files_of_imagenette(part: Any) -> ImageDataset:
    from clipkit.datasets.dataset import ImageDataset

    paths = [("/".join(Path(path).parts[-2:]), path) for path, _ in part._samples]
    return ImageDataset.from_files(paths, [label for _, label in part._samples])


def _read_idx_files(name: str, folder: Path) -> Dataset:
    """Read the four IDX files of a data set in the form of MNIST, gzipped or not."""
    from clipkit.datasets.dataset import Dataset, ImageDataset

    class_names = REGISTRY[name].class_names
    assert class_names is not None
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels = _read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte")
        if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
            raise ClipkitError(
                f"{folder}: expected a label for each {split} image, "
                f"got shapes {pixels.shape} and {labels.shape}"
            )
        splits[split] = ImageDataset.from_array(pixels, labels)
    return Dataset(name, class_names(), splits)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file, gzipped or not. (torchvision's reader takes no gzipped files.)

    The file holds two zeros, the type (8: bytes), the number of axes, the lengths as big-endian
    int32, and the values.
    """
    import gzip
    import zlib

    import numpy as np

    from clipkit.datasets.images import reason

    try:
        if path.exists():
            data = path.read_bytes()
        else:
            data = gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())
        if data[:3] != b"\0\0\x08":
            raise ValueError("expected an IDX file of bytes, got other content")
        shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise ClipkitError(f"cannot read {path}: {reason(error)}", "replace the file") from error


def _read_tiny_imagenet(name: str, top: Path) -> Dataset:
    """Read the official layout.

    Classes are in the order of their WordNet ids, and each has the first of its names in
    ``words.txt``.
    """
    from clipkit.datasets.dataset import Dataset, ImageDataset
    from clipkit.datasets.folders import find_images

    wnids = sorted(set(_read_lines(top, "wnids.txt")) - {""})
    words = dict(line.split("\t", 1) for line in _read_lines(top, "words.txt") if "\t" in line)
    label_of = names.positions(wnids)
    train_files: list[IdAndPath] = []
    train_labels: list[int] = []
    for wnid, label in label_of.items():
        found = find_images(str(top / "train" / wnid / "images"), prefix=f"{wnid}/images/")
        train_files += found
        train_labels += [label] * len(found)
    val_labels = _read_annotations(top, label_of)
    val_files = sorted(val_labels)
    splits = {
        "train": ImageDataset.from_files(train_files, train_labels),
        "test": ImageDataset.from_files(val_files, [val_labels[file] for file in val_files]),
    }
    class_names = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    return Dataset(name, class_names, splits, dict(VAL_IS_TEST))


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
                f"expected a new file name and a class of wnids.txt, got {shorten(line)!r}",
                f"remove {top} to download it again",
            )
        labels[file] = label_of[wnid]
    return labels


def _read_lines(top: Path, name: str) -> list[str]:
    from clipkit.datasets.images import reason

    try:
        return (top / name).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ClipkitError(
            f"tiny-imagenet: cannot read {top / name}: {reason(error)}",
            f"remove {top} to download it again, or name another folder with --root",
        ) from error


def _read_digits(name: str, _: Path) -> Dataset:
    """Read what scikit-learn bundles, with grey levels 0..255 for its 0..16."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from clipkit.datasets.dataset import Dataset, ImageDataset

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    whole = ImageDataset.from_array(pixels, bunch.target)
    train, test = train_test_split(np.arange(len(whole)), stratify=bunch.target, random_state=42)
    splits = {"train": whole.take(np.sort(train)), "test": whole.take(np.sort(test))}
    return Dataset(name, [str(digit) for digit in bunch.target_names], splits)


def _render_shapes(name: str, _: Path) -> Dataset:
    import numpy as np

    from clipkit import shapes
    from clipkit.datasets.dataset import Dataset, ImageDataset, RenderedImages
    from clipkit.features.model import row_ids

    seed, size = SHAPES_SEED, shapes.DEFAULT_SIZE
    splits = {}
    for split, n in shapes.DEFAULT_SPLITS.items():
        render = functools.partial(shapes.render, split=split, seed=seed, size=size)
        labels = shapes.labels(np.arange(n), split=split, seed=seed)
        splits[split] = ImageDataset(row_ids(n), labels, RenderedImages(render, np.arange(n)))
    return Dataset(name, list(shapes.CLASS_NAMES), splits, {"size": size, "seed": seed})


def _captions_of_shapes(images: ImageDataset, split: str) -> Sequence[Any]:
    import numpy as np

    from clipkit.shapes.attributes import captions

    return captions(np.array(images.ids, np.int64), split=split, seed=SHAPES_SEED)


def _names_of_shapes() -> list[str]:
    from clipkit import shapes

    return list(shapes.CLASS_NAMES)


_BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
_CIFAR = "https://www.cs.toronto.edu/~kriz"
_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"

_DATA_SETS = (
    # 50,000 + 10,000 images, 32 px, 10 classes. Ids are row numbers.
    DataSet(
        "cifar10",
        _torchvision("CIFAR10", _BY_FLAG, _arrays_of_cifar),
        class_names=CIFAR10.split,
        files={f"{_CIFAR}/cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        size="170 MB",
        folder="cifar-10-batches-py",
    ),
    # As CIFAR-10, with 100 fine classes.
    DataSet(
        "cifar100",
        _torchvision("CIFAR100", _BY_FLAG, _arrays_of_cifar),
        class_names=CIFAR100.split,
        files={f"{_CIFAR}/cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        size="169 MB",
        folder="cifar-100-python",
    ),
    # 75,750 + 25,250 images of up to 512 px, 101 classes. Ids are paths in `images`.
    DataSet(
        "food101",
        _torchvision(
            "Food101",
            {"train": {"split": "train"}, "test": {"split": "test"}},
            _files_of_food101,
        ),
        class_names=FOOD101.split,
        files={
            "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz": "85eeb15f3717b99a5da872d97d918f87"
        },
        size="5.0 GB",
        folder="food-101",
    ),
    # 9,469 + 3,925 images at full size, 10 classes. Ids are paths in `train` and `val`.
    DataSet(
        "imagenette",
        _torchvision(
            "Imagenette",
            {"train": {"split": "train"}, "test": {"split": "val"}},
            _files_of_imagenette,
            VAL_IS_TEST,
        ),
        class_names=lambda: IMAGENETTE.split(","),
        files={
            "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz": (
                "fe2fc210e6bb7c5664d602c3cd71e612"
            )
        },
        size="1.6 GB",
        folder="imagenette2",
    ),
    # 100,000 + 10,000 images, 64 px, 200 classes. Ids are paths in `train` and `val`.
    DataSet(
        "tiny-imagenet",
        _read_tiny_imagenet,
        files={
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"
        },
        size="248 MB",
        folder="tiny-imagenet-200",
        mark="wnids.txt",
    ),
    # 60,000 + 10,000 grey images, 28 px, 10 classes. Ids are row numbers.
    DataSet(
        "fashion-mnist",
        _read_idx_files,
        class_names=lambda: FASHION_MNIST.split(","),
        files={
            f"{_FASHION_MNIST}/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            f"{_FASHION_MNIST}/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            f"{_FASHION_MNIST}/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            f"{_FASHION_MNIST}/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        size="31 MB",
        folder="FashionMNIST/raw",
        mark="train-images-idx3-ubyte*",
        packaged=Path("/usr/share/datasets/fashion-mnist"),  # Debian's dataset-fashion-mnist
    ),
    # 1,797 grey images, 8 px, 10 classes, of which a stratified quarter (seed 42) is the split
    # `test`. Ids are scikit-learn's row numbers.
    DataSet(
        "digits",
        _read_digits,
        class_names=lambda: [str(digit) for digit in range(10)],
    ),
    # 20,000 + 5,000 images, 64 px, 100 classes, rendered. Ids are row numbers.
    DataSet(
        "shapes",
        _render_shapes,
        class_names=_names_of_shapes,
        captions=_captions_of_shapes,
    ),
)
REGISTRY = {data_set.name: data_set for data_set in _DATA_SETS}
