"""What makes clipkit fast must not make it wrong: packed, padded, compiled towers; own preprocessing; blocks ahead.

Nothing here asserts a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_factory import tiny_clip, tiny_siglip, write_json
from PIL import Image
from shell import ok
from torch._inductor.runtime.runtime_utils import default_cache_dir
from transformers import AutoImageProcessor

from clipkit import models, similarity, softmax
from clipkit.features import read
from clipkit.features.prefetch import ahead
from clipkit.models import quick
from clipkit.models.preprocessing import Pixels

CPU = torch.device("cpu")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Nine images of five sizes, out of order."""
    sizes = [
        (32, 32),
        (40, 24),
        (32, 32),
        (24, 40),
        (32, 32),
        (101, 77),
        (40, 24),
        (32, 32),
        (500, 375),
    ]
    return [picture(*size, seed) for seed, size in enumerate(sizes)]


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (
        similarity.normalize(one.astype(np.float64))
        * similarity.normalize(other.astype(np.float64))
    ).sum(axis=1)


def with_activation(folder: Path, name: str) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = name
    write_json(folder / "config.json", **config)
    return folder


# layers packed for oneDNN


onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN"
)


@onednn
@pytest.mark.parametrize("activation", list(quick.ACTIVATIONS))
@pytest.mark.parametrize("make", [tiny_clip, tiny_siglip])
def test_packed_layers_give_what_full_precision_gives(
    make: Any, activation: str, tmp_path: Path, images: list[Image.Image]
) -> None:
    folder = str(with_activation(make(tmp_path / "model"), activation))
    full, half = (
        models.load(folder, tower="image", device="cpu", precision=name)
        for name in ("fp32", "bf16")
    )
    assert "packed" not in full.details
    assert half.details["packed"] is True
    pixels = full.preprocess(images)
    assert cosines(half.encode_images(pixels), full.encode_images(pixels)).min() >= 0.999


@onednn
def test_a_row_does_not_depend_on_its_batch(tiny_clip_dir: Path, images: list[Image.Image]) -> None:
    encoder = models.load(str(tiny_clip_dir), tower="image", device="cpu", precision="bf16")
    pixels = encoder.preprocess(images)
    rows = encoder.encode_images(pixels)
    np.testing.assert_array_equal(
        encoder.encode_images(torch.cat([pixels, pixels])), np.concatenate([rows, rows])
    )
    np.testing.assert_array_equal(encoder.encode_images(pixels.flip(0)), rows[::-1])


