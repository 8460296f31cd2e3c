"""models: towers, preprocessing, tokens and precision, compared with transformers and open_clip."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clip_factory import (
    cosines,
    edit_json,
    edit_tensors,
    noise_image,
    noise_images,
    openai_form,
    tiny_clip,
    tiny_siglip,
    transformers_5_form,
    write_json,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from shell import ok
from torchvision import transforms
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel

from clipkit import embedding, features, models
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.models import hub
from clipkit.models.acceleration import DTYPES, choose_precision
from clipkit.models.hub import TINY, combine_digests, find
from clipkit.models.tokenizer import is_cleaned_by_openai

TEXTS = [
    "a photo of a cat",
    "",
    "Déjà vu, über-cool!!",
    "a " * 30,
    "naïve  café\tand 3.14 — it's 12 o'clock 🙂",
    "the end",
]
FORMS = ["tiny_clip_dir", "old_form_dir", "new_form_dir", "siglip_dir"]
LOAD_EVERYTHING = """
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
def new_form_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformers_5_form(tmp_path_factory.mktemp("models") / "new-form")


@pytest.fixture(scope="module")
def siglip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_siglip(tmp_path_factory.mktemp("models") / "siglip")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Path:
    """Each form of a model in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def copied(tiny_clip_dir: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be damaged."""
    return shutil.copytree(tiny_clip_dir, tmp_path / "model")


def load(folder: Path, tower: str, **options: Any) -> models.Encoder:
    """Load a tower; in float32 on the CPU unless the test says otherwise."""
    return models.load(str(folder), tower=tower, **{"device": "cpu", "precision": "fp32"} | options)


def encode(encoder: models.Encoder, images: list[Image.Image]) -> np.ndarray:
    """Encode the images or, by a text tower, TEXTS."""
    if encoder.tower == "text":
        return encoder.encode_texts(TEXTS)
    return encoder.encode_images(encoder.preprocess(images))


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# features


def features_of_a_script(
    folder: Path, images: list[Image.Image], texts: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Run the whole model by plain transformers on one image and one text at a time."""
    is_siglip = "siglip" in folder.name
    kind = SiglipModel if is_siglip else CLIPModel
    model = kind.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    image_outputs, text_outputs = [], []
    with torch.no_grad():
        for image in images:
            pixels = processor(images=image, return_tensors="pt")
            image_outputs.append(model.get_image_features(**pixels))
        for text in texts:
            padding = "max_length" if is_siglip else False
            tokens = tokenizer(text, padding=padding, return_tensors="pt")["input_ids"]
            text_outputs.append(model.get_text_features(input_ids=tokens))

    def rows(outputs: list[Any]) -> np.ndarray:
        return torch.cat([getattr(output, "pooler_output", output) for output in outputs]).numpy()

    return rows(image_outputs), rows(text_outputs)


def assert_features_equal(folder: Path, images: list[Image.Image], texts: list[str]) -> None:
    image, text = load(folder, "image"), load(folder, "text")
    actual = image.encode_images(image.preprocess(images)), text.encode_texts(texts)
    for rows, expected in zip(actual, features_of_a_script(folder, images, texts), strict=True):
        assert rows.dtype == np.float32
        assert rows.shape == expected.shape == (len(rows), image.dim)
        assert cosines(rows, expected).min() >= 0.99999
        np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_features_equal_plain_transformers(form: Path, images: list[Image.Image]) -> None:
    assert_features_equal(form, images, TEXTS)


@pytest.mark.exhaustive
@pytest.mark.long
def test_features_of_a_full_size_model(vit_b32_dir: Path, cifar10_root: Path) -> None:
    files = sorted(cifar10_root.glob("test/*/*0.jpg"))[::700]
    images = [Image.open(file).convert("RGB") for file in files]
    assert_features_equal(vit_b32_dir, images, TEXTS[:2])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("form", ["tiny_clip_dir", "siglip_dir"], indirect=True)
@pytest.mark.long
def test_half_precision_is_close_to_full(
    form: Path, tower: str, precision: str, images: list[Image.Image]
) -> None:
    expected = encode(load(form, tower), images)
    half = load(form, tower, precision=precision)
    actual = encode(half, images)
    assert half.details["precision"] == precision
    assert actual.dtype == np.float32
    assert not np.array_equal(actual, expected)
    assert cosines(actual, expected).min() >= 0.999


def test_full_precision_whatever_dtype_the_config_names(
    copied: Path, images: list[Image.Image]
) -> None:
    expected = encode(load(copied, "image"), images)

    def name_float16(config: dict[str, Any]) -> None:
        for part in (config, config["vision_config"], config["text_config"]):
            part |= {"dtype": "float16", "torch_dtype": "float16"}

    edit_json(copied / "config.json", name_float16)
    np.testing.assert_array_equal(encode(load(copied, "image"), images), expected)


def test_weights_may_be_split_over_files(copied: Path) -> None:
    expected = load(copied, "text").encode_texts(TEXTS)
    tensors = load_file(copied / "model.safetensors")
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    weight_map = {name: files[i % 2] for i, name in enumerate(sorted(tensors))}
    for file in files:
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        save_file(part, copied / file, metadata={"format": "pt"})
    write_json(copied / "model.safetensors.index.json", metadata={}, weight_map=weight_map)
    (copied / "model.safetensors").unlink()
    encoder = load(copied, "text")
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), expected)
    assert encoder.details["weights"] == sha256(
        b"".join((copied / file).read_bytes() for file in files)
    )


def test_a_tower_is_loaded_alone(tiny_clip_dir: Path) -> None:
    for tower, other in (("image", "text"), ("text", "visi")):
        names = [name for name, _ in load(tiny_clip_dir, tower)._tower.model.named_parameters()]
        assert names
        assert not [name for name in names if name.startswith(other) or name == "logit_scale"]


def test_a_tower_encodes_only_its_own_inputs(
    tiny_clip_dir: Path, images: list[Image.Image]
) -> None:
    image, text = load(tiny_clip_dir, "image"), load(tiny_clip_dir, "text")
    for call in (
        lambda: image.encode_texts(TEXTS),
        lambda: text.preprocess(images),
        lambda: text.encode_images(image.preprocess(images)),
    ):
        with pytest.raises(UsageError, match=r"expected the (image|text) tower, got the"):
            call()


def reference_digest(folder: Path) -> str:
    """Return a model's digest as docs/format.md defines it."""
    names = {"weights": "model.safetensors"} | {
        path.name: path.name for path in folder.iterdir() if path.suffix != ".safetensors"
    }
    parts = {part: sha256((folder / file).read_bytes()) for part, file in names.items()}
    return sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())


