"""Shared fixtures: real images where they are present, and models made on the spot."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from clip_factory import tiny_clip_dir, vit_b32_dir
from kitchen import kitchen, make, ran
from shell import ok

__all__ = ["kitchen", "make", "ran", "tiny_clip_dir", "vit_b32_dir"]

ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """A folder with all of CIFAR-10 as JPEG files: train/<class>/NNNN.jpg and test/<class>/NNNN.jpg."""
    if given := os.environ.get("CLIPKIT_CIFAR10"):
        return Path(given)
    if not ARCHIVE.exists():
        pytest.skip(
            "CIFAR-10 as JPEG files is absent: set CLIPKIT_CIFAR10 to a folder with train/ and test/"
        )
    cache = Path(tempfile.gettempdir()) / f"clipkit-tests-{os.getuid()}" / "cifar10"
    if not cache.exists():
        scratch = Path(tempfile.mkdtemp(dir=cache.parent if cache.parent.exists() else None))
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(scratch, filter="data")
        cache.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch, cache)
    return cache


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of the fixtures below."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def img_h5(work: Path, tiny_clip_dir: Path) -> Path:
    """Embeddings of 120 + 80 handwritten digits from a small random CLIP."""
    ok(
        "embed",
        "digits",
        "--limit",
        120,
        "--model",
        tiny_clip_dir,
        "--precision",
        "fp32",
        "-o",
        work / "img.h5",
    )
    return work / "img.h5"


@pytest.fixture(scope="session")
def prompts_txt(work: Path) -> Path:
    """Twelve prompts."""
    words = [
        "round",
        "straight",
        "thin",
        "dark",
        "bright",
        "open",
        "closed",
        "tall",
        "slanted",
        "curved",
        "small",
        "wide",
    ]
    (work / "mine.txt").write_text("".join(f"something {word}\n" for word in words))
    return work / "mine.txt"


@pytest.fixture(scope="session")
def txt_h5(work: Path, prompts_txt: Path, tiny_clip_dir: Path) -> Path:
    """Embeddings of the twelve prompts."""
    ok(
        "textembed",
        prompts_txt,
        "--model",
        tiny_clip_dir,
        "--precision",
        "fp32",
        "-o",
        work / "txt.h5",
    )
    return work / "txt.h5"


@pytest.fixture(scope="session")
def logits_h5(work: Path, img_h5: Path, txt_h5: Path) -> Path:
    """Cosines of the digits with the prompts."""
    ok("logits", img_h5, txt_h5, "-o", work / "logits.h5")
    return work / "logits.h5"


@pytest.fixture(scope="session")
def class_logits_h5(work: Path, img_h5: Path, tiny_clip_dir: Path) -> Path:
    """Cosines of the digits with one prompt a class."""
    ok(
        "textembed",
        "--classes",
        img_h5,
        "--model",
        tiny_clip_dir,
        "--precision",
        "fp32",
        "-o",
        work / "classes.h5",
    )
    ok("logits", img_h5, work / "classes.h5", "-o", work / "class-logits.h5")
    return work / "class-logits.h5"


@pytest.fixture(scope="session")
def probe_h5(work: Path, logits_h5: Path) -> Path:
    """A temperature sweep."""
    ok("probe", logits_h5, "-t", "1,0.1,0.01", "-o", work / "probe.h5")
    return work / "probe.h5"


@pytest.fixture(scope="session")
def zeroshot_h5(work: Path, class_logits_h5: Path) -> Path:
    """Zero-shot predictions."""
    ok("zeroshot", class_logits_h5, "-o", work / "zeroshot.h5")
    return work / "zeroshot.h5"
