"""Image files: finding, naming and opening them, with files that nobody should trust."""

from __future__ import annotations

import io
import os
import struct
import urllib.parse
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipkit.datasets import images
from clipkit.errors import ClipkitError, ImageError


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


GOOD = Image.fromarray(noise())


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "JPEG", "GIF", "WEBP"])
def test_usual_formats_are_read_as_rgb_whatever_the_ending(tmp_path, form):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(GOOD, form))
    image = images.read(str(path))
    assert image.mode == "RGB"
    if form in ("PNG", "BMP", "TIFF", "PPM"):
        assert (np.asarray(image) == noise()).all()
    else:
        assert np.asarray(image).shape == noise().shape


@pytest.mark.parametrize("form", ["ICO", "PCX", "EPS", "PDF", "TGA"])
def test_other_formats_are_refused(tmp_path, form):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(GOOD, form))
    with pytest.raises(ImageError, match="none of PNG, JPEG"):
        images.read(str(path))


BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, world\n" * 10, "none of PNG, JPEG"),
    "cut PNG": (encoded(GOOD, "PNG")[:-300], "truncated"),
    "cut JPEG": (encoded(GOOD, "JPEG")[:-300], "truncated"),
    "cut header": (encoded(GOOD, "PNG")[:20], "must be a sound image"),
    "flipped": (
        encoded(GOOD, "PNG").replace(b"IDAT", b"IDAT\xff\xff\xff\xff", 1),
        "must be a sound image",
    ),
    "bomb just over the cap": (png_header(8193, 8192), "8193 x 8192 pixels, over 67,108,864"),
    "bomb at which Pillow warns": (png_header(12_000, 10_000), "12000 x 10000 pixels"),
    "bomb at which Pillow stops": (png_header(30_000, 30_000), "over 67,108,864 pixels"),
    "strip": (png_header(60_000, 1), "60000 x 1 pixels, one side over 100 times the other"),
    "float TIFF": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point"),
    "32-bit TIFF": (encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "32-bit"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_say_which_and_why_in_one_line(tmp_path, case, recwarn):
    data, reason = BAD[case]
    path = tmp_path / "bad\n.png"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        images.read(str(path))
    assert reason in caught.value.message
    assert "bad%0A.png must be a sound image" in caught.value.message
    assert caught.value.message.isprintable()
    assert not recwarn.list


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    reasons = {
        "fifo.png": "not a regular file",
        "lost.png": "No such file",
        "self.png": "symbolic links",
    }
    assert [name for name, _ in images.find(str(tmp_path))] == sorted(reasons)
    for name, path in images.find(str(tmp_path)):
        with pytest.raises(ImageError, match=reasons[name]):
            images.read(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.webp"
    path.write_bytes(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
    os.truncate(path, images.MAX_BYTES + 1)
    with pytest.raises(ImageError, match="536,870,913 bytes, over"):
        images.read(str(path))


def test_sixteen_bit_grey_is_scaled(tmp_path):
    grey = np.array([[0, 128, 129, 257, 32_768, 65_535]], np.uint16)
    for name, data in {
        "png": encoded(Image.fromarray(grey), "PNG"),
        "tiff": encoded(Image.fromarray(grey), "TIFF"),
        "pgm": b"P5 6 1 65535\n" + grey.astype(">u2").tobytes(),
    }.items():
        path = tmp_path / f"grey.{name}"
        path.write_bytes(data)
        assert np.asarray(images.read(str(path)))[0, :, 2].tolist() == [0, 0, 1, 1, 128, 255]


def test_transparency_is_dropped_and_orientation_left(tmp_path, recwarn):
    palette = GOOD.convert("P")
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    assert (
        np.asarray(images.read(str(tmp_path / "palette.png"))) == np.asarray(palette.convert("RGB"))
    ).all()
    clear = GOOD.copy()
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    assert (np.asarray(images.read(str(tmp_path / "clear.png"))) == noise()).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    GOOD.save(tmp_path / "turned.jpg", exif=exif)
    assert images.read(str(tmp_path / "turned.jpg")).size == GOOD.size
    assert not recwarn.list


def test_damaged_metadata_is_no_matter(tmp_path, recwarn):
    tag = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0"  # ends in the middle of its table
    (tmp_path / "a.jpg").write_bytes(encoded(GOOD, "JPEG", exif=tag))
    assert images.read(str(tmp_path / "a.jpg")).size == GOOD.size
    assert not recwarn.list


def test_reading_is_safe_in_threads(cifar10_root):
    paths = [path for _, path in images.find(str(cifar10_root / "test" / "cat"))[:200]]
    alone = [images.read(path).tobytes() for path in paths]
    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(images.read, paths)] == alone


@given(st.binary(min_size=1).filter(lambda raw: b"/" not in raw and b"\0" not in raw))
def test_escaped_names_are_printable_and_lead_back(raw):
    name = images.escape(os.fsdecode(raw))
    assert urllib.parse.unquote_to_bytes(name) == raw
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029\u202e" for c in name)
    assert name.encode("utf-8")


def test_finding_sorts_by_code_point_and_passes_over_the_rest(tmp_path):
    names = ["b.png", "B.PNG", "a/z.jpeg", "a.png", "é.png", "a/deep/1.gif", "_.webp"]
    others = ["notes.txt", ".hidden.png", ".hide/a.png", "__MACOSX/a.png", "Thumbs.db"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / os.fsdecode(b"\xff\n.png")).touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    found = [name for name, _ in images.find(str(tmp_path))]
    assert found == [
        "%FF%0A.png",
        "B.PNG",
        "_.webp",
        "a.png",
        "a/deep/1.gif",
        "a/z.jpeg",
        "b.png",
        "é.png",
    ]
    assert [name for name, _ in images.find(str(tmp_path), deep=False)] == [
        name for name in found if "/" not in name
    ]


def test_links_that_run_in_a_circle_are_left(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name, target in {"here": ".", "up": "..", "loop": "loop", "dog": "elsewhere"}.items():
        (tmp_path / name).symlink_to(target)
    assert list(images.subfolders(str(tmp_path))) == ["cat", "dog", "elsewhere"]


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ClipkitError, match="cats must be a readable folder: Permission denied"):
        images.find(str(tmp_path / "cats"))


def test_many_files_are_listed_without_a_look_at_each(tmp_path, monkeypatch):
    for i in range(300):
        (tmp_path / f"{i}.png").touch()
    monkeypatch.setattr(Path, "stat", None)
    monkeypatch.setattr(os, "stat", None)
    assert len(images.find(str(tmp_path))) == 300
