"""Write `shapes` as an image folder: ``python -m clipkit.shapes FOLDER``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import DEFAULT_SIZE, DEFAULT_SPLITS, file_names, listing, render


def write_folder(folder: Path, *, seed: int, size: int, counts: dict[str, int]) -> int:
    """Write FOLDER/<split>/<class>/<index>.png; reading it back gives the rendered pixels, in the order of `listing`.

    Returns
    -------
    int
        The number of images written.

    Raises
    ------
    FileExistsError
        If the folder is there already: images of another seed must not mix with these.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    for split, n in counts.items():
        order = listing(split, n, seed)
        for start in range(0, n, 500):
            part = order[start : start + 500]
            pictures = render(part, split=split, seed=seed, size=size)
            for name, pixels in zip(
                file_names(part, split=split, seed=seed), pictures, strict=True
            ):
                path = folder / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, compress_level=1)
    return sum(counts.values())


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m clipkit.shapes", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed is another sample of the same world (0)"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=DEFAULT_SIZE,
        help=f"width and height in pixels ({DEFAULT_SIZE})",
    )
    for split, n in DEFAULT_SPLITS.items():
        parser.add_argument(
            f"--{split}",
            type=int,
            default=n,
            metavar="N",
            help=f"images of the {split} split ({n})",
        )
    options = parser.parse_args(arguments)
    counts = {split: getattr(options, split) for split in DEFAULT_SPLITS}
    if options.size < 8 or min(counts.values()) < 0:
        parser.error("--size must be at least 8, --train and --test at least 0")
    try:
        n = write_folder(options.folder, seed=options.seed, size=options.size, counts=counts)
    except FileExistsError:
        parser.error(f"{options.folder} must not exist yet; choose another name or remove it")
    except OSError as error:
        print(f"clipkit.shapes: {error}", file=sys.stderr)
        return 1
    print(f"{n} images in {options.folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
