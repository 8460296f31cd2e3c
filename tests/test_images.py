"""Image files of unknown origin: how they are found, named and opened."""

import contextlib
import io
import os
import struct
import urllib.parse
import zlib

import numpy as np
import pytest
from factories import fails_with
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipkit.base import names
from clipkit.base.errors import ImageError
from clipkit.datasets import images
from clipkit.datasets.folders import find_images, subfolders

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
IMAGE = Image.fromarray(NOISE)


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width, height, content, depth=8):
    """Return an RGB PNG that declares a size and holds some content."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(content))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return str(folder / name)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "JPEG", "GIF", "WEBP"])
def test_usual_formats_are_read_as_rgb_whatever_the_suffix(tmp_path, form):
    image = images.read(written(tmp_path, "a.jpg", encoded(IMAGE, form)))
    assert image.mode == "RGB"
    assert image.size == IMAGE.size
    if form in ("PNG", "BMP", "TIFF", "PPM"):
        assert (np.asarray(image) == NOISE).all()


OTHER = "expected one of PNG, JPEG, GIF, BMP, WEBP, TIFF, PPM, got other content"
TOO_LARGE = "expected at most 67,108,864 pixels, got "
PNG = encoded(IMAGE, "PNG")
FLOATS = Image.fromarray(np.ones((4, 4), np.float32))
WIDE = Image.fromarray(np.full((4, 4), 70_000, np.int32))
REFUSED = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, world\n" * 10, OTHER),
    "ICO": (encoded(IMAGE, "ICO"), OTHER),
    "PDF": (encoded(IMAGE, "PDF"), OTHER),
    "cut PNG": (PNG[:-300], "truncated"),
    "cut JPEG": (encoded(IMAGE, "JPEG")[:-300], "truncated"),
    "cut header": (PNG[:20], ""),
    "flipped bytes": (PNG.replace(b"IDAT", b"IDAT\xff\xff\xff\xff", 1), ""),
    "bomb just over the limit": (png(8193, 8192, bytes(100)), f"{TOO_LARGE}8193 x 8192"),
    "bomb at which Pillow warns": (png(12_000, 10_000, bytes(100)), f"{TOO_LARGE}12000 x 10000"),
    "bomb at which Pillow stops": (png(30_000, 30_000, bytes(100)), f"{TOO_LARGE}far more"),
    "strip": (png(101, 1, bytes(304)), "expected sides of at most 100 : 1, got 101 x 1"),
    "float TIFF": (encoded(FLOATS, "TIFF"), "expected 8-bit or 16-bit pixels, got floating point"),
    "32-bit TIFF": (encoded(WIDE, "TIFF"), "expected 8-bit or 16-bit pixels, got 32-bit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_error_names_the_file_and_the_reason_in_one_line(tmp_path, case, recwarn):
    data, reason = REFUSED[case]
    with pytest.raises(ImageError) as caught:
        images.read(written(tmp_path, "bad\n.png", data))
    assert caught.value.message.startswith(f"cannot read {tmp_path}/bad%0A.png: ")
    assert reason in caught.value.message
    assert caught.value.message.isprintable()
    assert not recwarn.list


@pytest.mark.parametrize("compression", ["group4", "jpeg"])
def test_libtiff_prints_nothing_about_a_damaged_file(tmp_path, capfd, compression):
    image = IMAGE.convert("1") if compression == "group4" else IMAGE
    data = encoded(image, "TIFF", compression=compression)
    tags = Image.open(io.BytesIO(data)).tag_v2
    (start,), (length,) = tags[273], tags[279]  # the strip
    with contextlib.suppress(ImageError):
        damaged = data[:start] + b"\x01" * length + data[start + length :]
        images.read(written(tmp_path, "bad.tiff", damaged))
    assert capfd.readouterr().err == ""


def test_anything_but_a_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    found = find_images(str(tmp_path))
    reasons = ("not a regular file", "No such file", "symbolic links")
    for (name, path), reason in zip(found, reasons, strict=True):
        with pytest.raises(ImageError, match=f"{name}: .*{reason}"):
            images.read(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = written(tmp_path, "huge.webp", b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
    os.truncate(path, images.MAX_BYTES + 1)
    with pytest.raises(ImageError, match="at most 536,870,912 bytes, got 536,870,913"):
        images.read(path)


def test_sixteen_bit_grey_is_scaled(tmp_path):
    grey = np.array([[0, 128, 129, 257, 32_768, 65_535]], np.uint16)
    for data in (
        encoded(Image.fromarray(grey), "PNG"),
        encoded(Image.fromarray(grey), "TIFF"),
        b"P5 6 1 65535\n" + grey.astype(">u2").tobytes(),
    ):
        image = np.asarray(images.read(written(tmp_path, "grey", data)))
        assert image[0, :, 2].tolist() == [0, 0, 1, 1, 128, 255]


def test_sixteen_bit_colour_keeps_its_high_bytes(tmp_path):
    values = np.array([[0, 255, 256, 511, 32_768, 65_535]], ">u2").repeat(3)
    data = png(6, 1, b"\0" + values.tobytes(), depth=16)
    image = np.asarray(images.read(written(tmp_path, "colour.png", data)))
    assert image[0, :, 2].tolist() == [0, 0, 1, 1, 128, 255]


def test_a_strip_of_a_hundred_to_one_is_read(tmp_path):
    assert images.read(written(tmp_path, "a.png", png(100, 1, bytes(301)))).size == (100, 1)


def test_transparency_is_dropped_and_the_orientation_tag_ignored(tmp_path, recwarn):
    palette = IMAGE.convert("P")
    clear = IMAGE.copy()
    clear.putalpha(0)
    for data, expected in (
        (encoded(palette, "PNG", transparency=bytes(range(256))), palette.convert("RGB")),
        (encoded(clear, "PNG"), IMAGE),
    ):
        assert images.read(written(tmp_path, "a.png", data)).tobytes() == expected.tobytes()
    orientation = Image.Exif()
    orientation[0x0112] = 6  # turn by 90 degrees
    turned = written(tmp_path, "turned.jpg", encoded(IMAGE, "JPEG", exif=orientation))
    assert images.read(turned).size == IMAGE.size
    assert not recwarn.list


def test_damaged_metadata_is_ignored(tmp_path, recwarn):
    # ends in the middle of its table
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0"
    path = written(tmp_path, "a.jpg", encoded(IMAGE, "JPEG", exif=exif))
    assert images.read(path).size == IMAGE.size
    assert not recwarn.list


@given(st.binary(min_size=1).filter(lambda raw: b"/" not in raw and b"\0" not in raw))
def test_escaped_names_are_printable_and_can_be_unescaped(raw):
    name = names.escape(os.fsdecode(raw))
    assert urllib.parse.unquote_to_bytes(name) == raw
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029\u202e" for c in name)
    assert name.encode("utf-8")


def test_image_files_are_found_by_suffix_and_sorted_by_code_point(tmp_path):
    names = ["b.png", "B.PNG", "a/z.jpeg", "a.png", "é.png", "a/deep/1.gif", "_.webp"]
    ignored = ["notes.txt", ".hidden.png", ".hide/a.png", "__MACOSX/a.png", "Thumbs.db"]
    for name in [*names, *ignored, os.fsdecode(b"\xff\n.png")]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    ids = [name for name, _ in find_images(str(tmp_path))]
    assert ids == sorted([*names, "%FF%0A.png"])
    flat = [name for name, _ in find_images(str(tmp_path), deep=False, prefix="p/")]
    assert flat == [f"p/{name}" for name in ids if "/" not in name]


def test_links_that_run_in_circles_are_ignored(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name, target in {"here": ".", "up": "..", "loop": "loop", "dog": "elsewhere"}.items():
        (tmp_path / name).symlink_to(target)
    assert list(subfolders(str(tmp_path))) == ["cat", "dog", "elsewhere"]


def test_an_unreadable_folder_is_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with fails_with("/loop: Too many levels of symbolic links"):
        find_images(str(tmp_path / "loop"))