def test_details_are_what_a_history_needs(tiny_clip_dir: Path, siglip_dir: Path) -> None:
    image = load(tiny_clip_dir, "image")
    assert json.loads(json.dumps(image.details)) == image.details
    assert image.details == {
        "name": str(tiny_clip_dir),
        "library": f"transformers {transformers.__version__}",
        "digest": reference_digest(tiny_clip_dir),
        "weights": sha256((tiny_clip_dir / "model.safetensors").read_bytes()),
        "tower": "image",
        "dim": 16,
        "precision": "fp32",
        "device": "cpu",
        "logit_scale": pytest.approx(1 / 0.07, rel=1e-4),
        "compile": False,
        "preprocessing": {
            "processor": "CLIPImageProcessor",
            "crop_offset": "rounded",
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
    text = load(siglip_dir, "text")
    assert "preprocessing" not in text.details
    stored = load_file(siglip_dir / "model.safetensors")
    assert text.details["logit_scale"] == pytest.approx(stored["logit_scale"].exp().item())
    assert text.details["logit_bias"] == stored["logit_bias"].item()


SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
VOCABULARIES = ("tokenizer.json", "tokenizer.4.0.0.json", "vocab.json", "merges.txt", "vocab.txt")


@pytest.mark.parametrize("untrained", [None, 1])
@pytest.mark.long
def test_the_digest_covers_every_file_that_decides_an_embedding(
    copied: Path, untrained: int | None
) -> None:
    digests = set()
    names = [*SETTINGS, *VOCABULARIES, "spiece.model", "tokenizer.model"]
    files = find(str(copied))
    for name in names:
        before = (copied / name).read_bytes() if (copied / name).exists() else None
        (copied / name).write_bytes((before or b"") + b"\n")
        digests.add(combine_digests(files.digest_side_files()))
        (copied / name).unlink()
        if before is not None:
            (copied / name).write_bytes(before)
    assert len(digests) == len(names)
    parts = {tower: load(copied, tower, untrained=untrained).parts for tower in ("image", "text")}
    assert parts["image"] == parts["text"]
    for name in ("README.md", "training.json", "notes.txt", "model.fp16.safetensors"):
        (copied / name).write_text("other files do not matter")
    assert load(copied, "text", untrained=untrained).parts == parts["text"]


def test_a_model_with_another_activation_is_another_model(copied: Path) -> None:
    before = [load(copied, "image", untrained=seed).details for seed in (None, 1)]
    edit_json(copied / "config.json", lambda c: c["text_config"].update(hidden_act="gelu"))
    after = [load(copied, "image", untrained=seed).details for seed in (None, 1)]
    assert len({details["digest"] for details in before + after}) == 4
    assert before[0]["weights"] == after[0]["weights"]


def test_pixels_equal_the_models_own_processor_in_any_thread(
    form: Path, images: list[Image.Image]
) -> None:
    processor = AutoImageProcessor.from_pretrained(form)
    expected = [processor(images=image, return_tensors="np")["pixel_values"] for image in images]
    encoder = load(form, "image")
    pixels = encoder.preprocess(images)
    normalize = encoder._preprocessor.normalize
    np.testing.assert_array_equal(normalize(pixels), np.concatenate(expected))
    np.testing.assert_array_equal(normalize(pixels.float()), np.concatenate(expected))
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(encoder.preprocess, [images] * 8):
            np.testing.assert_array_equal(again, pixels)


def openai_crop(image: Image.Image) -> np.ndarray:
    """Resize and crop as OpenAI's code does: (3, 224, 224)."""
    resized = transforms.Resize(224, transforms.InterpolationMode.BICUBIC)(image)
    return np.asarray(transforms.CenterCrop(224)(resized), int).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "is_transformers_off"),
    [
        ((640, 427), True),
        ((427, 640), True),
        ((97, 64), True),
        ((524, 316), True),
        ((640, 480), False),
        ((500, 375), False),
        ((333, 500), False),
        ((301, 301), False),
    ],
)
def test_the_crop_is_openais_also_where_transformers_is_one_pixel_off(
    size: tuple[int, int], is_transformers_off: bool, old_form_dir: Path
) -> None:
    image = noise_image(*size)
    (ours,) = load(old_form_dir, "image").preprocess(image).numpy().astype(int)
    processor = AutoImageProcessor.from_pretrained(old_form_dir)
    unscaled = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")
    (theirs,) = unscaled["pixel_values"].astype(int)
    # Pillow, with which OpenAI's code resizes, rounds otherwise than torchvision
    assert abs(ours - openai_crop(image)).max() <= 2
    assert (abs(theirs - openai_crop(image)).max() > 2) == is_transformers_off
    assert np.array_equal(ours, theirs) != is_transformers_off


