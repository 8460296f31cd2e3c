"""What makes clipkit fast must not change results: packing, preprocessing, prefetching.

Nothing here asserts a time.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import versions
from factories.clips import cosines, noise_images, tiny_clip, tiny_siglip
from factories.zoo import PlainLinear, changed, load
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional
from transformers import AutoImageProcessor

from clipkit.base.prefetch import prefetch
from clipkit.features import BlockMatrix
from clipkit.models import acceleration
from clipkit.models.preprocessing import ImagePreprocessor, center_crop, resize
from clipkit.statistics import softmax


@pytest.fixture(scope="module")
def images():
    return noise_images()


def set_activation(folder, name):
    changed("config.json", "vision_config", hidden_act=name)(folder)
    return folder


def assert_bfloat16_is_close(folder, images, *, packed):
    full, half = load(folder), load(folder, precision="bf16")
    assert "packed" not in full.details
    assert half.details.get("packed", False) is packed
    pixels = full.preprocess(images)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (9, 3, 32, 32))
    assert cosines(half.encode_images(pixels), full.encode_images(pixels)).min() >= 0.999


# layers packed for oneDNN


mkldnn = torch.backends.mkldnn


# oneDNN needs AVX-512 to multiply matrices of bfloat16
onednn = pytest.mark.skipif(
    not (mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="oneDNN has no products of bfloat16 on this processor",
)


@onednn
@pytest.mark.parametrize("activation", list(acceleration.ACTIVATIONS))
@pytest.mark.parametrize("write_model", [tiny_clip, tiny_siglip])
def test_packed_layers_give_what_full_precision_gives(write_model, activation, tmp_path, images):
    folder = set_activation(write_model(tmp_path / "model"), activation)
    assert_bfloat16_is_close(folder, images, packed=True)


def test_an_activation_that_cannot_be_packed_is_left_to_pytorch(tmp_path, images):
    folder = set_activation(tiny_clip(tmp_path / "model"), "tanh")
    assert_bfloat16_is_close(folder, images, packed=False)


@pytest.mark.parametrize("write_model", [tiny_clip, tiny_siglip])
def test_packed_layers_are_used_where_they_keep_the_embeddings(
    write_model, tmp_path, images, monkeypatch, capsys
):
    monkeypatch.setattr(acceleration, "PackedLinear", PlainLinear)
    assert_bfloat16_is_close(write_model(tmp_path / "model"), images, packed=True)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("write_model", [tiny_clip, tiny_siglip])
@pytest.mark.long
def test_packed_layers_that_would_change_the_embeddings_are_not_used(
    write_model, tmp_path, images, monkeypatch, capsys
):
    class WithoutAttention(acceleration.PackedLayer):
        """As a layer that does not know of an argument that the tower passes."""

        def __call__(self, x):
            return self.mlp_out.add_to(x, self.mlp_in(self.mlp_norm(x)))

    monkeypatch.setattr(acceleration, "PackedLinear", PlainLinear)
    monkeypatch.setattr(acceleration, "PackedLayer", WithoutAttention)
    assert_bfloat16_is_close(write_model(tmp_path / "model"), images, packed=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("clipkit: the layers are not packed")


@onednn
def test_a_row_does_not_depend_on_its_batch(tiny_clip_dir, images):
    encoder = load(tiny_clip_dir, precision="bf16")
    pixels = encoder.preprocess(images)
    rows = encoder.encode_images(pixels)
    # a kernel may sum in another order for another batch
    twice = encoder.encode_images(torch.cat([pixels, pixels]))
    assert cosines(twice, np.concatenate([rows, rows])).min() >= 0.999
    assert cosines(encoder.encode_images(pixels.flip(0)), rows[::-1]).min() >= 0.999


@pytest.mark.exhaustive
def test_pytorch_leaves_no_folder_in_tmpdir(tmp_path):
    cache = tmp_path / "cache"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    variables = {"TMPDIR": str(temporary), "XDG_CACHE_HOME": str(cache)}
    environment = {name: os.environ[name] for name in ("PATH", "HOME")} | variables
    words = ["embed", "digits", "--limit", "4", "--split", "test", "--model", "tiny"]
    words += ["--untrained", "1"]  # imports transformers
    command = [sys.executable, "-m", "clipkit", *words, "-o", "e.h5"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert list(temporary.iterdir()) == []
    assert (cache / "clipkit" / "inductor").is_dir()


# preprocessing


SETTINGS = {  # whether they are standard, and changes
    "CLIP's own": (True, {}),
    "bilinear": (True, {"resample": 2}),
    "resized to more than the crop": (True, {"size": {"shortest_edge": 48}}),
    "resized to less than the crop": (True, {"size": {"shortest_edge": 24}}),
    "squeezed": (True, {"size": {"height": 40, "width": 33}}),
    "not cropped": (True, {"size": {"height": 32, "width": 32}, "do_center_crop": False}),
    "another rescaling": (True, {"rescale_factor": 1 / 127.5}),
    "not normalised": (False, {"do_normalize": False}),
    "not rescaled": (False, {"do_rescale": False, "image_mean": [100.0] * 3}),
    "Lanczos": (False, {"resample": 1}),
}


@pytest.mark.parametrize("name", SETTINGS)
@versions.PIXELS
def test_pixels_equal_the_processors_own_to_the_last_bit(name, tiny_clip_dir, tmp_path, images):
    is_standard, changes = SETTINGS[name]
    shutil.copy(tiny_clip_dir / "preprocessor_config.json", tmp_path)
    changed("preprocessor_config.json", **changes)(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    expected = processor(images=images, return_tensors="pt")["pixel_values"].float()
    for dtype in (torch.float32, torch.bfloat16):
        preprocessor = ImagePreprocessor(
            processor, torch.device("cpu"), dtype, expected.shape[-1], False
        )
        assert preprocessor.is_standard == is_standard
        for count in (1, len(images)):
            pixels = preprocessor.normalize(preprocessor.resize_and_crop(images[:count]))
            assert torch.equal(pixels, expected[:count].to(dtype))


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resizing_and_cropping_equal_torchvisions(mode, capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    rng = torch.Generator().manual_seed(0)
    for height, width in ((31, 50), (64, 33), (20, 29)):
        images = torch.randint(256, (2, 3, height, width), generator=rng, dtype=torch.uint8)
        expected = functional.resize(images, [37, 29], InterpolationMode(mode), antialias=True)
        assert torch.equal(resize(images, [37, 29], mode), expected)
        for size in ([24, 24], [41, 20], [16, 64], [height, width]):
            expected = functional.center_crop(images, size)
            assert torch.equal(center_crop(images, size, is_rounded=True), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("is_one_size", [False, True])
def test_a_gpu_resizes_small_images_and_does_not_block(is_one_size, tmp_path, images):
    folder = tiny_clip(tmp_path / "model", image_size=64)
    on_cpu = load(folder)
    on_gpu = load(folder, device="cuda", non_blocking=True)
    batch = [image for image in images if image.size == (32, 32)] if is_one_size else images
    pixels = on_gpu.preprocess(batch)
    assert pixels.is_pinned()
    assert pixels.shape[-1] == (32 if is_one_size else 64)
    embeddings = on_gpu.encode_images(pixels)
    assert isinstance(embeddings, acceleration.AsyncEmbeddings)
    rows = np.concatenate([embeddings, embeddings])[: len(batch)]
    assert cosines(rows, on_cpu.encode_images(on_cpu.preprocess(batch))).min() >= 0.999


# streaming


def test_prefetched_blocks_come_in_order_and_at_most_one_early():
    started = []

    def blocks():
        for i in range(5):
            started.append(i)
            yield i

    received = []
    for block in prefetch(blocks()):
        received.append(block)
        assert len(started) <= len(received) + 1
    assert received == started == list(range(5))


def test_an_error_while_prefetching_is_raised_in_its_turn_and_blocks_may_be_abandoned():
    def blocks():
        yield 0
        raise ValueError("of block 1")

    iterator = prefetch(blocks())
    assert next(iterator) == 0
    with pytest.raises(ValueError, match="of block 1"):
        next(iterator)
    abandoned = prefetch(iter(range(100)))
    assert next(abandoned) == 0
    del abandoned


def test_means_over_blocks_are_those_of_each_images_entropy_and_confidence():
    rows = np.random.default_rng(0).uniform(-1, 1, (700, 33)).astype(np.float32)
    matrix = BlockMatrix(rows.shape, lambda: iter([rows[:300], rows[300:]]))
    temperatures = [1.0, 0.07, 0.001]
    pairs = softmax.mean_entropy_and_confidence(matrix, temperatures)
    for tau, pair in zip(temperatures, pairs, strict=True):
        expected = softmax.entropy(rows, tau).mean(), softmax.confidence(rows, tau).mean()
        assert pair == pytest.approx(expected, rel=1e-12)
