"""Image files: finding them in a folder, naming them, opening them safely."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from clipkit.errors import ClipkitError, ImageError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)
MAX_PIXELS = 2**26  # 64 megapixels are 192 MiB as RGB; a 17.6 kB PNG can declare four times as many
MAX_BYTES = 2**29  # some decoders read the whole file first
MAX_ASPECT = (
    100  # the short side becomes 224: one row of 65,000 pixels would become 3 billion pixels
)

# Control characters, what is not UTF-8, line and bidirectional controls, and a "%" that would read as an escape.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|%(?=[0-9A-Fa-f]{2})"
)

_HUSHED = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


def escape(name: str) -> str:
    r"""A file name as printable UTF-8 text, the same on every machine.

    Bytes that are not UTF-8 and control characters are percent-encoded; `urllib.parse.unquote_to_bytes` gives the bytes
    of the name back.

    >>> escape("été 100%.png"), escape("a\nb.png"), escape("\udcff.png"), escape("%41.png")
    ('été 100%.png', 'a%0Ab.png', '%FF.png', '%2541.png')
    """
    if name.isascii() and name.isprintable() and "%" not in name:
        return name
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    return _UNSAFE.sub(
        lambda match: "".join(
            f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")
        ),
        text,
    )


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's does (in either case).

    >>> is_image("cat.JPEG"), is_image("cat.txt")
    (True, False)
    """
    return name.lower().endswith(SUFFIXES)


def entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What a folder holds but for hidden names, in the order of the system.

    Raises
    ------
    ClipkitError
        The folder cannot be listed.
    """
    try:
        with os.scandir(folder) as scan:
            yield from (
                entry for entry in scan if entry.name[0] != "." and entry.name != "__MACOSX"
            )
    except OSError as error:
        raise ClipkitError(
            f"{escape(folder)} must be a readable folder: {error.strerror}"
        ) from error


def subfolders(folder: str) -> dict[str, str]:
    """The folders in a folder, name -> path, sorted by name; links too, but for those to a folder that they lie in."""
    real = os.path.realpath(folder)
    found = {}
    for entry in entries(folder):
        if _is_folder(entry, links=True):
            target = os.path.realpath(entry.path) if entry.is_symlink() else None
            if target is None or os.path.commonpath([real, target]) != target:
                found[escape(entry.name)] = entry.path
    return dict(sorted(found.items()))


def find(folder: str, *, deep: bool = True) -> list[tuple[str, str]]:
    """The image files in a folder, in the order of their ids' code points.

    Parameters
    ----------
    folder : str
        Where to look. What does not end as an image's name does is passed over; what does is listed unseen, so that a
        broken link or an empty file is met, and told, when it is opened.
    deep : bool
        Look in the folders below, too. Links to folders are not followed there (they may run in a circle).

    Returns
    -------
    list of (str, str)
        Each file's id (its escaped path from `folder`, with "/") and its path.

    Raises
    ------
    ClipkitError
        A folder cannot be listed.
    """
    found, pending = [], [(folder, "")]
    while pending:
        here, prefix = pending.pop()
        for entry in entries(here):
            if is_image(entry.name) and not _is_folder(entry, links=True):
                found.append((prefix + escape(entry.name), entry.path))
            elif deep and _is_folder(entry, links=False):
                pending.append((entry.path, f"{prefix}{escape(entry.name)}/"))
    return sorted(found)


def _is_folder(entry: os.DirEntry[str], *, links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=links)
    except OSError:  # a link to itself
        return False


def read(path: str) -> Image.Image:
    """The first frame of an image file as RGB. Safe for files from strangers and for threads.

    The format is told from the content, not from the name. Transparency is dropped and the camera's orientation tag is
    not applied, as in `Image.convert("RGB")`, on which published features rest. 16-bit grey becomes 8-bit by v / 257,
    rounded.

    Raises
    ------
    ImageError
        The file is missing, empty, damaged, cut short, of another format, or larger than `MAX_PIXELS`, `MAX_BYTES` or
        `MAX_ASPECT` allow; nothing is decoded before the size is known.
    """
    _hush_pillow()
    try:
        info = Path(path).stat()
        if not stat.S_ISREG(info.st_mode):
            raise ImageError("it is not a regular file")
        if not 0 < info.st_size <= MAX_BYTES:
            raise ImageError(
                "the file is empty"
                if not info.st_size
                else f"{info.st_size:,} bytes, over {MAX_BYTES:,}"
            )
        with Image.open(path, formats=FORMATS) as image:
            _check_size(*image.size)
            return _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise SyntaxError, struct.error, KeyError and more
        raise ImageError(f"{escape(path)} must be a sound image; {reason(error)}") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels, over {MAX_PIXELS:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"{width} x {height} pixels, one side over {MAX_ASPECT} times the other")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: "I;16", "I;16B"; "I" in a PPM and in older Pillow
        grey = np.asarray(image)  # (H, W)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError("32-bit pixels, whose range is unknown")
        return Image.fromarray(((grey.astype(np.int32) + 128) // 257).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode == "F":
        raise ImageError("floating-point pixels, whose range is unknown")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; straight to RGB, Pillow warns
    return image.convert("RGB")


def reason(error: Exception) -> str:
    r"""What an exception says, in one printable line.

    >>> reason(RuntimeError("first\nsecond")), reason(EOFError())
    ('first second', 'EOFError')
    """
    if isinstance(error, UnidentifiedImageError):
        return f"its content is none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"over {MAX_PIXELS:,} pixels"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return escape(" ".join(text.split())) or type(error).__name__


def _hush_pillow() -> None:
    """Keep Pillow's remarks on odd metadata and large sizes off the terminal; `catch_warnings` is not for threads."""
    if (
        warnings.filters[0] != _HUSHED
    ):  # asked first, because every change of the filters makes Python repeat old warnings
        warnings.filterwarnings("ignore", module=_HUSHED[3].pattern)