def test_pixels_of_photographs_are_openais(old_form_dir: Path, real_features: Path) -> None:
    published = np.load(real_features / "preprocessing-vitb32.npz")
    encoder = load(old_form_dir, "image")
    for name, expected in zip(published["names"], published["pixels"], strict=True):
        image = Image.open(real_features / "images" / f"{name}.jpg").convert("RGB")
        (pixels,) = encoder._preprocessor.normalize(encoder.preprocess(image)).numpy()
        difference = abs(pixels - expected)
        assert difference.max() < 2.01 / 255 / 0.26  # two of 255 levels
        assert (difference > 1e-3).mean() < 0.01


# texts


@pytest.mark.long
def test_tokens_equal_open_clip(tiny_clip_dir: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    expected = open_clip.get_tokenizer("ViT-B-32")(TEXTS).numpy()
    encoder = load(tiny_clip_dir, "text")
    lengths = encoder._tokenizer.lengths(TEXTS)
    assert lengths.tolist() == (expected.argmax(1) + 1).tolist()
    tokens = encoder._tokenizer.tokens(TEXTS)
    for row, expected_row, length in zip(tokens, expected, lengths, strict=True):
        assert row[:length].tolist() == expected_row[:length].tolist()


CLEANED = [
    "a ‘cat’",
    "a “cat”",
    "a cat&#39;s",
    "cats &amp; dogs",
    "a ﬁsh",
    "ｃａｔ",
    "ĳs",
    "©&copy;",
]
NOT_CLEANED = ["rock & roll", "AT&T", "a < b", "“".encode().hex(), "é", "ſt", "1/2 ½", "日本", "🙂"]


def test_a_warning_counts_the_prompts_that_have_other_tokens_than_in_openais_code(
    tiny_clip_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenize = pytest.importorskip("open_clip").get_tokenizer("ViT-B-32")
    encoder = load(tiny_clip_dir, "text")
    for text in (*CLEANED, *NOT_CLEANED, *TEXTS):
        (expected,) = tokenize([text])
        (tokens,) = encoder._tokenizer.tokens([text])
        assert torch.equal(tokens, expected[: len(tokens)]) == (text not in CLEANED), text
    encoder.encode_texts([*NOT_CLEANED, *TEXTS])
    assert capsys.readouterr().err == ""
    encoder.encode_texts([*NOT_CLEANED, *CLEANED])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "clipkit: warning: 8 of 17 prompts get other tokens than in OpenAI's code, which replaces "
        "curly quotes, HTML entities, ligatures and full-width characters; the first is 'a ‘cat’'"
    )


@pytest.mark.long
def test_the_characters_that_are_warned_of_are_those_that_ftfy_replaces() -> None:
    ftfy = pytest.importorskip("ftfy")
    for character in map(chr, range(0xA0, 0x10000)):
        if unicodedata.category(character) in ("Cn", "Cs"):  # unassigned, half a surrogate pair
            continue
        text = f"a {character} b"
        fixed = ftfy.fix_text(text, fix_encoding=False).split()
        assert is_cleaned_by_openai(text) == (unicodedata.normalize("NFC", text).split() != fixed)


@pytest.mark.long
@pytest.mark.parametrize("form", ["tiny_clip_dir", "old_form_dir"], indirect=True)
def test_batches_of_texts_do_not_mix_and_report_progress(form: Path) -> None:
    encoder = load(form, "text")
    texts = [f"{TEXTS[i % 6]} {i}" for i in range(300)]
    progress: list[tuple[int, int]] = []
    together = encoder.encode_texts(texts, progress=lambda *done: progress.append(done))
    assert together.shape == (300, 16)
    assert progress == [(256, 300), (300, 300)]
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts[250:262]])
    np.testing.assert_allclose(together[250:262], alone, rtol=1e-4, atol=1e-5)


