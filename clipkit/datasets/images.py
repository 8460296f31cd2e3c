"""Open image files of unknown origin safely, and name files in messages and ids."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import io
import logging
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging, features

from clipkit.base.errors import ImageError
from clipkit.base.names import escape

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
# Formats that not every installation reads: their suffixes, and what reads them.
AVIF_SUFFIXES = (".avif",)
HEIF_SUFFIXES = (".heic", ".heif", ".hif")
AVIF_HINT = "pip install 'pillow>=11.3'"
HEIF_HINT = "pip install 'clipkit-vl[heic]'"
MAX_PIXELS = 2**26  # 64 megapixels are 192 MiB as RGB; a 17.6 kB PNG can declare four times as many
MAX_BYTES = 2**29  # some decoders read the whole file first
MAX_ASPECT = 100  # resizing the short side of 65,000 x 1 pixels to 224 would make 3 billion pixels

_PILLOW_MODULES = re.compile(r"PIL\.")
_PILLOW_FILTER = ("ignore", None, Warning, _PILLOW_MODULES, 0)


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return the formats that this installation reads, by Pillow's names."""
    formats = list(FORMATS)
    if "avif" in features.get_supported_modules():  # a Pillow before 11.3 does not know it
        formats.append("AVIF")
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats.append("HEIF")
    return tuple(formats)


def readable_suffixes() -> tuple[str, ...]:
    """Return the suffixes of the formats that this installation reads, in lower case."""
    suffixes: tuple[str, ...] = SUFFIXES
    if "AVIF" in readable_formats():
        suffixes += AVIF_SUFFIXES
    if "HEIF" in readable_formats():
        suffixes += HEIF_SUFFIXES
    return suffixes


def installation_hint(suffixes: Iterable[str]) -> str:
    """Return what to install to read files with these suffixes, or "" where nothing helps."""
    missing = set(suffixes).difference(readable_suffixes())
    hints = []
    if missing.intersection(HEIF_SUFFIXES):
        hints.append(HEIF_HINT)
    if missing.intersection(AVIF_SUFFIXES):
        hints.append(AVIF_HINT)
    return ", and ".join(hints)


def read(path: str) -> Image.Image:
    """Read the first frame of an image file as RGB. Threads may call this at the same time.

    The format is recognised by content, not by name. As in `Image.convert("RGB")`, on which
    published features rest, transparency is dropped and the orientation tag is ignored.
    16-bit grey becomes 8-bit by v / 257, rounded.

    Raises
    ------
    ImageError
        If the file is missing, empty, damaged, truncated or of another format, or exceeds
        `MAX_PIXELS`, `MAX_BYTES` or `MAX_ASPECT`. The size is checked before decoding.
    """
    with image_errors(path):
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        check_bytes(status.st_size)
        return _decode(path)


def decode(data: bytes, name: str) -> Image.Image:
    """Read the first frame of an image in memory as RGB, as `read` does."""
    with image_errors(name):
        check_bytes(len(data))
        return _decode(io.BytesIO(data))


@contextlib.contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Turn what a decoder raises about an image into an `ImageError` of one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # decoders raise SyntaxError, struct.error, KeyError and more
        raise ImageError(f"cannot read {escape(name)}: {reason(error)}") from error


def _decode(source: str | IO[bytes]) -> Image.Image:
    _silence_pillow()
    with Image.open(source, formats=readable_formats()) as image:
        _check_size(*image.size)
        return _to_rgb(image)


def check_bytes(size: int) -> None:
    """Refuse an image file of this size in bytes before it is read."""
    if size == 0:
        raise ImageError("the file is empty")
    if size > MAX_BYTES:
        raise ImageError(f"expected at most {MAX_BYTES:,} bytes, got {size:,}")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(f"expected at most {MAX_PIXELS:,} pixels, got {width} x {height}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"expected sides of at most {MAX_ASPECT} : 1, got {width} x {height}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: "I;16", "I;16B"; "I" in a PPM and in older Pillow
        grey = np.asarray(image)  # (H, W)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError("expected 8-bit or 16-bit pixels, got 32-bit")
        image = Image.fromarray(((grey.astype(np.int32) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ImageError("expected 8-bit or 16-bit pixels, got floating point")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; Pillow warns about P straight to RGB
    return image.convert("RGB")


def is_turned(image: Any) -> bool:
    """Return True if the EXIF data of an image say that it is to be shown turned or mirrored.

    `read` ignores them, so that a model sees the image as it is stored.
    """
    if "exif" not in getattr(image, "info", ()):
        return False
    with contextlib.suppress(Exception):  # damaged EXIF data say nothing
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    return False


def reason(error: Exception) -> str:
    r"""Return all that an exception says, in one printable line.

    `errors.brief` takes the first line alone, but clients of servers put the reason later.

    >>> reason(RuntimeError("first\nsecond")), reason(EOFError())
    ('first second', 'EOFError')
    """
    if isinstance(error, UnidentifiedImageError):
        return f"expected one of {', '.join(FORMATS)}, got other content"
    if isinstance(error, Image.DecompressionBombError):
        return f"expected at most {MAX_PIXELS:,} pixels, got far more"
    text = getattr(error, "strerror", None) or str(error)
    return escape(" ".join(text.split())) or type(error).__name__


def _silence_pillow() -> None:
    """Ignore Pillow's warnings about metadata and size; `catch_warnings` is not safe in threads."""
    # Only a first call changes the filters: any change makes Python repeat earlier warnings.
    if warnings.filters[0] != _PILLOW_FILTER:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)
    _silence_decoders()


@functools.cache
def _silence_decoders() -> None:
    """Keep what Pillow logs and libtiff prints about a damaged file off standard error."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with contextlib.suppress(AttributeError, OSError):  # a Pillow without libtiff
        library = ctypes.CDLL(_imaging.__file__)  # which is linked with libtiff
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