def test_an_activation_that_cannot_be_packed_is_left_to_pytorch(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    folder = str(with_activation(tiny_clip(tmp_path / "model"), "tanh"))
    full, half = (
        models.load(folder, tower="image", device="cpu", precision=name)
        for name in ("fp32", "bf16")
    )
    assert "packed" not in half.details
    pixels = full.preprocess(images)
    assert cosines(half.encode_images(pixels), full.encode_images(pixels)).min() >= 0.999


# compilation


@pytest.fixture(scope="module")
def compiled(
    tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[models.Encoder]:
    """A tower compiled for four images at once."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv(quick.CACHE, default_cache_dir())  # as PyTorch sets it
        patch.setenv("XDG_CACHE_HOME", str(cache))
        encoder = models.load(
            str(tiny_clip_dir), tower="image", device="cpu", precision="fp32", compile_for=4
        )
        if not encoder.details["compile"]:
            pytest.skip("no C++ compiler")
        assert any((cache / "clipkit" / "inductor").iterdir())
        yield encoder


def test_compiled_gives_what_eager_gives(
    compiled: models.Encoder, tiny_clip_dir: Path, images: list[Image.Image]
) -> None:
    eager = models.load(str(tiny_clip_dir), tower="image", device="cpu", precision="fp32")
    assert eager.details == {**compiled.details, "compile": False}
    pixels = eager.preprocess(images)
    found = compiled.encode_images(pixels)  # nine rows: two batches and a padded one
    assert found.shape == (9, eager.dim)
    assert cosines(found, eager.encode_images(pixels)).min() >= 0.9999


def test_padding_does_not_change_rows(compiled: models.Encoder, images: list[Image.Image]) -> None:
    pixels = compiled.preprocess(images)
    whole = compiled.encode_images(pixels[:4])
    for count in (1, 2, 3):
        np.testing.assert_array_equal(compiled.encode_images(pixels[:count]), whole[:count])


def test_where_compiling_fails_a_note_says_so(
    tiny_clip_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setenv(quick.CACHE, str(tmp_path))
    encoder = models.load(
        str(tiny_clip_dir), tower="image", device="cpu", precision="fp32", compile_for=4
    )
    assert encoder.details["compile"] is False
    assert (
        capsys.readouterr().err
        == "clipkit: the model could not be compiled and runs without: no compiler\n"
    )
    assert encoder.encode_images(encoder.preprocess([picture(32, 32)])).shape == (1, encoder.dim)


def test_nothing_is_compiled_unasked_on_a_processor() -> None:
    assert not models.should_compile("cpu", 10**9)
    assert not models.should_compile("cuda", quick.MANY - 1)


def test_the_history_says_how_the_model_ran(tiny_clip_dir: Path, tmp_path: Path) -> None:
    common = (
        "embed",
        "digits",
        "--limit",
        20,
        "--split",
        "test",
        "--model",
        tiny_clip_dir,
        "--device",
        "cpu",
    )
    ok(*common, "--precision", "bf16", "-o", tmp_path / "auto.h5")
    ok(*common, "--precision", "bf16", "--no-compile", "-o", tmp_path / "no.h5")
    assert (tmp_path / "auto.h5").read_bytes() == (tmp_path / "no.h5").read_bytes()
    (made,) = read(tmp_path / "auto.h5").history
    assert (made["model"]["precision"], made["model"]["compile"]) == ("bf16", False)


# preprocessing


CONFIGS = {
    "CLIP's own": {},
    "bilinear": {"resample": 2},
    "resized to more than the crop": {"size": {"shortest_edge": 48}},
    "resized to less than the crop": {"size": {"shortest_edge": 24}},
    "squeezed": {"size": {"height": 40, "width": 33}},
    "squeezed, not cropped": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    "another rescaling": {"rescale_factor": 1 / 127.5},
}
OTHERS = {
    "not normalised": {"do_normalize": False},
    "not rescaled": {"do_rescale": False, "image_mean": [100.0] * 3},
    "Lanczos": {"resample": 1},
}


@pytest.mark.parametrize("name", [*CONFIGS, *OTHERS])
def test_pixels_are_the_processors_own_to_the_last_bit(
    name: str, tiny_clip_dir: Path, tmp_path: Path, images: list[Image.Image]
) -> None:
    content = json.loads((tiny_clip_dir / "preprocessor_config.json").read_text())
    write_json(
        tmp_path / "preprocessor_config.json",
        **content | CONFIGS.get(name, {}) | OTHERS.get(name, {}),
    )
    own = AutoImageProcessor.from_pretrained(tmp_path)
    expected = own(images=images, return_tensors="pt")["pixel_values"].float()
    for dtype in (torch.float32, torch.bfloat16):
        found = Pixels(own, CPU, dtype)
        assert found.plain == (name in CONFIGS)
        assert torch.equal(found.finish(found.prepare(images)), expected.to(dtype))
        one = found.finish(found.prepare(images[:1]))
        assert torch.equal(one, expected[:1].to(dtype))


def test_bytes_are_handed_over_not_floats(tiny_clip_dir: Path, images: list[Image.Image]) -> None:
    encoder = models.load(str(tiny_clip_dir), tower="image", device="cpu", precision="fp32")
    pixels = encoder.preprocess(images)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (9, 3, 32, 32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compile_for", [0, 4])
def test_a_gpu_resizes_small_images_and_does_not_wait(
    compile_for: int, tmp_path: Path, images: list[Image.Image]
) -> None:
    folder = str(tiny_clip(tmp_path / "model", image_size=64))
    here = models.load(folder, tower="image", device="cpu", precision="fp32")
    there = models.load(
        folder, tower="image", device="cuda", precision="fp32", compile_for=compile_for
    )
    there.wait = False
    for some in (images, [image for image in images if image.size == (32, 32)]):
        pixels = there.preprocess(some)
        assert pixels.is_pinned()
        pending = there.encode_images(pixels)
        assert isinstance(pending, quick.Pending)
        found = np.concatenate([pending, pending])[: len(some)]
        assert cosines(found, here.encode_images(here.preprocess(some))).min() >= 0.999


# streaming


def test_blocks_ahead_come_in_order_and_no_more_than_one_too_early() -> None:
    made: list[int] = []

    def blocks() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i

    seen = []
    for block in ahead(blocks()):
        seen.append(block)
        assert len(made) <= len(seen) + 1
    assert seen == made == list(range(5))


def test_an_error_ahead_comes_in_its_turn() -> None:
    def blocks() -> Iterator[int]:
        yield 0
        raise ValueError("of block 1")

    found = ahead(blocks())
    assert next(found) == 0
    with pytest.raises(ValueError, match="of block 1"):
        next(found)


def test_blocks_ahead_may_be_left_alone() -> None:
    found = ahead(iter(range(100)))
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]


def test_flatness_is_the_mean_of_each_images_entropy_and_confidence() -> None:
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, (700, 33)).astype(np.float32)
    for row in softmax.flatness([cosines[:300], cosines[300:]], [1.0, 0.07, 0.001]):
        tau = row["temperature"]
        assert row["mean_entropy"] == pytest.approx(softmax.entropy(cosines, tau).mean(), rel=1e-12)
        assert row["mean_confidence"] == pytest.approx(
            softmax.confidence(cosines, tau).mean(), rel=1e-12
        )
