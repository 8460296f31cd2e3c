"""Write `shapes` as an image folder: ``python -m clipkit.shapes FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clipkit import console
from clipkit.shapes import DEFAULT_SIZE, DEFAULT_SPLITS, file_names, folder_order, render

BATCH = 500  # images that are rendered together


def write_folder(folder: Path, *, seed: int, size: int, counts: dict[str, int]) -> int:
    """Write FOLDER/<split>/<class>/<index>.png; return the number of images.

    Raises
    ------
    FileExistsError
        If the folder exists: images of another seed must not mix with these.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    for split, n in counts.items():
        order = folder_order(split, n, seed)
        for start in range(0, n, BATCH):
            batch = order[start : start + BATCH]
            names = file_names(batch, split=split, seed=seed)
            images = render(batch, split=split, seed=seed, size=size)
            for name, pixels in zip(names, images, strict=True):
                path = folder / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, compress_level=1)
    return sum(counts.values())


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m clipkit.shapes", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")
    parser.add_argument(
        "--size", type=int, default=DEFAULT_SIZE, help="width and height in pixels (%(default)s)"
    )
    for split, n in DEFAULT_SPLITS.items():
        parser.add_argument(
            f"--{split}",
            type=int,
            default=n,
            metavar="N",
            help=f"number of {split} images (%(default)s)",
        )
    options = parser.parse_args(arguments)
    counts = {split: getattr(options, split) for split in DEFAULT_SPLITS}
    if options.size < 8 or min(counts.values()) < 0:
        parser.error("expected --size of at least 8, and --train and --test of at least 0")
    try:
        n = write_folder(options.folder, seed=options.seed, size=options.size, counts=counts)
    except FileExistsError:
        parser.error(f"{options.folder} exists; hint: choose another name or remove it")
    except OSError as error:
        parser.exit(1, f"clipkit.shapes: {error}\n")
    console.note(f"{n} images in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