def test_a_long_text_is_refused_or_cut(tiny_clip_dir: Path) -> None:
    encoder = load(tiny_clip_dir, "text")
    fits, long = "dog " * 75, "dog " * 76
    assert encoder._tokenizer.lengths([fits, long]).tolist() == [77, 78]
    message = r"text 1 \(counted from 0\): expected at most 77 tokens, got 78 \(2 prompts are too"
    with pytest.raises(ClipkitError, match=message) as error:
        encoder.encode_texts([fits, long, "dog " * 90])
    assert "--truncate" in str(error.value.hint)
    cut = encoder.encode_texts([long, fits], truncate=True)
    np.testing.assert_allclose(cut[0], cut[1], rtol=1e-5)


@pytest.mark.long
def test_a_single_text_or_image_is_one_row(tiny_clip_dir: Path, images: list[Image.Image]) -> None:
    text = load(tiny_clip_dir, "text")
    np.testing.assert_array_equal(text.encode_texts("a cat"), text.encode_texts(["a cat"]))
    assert embedding.embed_texts("a cat", text).texts == ["a cat"]
    image = load(tiny_clip_dir, "image")
    one = image.preprocess(images[0])
    assert one.shape == (1, 3, 32, 32)
    expected = image.encode_images(image.preprocess(images[:1]))
    for argument in (one, one[0], images[0], images[:1]):
        np.testing.assert_array_equal(image.encode_images(argument), expected)


def test_no_texts_give_no_rows(tiny_clip_dir: Path) -> None:
    assert load(tiny_clip_dir, "text").encode_texts([]).shape == (0, 16)


# the untrained control


@pytest.mark.long
def test_untrained_towers_come_from_one_seeded_model(
    copied: Path, images: list[Image.Image]
) -> None:
    state = torch.random.get_rng_state()
    image, text = (load(copied, tower, untrained=7) for tower in ("image", "text"))
    other = load(copied, "image", untrained=8)
    assert torch.equal(state, torch.random.get_rng_state())
    assert image.details["untrained"] == 7
    assert image.details["digest"] == text.details["digest"]
    unequal = (image, other, load(copied, "image"))
    assert len({encoder.details["digest"] for encoder in unequal}) == 3
    embeddings = encode(image, images)
    assert cosines(embeddings, encode(other, images)).max() < 0.99

    (copied / "model.safetensors").unlink()
    again = load(copied, "image", untrained=7)
    assert again.details["digest"] == image.details["digest"]
    np.testing.assert_array_equal(encode(again, images), embeddings)

    tiny_clip(copied, seed=7)  # an ordinary model made with that seed
    np.testing.assert_array_equal(encode(load(copied, "image"), images), embeddings)
    stored = load(copied, "text")
    np.testing.assert_array_equal(encode(text, images), encode(stored, images))
    assert image.details["logit_scale"] == stored.details["logit_scale"]


@pytest.mark.long
def test_an_untrained_siglip(siglip_dir: Path, images: list[Image.Image]) -> None:
    untrained = load(siglip_dir, "image", untrained=0)  # the seed that made the stored weights
    expected = encode(load(siglip_dir, "image"), images)
    np.testing.assert_array_equal(encode(untrained, images), expected)


# descriptions and silence


@pytest.mark.parametrize(
    ("form", "context_length"), [("tiny_clip_dir", 77), ("siglip_dir", 64)], indirect=["form"]
)
def test_describe_counts_without_running(form: Path, context_length: int) -> None:
    description = models.describe_model(str(form))
    model = (SiglipModel if "siglip" in form.name else CLIPModel).from_pretrained(form)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    layers = {"layers": 2, "width": 32, "heads": 2}
    image = {"patch_size": 8, "image_size": 32}
    text = {"context_length": context_length, "vocabulary": 49408}
    for tower, prefix, expected in (("image", "vi", image), ("text", "text", text)):
        parameters = sum(size for name, size in sizes.items() if name.startswith(prefix))
        assert description[tower] == {**layers, **expected, "parameters": parameters}
    assert description["parameters"] == model.num_parameters()
    assert description["temperature"] == pytest.approx(1 / model.logit_scale.exp().item())
    assert description["digest"] == load(form, "text").details["digest"]


