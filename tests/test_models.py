"""models: names, files, towers, preprocessing, tokens, precision; held against plain transformers and open_clip."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_factory import openai_form, tiny_clip, tiny_siglip, write_json
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel

from clipkit import models
from clipkit.errors import ClipkitError, UsageError
from clipkit.models import encoder

TEXTS = [
    "a photo of a cat",
    "",
    "Déjà vu, über-cool!!",
    "a " * 30,
    "naïve  café\tand 3.14 — it's 12 o'clock 🙂",
    "the end",
]
EVERYTHING = """
import sys
from clipkit import models
for folder in sys.argv[1:]:
    for tower in ("image", "text"):
        models.load(folder, tower=tower)
        models.load(folder, tower=tower, untrained=1)
    models.load(folder, tower="text").encode_texts(["word " * 200], truncate=True)
    models.describe_model(folder)
"""


@pytest.fixture(scope="module")
def old_form_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return openai_form(tmp_path_factory.mktemp("models") / "old-form")


@pytest.fixture(scope="module")
def siglip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_siglip(tmp_path_factory.mktemp("models") / "siglip")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Noise in several sizes, two of each, in turns."""
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (50, 40), (40, 50), (300, 225)] * 2
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


@pytest.fixture
def copied(tiny_clip_dir: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be damaged."""
    return shutil.copytree(tiny_clip_dir, tmp_path / "model")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def plain_features(
    folder: Path, images: list[Image.Image], texts: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """What a script would write: the whole model, one image and one text at a time."""
    kind = SiglipModel if "siglip" in folder.name else CLIPModel
    padding = "max_length" if kind is SiglipModel else False
    model = kind.from_pretrained(folder).eval()
    processor, tokenizer = (
        AutoImageProcessor.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    rows: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    with torch.no_grad():
        for image in images:
            rows[0].append(model.get_image_features(**processor(images=image, return_tensors="pt")))
        for text in texts:
            tokens = tokenizer(text, padding=padding, return_tensors="pt")["input_ids"]
            rows[1].append(model.get_text_features(input_ids=tokens))
    image, text = (
        torch.cat([getattr(row, "pooler_output", row) for row in part]).numpy() for part in rows
    )
    return image, text


def assert_features_equal(folder: Path, images: list[Image.Image], texts: list[str]) -> None:
    expected = plain_features(folder, images, texts)
    image = models.load(str(folder), tower="image", device="cpu", precision="fp32")
    text = models.load(str(folder), tower="text", device="cpu", precision="fp32")
    found = image.encode_images(image.preprocess(images)), text.encode_texts(texts)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        assert one.shape == other.shape == (len(one), image.dim)
        assert cosines(one, other).min() >= 0.99999
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


# features


@pytest.mark.parametrize("form", ["tiny_clip_dir", "old_form_dir", "siglip_dir"])
def test_features_equal_plain_transformers(
    form: str, images: list[Image.Image], request: pytest.FixtureRequest
) -> None:
    assert_features_equal(request.getfixturevalue(form), images, TEXTS)


def test_features_of_a_full_size_model(vit_b32_dir: Path, cifar10_root: Path) -> None:
    files = sorted(cifar10_root.glob("test/*/*0.jpg"))[::700]
    assert_features_equal(
        vit_b32_dir, [Image.open(file).convert("RGB") for file in files], TEXTS[:2]
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("form", ["tiny_clip_dir", "siglip_dir"])
def test_half_precision_is_close_to_full(
    form: str, precision: str, images: list[Image.Image], request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue(form))
    for tower in ("image", "text"):
        full, half = (
            models.load(folder, tower=tower, device="cpu", precision=p) for p in ("fp32", precision)
        )
        if tower == "image":
            pixels = full.preprocess(images)
            expected, found = full.encode_images(pixels), half.encode_images(pixels)
        else:
            expected, found = full.encode_texts(TEXTS), half.encode_texts(TEXTS)
        assert half.details["precision"] == precision
        assert found.dtype == np.float32
        assert not np.array_equal(found, expected)
        assert cosines(found, expected).min() >= 0.999


def test_full_precision_whatever_dtype_the_config_names(
    copied: Path, images: list[Image.Image]
) -> None:
    expected = models.load(str(copied), tower="image", precision="fp32")
    config = json.loads((copied / "config.json").read_text())
    for part in (config, config["vision_config"], config["text_config"]):
        part |= {"dtype": "float16", "torch_dtype": "float16"}
    write_json(copied / "config.json", **config)
    found = models.load(str(copied), tower="image", precision="fp32")
    pixels = found.preprocess(images)
    np.testing.assert_array_equal(found.encode_images(pixels), expected.encode_images(pixels))


def test_weights_may_be_split_over_files(copied: Path) -> None:
    expected = models.load(str(copied), tower="text", precision="fp32")
    tensors = load_file(copied / "model.safetensors")
    names = sorted(tensors)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for part, chosen in parts.items():
        save_file(
            {name: tensors[name] for name in chosen}, copied / part, metadata={"format": "pt"}
        )
    weight_map = {name: part for part, chosen in parts.items() for name in chosen}
    write_json(copied / "model.safetensors.index.json", metadata={}, weight_map=weight_map)
    (copied / "model.safetensors").unlink()
    found = models.load(str(copied), tower="text", precision="fp32")
    np.testing.assert_array_equal(found.encode_texts(TEXTS), expected.encode_texts(TEXTS))
    together = b"".join((copied / part).read_bytes() for part in sorted(parts))
    assert found.digest == "sha256:" + hashlib.sha256(together).hexdigest()


def test_a_tower_comes_alone(tiny_clip_dir: Path) -> None:
    for tower, other in (("image", "text"), ("text", "visi")):
        names = [
            name
            for name, _ in models.load(str(tiny_clip_dir), tower=tower)._model.named_parameters()
        ]
        assert names
        assert not [name for name in names if name.startswith(other) or name == "logit_scale"]


def test_details_are_what_a_history_needs(tiny_clip_dir: Path, siglip_dir: Path) -> None:
    image = models.load(str(tiny_clip_dir), tower="image", device="cpu", precision="fp32")
    assert json.loads(json.dumps(image.details)) == image.details
    assert image.details == {
        "name": str(tiny_clip_dir),
        "digest": "sha256:"
        + hashlib.sha256((tiny_clip_dir / "model.safetensors").read_bytes()).hexdigest(),
        "tower": "image",
        "dim": 16,
        "precision": "fp32",
        "device": "cpu",
        "logit_scale": pytest.approx(1 / 0.07, rel=1e-4),
        "compile": False,
        "preprocessing": {
            "processor": "CLIPImageProcessor",
            "backend": image.details["preprocessing"]["backend"],
            "do_resize": True,
            "size": {"shortest_edge": 32},
            "resample": "bicubic",
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    }
    text = models.load(str(siglip_dir), tower="text")
    assert "preprocessing" not in text.details
    stored = load_file(siglip_dir / "model.safetensors")
    assert text.details["logit_scale"] == pytest.approx(stored["logit_scale"].exp().item())
    assert text.details["logit_bias"] == stored["logit_bias"].item()


# preprocessing


@pytest.mark.parametrize("form", ["tiny_clip_dir", "old_form_dir", "siglip_dir"])
def test_pixels_equal_the_models_own_processor(
    form: str, images: list[Image.Image], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(form)
    own = AutoImageProcessor.from_pretrained(folder)
    expected = np.concatenate(
        [own(images=image, return_tensors="np")["pixel_values"] for image in images]
    )
    encoder = models.load(str(folder), tower="image", device="cpu", precision="fp32")
    pixels = encoder.preprocess(images)
    np.testing.assert_array_equal(encoder._prepare.finish(pixels), expected)
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(encoder.preprocess, [images] * 8):
            np.testing.assert_array_equal(again, pixels)


# texts


def test_tokens_equal_open_clip(tiny_clip_dir: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    expected = open_clip.get_tokenizer("ViT-B-32")(TEXTS).numpy()
    encoder = models.load(str(tiny_clip_dir), tower="text")
    lengths = encoder.token_lengths(TEXTS)
    assert lengths.tolist() == (expected.argmax(1) + 1).tolist()
    rows = encoder._prepare(TEXTS)["input_ids"]
    assert [row[:length] for row, length in zip(expected.tolist(), lengths, strict=True)] == rows


def test_batches_of_texts_do_not_mix(tiny_clip_dir: Path, old_form_dir: Path) -> None:
    for folder in (tiny_clip_dir, old_form_dir):
        encoder = models.load(str(folder), tower="text", precision="fp32")
        texts = [f"{TEXTS[i % 6]} {i}" for i in range(300)]
        together = encoder.encode_texts(texts)
        assert together.shape == (300, 16)
        alone = np.concatenate([encoder.encode_texts([text]) for text in texts[250:262]])
        np.testing.assert_allclose(together[250:262], alone, rtol=1e-4, atol=1e-5)


def test_a_long_text_is_refused_or_cut(tiny_clip_dir: Path) -> None:
    encoder = models.load(str(tiny_clip_dir), tower="text", precision="fp32")
    assert encoder.context_length == 77
    fits, long = "dog " * 75, "dog " * 76
    assert encoder.token_lengths([fits, long]).tolist() == [77, 78]
    with pytest.raises(
        ClipkitError, match=r"at most 77 tokens; text 1 \(counted from 0\) has 78, and 2 of 3"
    ) as error:
        encoder.encode_texts([fits, long, "dog " * 90])
    assert "--truncate" in str(error.value.hint)
    cut = encoder.encode_texts([long, fits], truncate=True)
    np.testing.assert_allclose(cut[0], cut[1], rtol=1e-5)


def test_no_texts_give_no_rows(tiny_clip_dir: Path) -> None:
    encoder = models.load(str(tiny_clip_dir), tower="text")
    assert encoder.encode_texts([]).shape == (0, 16)
    assert encoder.token_lengths([]).shape == (0,)


# untrained


def test_untrained_towers_come_from_one_seeded_model(
    copied: Path, images: list[Image.Image]
) -> None:
    before = torch.random.get_rng_state()
    image, text = (
        models.load(str(copied), tower=t, precision="fp32", untrained=7) for t in ("image", "text")
    )
    other = models.load(str(copied), tower="image", precision="fp32", untrained=8)
    assert torch.equal(before, torch.random.get_rng_state())
    assert image.digest == text.digest != other.digest
    assert image.digest != models.load(str(copied), tower="image").digest
    assert image.details["untrained"] == 7
    pixels = image.preprocess(images)
    assert cosines(image.encode_images(pixels), other.encode_images(pixels)).max() < 0.99

    (copied / "model.safetensors").unlink()
    same = models.load(str(copied), tower="image", precision="fp32", untrained=7)
    assert same.digest == image.digest
    np.testing.assert_array_equal(same.encode_images(pixels), image.encode_images(pixels))

    tiny_clip(copied, seed=7)  # an ordinary model made with that seed
    assert_same_features(image, models.load(str(copied), tower="image", precision="fp32"), pixels)
    stored = models.load(str(copied), tower="text", precision="fp32")
    np.testing.assert_array_equal(text.encode_texts(TEXTS), stored.encode_texts(TEXTS))
    assert image.details["logit_scale"] == stored.details["logit_scale"]


def assert_same_features(one: models.Encoder, other: models.Encoder, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(one.encode_images(pixels), other.encode_images(pixels))


def test_untrained_siglip(siglip_dir: Path, images: list[Image.Image]) -> None:
    image = models.load(str(siglip_dir), tower="image", precision="fp32", untrained=0)
    stored = models.load(str(siglip_dir), tower="image", precision="fp32")
    assert_same_features(image, stored, image.preprocess(images))


# describe


def test_describe_counts_without_running(tiny_clip_dir: Path, siglip_dir: Path) -> None:
    for folder, kind in ((tiny_clip_dir, CLIPModel), (siglip_dir, SiglipModel)):
        found = models.describe_model(str(folder))
        whole = kind.from_pretrained(folder)
        assert found["parameters"] == whole.num_parameters()
        scalars = sum(
            p.numel() for name, p in whole.named_parameters() if name.startswith("logit_")
        )
        assert (
            found["image"]["parameters"] + found["text"]["parameters"] + scalars
            == whole.num_parameters()
        )
        assert found["temperature"] == pytest.approx(1 / whole.logit_scale.exp().item())
        assert found["digest"] == models.load(str(folder), tower="text").digest
    assert models.describe_model(str(tiny_clip_dir))["image"] == {
        "layers": 2,
        "width": 32,
        "heads": 2,
        "parameters": models.describe_model(str(tiny_clip_dir))["image"]["parameters"],
        "patch_size": 8,
        "image_size": 32,
    }
    text = models.describe_model(str(tiny_clip_dir))["text"]
    assert (text["context_length"], text["vocabulary"]) == (77, 49408)


# a quiet terminal


def test_nothing_is_printed(tiny_clip_dir: Path, old_form_dir: Path, siglip_dir: Path) -> None:
    folders = [str(tiny_clip_dir), str(old_form_dir), str(siglip_dir)]
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, *folders], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# damage and malice


def test_missing_weights_are_named(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    lost = "vision_model.encoder.layers.1.mlp.fc1.bias"
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != lost},
        copied / "model.safetensors",
    )
    with pytest.raises(
        ClipkitError, match=r"fit config.json; missing: .*layers\.1\.mlp\.fc1\.bias$"
    ):
        models.load(str(copied), tower="image")
    models.load(str(copied), tower="text")


def test_a_missing_logit_scale_is_named(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    del tensors["logit_scale"]
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(ClipkitError, match=r"missing: logit_scale$"):
        models.load(str(copied), tower="image")


@pytest.mark.parametrize("value", [torch.zeros(2), torch.tensor(1e4)])
def test_a_logit_scale_that_is_none(copied: Path, value: torch.Tensor) -> None:
    tensors = load_file(copied / "model.safetensors")
    save_file({**tensors, "logit_scale": value}, copied / "model.safetensors")
    with pytest.raises(ClipkitError, match=r"the logit_scale of .* could not be loaded"):
        models.load(str(copied), tower="image")


def test_weights_of_another_shape_are_named(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    write_json(copied / "config.json", **{**config, "projection_dim": 8})
    with pytest.raises(ClipkitError, match=r"mismatched: visual_projection\.weight$"):
        models.load(str(copied), tower="image")


@pytest.mark.parametrize("length", [0, 7, 4000])
def test_damaged_weights(copied: Path, length: int) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(ClipkitError, match="must be a whole safetensors file"):
        models.load(str(copied), tower="image")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "must be a model directory; it holds no config.json"),
        ("config.json", b"{", "must be readable JSON"),
        ("config.json", b"[]", "must hold a JSON object; got list"),
        (
            "config.json",
            b"{}",
            "must be a dual encoder .clip or siglip.; its config.json says None",
        ),
        ("config.json", b'{"model_type": "bert"}', "its config.json says 'bert'"),
        (
            "config.json",
            b'{"model_type": "clip", "vision_config": {"hidden_size": "x"}}',
            "could not be loaded",
        ),
        ("preprocessor_config.json", None, "must hold preprocessor_config.json, which is missing"),
        ("preprocessor_config.json", b"\xff", "must be readable JSON"),
        ("vocab.json", None, "must hold its tokenizer"),
        ("merges.txt", None, "must hold its tokenizer"),
        ("vocab.json", b"no", "the tokenizer of .* could not be loaded"),
    ],
)
def test_damaged_files(copied: Path, file: str, content: bytes | None, message: str) -> None:
    if content is None:
        (copied / file).unlink()
    else:
        (copied / file).write_bytes(content)
    tower = "text" if file in {"vocab.json", "merges.txt"} else "image"
    with pytest.raises(ClipkitError, match=message) as error:
        models.load(str(copied), tower=tower)
    assert "\n" not in error.value.message


def test_a_tokenizer_of_another_model(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["vocab_size"] = 400
    write_json(copied / "config.json", **config)
    encoder = models.load(str(copied), tower="text", untrained=0)
    with pytest.raises(
        ClipkitError, match="must know every token of its tokenizer; got token 49407 of 400"
    ):
        encoder.encode_texts(["a cat"])


class Canary:
    """Unpickling one makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickles_are_not_opened(copied: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"logit_scale": Canary(canary)}, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    for call in (models.describe, lambda name: models.load(name, tower="image")):
        with pytest.raises(
            ClipkitError,
            match=r"must hold model.safetensors; it holds only pytorch_model.bin, a pickle",
        ):
            call(str(copied))
    models.load(str(copied), tower="image", untrained=0)
    assert not canary.exists()
    torch.load(copied / "pytorch_model.bin", weights_only=False)
    assert canary.exists()  # the trap would have sprung


def test_code_beside_a_model_is_not_run(copied: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (copied / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        content = json.loads((copied / file).read_text())
        names = [
            "AutoConfig",
            "AutoModel",
            "AutoImageProcessor",
            "AutoFeatureExtractor",
            "AutoProcessor",
        ]
        content["auto_map"] = dict.fromkeys(names, "evil.Evil") | {
            "AutoTokenizer": ["evil.Evil", "evil.Evil"]
        }
        write_json(copied / file, **content)
    for tower in ("image", "text"):
        models.load(str(copied), tower=tower)
        models.load(str(copied), tower=tower, untrained=0)
    models.describe_model(str(copied))
    for file, key in (
        ("preprocessor_config.json", "image_processor_type"),
        ("tokenizer_config.json", "tokenizer_class"),
    ):
        content = json.loads((copied / file).read_text())
        write_json(copied / file, **{**content, key: "Evil"})
    for tower in ("image", "text"):
        with contextlib.suppress(ClipkitError):
            models.load(str(copied), tower=tower)
    assert not canary.exists()


def test_an_index_may_not_point_elsewhere(copied: Path) -> None:
    shutil.move(copied / "model.safetensors", copied.parent / "elsewhere.safetensors")
    write_json(
        copied / "model.safetensors.index.json",
        weight_map={"logit_scale": "../elsewhere.safetensors"},
    )
    with pytest.raises(
        ClipkitError,
        match=r"must list safetensors files beside it; got '\.\./elsewhere.safetensors'",
    ):
        models.load(str(copied), tower="image")


def test_open_clip_weights_are_not_supported_yet(copied: Path) -> None:
    (copied / "config.json").rename(copied / "open_clip_config.json")
    with pytest.raises(
        ClipkitError, match="it holds OpenCLIP weights, which are not supported yet"
    ):
        models.load(str(copied), tower="image")


# names, devices, precisions


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="unknown model 'ViT-B32'") as error:
        models.load("ViT-B32", tower="image")
    assert "ViT-B-32" in str(error.value.hint)
    with pytest.raises(ClipkitError, match=r"there is no directory \./models/mine$"):
        models.load("./models/mine", tower="image")


@pytest.mark.parametrize("name", ["cpu:1", "cuda:", "cuda:x", "cuda:-1", "gpu", "mps:1", ""])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device"):
        models.load("tiny", tower="image", device=name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3"])
def test_absent_devices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(
        ClipkitError, match=f"device {name} must be there; PyTorch .* sees 0 of cuda"
    ):
        models.load("tiny", tower="image", device=name)


def test_unknown_precision() -> None:
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        models.load("tiny", tower="image", precision="fp8")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_on_the_processor(
    native: bool, expected: str, tiny_clip_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    encoder = models.load(str(tiny_clip_dir), tower="text", device="cpu")
    assert (encoder.details["precision"], encoder.details["device"]) == (expected, "cpu")
    assert next(encoder._model.parameters()).dtype == models.DTYPES[expected]


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")]
)
def test_automatic_precision_on_cuda(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert encoder._precision("auto", torch.device("cuda")) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_features_on_cuda(precision: str, tiny_clip_dir: Path, images: list[Image.Image]) -> None:
    for tower in ("image", "text"):
        here = models.load(str(tiny_clip_dir), tower=tower, device="cpu", precision="fp32")
        there = models.load(str(tiny_clip_dir), tower=tower, device="cuda", precision=precision)
        assert there.details["device"] == "cuda"
        encode = (
            (lambda e: e.encode_images(e.preprocess(images)))
            if tower == "image"
            else (lambda e: e.encode_texts(TEXTS))
        )
        assert cosines(encode(there), encode(here)).min() >= (
            0.99999 if precision == "fp32" else 0.999
        )
