"""Write `shapes` as an image folder: ``python -m clipkit.shapes FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from clipkit.shapes import CLASS_NAMES, DEFAULT_SIZE, DEFAULT_SPLITS, labels, render

BATCH = 500  # images that are rendered together


def write_folder(folder: Path, *, seed: int, size: int, counts: dict[str, int]) -> None:
    """Write FOLDER/<split>/<class>/<index>.png.

    Raises
    ------
    FileExistsError
        If the folder exists: images of another seed must not mix with these.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    for split, n in counts.items():
        for start in range(0, n, BATCH):
            indices = np.arange(start, min(start + BATCH, n))
            classes = labels(indices, split=split, seed=seed)
            images = render(indices, split=split, seed=seed, size=size)
            for index, label, pixels in zip(indices, classes, images, strict=True):
                path = folder / split / CLASS_NAMES[label] / f"{index:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, compress_level=1)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m clipkit.shapes", description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER")
    add("--seed", type=int, default=0, help="random seed (%(default)s)")
    size_help = "width and height in pixels (%(default)s)"
    add("--size", type=int, default=DEFAULT_SIZE, help=size_help)
    for split, n in DEFAULT_SPLITS.items():
        split_help = f"number of {split} images (%(default)s)"
        add(f"--{split}", type=int, default=n, metavar="N", help=split_help)
    options = parser.parse_args(arguments)
    counts = {split: getattr(options, split) for split in DEFAULT_SPLITS}
    if options.size < 8 or min(counts.values()) < 0:
        parser.error("expected --size of at least 8, and --train and --test of at least 0")
    try:
        write_folder(options.folder, seed=options.seed, size=options.size, counts=counts)
    except FileExistsError:
        parser.error(f"{options.folder} exists; hint: choose another name or remove it")
    except OSError as error:
        parser.exit(1, f"clipkit.shapes: {error}\n")
    sys.stderr.write(f"clipkit.shapes: {sum(counts.values()):,} images in {options.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