@pytest.mark.long
def test_nothing_is_printed(tiny_clip_dir: Path, old_form_dir: Path, siglip_dir: Path) -> None:
    command = [sys.executable, "-c", LOAD_EVERYTHING, tiny_clip_dir, old_form_dir, siglip_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# damaged and untrusted files

Damage = Callable[[Path], Any]


def remove(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def write(file: str, content: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(content)


def cut(length: int) -> Damage:
    weights = "model.safetensors"
    return lambda folder: (folder / weights).write_bytes((folder / weights).read_bytes()[:length])


def tensors(edit: Callable[[dict[str, Any]], Any]) -> Damage:
    return lambda folder: edit_tensors(folder, edit)


def point_elsewhere(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    weight_map = {"logit_scale": "../elsewhere.safetensors"}
    write_json(folder / "model.safetensors.index.json", weight_map=weight_map)


def shrink_projection(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(projection_dim=8))


def become_open_clip(folder: Path) -> None:
    (folder / "config.json").rename(folder / "open_clip_config.json")


def scale(value: float, dtype: torch.dtype = torch.float32) -> Damage:
    return tensors(lambda t: t.update(logit_scale=torch.tensor(value).to(dtype)))


def drop_a_layer(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c["vision_config"].update(num_hidden_layers=1))


def retype(dtype: torch.dtype) -> Damage:
    return tensors(lambda t: t.update({BIAS: t[BIAS].to(dtype)}))


def poison(value: float, dtype: torch.dtype = torch.float32) -> Damage:
    """Set a bias before a ReLU, behind which NaN may be zero."""

    def edit(t: dict[str, Any]) -> None:
        t[BIAS] = t[BIAS].to(dtype)
        t[BIAS][3] = value

    return tensors(edit)


def store_a_tensor_twice(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({BIAS: stored[BIAS]}, folder / "b.safetensors")
    weight_map = {"logit_scale": "a.safetensors", BIAS: "b.safetensors"}
    write_json(folder / "model.safetensors.index.json", weight_map=weight_map)


BIAS = "vision_model.encoder.layers.1.mlp.fc1.bias"
NO_FLOATS = [
    (torch.int8, "I8"),
    (torch.uint8, "U8"),
    (torch.bool, "BOOL"),
    (torch.int64, "I64"),
    (torch.complex64, "C64"),
]
BAD_SIZE = b'{"model_type": "clip", "vision_config": {"hidden_size": "x"}}'
REMOTE_CODE = b'{"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}}'
DAMAGED: list[tuple[Damage, str]] = [
    (
        remove("config.json"),
        "model: expected a model's config.json or open_clip_config.json, got none",
    ),
    (write("config.json", b"{"), "config.json: expected valid JSON: Expecting property name"),
    (write("config.json", b"[" * 100_000), "config.json: expected valid JSON: maximum recursion"),
    (write("config.json", b"[]"), "config.json: expected a JSON object, got list"),
    (write("config.json", b"{}"), "expected a model that clipkit reads, got model_type None"),
    (write("config.json", b'{"model_type": "bert"}'), "got model_type 'bert'"),
    (write("config.json", BAD_SIZE), "cannot load config.json of .*model: "),
    (become_open_clip, "expected open_clip_model.safetensors, got model.safetensors"),
    (remove("preprocessor_config.json"), "cannot read .*preprocessor_config.json: there is no"),
    (write("processor_config.json", b"[]"), "processor_config.json: expected a JSON object, got"),
    (write("preprocessor_config.json", b"\xff"), "preprocessor_config.json: expected valid JSON"),
    (cut(0), "model.safetensors: expected a complete safetensors file"),
    (cut(7), "model.safetensors: expected a complete safetensors file"),
    (cut(4000), "model.safetensors: expected a complete safetensors file"),
    (tensors(lambda t: t.pop(BIAS)), f"weights that fit config.json; missing: .*{BIAS[20:]}$"),
    (tensors(lambda t: t.pop("logit_scale")), "fit config.json; missing: logit_scale$"),
    (tensors(lambda t: t.update(logit_scale=torch.zeros(2))), r"logit_scale, got the shape \(2,\)"),
    (scale(1e4), r"expected exp\(logit_scale\) between 1e-12 and 1e\+12, got .* 10000$"),
    (scale(math.inf), "logit_scale of inf$"),
    (scale(-math.inf), "logit_scale of -inf$"),
    (scale(math.nan), "logit_scale of nan$"),
    (scale(3, torch.int64), "expected weights in floating point, got I64 for logit_scale$"),
    (tensors(lambda t: t.update(logit_bias=torch.tensor(math.nan))), "finite logit_bias, got nan$"),
    (drop_a_layer, r"fit config.json; unexpected: .*encoder\.layers\.1\..* and 15 more$"),
    (tensors(lambda t: t.update({BIAS + "_scale": torch.ones(1)})), "unexpected: .*bias_scale$"),
    *(
        (retype(kind), f"in floating point, got {name} for vision_model")
        for kind, name in NO_FLOATS
    ),
    (poison(math.nan), f"expected finite weights, got NaN or Inf in {BIAS}$"),
    (poison(-math.inf), f"expected finite weights, got NaN or Inf in {BIAS}$"),
    (poison(1e300, torch.float64), f"expected finite weights, got NaN or Inf in {BIAS}$"),
    (store_a_tensor_twice, f"expected each tensor once, got two {BIAS}$"),
    (shrink_projection, r"fit config.json; mismatched: visual_projection\.weight$"),
    (point_elsewhere, r"safetensors files in its folder, got '\.\./elsewhere.safetensors'"),
    (remove("vocab.json"), "model: expected its tokenizer"),
    (remove("merges.txt"), "model: expected its tokenizer"),
    (write("vocab.json", b"no"), "cannot load the tokenizer of .*model: "),
    (
        write("preprocessor_config.json", REMOTE_CODE),
        r"load the image processor of .*: it has code of its own \(auto_map\), which clipkit never",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED)
def test_damaged_files_are_named_in_one_line(copied: Path, damage: Damage, message: str) -> None:
    damage(copied)
    with pytest.raises(ClipkitError, match=message) as error:
        load(copied, "text" if "tokenizer" in message else "image")
    assert "\n" not in error.value.message


def test_weights_that_are_too_large_for_the_precision_are_refused(copied: Path) -> None:
    poison(-1e5)(copied)
    load(copied, "image", precision="bf16")
    with pytest.raises(ClipkitError, match="expected weights of at most 65504 in fp16, got") as e:
        load(copied, "image", precision="fp16")
    assert e.value.hint == "try --precision fp32"


def vision(**values: Any) -> Damage:
    return lambda folder: edit_json(
        folder / "config.json", lambda content: content["vision_config"].update(values)
    )


def text(**values: Any) -> Damage:
    return lambda folder: edit_json(
        folder / "config.json", lambda content: content["text_config"].update(values)
    )


def processor(**values: Any) -> Damage:
    return lambda folder: edit_json(
        folder / "preprocessor_config.json", lambda content: content.update(values)
    )


def tokenizer(**values: Any) -> Damage:
    return lambda folder: edit_json(
        folder / "tokenizer_config.json", lambda content: content.update(values)
    )


# What config.json asks for must not be allocated before it is compared with the weights.
HUGE = 10**9
MISFITS: list[tuple[str, Damage, str]] = [
    ("image", vision(num_hidden_layers=HUGE), "1 to 1000 layers per tower, got num_hidden_layers"),
    ("image", text(num_hidden_layers=HUGE), "1 to 1000 layers per tower, got num_hidden_layers"),
    ("image", vision(num_hidden_layers=3), "fit config.json; missing: .*layers.2"),
    ("image", vision(hidden_size=HUGE), "fit config.json; mismatched: vision_model"),
    ("image", vision(image_size=10**6), "fit config.json; mismatched: .*position_embedding"),
    ("image", vision(num_channels=1), "fit config.json; mismatched: .*patch_embedding"),
    ("text", text(vocab_size=10**12), "fit config.json; mismatched: .*token_embedding"),
    ("text", text(max_position_embeddings=HUGE), "fit config.json; mismatched: .*position_embed"),
    ("text", text(intermediate_size=HUGE), "fit config.json; mismatched: .*fc1"),
    ("image", vision(hidden_size=-1), "cannot load "),
    ("image", vision(patch_size=0), "cannot load the architecture of .*: .*division"),
    ("image", vision(num_attention_heads=0), "cannot load config.json of .*: .*zero"),
    ("image", vision(hidden_act="swishy"), "cannot load the architecture of .*: 'swishy'"),
    ("image", vision(hidden_size="x"), "hidden_size: expected a whole number, got 'x'"),
    ("text", text(eos_token_id=None), "expected a number as eos_token_id in config.json, got None"),
    ("text", text(eos_token_id=49405), "expected the end token 49405 once, as a prompt's last"),
    ("text", text(eos_token_id=49406), "expected the end token 49406 once, as a prompt's last"),
    (
        "text",
        tokenizer(tokenizer_class="BertTokenizer"),
        "expected the end token 49407 once|cannot",
    ),
    ("text", tokenizer(pad_token=None), "padding token|cannot"),
    (
        "image",
        processor(crop_size={"height": 40, "width": 40}),
        "expected 3 x 32 x 32 numbers, .* got 3 x 40 x 40",
    ),
    ("image", processor(do_center_crop=False, size={"height": 8, "width": 8}), "got 3 x 8 x 8"),
    ("image", processor(do_center_crop=False, do_rescale=None, size={"longest_edge": 9}), "image"),
    ("image", processor(size={"shortest_edge": 10**6}), "shortest_edge of 1 to 4096 in size"),
    (
        "image",
        processor(crop_size={"height": HUGE, "width": 9}),
        "height of 1 to 4096 in crop_size",
    ),
    (
        "image",
        processor(size={"width": 0, "height": 32}, do_center_crop=False),
        "1 to 4096 in size",
    ),
    ("image", processor(size={}), "cannot load the image processor of "),
    ("image", processor(size="large"), "cannot load the image processor of "),
    ("image", processor(image_mean=[1, 2]), "cannot preprocess an image for "),
    ("image", processor(image_mean="grey"), "cannot load the image processor of "),
    (
        "image",
        processor(image_mean=[math.nan] * 3),
        "cannot load the image processor of .*compliant",
    ),
    ("image", processor(image_std=[0, 0, 0]), "expected a finite embedding of a first image, got"),
    ("image", processor(rescale_factor=0), "cannot load the image processor of .*: .*division"),
    ("image", processor(rescale_factor="x"), "cannot load the image processor of "),
    ("image", processor(resample=7), "cannot .*: KeyError: 7|not a valid"),
    ("image", processor(image_processor_type="ViTMAE"), "cannot load the image processor of "),
]


@pytest.mark.parametrize(("tower", "misfit", "message"), MISFITS)
@pytest.mark.long
def test_files_that_do_not_fit_each_other_are_refused_when_the_model_is_loaded(
    tower: str, misfit: Damage, message: str, copied: Path
) -> None:
    misfit(copied)
    with pytest.raises(ClipkitError, match=message) as error:
        load(copied, tower)
    assert "\n" not in error.value.message
    assert not error.value.message.endswith(":")
    if message.startswith("fit config.json"):
        with pytest.raises(ClipkitError, match=message):
            models.describe_model(str(copied))


@pytest.mark.parametrize(
    ("misfit", "message"),
    [
        (text(vocab_size=10**12), "fits into .* GiB of memory, got one of 119,[0-9]* GiB"),
        (vision(hidden_size=10**8), "fits into .* GiB of memory, got one of"),
        (vision(num_hidden_layers=HUGE), "1 to 1000 layers per tower"),
        (vision(initializer_range=math.nan), "cannot load|finite weights"),
        (
            lambda f: edit_json(
                f / "config.json", lambda c: c.update(logit_scale_init_value=800.5)
            ),
            "exp",
        ),
    ],
)
def test_an_untrained_model_that_cannot_be_made_is_refused(
    misfit: Damage, message: str, copied: Path
) -> None:
    misfit(copied)
    with pytest.raises(ClipkitError, match=message):
        load(copied, "image", untrained=0)


def test_a_prompt_that_holds_the_end_token_is_refused(tiny_clip_dir: Path) -> None:
    encoder = load(tiny_clip_dir, "text")
    with pytest.raises(ClipkitError, match="expected the end token 49407 once") as error:
        encoder.encode_texts(["a cat", "a dog <|endoftext|> of wood"])
    assert str(error.value.hint).startswith("take <|endoftext|> out of the prompt")


def test_an_image_that_the_processor_cannot_resize_is_named_in_one_line(copied: Path) -> None:
    processor(do_resize=False, do_center_crop=False)(copied)
    encoder = load(copied, "image")
    with pytest.raises(ClipkitError, match=r"expected 3 x 32 x 32 numbers, .* got 3 x 24 x 40"):
        encoder.encode_images(noise_image(40, 24))


SIDE_FILES = ["config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def replace_by_link(target: str) -> Callable[[Path], Any]:
    def replace(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return replace


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_huge(path: Path) -> None:
    os.truncate(path, 10**9)


@pytest.mark.parametrize("file", [*SIDE_FILES, "chat_template.jinja"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace_by_link("/dev/zero"), "expected a regular file, got a folder, FIFO or device"),
        (replace_by_fifo, "expected a regular file, got a folder, FIFO or device"),
        (make_huge, "expected at most [0-9]+ MiB, got 1,000,000,000 bytes"),
        (lambda path: path.write_bytes(POINTER), "expected the file, got a Git LFS pointer"),
    ],
)
def test_a_side_file_is_a_small_regular_file(
    file: str, damage: Callable[[Path], Any], message: str, copied: Path
) -> None:
    (copied / file).touch()
    damage(copied / file)
    for untrained in (None, 1):
        with pytest.raises(ClipkitError, match=f"{file}: {message}"):
            load(copied, "image", untrained=untrained)


def test_a_side_file_that_states_no_size_is_read_to_the_limit(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_by_link("/proc/self/maps")(copied / "config.json")
    monkeypatch.setattr(hub, "MAX_SETTINGS_BYTES", 1000)
    with pytest.raises(ClipkitError, match="expected at most 0 MiB, got more than 1,000 bytes"):
        load(copied, "image")


def test_weights_that_git_lfs_has_not_fetched(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(POINTER)
    message = r"model.safetensors: expected the file, got a Git LFS pointer"
    with pytest.raises(ClipkitError, match=message) as error:
        load(copied, "image")
    assert error.value.hint == "fetch the file itself: git lfs pull"


def test_weights_that_cannot_be_opened(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(path: Path, *options: Any, **more: Any) -> Any:
        if path.name == "model.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *options, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        ClipkitError, match=r"^cannot read .*model\.safetensors: Permission denied$"
    ):
        load(copied, "image")


def test_weights_of_another_name_are_named(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "model.fp16.safetensors")
    message = "expected model.safetensors, got model.fp16.safetensors$"
    with pytest.raises(ClipkitError, match=message) as error:
        load(copied, "image")
    assert "ln -s model.fp16.safetensors model.safetensors" in str(error.value.hint)


@pytest.mark.parametrize("file", SIDE_FILES)
def test_json_that_is_nested_200_000_deep_is_one_line(file: str, copied: Path) -> None:
    (copied / file).write_text('{"a":' * 200_000 + "1" + "}" * 200_000)
    tower = "text" if file in SIDE_FILES[2:] else "image"
    with pytest.raises(ClipkitError) as error:
        load(copied, tower)
    assert "\n" not in error.value.message


def test_damage_to_one_tower_leaves_the_other(copied: Path) -> None:
    edit_tensors(copied, lambda tensors: tensors.pop(BIAS))
    assert load(copied, "text").encode_texts(TEXTS).shape == (6, 16)


def test_a_tokenizer_of_another_model(copied: Path) -> None:
    def forget_tokens(config: dict[str, Any]) -> None:
        config["text_config"]["vocab_size"] = 400

    edit_json(copied / "config.json", forget_tokens)
    with pytest.raises(ClipkitError, match="model: expected tokens below 400, got 49407"):
        load(copied, "text", untrained=0)


REPLACE = {"type": "Replace", "pattern": {"String": "x"}}
RULES: list[tuple[dict[str, Any], str, str]] = [
    # 60 letters take more steps than Oniguruma allows
    (
        {"type": "Replace", "pattern": {"Regex": "(?:a|aa)+$b"}, "content": ""},
        "a" * 60,
        "cannot tokenize with .*model: tokenizers failed: Onig: Regex search error: .*over$",
    ),
    (
        REPLACE | {"content": "y" * 3_000_000},
        "x",
        r"expected at most 10,000 .* up to 21,000,007$",
    ),
    (REPLACE | {"content": "y" * 3000}, "a xxxxx", r"10,000 characters after the .*, got 15,002$"),
    ({"type": "NFKD"}, "\ufdfa" * 1000, r"10,000 characters after the .*, got 18,000$"),
]


@pytest.mark.parametrize(("rule", "text", "message"), RULES)
def test_a_rule_of_tokenizer_json_that_panics_or_lets_a_text_grow_is_one_line(
    rule: dict[str, Any],
    text: str,
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(TINY, tmp_path / "model")
    edit_json(folder / "tokenizer.json", lambda content: content.update(normalizer=rule))
    with pytest.raises(ClipkitError, match=message) as error:
        load(folder, "text").encode_texts([text], truncate=True)
    assert "\n" not in error.value.message
    assert capfd.readouterr() == ("", "")


# names, devices, precisions


ABSENT = "cannot use the device .*: PyTorch .* finds 0 cuda devices"
REFUSED: list[tuple[str, str, str]] = [
    ("name", "ViT-B/33", "unknown model 'ViT-B/33'; did you mean ViT-B/32 or ViT-B/16"),
    ("name", "dir/none.h5", "cannot read dir/none.h5: there is no such file"),
    ("name", "dir/none.safetensors", "cannot read dir/none.safetensors: there is no such file"),
    ("name", __file__, ".*test_models.py: expected a model's folder, got a file"),
    ("name", "~nobody/models/mine", "cannot read ~nobody/models/mine: there is no such folder"),
    ("name", "ViT-B32", "unknown model 'ViT-B32'; did you mean .*ViT-B-32"),
    ("name", "./models/mine", r"cannot read \./models/mine: there is no such folder"),
    ("precision", "fp8", "unknown precision 'fp8'"),
    *(("device", name, "unknown device") for name in ("cpu:1", "cuda:", "cuda:x", "cuda:-1")),
    *(("device", name, "unknown device") for name in ("gpu", "mps:1", "")),
    *(("device", name, ABSENT) for name in ("cuda", "cuda:0", "cuda:3")),
]


@pytest.mark.parametrize(("option", "value", "message"), REFUSED)
def test_unknown_names_and_absent_devices_are_refused(
    option: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    kind = UsageError if message.startswith("unknown") else ClipkitError
    with pytest.raises(kind) as error:
        models.load(**{"name": "tiny", "tower": "image", option: value})
    assert re.match(message, f"{error.value.message}; {error.value.hint}")


@pytest.mark.parametrize(
    ("tower", "has_bfloat16", "expected"),
    [("image", True, "bf16"), ("image", False, "fp32"), ("text", True, "fp32")],
)
def test_automatic_precision_on_the_cpu(
    tower: str,
    has_bfloat16: bool,
    expected: str,
    tiny_clip_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16, raising=False)
    encoder = load(tiny_clip_dir, tower, precision="auto")
    assert (encoder.details["precision"], encoder.details["device"]) == (expected, "cpu")
    assert next(encoder._tower.model.parameters()).dtype == DTYPES[expected]


def test_textembed_computes_in_float32_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    for options, expected in (((), "fp32"), (("--precision", "bf16"), "bf16")):
        words = ("textembed", tmp_path / "p.txt", "-m", "tiny", "--device", "cpu", *options)
        ok(*words, "-f", "-o", tmp_path / "t.h5")
        assert features.read(tmp_path / "t.h5").model()["precision"] == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")]
)
def test_automatic_precision_on_cuda(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda"), "image") == expected
    assert choose_precision("auto", torch.device("cuda"), "text") == "fp32"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize(
    ("precision", "least"), [("fp32", 0.99999), ("bf16", 0.999), ("fp16", 0.999)]
)
def test_features_on_cuda(
    precision: str, least: float, tower: str, tiny_clip_dir: Path, images: list[Image.Image]
) -> None:
    on_gpu = load(tiny_clip_dir, tower, device="cuda", precision=precision)
    assert on_gpu.details["device"] == "cuda"
    expected = encode(load(tiny_clip_dir, tower), images)
    assert cosines(encode(on_gpu, images), expected).min() >= least
